"""Pictures smaller than a latent: what they become depends on them alone, at every size and in every run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from cvcodec.checkpoints.registry import load_model
from cvcodec.codec import EncodeOptions, encode_stream
from tests.codec.clips import noise, write_rgb
from tests.codec.models import save_model, tiny_mini, tiny_official


class StridedWidths(TorchFunctionMode):
    """Notes how many columns come out of every convolution with a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.conv2d and (kwargs or {}).get("stride", args[3] if len(args) > 3 else 1) in (2, (2, 2)):
            self.seen.append(out.shape[3])
        return out


def encoded(model: Any, width: int, height: int) -> bytes:
    source, target = io.BytesIO(), io.BytesIO()
    write_rgb(source, noise(2, height, width), codec="rawvideo")
    source.seek(0)
    encode_stream(source, target, model=model, options=EncodeOptions(device="cpu", precision="bf16"))
    return target.getvalue()


def test_pictures_of_1_to_17_pixels_become_the_same_file_twice(tmp_path: Path) -> None:
    model = load_model(save_model(tmp_path / "tiny.safetensors", tiny_mini()))
    for width in range(1, 18):
        assert encoded(model, width, 8) == encoded(model, width, 8), width


@pytest.mark.parametrize("make", [tiny_mini, tiny_official])
@torch.no_grad()
def test_no_convolution_with_a_stride_gives_one_column(make: Any) -> None:
    """In bf16, oneDNN leaves its output unwritten where the CPU has AMX; machines without it cannot show that."""
    model = make().bfloat16()
    with StridedWidths() as widths:
        for width in (8, 16):
            model.encode(torch.zeros(1, 3, 5, 16, width, dtype=torch.bfloat16))
    assert widths.seen and min(widths.seen) > 1
