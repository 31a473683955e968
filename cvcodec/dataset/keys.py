"""Randomness keyed on what is drawn, never on when or where: (seed, purpose, index) gives a generator or a key.

A sample's crops and noise depend on its index alone, so that a resumed run, or the same batch spread over several
processes, sees the same numbers. Numbers for whole tensors come from counters: element n of sample i is a hash of
(key of i, n), computed where the tensor lies, the same on every device.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_LOW_HALF = 0xFFFFFFFF
_MIXERS = (0x7FEB352D, 0x846CA68B)  # of the 32-bit hash "lowbias32" (Wellons, "Prospecting for Hash Functions", 2018)


def numpy_generator(seed: int, purpose: str, index: int, attempt: int = 0) -> np.random.Generator:
    """A NumPy generator of its own for one purpose of one sample or step."""
    return np.random.default_rng(_sequence(seed, purpose, index, attempt))


def epoch_generator(seed: int, epoch: int, *place: int) -> np.random.Generator:
    """The random numbers of a place in an epoch of a data set of latents: up to three numbers name the place; the first
    should tell apart what the numbers are for."""
    # Always as many words: SeedSequence takes missing ones for zeros.
    words = (seed, epoch, *place, *(0,) * (3 - len(place)))
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def torch_generator(seed: int, purpose: str, index: int) -> torch.Generator:
    """A generator of the CPU."""
    generator = torch.Generator()
    generator.manual_seed(int(_sequence(seed, purpose, index, 0).generate_state(1, np.uint64)[0] >> 1))
    return generator


def sample_keys(seed: int, purpose: str, indices: Sequence[int]) -> Tensor:
    """A key for each sample index, (B,) int64 on the CPU, for `uniform` and `normal`."""
    with np.errstate(over="ignore"):  # splitmix64 counts modulo 2**64
        state = np.array([zlib.crc32(purpose.encode()), seed & _LOW_HALF], np.uint64) << np.uint64(32)
        mixed = _splitmix(_splitmix(state[:1]) ^ state[1:])
        keys = _splitmix(mixed ^ np.array(indices, np.uint64))
    return torch.from_numpy(keys.view(np.int64))


def uniform(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, *shape) float32 in [0, 1) on the device of `keys`; at most 2**32 numbers for each key."""
    counter = torch.arange(math.prod(shape), device=keys.device)
    hashed = _mix(counter ^ (keys & _LOW_HALF)[:, None])
    hashed = _mix(hashed.add_((keys >> 32 & _LOW_HALF)[:, None]).bitwise_and_(_LOW_HALF))
    return (hashed >> 8).float().mul_(2.0**-24).view(len(keys), *shape)  # 24 bits are exact in float32


def normal(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, *shape) float32 of the standard normal distribution on the device of `keys` (Box and Muller's transform)."""
    radius, angle = uniform(keys, (2, *shape)).unbind(1)
    return (1 - radius).log_().mul_(-2).sqrt_() * angle.mul(2 * math.pi).cos_()


def _splitmix(x: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """The output function of splitmix64 (Steele, Lea and Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mix(x: Tensor) -> Tensor:
    """A hash of 32-bit numbers held in int64, in place: products wrap, and only their low halves are kept."""
    x ^= x >> 16
    for multiplier, shift in zip(_MIXERS, (15, 16), strict=True):
        x.mul_(multiplier).bitwise_and_(_LOW_HALF)
        x ^= x >> shift
    return x


def _sequence(seed: int, purpose: str, index: int, attempt: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed & 0xFFFFFFFF, zlib.crc32(purpose.encode()), index, attempt])
