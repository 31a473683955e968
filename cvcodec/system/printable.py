"""Text of strangers as a terminal may show it. Owns: which characters are shown, and what stands for the others.

File names, tags, headers and model cards come from anywhere. A terminal obeys some characters instead of showing them:
it moves the cursor, changes its title, copies to the clipboard, turns the direction of a line around.
"""

from __future__ import annotations

import unicodedata

_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories: controls (C0, C1, DEL), format (direction of writing, invisible marks, tags), surrogates, line ends."""

_JOINERS = {"\u200c", "\u200d"}
"""Format characters that words and emoji are written with; they do nothing beyond their neighbours."""


def printable(text: str) -> str:
    r"""`text` with what would be obeyed written as in Python's strings (`\x1b`, `\u202e`, `\n`)."""
    if text.isprintable():
        return text
    return "".join(character if _is_shown(character) else _escaped(character) for character in text)


def _is_shown(character: str) -> bool:
    return unicodedata.category(character) not in _OBEYED or character in _JOINERS


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
