"""What a stream takes, against the entropy of the law its values are drawn from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cvcodec.bitstream import entropy
from cvcodec.bitstream.wire import Cursor

_COUNT = 60_000


@pytest.mark.parametrize("share", [0.03, 0.2, 0.35, 0.39, 0.5, 0.7, 0.9, 0.98])
def test_geometric_values_take_little_more_than_their_entropy(share: float) -> None:
    values = (np.random.default_rng(7).geometric(share, _COUNT) - 1).astype(np.int32)
    stored = entropy.put_stream(values)
    np.testing.assert_array_equal(entropy.take_stream(Cursor(stored, "stream"), _COUNT), values)
    bits = (-(1 - share) * math.log2(1 - share) - share * math.log2(share)) / share  # the closed form
    assert len(stored) < 1.05 * _COUNT * bits / 8 + 64


def test_a_constant_takes_next_to_nothing() -> None:
    assert len(entropy.put_stream(np.full(_COUNT, 3, np.int32))) < 32
