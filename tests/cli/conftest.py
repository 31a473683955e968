"""A folder to run commands in, made once for all tests of encode, decode and what they refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.programs import COUNT, HEIGHT, WIDTH
from tests.cli.programs import cvcodec as run
from tests.codec.clips import smooth, write_rgb
from tests.codec.models import save_model, tiny_mini


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip `in.mkv`, a model's weights `tiny.safetensors`, the clip encoded, `a.cvl`, and what encode said of it."""
    path = tmp_path_factory.mktemp("cli")
    save_model(path / "tiny.safetensors", tiny_mini())
    write_rgb(str(path / "in.mkv"), smooth(COUNT, HEIGHT, WIDTH), container="matroska")
    outcome = run("encode", path / "in.mkv", path / "a.cvl", "-w", path / "tiny.safetensors", "--json")
    assert outcome.code == 0, outcome.err
    (path / "encode.json").write_text(outcome.out)
    return path


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with copies of the model, the clip and its .cvl file and nothing else."""
    for name in ("tiny.safetensors", "in.mkv", "a.cvl"):
        shutil.copyfile(folder / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
