"""`python benchmarks/interpolation.py`: what stands between kept frames, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import harness
import interpolation
from cvcodec.checkpoints.checkpoint import save_checkpoint
from cvcodec.model.mini import mini_config
from tests.quality.sets import scripts

CPU = ["--device", "cpu", "--precision", "fp32"]


class Mean(nn.Module):
    """An interpolator: FILM's signature, and `blend`'s pictures."""

    def forward(self, first: Tensor, second: Tensor, time: Tensor) -> Tensor:
        assert first.size(2) % 64 == 0 and first.size(3) % 64 == 0 and first.max() <= 1
        return first * (1 - time) + second * time


def psnr(x: np.ndarray, y: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((x.astype(np.float64) - y) ** 2)))


def test_interpolators_keep_what_they_are_given_and_minterpolate_follows_motion(tmp_path: Path) -> None:
    clip = np.stack(list(harness.moving_frames(80, 64, 13)))
    script = interpolation.scripted(scripts.save(Mean(), tmp_path / "film.pt"), torch.device("cpu"))
    made = {name: f(clip[::4]) for name, f in (("flow", interpolation.minterpolate), ("blend", interpolation.blend))}
    for pictures in (*made.values(), script(clip[::4])):
        assert pictures.shape == clip.shape and pictures.dtype == np.uint8
        assert np.array_equal(pictures[::4], clip[::4])
    quarter = clip[4].astype(np.float64) * 0.75 + clip[8].astype(np.float64) * 0.25
    assert np.abs(made["blend"][5] - quarter).max() <= 0.5
    assert np.abs(script(clip[::4]).astype(int) - made["blend"]).max() <= 1
    # In step with the source: each frame between is nearer to its own than a blend is.
    for index in (2, 6, 10):
        assert psnr(made["flow"][index], clip[index]) > psnr(made["blend"][index], clip[index]) + 0.5
        others = [psnr(made["flow"][index], clip[other]) for other in range(13)]
        assert int(np.argmax(others)) == index


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for a tiny video model of two layers and a tiny 2D one."""
    folder = tmp_path_factory.mktemp("models")
    options = []
    for name, more in (("video", {"enhancement_channels": 4}), ("image", {})):
        config = mini_config(
            4, video=name == "video", widths=(8, 8, 8), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), **more
        )
        path = folder / f"{name}.safetensors"
        model = harness.random_model(config, name)
        save_checkpoint(path, model, statistics=model.statistics, card={}, dtype=torch.float32)
        options += [f"--{name}", str(path)]
    return options


def test_a_video_model_stands_beside_interpolation_at_as_many_latents(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        harness.write_clip(tmp_path / f"{number}.mp4", 52, 44, 11, seed=number)
    networks = ["--i3d", str(scripts.save(scripts.ClipMeans(), tmp_path / "i3d.pt"))]
    networks += ["--interpolator", str(scripts.save(Mean(), tmp_path / "film.pt"))]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench: interpolation -->\n<!-- /bench: interpolation -->\nafter\n")
    clips = [str(tmp_path / f"{number}.mp4") for number in range(2)]
    arguments = [*clips, *pair, *networks, *CPU, "--side", "44", "--no-lpips", "--json", "--update", str(page)]
    assert interpolation.main(arguments) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    means = {record["method"]: record for record in records if record["clip"] == "mean"}
    assert list(means) == [
        "`image`, minterpolate", "`image`, blend", "`image`, film.pt",
        "`video`", "`image`, all frames",
    ]  # fmt: skip
    assert [record["latents"] for record in means.values()] == [3, 3, 3, 3, 9], "11 frames are cut to 9"
    everything = means["`image`, all frames"]
    for name in ("minterpolate", "blend", "film.pt"):
        # What is kept is the 2D model's own, whatever stands between.
        assert means[f"`image`, {name}"]["psnr_db_kept"] == pytest.approx(everything["psnr_db_kept"], abs=1e-6)
    assert means["`image`, blend"]["psnr_db_between"] != everything["psnr_db_between"]
    assert all(record["fvd"] > 0 and record["clips"] == 2 for record in means.values())
    by_hand = [record["psnr_db"] for record in records if record["method"] == "`image`, blend"]
    assert by_hand[-1] == pytest.approx(np.mean(by_hand[:-1]))
    table = page.read_text()
    assert "before\n" in table and "after\n" in table
    assert f"| `video` | 3 | {means['`video`']['psnr_db']:.2f} dB |" in table
    assert "FVD (i3d.pt " in table


def test_an_interpolator_of_another_shape_and_a_stride_in_step_are_refused(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.write_clip(tmp_path / "a.mp4", 32, 32, 5)
    common = [str(tmp_path / "a.mp4"), *pair, *CPU, "--side", "32", "--no-lpips"]
    assert interpolation.main([*common, "--lpips-every", "8"]) == 2
    assert interpolation.main([*common, "--interpolator", str(tmp_path / "none.pt")]) == 3
    script = scripts.save(scripts.MeanDifference(), tmp_path / "wrong.pt")
    assert interpolation.main([*common, "--interpolator", str(script)]) == 6
    assert "wrong.pt answers (1, 3, 64, 64) with (1, 3); wanted a picture between the two" in capsys.readouterr().err
