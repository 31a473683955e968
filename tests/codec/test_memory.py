"""Peak memory does not grow with the length of a video."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A short and then a long encode and decode in one process: the peak of the long one must be that of the short one.
# Queues hold 1 MiB of frames instead of 96, so that a short clip fills them too.
PROGRAM = """
import ctypes, json, resource, sys
from fractions import Fraction
import numpy as np
from cvcodec.codec import DecodeOptions, EncodeOptions, WriterOptions, decode_file, encode, encode_file, video_output
from cvcodec.video import Color, Frame, VideoWriter
from tests.codec.models import tiny_mini

encode._AHEAD_BYTES = video_output._BEHIND_BYTES = 1 << 20
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: huge pages count what nobody has used
folder, short, long = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = tiny_mini()
model.latent_space_id, model.name = "0" * 16, "tiny"
canvas = np.random.default_rng(0).integers(0, 256, (64, 128, 3)).astype(np.uint8)
peaks = []
for count in (short, short, long):
    writer = VideoWriter(f"{folder}/in.mkv", width=64, height=64, time_base=Fraction(1, 25), color=Color().for_rgb(),
                         codec="ffv1")
    with writer:
        for number in range(count):
            writer.write(Frame(np.ascontiguousarray(canvas[:, number % 64 : number % 64 + 64]), pts=number))
    options = EncodeOptions(device="cpu", precision="fp32", threads=1)
    encode_file(f"{folder}/in.mkv", f"{folder}/a.cvl", model=model, options=options, overwrite=True)
    options = DecodeOptions(device="cpu", precision="fp32", threads=1, writer=WriterOptions(codec="ffv1", threads=1))
    result = decode_file(f"{folder}/a.cvl", f"{folder}/out.mkv", model=model, options=options, overwrite=True)
    assert result.frames == count
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(json.dumps(peaks))
"""

FRAMES = 64 * 64 * 3  # bytes of one


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is counted in other units elsewhere")
def test_peak_memory_of_a_long_video_is_that_of_a_short_one(tmp_path: Path) -> None:
    short, long = 150, 1500
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(short), str(long)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    _, before, after = (kilobytes * 1024 for kilobytes in json.loads(result.stdout))
    assert after - before < (long - short) * FRAMES  # less than the frames alone take, 8 bits a sample
