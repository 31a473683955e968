"""`import cvcodec`: light, every name it promises is there, and `cvcodec.open` finds the model a file names."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import cvcodec
from cvcodec.errors import BitstreamError, InputError, ModelMismatchError
from cvcodec.model import build_model
from cvcodec.model.mini import mini_config


def test_importing_the_package_imports_neither_torch_nor_av_nor_numpy() -> None:
    code = "import sys, cvcodec; print(sorted({'torch', 'av', 'numpy', 'rich', 'typer'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("name", cvcodec.__all__)
def test_every_public_name_exists_and_is_listed(name: str) -> None:
    assert getattr(cvcodec, name) is not None
    assert name in dir(cvcodec)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'cvcodec' has no attribute 'no_such_name'"):
        _ = cvcodec.no_such_name


def save_model(path: Path, seed: int) -> Path:
    from cvcodec.checkpoints.checkpoint import save_checkpoint

    torch.manual_seed(seed)
    save_checkpoint(path, build_model(mini_config(4, **SMALL)), statistics=None, card={"name": path.stem})
    return path


SMALL = {"widths": (8, 8, 8), "encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1)}
SMALL |= {"encoder_temporal": (0, 0, 1), "decoder_temporal": (0, 0, 1)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clip.mkv (11 frames, 24x16), ours.safetensors, other.safetensors and clip.cvl made by ours."""
    folder = tmp_path_factory.mktemp("package")
    with av.open(folder / "clip.mkv", "w") as container:
        stream = container.add_stream("ffv1", rate=25, width=24, height=16)
        stream.pix_fmt = "bgr0"
        for number in range(11):
            picture = np.random.default_rng(number).integers(0, 256, (16, 24, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    save_model(folder / "other.safetensors", 2)
    model = cvcodec.load_model(save_model(folder / "ours.safetensors", 1))
    cvcodec.encode_file(folder / "clip.mkv", folder / "clip.cvl", model=model)
    return folder


def test_an_opened_file_gives_latents_without_any_model(files: Path) -> None:
    with cvcodec.open(files / "clip.cvl") as file:
        assert (file.header.width, file.header.height) == (24, 16)
        assert file.latents[0:2].shape == (4, 2, 2, 3)


def test_frames_come_from_a_model_that_is_loaded_named_or_the_one_the_file_names(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files / "ours.safetensors"
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "ours.safetensors").write_bytes(path.read_bytes())
    monkeypatch.setenv("CVCODEC_HOME", str(tmp_path))
    frames = []
    for model in (cvcodec.load_model(path), path, None):
        with cvcodec.open(files / "clip.cvl", model=model, precision="fp32") as file:
            frames.append(file.frames[9:11])
    assert frames[0].shape == (2, 16, 24, 3)
    assert np.array_equal(frames[0], frames[1])
    assert np.array_equal(frames[0], frames[2])


def test_another_models_frames_are_refused(files: Path) -> None:
    with cvcodec.open(files / "clip.cvl", model=files / "other.safetensors") as file:
        with pytest.raises(ModelMismatchError):
            _ = file.frames[0:1]


def test_what_cannot_be_opened_is_an_error_of_ours(files: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        cvcodec.open(files / "absent.cvl")
    with pytest.raises(BitstreamError):
        cvcodec.open(files / "clip.mkv")
