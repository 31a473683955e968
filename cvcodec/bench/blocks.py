"""Blocks of a text that a measurement fills in: what stands between `<!-- NAME -->` and `<!-- /NAME -->`."""

from __future__ import annotations

from pathlib import Path

from cvcodec.errors import UsageError
from cvcodec.fileio import atomic_output


def check_block(path: Path | None, name: str) -> None:
    """UsageError unless `update_block` can do its work; for the beginning of a run that takes long. None: nothing."""
    if path is not None:
        replace_block(_read(path), name, "")


def update_block(path: Path | None, name: str, content: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->` in a text file. UsageError without these.

    Does nothing for None.
    """
    if path is None:
        return
    after = replace_block(_read(path), name, content)
    with atomic_output(path, overwrite=True) as file:
        file.write(after.encode())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be updated: {error.strerror or error}") from error


def replace_block(text: str, name: str, content: str) -> str:
    """`text` with everything between `<!-- NAME -->` and `<!-- /NAME -->` replaced. UsageError where these are not."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < text.index(begin):
        raise UsageError(f"the file has no block to replace: it wants one line {begin} and, below it, {end}")
    head, tail = text.index(begin) + len(begin), text.index(end)
    return f"{text[:head]}\n{content.strip()}\n{text[tail:]}"
