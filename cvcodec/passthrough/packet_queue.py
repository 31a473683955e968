"""Packets that wait for their time: one queue per stream, in bounded memory.

Owns: the order in which packets of several streams leave, and where many of them lie meanwhile.
"""

from __future__ import annotations

import marshal
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import IO

from cvcodec.passthrough.streams import CopiedPacket

_IN_MEMORY = 64 << 20
_OBJECTS = 512  # bytes that the objects of a packet take, and of each of its side data

_Entry = tuple[Fraction, CopiedPacket]
"""When it is due, and the packet."""


class PacketQueue:
    """Packets come in any order of streams, those of one stream in order, and leave when they are due.

    limit: bytes of packets to keep in memory; more go to a temporary file. Safe between threads.
    """

    def __init__(self, limit: int = _IN_MEMORY) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._queues: dict[int, deque[_Entry | int]] = {}  # an int: where in the file it is
        self._held = 0
        self._file: IO[bytes] | None = None
        self._in_file = 0

    def put(self, packet: CopiedPacket, due: Fraction) -> None:
        """Add a packet that is due at so many seconds."""
        with self._lock:
            size = _size(packet)
            waiting: _Entry | int = (due, packet)
            if self._held + size > self._limit:
                waiting = self._spill((due, packet))
            else:
                self._held += size
            self._queues.setdefault(packet.stream, deque()).append(waiting)

    def take(self, before: Fraction | None) -> Iterator[tuple[CopiedPacket, Fraction]]:
        """Remove what is due before `before`, or all, in the order of time; each stream stops at its first later one.
        Gives packets, and when they were due."""
        while True:
            with self._lock:
                heads = [(self._head(queue)[0], stream) for stream, queue in self._queues.items() if queue]
                if not heads or (before is not None and min(heads)[0] >= before):
                    return
                queue = self._queues[min(heads)[1]]
                due, packet = self._head(queue)
                queue.popleft()
                self._held -= _size(packet)
            yield packet, due

    def clear(self) -> None:
        """Forget all that waits, what is in the temporary file too."""
        with self._lock:
            self._queues.clear()
            self._held = 0
            self._close_file()

    def _head(self, queue: deque[_Entry | int]) -> _Entry:
        """The first entry, which is in memory afterwards."""
        entry = queue[0]
        if isinstance(entry, int):
            entry = queue[0] = self._fetch(entry)
            self._held += _size(entry[1])
        return entry

    def _spill(self, entry: _Entry) -> int:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        offset = self._file.seek(0, 2)
        due, packet = entry
        marshal.dump((due.numerator, due.denominator, *packet), self._file)
        self._in_file += 1
        return offset

    def _fetch(self, offset: int) -> _Entry:
        assert self._file is not None
        self._file.seek(offset)
        numerator, denominator, *fields = marshal.load(self._file)
        self._in_file -= 1
        if not self._in_file:
            self._close_file()
        return Fraction(numerator, denominator), CopiedPacket(*fields)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._in_file = None, 0


def _size(packet: CopiedPacket) -> int:
    """Bytes of memory, about."""
    return _OBJECTS + len(packet.data) + sum(_OBJECTS + len(content) for _, content in packet.side_data)
