"""`python benchmarks/speed.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import harness
import speed
from cvcodec.model.mini import mini_config
from cvcodec.windows.plan import choose_plan

SMALL = ["--device", "cpu", "--precision", "fp32", "--repeats", "1"]


def test_json_lines_tell_the_machine_and_one_case_each(
    tiny_weights: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--models", tiny_weights, "--size", "32x24,40x40", "--frames", "9", "--json", *SMALL]
    assert speed.main(arguments) == 0
    machine, *cases = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert machine["machine"]["device"] == "cpu"
    assert [(case["width"], case["height"], case["frames"]) for case in cases] == [(32, 24, 9), (40, 40, 9)]
    for case in cases:
        speeds = [value for key, value in case.items() if key.endswith("mpixel_per_s")]
        assert len(speeds) == 4 and all(value > 0 for value in speeds)
        assert (
            case["encode_overhead"] > 0 and case["decode_overhead"] > 0
        )  # the model's seconds are among the command's


def test_a_clip_of_ones_own_is_measured_at_its_size(
    tiny_weights: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    harness.write_clip(tmp_path / "own.mp4", 34, 26, 6)
    assert speed.main(["--models", tiny_weights, "--clip", str(tmp_path / "own.mp4"), *SMALL]) == 0
    shown = capsys.readouterr()
    assert "6x34x26" in shown.out  # all its frames, as it has fewer than the default
    assert "threads" in shown.out


def test_a_model_call_is_timed_on_what_the_codec_gives_the_model() -> None:
    config = mini_config(
        4, widths=(8, 8, 8), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), window_latents=4, tile_latents=24
    )
    model = harness.random_model(config, "small")
    seen: list[tuple[int, ...]] = []

    def encode(clip: Tensor) -> Tensor:
        seen.append(tuple(clip.shape))
        return torch.zeros(1, 4, (clip.shape[2] - 1) // 4 + 1, clip.shape[3] // 8, clip.shape[4] // 8)

    plan = choose_plan(config, height=190, width=260)
    list(plan.encode(encode, [torch.zeros(1, 3, 61, 190, 260, dtype=torch.uint8)]))
    assert tuple(speed._one_window(model, 260, 190, 61).shape) == max(seen)


def test_an_unknown_model_is_an_error_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main(["--models", "no-such-model"]) == 3
    assert "no-such-model" in capsys.readouterr().err
