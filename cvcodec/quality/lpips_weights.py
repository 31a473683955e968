"""Where LPIPS weights come from, and the proof that they are what they are called.

Owns: the names and checksums of the published files, the places searched, the bundled v0.1 linear weights, the mapping
of ST-LPIPS keys to ours. Every file is checked against its SHA-256, so that no number can stand under a wrong name.
Does not know: how a distance is computed.

Standard LPIPS v0.1 (Zhang et al., CVPR 2018) = torchvision's ImageNet backbone + linear weights (BSD-2, bundled beside
this module with their licence). Shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022, BSD-2) = one file per network in the
distribution `stlpips-pytorch`; only its data is read, its code is never imported.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import os
import pickle
import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from cvcodec.errors import CheckpointError, MissingDependencyError

BACKBONE_FILES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
"""torchvision's files; the digits before `.pth` begin the file's SHA-256."""
BACKBONE_URL = "https://download.pytorch.org/models/"
LINEAR_FILE = "lpips_v0.1_linear.safetensors"
"""The bundled v0.1 linear weights: `<net>.<tap>`, (C,) float32."""

SHIFT_TOLERANT_DISTRIBUTION = "stlpips-pytorch"
SHIFT_TOLERANT_FOLDER = "stlpips_pytorch/weights/vST0.0"
SHIFT_TOLERANT_FILES = {
    "alex": ("alex_shift_tolerant.pth", "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee"),
    "vgg": ("vgg_shift_tolerant.pth", "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250"),
}
"""File name and SHA-256 by network, as in stlpips-pytorch 0.0.2."""


def cached_backbone(net: str) -> Path:
    """Where torch.hub keeps (or would keep) torchvision's file for `net`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE_FILES[net]


def installed_shift_tolerant(net: str) -> Path | None:
    """The ST-LPIPS file of the installed distribution; None when it is not installed or has none for `net`."""
    if net not in SHIFT_TOLERANT_FILES:
        return None
    try:
        distribution = importlib.metadata.distribution(SHIFT_TOLERANT_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(f"{SHIFT_TOLERANT_FOLDER}/{SHIFT_TOLERANT_FILES[net][0]}")))
    return path if path.is_file() else None


def download_backbone(net: str, *, progress: bool = False) -> Path:
    """Fetch torchvision's file into the torch hub cache, verified. MissingDependencyError when that fails."""
    path = cached_backbone(net)
    url = BACKBONE_URL + path.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=_hash_prefix(net), progress=progress)
    except OSError as error:
        raise MissingDependencyError(
            f"could not download {url}: {error}; fetch it by other means into {path.parent}"
        ) from error
    except RuntimeError as error:  # torch.hub's report of a wrong checksum
        raise CheckpointError(f"what {url} gave is not {path.name}: {error}") from error
    return path


def read_backbone(path: str | os.PathLike[str], net: str) -> dict[str, Tensor]:
    """Verified `features.*` tensors of torchvision's file for `net`. CheckpointError when it is any other file."""
    _verify(Path(path), _hash_prefix(net), f"torchvision's {BACKBONE_FILES[net]}")
    state = _load(Path(path))
    return {key: value for key, value in state.items() if key.startswith("features.")}


def read_linear(net: str) -> list[Tensor]:
    """The bundled LPIPS v0.1 linear weights for `net`, one (C,) float32 per tap."""
    data = (importlib.resources.files("cvcodec.quality") / LINEAR_FILE).read_bytes()
    tensors = safetensors.torch.load(data)
    count = sum(key.startswith(f"{net}.") for key in tensors)
    return [tensors[f"{net}.{tap}"] for tap in range(count)]


def read_shift_tolerant(path: str | os.PathLike[str], net: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Verified backbone tensors (`features.*`) and linear weights of an ST-LPIPS file."""
    name, digest = SHIFT_TOLERANT_FILES[net]
    _verify(Path(path), digest, f"{name} of {SHIFT_TOLERANT_DISTRIBUTION} 0.0.2")
    features: dict[str, Tensor] = {}
    linear: dict[int, Tensor] = {}
    for key, value in _load(Path(path)).items():
        if match := re.fullmatch(r"net\.slice\d+\.(\d+)\.(weight|bias|filt)", key):
            features[f"features.{match[1]}.{match[2]}"] = value
        elif match := re.fullmatch(r"lin(\d+)\.model\.1\.weight", key):
            linear[int(match[1])] = value.flatten()
    return features, [linear[tap] for tap in sorted(linear)]


def _hash_prefix(net: str) -> str:
    return BACKBONE_FILES[net].removesuffix(".pth").rsplit("-", 1)[1]


def _verify(path: Path, digest_prefix: str, wanted: str) -> None:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; wanted {wanted}") from error
    if not digest.startswith(digest_prefix):
        raise CheckpointError(
            f"{path} is not {wanted}: its SHA-256 begins {digest[:8]}, not {digest_prefix[:8]}; remove or replace it"
        )


def _load(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} does not load as a weights file: {error}") from error
    return dict(state)
