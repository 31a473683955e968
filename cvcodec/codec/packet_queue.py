"""Packets that wait for their time: one queue per stream, in bounded memory.

Owns: the order in which packets of several streams leave, and where the bytes of many of them lie meanwhile.
Does not know: containers, records, threads beyond its own lock.
"""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import IO

from cvcodec.copied import CopiedPacket

_IN_MEMORY = 32 << 20


class PacketQueue:
    """Packets come in any order of streams, those of one stream in order, and leave when they are due.

    limit: bytes of packet data to keep in memory; more go to a temporary file. Safe between threads.
    """

    def __init__(self, limit: int = _IN_MEMORY) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._queues: dict[int, deque[tuple[Fraction, CopiedPacket, int | None]]] = {}
        self._held = 0
        self._file: IO[bytes] | None = None
        self._in_file = 0

    def put(self, packet: CopiedPacket, due: Fraction) -> None:
        """Add a packet that is due at so many seconds."""
        with self._lock:
            offset = None
            if self._held + len(packet.data) > self._limit and packet.data:
                offset = self._spill(packet.data)
            else:
                self._held += len(packet.data)
            size = len(packet.data)
            entry = packet if offset is None else packet._replace(data=size.to_bytes(8, "little"))
            self._queues.setdefault(packet.stream, deque()).append((due, entry, offset))

    def take(self, before: Fraction | None) -> Iterator[tuple[CopiedPacket, Fraction]]:
        """Remove what is due before `before`, or all, in the order of time; each stream stops at its first later one.
        Gives packets, and when they were due."""
        while True:
            with self._lock:
                heads = [(queue[0][0], stream) for stream, queue in self._queues.items() if queue]
                if not heads or (before is not None and min(heads)[0] >= before):
                    return
                due, packet, offset = self._queues[min(heads)[1]].popleft()
                if offset is None:
                    self._held -= len(packet.data)
                else:
                    packet = packet._replace(data=self._fetch(offset, int.from_bytes(packet.data, "little")))
            yield packet, due

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._queues.clear()
            self._held = 0
            self._close_file()

    def _spill(self, data: bytes) -> int:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        offset = self._file.seek(0, 2)
        self._file.write(data)
        self._in_file += 1
        return offset

    def _fetch(self, offset: int, size: int) -> bytes:
        assert self._file is not None
        self._file.seek(offset)
        data = self._file.read(size)
        self._in_file -= 1
        if not self._in_file:
            self._close_file()
        return data

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._in_file = None, 0
