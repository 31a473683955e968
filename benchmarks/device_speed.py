"""How fast a device encodes and decodes, and how much of its memory that takes, for `gpu_run`.

Owns: the measurement.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import harness
from cvcodec.codec.runner import ModelRunner, denormalise, tensor_to_frames
from cvcodec.errors import DeviceError
from cvcodec.model import VideoAutoencoder
from cvcodec.windows.plan import choose_plan
from cvcodec.windows.space import crop_space
from device_checks import DEPTH, encode_all

_REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Encode and decode of one clip through windows and tiles, copies from and to the host included."""

    model: str
    precision: str
    width: int
    height: int
    frames: int
    encode_mpixel_per_s: float | None = None
    decode_mpixel_per_s: float | None = None
    encode_peak_bytes: int | None = None
    """Largest sum of tensors on the device; None where it does not tell."""
    decode_peak_bytes: int | None = None
    note: str = ""


def speed(
    model: VideoAutoencoder,
    device: torch.device,
    precision: str,
    *,
    width: int,
    height: int,
    frames: int,
) -> Speed:
    """Encode and decode a clip with the model's own windows and tiles, after a warm-up; the median of three."""
    name = model.name or model.config.family
    facts: dict[str, Any] = {"model": name, "precision": precision, "width": width, "height": height, "frames": frames}
    runner = ModelRunner(copy.deepcopy(model), device=device, precision=precision)
    plan = choose_plan(model.config, height=height, width=width)
    clip = harness.moving_clip(width, height, frames)
    notes: list[str] = []

    def encode() -> Tensor:
        return encode_all(plan, runner, clip, lambda smaller: notes.append("smaller tiles: memory ran out"))

    def decode(latent: Tensor) -> None:
        total = latent.shape[2]
        for piece in plan.decode(
            runner.decode,
            lambda start, stop: latent[:, :, start:stop],
            (0, total),
            total,
            lambda plan, text: notes.append("smaller tiles: memory ran out"),
        ):
            tensor_to_frames(denormalise(crop_space(piece, height, width), DEPTH), DEPTH)

    try:
        latent = encode()
        decode(latent)
        encode_peak = harness.peak_bytes(device, encode)[1]
        decode_peak = harness.peak_bytes(device, lambda: decode(latent))[1]
        encode_s = harness.median(harness.timed(encode, repeats=_REPEATS))
        decode_s = harness.median(harness.timed(lambda: decode(latent), repeats=_REPEATS))
    except DeviceError as error:
        return Speed(**facts, note=str(error))
    megapixels = width * height * frames / 1e6
    return Speed(
        **facts,
        encode_mpixel_per_s=megapixels / encode_s,
        decode_mpixel_per_s=megapixels / decode_s,
        encode_peak_bytes=encode_peak or None,
        decode_peak_bytes=decode_peak or None,
        note="; ".join(dict.fromkeys(notes)),
    )
