"""What diffusion models want of latents: factors, shift, order of axes (specification, section 6.2).

Owns: the table of targets, the arithmetic both ways, and refusing latents of another space.
Does not know: files.

A latent space is told by its channels and the factors that came with its image VAE: a model that was inflated from SD's
VAE has SD's, one that was trained beside another VAE has that one's. Latents that only have the right shape would pass
through a diffusion model as noise, so they are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cvcodec.errors import InputError, ModelMismatchError

Mode = Literal["video", "image"]
TargetName = Literal["raw", "sd21", "svd", "videocrafter2", "sd3"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Target:
    """How a program holds latents. `layout`: order of axes, B clips, C channels, T latents in time."""

    name: TargetName
    title: str
    layout: str
    """`BCTHW`, `BTCHW`, or `TCHW`, where the clips of a batch follow each other along the first axis."""
    mode: Mode
    """Whether an import takes the latents for those of one video (4 frames each, after the first) or of pictures."""
    channels: int | None = None
    """Of the latents it takes; None where it takes any."""
    scaling_factor: float = 1.0
    shift_factor: float = 0.0

    def check(self, *, channels: int, scaling_factor: float, shift_factor: float, what: str) -> None:
        """ModelMismatchError unless a latent space with these numbers is the target's."""
        own = (self.channels, self.scaling_factor, self.shift_factor)
        given = (channels, scaling_factor, shift_factor)
        if self.channels is None:
            return
        if channels != self.channels or not all(map(_close, own[1:], given[1:])):
            raise ModelMismatchError(
                f"{what} has another latent space ({_numbers(*given)}) than {self.title} ({_numbers(*own)}); "
                f"train a compatible model from its VAE (cvcodec train video-vae --image-vae VAE), or use raw"
            )

    def arrange(self, latent: Floats) -> Floats:
        """(C, t, h, w) as stored -> scaled and in the target's order, with its batch axis: a batch of one clip."""
        scaled = to_model_space(latent, self.scaling_factor, self.shift_factor)
        return np.ascontiguousarray(self.order(scaled))

    def order(self, latent: Floats) -> Floats:
        """(C, t, h, w) -> the target's axes, values as they are."""
        if self.layout == "TCHW":
            return latent.swapaxes(0, 1)
        return (latent.swapaxes(0, 1) if self.layout == "BTCHW" else latent)[None]

    @property
    def clip_layout(self) -> str:
        """Order of the axes of one clip, without the batch axis."""
        return self.layout.removeprefix("B")

    def take_apart(self, values: NDArray[Any]) -> list[Floats]:
        """Inverse of `arrange`, for any number of clips: (C, t, h, w) float32 each. InputError for other shapes.

        Where the layout is TCHW, or an axis is missing, all of it is one clip.
        """
        array = values.astype(np.float32)
        if array.ndim == 4:
            array = (array if self.clip_layout == "CTHW" else array.swapaxes(0, 1))[None]
        elif array.ndim == 5 and self.layout != "TCHW":
            array = array if self.layout == "BCTHW" else array.swapaxes(1, 2)
        else:
            raise InputError(
                f"{self.name} latents have {len(self.layout)} axes ({self.layout}), these are {values.shape}"
            )
        if self.channels not in (None, array.shape[1]) or not array.size:
            raise InputError(
                f"{self.name} latents have {self.channels or 'some'} channels ({self.layout}), these are {values.shape}"
            )
        if not np.isfinite(array).all():
            raise InputError("the latents hold NaN or infinity")
        latents = from_model_space(array, self.scaling_factor, self.shift_factor)
        return [np.ascontiguousarray(clip) for clip in latents]


_SD: dict[str, Any] = {"channels": 4, "scaling_factor": 0.18215}

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(name="raw", title="no diffusion model", layout="BCTHW", mode="video"),
        Target(name="sd21", title="Stable Diffusion 1.5 and 2.1", layout="TCHW", mode="image", **_SD),
        Target(name="svd", title="Stable Video Diffusion", layout="BTCHW", mode="video", **_SD),
        Target(name="videocrafter2", title="VideoCrafter2", layout="BCTHW", mode="video", **_SD),
        Target(
            name="sd3",
            title="Stable Diffusion 3 and 3.5",
            layout="TCHW",
            mode="image",
            channels=16,
            scaling_factor=1.5305,
            shift_factor=0.0609,
        ),
    )
}
"""By name. Specification, section 6.2, points 1 and 3."""


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


def _numbers(channels: int | None, scaling_factor: float, shift_factor: float) -> str:
    return f"{channels} channels, factor {scaling_factor:g}, shift {shift_factor:g}"


def to_model_space(latent: Floats, scaling_factor: float, shift_factor: float) -> Floats:
    """(latent - shift_factor) * scaling_factor, in float64 and rounded once."""
    scaled: Floats = ((latent.astype(np.float64) - shift_factor) * scaling_factor).astype(np.float32)
    return scaled


def from_model_space(values: Floats, scaling_factor: float, shift_factor: float) -> Floats:
    """values / scaling_factor + shift_factor: inverse of `to_model_space`."""
    latent: Floats = (values.astype(np.float64) / scaling_factor + shift_factor).astype(np.float32)
    return latent
