"""The networks that sets are compared by: files that the user names, never downloaded.

    I3d         TorchScript, (1, 3, T, 224, 224) float in [-1, 1] -> (1, D): short side to 224, bilinear, centre cut.
                StyleGAN-V's `i3d_torchscript.pt` is one; its `rescale`, `resize` and `return_features` are set.
    Inception   TorchScript, (N, 3, H, W) uint8 -> (N, D); it scales by itself, as StyleGAN's `inception-2015-12-05.pt`
                does, whose `return_features` is set, or torch-fidelity's, of whose outputs the first counts
    Pairs       TorchScript, two of (N, 3, 224, 224) float in [0, 1], squeezed there bicubically -> (N,) distances:
                DreamSim's, traced; or our own LPIPS at the pictures' size
    Clip        transformers' CLIPModel, a folder or a name in its cache, with its tokenizer

Results are only comparable for one network, so each has a `name`: that of its file and the start of its SHA-256.
Owns: what each is given, what it must answer. Does not know: folders, distances.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cvcodec.errors import CheckpointError, InputError, MissingDependencyError, NumericalError, UsageError
from cvcodec.quality.lpips import Lpips
from cvcodec.system.device import arithmetic, is_out_of_memory

SIDE = 224
MOST_FEATURES = 8192
"""Covariances have this squared."""

_PICTURES = 8  # in one call of a network of pictures
_DIGITS = 8
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Script:
    """A TorchScript file, on a device, in fp32."""

    def __init__(self, path: Path, device: torch.device, settings: Mapping[str, bool] | None = None) -> None:
        """settings: arguments of its `forward` by name, where it has them. Raises InputError, CheckpointError."""
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(
                f"{path} cannot be read: {error.strerror or error}; networks are not downloaded, name a file"
            ) from error
        try:
            self._module = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise CheckpointError(
                f"{path} is no TorchScript file ({_first_line(error)}); wanted what torch.jit.save writes"
            ) from error
        known = {argument.name for argument in self._module.forward.schema.arguments}
        self._settings = {name: value for name, value in (settings or {}).items() if name in known}
        self._path, self._device = path, device
        self._size: int | None = None
        self.name = f"{path.name} {digest[:_DIGITS]}"

    def __call__(self, *inputs: Tensor) -> Tensor:
        """(N, ...) each -> (N, ...) float32, finite. Raises CheckpointError, NumericalError."""
        given = ", ".join(f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for x in inputs)
        try:
            with torch.inference_mode(), arithmetic(self._device, "fp32"):
                output: Any = self._module(*(x.to(self._device) for x in inputs), **self._settings)
        except (RuntimeError, torch.jit.Error) as error:
            if is_out_of_memory(error):
                raise
            raise CheckpointError(f"{self._path} does not take {given}: {_last_line(error)}") from error
        if isinstance(output, tuple | list) and output:
            output = output[0]
        if not isinstance(output, Tensor):
            raise CheckpointError(f"{self._path} answers {given} with {type(output).__name__}; wanted a tensor")
        if not output.ndim or len(output) != len(inputs[0]):
            raise CheckpointError(
                f"{self._path} answers {given} with {tuple(output.shape)}; wanted one row for each of {len(inputs[0])}"
            )
        if not bool(output.isfinite().all()):
            raise NumericalError(f"{self._path} answers {given} with values that are not finite")
        return output.float()

    def features(self, *inputs: Tensor) -> Tensor:
        """(N, ...) each -> (N, D), D always the same. Raises as a call."""
        rows = self(*inputs)
        if rows[0].numel() != max(rows.shape[1:], default=1):
            raise CheckpointError(
                f"{self._path} answers {tuple(rows.shape)}; wanted (N, D): features, and no map of them"
            )
        rows = rows.flatten(1) if rows.ndim > 1 else rows[:, None]
        size = rows.shape[1]
        if size > MOST_FEATURES or size != (self._size or size):
            wanted = f"at most {MOST_FEATURES}" if self._size is None else f"{self._size} as before"
            raise CheckpointError(f"{self._path} answers with {size} features; wanted {wanted}")
        self._size = size
        return rows


class I3d:
    """See the module."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self._script = Script(path, device, {"rescale": False, "resize": False, "return_features": True})
        self.name = self._script.name

    def features(self, clip: Tensor) -> Tensor:
        """(T, 3, H, W) uint8 -> (1, D)."""
        x = torch.cat([_cover(part.float(), SIDE, "bilinear", antialias=False) for part in clip.split(_PICTURES)])
        x = x.clamp(0, 255)  # weights of the interpolation may add up to a little more than one
        return self._script.features((x / 127.5 - 1).transpose(0, 1)[None])


class Inception:
    """See the module."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self._script = Script(path, device, {"return_features": True})
        self.name = self._script.name

    def features(self, pictures: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> (N, D)."""
        return torch.cat([self._script.features(part) for part in pictures.split(_PICTURES)])


class Pairs:
    """See the module."""

    def __init__(self, network: Script | Lpips, device: torch.device) -> None:
        self._network, self._device = network, device
        self.name = network.name
        if isinstance(network, Lpips):
            network.to(device)

    def distances(self, first: Tensor, others: Tensor) -> Tensor:
        """(1, 3, h, w) and (N, 3, H, W) uint8 -> (N,) float64. CheckpointError, UsageError."""
        parts = [self._measured(first, part).cpu().double() for part in others.split(_PICTURES)]
        return torch.cat(parts)

    def _measured(self, first: Tensor, others: Tensor) -> Tensor:
        distances: Tensor
        if isinstance(self._network, Script):
            x, y = (_resized(side, (SIDE, SIDE), "bicubic") / 255 for side in (first, others))
            distances = self._network.features(x.expand_as(y), y)
            if distances.shape[1] != 1:
                raise CheckpointError(f"{self.name} answers {tuple(distances.shape)}; wanted a distance for each pair")
            return distances[:, 0]
        height, width = others.shape[-2:]
        if min(height, width) < self._network.minimum_side:
            raise UsageError(
                f"{self.name} takes no {width}x{height} pixels, {self._network.minimum_side} on each side are the "
                "least; leave pic out, or give --dreamsim"
            )
        x = _resized(first, (height, width), "bilinear").expand(others.shape) / 127.5 - 1
        with torch.inference_mode(), arithmetic(self._device, "fp32"):
            distances = self._network(x.to(self._device), (others.float() / 127.5 - 1).to(self._device))
        return distances


class Clip:
    """See the module. What it gives has length 1, so that products are cosines."""

    def __init__(self, name: str, device: torch.device) -> None:
        """Raises MissingDependencyError, InputError."""
        try:
            from transformers import AutoTokenizer, CLIPModel
            from transformers.utils import logging as said
        except ImportError as error:
            raise MissingDependencyError(
                'clip and consistency need transformers, which is not installed: pip install "cvcodec[clip]"'
            ) from error
        said.disable_progress_bar()
        try:
            self._model = CLIPModel.from_pretrained(name, local_files_only=True).to(device).eval()
            self._tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(
                f"no CLIP model is at {name} ({_first_line(error)}); nothing is downloaded: name a folder, or fetch "
                "it first with: hf download NAME"
            ) from error
        self._device, self._side = device, int(self._model.config.vision_config.image_size)
        digest = hashlib.sha256()
        for key, value in sorted(self._model.state_dict().items()):
            digest.update(key.encode() + value.detach().cpu().float().contiguous().numpy().tobytes())
        self.name = f"{Path(name).name} {digest.hexdigest()[:_DIGITS]}"

    def of_pictures(self, pictures: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> (N, D) float64."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_CLIP_MEAN, _CLIP_STD))
        found = []
        for part in pictures.split(_PICTURES):
            x = _cover(part.float(), self._side, "bicubic", antialias=True).round().clamp(0, 255) / 255
            with torch.inference_mode(), arithmetic(self._device, "fp32"):
                found.append(_direction(self._model.get_image_features(((x - mean) / std).to(self._device))))
        return torch.cat(found)

    def of_text(self, text: str) -> Tensor:
        """(D,) float64; of a long text the beginning that the model takes."""
        most = int(self._model.config.text_config.max_position_embeddings)
        words = self._tokenizer([text], return_tensors="pt", truncation=True, max_length=most).to(self._device)
        with torch.inference_mode(), arithmetic(self._device, "fp32"):
            return _direction(self._model.get_text_features(**words))[0]


def _direction(output: Any) -> Tensor:
    """transformers 5 gives an object, earlier ones the tensor."""
    features: Tensor = getattr(output, "pooler_output", output)
    return F.normalize(features.cpu().double(), dim=-1)


def _cover(pictures: Tensor, side: int, mode: str, *, antialias: bool) -> Tensor:
    """(N, 3, H, W) float: the short side becomes `side`, the middle of the long one is kept."""
    height, width = pictures.shape[-2:]
    short = min(height, width)
    size = (max(side, int(side * height / short)), max(side, int(side * width / short)))
    scaled = F.interpolate(pictures, size, mode=mode, align_corners=False, antialias=antialias)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return scaled[..., top : top + side, left : left + side]


def _resized(pictures: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(N, 3, H, W) uint8 -> float in [0, 255], antialiased."""
    if pictures.shape[-2:] == size:
        return pictures.float()
    return F.interpolate(pictures.float(), size, mode=mode, align_corners=False, antialias=True).clamp(0, 255)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:160]


def _last_line(error: Exception) -> str:
    """Where a TorchScript error says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
