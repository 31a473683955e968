"""FFmpeg's log and threads: nobody waits for the GIL for ever, and the log is left as it was found."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av.logging
import numpy as np
import pytest

from cvcodec.video import Frame, VideoReader, VideoWriter
from cvcodec.video.libav import captured_log

# What PyAV does with messages of a codec's threads while anybody listens, here all the time.
DAMAGED = """
import gc, sys
import av
from cvcodec.video import VideoReader

av.logging.set_level(av.logging.ERROR)
for closed in [False, True] * 15:
    reader = VideoReader(sys.argv[1], threads=4)
    frames = iter(reader)
    for _ in range(3):
        next(frames)
    if closed:
        reader.close()
    del reader, frames
    gc.collect()
"""


def noise(path: Path, frames: int, side: int) -> None:
    with VideoWriter(path, width=side, height=side, time_base=Fraction(1, 25), codec="libx264", crf=10) as writer:
        for pts in range(frames):
            pixels = np.random.default_rng(pts).integers(0, 256, (side, side, 3), np.uint8)
            writer.write(Frame(pixels=pixels, pts=pts, duration=1, bit_depth=8))


def test_a_reader_of_damage_that_is_given_up_does_not_wait_for_its_threads_messages(tmp_path: Path) -> None:
    noise(tmp_path / "a.mkv", frames=30, side=560)
    data = bytearray((tmp_path / "a.mkv").read_bytes())
    generator = np.random.default_rng(0)
    for start in range(5000, len(data) - 100, 3000):
        data[start : start + 40] = generator.bytes(40)
    (tmp_path / "a.mkv").write_bytes(data)
    command = [sys.executable, "-c", DAMAGED, str(tmp_path / "a.mkv")]
    subprocess.run(command, check=True, timeout=120, stderr=subprocess.DEVNULL)  # libav's loggers print there


def test_listeners_in_several_threads_leave_the_log_as_it_was() -> None:
    before = av.logging.get_level()
    inside, leave = threading.Event(), threading.Event()

    def listen() -> None:
        with captured_log(av.logging.INFO):
            inside.set()
            leave.wait(60)

    other = threading.Thread(target=listen)
    with captured_log() as log:
        other.start()
        assert inside.wait(60)
        assert av.logging.get_level() == av.logging.INFO
        av.logging.log(av.logging.INFO, "test", "of no interest here")
        av.logging.log(av.logging.ERROR, "test", "of  interest\n")
        assert log() == ["of interest"]
    leave.set()
    other.join(60)
    assert av.logging.get_level() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_does_not_inherit_listeners() -> None:
    with captured_log():
        child = os.fork()
        if not child:
            os._exit(av.logging.get_level() is not None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forks_in_many_threads_leave_the_collector_on() -> None:
    def fork() -> None:
        for _ in range(10):
            child = os.fork()
            if not child:
                os._exit(not gc.isenabled())
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(fork) for _ in range(4)]:
            done.result(60)
    assert gc.isenabled()


def test_opening_files_in_many_threads_leaves_the_log_off(tmp_path: Path) -> None:
    noise(tmp_path / "a.mkv", frames=9, side=64)

    def look() -> None:
        for _ in range(20):
            with VideoReader(tmp_path / "a.mkv", threads=2) as reader:
                next(iter(reader))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert av.logging.get_level() is None
