"""The side-by-side picture, pixel by pixel."""

import numpy as np
import pytest

from cvcodec.quality.pictures import GLYPHS, MARGIN, PANEL_MINIMUM, automatic_gain, error_colours, side_by_side, text


def _panels(picture: np.ndarray, width: int, height: int) -> list[np.ndarray]:
    """The three panels without captions and margins."""
    return [picture[-height:, start : start + width] for start in (0, width + MARGIN, 2 * (width + MARGIN))]


def test_panels_hold_the_frames_unchanged_and_the_error_in_place() -> None:
    width, height = 200, 30
    reference = np.random.default_rng(0).integers(0, 250, (height, width, 3)).astype(np.uint8)
    test = reference.copy()
    test[7, 9] += 4
    left, right, error = _panels(side_by_side(reference, test, gain=8.0), width, height)
    np.testing.assert_array_equal(left, reference)
    np.testing.assert_array_equal(right, test)
    assert np.argwhere(error.any(axis=2)).tolist() == [[7, 9]]
    np.testing.assert_array_equal(error[7, 9], error_colours(np.array([[8 * 4 / 255]]))[0, 0])


def test_small_frames_are_enlarged_by_a_whole_factor() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (5, 50, 3)).astype(np.uint8)
    picture = side_by_side(frame, frame)
    factor = 4
    assert picture.shape[1] == 3 * 50 * factor + 2 * MARGIN
    assert 50 * factor >= PANEL_MINIMUM > 50 * (factor - 1)
    left, _, error = _panels(picture, 50 * factor, 5 * factor)
    np.testing.assert_array_equal(left, frame.repeat(factor, 0).repeat(factor, 1))
    assert not error.any()


def test_code_values_of_each_side_are_shown_by_their_own_white() -> None:
    eight = np.full((10, 200, 3), 255, dtype=np.uint8)
    ten = np.full((10, 200, 3), 1020, dtype=np.uint16)
    left, right, error = _panels(side_by_side(eight, ten, whites=(255, 1020)), 200, 10)
    assert (left == 255).all()
    assert (right == 255).all()
    assert not error.any()


@pytest.mark.parametrize(
    ("level", "gain"), [(1.0, 1.0), (0.6, 1.0), (0.5, 2.0), (0.1, 8.0), (0.001, 64.0), (0.0, 64.0)]
)
def test_the_gain_is_the_power_of_two_that_fills_the_range(level: float, gain: float) -> None:
    assert automatic_gain(np.full((4, 4), level)) == gain


def test_error_colours_grow_brighter_with_the_error() -> None:
    colours = error_colours(np.linspace(0, 1, 64)[None]).astype(int).sum(axis=2)[0]
    assert colours[0] == 0
    assert (np.diff(colours) > 0).all()


def test_every_glyph_is_three_by_five_and_unlike_the_others() -> None:
    assert len(set(GLYPHS.values())) == len(GLYPHS)
    for character, rows in GLYPHS.items():
        assert max(f"{rows:05d}") <= "7", character
    one = text("1")[::2, ::2, 0] > 128
    assert one.astype(int).tolist() == [[0, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0]]


def test_frames_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        side_by_side(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8))
