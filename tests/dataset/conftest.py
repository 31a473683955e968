"""A weights file, a few clips, and a folder of them encoded in each way that latents can be kept, made once."""

from pathlib import Path

import pytest

from cvcodec.checkpoints.registry import load_model
from cvcodec.codec import EncodeOptions
from cvcodec.dataset.batch import Job, run_batch, settings_id
from cvcodec.dataset.local_engine import run_local
from cvcodec.dataset.sources import find_clips
from cvcodec.model.base import VideoAutoencoder
from tests.dataset.small import save_small_model, write_clip

LENGTHS = (9, 41, 30, 3, 25)
"""Frames of each clip of `folders`: 3, 11, 9, 2 and 7 latents."""


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_small_model(path, scaling_factor=0.5)
    return path


@pytest.fixture(scope="session")
def model(weights: Path) -> VideoAutoencoder:
    return load_model(weights)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of two lengths in two folders."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(6):
        write_clip(folder / ("a" if number % 2 else "b/c") / f"clip {number}.mkv", frames=9 + number % 3, seed=number)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, model: VideoAutoencoder) -> dict[str, Path]:
    """By kind of latents: what `cvcodec batch` leaves. fp16 keeps log-variances and columns."""
    root = tmp_path_factory.mktemp("data")
    rows = ["path,caption"]
    for number, frames in enumerate(LENGTHS):
        write_clip(root / f"v/{number}.mkv", frames=frames, size=(32, 24), seed=number)
        rows.append(f"v/{number}.mkv,clip {number}")
    (root / "m.csv").write_text("\n".join(rows))
    for kind in ("quantised", "fp16", "fp32"):
        options = EncodeOptions(
            device="cpu",
            precision="fp32",
            latents=kind,  # type: ignore[arg-type]
            store_logvar=kind == "fp16",
            window=4,
        )
        job = Job(out=str(root / kind), options=options, settings=settings_id(model, options))
        summary = run_batch(
            find_clips([root / "m.csv"]), job, lambda tasks, job=job: run_local(tasks, job, model, devices="cpu")
        )
        assert summary.encoded == len(LENGTHS)
    return {kind: root / kind for kind in ("quantised", "fp16", "fp32")}
