"""The config: TOML in and out, YAML in, checks that name what is wrong."""

from __future__ import annotations

import math
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cvcodec.errors import InputError, MissingDependencyError, UsageError
from cvcodec.training.config import JOB_DEFAULTS, OPTIONS, BatchShape, TrainConfig, check_values, read_config_file

LEAST: dict[str, Any] = {"output": "run", "data": ("folder",), "steps": 10, "batches": ("2x5x32",)}


def test_a_config_survives_toml(tmp_path: Path) -> None:
    config = TrainConfig.of(**LEAST, kl_weight=0.5, betas=(0.5, 0.75), mapping="slice", name='a "b" \\ c')
    text = config.to_toml()
    assert tomllib.loads(text)["loss"]["kl_weight"] == 0.5
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    assert TrainConfig.of(**read_config_file(tmp_path / "c.toml")) == config


def test_tables_are_flattened_and_numbers_widened(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('steps = 3\ndata = "one"\n[anything]\nrate_weight = 7\nwidths = [8, 16, 24]\n')
    values = read_config_file(tmp_path / "c.toml")
    assert values == {"steps": 3, "data": ("one",), "rate_weight": 7.0, "widths": (8, 16, 24)}
    assert isinstance(values["rate_weight"], float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", "no such setting: stepz"),
        ("steps = 3.5", "steps is 3.5; wanted int"),
        ('steps = "3"', "wanted int"),
        ("resume = 1", "wanted bool"),
        ('mapping = "last"', "wanted one of first, average, slice, random"),
        ("steps = ", "is not TOML"),
        ("steps = 1\n[a]\nsteps = 2", "given twice"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_config_file(tmp_path / "c.toml")


def test_yaml_and_toml_of_the_same_settings_are_the_same_config(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    (tmp_path / "c.toml").write_text(
        'steps = 3\ndata = ["one", "two"]\nkl_weight = 0.5\nbatches = ["3x9x128*0.2@0.6"]\n'
        '[optimiser]\nrate = 1e-3\nepsilon = 1.5e-8\n[model]\nhalf_3d = false\nfreeze = "none"\n'
    )
    (tmp_path / "c.yaml").write_text(
        "# a comment\nsteps: 3\ndata: [one, two]\nkl_weight: 0.5\nbatches:\n  - 3x9x128*0.2@0.6\n"
        "optimiser:\n  rate: 1e-3\n  epsilon: 1.5e-8\nmodel: {half_3d: false, freeze: none}\n"
    )
    values = read_config_file(tmp_path / "c.yaml")
    assert values == read_config_file(tmp_path / "c.toml")
    assert values["rate"] == 0.001
    assert values["epsilon"] == 1.5e-8
    (tmp_path / "empty.YML").write_text("# nothing\n")
    assert read_config_file(tmp_path / "empty.YML") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", "no such setting: stepz"),
        ("steps: 3.5", "steps is 3.5; wanted int"),
        ("steps: '3'", "wanted int"),
        ("mapping: last", "wanted one of first, average, slice, random"),
        ("steps: [1", "is not YAML"),
        ("steps: 1\nsteps: 2", "given twice"),
        ("steps: 1\na:\n  steps: 2", "given twice"),
        ("- steps", "is no config"),
        ("3: 4", "is no config"),
        ("run: {1: 2, foo: 3}", "run holds 1: wanted settings"),
        ("name: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("name: '\udcff'", "is not UTF-8"),
    ],
)
def test_a_bad_yaml_file_is_refused_by_name_on_one_line(tmp_path: Path, text: str, message: str) -> None:
    pytest.importorskip("yaml")
    (tmp_path / "c.yml").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UsageError, match=message) as caught:
        read_config_file(tmp_path / "c.yml")
    assert "\n" not in str(caught.value)


def test_yaml_without_its_package_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "c.yaml").write_text("steps: 3\n")
    with pytest.raises(MissingDependencyError, match=r"cvcodec\[yaml\].*TOML"):
        read_config_file(tmp_path / "c.yaml")


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read config"):
        read_config_file(tmp_path / "c.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "in steps or in minutes"),
        ({"minutes": 1.0}, "in steps or in minutes"),
        ({"output": ""}, "no run folder"),
        ({"data": ()}, "no data"),
        ({"batches": ("2x4x32",)}, r"4k\+1 frames"),
        ({"batches": ("2x5x30",)}, "multiple of 8"),
        ({"batches": ("five",)}, "CLIPSxFRAMESxSIZE"),
        ({"batches": ("2x5x32@0.5",)}, "no batch shape starts at 0"),
        ({"noise_quality": (80.0, 40.0)}, "in order"),
        ({"default_share": 0.9, "wide_share": 0.2}, "sum to more than 1"),
        ({"photo_share": 1.5}, "from 0 to 1"),
        ({"strides": (0,)}, "from 1"),
        ({"steps": -1, "minutes": 1.0}, "steps is -1; wanted a number from 0"),
        ({"rate": math.nan}, "rate is nan; wanted a number from 0"),
        ({"threads": -2}, "threads is -2"),
        ({"betas": (2.0, 3.0)}, "betas are"),
        ({"validation_qualities": (500.0,)}, "from 0 to 100"),
        ({"batches": ("2x5x32*1.2.3",)}, "CLIPSxFRAMESxSIZE"),
        ({"log_every": 0}, "from 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig.of(**{**LEAST, **changes})


def test_batch_specifications_are_read_in_full() -> None:
    assert BatchShape.parse("16x1x128*0.25@0.6") == BatchShape(16, 1, 128, 0.25, 0.6)
    assert BatchShape.parse("3x9x64") == BatchShape(3, 9, 64, 1.0, 0.0)


def test_the_papers_weights_are_the_defaults_of_its_loss() -> None:
    paper, codec = TrainConfig.of(**LEAST, loss="paper").loss, TrainConfig.of(**LEAST).loss
    weights = (paper.resolved_kl_weight, paper.resolved_perceptual_weight, paper.resolved_adversarial_weight)
    assert weights == (1, 0.5, 0.5)
    assert (codec.resolved_perceptual_weight, codec.resolved_adversarial_weight) == (0, 0)
    assert TrainConfig.of(**LEAST, loss="paper", kl_weight=0.0).loss.resolved_kl_weight == 0


def test_every_field_has_a_help_text_and_job_defaults_are_valid() -> None:
    for option in OPTIONS.values():
        assert option.field.metadata["help"].endswith((".", ")"))
    for job, defaults in JOB_DEFAULTS.items():
        assert TrainConfig.of(**{**LEAST, **check_values(defaults, where=job)}).data.batch_shapes
