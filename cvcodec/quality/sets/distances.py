"""Distances between two clouds of features, in float64.

    Frechet   |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of means and covariances (Heusel et al. 2017, equation 6):
              FID, FVD. Of finite sets it is too large, the more so the fewer samples there are.
    kernel    the unbiased squared MMD for the kernel (x.y / D + 1)^3 (Binkowski et al. 2018, section 3.1): KID, KVD.
              May be negative.

Owns: running means and covariances, samples of bounded size, both formulas. Does not know: networks, files.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_SAMPLES = 10_000
"""Features that a kernel distance keeps of each set; of larger sets a random choice."""

_ROWS = 1024  # of a kernel's matrix at once


class Moments:
    """Mean and covariance of features that come in batches, without keeping them (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """(N, D) of any float type, on any device; D as before."""
        x = features.cpu().double()
        mean = x.mean(dim=0)
        centred = x - mean
        if not self.count:
            self.count, self._mean, self._scatter = len(x), mean, centred.T @ centred
            return
        apart, total = mean - self._mean, self.count + len(x)
        self._scatter += centred.T @ centred + torch.outer(apart, apart) * (self.count * len(x) / total)
        self._mean = self._mean + apart * (len(x) / total)
        self.count = total

    @property
    def size(self) -> int:
        """D, the number of features."""
        return len(self._mean)

    @property
    def mean(self) -> Tensor:
        """(D,) float64."""
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """(D, D) float64, over N - 1. ValueError for less than two samples."""
        if self.count < 2:
            raise ValueError(f"a covariance needs two samples or more, got {self.count}")
        return self._scatter / (self.count - 1)


class Sample:
    """At most `most` of the features that come, each with equal chance, in memory."""

    def __init__(self, seed: int, most: int = MOST_SAMPLES) -> None:
        self._most = most
        self._random = torch.Generator().manual_seed(seed)
        self._rows: list[Tensor] = []
        self._seen = 0

    def add(self, features: Tensor) -> None:
        """(N, D) of any float type, on any device."""
        for row in features.cpu().float():
            self._seen += 1
            if len(self._rows) < self._most:
                self._rows.append(row.clone())
                continue
            place = int(torch.randint(self._seen, (), generator=self._random))
            if place < self._most:
                self._rows[place] = row.clone()

    @property
    def rows(self) -> Tensor:
        """(N, D) float64."""
        return torch.stack(self._rows).double()


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared; also where covariances are singular, as with fewer samples than features.

    tr (C1 C2)^(1/2) is the sum of roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric: no matrix is
    inverted, and what rounding makes of zero is zero again.
    """
    if a.size != b.size:
        raise ValueError(f"features of two sizes: {a.size} and {b.size}")
    first, second = a.covariance, b.covariance
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * _roots(values)) @ vectors.T
    product = root @ second @ root
    shared = _roots(torch.linalg.eigvalsh((product + product.T) / 2)).sum()
    distance = (a.mean - b.mean).square().sum() + first.trace() + second.trace() - 2 * shared
    return max(float(distance), 0.0)


def _roots(eigenvalues: Tensor) -> Tensor:
    """Those of what is zero but for rounding, by the measure of numpy's `matrix_rank`, are zero: a root is large."""
    least = eigenvalues.abs().max() * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    return eigenvalues.where(eigenvalues > least, 0).sqrt()


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Over all pairs of (N, D) and (M, D) float64, N and M at least 2."""
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a kernel distance needs two samples or more, got {len(x)} and {len(y)}")
    within = sum((_kernel_sum(z, z) - float(_kernel(z.square().sum(dim=1), z).sum())) / _pairs(z) for z in (x, y))
    return within - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def _pairs(x: Tensor) -> int:
    return len(x) * (len(x) - 1)


def _kernel(products: Tensor, x: Tensor) -> Tensor:
    return (products / x.shape[1] + 1) ** 3


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    return sum(float(_kernel(part @ y.T, x).sum()) for part in x.split(_ROWS))
