"""A few hundred of the damaged files that `fuzz` makes."""

from tests.bitstream.fuzz import fuzz


def test_damaged_files_are_clean_errors_or_the_same_symbols_within_bounded_memory():
    outcomes = fuzz(400, seed=0, trace_every=5)
    assert sum(outcomes.values()) == 400
    assert outcomes["ChecksumError"] > 20
    assert outcomes["TruncatedError"] > 20
    assert sum(count for name, count in outcomes.items() if name.startswith("forged ")) == 200
