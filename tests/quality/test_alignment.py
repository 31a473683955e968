"""Matching frames in time."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvcodec.quality.compare import Aligned
from cvcodec.video.frame import Frame

PIXELS = np.zeros((1, 1, 3), dtype=np.uint8)


def _frames(pts: list[int]) -> Iterator[Frame]:
    return (Frame(PIXELS, p) for p in pts)


def _match(
    reference: list[int], test: list[int], bases: tuple[Fraction, Fraction], by: str = "pts"
) -> tuple[list[tuple[int, int]], int, int]:
    aligned = Aligned(_frames(reference), _frames(test), reference_time_base=bases[0], test_time_base=bases[1], by=by)
    pairs = [(pair.reference.pts, pair.test.pts) for pair in aligned]
    return pairs, aligned.unmatched_reference, aligned.unmatched_test


SAME = (Fraction(1, 25), Fraction(1, 25))


def test_frames_missing_on_either_side_are_counted_and_the_rest_stay_in_step() -> None:
    assert _match([0, 1, 2, 4, 5], [1, 2, 3, 4, 6, 7], SAME) == ([(1, 1), (2, 2), (4, 4)], 2, 3)


def test_with_one_time_base_a_tick_apart_is_another_moment() -> None:
    assert _match([0, 2, 4], [1, 3, 5], SAME) == ([], 3, 3)


def test_milliseconds_match_the_exact_times_they_were_rounded_from() -> None:
    count = 300
    exact = [1001 * i for i in range(count)]
    rounded = [round(Fraction(1001 * i, 24000) * 1000) for i in range(count)]
    pairs, missing, extra = _match(exact, rounded, (Fraction(1, 24000), Fraction(1, 1000)))
    assert pairs == list(zip(exact, rounded, strict=True))
    assert (missing, extra) == (0, 0)


def test_the_nearest_of_two_candidates_wins() -> None:
    # 1/10 s and 1/1000 s: both 960 ms and 1000 ms are within half a tick of 1 s
    assert _match([10], [960, 1000], (Fraction(1, 10), Fraction(1, 1000))) == ([(10, 1000)], 0, 1)
    assert _match([960, 1000], [10], (Fraction(1, 1000), Fraction(1, 10))) == ([(1000, 10)], 1, 0)


def test_a_late_start_is_removed_only_on_request() -> None:
    late = [p + 3 for p in (0, 1, 2)]
    assert _match([0, 1, 2], late, SAME) == ([], 3, 3)
    assert _match([0, 1, 2], late, SAME, by="start") == ([(0, 3), (1, 4), (2, 5)], 0, 0)


def test_no_more_than_two_frames_of_a_side_are_read_ahead() -> None:
    read = 0

    def counted() -> Iterator[Frame]:
        nonlocal read
        for p in range(100):
            read += 1
            yield Frame(PIXELS, p)

    bases = (Fraction(1, 25), Fraction(1, 50))
    pairs = iter(
        Aligned(counted(), _frames([2 * p for p in range(100)]), reference_time_base=bases[0], test_time_base=bases[1])
    )
    for done in range(1, 6):
        next(pairs)
        assert read <= done + 2


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown alignment"):
        Aligned([], [], reference_time_base=Fraction(1), test_time_base=Fraction(1), by="index")
    with pytest.raises(ValueError, match="positive"):
        Aligned([], [], reference_time_base=Fraction(0), test_time_base=Fraction(1))


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_exact_times_match_as_sets_do(reference: set[int], test: set[int]) -> None:
    pairs, missing, extra = _match(sorted(reference), sorted(test), SAME)
    assert [left for left, _ in pairs] == sorted(reference & test)
    assert (missing, extra) == (len(reference - test), len(test - reference))
