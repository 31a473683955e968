"""Ctrl-C and `kill` during a run: note them, so that the step at hand is finished and its state saved.

Owns: the handlers of SIGINT and SIGTERM while a run lasts. Does not know: what is saved.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import types
from collections.abc import Iterator
from typing import Protocol


class Flag(Protocol):
    """What says that a run is to stop; a `threading.Event` does."""

    def is_set(self) -> bool:
        """Whether it is."""


class _Noted:
    """As `threading.Event`, whose lock a signal that comes while another one is being noted would wait for for ever."""

    def __init__(self) -> None:
        self._noted = False

    def set(self) -> None:
        self._noted = True

    def is_set(self) -> bool:
        return self._noted


@contextlib.contextmanager
def interruption() -> Iterator[Flag]:
    """A flag that the first SIGINT or SIGTERM sets; a second one does what it did before."""
    event = _Noted()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: types.FrameType | None) -> None:
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
