"""`python benchmarks/memory.py`, and that the commands' memory does not follow the length of the clip."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import memory
from cvcodec.errors import CvcodecError

pytestmark = pytest.mark.skipif(not hasattr(os, "wait4"), reason="peak memory is read with wait4")

MIB = 1 << 20


def test_the_peak_is_the_programs_own_however_large_its_parent_is() -> None:
    ballast = bytearray(os.urandom(1)) * (100 * MIB)
    small, seconds = memory.peak_memory([sys.executable, "-S", "-c", "pass"])
    large, _ = memory.peak_memory([sys.executable, "-S", "-c", f"b'x' * {200 * MIB}"])
    assert small < 60 * MIB < len(ballast)
    assert 190 * MIB < large - small < 220 * MIB
    assert seconds > 0


def test_a_program_that_fails_is_an_error_with_its_last_words() -> None:
    with pytest.raises(CvcodecError, match="exited with 3: no luck"):
        memory.peak_memory([sys.executable, "-S", "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"])


def test_output_of_the_program_does_not_disturb_the_measurement() -> None:
    peak, _ = memory.peak_memory([sys.executable, "-S", "-c", "print('[0, 1, 2]')"])
    assert peak > MIB


def test_memory_does_not_grow_with_the_length_of_the_clip(
    tiny_weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--size", "64x64", "--seconds", "2,20", "--weights", tiny_weights, "--json"]
    assert memory.main([*arguments, "--", "--threads", "1", "--device", "cpu"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    runs, found = [line for line in lines if "peak_bytes" in line], [line for line in lines if "ratio" in line]
    assert [(run["command"], run["frames"]) for run in runs] == [
        ("encode", 50),
        ("decode", 50),
        ("encode", 500),
        ("decode", 500),
    ]
    assert all(line["ratio"] < 1.1 for line in found) and len(found) == 2


def test_growth_beyond_the_limit_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pretend(folder: Path, *, seconds: float, **_: object) -> list[memory.Run]:
        return [memory.Run("encode", 64, 64, seconds, round(25 * seconds), round(100 * MIB * (1 + seconds / 100)), 1.0)]

    monkeypatch.setattr(memory, "measure", pretend)
    assert memory.main(["--weights", "x", "--seconds", "5,20"]) == 1
    assert "1.143" in capsys.readouterr().out  # 120 / 105
    assert memory.main(["--weights", "x", "--seconds", "5,20", "--limit", "1.2"]) == 0
