"""Runs on a machine that is there for a short while: the limit of wall time, states in pieces, another device's run."""

from __future__ import annotations

import itertools
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cvcodec.checkpoints.checkpoint import load_checkpoint
from cvcodec.errors import CheckpointError, UsageError
from cvcodec.system import host
from cvcodec.training import run_folder, trainer
from cvcodec.training.run_folder import load_state, save_state
from cvcodec.training.stop import Lease
from cvcodec.training.trainer import Trainer

from .test_trainer import StopAfter, events, run, same, settings


def test_the_age_of_a_process_grows_with_the_clock() -> None:
    before, began = host.process_age(), time.monotonic()
    assert 0 <= before < 24 * 3600
    time.sleep(0.2)
    assert host.process_age() - before == pytest.approx(time.monotonic() - began, abs=0.05)


def test_a_lease_counts_from_the_processs_start_and_keeps_time_for_what_comes_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(host, "process_age", lambda: 20.0)
    lease = Lease(2.0)  # ends at 1000 - 20 + 120
    now[0] = 1010.0
    lease.begin()
    lease.keep(10.0)  # 13 s are kept
    now[0] = 1010 + (1100 - 13 - 1010) / 4
    assert lease.share == pytest.approx(0.25)
    assert not lease.over
    now[0] = 1087.1
    assert lease.over
    assert not Lease(0.0).over


def test_a_lease_that_ends_leaves_weights_and_a_run_that_goes_on(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([False] * 3)
    monkeypatch.setattr(Lease, "over", property(lambda self: next(left, True)))
    config = settings(media, tmp_path, steps=100, max_minutes=1.0, regularization="none")
    result = run("video-vae", config)
    assert (result.finished, result.interrupted, result.step) == (False, False, 3)
    assert load_checkpoint(tmp_path / "model.safetensors").card["steps"] == 3
    monkeypatch.undo()
    resumed = run("video-vae", settings(media, tmp_path, steps=5, regularization="none", resume=True))
    assert (resumed.finished, resumed.step) == (True, 5)


def test_without_a_length_the_lease_is_the_schedule(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = itertools.count()
    train_on = Trainer._train_on
    monkeypatch.setattr(Trainer, "_train_on", lambda *given: (next(steps), train_on(*given))[1])
    monkeypatch.setattr(Lease, "share", property(lambda self: int(repr(steps)[6:-1]) / 4))
    result = run("video-vae", settings(media, tmp_path, steps=0, max_minutes=10.0, regularization="none"))
    assert (result.finished, result.step) == (True, 4)
    assert [line["progress"] for line in events(tmp_path, "train")] == [0.0, 0.25, 0.5, 0.75]
    with pytest.raises(UsageError, match="length of the run"):
        settings(media, tmp_path, steps=0)


@pytest.mark.parametrize("form", ["exact", "half"])
def test_a_run_goes_on_from_pieces(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(run_folder, "PIECE_BYTES", 20_000)
    changes: dict[str, Any] = {"regularization": "none", "state_pieces": form, "batches": ("1x5x32",)}
    changes |= {"adversarial_weight": 0.1, "discriminator_width": 32, "widths": (8, 16, 64), "validate_first": False}
    whole = run("video-vae", settings(media, tmp_path / "whole", **changes))
    loop = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self, event: loop(self, StopAfter(2)))
    run("video-vae", settings(media, tmp_path / "parts", **changes))
    monkeypatch.setattr(Trainer, "run", loop)
    folder = tmp_path / "parts" / "pieces"
    cut = [path for path in folder.iterdir() if path.suffix != ".json"]
    assert len(cut) > 5
    assert max(path.stat().st_size for path in cut) == 20_000
    assert not (tmp_path / "parts" / "state.pt").exists()
    shutil.copytree(folder, tmp_path / "elsewhere" / "pieces")
    resumed = run("video-vae", settings(media, tmp_path / "elsewhere", **changes, resume=True))
    assert (resumed.finished, resumed.step) == (True, 4)
    assert not any("changed since" in note["text"] for note in events(tmp_path / "elsewhere", "note"))
    one, other = load_state(tmp_path / "whole"), load_state(tmp_path / "elsewhere")
    if form == "exact":
        assert same(one["model"], other["model"])
        assert same(one["optimizers"], other["optimizers"])
        assert resumed.validation == whole.validation
    else:
        assert other["model"]["decoder.conv_in.weight"].dtype == torch.float16
        for name, tensor in one["model"].items():
            torch.testing.assert_close(tensor, other["model"][name], atol=5e-3, rtol=5e-2, msg=name)
        assert resumed.validation["psnr_db"] == pytest.approx(whole.validation["psnr_db"], abs=0.1)


def test_pieces_join_to_what_was_cut_and_damage_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "PIECE_BYTES", 10)
    files = {"a.bin": bytes(range(35)), "empty": b"", "b.bin": b"x" * 10}
    run_folder.cut_into_pieces(tmp_path, {"old": b"y" * 25}, "0001")
    run_folder.cut_into_pieces(tmp_path, files, "0002")
    names = sorted(path.name for path in (tmp_path / "pieces").iterdir())
    assert names == [*(f"a.bin.0002.{number:02d}" for number in range(4)), "b.bin.0002.00", "pieces.json"]
    assert run_folder.join_pieces(tmp_path) == files
    assert {path.name: path.read_bytes() for path in run_folder.write_joined(tmp_path)} == files
    (tmp_path / "pieces" / "a.bin.0002.02").write_bytes(b"0123456789")
    with pytest.raises(CheckpointError, match=r"a\.bin\.0002\.02 is damaged"):
        run_folder.join_pieces(tmp_path)
    (tmp_path / "pieces" / "a.bin.0002.02").unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        run_folder.join_pieces(tmp_path)
    with pytest.raises(CheckpointError, match="nothing to join"):
        run_folder.write_joined(tmp_path / "nowhere")
    save_state(tmp_path, {"step": 3})
    assert load_state(tmp_path)["step"] == 3, "a whole state replaces pieces"


def test_a_busy_device_takes_more_clips_which_a_resumed_run_keeps(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def factor(step: Any, device: torch.device) -> tuple[int, dict[int, float]]:
        step(2)
        asked.append(2)
        return 2, {1: 1.0, 2: 1.9}

    monkeypatch.setattr(trainer, "busy_factor", factor)
    changes: dict[str, Any] = {"regularization": "none", "validate_first": False, "fill_device": True}
    run("video-vae", settings(media, tmp_path, steps=1, **changes))
    run("video-vae", settings(media, tmp_path, steps=2, **changes, resume=True))
    assert asked == [2], "the factor is part of the state"
    sizes = [line["mpixel_per_s"] * line["seconds"] for line in events(tmp_path, "train")]
    assert sizes == pytest.approx([2 * 2 * 5 * 32 * 32 / 1e6] * 2, rel=1e-3)
