"""PyAV's rough edges, in one place: fractions, one-line error texts, log capture. Knows no streams and no pixels."""

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av
import av.error
import av.logging

# PyAV hands FFmpeg's messages to Python loggers under this name; people see our errors and notices instead.
logging.getLogger("libav").addHandler(logging.NullHandler())

# A container and its streams refer to each other, so that codecs of closed files wait for the garbage collector. In a
# process that was forked meanwhile, such as a worker of a data loader, it would free them there, and wait for ever for
# the codecs' threads, which a fork does not copy. What was inherited is never collected in the child instead.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=gc.freeze)


def as_fraction(value: Any) -> Fraction | None:
    """PyAV's rationals (`Fraction` before version 19, `AVRational` from it) as `Fraction`; None for 0/x and None."""
    if value is None or not value.numerator or not value.denominator:
        return None
    return Fraction(value.numerator, value.denominator)


def reason(error: BaseException) -> str:
    """The cause of a PyAV or system error as one short clause, without error numbers and file names."""
    if isinstance(error, av.error.FFmpegError):
        text = str(error.strerror or type(error).__name__)
    elif isinstance(error, OSError):
        text = error.strerror or str(error) or type(error).__name__
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")


@contextmanager
def captured_log(level: int = av.logging.ERROR) -> Iterator[list[str]]:
    """Collect FFmpeg's log lines of this thread at `level` or worse while the block runs; the list fills as it goes."""
    lines: list[str] = []
    before = av.logging.get_level()
    av.logging.set_level(level)
    try:
        with av.logging.Capture() as logs:
            try:
                yield lines
            finally:
                lines.extend(" ".join(text.split()) for _, _, text in logs if text.strip())
    finally:
        av.logging.set_level(before)
