"""Compiled networks against the same ones as they are, giving up on compiling, and the probe for busy batches."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cvcodec.training import acceleration
from cvcodec.training.acceleration import Compiler, busy_factor

from .test_trainer import events, run, settings

CPU = torch.device("cpu")


def test_compiled_networks_train_as_those_that_are_not(
    media: Path, image_vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceleration, "_BACKEND", "aot_eager")  # traced forwards and backwards, needs no C++ compiler
    torch._dynamo.reset()
    changes: dict[str, Any] = {"image_vae": str(image_vae), "encoder_blocks": (), "decoder_blocks": (), "steps": 2}
    changes |= {"optimizer": "adamw", "epsilon": 1e-4, "validate_first": False, "batches": ("2x5x16",)}
    for choice in ("no", "yes"):
        run("video-vae", settings(media, tmp_path / choice, compile=choice, **changes))
    plain, compiled = ([line["loss"] for line in events(tmp_path / choice, "train")] for choice in ("no", "yes"))
    assert plain == pytest.approx(compiled, rel=1e-3)
    notes = [line["text"] for line in events(tmp_path / "yes", "note")]
    assert any(note.startswith("compiled for 2x5x16 in") for note in notes)


def test_a_compiler_that_fails_is_given_up_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: nn.Module, **options: object) -> None:
        def call(*inputs: object) -> None:
            raise ImportError("no Triton here")

        module._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", broken)
    said: list[str] = []
    module = nn.Linear(2, 2)
    compiler = Compiler(said.append, enabled=True)
    compiler.compile([module], retains_graph=False)
    for _ in range(2):
        compiler.rehearse(lambda: module(torch.zeros(1, 2)), "a batch")
    assert said == ["not compiled, as that failed (ImportError: no Triton here); training goes on without it"]
    assert module(torch.zeros(1, 2)).shape == (1, 2)


def test_the_smallest_batch_near_the_best_throughput_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def step(factor: int) -> None:
        now[0] += max(1.0, factor / 6)  # busy from six times the clips on

    factor, speeds = busy_factor(step, CPU)
    assert factor == 8
    assert speeds[8] == pytest.approx(6.0)
    assert max(speeds) == 16


def test_the_probe_ends_where_memory_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "_TIMED", 1)
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def step(factor: int) -> None:
        now[0] += 1.0
        if factor > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert busy_factor(step, CPU)[0] == 4
    with pytest.raises(torch.OutOfMemoryError):
        busy_factor(lambda factor: step(8), CPU)
