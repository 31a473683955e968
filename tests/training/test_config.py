"""The config: TOML in and out, checks that name what is wrong."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cvcodec.errors import InputError, UsageError
from cvcodec.training.config import JOB_DEFAULTS, BatchShape, TrainConfig, check_values, read_config_file

LEAST: dict[str, Any] = {"output": "run", "data": ("folder",), "steps": 10, "batches": ("2x5x32",)}


def test_a_config_survives_toml(tmp_path: Path) -> None:
    config = TrainConfig(**LEAST, kl_weight=0.5, betas=(0.5, 0.75), mapping="slice", name='a "b" \\ c')
    text = config.to_toml()
    assert tomllib.loads(text)["loss"]["kl_weight"] == 0.5
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    assert TrainConfig(**read_config_file(tmp_path / "c.toml")) == config


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
        ({"log_every": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(**{**LEAST, **changes})


def test_batch_specifications_are_read_in_full() -> None:
    assert BatchShape.parse("16x1x128*0.25@0.6") == BatchShape(16, 1, 128, 0.25, 0.6)
    assert BatchShape.parse("3x9x64") == BatchShape(3, 9, 64, 1.0, 0.0)


def test_the_papers_weights_are_the_defaults_of_its_loss() -> None:
    paper, codec = TrainConfig(**LEAST, loss="paper"), TrainConfig(**LEAST)
    assert (paper.resolved_kl_weight, paper.resolved_perceptual_weight, paper.resolved_adversarial_weight) == (
        1,
        0.5,
        0.5,
    )
    assert (codec.resolved_perceptual_weight, codec.resolved_adversarial_weight) == (0, 0)
    assert TrainConfig(**LEAST, loss="paper", kl_weight=0.0).resolved_kl_weight == 0


def test_every_field_has_a_help_text_and_a_panel_and_job_defaults_are_valid() -> None:
    for field in dataclasses.fields(TrainConfig):
        assert field.metadata["help"].endswith(".") or field.metadata["help"].endswith(")")
        assert field.metadata["panel"]
    for job, defaults in JOB_DEFAULTS.items():
        assert TrainConfig(**{**LEAST, **check_values(defaults, where=job)}).batch_shapes
