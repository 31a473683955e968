"""The commands `batch`, `export` and `import`: exit codes, one-line errors, what they print and leave behind."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cvcodec.cli import app
from tests.dataset.small import break_a_packet, save_small_model, write_clip


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Result]


@pytest.fixture
def cvcodec(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The program in this process: importing torch anew for every command would take longer than all of them."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(app, "_exit_on_signals", lambda: None)

    def run(*arguments: str | Path) -> Result:
        code = app.run(app.app, list(map(str, arguments)))
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, SD's space, and two clips and a corrupt one."""
    folder = tmp_path_factory.mktemp("place")
    save_small_model(folder / "sd.safetensors", scaling_factor=0.18215)
    save_small_model(folder / "own.safetensors")
    for number in range(2):
        write_clip(folder / f"v/{number}.mkv", seed=number)
    (folder / "v/broken.mp4").write_bytes(b"no video")
    return folder


def test_a_failed_clip_is_named_listed_and_makes_the_exit_code_1(cvcodec: Run, place: Path) -> None:
    result = cvcodec("batch", place / "v", "--out", place / "out", "-w", place / "sd.safetensors", "--retries", "0")
    assert result.returncode == 1
    warning, last, size = result.stderr.splitlines()
    assert "warning" in warning
    assert "broken.mp4" in warning
    assert "2 encoded, 0 already there, 1 failed" in last
    assert "times the video of the sources encoded now" in size
    assert not result.stdout
    assert sorted(path.name for path in (place / "out").iterdir()) == [
        "0.cvl",
        "1.cvl",
        "failures.jsonl",
        "index.jsonl",
    ]


def test_captions_beside_videos_are_not_passed_over_in_silence(cvcodec: Run, place: Path, tmp_path: Path) -> None:
    (tmp_path / "0.mkv").write_bytes((place / "v/0.mkv").read_bytes())
    (tmp_path / "0.txt").write_text("a cat")
    (tmp_path / "0.srt").write_text("subtitles")
    result = cvcodec("batch", tmp_path, "--out", tmp_path / "out", "-w", place / "sd.safetensors", "--json")
    assert result.returncode == 0
    assert "note: 1 files beside videos are not read (0.srt); captions are a .txt or .json called like" in result.stderr
    assert json.loads(result.stdout)["columns"] == {"caption": "a cat"}


def test_json_is_one_object_for_each_file(cvcodec: Run, place: Path) -> None:
    result = cvcodec(
        *("batch", place / "v/0.mkv", place / "v/1.mkv", "--out", place / "json", "-w", place / "sd.safetensors"),
        *("--json", "--latents", "fp16", "--store-logvar", "--batch", "2", "--jobs", "2"),
    )
    assert result.returncode == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert {line["path"] for line in lines} == {"0.cvl", "1.cvl"}
    assert {line["status"] for line in lines} == {"encoded"}
    assert all(line["logvar"] and line["latents_kind"] == "fp16" for line in lines)


def test_damaged_sources_are_warned_of_and_counted_and_fail_where_that_is_asked_for(
    cvcodec: Run, place: Path, tmp_path: Path
) -> None:
    for name in ("1", "2"):
        break_a_packet(write_clip(tmp_path / f"v/{name}.mkv", frames=12))
    command = ["batch", tmp_path / "v", "--out", tmp_path / "out", "-w", place / "sd.safetensors"]
    result = cvcodec(*command)
    assert result.returncode == 0
    warned = re.findall(r"warning: .*/(.\.mkv): the source is damaged: 1 decode errors", result.stderr)
    assert sorted(warned) == ["1.mkv", "2.mkv"]
    notes = [line for line in result.stderr.splitlines() if "note: " in line]
    assert len(notes) == 2, "what both have to say is said once, and then how many said it"
    assert "note: 2 clips in all: " in notes[1]
    assert "2 encoded, 0 already there, 0 failed, 2 damaged; index" in result.stderr
    strict = cvcodec(*command, "--strict", "--json")
    assert strict.returncode == 3
    assert "2 of 2 sources are damaged" in strict.stderr
    lines = [json.loads(line) for line in strict.stdout.splitlines()]
    counts = [(line["status"], line["decode_errors"], line["concealed_frames"]) for line in lines]
    assert counts == [("skipped", 1, 0)] * 2


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--shard", "2/2"], "no shard"),
        (["--address", "auto"], "--engine ray"),
        (["--device", "cpu,cpu"], "twice"),
        (["--latents", "fp16", "--rdo", "time"], "fp16 stores the latents themselves: leave out --rdo"),
        (["--latents", "fp16", "-q", "50"], "fp16 stores the latents themselves: leave out --quality"),
    ],
)
def test_options_that_do_not_fit_are_one_line_and_exit_code_2(
    cvcodec: Run, place: Path, arguments: list[str], match: str
) -> None:
    result = cvcodec("batch", place / "v", "--out", place / "none", "-w", place / "sd.safetensors", *arguments)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert match in line
    assert not list((place / "none").rglob("*"))


def test_export_and_import_make_a_file_that_decodes(cvcodec: Run, place: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "x.mkv")
    weights = place / "sd.safetensors"
    assert cvcodec("encode", tmp_path / "x.mkv", tmp_path / "x.cvl", "-w", weights).returncode == 0
    exported = cvcodec("export", tmp_path / "x.cvl", tmp_path / "x.safetensors", "--for", "svd", "--json")
    assert exported.returncode == 0
    said = json.loads(exported.stdout)
    assert (said["layout"], said["shape"], said["scaling_factor"]) == ("BTCHW", [1, 3, 4, 4, 4], 0.18215)
    save_small_model(tmp_path / "other.safetensors", seed=1, scaling_factor=0.18215)
    other = cvcodec(
        *("import", tmp_path / "x.safetensors", tmp_path / "o.cvl", "-w", tmp_path / "other.safetensors", "--json")
    )
    assert "note: these latents are of latent space" in other.stderr
    assert len(json.loads(other.stdout)["notices"]) == 1
    imported = cvcodec("import", tmp_path / "x.safetensors", tmp_path / "y.cvl")
    assert imported.returncode == 0
    assert "9 frames of 32x32" in imported.stderr
    pictures = cvcodec("import", tmp_path / "x.safetensors", tmp_path / "z.cvl", "--mode", "image")
    assert (pictures.returncode, (tmp_path / "z.cvl").exists()) == (2, False)
    assert "exported as another mode than image, which wants the model itself; name it with --w" in pictures.stderr
    decoded = cvcodec("decode", tmp_path / "y.cvl", tmp_path / "y.mkv", "-w", weights, "--codec", "ffv1")
    assert decoded.returncode == 0


def test_generated_latents_import_and_decode(cvcodec: Run, place: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "g.npy", np.zeros((1, 25, 4, 2, 2), np.float16))
    weights = place / "sd.safetensors"
    result = cvcodec(
        *("import", tmp_path / "g.npy", tmp_path / "g.cvl", "--from", "svd", "-w", weights, "--fps", "28", "--json")
    )
    assert result.returncode == 0
    assert json.loads(result.stdout)["frames"] == 97


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--clip", "1"], "clip 1 is not in .*g.npy, it has 1 \\(0 to 0\\)"),
        (["--frames", "93"], "25 latents stand for 94 to 97 frames, not for 93"),
        (["--key", "latents"], "leave out --key"),
    ],
)
def test_an_import_of_what_is_not_there_is_refused(
    cvcodec: Run, place: Path, tmp_path: Path, arguments: list[str], match: str
) -> None:
    np.save(tmp_path / "g.npy", np.zeros((1, 25, 4, 2, 2), np.float16))
    output = tmp_path / "g.cvl"
    result = cvcodec("import", tmp_path / "g.npy", output, "--from", "svd", "-w", place / "sd.safetensors", *arguments)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert re.search(match, line)
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["x.npy", "--seed", "0"], "a file for each clip, no shards: leave out --seed"),
        (["x.npy", "--shard-size", "1G", "--no-shuffle"], "leave out --shard-size, --no-shuffle"),
        (["x.npy", "--shuffle"], "leave out --shuffle"),
        (["s", "--format", "webdataset", "--no-shuffle", "--seed", "1"], "--no-shuffle .*: leave out --seed"),
    ],
)
def test_options_of_shards_are_refused_where_they_change_nothing(
    cvcodec: Run, tmp_path: Path, arguments: list[str], match: str
) -> None:
    (tmp_path / "x.cvl").touch()
    output, *more = arguments
    result = cvcodec("export", tmp_path / "x.cvl", tmp_path / output, *more)
    assert result.returncode == 2
    assert re.search(match, result.stderr)
    assert not (tmp_path / output).exists()


def test_another_vaes_latents_are_refused_with_the_way_out(cvcodec: Run, place: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "g.npy", np.zeros((1, 25, 4, 2, 2), np.float16))
    weights = place / "own.safetensors"
    result = cvcodec("import", tmp_path / "g.npy", tmp_path / "g.cvl", "--from", "svd", "-w", weights)
    assert result.returncode == 6
    (line,) = result.stderr.splitlines()
    assert "another latent space" in line
    assert not (tmp_path / "g.cvl").exists()


def test_a_folder_exports_to_shards(cvcodec: Run, place: Path, tmp_path: Path) -> None:
    out = place / "shards-source"
    assert cvcodec("batch", place / "v/0.mkv", "-o", out, "-w", place / "sd.safetensors").returncode == 0
    result = cvcodec("export", out, tmp_path / "s", "--format", "webdataset", "--shard-size", "1M")
    assert result.returncode == 0
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["README.md", "shard-000000.tar", "shards.jsonl"]
