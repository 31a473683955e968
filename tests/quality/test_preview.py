"""Contact sheets: linear pictures of latents against the pictures themselves."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from cvcodec.bitstream import BitstreamReader
from cvcodec.checkpoints.registry import list_models, load_model
from cvcodec.codec import EncodeOptions, encode_file
from cvcodec.quality.pictures import MARGIN
from cvcodec.quality.preview import LinearPreview, contact_sheet
from tests.cli.programs import cvcodec as run
from tests.cli.programs import finished
from tests.codec.clips import smooth, write_rgb
from tests.codec.models import save_model, tiny_mini
from tests.codec.patch_model import CHANNELS, PatchModel

CPU = {"device": "cpu", "precision": "fp32"}


def test_a_linear_model_is_inverted_where_its_groups_of_frames_are_alike() -> None:
    linear = LinearPreview.fit(PatchModel(), 4)
    assert linear.weight.shape == (48, CHANNELS)
    pixels = torch.rand(1, 3, 1, 16, 24, generator=torch.Generator().manual_seed(3)) * 2 - 1
    latent = PatchModel().encode(pixels).mean[0, :, 0].numpy()
    wanted = ((pixels[0, :, 0].permute(1, 2, 0) + 1) * 127.5).numpy()
    assert np.abs(linear.pixels(latent) - wanted).max() < 10
    small = LinearPreview.fit(PatchModel(), 1).pixels(latent)
    assert np.abs(small - wanted.reshape(4, 4, 6, 4, 3).mean((1, 3))).max() < 10
    with pytest.raises(ValueError, match="does not divide"):
        LinearPreview.fit(PatchModel(), 3)


@pytest.mark.parametrize("model", [entry.name for entry in list_models() if entry.bundled][:2])
def test_previews_of_the_bundled_models_resemble_the_video(model: str) -> None:
    loaded = load_model(model)
    linear = LinearPreview.fit(loaded, 2)
    pictures = smooth(9, 64, 96)
    pixels = torch.from_numpy(np.stack(pictures)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        latents = loaded.encode(pixels).mean[0].numpy()
    for latent, frame in ((0, 0), (2, 7)):
        wanted = pictures[frame].astype(float).reshape(16, 4, 24, 4, 3).mean((1, 3))
        error = float(np.sqrt(((linear.pixels(latents[:, latent]) - wanted) ** 2).mean()))
        assert error < 0.33 * pictures[frame].std(), f"frame {frame}: {error:.1f} code values"


def test_a_sheet_shows_evenly_spaced_pictures_with_their_times_and_never_decodes(tmp_path: Path) -> None:
    pictures = [np.full((40, 40, 3), 10 + 2 * number, np.uint8) for number in range(101)]
    write_rgb(str(tmp_path / "in.nut"), pictures)
    encode_file(
        tmp_path / "in.nut", tmp_path / "a.cvl", model=PatchModel(), options=EncodeOptions(latents="fp16", **CPU)
    )
    model = PatchModel()
    sheet, times = contact_sheet(tmp_path / "a.cvl", model, pictures=9)
    assert model.decoded == []
    assert len(times) == 9
    assert times == sorted(times)
    assert times[0] < 0.4
    assert times[-1] > 3.6
    assert np.diff(times) == pytest.approx([np.mean(np.diff(times))] * 8, abs=0.17)
    height, width = (side // 3 for side in sheet.shape[:2])
    assert sheet.shape == (3 * (160 + 10 + 2 * MARGIN) + MARGIN, 3 * (160 + MARGIN) + MARGIN, 3)
    for number, time in enumerate(times):
        row, column = divmod(number, 3)
        inside = sheet[row * height + 60 : row * height + 150, column * width + 30 : column * width + 150]
        assert np.ptp(inside.astype(int)) <= 2
        assert abs(float(inside.mean()) - (10 + 50 * time)) < 8
    few, times = contact_sheet(tmp_path / "a.cvl", model, pictures=200)
    assert len(times) == 26  # latents
    assert few.shape[1] == 6 * (160 + MARGIN) + MARGIN


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("preview")
    save_model(path / "tiny.safetensors", tiny_mini())
    write_rgb(str(path / "in.mkv"), smooth(30, 24, 32), container="matroska")
    assert run("encode", path / "in.mkv", path / "a.cvl", "-w", path / "tiny.safetensors").code == 0
    return path


def test_the_command_writes_an_image(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "tiny.safetensors"
    for name in ("sheet.png", "sheet.jpg"):
        command = ["decode", "--preview", tmp_path / "a.cvl", tmp_path / name, "-w", weights, "--frames", "4"]
        outcome = run(*command, "--json")
        assert outcome.code == 0, outcome.err
        record = outcome.record
        assert (record["command"], record["pictures"], len(record["times_s"])) == ("decode", 4, 4)
        with av.open(str(tmp_path / name)) as image:
            (frame,) = image.decode(video=0)
            assert (frame.width, frame.height) == (record["width"], record["height"])
        assert run(*command).code == 4
    piped = finished("decode", "--preview", tmp_path / "a.cvl", "-", "-w", weights)
    assert piped.stdout.startswith(b"\x89PNG")


def test_what_cannot_be_previewed_is_one_line(folder: Path, tmp_path: Path) -> None:
    weights = folder / "tiny.safetensors"
    other = save_model(tmp_path / "other.safetensors", tiny_mini(seed=5))
    data = (folder / "a.cvl").read_bytes()
    (tmp_path / "cut.cvl").write_bytes(data[: len(data) // 2])
    for words, code, message in (
        ((folder / "a.cvl", tmp_path / "x.mp4", "-w", weights), 2, "writes an image, not mp4"),
        ((folder / "a.cvl", tmp_path / "x.png", "-w", weights, "--start", "1"), 2, "leave out --start"),
        (("-", tmp_path / "x.png", "-w", weights), 2, "give it a file"),
        ((folder / "a.cvl", tmp_path / "x.png", "-w", other), 6, "latent space"),
        ((folder / "a.cvl", tmp_path / "x.png"), 3, "the file wants model 'tiny', which is not installed"),
        ((tmp_path / "cut.cvl", tmp_path / "x.png", "-w", weights), 5, "not finished"),
    ):
        outcome = run("decode", "--preview", *words)
        assert outcome.code == code, outcome.err
        (line,) = outcome.err.splitlines()
        assert message in line
    assert not list(tmp_path.glob("x.*"))
    assert BitstreamReader(io.BytesIO(data)).header.model == "tiny"
