"""Every command line of the README names a real command and real options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from cvcodec.cli.app import app

README = Path(__file__).resolve().parent.parent / "README.md"


def command_lines() -> list[str]:
    """The calls of cvcodec in indented blocks, one pipe member each, comments left out."""
    found = []
    for line in README.read_text(encoding="utf-8").splitlines():
        if line.startswith("    ") and "cvcodec" in line:
            for part in line.split(" # ")[0].split("|"):
                if part.strip().startswith("cvcodec "):
                    found.append(part.strip())
    return found


def test_the_readme_shows_the_main_commands() -> None:
    shown = {shlex.split(line)[1] for line in command_lines()}
    assert {"encode", "decode", "eval", "info", "models", "train", "batch", "export", "bench"} <= shown


@pytest.mark.parametrize("line", command_lines())
def test_a_command_line_of_the_readme_is_one_the_program_takes(line: str) -> None:
    words = shlex.split(line)[1:]
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"{words[0]} is no command"
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
    assert [word for word in given if word not in options] == []
