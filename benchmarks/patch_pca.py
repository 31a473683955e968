"""The baseline without a network: a PCA of 4x8x8 patches, unquantised; frame 0 is a patch of its own, repeated.

Owns: fitting on videos, reconstruction with the first few components, the fitted factors that come with the package.

The stored factors were fitted on the videos that the bundled weights learned from (short side 256, first 33 frames),
so that no other data is needed to draw or measure the baseline.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cvcodec.codec.runner import denormalise, normalise
from cvcodec.errors import InputError, OutputError, UsageError
from cvcodec.training.pca import fit_pca, patches
from cvcodec.windows.space import crop_space, pad_space
from cvcodec.windows.time import pad_time

GROUP, COMPONENTS = 4, 16
STORED = Path(__file__).with_name("pca_4x8x8.safetensors")


@dataclass(frozen=True)
class PatchPca:
    """mean: (768,); basis: (768, components), strongest first; both float32, of pixels in [-1, 1]."""

    mean: Tensor
    basis: Tensor

    @classmethod
    def fit(cls, clips: Iterable[NDArray[np.uint8]], components: int = COMPONENTS) -> PatchPca:
        """On clips (T, H, W, 3); what exceeds 4k+1 frames or a multiple of 8 pixels is left out."""
        mean, basis = fit_pca(map(_trimmed, clips), GROUP, components)
        return cls(mean, basis)

    @classmethod
    def load(cls, path: Path = STORED) -> PatchPca:
        """What `save` wrote. InputError when the file is something else."""
        try:
            parts = load_file(path)
            return cls(parts["mean"].float(), parts["basis"].float())
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(f"{path} holds no fitted PCA: {error}") from error

    def save(self, path: Path) -> None:
        """Half precision: about 25 kB, and errors far below one code value."""
        try:
            save_file({"mean": self.mean.half(), "basis": self.basis.half().contiguous()}, path)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"cannot write {path}: {error}") from error

    def reconstruct(self, clip: NDArray[np.uint8], components: int) -> NDArray[np.uint8]:
        """A clip (T, H, W, 3) from its first `components` coefficients, as bytes. UsageError without as many."""
        if not 1 <= components <= self.basis.shape[1]:
            raise UsageError(f"{components} components asked for; this PCA was fitted with {self.basis.shape[1]}")
        frames, height, width = clip.shape[:3]
        padded = pad_space(pad_time(_to_tensor(clip), GROUP), 8)
        basis = self.basis[:, :components]
        rows = self.mean + ((patches(padded, GROUP) - self.mean) @ basis) @ basis.T
        pixels = crop_space(_from_patches(rows, padded.shape), height, width)[:, :, :frames]
        return denormalise(pixels, 8)[0].permute(1, 2, 3, 0).contiguous().numpy()


def _to_tensor(clip: NDArray[np.uint8]) -> Tensor:
    """(T, H, W, 3) -> (1, 3, T, H, W) float in [-1, 1]."""
    return normalise(torch.from_numpy(np.ascontiguousarray(clip)).permute(3, 0, 1, 2)[None], 8)


def _trimmed(clip: NDArray[np.uint8]) -> Tensor:
    frames, height, width = (clip.shape[0] - 1) // GROUP * GROUP + 1, clip.shape[1] // 8 * 8, clip.shape[2] // 8 * 8
    return _to_tensor(clip[:frames, :height, :width])[0]


def _from_patches(rows: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `patches`: of the four copies of frame 0 the last is taken."""
    batch, channels, frames, height, width = shape
    split = rows.view(batch, (frames - 1) // GROUP + 1, height // 8, width // 8, GROUP, channels, 8, 8)
    clip = split.permute(0, 5, 1, 4, 2, 6, 3, 7).reshape(batch, channels, frames - 1 + GROUP, height, width)
    return clip[:, :, GROUP - 1 :]
