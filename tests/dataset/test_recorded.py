"""What stands beside exported latents is checked before anything is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import cvcodec
from cvcodec.dataset.exporting import export_file
from cvcodec.dataset.importing import import_latents
from cvcodec.errors import InputError
from tests.codec.clips import smooth, write_rgb
from tests.codec.patch_model import PatchModel

FRAMES = 12


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `x.npy`, `x.npy.json` and `x.safetensors`, all of one clip."""
    folder = tmp_path_factory.mktemp("recorded")
    write_rgb(str(folder / "in.mkv"), smooth(FRAMES, 16, 16), container="matroska")
    options = cvcodec.EncodeOptions(latents="fp32", device="cpu", precision="fp32")
    cvcodec.encode_file(folder / "in.mkv", folder / "x.cvl", model=PatchModel(), options=options)
    for name in ("x.npy", "x.safetensors"):
        export_file(folder / "x.cvl", folder / name)
    return folder


def beside(exported: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((exported / "x.npy.json").read_text())
    return values


def refused(exported: Path, tmp_path: Path, text: str) -> str:
    """What the import of the array with this text beside it says; it leaves nothing behind."""
    (tmp_path / "x.npy").write_bytes((exported / "x.npy").read_bytes())
    (tmp_path / "x.npy.json").write_text(text)
    with pytest.raises(InputError) as error:
        import_latents(tmp_path / "x.npy", tmp_path / "y.cvl")
    assert not (tmp_path / "y.cvl").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


PTS = list(range(FRAMES))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("pts", 5, "pts are () int64, wanted (frames,) integers"),
        ("pts", [float(n) for n in PTS], "float64, wanted (frames,) integers"),
        ("pts", [[n] for n in PTS], "pts are (12, 1) int64"),
        ("pts", [str(n) for n in PTS], "wanted (frames,) integers"),
        ("pts", [True] * FRAMES, "pts are (12,) bool"),
        ("pts", [2**70] * FRAMES, "wanted (frames,) integers"),
        ("pts", [2**63] * FRAMES, "its pts reach from 9223372036854775808"),
        ("pts", [], "pts are (0,)"),
        ("pts", {"0": 1}, "wanted (frames,) integers"),
        ("pts", PTS[:5], "5 pts, 12 durations, 12 flags, wanted as many"),
        ("durations", [1] * 3, "12 pts, 3 durations, 12 flags, wanted as many"),
        ("durations", [-2] * FRAMES, "its durations reach from -2 to -2, wanted -1"),
        ("flags", [256] * FRAMES, "its flags reach from 256 to 256, wanted 0 to 255"),
        ("flags", [[0], [0, 0]], "inhomogeneous"),
    ],
    ids=range(14),
)
def test_times_that_cannot_be_are_refused(exported: Path, tmp_path: Path, name: str, value: object, words: str) -> None:
    assert words in refused(exported, tmp_path, json.dumps({**beside(exported), name: value}))
    # The same in a .safetensors file, as far as it can hold it.
    array = np.asarray(value) if name != "flags" or "inhomogeneous" not in words else np.zeros(0)
    if array.dtype.kind not in "fiub":
        return
    with safe_open(exported / "x.safetensors", framework="np") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()} | {name: array}  # noqa: SIM118
        save_file(tensors, tmp_path / "x.safetensors", metadata=file.metadata())
    with pytest.raises(InputError, match="cannot be read as latents"):
        import_latents(tmp_path / "x.safetensors", tmp_path / "z.cvl")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target", 7),
        ("target", ["raw"]),
        ("mode", "film"),
        ("mode", {}),
        ("frames", "12"),
        ("frames", 0),
        ("frames", 2**80),
        ("frames", True),
        ("frames", 12.5),
        ("chunks", 3),
        ("chunks", ["3"]),
        ("chunks", [0, 3]),
        ("chunks", [5000]),
        ("chunks", {"3": 1}),
    ],
)
def test_a_description_that_no_export_writes_is_refused(
    exported: Path, tmp_path: Path, name: str, value: object
) -> None:
    values = beside(exported)
    values["cvcodec.export"][name] = value
    assert f"its description says {name} = " in refused(exported, tmp_path, json.dumps(values))


@pytest.mark.parametrize("name", ["cvcodec.header", "pts", "flags"])
def test_what_is_missing_beside_it_is_named(exported: Path, tmp_path: Path, name: str) -> None:
    values = beside(exported)
    del values[name]
    assert f"x.npy.json beside it has no {name}; remove it" in refused(exported, tmp_path, json.dumps(values))


def test_a_tensor_of_times_that_is_missing_is_named(exported: Path, tmp_path: Path) -> None:
    with safe_open(exported / "x.safetensors", framework="np") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if key != "durations"}  # noqa: SIM118
        save_file(tensors, tmp_path / "x.safetensors", metadata=file.metadata())
    with pytest.raises(InputError, match="without durations"):
        import_latents(tmp_path / "x.safetensors", tmp_path / "z.cvl")


def test_what_an_export_wrote_is_taken_as_it_is(exported: Path, tmp_path: Path) -> None:
    for name in ("x.npy", "x.safetensors"):
        assert import_latents(exported / name, tmp_path / "y.cvl", overwrite=True).frames == FRAMES
        with cvcodec.open(exported / "x.cvl") as one, cvcodec.open(tmp_path / "y.cvl") as other:
            assert np.array_equal(one.pts(0, FRAMES), other.pts(0, FRAMES))
            assert np.array_equal(one.latents[:], other.latents[:])
