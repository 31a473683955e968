"""Deterministic pictures for tests: what the reference numbers in tests/metrics were computed from."""

import numpy as np
from numpy.typing import NDArray


def pattern(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Waves plus noise, (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [127.5 + 60 * np.sin(x / (5.0 + c) + seed) + 50 * np.cos(y / (7.0 + c) - seed) for c in range(3)]
    noise = rng.integers(-12, 13, size=(height, width, 3))
    return np.clip(np.rint(np.stack(planes, -1) + noise), 0, 255).astype(np.uint8)


def degraded(image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Less contrast, more noise."""
    rng = np.random.default_rng(seed + 1000)
    noise = rng.integers(-25, 26, size=image.shape)
    return np.clip(image.astype(np.int64) * 9 // 10 + 10 + noise, 0, 255).astype(np.uint8)
