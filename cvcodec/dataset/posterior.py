"""Means and log-variances -> the values a training step sees. Owns this arithmetic, in numpy, and nothing else."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

Posterior = Literal["mean", "sample"]
"""What a data set gives of a posterior."""


def values_of(mean: Floats, logvar: Floats, generator: np.random.Generator) -> Floats:
    """One draw from N(mean, exp(logvar)), same shape (specification, section 1.6)."""
    noise = generator.standard_normal(mean.shape, np.float32)
    drawn: Floats = mean + np.exp(np.float32(0.5) * logvar) * noise
    return drawn


def to_model_space(latent: Floats, scaling_factor: float, shift_factor: float) -> Floats:
    """(latent - shift_factor) * scaling_factor, in float64 and rounded once."""
    scaled: Floats = ((latent.astype(np.float64) - shift_factor) * scaling_factor).astype(np.float32)
    return scaled


def from_model_space(values: Floats, scaling_factor: float, shift_factor: float) -> Floats:
    """values / scaling_factor + shift_factor: inverse of `to_model_space`."""
    latent: Floats = (values.astype(np.float64) / scaling_factor + shift_factor).astype(np.float32)
    return latent
