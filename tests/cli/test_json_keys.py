"""`--json`: on every command, and with the keys that docs/json.md documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cvcodec.cli.app import app
from tests.cli.programs import ROOT
from tests.cli.programs import cvcodec as run
from tests.codec.clips import smooth, write_rgb
from tests.codec.models import save_model, tiny_mini


def leaves(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All commands that do something, by their full names."""
    if not hasattr(command, "commands"):
        yield name.strip(), command
        return
    for word, inner in command.commands.items():
        yield from leaves(inner, f"{name} {word}")


@pytest.mark.parametrize(("name", "command"), list(leaves(typer.main.get_command(app))))
def test_every_command_takes_json(name: str, command: Any) -> None:
    assert any("--json" in parameter.opts for parameter in command.params)


def documented(command: str) -> set[str]:
    """The keys in a row of the table."""
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{command}` \|(.*)\|$", text, re.MULTILINE)
    without_objects = re.sub(r"\(objects of [^)]*\)", "", row)
    return set(re.findall(r"`([a-z_]+)`", without_objects))


def test_what_the_main_commands_print_is_what_is_documented(tmp_path: Path) -> None:
    weights = save_model(tmp_path / "tiny.safetensors", tiny_mini())
    write_rgb(str(tmp_path / "in.mkv"), smooth(14, 24, 32), container="matroska")
    file = tmp_path / "a.cvl"
    calls = {
        "encode": ["encode", tmp_path / "in.mkv", file, "-w", weights],
        "decode": ["decode", file, tmp_path / "out.mp4", "-w", weights],
        "decode --preview": ["decode", "--preview", file, tmp_path / "sheet.png", "-w", weights],
        "eval": ["eval", file, "--reference", tmp_path / "in.mkv", "-w", weights, "--metrics", "psnr,ssim"],
        "info": ["info", file],
    }
    for name, words in calls.items():
        outcome = run(*words, "--json")
        assert outcome.code == 0, outcome.err
        assert set(outcome.record) == documented(name) - {"target", "target_value"}, name
