"""Models by name: where they are looked for, versions, and that a name never changes what it stands for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cvcodec.checkpoints import registry
from cvcodec.checkpoints.checkpoint import Checkpoint, load_checkpoint, make_checkpoint, write_checkpoint
from cvcodec.checkpoints.registry import add_model, find_model, list_models, load_model, remove_model, resolve
from cvcodec.errors import CheckpointError, InputError, OutputError, UsageError
from cvcodec.model import build_model
from cvcodec.model.mini import mini_config
from cvcodec.quantization import LatentStatistics

SMALL = {"widths": (8, 8, 8), "encoder_blocks": (0, 0, 1), "decoder_blocks": (0, 0, 1)}
CONFIG = mini_config(4, **SMALL, encoder_temporal=(0, 0, 1), decoder_temporal=(0, 0, 1))


def tiny(seed: int) -> Checkpoint:
    torch.manual_seed(seed)
    state = {
        name: torch.randn(tensor.shape).half().float() for name, tensor in build_model(CONFIG).state_dict().items()
    }
    return make_checkpoint(CONFIG, state, statistics=None, card={"licence": "MIT"})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user folder, and a release that bundles cvvae-mini-z4-v1, -v2 and -v10."""
    bundled = tmp_path / "bundled"
    bundled.mkdir()
    for version in (1, 2, 10):
        write_checkpoint(bundled / f"cvvae-mini-z4-v{version}.safetensors", tiny(version))
    monkeypatch.setattr(registry, "bundled_folders", lambda: [bundled])
    monkeypatch.setenv("CVCODEC_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# ------------------------------------------------------------------------------------------------ places


def test_weights_of_a_checkout_and_of_an_installed_package_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "cvcodec"
    (package / "weights").mkdir(parents=True)
    (package.parent / "weights").mkdir()  # of another project: not a checkout
    monkeypatch.setattr(registry, "__file__", str(package / "checkpoints" / "registry.py"))
    assert registry.bundled_folders() == [package / "weights"]
    (package.parent / "pyproject.toml").touch()
    assert registry.bundled_folders() == [package.parent / "weights", package / "weights"]


def test_the_data_folder_is_the_platforms_unless_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CVCODEC_HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    expected = {
        "linux": Path("/home/me/.local/share/cvcodec"),
        "darwin": Path("/home/me/Library/Application Support/cvcodec"),
        "win32": Path("/home/me/AppData/Local/cvcodec"),
    }
    for platform, folder in expected.items():
        monkeypatch.setattr(sys, "platform", platform)
        assert registry.user_data_folder() == folder
    monkeypatch.setenv("CVCODEC_HOME", str(tmp_path))
    assert registry.user_data_folder() == tmp_path


# ------------------------------------------------------------------------------------------------ look up


def test_a_name_without_version_is_the_newest_by_number(home: Path) -> None:
    assert resolve("cvvae-mini-z4").name == "cvvae-mini-z4-v10"
    assert resolve("cvvae-mini-z4-v2").name == "cvvae-mini-z4-v2"
    assert find_model("cvvae-mini-z4-v3") is None


def test_models_are_listed_bundled_first_and_by_version(home: Path) -> None:
    add_model("a-model", tiny(5))
    assert [(entry.name, entry.bundled) for entry in list_models()] == [
        ("cvvae-mini-z4-v1", True),
        ("cvvae-mini-z4-v2", True),
        ("cvvae-mini-z4-v10", True),
        ("a-model", False),
    ]


def test_a_path_is_taken_as_it_is_and_a_name_goes_before_a_file(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cvvae-mini-z4"
    write_checkpoint(file, tiny(7))
    monkeypatch.chdir(tmp_path)
    assert resolve("cvvae-mini-z4").bundled
    assert resolve("./cvvae-mini-z4").path == Path("cvvae-mini-z4")
    assert resolve(file).path == file
    assert load_model(file).latent_space_id == tiny(7).latent_space_id


def test_an_unknown_name_lists_the_known_ones(home: Path) -> None:
    with pytest.raises(
        InputError, match=r"no model is called 'cvvae-z5' .*known models: cvvae-mini-z4-v1, cvvae-mini-z4-v2"
    ):
        resolve("cvvae-z5")
    with pytest.raises(InputError, match=r"^no weights file other\.safetensors$"):
        resolve("other.safetensors")


def test_load_model_gives_the_named_weights_in_the_wanted_type(home: Path) -> None:
    model = load_model("cvvae-mini-z4", dtype=torch.bfloat16)
    assert model.name == "cvvae-mini-z4-v10"
    assert model.latent_space_id == tiny(10).latent_space_id
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    expected = tiny(10).state_dict
    assert all(torch.equal(tensor, expected[name].bfloat16()) for name, tensor in model.state_dict().items())


# ------------------------------------------------------------------------------------------------ add, remove


def test_an_added_model_loads_by_name_and_records_it(home: Path) -> None:
    entry, new = add_model("mine", tiny(3))
    assert new
    assert entry.path == home / "models" / "mine.safetensors"
    assert load_checkpoint(entry.path).card == {"licence": "MIT", "name": "mine"}
    assert load_model("mine").latent_space_id == tiny(3).latent_space_id


def test_adding_the_same_content_again_changes_nothing(home: Path) -> None:
    entry, _ = add_model("mine", tiny(3))
    before = (entry.path.read_bytes(), entry.path.stat().st_mtime_ns)
    assert add_model("mine", tiny(3)) == (entry, False)
    assert add_model("mine", tiny(3), dtype=torch.float16) == (entry, False)  # these values are exact in fp16
    assert (entry.path.read_bytes(), entry.path.stat().st_mtime_ns) == before


def test_a_name_never_changes_its_content(home: Path) -> None:
    entry, _ = add_model("mine", tiny(3))
    before = entry.path.read_bytes()
    measured = LatentStatistics(mean=(0.0,) * 4, std=(2.0,) * 4)
    same_weights = make_checkpoint(CONFIG, tiny(3).state_dict, statistics=measured, card={})
    for other in (tiny(4), same_weights):
        with pytest.raises(
            OutputError, match=r"never changes content; choose a new name such as mine-v2, or first: cvcodec"
        ):
            add_model("mine", other)
    assert entry.path.read_bytes() == before
    assert [path.name for path in entry.path.parent.iterdir()] == ["mine.safetensors"]
    add_model("mine-v2", tiny(4))
    assert resolve("mine").name == "mine"  # the exact name goes before newer versions


def test_a_damaged_file_under_the_name_is_not_replaced(home: Path) -> None:
    entry, _ = add_model("mine", tiny(3))
    entry.path.write_bytes(b"damaged")
    with pytest.raises(OutputError, match="never changes content"):
        add_model("mine", tiny(3))


@pytest.mark.parametrize(
    "name",
    ["", "-a", "a-", "A", "a b", "a/b", "..", "a..b", "../a", "a.safetensors", "nul", "con.x", "ü", "a" * 65, "a\n"],
)
def test_names_that_are_unsafe_or_unclear_are_refused(home: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no model name"):
        add_model(name, tiny(3))
    assert not (home / "models").exists()


@pytest.mark.parametrize("name", ["cvvae-mini-z4", "cvvae-mini-z4-v2", "cvvae-mini-z4-v11"])
def test_the_names_of_bundled_models_and_their_versions_are_reserved(home: Path, name: str) -> None:
    with pytest.raises(UsageError, match="belongs to a bundled model"):
        add_model(name, tiny(3))


def test_a_release_that_bundles_a_name_the_user_has_goes_first(home: Path, tmp_path: Path) -> None:
    entry, _ = add_model("later", tiny(3))
    shutil.copy(entry.path, tmp_path / "bundled" / "later.safetensors")
    assert [(entry.name, entry.bundled) for entry in list_models()].count(("later", True)) == 1
    assert resolve("later").bundled


def test_only_added_models_can_be_removed_and_only_by_their_full_name(home: Path) -> None:
    entry, _ = add_model("mine-v1", tiny(3))
    with pytest.raises(UsageError, match=r"no model is called 'mine'; added models: mine-v1"):
        remove_model("mine")
    with pytest.raises(UsageError, match="bundled model and cannot be removed"):
        remove_model("cvvae-mini-z4-v1")
    assert remove_model("mine-v1") == entry.path
    assert not entry.path.exists()


def test_a_file_that_is_not_weights_does_not_load_by_name(home: Path) -> None:
    (home / "models").mkdir(parents=True)
    (home / "models" / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_model("junk")


@pytest.mark.skipif(os.name == "nt", reason="POSIX homes")
def test_without_a_home_there_are_the_bundled_models_and_adding_says_what_is_missing() -> None:
    code = """
import os, pwd
for name in ("HOME", "XDG_DATA_HOME", "CVCODEC_HOME"):
    os.environ.pop(name, None)
def nobody(number):
    raise KeyError(number)
pwd.getpwuid = nobody
from cvcodec.checkpoints import registry
from cvcodec.errors import UsageError
print(registry.user_data_folder(), len(registry.list_models()) > 0)
try:
    registry.add_model("mine", None)
except UsageError as error:
    print(error)
"""
    first, second = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert first == "None True"
    assert "CVCODEC_HOME" in second
