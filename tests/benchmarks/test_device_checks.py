"""`python benchmarks/device_checks.py`, every branch of it on the CPU, and that its checks can fail."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import device_checks
import device_speed
import harness
from cvcodec.checkpoints.registry import load_model
from cvcodec.codec.runner import ModelRunner
from cvcodec.errors import DeviceError
from cvcodec.model.mini import MiniAutoencoder
from device_checks import Check, Subject

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def subject(tiny_weights: str) -> Subject:
    return Subject(load_model(tiny_weights), CPU)


class Shifted(ModelRunner):
    """A device that is wrong by a little more than fp32 may be."""

    def decode(self, latent: Tensor) -> Tensor:
        return super().decode(latent) + 2e-4


class Broken(ModelRunner):
    """A device whose encoder raises, as a kernel that is missing does."""

    def encode(self, frames: Tensor, bit_depth: int) -> Tensor:
        raise RuntimeError("no kernel image is available\nfor execution on the device")


def test_without_a_gpu_it_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device_checks.main([]) == DeviceError.exit_code
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and "--device cpu" in shown.err


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    """Exit code, machine, checks."""
    code = device_checks.main(["--device", "cpu", *words])
    machine, *checks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, machine["machine"], checks


def test_on_the_cpu_every_check_runs_and_passes_and_is_a_line(
    tiny_weights: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device_checks, "small_official", functools.partial(device_checks.small_official, width=4))
    code, machine, checks = run(capsys, "--models", tiny_weights, "--precision", "fp32,bf16")
    assert code == 0 and machine["device"] == "cpu"
    assert all(check["passed"] for check in checks)
    names = {(check["model"], check["name"]) for check in checks}
    for model, windows in (
        ("tiny", "encode in tiles as whole"),
        ("cvvae-small-random", "official encode as on the CPU"),
    ):
        assert {
            (model, "encode as on the CPU"),
            (model, "decode as on the CPU"),
            (model, windows),
            (model, "smaller tiles when memory runs out"),
            (model, "a file decodes as on the CPU"),
        } <= names
    assert {check["precision"] for check in checks} == {"fp32", "bf16"}


def test_a_device_that_is_wrong_fails(
    tiny_weights: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device_checks, "FAMILIES", ())
    monkeypatch.setattr(Subject, "runner", lambda self, precision: Shifted(self.model, device=CPU, precision=precision))
    code, _, checks = run(capsys, "--models", tiny_weights, "--precision", "fp32")
    assert code == 1
    assert {check["name"] for check in checks if not check["passed"]} == {"decode as on the CPU"}


def test_speed_and_frames_of_a_clip_through_windows_are_told(tiny_weights: str) -> None:
    row = device_speed.speed(load_model(tiny_weights), CPU, "bf16", width=40, height=32, frames=9)
    assert (row.model, row.precision, row.width, row.height, row.frames) == ("tiny", "bf16", 40, 32, 9)
    assert row.encode_mpixel_per_s is not None and row.encode_mpixel_per_s > 0
    assert row.decode_mpixel_per_s is not None and row.decode_mpixel_per_s > 0


def test_a_check_that_raises_has_failed_and_the_others_still_run(
    tiny_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Subject, "runner", lambda self, precision: Broken(self.model, device=CPU, precision=precision))
    checks = list(device_checks.every_check(load_model(tiny_weights), CPU, ["fp32"]))
    failed = [check for check in checks if not check.passed]
    assert [check.name for check in failed] == ["as on the CPU", "windows and tiles", "memory"]
    assert failed[0].note == "RuntimeError: no kernel image is available"
    assert "a file decodes as on the CPU" in {check.name for check in checks if check.passed}


def test_a_value_that_is_not_a_number_never_passes() -> None:
    for at_least in (True, False):
        check = Check(name="n", model="m", precision="fp32", value=math.nan, limit=1.0, unit="dB", at_least=at_least)
        assert not check.passed


def test_running_out_of_memory_leads_to_smaller_tiles(subject: Subject) -> None:
    check = device_checks.out_of_memory(subject)
    assert check.passed and check.note == "tiles of 16 of 32 latents"


def test_memory_that_never_runs_out_fails_the_check(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_checks, "_MEMORY_SHARES", (1.5,))
    check = device_checks.out_of_memory(subject)
    assert not check.passed and "did not run out" in check.note


def test_the_reach_in_space_covers_what_encoder_and_decoder_see_and_little_more() -> None:
    config = harness.mini_config(4, widths=(8, 8, 8), encoder_blocks=(1, 1, 2), decoder_blocks=(1, 1, 1))
    model = harness.random_model(config, "m")
    assert isinstance(model, MiniAutoencoder)
    reach = device_checks.spatial_reach(config)
    middle = 2 * reach
    sizes = torch.randn(1, 3, 1, 8, 8 * (2 * middle + 1), generator=torch.Generator().manual_seed(0))
    changed = sizes.clone()
    changed[..., 8 * middle : 8 * middle + 8] += 1.0
    with torch.no_grad():
        touched = (model.moments(changed) - model.moments(sizes)).abs().amax((0, 1, 2, 3)).nonzero().flatten()
    assert middle - reach <= int(touched.min()) <= middle - reach + 2
    assert middle + reach - 2 <= int(touched.max()) <= middle + reach

    latent = torch.randn(1, 4, 1, 1, 2 * middle + 1, generator=torch.Generator().manual_seed(0))
    changed = latent.clone()
    changed[..., middle] += 1.0
    with torch.no_grad():
        pixels = (model.decode(changed) - model.decode(latent)).abs().amax((0, 1, 2, 3)).nonzero().flatten() // 8
    assert middle - reach <= int(pixels.min()) and int(pixels.max()) <= middle + reach
