"""A folder of short clips, encoded once in each way that latents can be kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from cvcodec.codec import EncodeOptions
from cvcodec.dataset.batch import Job, run_batch, settings_id
from cvcodec.dataset.local_engine import run_local
from cvcodec.dataset.sources import find_clips
from cvcodec.model.base import VideoAutoencoder
from tests.dataset.small import save_small_model, write_clip

LENGTHS = (9, 41, 30, 3, 25)
"""Frames of each clip: 3, 11, 9, 2 and 7 latents."""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoAutoencoder:
    return save_small_model(tmp_path_factory.mktemp("model") / "small.safetensors", scaling_factor=0.5)


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
