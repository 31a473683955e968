"""A contact sheet of a .cvl without its decoder: `decode --preview`.

A latent is close to linear in the pixels it stands for, so a small matrix, fitted once by least squares to what the
model's own encoder makes of synthetic pictures, turns each latent into a few RGB pixels.

Owns: the fit, which latents are shown, the layout. Does not know: command lines, how latents are stored.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cvcodec.bitstream import Header
from cvcodec.codec.headers import check_model, info_from_header
from cvcodec.codec.latent_file import LatentFile
from cvcodec.codec.runner import denormalise
from cvcodec.codec.session import Notices
from cvcodec.errors import UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.quality.pictures import BACKGROUND, MARGIN, text

PICTURES = 16
"""Shown unless asked otherwise."""

THUMBNAIL = (160, 320)
"""Least and most pixels in the width of one, where the latents allow it."""

_FIT_PICTURES, _FIT_SIDE, _RIDGE = 8, 96, 1e-3


@dataclass(frozen=True)
class LinearPreview:
    """Latent -> RGB: `weight` (3 * detail**2, C) and `bias` (3 * detail**2,), float32; pixels in [-1, 1]."""

    weight: Tensor
    bias: Tensor
    detail: int
    """Pixels on a side that a latent becomes."""

    @classmethod
    @torch.no_grad()
    def fit(cls, model: VideoAutoencoder, detail: int) -> LinearPreview:
        """Least squares on drifting pictures with the spectrum of photographs, from noise of a fixed seed.

        detail: a divisor of the model's spatial factor.
        """
        factor, group = model.config.spatial_factor, model.config.temporal_factor
        if detail < 1 or factor % detail:
            raise ValueError(f"{detail = } does not divide the spatial factor {factor}")
        clips = _synthetic(_FIT_PICTURES, _FIT_SIDE - _FIT_SIDE % factor, 2 * group + 1 if group > 1 else 1)
        latent = model.encode(clips).mean.double()
        # A latent is shown as the mean of its frames: the first frame, then groups of `group`.
        means = [part.mean(dim=2) for part in (clips[:, :, :1], *clips[:, :, 1:].split(group, dim=2))]
        targets = [F.pixel_unshuffle(F.avg_pool2d(mean, factor // detail), detail) for mean in means]
        rows = latent.permute(0, 2, 3, 4, 1).flatten(0, 3)
        columns = torch.stack(targets, dim=2).double().permute(0, 2, 3, 4, 1).flatten(0, 3)
        rows_mean, columns_mean = rows.mean(0), columns.mean(0)
        rows, columns = rows - rows_mean, columns - columns_mean
        gram = rows.T @ rows
        gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        weight = torch.linalg.solve(gram, rows.T @ columns).T
        return cls(weight.float(), (columns_mean - weight @ rows_mean).float(), detail)

    def pixels(self, latent: NDArray[np.float32]) -> NDArray[np.uint8]:
        """A latent (C, h, w) to a picture (h * detail, w * detail, 3)."""
        mixed = torch.einsum("oc,chw->ohw", self.weight, torch.from_numpy(latent)) + self.bias[:, None, None]
        picture = F.pixel_shuffle(mixed, self.detail)
        return denormalise(picture, 8).permute(1, 2, 0).numpy()


def contact_sheet(
    path: str | os.PathLike[str],
    model: VideoAutoencoder | Callable[[Header], VideoAutoencoder],
    *,
    pictures: int = PICTURES,
    on_notice: Callable[[str], None] | None = None,
) -> tuple[NDArray[np.uint8], list[float]]:
    """(H, W, 3) RGB with evenly spaced pictures of a .cvl file, and their times in seconds from its beginning.

    model: one of the file's latent space, on the CPU, or a function from the header to it.
    Raises InputError, BitstreamError, ModelMismatchError, and UsageError for what cannot be sought.
    """
    if pictures < 1:
        raise UsageError(f"pictures = {pictures} is not positive")
    with LatentFile(path) as file:
        header = file.header
        loaded = model if isinstance(model, VideoAutoencoder) else model(header)
        check_model(loaded, header, Notices(on_notice))
        least, most = THUMBNAIL
        factor, columns = header.spatial_factor, header.latent_size[1]
        details = [detail for detail in range(1, factor + 1) if factor % detail == 0]
        detail = next((detail for detail in details if columns * detail >= least), details[-1])
        linear = LinearPreview.fit(loaded, detail)
        zero = info_from_header(header).start_time
        count = min(pictures, file.latent_count)
        panels, times = [], []
        for number in range(count):
            latent = (2 * number + 1) * file.latent_count // (2 * count)
            picture = linear.pixels(file.latents[latent])
            picture = picture[: -(-header.height * detail // factor), : -(-header.width * detail // factor)]
            picture = _sized(np.rot90(picture, -header.rotation // 90), least, most)
            frame = max(0, header.temporal_factor * latent - header.temporal_factor // 2)
            frame = min(frame, file.frame_count - 1)
            (pts,) = file.pts(frame, frame + 1)
            times.append(float(int(pts) * header.time_base - zero))
            panels.append(_captioned(picture, _clock(times[-1])))
    return _grid(panels), times


def _synthetic(count: int, side: int, frames: int) -> Tensor:
    """(count, 3, frames, side, side) in [-1, 1]: noise whose amplitude falls with frequency, as in photographs, in
    colours that mostly agree between channels, at several brightnesses, contrasts and speeds."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.fft.rfft2(torch.randn(count, 3, side, side, generator=generator))
    rows, columns = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None]
    noise = torch.fft.irfft2(spectrum / (rows**2 + columns**2 + 1 / side**2) ** 0.6, s=(side, side))
    noise = noise / noise.std(dim=(2, 3), keepdim=True)
    mixed = 0.8 * noise[:, :1] + 0.45 * noise
    level = torch.rand(count, 3, 1, 1, generator=generator) - 0.5
    pictures: Tensor = level + mixed * (0.2 + 0.4 * torch.rand(count, 1, 1, 1, generator=generator))
    shifts = torch.randint(-5, 6, (count, 2), generator=generator).tolist()
    moved = [
        torch.stack([picture.roll((n * down, n * right), dims=(1, 2)) for n in range(frames)], dim=1)
        for picture, (down, right) in zip(pictures.clamp(-1, 1), shifts, strict=True)
    ]
    return torch.stack(moved)


def _sized(picture: NDArray[np.uint8], least: int, most: int) -> NDArray[np.uint8]:
    """Enlarged by a whole factor to at least `least` pixels, or reduced by one to about `most`."""
    height, width = picture.shape[:2]
    if width < least:
        factor = -(-least // width)
        return picture.repeat(factor, axis=0).repeat(factor, axis=1)
    factor = min(width // most, height)
    if factor < 2:
        return np.ascontiguousarray(picture)
    cut = picture[: height // factor * factor, : width // factor * factor].astype(np.float32)
    means = cut.reshape(height // factor, factor, width // factor, factor, 3).mean(axis=(1, 3))
    small: NDArray[np.uint8] = np.rint(means).astype(np.uint8)
    return small


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0.0, seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:06.3f}" if hours else f"{minutes}:{rest:06.3f}"


def _captioned(picture: NDArray[np.uint8], caption: str) -> NDArray[np.uint8]:
    line = text(caption)[:, : picture.shape[1]]
    top = line.shape[0] + 2 * MARGIN
    panel = np.full((top + picture.shape[0], MARGIN + picture.shape[1], 3), BACKGROUND, np.uint8)
    panel[MARGIN : MARGIN + line.shape[0], MARGIN : MARGIN + line.shape[1]] = line
    panel[top:, MARGIN:] = picture
    return panel


def _grid(panels: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """About as wide as high in panels, filled row by row."""
    height, width = panels[0].shape[:2]
    columns = math.ceil(math.sqrt(len(panels)))
    rows = -(-len(panels) // columns)
    sheet = np.full((rows * height + MARGIN, columns * width + MARGIN, 3), BACKGROUND, np.uint8)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = panel
    return sheet
