"""The official windows and tiles against a literal restatement of spec section 3 and numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cvcodec.model import ModelConfig, build_model
from cvcodec.windows.plan import OfficialPlan, Plan
from cvcodec.windows.specs import Official
from tests.windows.toys import OfficialToy, decode_official, encode_official, random_latent, random_video

# The literal restatement: lists of tiles, one row or column of samples at a time, the numbers of spec 3.2 written out.

NUMBERS = {576: {"pixels": (576, 448, 16, 56), "latents": (72, 56, 128, 448)},
           72: {"pixels": (72, 56, 2, 7), "latents": (9, 7, 16, 56)}}  # fmt: skip


def literal_tiles(fn: Any, clip: Tensor, tile: int, stride: int, overlap: int, kept: int) -> Tensor:
    rows: list[list[Tensor]] = []
    top = 0
    while True:
        row: list[Tensor] = []
        left = 0
        while True:
            row.append(fn(clip[:, :, :, top : top + tile, left : left + tile]))
            if left + tile >= clip.shape[4]:
                break
            left += stride
        rows.append(row)
        if top + tile >= clip.shape[3]:
            break
        top += stride
    for i, row in enumerate(rows):
        for j, piece in enumerate(row):
            if i > 0:
                above = rows[i - 1][j]
                for y in range(overlap):
                    old = above[:, :, :, above.shape[3] - overlap + y, :]
                    piece[:, :, :, y, :] = old * (1 - y / overlap) + piece[:, :, :, y, :] * (y / overlap)
            if j > 0:
                before = row[j - 1]
                for x in range(overlap):
                    old = before[:, :, :, :, before.shape[4] - overlap + x]
                    piece[:, :, :, :, x] = old * (1 - x / overlap) + piece[:, :, :, :, x] * (x / overlap)
    strips = []
    for i, row in enumerate(rows):
        cut = []
        for j, piece in enumerate(row):
            height = kept if i < len(rows) - 1 else piece.shape[3]
            width = kept if j < len(row) - 1 else piece.shape[4]
            cut.append(piece[:, :, :, :height, :width])
        strips.append(torch.cat(cut, 4))
    return torch.cat(strips, 3)


def literal_encode(model: Any, pixels: Tensor) -> Tensor:
    result = []
    for n in range(max(1, math.ceil((pixels.shape[2] - 1) / 16))):
        chunk = pixels[:, :, 16 * n : 16 * n + 17]
        latents = literal_tiles(model.moments, chunk, *NUMBERS[model.config.official_tile_pixels]["pixels"])
        result.append(latents if n == 0 else latents[:, :, 1:])
    return torch.cat(result, 2)


def literal_decode(model: Any, latent: Tensor) -> Tensor:
    result = []
    for n in range(max(1, math.ceil((latent.shape[2] - 1) / 4))):
        chunk = latent[:, :, 4 * n : 4 * n + 5]
        frames = literal_tiles(model.decode, chunk, *NUMBERS[model.config.official_tile_pixels]["latents"])
        result.append(frames if n == 0 else frames[:, :, 1:])
    return torch.cat(result, 2)


SIZES = [(8, 8), (72, 72), (73, 72), (128, 129), (129, 200), (101, 60), (170, 124), (184, 185)]


@pytest.mark.parametrize("family", ["cvvae", "cvvae-sd3"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_encoding_equals_the_literal_restatement(family: str, height: int, width: int) -> None:
    model, pixels = OfficialToy(family), random_video(19, height, width)
    moments = encode_official(model, pixels)
    torch.testing.assert_close(moments, literal_encode(model, pixels), atol=1e-5, rtol=1e-6)
    side = (lambda n: -(-n // 8)) if family == "cvvae-sd3" else (lambda n: n // 8)
    assert moments.shape == (1, 4, 5, side(height), side(width))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (9, 9), (9, 10), (16, 17), (17, 3)])
def test_decoding_equals_the_literal_restatement(height: int, width: int) -> None:
    model, latent = OfficialToy(), random_latent(6, height, width)
    pixels = decode_official(model, latent)
    torch.testing.assert_close(pixels, literal_decode(model, latent), atol=1e-5, rtol=1e-6)
    assert pixels.shape == (1, 3, 21, 8 * height, 8 * width)


def test_the_released_tile_size_equals_the_literal_restatement() -> None:
    model, pixels = OfficialToy(tile=576), random_video(1, 577, 1100)
    moments = encode_official(model, pixels)
    torch.testing.assert_close(moments, literal_encode(model, pixels), atol=1e-5, rtol=1e-6)
    latent = moments[:, :2]
    torch.testing.assert_close(decode_official(model, latent), literal_decode(model, latent), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("frames", range(1, 41))
def test_frame_counts_follow_the_official_code(frames: int) -> None:
    model, pixels = OfficialToy(), random_video(frames, 16, 8)
    moments = encode_official(model, pixels)
    torch.testing.assert_close(moments, literal_encode(model, pixels), atol=1e-5, rtol=1e-6)
    assert moments.shape[2] == (frames - 1) // 4 + 1
    latent = moments[:, :2]
    decoded = decode_official(model, latent)
    torch.testing.assert_close(decoded, literal_decode(model, latent), atol=1e-5, rtol=1e-6)
    assert decoded.shape[2] == 4 * ((frames - 1) // 4) + 1


def test_tail_frames_that_add_no_latent_still_reach_the_model() -> None:
    model = OfficialToy()
    encode_official(model, random_video(8, 16, 16))
    encode_official(model, random_video(22, 16, 16))
    assert [shape[2] for shape in model.calls] == [8, 17, 6]


def test_the_grid_has_the_published_numbers() -> None:
    tiles = OfficialPlan(4, 8, Official()).tiles
    assert (tiles.pixels, tiles.pixel_stride, tiles.pixel_overlap) == (576, 448, 128)
    assert (tiles.latents, tiles.latent_stride, tiles.latent_overlap) == (72, 56, 16)
    assert Official() == Official(chunk_frames=16, tile_pixels=576, tile_overlap=0.2222)


def numbered(scale: int) -> Any:
    """A function that fills its n-th result with n; each result side is its input's times (or over) 8."""
    count = iter(range(100))

    def fn(clip: Tensor) -> Tensor:
        height, width = (side * 8 if scale > 1 else side // 8 for side in clip.shape[3:])
        frames = 4 * clip.shape[2] - 3 if scale > 1 else (clip.shape[2] + 3) // 4
        return torch.full((1, 1, frames, height, width), float(next(count)))

    return fn


def test_two_tiles_blend_as_worked_out_by_hand() -> None:
    model = OfficialToy()
    model.moments = numbered(1)  # type: ignore[method-assign]
    moments = encode_official(model, torch.zeros(1, 3, 1, 8, 100))
    # tiles at 0 and 56 pixels; the second has 5 latents, 2 of them blended with weights 0 and 1/2
    assert moments.flatten().tolist() == [0.0] * 8 + [0.5] + [1.0] * 3
    model.decode = numbered(8)  # type: ignore[method-assign]
    pixels = decode_official(model, torch.zeros(1, 2, 1, 1, 12))
    assert pixels[0, 0, 0, 0].tolist() == [0.0] * 56 + [i / 16 for i in range(16)] + [1.0] * 24


def test_four_tiles_blend_in_place_as_worked_out_by_hand() -> None:
    model = OfficialToy()
    model.moments = numbered(1)  # type: ignore[method-assign]
    moments = encode_official(model, torch.zeros(1, 3, 1, 100, 100))[0, 0, 0]
    assert moments.shape == (12, 12)
    # The corner of the fourth tile (value 3), one latent into both overlaps. Vertical, against the second tile,
    # itself half blended with the first: (0·1/2 + 1·1/2)·1/2 + 3·1/2 = 1.75. Horizontal, against the third tile, itself
    # blended with the first: (0·1/2 + 2·1/2)·1/2 + 1.75·1/2 = 1.375. (A blend that is not in place would give 1.5.)
    assert moments[8, 8].item() == pytest.approx(1.375)
    assert moments[8, 11].item() == pytest.approx(1 * 0.5 + 3 * 0.5)
    assert moments[11, 8].item() == pytest.approx(2 * 0.5 + 3 * 0.5)
    assert (moments[0, 0].item(), moments[0, 11].item(), moments[11, 0].item(), moments[11, 11].item()) == (0, 1, 2, 3)
    assert (moments[7, 0].item(), moments[7, 11].item()) == (0, 1)  # the first blended row is entirely the tile above


def test_moments_are_blended_without_clamping_the_log_variance() -> None:
    model, pixels = OfficialToy(), random_video(1, 8, 100)
    first, second = model.moments(pixels[..., :72]), model.moments(pixels[..., 56:])
    moments = encode_official(model, pixels)
    assert moments[:, 2:].abs().max() > 20
    torch.testing.assert_close(moments[..., 8], (first[..., 8] + second[..., 1]) / 2)


@pytest.mark.parametrize("tile", [0, 72, 144, 288, 576])
def test_tile_sizes_whose_strides_agree_are_accepted(tile: int) -> None:
    assert OfficialPlan(4, 8, Official(tile_pixels=tile)).tile_latents(encoding=True) == tile // 8


@pytest.mark.parametrize("tile", [64, 100, 128])
def test_tile_sizes_whose_strides_disagree_are_refused(tile: int) -> None:
    with pytest.raises(ValueError, match="leave the latent grid"):
        OfficialPlan(4, 8, Official(tile_pixels=tile))


def test_what_is_no_clip_or_no_chunk_is_refused() -> None:
    plan = OfficialPlan(4, 8, Official())
    with pytest.raises(ValueError, match="frames come as"):
        list(plan.encode(OfficialToy().moments, [torch.zeros(8, 8)]))
    with pytest.raises(ValueError, match="were asked for"):
        list(plan.decode(OfficialToy().decode, lambda a, b: torch.zeros(2, 1, 1, 1), total=1))
    with pytest.raises(ValueError, match="give no latent"):
        encode_official(OfficialToy(), torch.zeros(1, 3, 1, 7, 8))
    with pytest.raises(ValueError, match="not a multiple of 4"):
        OfficialPlan(4, 8, Official(chunk_frames=10))


def test_a_model_that_returns_another_size_is_refused() -> None:
    for short in (lambda clip: clip[:, :, ::4, ::16, ::8], lambda clip: clip[:, :, ::4, ::8, ::4]):
        with pytest.raises(ValueError, match="the function returned"):
            list(OfficialPlan(4, 8, Official(tile_pixels=72)).encode(short, [random_video(1, 80, 80)]))


def test_a_batch_of_clips_is_each_clip_alone() -> None:
    model = OfficialToy()
    model.moments = lambda pixels: F.avg_pool3d(pixels[:, :, ::4], (1, 8, 8))  # type: ignore[method-assign]
    pixels = torch.cat([random_video(21, 80, 90, seed) for seed in (1, 2)])
    both = encode_official(model, pixels)
    assert torch.equal(both[1:], encode_official(model, pixels[1:]))


def test_out_of_memory_halves_official_tiles_and_reports_it() -> None:
    model, pixels = OfficialToy(tile=576), random_video(5, 600, 64)
    changes: list[Plan] = []

    def scarce(clip: Tensor) -> Tensor:
        if clip.shape[3] > 150:
            raise torch.OutOfMemoryError("no")
        return model.moments(clip)

    plan = OfficialPlan.of(model.config)
    result = torch.cat(list(plan.encode(scarce, [pixels], lambda plan, text: changes.append(plan))), 2)
    assert [plan.official.tile_pixels for plan in changes if isinstance(plan, OfficialPlan)] == [288, 144]
    model.config.official_tile_pixels = 144
    assert torch.equal(result, encode_official(model, pixels))


def test_out_of_memory_at_the_smallest_official_tile_is_an_error() -> None:
    def never(clip: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("no")

    with pytest.raises(MemoryError, match="smallest tiles"):
        list(OfficialPlan(4, 8, Official()).encode(never, [random_video(1, 80, 80)]))


def tiny_official(family: str) -> Any:
    config = ModelConfig(
        family=family,
        latent_channels=4 if family == "cvvae" else 16,
        widths=(8, 8, 8, 8),
        encoder_blocks=(1, 1, 1, 1),
        decoder_blocks=(1, 1, 1, 1),
        norm_groups=4,
        norm_eps=1e-5 if family == "cvvae" else 1e-6,
        temporal_attention=family == "cvvae",
        official_chunk_frames=16,
        official_tile_pixels=72,
    )
    torch.manual_seed(0)
    return build_model(config).eval()


@pytest.mark.parametrize("family", ["cvvae", "cvvae-sd3"])
def test_a_tiny_official_model_equals_the_literal_restatement(family: str) -> None:
    model, pixels = tiny_official(family), random_video(22, 75, 20)
    with torch.no_grad():
        moments = encode_official(model, pixels)
        torch.testing.assert_close(moments, literal_encode(model, pixels), atol=1e-5, rtol=1e-6)
        latent = moments.chunk(2, 1)[0][:, :, :2]
        torch.testing.assert_close(decode_official(model, latent), literal_decode(model, latent), atol=1e-5, rtol=1e-6)
