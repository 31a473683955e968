"""Held-out clips through the model: PSNR, SSIM, LPIPS at several qualities, compatibility with the 2D model, pictures.

Owns: which clips, how they are scaled, what is averaged (per clip, then over clips), the grid of reconstructions.
Pictures are rounded to 8 bits before they are compared. Does not know: real bitstreams (the bits are the rate model's
estimate).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cvcodec.codec.runner import denormalise, normalise
from cvcodec.dataset.media import ClipCache, MediaFile, resize
from cvcodec.errors import MissingDependencyError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.quality.lpips import Lpips
from cvcodec.quality.pictures import BACKGROUND, panel
from cvcodec.quality.psnr import psnr
from cvcodec.quality.ssim import ssim
from cvcodec.training.losses import GROUP, RateModel, fold_frames
from cvcodec.training.objective import Arithmetic, decode_pictures, encode_pictures

_LPIPS_STRIDE = 3  # frames that LPIPS, slower than the model, sees: it comes by every place in a group of four
_MOST_STILLS = 4  # frames that a 2D model is measured on, from each clip
_GRID_ROWS = 4
_ERROR_GAIN = 4  # absolute errors are shown this much brighter


def spread_over_sources(files: Sequence[MediaFile], count: int, *, videos: bool) -> list[MediaFile]:
    """At most `count` files, one from each source in turn; videos before photos, or photos before videos."""
    by_group: dict[str, list[MediaFile]] = defaultdict(list)
    for file in sorted(files, key=lambda file: (file.is_image == videos, str(file.path))):
        by_group[file.group].append(file)
    queues = sorted(by_group.values(), key=lambda queue: (queue[0].is_image == videos, str(queue[0].path)))
    turns = [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]
    if videos and any(not file.is_image for file in turns):
        turns = [file for file in turns if not file.is_image]
    return turns[:count]


def validation_clips(
    files: Sequence[MediaFile], cache: ClipCache, *, side: int, frames: int, count: int, videos: bool
) -> list[Tensor]:
    """(1, 3, T, H, W) uint8 clips: short side `side`, cut to multiples of 8 about the centre, the first 4k+1 frames.

    For a 2D model (`videos` False) a few stills of each.
    """
    clips = []
    for file in spread_over_sources(files, count, videos=videos):
        pixels = cache.get(file)
        if pixels is None:
            continue
        taken = pixels[:frames]
        taken = taken[: len(taken) - (len(taken) - 1) % GROUP] if videos else taken[:: max(1, frames // _MOST_STILLS)]
        clip = torch.from_numpy(taken.copy()).permute(0, 3, 1, 2).float()
        height, width = clip.shape[-2:]
        scale = side / min(height, width)
        clip = resize(clip, round(height * scale), round(width * scale))
        top, left = clip.shape[-2] % 8 // 2, clip.shape[-1] % 8 // 2
        height, width = clip.shape[-2] // 8 * 8, clip.shape[-1] // 8 * 8
        clip = clip[:, :, top : top + height, left : left + width]
        clips.append(clip.round().to(torch.uint8).permute(1, 0, 2, 3)[None].contiguous())
    return clips


class Validator:
    """Measures a model on `clips` (1, 3, T, H, W) uint8; LPIPS is the AlexNet one, which nothing is trained on."""

    def __init__(
        self, clips: Sequence[Tensor], *, arithmetic: Arithmetic, device: torch.device, lpips: bool = True
    ) -> None:
        self.clips, self._arithmetic, self._device = clips, arithmetic, device
        self._lpips: Lpips | None = None
        if lpips:
            try:
                self._lpips = Lpips.load("alex").to(device)
            except MissingDependencyError:
                self._lpips = None

    @torch.no_grad()
    def measure(
        self,
        model: VideoAutoencoder,
        *,
        rate: RateModel | None = None,
        steps: Callable[[Tensor], Tensor] | None = None,
        qualities: Sequence[float] = (),
        image_model: VideoAutoencoder | None = None,
    ) -> dict[str, float]:
        """Means over clips; keys carry units, and `_q75` the quality; without it the latent is not quantised.

        rate, steps: for `qualities`; the latter gives steps of each channel for qualities (B,), as `Objective.steps`.
        `_place_1` to `_place_4`: a frame's place in its group.
        """
        sums: dict[str, list[float]] = defaultdict(list)
        was_training = model.training
        model.eval()
        for clip in self.clips:
            target = clip.to(self._device)
            x = normalise(target, 8)
            with self._arithmetic():
                posterior = model.encode(x)
            mean = posterior.mean.float()
            output = self._decode(model, mean)
            sums["psnr_db"].append(_psnr(target, output))
            if model.config.is_video and target.shape[2] > 1:
                for place, value in enumerate(_psnr_by_place(target, output), 1):
                    sums[f"psnr_db_place_{place}"].append(value)
            if min(target.shape[-2:]) >= 11:
                sums["ssim"].append(float(ssim(_pictures(target), _pictures(output), peak=255).mean()))
            if self._lpips is not None and min(target.shape[-2:]) >= self._lpips.minimum_side:
                sums["lpips_alex"].append(self._distance(target, output))
            for quality in qualities:
                assert rate is not None and steps is not None
                step = steps(torch.tensor([quality], device=mean.device))
                rounded = torch.round(mean / step) * step
                sums[f"psnr_db_q{quality:g}"].append(_psnr(target, self._decode(model, rounded, quality)))
                sums[f"bits_per_pixel_q{quality:g}"].append(float(rate(rounded, step).sum()) / x[:, 0].numel())
            if image_model is not None and model.config.is_video:
                for name, value in self._compatibility(model, image_model, x, mean).items():
                    sums[name].append(value)
        model.train(was_training)
        return {name: sum(values) / len(values) for name, values in sums.items()}

    @torch.no_grad()
    def draw(self, model: VideoAutoencoder, image_model: VideoAutoencoder | None = None) -> npt.NDArray[np.uint8]:
        """A row a clip: its middle, as it is and decoded, the error, and what the frozen 2D decoder makes of the same
        latent; each under a caption, with the PSNR of this one frame."""
        rows = []
        for number, clip in enumerate(self.clips[:_GRID_ROWS], 1):
            x = normalise(clip.to(self._device), 8)
            shown = (x.shape[2] - 1) // (2 * GROUP)  # a latent near the middle; it sits at its group's last frame
            with self._arithmetic():
                posterior = model.encode(x)
                output = model.decode(posterior.mean)[0, :, GROUP * shown].float()
                original = x[0, :, GROUP * shown]
                row = [
                    (f"{number}: source, frame {GROUP * shown}", original),
                    (f"decoded {_psnr_of(original, output):.1f} dB", output),
                    (f"error x {_ERROR_GAIN}", error_picture(original, output)),
                ]
                if image_model is not None and model.config.is_video:
                    picture = decode_pictures(image_model, posterior.mean[:, :, shown : shown + 1])[0, :, 0].float()
                    row.append((f"2D decoder {_psnr_of(original, picture):.1f} dB", picture))
            rows.append(row)
        return grid(rows)

    def _compatibility(
        self, model: VideoAutoencoder, image_model: VideoAutoencoder, x: Tensor, mean: Tensor
    ) -> dict[str, float]:
        """The 2D decoder on video latents, against frames 0, 4, 8 ...; the video decoder on 2D-encoded frames."""
        stills = x[:, :, ::GROUP]
        target = denormalise(stills, 8)
        with self._arithmetic():
            pictures = decode_pictures(image_model, mean)
            latents = encode_pictures(image_model, stills).mean
            decoded = decode_pictures(model, latents)  # one-latent clips: image mode
        return {
            "psnr_db_image_decoder": _psnr(target, denormalise(pictures, 8)),
            "psnr_db_image_encoder": _psnr(target, denormalise(decoded, 8)),
        }

    def _decode(self, model: VideoAutoencoder, latent: Tensor, quality: float | None = None) -> Tensor:
        told: dict[str, Any] = {"quality": quality} if model.config.quality_aware else {}
        with self._arithmetic():
            output = model.decode(latent, **told)
        return denormalise(output, 8)

    def _distance(self, target: Tensor, output: Tensor) -> float:
        assert self._lpips is not None
        x, y = (_pictures(pixels[:, :, ::_LPIPS_STRIDE]) / 127.5 - 1 for pixels in (target, output))
        values = []
        with self._arithmetic():
            for first in range(0, len(x), 8):  # AlexNet's first maps of a whole clip would be large
                values.append(self._lpips(x[first : first + 8], y[first : first + 8]))
        return float(torch.cat(values).mean())


def _pictures(clip: Tensor) -> Tensor:
    return fold_frames(clip).float()


def _psnr_by_place(x: Tensor, y: Tensor) -> list[float]:
    """Of the first, second, third and fourth frames of all groups; the first frame of the clip is in none."""
    return [_psnr(x[:, :, place::GROUP], y[:, :, place::GROUP]) for place in range(1, GROUP + 1)]


def _psnr(x: Tensor, y: Tensor) -> float:
    """Of the whole clip: one mean square error over all frames."""
    return float(psnr(x, y, peak=255))


def _psnr_of(x: Tensor, y: Tensor) -> float:
    """Of two pictures (3, H, W) in [-1, 1]."""
    return _psnr(denormalise(x, 8)[None, :, None], denormalise(y, 8)[None, :, None])


def grid(rows: Sequence[Sequence[tuple[str, Tensor]]]) -> npt.NDArray[np.uint8]:
    """Captions and pictures (3, H, W) float in [-1, 1], by row and column: (H', W', 3) uint8. Sizes may differ by row;
    small pictures are enlarged by a whole factor."""
    bands = []
    for row in rows:
        pictures = [(line, denormalise(picture.detach().float().cpu(), 8)) for line, picture in row]
        bands.append(np.concatenate([panel(p.permute(1, 2, 0).numpy(), line) for line, p in pictures], axis=1))
    width = max(band.shape[1] for band in bands)
    missing = [((0, 0), (0, width - band.shape[1]), (0, 0)) for band in bands]
    padded = [np.pad(band, pad, constant_values=BACKGROUND) for band, pad in zip(bands, missing, strict=True)]
    return np.concatenate(padded)


def error_picture(x: Tensor, y: Tensor) -> Tensor:
    """|x - y|, four times brighter, black where they are equal: (3, H, W) in [-1, 1]."""
    return (x.float() - y.float()).abs() * _ERROR_GAIN - 1
