"""Symbols chosen by rate and distortion, against plain rounding."""

import numpy as np
import pytest

from cvcodec.bitstream.entropy import encode_symbols
from cvcodec.bitstream.rate_distortion import choose_symbols
from cvcodec.quantization import Quantizer


def drifting_latent(seed: int = 0) -> np.ndarray:
    """(4, 6, 16, 20) float32: smooth structure that moves slowly, and noise of half a step."""
    rng = np.random.default_rng(seed)
    t, y, x = np.mgrid[0:6, 0:16, 0:20].astype(np.float32)
    waves = [4 * np.sin((x + t) / (3 + c) + c) * np.cos(y / 5) for c in range(4)]
    return (np.stack(waves) + rng.normal(0, 0.5, (4, 6, 16, 20))).astype(np.float32)


QUANTIZER = Quantizer(np.array([1, 0.5, 2, 1], np.float32), np.array([0, 0.25, -1, 0], np.float32))


def test_without_strength_the_symbols_are_the_nearest():
    latent = drifting_latent()
    np.testing.assert_array_equal(choose_symbols(latent, QUANTIZER, time=0), QUANTIZER.quantize(latent))


def test_a_chosen_symbol_is_at_most_one_from_the_nearest():
    latent = drifting_latent()
    chosen = choose_symbols(latent, QUANTIZER, time=0.5, space=0.5)
    assert chosen.dtype == np.int32
    assert np.abs(chosen - QUANTIZER.quantize(latent)).max() == 1


def test_at_equal_size_the_chosen_symbols_lose_less_than_rounding():
    latent = drifting_latent()

    def curve(strength: float) -> tuple[list[float], list[float]]:
        sizes, losses = [], []
        for scale in (0.8, 1.1, 1.6, 2.2):
            quantizer = Quantizer(QUANTIZER.steps * np.float32(scale), QUANTIZER.offsets)
            symbols = choose_symbols(latent, quantizer, time=strength, space=strength)
            error = (quantizer.dequantize(symbols) - latent) / QUANTIZER.steps[:, None, None, None]
            sizes.append(len(encode_symbols(symbols)))
            losses.append(float(np.log(np.mean(error**2))))
        return sizes[::-1], losses[::-1]

    plain, chosen = curve(0.0), curve(0.12)
    at = np.linspace(max(plain[0][0], chosen[0][0]), min(plain[0][-1], chosen[0][-1]), 9)
    assert np.all(np.interp(at, *chosen) < np.interp(at, *plain) - 0.07)  # 0.3 dB


def test_the_choice_saves_what_a_still_scene_costs_in_every_frame():
    rng = np.random.default_rng(1)
    still = rng.normal(0, 3, (2, 1, 32, 32)) + rng.normal(0, 0.2, (2, 8, 32, 32))
    quantizer = Quantizer(np.ones(2, np.float32), np.zeros(2, np.float32))
    latent = still.astype(np.float32)
    plain, chosen = quantizer.quantize(latent), choose_symbols(latent, quantizer)
    assert len(encode_symbols(chosen)) < 0.75 * len(encode_symbols(plain))
    np.testing.assert_array_equal(chosen[:, 0], plain[:, 0])


def test_what_is_not_predicted_from_the_latent_before_keeps_the_nearest_symbols():
    latent = np.random.default_rng(2).normal(0, 3, (2, 5, 16, 16)).astype(np.float32)
    quantizer = Quantizer(np.ones(2, np.float32), np.zeros(2, np.float32))
    np.testing.assert_array_equal(choose_symbols(latent, quantizer), quantizer.quantize(latent))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 1, 1, 5), (2, 4, 3, 1)])
def test_the_smallest_latents_work(shape):
    latent = np.linspace(-3, 3, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    quantizer = Quantizer(np.ones(shape[0], np.float32), np.zeros(shape[0], np.float32))
    assert np.abs(choose_symbols(latent, quantizer) - latent).max() <= 1.5


@pytest.mark.parametrize("latent", [np.nan, np.inf, 1e9])
def test_what_the_quantizer_refuses_is_refused(latent):
    with pytest.raises(ValueError):
        choose_symbols(np.full((4, 1, 2, 2), latent, np.float32), QUANTIZER)


@pytest.mark.parametrize("strength", [-1.0, np.nan, np.inf])
def test_an_impossible_strength_is_refused(strength):
    with pytest.raises(ValueError, match="strength"):
        choose_symbols(drifting_latent(), QUANTIZER, time=strength)
