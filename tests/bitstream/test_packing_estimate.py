"""The estimate that ranks codings, against Huffman's algorithm itself."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from cvcodec.bitstream import packing


def _optimal_bits(plane: np.ndarray) -> int:
    """Length of `plane` under Huffman's code: the sum of all joined weights (Huffman 1952)."""
    heap = [int(count) for count in np.bincount(plane) if count]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heap[0]
        heapq.heapreplace(heap, joined)
        total += joined
    return total


@pytest.mark.parametrize("share", [0.03, 0.2, 0.35, 0.39, 0.5, 0.7, 0.9, 0.98])
@pytest.mark.parametrize(("base", "digits"), packing.BASES)
def test_the_estimate_is_within_four_per_cent_of_an_optimal_prefix_code(share: float, base: int, digits: int) -> None:
    values = (np.random.default_rng(7).geometric(share, 5000) - 1).clip(max=300).astype(np.int32)
    plane, _ = packing._digits(values, base, digits)
    table = packing.STREAM_BITS + 4.0 * len(np.unique(plane))
    assert packing._huffman_bits(plane) - table == pytest.approx(_optimal_bits(plane), rel=0.04)


def test_a_plane_of_one_value_costs_a_stream_and_nothing_else() -> None:
    assert packing._huffman_bits(np.full(1000, 3, np.uint8)) == packing.STREAM_BITS
