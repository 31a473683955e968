"""`python benchmarks/borders.py`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import borders
import harness
from cvcodec.checkpoints.registry import load_model
from cvcodec.codec.runner import ModelRunner
from cvcodec.model.mini import mini_config
from cvcodec.windows.plan import OfficialPlan, Plan, choose_plan
from cvcodec.windows.specs import Official, Window


@pytest.fixture(scope="module")
def runner(tiny_weights: str) -> ModelRunner:
    return ModelRunner(load_model(tiny_weights), device="cpu", precision="fp32")


def plan_of(runner: ModelRunner, **changes: object) -> Plan:
    return dataclasses.replace(choose_plan(runner.model.config, height=32, width=32), **changes)  # type: ignore[arg-type]


def test_borders_lie_where_a_window_begins_to_keep() -> None:
    context = choose_plan(mini_config(4), height=64, width=64)  # 16 latents: frames 0-60, 61-124, ...
    assert borders.border_frames(context, 61) == ()
    assert borders.border_frames(context, 150) == (61, 125)
    official = OfficialPlan(4, 8, Official())  # 17 frames, then 16 at a time
    assert borders.border_frames(official, 17) == ()
    assert borders.border_frames(official, 50) == (17, 33, 49)
    assert borders.border_frames(OfficialPlan(4, 8, Official(chunk_frames=None)), 50) == ()


def test_the_default_length_has_the_borders_asked_for_and_no_more() -> None:
    for plan in (choose_plan(mini_config(4), height=64, width=64), OfficialPlan(4, 8, Official())):
        assert len(borders.border_frames(plan, borders.default_frames(plan, 3))) == 3


def made_up(windowed: list[float], firsts: tuple[int, ...], whole: list[float] | None = None) -> borders.Borders:
    return borders.Borders(
        clip="c",
        model="m",
        frames=len(windowed),
        width=8,
        height=8,
        group=2,
        firsts=firsts,
        windowed_db=np.array(windowed),
        whole_db=None if whole is None else np.array(whole),
    )


def test_a_dip_is_what_the_latents_beside_a_border_lack_against_the_next_ones() -> None:
    values = [9.0, 30, 31, 28, 29, 28, 27, 30, 29, 9]  # border before frame 5
    result = made_up(values, (5,), whole=[value + 1 for value in values])
    assert result.dips_db(result.windowed_db) == [pytest.approx((30 + 31 + 30 + 29) / 4 - (28 + 29 + 28 + 27) / 4)]
    assert result.by_place(result.windowed_db, 2) == {-2: 28.0, -1: 29.0, 0: 28.0, 1: 27.0}
    summary = result.summary()
    assert summary["largest_dip_db"] == summary["one_window_mean_dip_db"] == pytest.approx(2.0)
    assert summary["largest_loss_db"] == pytest.approx(1.0)


def test_a_border_without_neighbours_has_no_dip() -> None:
    assert made_up([30.0] * 8, (6,)).dips_db(np.full(8, 30.0)) == []
    assert made_up([30.0] * 8, (6,)).summary()["mean_dip_db"] is None


def test_frame_psnr_is_that_of_the_rounded_pictures(runner: ModelRunner) -> None:
    clip = harness.moving_clip(32, 24, 5)
    values = borders.frame_psnr(clip, 8, runner, plan_of(runner))
    pixels = runner.decode(runner.encode(clip, 8)[:, :4]).numpy().astype(np.float64)
    rounded = np.clip(np.rint((pixels + 1) * 127.5), 0, 255)
    error = ((rounded - clip.numpy()) ** 2).mean(axis=(0, 1, 3, 4))
    np.testing.assert_allclose(values, 10 * np.log10(255**2 / error), atol=0.01)


def test_windows_with_enough_context_lose_nothing_and_without_any_they_do(runner: ModelRunner) -> None:
    clip = harness.moving_clip(32, 32, 45)
    enough = borders.measure(clip, 8, runner, plan_of(runner), name="clip")
    assert enough.firsts == (13, 29, 45)[:2]
    assert enough.losses_db is not None and np.abs(enough.losses_db).max() < 0.01
    none = plan_of(runner, encode_window=Window(4), decode_window=Window(4))
    without = borders.measure(clip, 8, runner, none, name="clip")
    assert without.losses_db is not None and np.abs(without.losses_db[[11, 12, 13, 14]]).max() > 0.01
    assert without.whole_db is not None and enough.whole_db is not None
    np.testing.assert_allclose(without.whole_db, enough.whole_db, atol=0.01)


def test_official_windows_are_measured_too() -> None:
    model = harness.random_model(harness.official_config(width=8), "official")
    official = ModelRunner(model, device="cpu", precision="fp32")
    plan = choose_plan(model.config, height=16, width=16)
    result = borders.measure(harness.moving_clip(16, 16, 25), 8, official, plan, name="clip")
    assert result.firsts == (17,)
    assert len(result.windowed_db) == 25 and np.isfinite(result.windowed_db).all()


def test_clips_are_cropped_to_their_middle(tmp_path: Path) -> None:
    harness.write_clip(tmp_path / "clip.mp4", 48, 32, 3)
    whole, depth = borders.read_clip(tmp_path / "clip.mp4", frames=2, crop=0)
    middle, _ = borders.read_clip(tmp_path / "clip.mp4", frames=9, crop=16)
    assert depth == 8 and whole.shape == (1, 3, 2, 32, 48) and middle.shape == (1, 3, 3, 16, 16)
    assert torch.equal(middle[:, :, :2], whole[..., 8:24, 16:32])


def test_the_program_prints_a_line_for_each_clip_and_refuses_what_has_no_border(
    tiny_weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.write_clip(tmp_path / "long.mp4", 32, 32, 30)
    harness.write_clip(tmp_path / "short.mp4", 32, 32, 9)
    common = ["--weights", tiny_weights, "--device", "cpu"]
    assert borders.main([str(tmp_path / "long.mp4"), "--json", *common]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["clip"], record["frames"], record["borders"]) == ("long.mp4", 30, 2)
    assert set(record["psnr_db_by_place"]) == {str(place) for place in range(-8, 8)}
    assert borders.main([str(tmp_path / "long.mp4"), "--no-whole", *common]) == 0
    assert "with windows" in capsys.readouterr().out
    assert borders.main([str(tmp_path / "short.mp4"), *common]) == 3
    assert "short.mp4: 9 frames are one window" in capsys.readouterr().err
