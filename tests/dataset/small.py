"""What the data-set tests share: a small seeded model in a weights file, and folders of short clips."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from cvcodec.checkpoints.checkpoint import save_checkpoint
from cvcodec.checkpoints.registry import load_model
from cvcodec.model.base import VideoAutoencoder
from cvcodec.quantization import LatentStatistics
from cvcodec.video import Frame, VideoWriter
from tests.model.test_mini import small_model

CHANNELS = 4


def save_small_model(path: Path, *, seed: int = 0, **changes: object) -> VideoAutoencoder:
    """Write the weights file of a narrow random model, with statistics, and load it."""
    model = small_model(seed=seed, **changes)
    channels = model.config.latent_channels
    statistics = LatentStatistics((0.0,) * channels, (1.0,) * channels)
    save_checkpoint(path, model, statistics=statistics, card={"name": path.stem})
    return load_model(path)


def write_clip(
    path: Path, frames: int = 9, size: tuple[int, int] = (32, 32), seed: int = 0, *, bit_depth: int = 8
) -> Path:
    """A clip of moving noise, lossless."""
    width, height = size
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 1 << bit_depth, (height, width + frames, 3), np.uint8 if bit_depth == 8 else np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    base = Fraction(1, 25)
    with VideoWriter(
        path, width=width, height=height, time_base=base, rate=1 / base, codec="ffv1", threads=1, bit_depth=bit_depth
    ) as writer:
        for number in range(frames):
            pixels = np.ascontiguousarray(picture[:, number : number + width])
            writer.write(Frame(pixels=pixels, pts=number, duration=1, bit_depth=bit_depth))
    return path


def break_a_packet(path: Path) -> Path:
    """Overwrite a packet of a clip, so that its frame cannot be decoded."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][-3]
    assert packet.pos is not None
    data = bytearray(path.read_bytes())
    data[packet.pos + 8 : packet.pos + packet.size] = b"\xff" * (packet.size - 8)
    path.write_bytes(data)
    return path
