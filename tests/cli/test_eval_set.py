"""`cvcodec eval --set`: folders of videos, .cvl files and pictures, by tiny networks whose features are known."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.cli.programs import cvcodec as run
from tests.cli.programs import one_line
from tests.cli.test_json_keys import documented
from tests.codec.clips import Picture, write_rgb
from tests.codec.models import save_model, tiny_mini
from tests.quality.sets import scripts

CLIPS, FRAMES, SIDE = 4, 6, 32
EVAL = ["eval", "--set", "--set-frames", FRAMES, "--device", "cpu", "--json"]


def flat(levels: list[float]) -> list[Picture]:
    return [np.full((SIDE, SIDE, 3), round(level), np.uint8) for level in levels]


def clip_of(number: int, offset: float = 0.0) -> list[Picture]:
    return flat([40 + 30 * number + offset + 2 * time for time in range(FRAMES)])


def kernel_distance_on_a_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Of features that are all equal: the kernel is (x y + 1)^3."""

    def pairs(z: NDArray[np.float64]) -> float:
        kernel = (np.outer(z, z) + 1) ** 3
        return float(kernel[~np.eye(len(z), dtype=bool)].mean())

    return pairs(x) + pairs(y) - 2 * float(((np.outer(x, y) + 1) ** 3).mean())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of clips, the second 20 levels brighter, and the networks."""
    path = tmp_path_factory.mktemp("sets")
    for name, offset in (("real", 0.0), ("fake", 20.0)):
        (path / name / "deep").mkdir(parents=True)
        for number in range(CLIPS):
            place = path / name / ("deep" if number == 2 else "") / f"{number}.mkv"
            write_rgb(str(place), clip_of(number, offset), container="matroska")
    scripts.save(scripts.ClipMeans(), path / "i3d.pt")
    scripts.save(scripts.PictureMeans(), path / "inception.pt")
    scripts.save(scripts.Differences(), path / "dreamsim.pt")
    save_model(path / "tiny.safetensors", tiny_mini())
    return path


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_folders_are_as_far_apart_as_their_features_and_say_by_which_network(here: Path) -> None:
    networks = ["--i3d", "i3d.pt", "--inception", "inception.pt", "--dreamsim", "dreamsim.pt"]
    outcome = run(*EVAL, "real", "fake", *networks)
    assert outcome.code == 0, outcome.err
    record = outcome.record
    assert set(record) == documented("eval --set")
    assert record["metrics"] == ["fvd", "kvd", "fid", "kid", "pic"], "all that the networks serve"
    # Levels are shifted and nothing else: three features of a clip by 20 / 127.5, three of a picture by 20.
    assert record["fvd"] == pytest.approx(3 * (20 / 127.5) ** 2, rel=1e-4)
    assert record["fid"] == pytest.approx(3 * 20**2, rel=1e-4)
    levels = [np.array([p.mean() for n in range(CLIPS) for p in clip_of(n, offset)]) for offset in (0.0, 20.0)]
    assert record["kid"] == pytest.approx(kernel_distance_on_a_line(*levels), rel=1e-4)
    assert record["kvd"] is not None
    # The first frame of each clip against six that are brighter by 20, 22 ... 30.
    assert record["pic"] == pytest.approx(1 - 25 / 255, abs=1e-5)
    digest = hashlib.sha256((here / "i3d.pt").read_bytes()).hexdigest()[:8]
    assert record["networks"]["fvd"] == record["networks"]["kvd"] == f"i3d.pt {digest}"
    assert (record["clips_reference"], record["clips_test"], record["pictures_test"]) == (4, 4, 24)
    assert any(re.search("fvd of 4 and 4 clips is far too large", note) for note in record["notes"])
    assert not any("fid" in note for note in record["notes"]), "24 pictures are more than 3 features"
    same = run(*EVAL, "real", "real", *networks).record
    assert same["fvd"] == pytest.approx(0, abs=1e-9) and same["pic"] == pytest.approx(1 - 5 / 255, abs=1e-5)


def test_a_table_names_the_networks(here: Path) -> None:
    outcome = run(*EVAL[:-1], "real", "fake", "--inception", "inception.pt", "-m", "fid")
    assert outcome.code == 0, outcome.err
    assert re.search(r"FID \(inception\.pt [0-9a-f]{8}\) +1200", outcome.out)
    assert "FVD" not in outcome.out


def test_cvl_files_are_decoded_and_pictures_are_clips_of_one_frame(here: Path) -> None:
    (here / "coded").mkdir()
    (here / "pictures").mkdir()
    for number in range(2):
        options = ["-w", "tiny.safetensors", "--latents", "fp32", "--device", "cpu", "--precision", "fp32"]
        assert run("encode", f"real/{number}.mkv", f"coded/{number}.cvl", *options).code == 0
        with av.open(str(here / "pictures" / f"{number}.png"), "w", format="image2") as output:
            stream = output.add_stream("png")
            stream.width = stream.height = SIDE
            stream.pix_fmt = "rgb24"
            output.mux(stream.encode(av.VideoFrame.from_ndarray(flat([10 + number])[0], format="rgb24")))
            output.mux(stream.encode(None))
        assert (
            run("decode", f"coded/{number}.cvl", f"{number}.mkv", "-w", "tiny.safetensors", "--codec", "ffv1").code == 0
        )
    (here / "decoded").mkdir()
    for number in range(2):
        shutil.move(here / f"{number}.mkv", here / "decoded")
    own = ["--inception", "inception.pt", "-w", "tiny.safetensors", "--precision", "fp32"]
    record = run(*EVAL, "coded", "decoded", *own).record
    assert record["pictures_reference"] == record["pictures_test"] == 2 * FRAMES
    assert record["fid"] == pytest.approx(0, abs=0.1)
    pictures = run(*EVAL, "pictures", "real", *own).record
    assert pictures["clips_reference"] == pictures["pictures_reference"] == 2
    # Means 10.5 and 90, equal in all three channels: on that line, deviations sqrt(1 / 2) and that of 24 levels.
    levels = np.array([picture.mean() for number in range(CLIPS) for picture in clip_of(number)])
    expected = 3 * ((levels.mean() - 10.5) ** 2 + (levels.std(ddof=1) - 0.5**0.5) ** 2)
    assert pictures["fid"] == pytest.approx(expected, rel=1e-4)


def test_clip_measures_captions_and_how_frames_hang_together(here: Path) -> None:
    scripts.save_clip(here / "tiny-clip")
    for number in range(CLIPS):
        place = here / ("fake" if number < 3 else "real") / ("deep" if number == 2 else "") / f"{number}.txt"
        place.write_text(f"clip {number}\n")
    outcome = run(*EVAL, "real", "fake", "--clip-model", "tiny-clip")
    assert outcome.code == 0, outcome.err
    record = outcome.record
    assert record["metrics"] == ["clip", "consistency"] and -1 <= record["clip"] <= 1
    assert 0.9 < record["consistency"] <= 1
    assert record["networks"]["clip"].startswith("tiny-clip ")
    (here / "real" / "3.txt").unlink()
    refused = run(*EVAL, "real", "fake", "--clip-model", "tiny-clip")
    assert refused.code == 3 and "3.mkv has no caption, which clip wants beside it: 3.txt" in one_line(refused.err)
    assert run(*EVAL, "real", "fake", "--clip-model", "tiny-clip", "-m", "consistency").code == 0


def test_a_choice_of_clips_is_the_seeds(here: Path) -> None:
    def fid(seed: int) -> float:
        words = ["--inception", "inception.pt", "--set-size", 2, "--seed", seed, "-m", "fid"]
        record = run(*EVAL, "real", "real", *words).record
        assert record["clips_reference"] == 2
        assert record["fid"] == pytest.approx(0, abs=1e-6), "the same of both folders"
        return float(run(*EVAL, "pictures", "real", *words).record["fid"])

    (here / "pictures").mkdir()
    shutil.copy(here / "real" / "0.mkv", here / "pictures" / "0.mkv")
    assert fid(0) == fid(0)
    assert len({fid(seed) for seed in range(4)}) > 1


def test_short_and_unreadable_clips_are_left_out_and_named(here: Path) -> None:
    write_rgb(str(here / "fake" / "short.mkv"), clip_of(0)[:3], container="matroska")
    (here / "fake" / "broken.mp4").write_bytes(b"no video")
    record = run(*EVAL, "real", "fake", "--i3d", "i3d.pt").record
    assert record["clips_test"] == CLIPS
    left_out = [note for note in record["notes"] if note.startswith("left out")]
    assert len(left_out) == 2 and "broken.mp4" in left_out[0]
    assert "short.mkv: it has 3 frames, and --set-frames 6 are wanted" in left_out[1]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["real", "fake"], 2, "--set needs the networks to compare by: some of --i3d"),
        (
            ["real", "fake", "-m", "fvd,kvd"],
            2,
            "fvd is measured by a network that is not part of cvcodec; name it with --i",
        ),
        (
            ["real", "fake", "-m", "psnr", "--i3d", "i3d.pt"],
            2,
            "psnr compares frame by frame; with --set, --metrics are of",
        ),
        (
            ["real", "fake", "-m", "fid", "--i3d", "i3d.pt", "--inception", "inception.pt"],
            2,
            "--i3d is for fvd and kvd",
        ),
        (["real", "--i3d", "i3d.pt"], 2, "--set compares two folders"),
        (["real", "real/0.mkv", "--i3d", "i3d.pt"], 3, "0.mkv is no folder, which --set compares"),
        (["real", "empty", "--i3d", "i3d.pt"], 3, "empty has no videos, .cvl files or pictures"),
        (["real", "one", "--i3d", "i3d.pt"], 3, "fvd needs two clips of 6 frames or more of each folder, got 4 and 1"),
        (["real", "fake", "--i3d", "none.pt"], 3, "none.pt cannot be read"),
        (["real", "fake", "--i3d", "tiny.safetensors"], 6, "tiny.safetensors is no TorchScript file"),
        (["real", "fake", "--i3d", "inception.pt"], 6, "inception.pt does not take (1, 3, 6, 224, 224) float32"),
        (["real", "fake", "--i3d", "i3d.pt", "--quality", "20"], 2, "as they are: leave out --quality"),
        (["real", "fake", "--i3d", "i3d.pt", "--csv", "a.csv"], 2, "as they are: leave out --csv"),
        (["one", "fake", "--dreamsim", "dreamsim.pt"], 3, "one has nothing called 1, which pic compares"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(here: Path, words: list[str], code: int, said: str) -> None:
    (here / "empty").mkdir()
    (here / "one").mkdir()
    shutil.copy(here / "real" / "0.mkv", here / "one" / "0.mkv")
    outcome = run(*EVAL, *words)
    assert outcome.code == code, outcome.err
    assert said in one_line(outcome.err)
    assert outcome.out == ""


def test_options_and_metrics_of_sets_are_refused_without_set(here: Path) -> None:
    refused = run("eval", "real/0.mkv", "fake/0.mkv", "--i3d", "i3d.pt")
    assert refused.code == 2 and "leave out --i3d" in one_line(refused.err)
    refused = run("eval", "real/0.mkv", "fake/0.mkv", "-m", "fvd")
    assert refused.code == 2 and "fvd compares folders: cvcodec eval --set" in one_line(refused.err)
