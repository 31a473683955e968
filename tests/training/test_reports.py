"""The log, the curves, and the command line."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cvcodec.cli.app import run
from cvcodec.cli.train import app
from cvcodec.errors import InputError, MissingDependencyError
from cvcodec.training import validation
from cvcodec.training.config import JOB_DEFAULTS, OPTIONS
from cvcodec.training.log import RunLog, plot_runs, read_log
from cvcodec.training.tensorboard import Board
from cvcodec.training.validation import Validator
from tests.model.test_mini import small_model

from .conftest import TINY

# ------------------------------------------------------------------------------------------------ log


def test_the_log_holds_one_json_object_a_line_with_means_between_lines(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    with contextlib.closing(RunLog(tmp_path, active=True, on_line=lambda *line: said.append(line))) as log:
        log.add({"loss": 1.0, "psnr_db": 20.0})
        log.add({"loss": 2.0, "psnr_db": 30.0})
        log.write("train", step=2, **log.take_averages(), bad=float("nan"))
        log.say("a [note]")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[0] == {"event": "train", "step": 2, "loss": 1.5, "psnr_db": 25.0, "bad": None}
    assert lines[1] == {"event": "note", "text": "a [note]"}
    assert said == [("train", "train: step 2  loss 1.5  psnr_db 25  bad None"), ("note", "a [note]")]


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"event": "train", "step": 1}\n{"event": "tr')
    assert [line["step"] for line in read_log(tmp_path)] == [1]


def test_other_processes_are_silent(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    with contextlib.closing(RunLog(tmp_path, active=False, on_line=lambda *line: said.append(line))) as log:
        log.say("nothing")
    assert said == []
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ TensorBoard


def test_tensorboard_reads_the_numbers_and_the_pictures_of_a_run(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = Board(tmp_path)
    with contextlib.closing(RunLog(tmp_path, active=True, board=board)) as log:
        for step in (1, 2):
            log.write("train", step=step, loss=1.0 / step, bad=float("nan"))
        log.write("validation", step=2, psnr_db=22.5)
        log.say("no number")
        board.draw("grid", 2, np.full((4, 6, 3), 200, np.uint8))
    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(read.Tags()["scalars"]) == ["train/loss", "validation/psnr_db"]
    assert [(event.step, event.value) for event in read.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
    (picture,) = read.Images("grid")
    assert (picture.step, picture.width, picture.height) == (2, 6, 4)


def test_without_tensorboard_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cvcodec\[tensorboard\]'"):
        Board(tmp_path)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ curves and grids


def test_a_grid_says_what_each_picture_is_and_how_near_to_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, torch.Tensor]] = []
    monkeypatch.setattr(validation, "grid", lambda rows: shown.extend(itertools.chain(*rows)))
    model = small_model(seed=0)
    clip = torch.randint(0, 256, (1, 3, 9, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Validator([clip], arithmetic=contextlib.nullcontext, device=torch.device("cpu"), lpips=False).draw(model)
    captions, pictures = zip(*shown, strict=True)
    codes = [np.rint((np.clip(picture.numpy(), -1, 1) + 1) * 127.5) for picture in pictures]
    assert np.array_equal(codes[0], clip[0, :, 4].numpy())
    psnr = 10 * np.log10(255**2 / np.mean((codes[0] - codes[1]) ** 2))
    assert captions == ("1: source, frame 4", f"decoded {psnr:.1f} dB", "error x 4")


def test_pictures_of_a_grid_stand_side_by_side_under_their_captions() -> None:
    red, blue = (torch.tensor(colour)[:, None, None].expand(3, 8, 200) for colour in ((1.0, -1, -1), (-1, -1, 1.0)))
    drawn = validation.grid([[("one", red), ("two", blue)], [("three", blue)]])
    assert (drawn == (255, 0, 0)).all(axis=2).sum() == 8 * 200
    assert (drawn == (0, 0, 255)).all(axis=2).sum() == 2 * 8 * 200
    assert (drawn == (235, 235, 235)).all(axis=2).any(), "no text"


def test_curves_are_drawn_as_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in "ab":
        (tmp_path / name).mkdir()
        with contextlib.closing(RunLog(tmp_path / name, active=True)) as log:
            for step in range(3):
                log.write("train", step=step, loss=1.0 / (step + 1), psnr_db=20.0 + step, bits_per_pixel=0.1)
            log.write("validation", step=2, psnr_db=22.5)
    picture = plot_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "out" / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


def test_plotting_what_is_no_run_is_a_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match=r"no log\.jsonl"):
        plot_runs([tmp_path], tmp_path / "x.png")
    (tmp_path / "log.jsonl").write_text('{"event": "note", "text": "x"}\n')
    with pytest.raises(InputError, match="no numbers"):
        plot_runs([tmp_path], tmp_path / "x.png")


# ------------------------------------------------------------------------------------------------ command line


def cvcodec(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from cvcodec.cli.app import main; main()"
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-c", program, "train", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_every_field_of_the_config_is_an_option_of_every_job(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")  # narrower, names are cut
    for job in JOB_DEFAULTS:
        assert run(app, [job, "--help"]) == 0
        shown = set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))
        for name in OPTIONS:
            assert f"--{name.replace('_', '-')}" in shown, (job, name)


def test_options_win_over_the_file_and_the_run_keeps_what_it_used(media: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f'{TINY}\nseed = 1\ndata = "{(media / "manifest.tsv").as_posix()}"\n')
    done = cvcodec(
        "video-vae", str(tmp_path / "c.toml"), "--output", str(tmp_path / "run"), "--seed", "5",
        "--regularization", "none", "--widths", "8", "--widths", "16", "--widths", "24",
        "--latent-channels", "4", "--no-pca",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "2 photos to train on" in done.stderr
    used = (tmp_path / "run" / "config.toml").read_text()
    assert "seed = 5" in used
    assert "widths = [8, 16, 24]" in used
    assert (tmp_path / "run" / "model.safetensors").exists()
    longer = cvcodec("video-vae", "--resume", "--output", str(tmp_path / "run"), "--steps", "2", "--json")
    assert longer.returncode == 0, longer.stderr
    assert json.loads(longer.stdout)["step"] == 2
    assert "settings changed since the run began: steps 1 -> 2\n" in longer.stderr
    other = cvcodec("image-vae", "--resume", "--output", str(tmp_path / "run"))
    assert other.returncode == 2
    assert "holds a run of video-vae" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["video-vae"], 2, "give the length of the run"),
        (["video-vae", "--steps", "1", "--output", "{}/r", "--data", "{}/nowhere"], 3, "no such data"),
        (["video-vae", "--steps", "1", "--output", "{}/r", "--data", "{}"], 3, "no videos or images"),
        (["image-vae", "--mapping", "last"], 2, "wanted one of first, average, slice, random"),
        (["image-vae", "{}/none.toml"], 3, "cannot read config"),
        (["plot", "{}"], 3, "no log.jsonl"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert run(app, [argument.replace("{}", str(tmp_path)) for argument in arguments]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err.replace("\n", " ")
