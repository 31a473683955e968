"""Names and shapes of other projects' weights, written down from the tables of the specification (2.1 to 2.3).

Independent of the package: `test_shapes.py` holds these against the recorded names of the official classes.
"""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]


def _pair(shapes: Shapes, name: str, weight: tuple[int, ...]) -> None:
    shapes[f"{name}.weight"] = weight
    shapes[f"{name}.bias"] = weight[:1]


def _block(shapes: Shapes, name: str, a: int, b: int, shortcut: str, first: int, second: int, short: int) -> None:
    _pair(shapes, f"{name}.norm1", (a,))
    _pair(shapes, f"{name}.conv1", (b, a, *(3,) * first))
    _pair(shapes, f"{name}.norm2", (b,))
    _pair(shapes, f"{name}.conv2", (b, b, *(3,) * second))
    if a != b:
        _pair(shapes, f"{name}.{shortcut}", (b, a, *(1,) * short))


def autoencoder(
    widths: tuple[int, ...],
    layers: int,
    channels: int,
    *,
    style: str,
    dims: int,
    half_3d: bool = True,
    quant: bool = False,
) -> Shapes:
    """`style`: "ldm" or "diffusers" names; `dims`: 3 for the video classes, 2 for image VAEs."""
    ldm, video, top = style == "ldm", dims == 3, len(widths) - 1
    second = 3 if video and not half_3d else 2
    short = 3 if video and ldm else 2
    shortcut = "nin_shortcut" if ldm else "conv_shortcut"
    shapes: Shapes = {}

    def block(name: str, a: int, b: int) -> None:
        _block(shapes, name, a, b, shortcut, dims, second, short)

    def middle(half: str) -> None:
        width = widths[top]
        for index in range(2):
            block(f"{half}.mid.block_{index + 1}" if ldm else f"{half}.mid_block.resnets.{index}", width, width)
        attention = f"{half}.mid.attn_1" if ldm else f"{half}.mid_block.attentions.0"
        _pair(shapes, f"{attention}.{'norm' if ldm else 'group_norm'}", (width,))
        for name in ("q", "k", "v", "proj_out") if ldm else ("to_q", "to_k", "to_v", "to_out.0"):
            _pair(shapes, f"{attention}.{name}", (width, width, 1, 1) if ldm else (width, width))
        if ldm and video and half == "decoder":
            for name in ("q_t", "k_t", "v_t", "proj_out_t"):
                _pair(shapes, f"{attention}.{name}", (width, width))
            _pair(shapes, f"{attention}.norm_t", (width,))
        norm = "norm_out" if ldm else "conv_norm_out"
        _pair(shapes, f"{half}.{norm}", (widths[top] if half == "encoder" else widths[0],))

    kernel = (3,) * dims
    _pair(shapes, "encoder.conv_in", (widths[0], 3, *kernel))
    before = widths[0]
    for level, width in enumerate(widths):
        name = f"encoder.down.{level}" if ldm else f"encoder.down_blocks.{level}"
        for index in range(layers):
            block(f"{name}.{'block' if ldm else 'resnets'}.{index}", before, width)
            before = width
        if level < top:
            _pair(shapes, f"{name}.{'downsample' if ldm else 'downsamplers.0'}.conv", (width, width, *kernel))
    middle("encoder")
    _pair(shapes, "encoder.conv_out", (2 * channels, widths[top], *kernel))

    _pair(shapes, "decoder.conv_in", (widths[top], channels, *kernel))
    middle("decoder")
    before = widths[top]
    for level in reversed(range(len(widths))):
        name = f"decoder.up.{level}" if ldm else f"decoder.up_blocks.{top - level}"
        for index in range(layers + 1):
            block(f"{name}.{'block' if ldm else 'resnets'}.{index}", before, widths[level])
            before = widths[level]
        if level:
            frames = 2 if video and (top - level) % 2 == 0 else 1
            upsample = f"{name}.{'upsample' if ldm else 'upsamplers.0'}.conv"
            _pair(shapes, upsample, (frames * widths[level], widths[level], *kernel))
    _pair(shapes, "decoder.conv_out", (3, widths[0], *kernel))
    if quant:
        _pair(shapes, "quant_conv", (2 * channels, 2 * channels, 1, 1))
        _pair(shapes, "post_quant_conv", (channels, channels, 1, 1))
    return shapes
