"""`python benchmarks/compatibility.py` and `python benchmarks/grid.py`, and the pictures they write."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import compatibility
import grid
import harness
from cvcodec.checkpoints.checkpoint import save_checkpoint
from cvcodec.errors import UsageError
from cvcodec.model.mini import MiniAutoencoder, mini_config
from cvcodec.model.mini_inflate import inflate_mini, inflated_mini_config
from cvcodec.training.pca import fit_pca, start_as_pca
from sheet import Cell, middle, sheet, write_picture

CPU = ["--device", "cpu", "--precision", "fp32"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A 2D model at the quality of a PCA and the video model inflated from it, in files as runs leave them."""
    folder = tmp_path_factory.mktemp("runs")
    config = mini_config(4, video=False, widths=(8, 8, 8), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1))
    image = harness.random_model(config, "image")
    assert isinstance(image, MiniAutoencoder)
    torch.nn.init.zeros_(image.decoder.conv_out.weight)
    start_as_pca(image, *fit_pca([harness.moving_clip(48, 48, 8)[0].float() / 127.5 - 1], 1, 4))
    video = MiniAutoencoder(inflated_mini_config(config, encoder_temporal=(1, 0, 0), decoder_temporal=(1, 0, 0)))
    video.load_state_dict(inflate_mini(config, image.state_dict(), video.config))
    paths = []
    for name, model in (("video-run", video), ("image-run", image)):
        (folder / name).mkdir()
        path = folder / name / "model.safetensors"
        save_checkpoint(path, model, statistics=image.statistics, card={}, dtype=torch.float32)
        paths.append(str(path))
    return paths[0], paths[1]


def size_of(path: Path) -> tuple[int, int]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return frame.width, frame.height


def test_a_model_and_its_inflation_read_each_others_latents(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.write_clip(tmp_path / "a.mp4", 52, 44, 11)
    arguments = [
        str(tmp_path / "a.mp4"), "--video", pair[0], "--video", f"other={pair[0]}", "--image", pair[1],
        "--side", "44", "--picture", str(tmp_path / "p" / "pair.png"), "-o", str(tmp_path / "pair.json"), *CPU,
    ]  # fmt: skip
    assert compatibility.main(arguments) == 0
    table = capsys.readouterr().out
    record = json.loads((tmp_path / "pair.json").read_text())
    mean = record["means"][0]
    assert mean["video_model"] == "video-run" and mean["image_model"] == "image-run"
    # Inflation keeps the 2D model: latent j is that of frame 4j, and one latent decodes to the same picture.
    assert mean["psnr_db_image_decoder"] == pytest.approx(mean["psnr_db_image"], abs=0.01)
    assert mean["psnr_db_image_by_video"] == pytest.approx(mean["psnr_db_image"], abs=0.01)
    assert mean["psnr_db_video_from_images"] == pytest.approx(mean["psnr_db_video"], abs=0.01)
    assert mean["psnr_db_video"] < mean["psnr_db_image"] - 0.1, "a group of four frames shows its last"
    assert f"| `video-run` with `image-run` | {mean['psnr_db_video']:.2f} |" in table
    assert "| `other` with `image-run` |" in table
    assert [entry["clip"] for entry in record["clips"]] == ["a", "a"]
    assert size_of(tmp_path / "p" / "pair.png")[0] == 5 * 48 + 4 * 4  # 52 pixels cut to 48


def test_pairs_that_share_no_latent_space_are_refused_before_any_work(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.write_clip(tmp_path / "a.mp4", 32, 32, 5)
    clip = str(tmp_path / "a.mp4")
    for video, image, message in (
        (pair[1], pair[1], "is a 2D model"),
        (pair[0], pair[0], "is a video model"),
        ("cvvae-mini-z16", pair[1], "share no latent space"),
    ):
        assert compatibility.main([clip, "--video", video, "--image", image, *CPU]) == UsageError.exit_code
        assert message in capsys.readouterr().err.replace("\n", " ")
    for picture, message in (("x.mp4", "names no picture"), ("x.tar", "names no picture")):
        arguments = [clip, "--video", pair[0], "--image", pair[1], "--picture", picture, *CPU]
        assert compatibility.main(arguments) == UsageError.exit_code
        assert message in capsys.readouterr().err
    assert compatibility.main([clip, "-w", pair[0], "-w", pair[0], "-i", pair[1], *CPU]) == UsageError.exit_code
    assert "called alike" in capsys.readouterr().err


def test_the_grid_shows_the_original_the_pca_and_each_model(
    tiny_weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.write_clip(tmp_path / "a.mp4", 64, 48, 9)
    arguments = ["--clip", str(tmp_path / "a.mp4"), "-w", tiny_weights, "--side", "48", "--panel", "40x32", *CPU]
    for name in ("g.png", "g.jpg"):
        assert grid.main([*arguments, "--frame", "1", "--frame", "7", "-o", str(tmp_path / name)]) == 0
        assert size_of(tmp_path / name) == (3 * 40 + 2 * 4, 18 + 2 * (32 + 18))
    assert capsys.readouterr().out.split() == [str(tmp_path / "g.png"), str(tmp_path / "g.jpg")]
    assert grid.main([*arguments, "--frame", "9"]) == UsageError.exit_code
    assert "--frame 9 is not among the first 9 frames" in capsys.readouterr().err.replace("\n", " ")


def test_a_missing_demo_clip_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert grid.main(["-o", "g.png"]) == 3
    assert "make demo" in capsys.readouterr().err


def test_a_sheet_places_every_pixel_and_a_written_png_holds_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(4)]
    made = sheet(["one", "two"], [[Cell(pictures[0], "a"), Cell(pictures[1])], [Cell(pictures[2]), Cell(pictures[3])]])
    assert made.shape == (18 + 2 * (20 + 18), 30 + 4 + 30, 3)
    np.testing.assert_array_equal(made[18:38, :30], pictures[0])
    np.testing.assert_array_equal(made[56:76, 34:], pictures[3])
    write_picture(tmp_path / "s.png", made)
    with av.open(str(tmp_path / "s.png")) as container:
        np.testing.assert_array_equal(next(container.decode(video=0)).to_ndarray(format="rgb24"), made)
    with pytest.raises(ValueError, match="columns"):
        sheet(["one"], [[Cell(pictures[0]), Cell(pictures[1])]])
    with pytest.raises(ValueError, match="one size"):
        sheet(["one", "two"], [[Cell(pictures[0]), Cell(pictures[1][:10])]])


def test_the_middle_of_a_picture_is_cut_at_even_positions() -> None:
    pixels = np.arange(10 * 14).reshape(10, 14, 1).repeat(3, 2)
    assert middle(pixels, 8, 4)[0, 0, 0] == 2 * 14 + 2
    assert middle(pixels, 8, 4).shape == (4, 8, 3)
    assert middle(pixels, 20, 20).shape == pixels.shape
