"""What a terminal would obey is written out; what people write is left alone."""

import unicodedata

import pytest

from cvcodec.system.printable import printable


@pytest.mark.parametrize(
    "text",
    [
        "",
        "clip.mp4",
        "Ünïcödé – 映画 – فيلم",
        "می\u200cخواهم",
        "👩\u200d👩\u200d👧 🇩🇪 ❤\ufe0f",
        "a\u00a0b \\x1b",
        "e\u0301",
    ],
)
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\r\nb\tc\x7f", r"a\r\nb\tc\x7f"),
        ("photo\u202egnp.exe", r"photo\u202egnp.exe"),
        ("\u2066a\u2069\u200f\u061c", r"\u2066a\u2069\u200f\u061c"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("\ufeff\u00ad\U000e0041", r"\ufeff\xad\U000e0041"),
        ("latin-1 \udce9", r"latin-1 \udce9"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_every_control_and_every_mark_of_direction_is_written_out() -> None:
    for code in range(0x110000):
        character = chr(code)
        obeyed = unicodedata.category(character) == "Cc" or unicodedata.bidirectional(character) in (
            *("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"),
        )
        if obeyed:
            assert printable(character) != character
            assert printable(character).isascii()
        assert printable(character).isprintable() or unicodedata.category(character) in ("Zs", "Co", "Cn", "Cf")
