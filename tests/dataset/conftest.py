"""A weights file and a few clips, made once."""

from pathlib import Path

import pytest

from cvcodec.checkpoints.registry import load_model
from cvcodec.model.base import VideoAutoencoder
from tests.dataset.small import save_small_model, write_clip


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_small_model(path)
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
