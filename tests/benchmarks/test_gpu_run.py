"""`benchmarks/gpu_run.py`, the whole script on a CPU with tiny models: its parts, its limits, its results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cvcodec.checkpoints.checkpoint import load_checkpoint
from cvcodec.training.run_folder import write_joined

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_run.py"


def run(*words: object, environment: dict[str, str] | None = None) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, words)],
        capture_output=True, text=True, timeout=900, env={**os.environ, **(environment or {})},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())  # type: ignore[no-any-return]


def test_speeds_and_a_training_are_measured_and_its_weights_come_in_pieces(tmp_path: Path) -> None:
    words = ("--tiny", "--device", "cpu", "--minutes", 30, "--output", tmp_path, "--parts", "speed,train")
    code, text = run(*words, "--", "--no-validation-lpips", "--precision", "fp32")
    assert code == 0, text
    parts = results(tmp_path)["parts"]
    rows = [row for row in parts["speed"]["rows"] if "kind" in row]
    assert {(row["kind"], row["model"]) for row in rows} == {
        ("windows", "tiny"), ("command", "tiny"), ("windows", "cvvae-random"), ("windows", "cvvae-sd3-random"),
    }  # fmt: skip
    assert all(row["encode_mpixel_per_s"] > 0 and row["decode_mpixel_per_s"] > 0 for row in rows), rows
    log = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert log[-1] == {"event": "end", "step": 3, "minutes": log[-1]["minutes"], "finished": True}
    written = {path.name for path in write_joined(tmp_path)}
    assert written == {"state.pt", "model.safetensors", "config.toml"}
    assert load_checkpoint(tmp_path / "model.safetensors").card["steps"] == 3


def test_a_part_that_fails_does_not_stop_the_next_and_what_is_missing_is_looked_for(tmp_path: Path) -> None:
    words = ("--tiny", "--device", "cuda:77", "--minutes", 30, "--output", tmp_path, "--parts", "speed,train")
    code, _ = run(*words, "--data", tmp_path / "nowhere")
    assert code == 1
    parts = results(tmp_path)["parts"]
    assert parts["speed"]["exit_code"] not in (0, None)
    assert parts["train"]["exit_code"] not in (0, None)
    assert any("cuda:77" in line for line in parts["train"]["tail"])
