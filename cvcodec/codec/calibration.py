"""Statistics of a model's latents, measured on clips, for the quantiser.

Owns: the running mean and deviation per channel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cvcodec.checkpoints.checkpoint import Checkpoint, instantiate, make_checkpoint
from cvcodec.errors import InputError, NumericalError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.quantization import LatentStatistics

_PIECE_LATENTS = 16

Latents = Tensor | npt.NDArray[np.floating]
LatentReader = Callable[[Path, VideoAutoencoder], Iterable[Latents]]
"""Encodes one clip: yields pieces of its latents, (1, C, t, h, w) or (C, t, h, w), each latent once."""

_SMALLEST_STD = 1e-3  # of the largest channel's: a channel that never changes still gets a finite step


def measure_statistics(model: VideoAutoencoder, latents: Iterable[Latents]) -> LatentStatistics:
    """Mean and deviation of every channel over all positions of all pieces; `unit_step` is the deviation, and that of
    an enhancement layer what `LatentStatistics.with_enhancement` makes it.

    `latents`: pieces (1, C, t, h, w) or (C, t, h, w), consumed one at a time. Summed in float64 by Chan's pairwise
    update, so that millions of positions cost no precision. Raises InputError when there are no latents,
    NumericalError for NaN or infinity, ValueError for another number of channels.
    """
    mean, std = channel_moments(latents, model.config.coded_channels)
    above = model.config.latent_channels
    base = LatentStatistics(mean=tuple(mean[:above].tolist()), std=tuple(std[:above].tolist()))
    return base.with_enhancement(tuple(std[above:].tolist())) if len(std) > above else base


def channel_moments(
    latents: Iterable[Latents], channels: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and deviation, (C,) each, of pieces of latents, as `measure_statistics`."""
    count = 0
    mean = np.zeros(channels)
    squares = np.zeros(channels)
    for piece in latents:
        values = (
            piece.detach().to("cpu", torch.float64).numpy()
            if isinstance(piece, Tensor)
            else np.asarray(piece, np.float64)
        )
        if values.ndim == 5:
            values = values.swapaxes(0, 1)
        if values.ndim not in (4, 5) or values.shape[0] != channels:
            raise ValueError(
                f"latents of {channels} channels wanted, (1, C, t, h, w) or (C, t, h, w); got {tuple(piece.shape)}"
            )
        values = values.reshape(channels, -1)
        added = values.shape[1]
        if not added:
            continue
        if not np.isfinite(values).all():
            raise NumericalError("the encoder gave NaN or infinity for a calibration clip; try --precision fp32")
        piece_mean = values.mean(1)
        difference = piece_mean - mean
        squares += ((values - piece_mean[:, None]) ** 2).sum(1) + difference**2 * (count * added / (count + added))
        mean += difference * (added / (count + added))
        count += added
    if not count:
        raise InputError("calibration clips gave no latents; wanted at least one video frame")
    std = np.sqrt(squares / count)
    return mean, np.maximum(std, _SMALLEST_STD * (std.max() or 1.0))


def calibrate(
    checkpoint: Checkpoint,
    clips: Sequence[Path],
    *,
    read_latents: LatentReader | None = None,
    device: str | torch.device = "cpu",
) -> Checkpoint:
    """The checkpoint with statistics measured on `clips`; weights and identities stay as they are.

    `read_latents`: None takes `encoded_latents`. One piece of one clip is in memory at a time.
    """
    model = instantiate(checkpoint, name="calibration", device=device)
    read = read_latents or encoded_latents
    pieces = (piece for clip in clips for piece in read(clip, model))
    statistics = measure_statistics(model, pieces)
    return make_checkpoint(checkpoint.config, checkpoint.state_dict, statistics=statistics, card=checkpoint.card)


def encoded_latents(clip: Path, model: VideoAutoencoder) -> Iterator[npt.NDArray[np.float32]]:
    """The latents (C, t, h, w) of a video file, with the model's default windows, in fp32 on the model's device.

    They pass through a temporary file, so that memory does not grow with the clip. Raises what `encode_file` does.
    """
    from cvcodec.codec import EncodeOptions, LatentFile, encode_file

    device = str(next(model.parameters()).device)
    with tempfile.TemporaryDirectory(prefix="cvcodec-") as folder:
        file = Path(folder) / "latents.cvl"
        encode_file(
            str(clip),
            file,
            model=model,
            options=EncodeOptions(latents="fp32", layers="all", precision="fp32", device=device),
        )
        with LatentFile(file) as stored:
            for start in range(0, len(stored.latents), _PIECE_LATENTS):
                yield stored.read_layers(start, min(start + _PIECE_LATENTS, len(stored.latents)))
