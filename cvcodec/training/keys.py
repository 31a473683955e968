"""Randomness keyed on what is drawn, never on when or where: (seed, purpose, index) gives a generator.

A sample's crops and noise depend on its index alone, so that a resumed run, or the same batch spread over several
processes, sees the same numbers.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def numpy_generator(seed: int, purpose: str, index: int, attempt: int = 0) -> np.random.Generator:
    """A NumPy generator of its own for one purpose of one sample or step."""
    return np.random.default_rng(_sequence(seed, purpose, index, attempt))


def torch_generator(seed: int, purpose: str, index: int) -> torch.Generator:
    """A CPU generator: noise is drawn on the CPU so that every device sees the same."""
    generator = torch.Generator()
    generator.manual_seed(int(_sequence(seed, purpose, index, 0).generate_state(1, np.uint64)[0] >> 1))
    return generator


def _sequence(seed: int, purpose: str, index: int, attempt: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed & 0xFFFFFFFF, zlib.crc32(purpose.encode()), index, attempt])
