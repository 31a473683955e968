"""PCA start, statistics, validation and grids."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cvcodec.codec.calibration import measure_statistics
from cvcodec.dataset.media import MediaFile
from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.mini import MiniAutoencoder, mini_config
from cvcodec.quality.pictures import BACKGROUND, panel
from cvcodec.training.losses import RateModel
from cvcodec.training.objective import step_of_quality
from cvcodec.training.pca import fit_pca, start_as_pca
from cvcodec.training.validation import Validator, error_picture, grid, spread_over_sources
from cvcodec.video.writer import write_image

from .conftest import moving_texture


def clip_of(frames: int, side: int, seed: int) -> Tensor:
    return torch.from_numpy(moving_texture(frames, side, side, seed)).permute(3, 0, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize("video", [True, False])
def test_a_model_started_as_pca_reconstructs_as_numpys_svd_does(video: bool) -> None:
    clip, components = clip_of(9, 32, 1), 6
    model = MiniAutoencoder(mini_config(components, video=video, widths=(8, 16, 24)))
    start_as_pca(model, *fit_pca([clip], model.group, components))
    with torch.no_grad():
        output = model.decode(model.encode(clip[None]).mean)[0]

    padded = np.concatenate([clip[:, :1].numpy()] * 3 + [clip.numpy()], 1) if video else clip.numpy()
    group = 4 if video else 1
    t = padded.shape[1] // group
    rows = padded.reshape(3, t, group, 4, 8, 4, 8).transpose(1, 3, 5, 2, 0, 4, 6).reshape(t * 16, -1).astype(np.float64)
    mean = rows.mean(0)
    _, _, vectors = np.linalg.svd(rows - mean, full_matrices=False)
    best = mean + (rows - mean) @ vectors[:components].T @ vectors[:components]
    wanted = best.reshape(t, 4, 4, group, 3, 8, 8).transpose(4, 0, 3, 1, 5, 2, 6).reshape(3, t * group, 32, 32)
    np.testing.assert_allclose(output.numpy(), wanted[:, 3:] if video else wanted, atol=2e-3)


class Shifted(VideoAutoencoder):
    """Latent: the mean of each 8x8 block of frames 0, 4, 8 ...; decodes to it plus `error`."""

    def __init__(self, error: float = 0.0, *, video: bool = True) -> None:
        super().__init__(mini_config(1, video=video, widths=(8, 8, 8)))
        self.error = nn.Parameter(torch.tensor(error))

    def moments(self, pixels: Tensor) -> Tensor:
        stills = pixels[:, :, ::4] if self.config.is_video else pixels
        mean = nn.functional.avg_pool3d(stills.mean(1, keepdim=True), (1, 8, 8))
        return torch.cat([mean, mean], 1)

    def decode(self, latent: Tensor) -> Tensor:
        frames = 4 * (latent.shape[2] - 1) + 1 if self.config.is_video else latent.shape[2]
        grey = nn.functional.interpolate(latent, (frames, 8 * latent.shape[3], 8 * latent.shape[4]))
        return grey.expand(-1, 3, -1, -1, -1) + self.error


def test_statistics_are_those_of_numpy_over_all_clips() -> None:
    clips = [torch.rand(1, 3, 5, 16, 24), torch.rand(1, 3, 1, 16, 16)]
    statistics = measure_statistics(Shifted(), (Shifted().encode(clip).mean for clip in clips))
    values = np.concatenate([Shifted().encode(clip).mean.detach().numpy().ravel() for clip in clips])
    assert statistics.mean[0] == pytest.approx(values.mean(), rel=1e-5)
    assert statistics.std[0] == pytest.approx(values.std(), rel=1e-4)
    assert statistics.unit_step == statistics.std


def test_validation_averages_the_psnr_of_clips_after_rounding_to_bytes() -> None:
    grey = torch.full((1, 3, 5, 16, 16), 100, dtype=torch.uint8)
    clips = [grey, grey + 50]
    clips[1][:, :, :, :, ::2] -= 8  # a pattern that block means lose: errors of 4
    validator = Validator(clips, arithmetic=contextlib.nullcontext, device=torch.device("cpu"), lpips=False)
    values = validator.measure(
        Shifted(2 / 127.5), rate=RateModel(torch.ones(1)), qualities=(100.0,),
        steps=lambda quality: step_of_quality(torch.ones(1), quality),
        image_model=Shifted(-6 / 127.5, video=False),
    )  # fmt: skip
    first, second = 10 * math.log10(255**2 / 4), 10 * math.log10(255**2 / ((36 + 4) / 2))
    assert values["psnr_db"] == pytest.approx((first + second) / 2, abs=1e-3)
    of_image = [10 * math.log10(255**2 / 36), 10 * math.log10(255**2 / ((4 + 100) / 2))]
    assert values["psnr_db_image_decoder"] == pytest.approx(sum(of_image) / 2, abs=1e-3)
    assert values["psnr_db_image_encoder"] == pytest.approx(values["psnr_db"], abs=1e-3)
    assert [values[f"psnr_db_place_{place}"] for place in (1, 2, 3, 4)] == pytest.approx([values["psnr_db"]] * 4)
    assert values["psnr_db_q100"] == pytest.approx(values["psnr_db"], abs=3)
    assert values["bits_per_pixel_q100"] > 0
    assert 0 < values["ssim"] < 1


def test_held_out_clips_come_from_all_sources_in_turn() -> None:
    files = [MediaFile(Path(f"{group}{index}"), group, 9, False) for group in "abc" for index in range(3)]
    files.append(MediaFile(Path("photo"), "z", 1, True))
    chosen = spread_over_sources(files, 4, videos=True)
    assert [file.path.name for file in chosen] == ["a0", "b0", "c0", "a1"]
    assert spread_over_sources(files, 20, videos=True)[-1].path.name == "c2", "no photos where there are videos"
    assert spread_over_sources(files, 1, videos=False)[0].path.name == "photo"


def test_a_grid_is_a_png_that_other_software_reads(tmp_path: Path) -> None:
    red = torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1).expand(3, 6, 200)
    pixels = grid([[("red", red), ("not red", -red)], [("grey", torch.zeros(3, 4, 200))]])
    write_image(tmp_path / "grid.png", pixels)
    with av.open(str(tmp_path / "grid.png")) as container:
        read = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.array_equal(read, pixels)
    rows = [panel(np.full((height, 200, 3), 0, np.uint8), "x").shape for height in (6, 4)]
    assert read.shape == (rows[0][0] + rows[1][0], 2 * rows[0][1], 3)
    below = rows[0][0]  # the first row's pictures end here, and the second picture at the right edge
    assert read[below - 1, rows[0][1] - 1].tolist() == [255, 0, 0]
    assert read[below - 6, -200].tolist() == [0, 255, 255]
    assert read[-1, rows[1][1] - 1].tolist() == [128, 128, 128]
    assert read[-1, -1].tolist() == [BACKGROUND] * 3


def test_an_error_picture_is_black_without_error_and_four_times_as_bright_with() -> None:
    x = torch.zeros(3, 2, 2)
    assert (error_picture(x, x) == -1).all()
    assert error_picture(x, x + 0.1).flatten().tolist() == pytest.approx([-0.6] * 12)
