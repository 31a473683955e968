"""Quantiser: error bounds in exact rational arithmetic, survival of symbols, identical bits."""

import hashlib
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvcodec.quantization import SYMBOL_LIMIT, LatentStatistics, Quantizer

steps_strategy = st.floats(2.0**-20, 2.0**20, width=32)
offsets_strategy = st.floats(-1024.0, 1024.0, width=32)


def quantizer(step: float, offset: float) -> Quantizer:
    return Quantizer(np.array([step], np.float32), np.array([offset], np.float32))


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, -1, 1, 1)


@given(steps_strategy, offsets_strategy, st.floats(-1, 1), st.integers(0, 20))
def test_error_is_at_most_half_a_step_and_the_rounding_of_float32(step, offset, fraction, power):
    latent = np.float32(offset + fraction * step * 2.0**power)
    coder = quantizer(step, offset)
    if abs(Fraction(float(latent)) - Fraction(offset)) > Fraction(step) * SYMBOL_LIMIT:
        return
    back = coder.dequantize(coder.quantize(column(latent))).item()
    rounding = 2 * Fraction(max(abs(back), abs(float(latent)), abs(offset))) * Fraction(1, 2**23)
    assert abs(Fraction(back) - Fraction(float(latent))) <= Fraction(step) / 2 + rounding


@given(steps_strategy, st.lists(st.integers(-SYMBOL_LIMIT, SYMBOL_LIMIT), min_size=1, max_size=20))
def test_every_symbol_survives_dequantising_and_quantising_again(step, symbols):
    coder = quantizer(step, 0.0)
    array = np.array(symbols, np.int32).reshape(1, -1, 1, 1)
    np.testing.assert_array_equal(coder.quantize(coder.dequantize(array)), array)


@given(steps_strategy, offsets_strategy, st.integers(-SYMBOL_LIMIT, SYMBOL_LIMIT))
def test_dequantising_is_two_separately_rounded_float32_operations(step, offset, symbol):
    def to_float32(value: Fraction) -> float:
        # Python's int / int division rounds correctly to double, struct rounds that to float32. A product of two 24-bit
        # numbers is exact in double; for a sum of two the second rounding of double then float32 is innocuous.
        return struct.unpack("<f", struct.pack("<f", value.numerator / value.denominator))[0]

    product = to_float32(Fraction(symbol) * Fraction(step))
    wanted = to_float32(Fraction(product) + Fraction(offset))
    got = quantizer(step, offset).dequantize(np.array(symbol, np.int32).reshape(1, 1, 1, 1)).item()
    assert struct.pack("<f", got) == struct.pack("<f", wanted) or got == wanted == 0


def test_dequantised_bits_never_change():
    symbols = (np.arange(-300, 300, dtype=np.int32) ** 3 % 2017 - 1000).reshape(2, 3, 10, 10)
    coder = Quantizer(np.array([0.1, 1 / 3], np.float32), np.array([0.7, -12.345], np.float32))
    digest = hashlib.sha256(coder.dequantize(symbols).astype("<f4").tobytes()).hexdigest()
    assert digest == "d56f1cd905ca39b896586b7b1e1ba6691088ba3c4f655cf58bff4ac1caa1c3d5"


def test_ties_go_to_the_even_symbol():
    symbols = quantizer(1.0, 0.0).quantize(column(0.5, 1.5, 2.5, -0.5, -1.5))
    assert symbols.reshape(-1).tolist() == [0, 2, 2, 0, -2]


def test_ten_points_of_quality_double_the_precision():
    statistics = LatentStatistics((0.5, 0.0), (2.0, 3.0), (1.0, 4.0))
    assert Quantizer.from_statistics(statistics, 50).steps.tolist() == [1.0, 4.0]
    assert Quantizer.from_statistics(statistics, 60).steps.tolist() == [0.5, 2.0]
    assert Quantizer.from_statistics(statistics, 0).steps.tolist() == [32.0, 128.0]
    assert Quantizer.from_statistics(statistics, 100).steps.tolist() == [1 / 32, 1 / 8]
    assert Quantizer.from_statistics(statistics, 100).offsets.tolist() == [0.5, 0.0]


def test_unit_step_defaults_to_the_standard_deviation_and_json_keeps_every_bit():
    statistics = LatentStatistics((0.1, -1e-9), (2.5, 1 / 3))
    assert statistics.unit_step == (2.5, 1 / 3)
    assert LatentStatistics.from_dict(statistics.to_dict()) == statistics


@pytest.mark.parametrize("quality", [-0.1, 100.1, float("nan"), float("inf")])
def test_quality_outside_its_range_is_refused(quality):
    with pytest.raises(ValueError, match="quality"):
        Quantizer.from_statistics(LatentStatistics((0.0,), (1.0,)), quality)


@pytest.mark.parametrize("latent", [np.nan, np.inf, -np.inf])
def test_a_latent_that_is_not_finite_is_refused(latent):
    with pytest.raises(ValueError, match="NaN"):
        quantizer(1.0, 0.0).quantize(column(latent))


def test_a_symbol_beyond_the_limit_is_refused_and_not_clipped():
    coder = quantizer(1.0, 0.0)
    assert coder.quantize(column(SYMBOL_LIMIT)).item() == SYMBOL_LIMIT
    with pytest.raises(ValueError, match="lower the quality"):
        coder.quantize(column(SYMBOL_LIMIT + 1))
    for symbol in (SYMBOL_LIMIT + 1, -SYMBOL_LIMIT - 1, np.iinfo(np.int32).min):
        with pytest.raises(ValueError, match="legal"):
            coder.dequantize(np.array(symbol, np.int32).reshape(1, 1, 1, 1))


@pytest.mark.parametrize("step", [0.0, -1.0, np.nan, np.inf, 1e-30, 1e30])
def test_an_impossible_step_is_refused(step):
    with pytest.raises(ValueError):
        quantizer(step, 0.0)


@pytest.mark.parametrize(
    ("mean", "std", "unit_step"),
    [((), (), ()), ((0.0,), (1.0, 2.0), ()), ((0.0,), (0.0,), ()), ((np.nan,), (1.0,), ()), ((0.0,), (1.0,), (-1.0,))],
)
def test_impossible_statistics_are_refused(mean, std, unit_step):
    with pytest.raises(ValueError):
        LatentStatistics(mean, std, unit_step)


def test_wrong_shapes_and_types_are_refused():
    coder = quantizer(1.0, 0.0)
    with pytest.raises(ValueError, match="wanted"):
        coder.quantize(np.zeros((2, 1, 1, 1), np.float32))
    with pytest.raises(ValueError, match="integers"):
        coder.dequantize(np.zeros((1, 1, 1, 1), np.float32))
