"""What ends a run before its length: Ctrl-C, `kill`, and the wall time that a machine is there for.

Owns: the handlers of SIGINT and SIGTERM while a run lasts, the clock of the lease. Does not know: what is saved.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
import types
from collections.abc import Iterator
from typing import Protocol

from cvcodec.system import host

_LEAST_RESERVE = 3.0  # seconds that saving takes at least


class Flag(Protocol):
    """What says that a run is to stop; a `threading.Event` does."""

    def is_set(self) -> bool: ...


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
    """A flag that the first SIGINT or SIGTERM sets, so that the step at hand is finished and its state saved; a second
    one does what it did before."""
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


class Lease:
    """The wall time that this process may take, its start included; without a limit it never ends."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() - host.process_age() + 60 * minutes if minutes else math.inf
        self._begun = time.monotonic()
        self._reserve = _LEAST_RESERVE

    def begin(self) -> None:
        """Training starts now: `share` counts from here."""
        self._begun = time.monotonic()

    def keep(self, seconds: float) -> None:
        """What comes after the last step takes so long."""
        self._reserve = max(self._reserve, 1.3 * seconds)

    @property
    def over(self) -> bool:
        """Whether no step should begin any more."""
        return time.monotonic() >= self._end - self._reserve

    @property
    def share(self) -> float:
        """Of the time for training, what has passed."""
        now = time.monotonic()
        return (now - self._begun) / max(1e-9, self._end - self._reserve - self._begun) if now < self._end else 1.0
