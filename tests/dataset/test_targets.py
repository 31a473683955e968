"""Every target against the numbers of the specification's section 6, written down here once more."""

from __future__ import annotations

import numpy as np
import pytest

from cvcodec.dataset.targets import TARGETS
from cvcodec.errors import InputError, ModelMismatchError

# name: channels, factor, shift, the shape that a clip of t latents has
WANTED = {
    "sd21": (4, 0.18215, 0.0, lambda t, c, h, w: (t, c, h, w)),
    "svd": (4, 0.18215, 0.0, lambda t, c, h, w: (1, t, c, h, w)),
    "videocrafter2": (4, 0.18215, 0.0, lambda t, c, h, w: (1, c, t, h, w)),
    "sd3": (16, 1.5305, 0.0609, lambda t, c, h, w: (t, c, h, w)),
    "raw": (7, 1.0, 0.0, lambda t, c, h, w: (1, c, t, h, w)),
}


def latent(channels: int, t: int = 5) -> np.ndarray:
    return np.random.default_rng(channels).normal(0, 4, (channels, t, 3, 2)).astype(np.float32)


def test_no_target_is_unknown_to_these_tests() -> None:
    assert set(TARGETS) == set(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_factor_shift_and_axes_are_those_of_the_specification(name: str) -> None:
    channels, factor, shift, shape = WANTED[name]
    stored = latent(channels)
    arranged = TARGETS[name].arrange(stored)
    assert arranged.dtype == np.float32
    assert arranged.shape == shape(5, channels, 3, 2)
    for t in (0, 3):
        for c in (0, channels - 1):
            place = {"sd21": (t, c), "sd3": (t, c), "svd": (0, t, c)}.get(name, (0, c, t))
            wanted = (stored[c, t].astype(np.float64) - shift) * factor
            np.testing.assert_allclose(arranged[place], wanted, rtol=1e-7)


@pytest.mark.parametrize("name", WANTED)
def test_taking_apart_gives_back_what_was_arranged(name: str) -> None:
    stored = latent(WANTED[name][0])
    (back,) = TARGETS[name].take_apart(TARGETS[name].arrange(stored))
    np.testing.assert_allclose(back, stored, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["svd", "videocrafter2", "raw"])
def test_a_batch_is_taken_apart_into_its_clips(name: str) -> None:
    clips = [latent(4), latent(4) * 2]
    batch = np.concatenate([TARGETS[name].arrange(clip) for clip in clips])
    for back, clip in zip(TARGETS[name].take_apart(batch), clips, strict=True):
        np.testing.assert_allclose(back, clip, rtol=1e-6, atol=1e-7)


def test_a_clip_without_its_batch_axis_is_one_clip() -> None:
    stored = latent(4)
    for name in ("svd", "videocrafter2"):
        (back,) = TARGETS[name].take_apart(TARGETS[name].arrange(stored)[0])
        np.testing.assert_allclose(back, stored, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "shape"), [("svd", (4, 3, 2)), ("sd21", (1, 5, 4, 3, 2)), ("sd3", (5, 4, 3, 2)), ("raw", (1, 0, 2, 2, 2))]
)
def test_other_shapes_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="latents have"):
        TARGETS[name].take_apart(np.zeros(shape, np.float32))


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        TARGETS["sd21"].take_apart(np.full((1, 4, 2, 2), np.nan, np.float32))


def test_a_latent_space_is_known_by_channels_factor_and_shift() -> None:
    sd = {"channels": 4, "scaling_factor": 0.18215, "shift_factor": 0.0}
    sd3 = {"channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}
    for name in ("sd21", "svd", "videocrafter2"):
        TARGETS[name].check(**sd, what="it")
    TARGETS["sd3"].check(**sd3, what="it")
    TARGETS["raw"].check(channels=9, scaling_factor=2.0, shift_factor=1.0, what="it")
    sdxl, flux = {**sd, "scaling_factor": 0.13025}, {"channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159}
    bundled = {"channels": 4, "scaling_factor": 1.0, "shift_factor": 0.0}
    for name, other in (("sd21", sdxl), ("sd3", flux), ("svd", bundled), ("sd3", sd), ("sd21", sd3)):
        with pytest.raises(ModelMismatchError, match=r"another latent space.*train a compatible model"):
            TARGETS[name].check(**other, what="it")
