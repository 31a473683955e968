"""`--store-logvar`: the log-variance of the posterior, kept beside latents that it does not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import cvcodec
from cvcodec.codec import EncodeOptions, encode_file
from cvcodec.codec.runner import frames_to_tensor, normalise
from cvcodec.errors import UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.video import VideoReader
from tests.dataset.small import save_small_model, write_clip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoAutoencoder:
    return save_small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


@torch.no_grad()
@pytest.mark.parametrize("latents", ["quantised", "fp16", "fp32"])
def test_it_is_the_models_own_rounded_to_half_precision_and_the_latents_stay_as_they_are(
    model: VideoAutoencoder, tmp_path: Path, latents: str
) -> None:
    clip = write_clip(tmp_path / "x.mkv", frames=29, size=(40, 24))
    for name, keep in (("with", True), ("without", False)):
        options = EncodeOptions(
            latents=latents,  # type: ignore[arg-type]
            store_logvar=keep,
            window=3,
            device="cpu",
            precision="fp32",
        )
        encode_file(clip, tmp_path / f"{name}.cvl", model=model, options=options)
    with VideoReader(clip) as reader:
        pixels = normalise(frames_to_tensor([frame.pixels for frame in reader]), 8)
    wanted = model.encode(pixels).logvar[0].numpy()
    assert np.ptp(wanted) > 0.1, "a constant would prove little"
    with cvcodec.open(tmp_path / "with.cvl") as one, cvcodec.open(tmp_path / "without.cvl") as other:
        assert one.header.logvar
        assert one.logvar.shape == (4, 8, 3, 5)
        np.testing.assert_allclose(one.logvar[:], wanted, rtol=2e-3, atol=2e-3)
        assert np.array_equal(one.logvar[4:7], one.logvar[:][:, 4:7])
        assert np.array_equal(one.logvar[-1], one.logvar[:][:, -1])
        assert np.array_equal(one.latents[:], other.latents[:])
        with pytest.raises(UsageError, match="--store-logvar"):
            other.logvar[0]
