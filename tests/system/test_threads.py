"""Threads beside the model: order, back-pressure, exceptions that arrive, and leaving in time."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from cvcodec.system import threads
from cvcodec.system.threads import ReadAhead, WriteBehind, in_thread


class Broken(Exception):
    """Raised by sources and sinks here."""


def test_items_arrive_in_order_and_the_source_is_at_most_the_limit_ahead() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in range(30):
            made.append(number)
            yield number

    with ReadAhead(source(), limit=4) as ahead:
        taken = []
        for number in ahead:
            taken.append(number)
            time.sleep(0.002)
            assert len(made) <= number + 1 + 4 + 2  # in the queue, in the thread's hand, being made
    assert taken == list(range(30))


def test_an_exception_of_the_source_arrives_after_the_items_before_it() -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise Broken

    taken = []
    with pytest.raises(Broken), ReadAhead(source(), limit=2) as ahead:
        for number in ahead:
            taken.append(number)
    assert taken == list(range(5))


def test_leaving_early_stops_the_source() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        while True:
            made.append(len(made))
            yield made[-1]

    with ReadAhead(source(), limit=2) as ahead:
        assert next(iter(ahead)) == 0
    assert not ahead.stuck
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count <= 5


def test_a_source_that_never_answers_does_not_hold_up_its_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_PATIENCE_S", 0.1)
    answer = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        answer.wait(300)

    with pytest.raises(KeyboardInterrupt), ReadAhead(source(), limit=2) as ahead:
        next(iter(ahead))
        raise KeyboardInterrupt
    assert ahead.stuck  # left while it waits
    answer.set()


def test_everything_is_consumed_in_order_before_finish_returns() -> None:
    consumed: list[int] = []

    def consume(number: int) -> None:
        time.sleep(0.002)
        consumed.append(number)

    with WriteBehind(consume, limit=3) as behind:
        for number in range(20):
            behind.put(number)
            assert number - len(consumed) <= 3 + 2
        behind.finish()
        assert consumed == list(range(20))


def test_an_exception_of_the_sink_reaches_the_producer_and_nothing_more_is_consumed() -> None:
    consumed: list[int] = []

    def consume(number: int) -> None:
        if number == 3:
            raise Broken
        consumed.append(number)

    with pytest.raises(Broken), WriteBehind(consume, limit=2) as behind:
        for number in range(1000):
            behind.put(number)
        behind.finish()
    assert consumed == [0, 1, 2]


def test_an_exception_of_the_producer_drops_what_waits() -> None:
    consumed: list[int] = []

    def consume(number: int) -> None:
        time.sleep(0.05)
        consumed.append(number)

    with pytest.raises(Broken), WriteBehind(consume, limit=8) as behind:
        for number in range(8):
            behind.put(number)
        raise Broken
    assert len(consumed) <= 2
    assert not behind.stuck


def test_a_sink_that_never_answers_does_not_hold_up_its_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_PATIENCE_S", 0.1)
    answer = threading.Event()
    for limit in (1, 8):  # with a full queue, and with room in it
        with pytest.raises(KeyboardInterrupt), WriteBehind(lambda item: answer.wait(300), limit=limit) as behind:
            behind.put(1)
            time.sleep(0.05)
            behind.put(2)
            raise KeyboardInterrupt
        assert behind.stuck
    answer.set()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="wakes one thread by a signal")
def test_a_sink_that_works_while_an_interrupt_ends_the_wait_for_it_is_not_taken_for_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "_PATIENCE_S", 0.1)
    answer = threading.Event()
    interrupt = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), WriteBehind(lambda item: answer.wait(300), limit=2) as behind:
        behind.put(1)
        interrupt.start()
        behind.finish()
    assert behind.stuck
    answer.set()


def test_a_call_in_a_thread_gives_its_result_or_raises_its_exception() -> None:
    assert in_thread(threading.current_thread, name="worker").name == "worker"

    def fail() -> None:
        raise Broken

    with pytest.raises(Broken):
        in_thread(fail, name="worker")


def test_closing_wakes_a_thread_that_waits_for_the_next_item() -> None:
    silent, got = threading.Event(), []

    def source() -> Iterator[int]:
        yield 1
        silent.wait(10)

    ahead = ReadAhead(source(), limit=2)
    consumer = threading.Thread(target=lambda: got.extend(ahead), daemon=True)
    consumer.start()
    ahead.close()
    consumer.join(5)
    silent.set()
    assert not consumer.is_alive() and got == [1]
