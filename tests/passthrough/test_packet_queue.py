"""Packets leave when they are due, whatever lies in memory and whatever in the file."""

from __future__ import annotations

import random
import tracemalloc
from fractions import Fraction

import pytest

from cvcodec.passthrough.packet_queue import PacketQueue
from cvcodec.passthrough.streams import CopiedPacket


def packet(stream: int, pts: int, size: int = 10) -> CopiedPacket:
    return CopiedPacket(stream, pts, pts, 1, True, False, (), bytes([pts % 256]) * size)


@pytest.mark.parametrize("limit", [0, 3000, 1 << 20])
def test_every_packet_leaves_once_in_the_order_of_time(limit: int) -> None:
    queue = PacketQueue(limit)
    order = random.Random(0)
    wanted = []
    for stream in range(3):
        for pts in sorted(order.sample(range(500), 60)):
            wanted.append((Fraction(pts, 7), stream, packet(stream, pts, order.randrange(30))))
            queue.put(wanted[-1][2], wanted[-1][0])
    taken = []
    for limit_time in (Fraction(10), Fraction(10), Fraction(500, 13), None):
        part = list(queue.take(limit_time))
        assert all(limit_time is None or due < limit_time for _, due in part)
        taken += part
    assert [(due, item.stream, item) for item, due in taken] == sorted(wanted, key=lambda entry: entry[:2])
    assert list(queue.take(None)) == []


def test_memory_is_bounded_and_the_file_goes_when_it_is_empty() -> None:
    queue = PacketQueue(10_000)
    for pts in range(100):
        queue.put(packet(0, pts, 100), Fraction(pts))
    assert queue._held <= 10_000
    assert queue._file is not None
    assert [item for item, _ in queue.take(None)] == [packet(0, pts, 100) for pts in range(100)]
    assert queue._file is None
    queue.put(packet(0, 1, 5000), Fraction(1))
    queue.clear()
    assert list(queue.take(None)) == []
    assert queue._file is None


def test_a_stream_whose_head_is_late_does_not_hold_up_others() -> None:
    queue = PacketQueue()
    queue.put(packet(0, 100), Fraction(100))
    queue.put(packet(1, 1), Fraction(1))
    assert [item.stream for item, _ in queue.take(Fraction(50))] == [1]


def test_packets_of_no_bytes_take_memory_too_and_come_back_as_they_were() -> None:
    queue = PacketQueue(100_000)
    made = [
        packet(0, pts, 0)._replace(dts=None, side_data=(("skip_samples", bytes(10)), ("palette", b""))[: pts % 3])
        for pts in range(20_000)
    ]
    tracemalloc.start()
    try:
        for item in made:
            queue.put(item, Fraction(item.pts or 0, 3))
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()
    assert list(queue.take(None)) == [(item, Fraction(item.pts or 0, 3)) for item in made]
