"""Names and guesses against the tables of ITU-T H.273 and the size rule."""

import struct
from fractions import Fraction

import pytest

from cvcodec.video.color import Color, ContentLight, MasteringDisplay, guess_matrix


@pytest.mark.parametrize(
    ("width", "height", "matrix"),
    [(1920, 1080, "bt709"), (1280, 720, "bt709"), (1024, 768, "bt709"), (720, 576, "bt470bg"), (720, 480, "smpte170m"),
     (640, 360, "smpte170m"), (3840, 2160, "bt709")],
)  # fmt: skip
def test_the_size_rule_takes_709_for_hd_and_601_below(width: int, height: int, matrix: str) -> None:
    assert guess_matrix(width, height) == matrix


def test_2020_is_taken_only_where_it_is_signalled() -> None:
    assert guess_matrix(3840, 2160) == "bt709"
    assert guess_matrix(640, 360, primaries="bt2020") == "bt2020nc"
    assert guess_matrix(640, 360, transfer="smpte2084") == "bt2020nc"


def test_signalled_values_are_kept_and_not_called_guessed() -> None:
    color = Color.resolve(9, 1, 9, 16, width=64, height=64, is_rgb=False, is_full=False)
    assert color == Color("bt2020nc", "limited", "bt2020", "smpte2084", guessed=False)


def test_unsignalled_values_are_guessed_and_said_to_be() -> None:
    assert Color.resolve(2, 0, 2, 2, width=720, height=576, is_rgb=False, is_full=False) == Color(
        "bt470bg", "limited", None, None, guessed=True
    )
    assert Color.resolve(2, 0, 2, 2, width=720, height=576, is_rgb=True, is_full=False) == Color("rgb", "full")


def test_white_is_at_the_top_of_full_range_and_at_the_shifted_255_of_limited_range() -> None:
    assert [Color("bt709", "limited").white_code(n) for n in (8, 10, 12)] == [255, 1020, 4080]
    assert [Color("bt709", "full").white_code(n) for n in (8, 10, 12)] == [255, 1023, 4095]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="matrix"):
        Color("bt708")


def test_descriptions_survive_their_json_form() -> None:
    color = Color("bt2020nc", "limited", "bt2020", "arib-std-b67", guessed=True)
    display = MasteringDisplay((Fraction(17, 25), Fraction(8, 25)), None, None, None, Fraction(1, 200), Fraction(1000))
    assert Color(**color.to_dict()) == color
    assert MasteringDisplay.from_dict(display.to_dict()) == display
    assert ContentLight.from_dict(ContentLight(1000, 400).to_dict()) == ContentLight(1000, 400)


def test_side_data_of_a_wrong_size_is_no_metadata() -> None:
    assert MasteringDisplay.from_side_data(b"1234") is None
    assert ContentLight.from_side_data(b"") is None
    assert ContentLight.from_side_data(struct.pack("2I", 0, 0)) is None
