"""PyAV's rough edges, in one place: fractions, one-line error texts, log capture."""

import gc
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av
import av.error
import av.logging

# PyAV hands FFmpeg's messages to Python loggers under this name; people see our errors and notices instead.
logging.getLogger("libav").addHandler(logging.NullHandler())


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


class _LogListeners:
    """Has FFmpeg's messages sent to Python while somebody listens, and only then.

    The level is the process's, not the thread's: two threads that each put back what they found would leave it as
    one of them had set it. And a message must wait for the GIL: a codec's thread that has something to say while the
    GIL's owner waits for that thread to end would wait for ever (see `park`).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._levels: list[int] = []
        self._before: int | None = None

    def add(self, level: int) -> None:
        with self._lock:
            if not self._levels:
                self._before = av.logging.get_level()
            self._levels.append(level)
            self._set()

    def remove(self, level: int) -> None:
        with self._lock:
            self._levels.remove(level)
            self._set()

    def _set(self) -> None:
        if self._levels:
            av.logging.set_level(max(*self._levels, -1 if self._before is None else self._before))
        else:
            av.logging.set_level(self._before)

    def _begin_anew(self) -> None:
        """In a forked child: other threads that were listening, or held the lock, are not there."""
        self._lock = threading.Lock()
        if self._levels:
            self._levels.clear()
            self._set()


_listeners = _LogListeners()


@contextmanager
def captured_log(level: int = av.logging.ERROR) -> Iterator[Callable[[], list[str]]]:
    """Collect what FFmpeg logs in this thread at `level` or worse while the block runs; a call gives the lines yet."""
    _listeners.add(level)
    try:
        with av.logging.Capture() as logs:
            yield lambda: [" ".join(text.split()) for at, _, text in logs if at <= level and text.strip()]
    finally:
        _listeners.remove(level)


def park(context: Any) -> None:
    """Let the threads of a decoder come to rest, without the GIL, before it is freed; it has no frames left then.

    PyAV frees codecs with the GIL held, and FFmpeg waits for their threads then. One of them that logs at that moment
    needs the GIL (while anybody listens: `captured_log`), and both would wait for ever.
    """
    if context is not None and context.is_open:
        context.flush_buffers()


_forking = threading.Lock()  # one fork at a time: each finds the collector as it was, and leaves it so
_collects = True


def _before_fork() -> None:
    global _collects
    _forking.acquire()
    _collects = gc.isenabled()
    gc.disable()


def _after_fork_in_parent() -> None:
    if _collects:
        gc.enable()
    _forking.release()


def _after_fork_in_child() -> None:
    gc.freeze()
    _listeners._begin_anew()
    _after_fork_in_parent()


# A container and its streams refer to each other, so that codecs of closed files wait for the garbage collector. In a
# process that was forked meanwhile, such as a worker of a data loader, it would free them there, and wait for ever for
# the codecs' threads, which a fork does not copy. What was inherited is never collected in the child instead; nor on
# the way there, while other modules do what they have to do after a fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
