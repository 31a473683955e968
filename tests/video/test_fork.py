"""Workers that are forked after a video was read or written neither hang nor disturb anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import gc, os, sys
from fractions import Fraction
import numpy as np
from cvcodec.video import Frame, VideoReader, VideoWriter

gc.disable()  # so that what is no longer used surely waits for the collector when the fork comes
with VideoWriter(sys.argv[1], width=64, height=64, time_base=Fraction(1, 25), codec="libx264") as writer:
    for pts in range(64):
        pixels = np.random.default_rng(pts).integers(0, 255, (64, 64, 3), np.uint8)
        writer.write(Frame(pixels=pixels, pts=pts, duration=1, bit_depth=8))


def look() -> None:
    frames = iter(VideoReader(sys.argv[1], threads=4))
    for _ in range(5):
        next(frames)


look()  # and forget it without closing it
child = os.fork()
if not child:
    gc.collect()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_worker_does_not_wait_for_threads_of_codecs_that_it_does_not_have(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "x.mp4")]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            assert process.wait(60) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
