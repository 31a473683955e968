"""Statistics of latents against numpy on everything at once."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from cvcodec.checkpoints.checkpoint import instantiate, make_checkpoint
from cvcodec.codec.calibration import calibrate, measure_statistics
from cvcodec.errors import InputError, NumericalError
from cvcodec.model import build_model
from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.mini import mini_config
from cvcodec.quantization import LatentStatistics
from cvcodec.video import Frame, VideoWriter

SMALL = {"widths": (8, 8, 8), "encoder_blocks": (0, 0, 1), "decoder_blocks": (0, 0, 1)}
CONFIG = mini_config(3, **SMALL, encoder_temporal=(0, 0, 1), decoder_temporal=(0, 0, 1))


@pytest.fixture(scope="module")
def model() -> VideoAutoencoder:
    torch.manual_seed(0)
    return build_model(CONFIG).eval()


def test_pieces_of_any_size_give_the_mean_and_deviation_of_the_whole(model: VideoAutoencoder) -> None:
    rng = np.random.default_rng(0)
    pieces = [rng.normal(1e4, scale, (3, t, 5, 4)).astype(np.float32) for scale, t in ((1.0, 1), (2.0, 7), (0.5, 3))]
    mixed = [torch.from_numpy(pieces[0]), pieces[1][None], torch.from_numpy(pieces[2])[None].clone()]
    measured = measure_statistics(model, iter(mixed))
    everything = np.concatenate(pieces, axis=1).astype(np.float64).reshape(3, -1)
    np.testing.assert_allclose(measured.mean, everything.mean(1), rtol=1e-12)
    np.testing.assert_allclose(measured.std, everything.std(1), rtol=1e-9)
    assert measured.unit_step == measured.std


def test_a_channel_that_never_changes_still_gets_a_step(model: VideoAutoencoder) -> None:
    latent = np.zeros((3, 2, 4, 4))
    latent[0] = np.random.default_rng(0).normal(0, 2.0, (2, 4, 4))
    measured = measure_statistics(model, [latent])
    assert measured.std[0] == pytest.approx(latent[0].std())
    assert measured.std[1] == pytest.approx(latent[0].std() / 1000)


def test_no_latents_wrong_channels_and_nan_are_refused(model: VideoAutoencoder) -> None:
    with pytest.raises(InputError, match="no latents"):
        measure_statistics(model, [])
    with pytest.raises(ValueError, match=r"latents of 3 channels wanted.*got \(4, 1, 2, 2\)"):
        measure_statistics(model, [np.zeros((4, 1, 2, 2))])
    with pytest.raises(NumericalError, match="NaN or infinity"):
        measure_statistics(model, [np.full((3, 1, 2, 2), np.nan)])


def test_calibrating_keeps_weights_and_identities_and_reads_one_piece_at_a_time() -> None:
    torch.manual_seed(0)
    checkpoint = make_checkpoint(CONFIG, build_model(CONFIG).state_dict(), statistics=None, card={"licence": "MIT"})
    alive = 0

    def read_latents(path: Path, model: VideoAutoencoder) -> Iterator[torch.Tensor]:
        nonlocal alive
        for sign in (-1.0, 1.0):
            assert alive == 0
            alive += 1
            yield torch.full((1, 3, 1, 2, 2), sign * len(path.name))
            alive -= 1

    calibrated = calibrate(checkpoint, [Path("a"), Path("abc")], read_latents=read_latents)
    assert calibrated.statistics == LatentStatistics(mean=(0.0,) * 3, std=(5.0**0.5,) * 3)
    assert calibrated.metadata["cvcodec.statistics"]
    assert (calibrated.latent_space_id, calibrated.decoder_hash, calibrated.card) == (
        checkpoint.latent_space_id,
        checkpoint.decoder_hash,
        checkpoint.card,
    )


def test_a_real_clip_gives_the_statistics_of_the_latents_the_model_itself_computes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {name: torch.randn(tensor.shape) * 0.1 for name, tensor in build_model(CONFIG).state_dict().items()}
    checkpoint = make_checkpoint(CONFIG, state, statistics=None, card={})
    frames = np.random.default_rng(0).integers(0, 256, (9, 24, 32, 3), np.uint8)
    with VideoWriter(tmp_path / "clip.mkv", width=32, height=24, time_base=Fraction(1, 25), codec="ffv1") as writer:
        for index, pixels in enumerate(frames):
            writer.write(Frame(pixels, bit_depth=8, pts=index, duration=1))
    measured = calibrate(checkpoint, [tmp_path / "clip.mkv"]).statistics
    model = instantiate(checkpoint, name="reference")
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.inference_mode():
        latent = model.encode(pixels).mean[0].flatten(1).double()
    assert measured is not None
    np.testing.assert_allclose(measured.mean, latent.mean(1), atol=1e-5)
    np.testing.assert_allclose(measured.std, latent.std(1, correction=0), rtol=1e-4)
