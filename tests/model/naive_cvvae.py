"""The z=4 and z=16 official models once more, written straight down from the specification, a line or two per layer.

Slow and independent of `cvcodec.model.official.layers` and below; only the state dict is shared.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class NaiveCVVAE:
    """`sd3` False: CVVAEModel, True: CVVAESD3Model; both with four levels and as many blocks as the state dict has."""

    def __init__(self, state: dict[str, Tensor], *, sd3: bool, eps: float, groups: int = 32) -> None:
        self.state, self.sd3, self.eps, self.groups = state, sd3, eps, groups

    def moments(self, x: Tensor) -> Tensor:
        x = self.conv("encoder.conv_in", x, "causal")
        for level in range(4):
            block = f"encoder.down_blocks.{level}.resnets" if self.sd3 else f"encoder.down.{level}.block"
            x = self.blocks(block, x, "causal")
            if level < 3:
                name = f"down_blocks.{level}.downsamplers.0" if self.sd3 else f"down.{level}.downsample"
                x = F.pad(x, (0, 0, 0, 0, 2, 0), mode="replicate")
                x = F.pad(x, (1, 1, 1, 1, 0, 0), mode="replicate") if self.sd3 else F.pad(x, (0, 1, 0, 1))
                stride = (2, 2, 2) if level % 2 == 0 else (1, 2, 2)
                x = F.conv3d(x, *self.pair(f"encoder.{name}.conv"), stride=stride)
        x = self.middle("encoder", x, "causal")
        x = F.silu(self.norm("encoder.conv_norm_out" if self.sd3 else "encoder.norm_out", x))
        return self.conv("encoder.conv_out", x, "causal")

    def decode(self, z: Tensor) -> Tensor:
        x = self.middle("decoder", self.conv("decoder.conv_in", z, "symmetric"), "symmetric")
        for level in (3, 2, 1, 0):
            name = f"decoder.up_blocks.{3 - level}" if self.sd3 else f"decoder.up.{level}"
            x = self.blocks(f"{name}.resnets" if self.sd3 else f"{name}.block", x, "symmetric")
            if level > 0:
                x = F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest")
                x = F.pad(x, (0, 0, 0, 0, 1, 1), mode="replicate")
                x = F.pad(x, (1, 1, 1, 1, 0, 0), mode="replicate" if self.sd3 else "constant")
                x = F.conv3d(x, *self.pair(f"{name}.upsamplers.0.conv" if self.sd3 else f"{name}.upsample.conv"))
                if level % 2 == 1:
                    b, c, t, h, w = x.shape
                    x = (
                        x.view(b, 2, c // 2, t, h, w)
                        .permute(0, 2, 3, 1, 4, 5)
                        .reshape(b, c // 2, 2 * t, h, w)[:, :, 1:]
                    )
        x = F.silu(self.norm("decoder.conv_norm_out" if self.sd3 else "decoder.norm_out", x))
        return self.conv("decoder.conv_out", x, "symmetric")

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self.state[f"{name}.weight"], self.state[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, self.groups, *self.pair(name), eps=self.eps)

    def conv(self, name: str, x: Tensor, kind: str) -> Tensor:
        weight, bias = self.pair(name)
        if weight.ndim == 4:
            b, _, t, _, _ = x.shape
            frames = F.conv2d(x.transpose(1, 2).flatten(0, 1), weight, bias, padding=1)
            return frames.unflatten(0, (b, t)).transpose(1, 2)
        front, back = (2, 0) if kind == "causal" else (1, 1)
        if self.sd3:
            return F.conv3d(F.pad(x, (1, 1, 1, 1, front, back), mode="replicate"), weight, bias)
        if kind == "causal":
            return F.conv3d(F.pad(x, (0, 0, 0, 0, 2, 0), mode="replicate"), weight, bias, padding=(0, 1, 1))
        return F.conv3d(x, weight, bias, padding=1)

    def blocks(self, prefix: str, x: Tensor, kind: str) -> Tensor:
        index = 0
        while f"{prefix}.{index}.norm1.weight" in self.state:
            x = self.block(f"{prefix}.{index}", x, kind)
            index += 1
        return x

    def block(self, name: str, x: Tensor, kind: str) -> Tensor:
        h = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)), kind)
        h = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", h)), kind)
        if f"{name}.nin_shortcut.weight" in self.state:
            x = F.conv3d(x, *self.pair(f"{name}.nin_shortcut"))
        elif f"{name}.conv_shortcut.weight" in self.state:
            weight, bias = self.pair(f"{name}.conv_shortcut")
            x = F.conv3d(x, weight.unsqueeze(2), bias)
        return x + h

    def middle(self, half: str, x: Tensor, kind: str) -> Tensor:
        first, second = ("mid_block.resnets.0", "mid_block.resnets.1") if self.sd3 else ("mid.block_1", "mid.block_2")
        x = self.block(f"{half}.{first}", x, kind)
        x = x + self.attention(f"{half}.mid_block.attentions.0" if self.sd3 else f"{half}.mid.attn_1", x)
        return self.block(f"{half}.{second}", x, kind)

    def attention(self, name: str, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        parts = ("group_norm", "to_q", "to_k", "to_v", "to_out.0") if self.sd3 else ("norm", "q", "k", "v", "proj_out")
        norm, q, k, v, out = (f"{name}.{part}" for part in parts)
        frames = self.norm(norm, x.transpose(1, 2).flatten(0, 1)).flatten(2).transpose(1, 2)
        y = self.project(out, softmax_attention(*(self.project(part, frames) for part in (q, k, v))))
        y = y.view(b, t, h, w, c)
        if f"{name}.norm_t.weight" in self.state:
            y = y.permute(0, 2, 3, 1, 4).reshape(b * h * w, t, c)
            y = F.layer_norm(y, (c,), *self.pair(f"{name}.norm_t"))
            y = softmax_attention(*(self.project(f"{name}.{part}", y) for part in ("q_t", "k_t", "v_t")))
            y = self.project(f"{name}.proj_out_t", y).view(b, h, w, t, c).permute(0, 3, 1, 2, 4)
        return y.permute(0, 4, 1, 2, 3)

    def project(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.pair(name)
        return x @ weight.flatten(1).T + bias


def softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.softmax(query @ key.transpose(1, 2) * query.shape[-1] ** -0.5, dim=-1) @ value
