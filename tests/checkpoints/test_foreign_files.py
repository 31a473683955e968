"""Finding and reading weights: folders, files, pickles, and a loopback stand-in for the Hugging Face hub."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cvcodec.checkpoints.foreign_files import open_source, suggested_name
from cvcodec.errors import CheckpointError, InputError

TENSORS = {"encoder.conv_in.weight": torch.arange(6.0).reshape(2, 3)}


def folder(path: Path, *names: str, config: dict[str, object] | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name.endswith(".safetensors"):
            save_file(TENSORS, path / name)
        else:
            torch.save(TENSORS, path / name)
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


# ------------------------------------------------------------------------------------------------ folders and files


def test_a_diffusers_folder_gives_its_safetensors_and_config(tmp_path: Path) -> None:
    place = folder(
        tmp_path / "vae3d",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.safetensors",
        "cv_vae.ckpt",
        config={"_class_name": "CVVAEModel"},
    )
    source = open_source(str(place))
    assert source.file == place / "diffusion_pytorch_model.safetensors"
    assert source.config == {"_class_name": "CVVAEModel"}
    assert source.label == "vae3d"  # not the folders of the person who imports
    assert torch.equal(source.read_tensors()["encoder.conv_in.weight"], TENSORS["encoder.conv_in.weight"])


def test_a_half_precision_variant_and_a_pipelines_vae_are_found(tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline"
    folder(pipeline / "unet", "diffusion_pytorch_model.safetensors")
    vae = folder(pipeline / "vae", "diffusion_pytorch_model.fp16.safetensors", config={"_class_name": "AutoencoderKL"})
    source = open_source(str(pipeline))
    assert source.file == vae / "diffusion_pytorch_model.fp16.safetensors"
    assert source.config is not None


def test_a_folder_of_several_weights_asks_for_one(tmp_path: Path) -> None:
    place = folder(tmp_path, "a.safetensors", "b.ckpt")
    with pytest.raises(InputError, match=r"2 weights files \(a\.safetensors, b\.ckpt\)"):
        open_source(str(place))
    assert open_source(str(place / "a.safetensors")).file == place / "a.safetensors"


def test_the_licence_comes_from_the_model_card(tmp_path: Path) -> None:
    place = folder(tmp_path, "diffusion_pytorch_model.safetensors")
    (place / "README.md").write_text("---\ntags:\n- video\nlicense: apache-2.0\n---\n\nlicense: none of this\n")
    assert open_source(str(place)).licence == "apache-2.0"


def test_the_config_of_something_else_is_not_taken_for_a_single_file(tmp_path: Path) -> None:
    place = folder(tmp_path, "my.safetensors", config={"_class_name": "UNet2DConditionModel"})
    assert open_source(str(place / "my.safetensors")).config is None
    other = tmp_path / "right.json"
    other.write_text('{"_class_name": "AutoencoderKL"}')
    assert open_source(str(place / "my.safetensors"), config=other).config == {"_class_name": "AutoencoderKL"}


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not JSON"), ("[1]", "not a JSON object"), (" " * 2_000_000, "larger than")]
)
def test_a_damaged_config_is_refused(tmp_path: Path, content: str, message: str) -> None:
    place = folder(tmp_path, "diffusion_pytorch_model.safetensors")
    (place / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        open_source(str(place))


def test_what_is_not_there_or_not_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights at nowhere"):
        open_source("nowhere")
    with pytest.raises(InputError, match="holds no weights"):
        open_source(str(tmp_path))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match="unknown kind of weights"):
        open_source(str(tmp_path / "notes.txt"))
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        open_source(str(tmp_path / "bad.safetensors")).read_tensors()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf://AILab-CVC/CV-VAE/vae3d_v1-1", "vae3d_v1-1"),
        ("hf://stabilityai/sd-vae-ft-mse@main", "sd-vae-ft-mse"),
        ("hf://stabilityai/stable-diffusion-2-1/vae", "stable-diffusion-2-1"),
        ("hf://o/My.Repo/vae/diffusion_pytorch_model.fp16.safetensors", "my.repo"),
        ("/models/Some VAE (v2).ckpt", "some-vae-v2"),
        ("/models/sd15/vae/diffusion_pytorch_model.bin", "sd15"),
        ("/", "model"),
    ],
)
def test_a_name_is_made_from_the_last_telling_part_of_the_address(source: str, name: str) -> None:
    assert suggested_name(source) == name


# ------------------------------------------------------------------------------------------------ pickles


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_checkpoint_is_unwrapped(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": TENSORS, "epoch": 3, "global_step": 7}, file, _use_new_zipfile_serialization=zipped)
    tensors = open_source(str(file)).read_tensors()
    assert list(tensors) == ["encoder.conv_in.weight"]
    assert torch.equal(tensors["encoder.conv_in.weight"], TENSORS["encoder.conv_in.weight"])


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    file, trace = tmp_path / "evil.ckpt", tmp_path / "code-was-run"
    torch.save({"state_dict": TENSORS, "hook": Malicious(trace)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"was refused: .*mkdir.* could run code"):
        open_source(str(file)).read_tensors()
    assert not trace.exists()


def test_a_pickle_is_refused_by_our_sentence_alone(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"a": Fraction(1)}, protocol=4))  # torch has warnings for both
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "b.ckpt"))
    recwarn.clear()
    for name in ("a.ckpt", "b.ckpt"):
        with pytest.raises(CheckpointError, match=name):
            open_source(str(tmp_path / name)).read_tensors()
    assert recwarn.list == []


def test_a_checkpoint_that_is_damaged_or_holds_no_tensors_is_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.ckpt"
    torch.save(TENSORS, good)
    content = good.read_bytes()
    bad = tmp_path / "bad.ckpt"
    for damaged in (b"", b"no pickle at all", content[: len(content) // 2], b"PK\x03\x04" + bytes(50)):
        bad.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            open_source(str(bad)).read_tensors()
    torch.save([1, 2], bad)
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        open_source(str(bad)).read_tensors()


# ------------------------------------------------------------------------------------------------ the hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served as https://huggingface.co would serve it: ROOT/OWNER/REPO/FILE; revisions are ignored but
    checked.
    """
    constants = pytest.importorskip("huggingface_hub.constants")
    root = tmp_path / "hub"
    root.mkdir()
    agents = root / "agents"

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            with agents.open("a") as log:
                log.write(f"{self.headers['User-Agent']}\n")
            owner, repo, _resolve, revision, *inner = self.path.split("?")[0].strip("/").split("/")
            place = root / owner / repo
            file = place.joinpath(*inner)
            if not place.is_dir() or revision not in ("main", "v2"):
                return self.fail(
                    "RepoNotFound" if not place.is_dir() else "RevisionNotFound", 401 if not place.is_dir() else 404
                )
            if not file.is_file():
                return self.fail("EntryNotFound", 404)
            body = file.read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
            self.send_header("ETag", f'"{hash(body) & 0xFFFFFFFF:08x}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)
            return None

        def fail(self, code: str, status: int) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield root
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_subfolder_is_downloaded_from_the_hub_with_its_config_and_licence(hub: Path) -> None:
    folder(
        hub / "AILab-CVC" / "CV-VAE" / "vae3d_v1-1",
        "diffusion_pytorch_model.safetensors",
        config={"_class_name": "CVVAEModel"},
    )
    (hub / "AILab-CVC" / "CV-VAE" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    source = open_source("hf://AILab-CVC/CV-VAE/vae3d_v1-1")
    assert source.config == {"_class_name": "CVVAEModel"}
    assert source.licence == "apache-2.0"
    assert source.label == "hf://AILab-CVC/CV-VAE/vae3d_v1-1"
    assert torch.equal(source.read_tensors()["encoder.conv_in.weight"], TENSORS["encoder.conv_in.weight"])


def test_a_pipelines_vae_and_a_single_file_are_found_on_the_hub(hub: Path) -> None:
    folder(
        hub / "o" / "sd" / "vae", "diffusion_pytorch_model.fp16.safetensors", config={"_class_name": "AutoencoderKL"}
    )
    folder(hub / "o" / "sd", "cv_vae.ckpt")
    assert open_source("hf://o/sd").config == {"_class_name": "AutoencoderKL"}
    source = open_source("hf://o/sd@v2/cv_vae.ckpt")
    assert source.is_pickled
    assert source.licence is None
    assert list(source.read_tensors()) == list(TENSORS)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://o/absent", "no repository o/absent"),
        ("hf://o/sd@other", "has no revision 'other'"),
        ("hf://o/sd/nothing", "holds no diffusion_pytorch_model.safetensors"),
        ("hf://o/sd/nothing.safetensors", "has no file nothing.safetensors"),
        ("hf://justone", "wanted hf://OWNER/REPO"),
        ("hf://o/sd/../../etc", "wanted hf://OWNER/REPO"),
        ("hf://o/sd/./vae3", "wanted hf://OWNER/REPO"),
        ("hf://o/sd@../vae3", "wanted hf://OWNER/REPO"),
        ("hf://o/sd@.", "wanted hf://OWNER/REPO"),
        ("hf://../sd", "wanted hf://OWNER/REPO"),
        ("hf://o/..", "wanted hf://OWNER/REPO"),
    ],
)
def test_what_the_hub_does_not_have_is_a_one_line_error(hub: Path, source: str, message: str) -> None:
    folder(hub / "o" / "sd" / "vae3", "diffusion_pytorch_model.safetensors")
    with pytest.raises(InputError, match=message) as caught:
        open_source(source)
    assert "\n" not in str(caught.value)


def test_the_hub_is_not_told_what_is_installed_here(hub: Path, tmp_path: Path) -> None:
    folder(hub / "o" / "sd" / "vae3", "diffusion_pytorch_model.safetensors")
    code = "import sys; from cvcodec.checkpoints.foreign_files import open_source; open_source('hf://o/sd/vae3')"
    switches = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")
    clean = {name: value for name, value in os.environ.items() if name not in switches}
    subprocess.run([sys.executable, "-c", code], env={**clean, "HF_HOME": str(tmp_path / "home")}, check=True)
    agents = (hub / "agents").read_text().splitlines()
    assert agents
    assert not [agent for agent in agents if "torch" in agent]


def test_a_hub_that_cannot_be_reached_is_a_one_line_error(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Offline mode takes the library's road for an unreachable hub without its half minute of retries.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="cannot reach hf://o/sd") as caught:
        open_source("hf://o/sd")
    assert "\n" not in str(caught.value)
