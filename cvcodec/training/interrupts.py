"""Ctrl-C and `kill` during a run: note them, so that the step at hand is finished and its state saved.

Owns: the handlers of SIGINT and SIGTERM while a run lasts. Does not know: what is saved.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import types
from collections.abc import Iterator


@contextlib.contextmanager
def interruption() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; a second one does what it did before."""
    event = threading.Event()
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
