"""`cvcodec models`: what a person and a script see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from cvcodec.checkpoints import registry
from cvcodec.checkpoints.checkpoint import load_checkpoint, make_checkpoint, write_checkpoint
from cvcodec.cli.models import app
from cvcodec.errors import InputError, OutputError, UsageError
from cvcodec.model import build_model
from cvcodec.model.mini import mini_config
from tests.checkpoints.official_shapes import autoencoder
from tests.fixtures.parity.weights import stand_in_weights


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user folder, and a release that bundles one tiny model."""
    config = mini_config(4, widths=(8, 8, 8))
    torch.manual_seed(0)
    card = {
        "licence": "Apache-2.0",
        "source": "trained from a PCA start",
        "data": "[red]clips[/red]",
        "quality": {"psnr_db": 33.25},
    }
    bundled = tmp_path / "bundled"
    bundled.mkdir()
    state = build_model(config).state_dict()
    write_checkpoint(
        bundled / "cvvae-mini-z4-v1.safetensors", make_checkpoint(config, state, statistics=None, card=card)
    )
    monkeypatch.setattr(registry, "bundled_folders", lambda: [bundled])
    monkeypatch.setenv("CVCODEC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An official-style folder of a tiny z = 4 model."""
    place = tmp_path / "vae3d"
    place.mkdir()
    shapes = autoencoder((32, 32, 32, 32), 1, 4, style="ldm", dims=3)
    tensors = {name: torch.from_numpy(value) for name, value in stand_in_weights(shapes).items()}
    save_file(tensors, place / "diffusion_pytorch_model.safetensors")
    return place


def run(*arguments: object) -> Result:
    """Run and fail on any error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def error_of(*arguments: object) -> BaseException:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is not None
    return result.exception


def records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_folder_is_added_under_its_own_name_then_listed_shown_and_removed(home: Path, source: Path) -> None:
    added = run("add", source, "--json", "--dtype", "fp16")
    (record,) = records(added)
    assert (record["name"], record["added"], record["dtype"], record["statistics"]) == (
        "vae3d",
        True,
        "fp16",
        "published",
    )
    assert "no config.json" in added.stderr
    assert load_checkpoint(home / "models" / "vae3d.safetensors").latent_space_id == record["latent_space_id"]

    listed = {entry["name"]: entry for entry in records(run("list", "--json"))}
    assert list(listed) == ["cvvae-mini-z4-v1", "vae3d"]
    assert (listed["vae3d"]["latent_channels"], listed["vae3d"]["bundled"]) == (4, False)
    assert listed["cvvae-mini-z4-v1"]["licence"] == "Apache-2.0"
    assert listed["vae3d"]["decoder_hash"] == record["decoder_hash"]

    (shown,) = records(run("show", "vae3d", "--json"))
    assert shown["card"]["source"] == "vae3d"
    assert shown["std"] == pytest.approx([1 / 0.18215] * 4)

    assert "confirm with -y" in str(error_of("remove", "vae3d"))
    run("remove", "vae3d", "-y")
    assert [entry["name"] for entry in records(run("list", "--json"))] == ["cvvae-mini-z4-v1"]


@pytest.mark.parametrize("columns", ["40", "200"])
def test_people_see_names_sizes_hashes_and_licences(home: Path, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    (record,) = records(run("list", "--json"))
    table = run("list").stdout
    for wanted in ("cvvae-mini-z4-v1", record["latent_space_id"], record["decoder_hash"], "Apache-2.0", "bundled"):
        assert wanted in table


@pytest.mark.parametrize("command", [[], ["add"], ["list"], ["show"], ["remove"]])
def test_help_can_be_printed(command: list[str]) -> None:
    assert "Usage" in run(*command, "--help").stdout


def test_a_card_is_shown_as_written_with_its_measured_quality(home: Path) -> None:
    shown = run("show", "cvvae-mini-z4").stdout
    for wanted in ("Apache-2.0", "trained from a PCA start", "[red]clips[/red]", "33.25", "(verified)"):
        assert wanted in shown


def test_adding_twice_changes_nothing_and_other_weights_need_another_name(home: Path, source: Path) -> None:
    run("add", source, "--name", "mine")
    assert "nothing changed" in run("add", source, "--name", "mine").stderr
    assert isinstance(error_of("add", source, "--name", "mine", "--dtype", "fp16", "-y"), OutputError)


def test_an_output_file_is_written_instead_and_not_over_another(home: Path, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "own.safetensors"
    run("add", source, "--output", output)
    assert load_checkpoint(output).card["name"] == "own"
    assert not (home / "models").exists()
    before = output.read_bytes()
    assert "exists; use -y" in str(error_of("add", source, "--output", output, "--dtype", "fp16"))
    assert output.read_bytes() == before
    run("add", source, "--output", output, "--dtype", "fp16", "-y")
    assert output.stat().st_size < 0.6 * len(before)
    assert "is the source itself" in str(error_of("add", output, "--output", output, "-y"))


def test_options_that_do_not_fit_together_are_refused_before_any_work(home: Path, source: Path, tmp_path: Path) -> None:
    assert isinstance(error_of("add", "absent", "--name", "a", "--output", "b"), UsageError)
    assert "clips go with --calibrate" in str(error_of("add", "absent", "clip.mp4"))
    assert "no such file" in str(error_of("add", "absent", "--calibrate", tmp_path / "absent.mp4"))
    assert "belongs to a bundled model" in str(error_of("add", "absent", "--name", "cvvae-mini-z4"))
    assert isinstance(error_of("add", tmp_path / "absent"), InputError)
    assert "no model is called 'vae3d'" in str(error_of("remove", "vae3d"))


def test_calibration_clips_come_as_a_shell_pattern_or_a_folder_and_set_the_statistics(
    home: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("a.mp4", "b.mkv", "notes.txt"):
        (clips / name).touch()
    seen: list[str] = []

    def encoded_latents(path: Path, model: object) -> list[torch.Tensor]:
        seen.append(path.name)
        return [torch.full((1, 4, 1, 2, 2), value) for value in (-3.0, 3.0)]

    monkeypatch.setattr("cvcodec.codec.calibration.encoded_latents", encoded_latents)
    run("add", source, "--name", "one", "--calibrate", clips / "a.mp4", clips / "b.mkv", "--device", "cpu")
    run("add", source, "--name", "two", "--calibrate", clips, "--device", "cpu")
    assert seen == ["a.mp4", "b.mkv"] * 2
    (shown,) = records(run("show", "two", "--json"))
    assert (shown["statistics"], shown["mean"], shown["std"]) == ("measured", [0.0] * 4, [3.0] * 4)


def test_a_damaged_file_does_not_hide_the_other_models(home: Path) -> None:
    (home / "models").mkdir(parents=True)
    (home / "models" / "broken.safetensors").write_bytes(b"junk")
    listed = {entry["name"]: entry for entry in records(run("list", "--json"))}
    assert listed["cvvae-mini-z4-v1"]["problem"] is None
    assert "not a readable safetensors file" in listed["broken"]["problem"]
    people = run("list")
    assert "damaged" in people.stdout
    assert "not a readable safetensors file" in people.stderr


def test_an_empty_installation_says_how_to_add_a_model(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "bundled_folders", list)
    assert "cvcodec models add" in run("list").stdout
