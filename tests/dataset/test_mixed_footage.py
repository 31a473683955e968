"""Footage of many shapes to a data set that trains: one command, killed once, read by any number of workers and
processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from cvcodec.dataset import BucketSampler, LatentDataset, read_index
from tests.codec.clips import smooth, write_rgb

SHAPES = {"wide": ((64, 36), (90, 56)), "tall": ((36, 64), (40, 72)), "square": ((32, 32), (50, 48))}
"""Sizes of sources by the bucket that they belong to."""
BUCKETS = {"wide": "64x32", "tall": "32x64", "square": "32x32"}
RATES = (Fraction(12), Fraction(25), Fraction(30000, 1001))


def make_footage(folder: Path, count: int) -> dict[str, str]:
    """`count` clips of three shapes and rates, every seventh a still, with captions beside some, and one that is no
    video. The bucket of each by its output."""
    wanted = {}
    folder.mkdir()
    for number in range(count):
        shape = list(SHAPES)[number % 3]
        width, height = SHAPES[shape][number % 2]
        name = f"{shape} {number:03d}"
        if number % 7 == 6:
            pixels = smooth(1, height, width)[0].tobytes()
            (folder / f"{name}.ppm").write_bytes(b"P6 %d %d 255\n" % (width, height) + pixels)
        else:
            pictures = smooth(9 + number % 5, height, width)
            write_rgb(str(folder / f"{name}.mkv"), pictures, container="matroska", rate=RATES[number // 3 % 3])
        (folder / f"{name}.txt").write_text(f"{shape}, the {number}th\n")
        wanted[f"{name}.cvl"] = BUCKETS[shape]
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(500))
    return wanted


@pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_mixed_footage_becomes_a_data_set_in_buckets_by_one_command(weights: Path, tmp_path: Path) -> None:
    wanted, out = make_footage(tmp_path / "footage", 28), tmp_path / "out"
    command = [sys.executable, "-m", "cvcodec", "batch", str(tmp_path / "footage"), "--out", str(out)]
    command += ["--buckets", ",".join(BUCKETS.values()), "--latents", "fp16", "--weights", str(weights)]
    command += ["--device", "cpu", "--precision", "fp32", "--threads", "1", "--retries", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if b'"encoded"' in line)
        process.send_signal(signal.SIGKILL)
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 1, "one is no video"
    outcomes = Counter(json.loads(line)["status"] for line in result.stdout.splitlines())
    assert outcomes["failed"] == 1
    assert outcomes["skipped"] >= 1
    (failure,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    assert failure["path"] == "broken.cvl"
    assert {record["path"]: record["bucket"] for record in read_index(out)} == wanted

    for workers in (0, 2, 4):
        data = LatentDataset(out, latents=[1, 3], columns=["caption"])
        seen: Counter[str] = Counter()
        for rank in range(2):
            sampler = BucketSampler(data, 4, rank=rank, world_size=2)
            batches = list(DataLoader(data, batch_sampler=sampler, num_workers=workers))
            assert len(batches) == len(sampler)
            for batch in batches:
                seen.update(batch["path"])
                assert batch["caption"] == [f"{path[:-8]}, the {int(path[-7:-4])}th" for path in batch["path"]]
                _check_shape(batch, wanted)
        assert seen == Counter(wanted.keys()), "every clip once"


def _check_shape(batch: dict[str, Any], buckets: dict[str, str]) -> None:
    """Latents of the very bucket, of a still one and of a video three: nothing is padded."""
    (bucket,) = {buckets[path] for path in batch["path"]}
    width, height = map(int, bucket.split("x"))
    count, channels, length, rows, columns = batch["latents"].shape
    stills = {int(path[-7:-4]) % 7 == 6 for path in batch["path"]}
    assert (count, channels, rows, columns) == (len(batch["path"]), 4, height // 8, width // 8)
    assert [length == 1] == list(stills)
    assert np.isfinite(batch["latents"].numpy()).all()
