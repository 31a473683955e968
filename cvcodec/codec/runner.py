"""A model on a device: the two functions between integer frames and float latents that windows and tiles call.

Owns: moving clips to the device and results back, the number range (normalise, denormalise), the arithmetic's
precision, and the second attempt in fp32 when a reduced precision gives NaN or infinity.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvcodec.errors import NumericalError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.system.device import Precision, arithmetic, dtype_of, select_device, select_precision, to_device, to_host
from cvcodec.system.printable import printable


def normalise(frames: Tensor, bit_depth: int) -> Tensor:
    """Code values 0 .. 2**bit_depth - 1 of any integer dtype to float32 in [-1, 1], same shape."""
    return frames.to(torch.float32).mul_(2.0 / (2**bit_depth - 1)).sub_(1.0)


def denormalise(pixels: Tensor, bit_depth: int) -> Tensor:
    """Float pixels in [-1, 1], clamped and rounded, to code values: uint8 at 8 bits, else int32. Same shape."""
    peak = 2**bit_depth - 1
    codes = pixels.to(torch.float32).add(1.0).mul_(peak / 2.0).round_().clamp_(0, peak)
    return codes.to(torch.uint8 if bit_depth == 8 else torch.int32)


def frames_to_tensor(frames: list[NDArray[Any]]) -> Tensor:
    """Pictures (H, W, 3) uint8 or uint16 to one clip (1, 3, T, H, W), uint8 or int32, channels innermost in memory."""
    stacked = np.stack(frames)
    if stacked.dtype != np.uint8:  # torch cannot do arithmetic on uint16
        stacked = stacked.astype(np.int32)
    return torch.from_numpy(stacked).permute(3, 0, 1, 2)[None]


def tensor_to_frames(clip: Tensor, bit_depth: int) -> NDArray[Any]:
    """Code values (1, 3, T, H, W) to pictures (T, H, W, 3), uint8 or uint16, contiguous."""
    pictures = to_host(clip[0].permute(1, 2, 3, 0).contiguous()).numpy()
    return pictures if bit_depth == 8 else pictures.astype(np.uint16)


class ClipEncoder(Protocol):
    """What an encode needs of a model: `ModelRunner`, or one that shares a device with other encodes (dataset)."""

    @property
    def model(self) -> VideoAutoencoder: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def precision(self) -> Precision: ...

    def encode(self, frames: Tensor, bit_depth: int) -> Tensor: ...

    def decode(self, latent: Tensor, quality: float | None = None) -> Tensor: ...

    def enhancement(self, frames: Tensor, bit_depth: int, decoded: Tensor) -> Tensor: ...


class ModelRunner:
    """Runs a model's encoder and decoder on a device in a precision.

    `model` stays as it is (fp32); a copy in the working precision lives on the device. Warns once, through
    `on_notice`, when a result was not finite and was computed again in fp32. Raises NumericalError when fp32 is not
    finite either.
    """

    def __init__(
        self,
        model: VideoAutoencoder,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        self.device = select_device(device)
        self.precision: Precision = select_precision(precision, self.device)
        self._original = model.eval()
        self._exact: VideoAutoencoder | None = None
        self._on_notice = on_notice or (lambda text: warnings.warn(printable(text), stacklevel=3))
        self._noticed = False
        # bf16 has fp32's range, so the whole model is cast: on CPUs autocast would cast the weights at every call.
        # fp16 overflows in norms, so there autocast picks what runs in it and the weights stay fp32.
        self._cast = self.precision == "bf16"
        if self._cast:
            self._model = copy.deepcopy(model).to(self.device, dtype_of("bf16"))
        else:
            there = all((p.device, p.dtype) == (self.device, torch.float32) for p in model.parameters())
            self._model = model if there else copy.deepcopy(model).to(self.device, torch.float32)

    @property
    def model(self) -> VideoAutoencoder:
        """The copy that runs: on its device, in the precision that was chosen."""
        return self._model

    def encode(self, frames: Tensor, bit_depth: int) -> Tensor:
        """Code values (1, 3, T, H, W), host or device, to moments (1, 2C, t, h, w) float32 on the device."""
        return self._run("moments", self._pixels(frames, bit_depth))

    def decode(self, latent: Tensor, quality: float | None = None) -> Tensor:
        """Latent (1, C, t, h, w) or both layers (1, C + E, t, h, w) float32, host or device, to pixels (1, 3, T, H, W)
        float32 on the device. quality: that the latent was quantised with, which some decoders want to know."""
        told: dict[str, Any] = {"quality": quality} if self._model.config.quality_aware else {}
        return self._run("decode", latent.to(self.device, torch.float32), **told)

    @torch.inference_mode()
    def enhancement(self, frames: Tensor, bit_depth: int, decoded: Tensor) -> Tensor:
        """What `decoded` (1, 3, T, H, W) in [-1, 1], of latents from any on, leaves over of its source, code values of
        that shape: the enhancement layer (1, E, t, h, w) float32 on the device."""
        left_over = self._pixels(frames, bit_depth) - decoded
        lone = left_over.shape[2] % self._model.config.temporal_factor == 1
        if not lone:  # no first frame among them, which the model wants
            left_over = torch.cat([left_over[:, :, :1], left_over], 2)
        made: Tensor = self._model.enhancement(left_over)  # type: ignore[operator]
        return made if lone else made[:, :, 1:]

    def _pixels(self, frames: Tensor, bit_depth: int) -> Tensor:
        if frames.device.type == "cpu":
            frames = to_device(frames, self.device)
        return normalise(frames.to(self.device), bit_depth)

    @torch.inference_mode()
    def _run(self, method: str, x: Tensor, **told: Any) -> Tensor:
        if self.precision == "fp32":
            with arithmetic(self.device, "fp32"):
                result: Tensor = getattr(self._model, method)(x, **told)
        elif self._cast:
            with arithmetic(self.device, "fp32"):
                own = x if self._model.config.takes_any_dtype else x.to(dtype_of("bf16"))
                result = getattr(self._model, method)(own, **told).float()
        else:
            with arithmetic(self.device, self.precision):
                result = getattr(self._model, method)(x, **told).float()
        if _all_finite(result):
            return result
        if self.precision != "fp32":
            if not self._noticed:
                self._on_notice(f"{self.precision} gave NaN or infinity in {method}; such clips are computed in fp32")
                self._noticed = True
            if self._exact is None:
                self._exact = copy.deepcopy(self._original).to(self.device, torch.float32)
            with arithmetic(self.device, "fp32"):
                result = getattr(self._exact, method)(x, **told)
            if _all_finite(result):
                return result
        raise NumericalError(
            f"the model's {method} gave NaN or infinity in fp32 too: the weights are damaged or do not fit this input"
        )


def _all_finite(x: Tensor) -> bool:
    """Whether no value is NaN or infinite; one read-back on a device."""
    # NaN and infinity never vanish from a sum, which takes a twentieth of the time; large values may overflow it.
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())
