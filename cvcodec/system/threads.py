"""Threads beside the model: reading ahead of it and writing behind it, with bounded queues.

Owns: hand-over between threads, back-pressure, and carrying exceptions to the thread that waits.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Self, TypeVar

T = TypeVar("T")

_POLL_S = 0.1  # how often a thread that waits for room looks whether it should stop
_PATIENCE_S = 2.0  # how long an interrupted run waits for a thread that is inside a read or write: a pipe may be silent

# Threads here say themselves that they have ended, and nobody joins them: Python before 3.13 takes a thread for ended
# whose `join` was interrupted by a signal, while it goes on.


def in_thread(function: Callable[[], T], *, name: str) -> T:
    """`function()`, computed in a thread of its own while this one waits and can be interrupted.

    For calls that read or write a pipe inside FFmpeg, which loses a KeyboardInterrupt that arrives there. An
    interrupted wait leaves the thread behind.
    """
    results: queue.SimpleQueue[tuple[T] | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((function(),))
        except BaseException as error:  # noqa: BLE001  # raised in the thread that waits
            results.put(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    result = results.get()
    if isinstance(result, BaseException):
        raise result
    return result[0]


class ReadAhead(Generic[T]):
    """Iterates over `source` in a thread of its own, at most `limit` items ahead.

    An exception in `source` is raised to the consumer, after the items before it. `close` (or leaving the context)
    stops the thread, between two items, and waits for it, but not for ever: `stuck` then tells that it is still inside
    `source`, which must not be touched any more.
    """

    def __init__(self, source: Iterable[T], *, limit: int, name: str = "read-ahead") -> None:
        self._queue: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(max(1, limit))
        self._stop = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._run, args=(source,), name=name, daemon=True).start()

    def _run(self, source: Iterable[T]) -> None:
        try:
            for item in source:
                if not self._put((item,)):
                    return
        except BaseException as error:  # noqa: BLE001  # raised in the consumer's thread
            self._put(error)
        else:
            self._put(None)
        finally:
            self._ended.set()

    def _put(self, item: tuple[T] | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item[0]

    def close(self) -> None:
        """Stop reading and wait for the thread."""
        self._stop.set()
        self._ended.wait(_PATIENCE_S)
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)  # for a thread that still waits here for an item

    @property
    def stuck(self) -> bool:
        """Whether the thread did not stop in time."""
        return not self._ended.is_set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class WriteBehind(Generic[T]):
    """Hands items to `consume` in a thread of its own, in order; `put` blocks when `limit` of them wait.

    An exception in `consume` is raised by the next `put`, or by `finish`. Leaving the context without `finish` drops
    what still waits; `stuck` then tells that `consume` did not come back in time, and that what it uses must be left
    alone.
    """

    def __init__(self, consume: Callable[[T], None], *, limit: int, name: str = "write-behind") -> None:
        self._consume = consume
        self._queue: queue.Queue[tuple[T] | None] = queue.Queue(max(1, limit))
        self._error: BaseException | None = None
        self._failed = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            self._consume_all()
        finally:
            self._ended.set()

    def _consume_all(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failed.is_set():
                continue
            try:
                self._consume(item[0])
            except BaseException as error:  # noqa: BLE001  # raised in the producer's thread
                self._error = error
                self._failed.set()

    def put(self, item: T) -> None:
        """Queue one item. Raises what `consume` raised for an earlier one."""
        self._raise()
        self._queue.put((item,))

    def finish(self) -> None:
        """Wait until everything is consumed. Raises what `consume` raised."""
        if not self._ended.is_set():
            self._queue.put(None)
            self._ended.wait()
        self._raise()

    @property
    def stuck(self) -> bool:
        """Whether the thread did not stop in time."""
        return not self._ended.is_set()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._ended.is_set():
            self._failed.set()  # what waits is dropped; after `finish` nothing waits
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=_PATIENCE_S)
                self._ended.wait(_PATIENCE_S)
