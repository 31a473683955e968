"""README and docs: every command line names a real command and real options, every link something that is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from cvcodec.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
HARNESS = ROOT / "benchmarks" / "harness.py"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def command_lines(page: Path) -> list[str]:
    """The calls of cvcodec in indented blocks and in code within sentences, one pipe member each, comments left out."""
    found = []
    for line in page.read_text(encoding="utf-8").splitlines():
        calls = [line] if line.startswith("    ") else re.findall(r"`([^`]*)`", line)
        for call in calls:
            for part in call.split(" # ")[0].split("|"):
                if part.strip().startswith("cvcodec "):
                    found.append(part.strip())
    return found


CALLS = [pytest.param(line, id=f"{page.stem}: {line}") for page in PAGES for line in command_lines(page)]


def test_the_readme_shows_the_main_commands() -> None:
    shown = {shlex.split(line)[1] for line in command_lines(README)}
    assert {"encode", "decode", "eval", "info", "models", "train", "batch", "export", "bench"} <= shown


def test_the_readme_is_at_most_ten_kilobytes() -> None:
    assert len(README.read_bytes()) <= 10_000


@pytest.mark.parametrize("line", CALLS)
def test_a_command_line_is_one_the_program_takes(line: str) -> None:
    words = shlex.split(line)[1:]
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"{words[0]} is no command"
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
    assert [word for word in given if word not in options] == []


def options_of(program: Path) -> set[str]:
    """Every text in a program, and in the modules beside it that it uses, that looks like an option."""
    text = program.read_text(encoding="utf-8")
    used = [
        path for path in program.parent.glob("*.py") if re.search(rf"^(import|from) {path.stem}\b", text, re.MULTILINE)
    ]
    return {option for path in (program, *used, HARNESS) for option in re.findall(r'"(--?[a-z-]+)"', path.read_text())}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_measuring_program_that_is_named_exists_and_has_its_options(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for name, arguments in re.findall(r"python benchmarks/([\w/]+)\.py([^`\n#]*)", text):
        given = {word for word in shlex.split(arguments) if re.match(r"--?[a-zA-Z]", word)}
        assert given <= options_of(ROOT / "benchmarks" / f"{name}.py"), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)) <= targets


def anchors(page: Path) -> set[str]:
    """What GitHub calls a page's headings: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_links_every_page_of_docs() -> None:
    text = README.read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"](docs/{page.name}" not in text] == []


def cells(text: str, name: str) -> list[str]:
    """Of the row of a table that begins with a name, with or without its version, what follows."""
    (row,) = re.findall(rf"^\| `{name}(?:-v\d+)?`[^|]*\|(.*)\|$", text, re.MULTILINE)
    return [cell.strip() for cell in row.split("|")]


@pytest.mark.parametrize("name", ["cvvae-mini-z16", "cvvae-mini-z4"])
def test_the_numbers_of_the_readme_are_those_that_were_measured(name: str) -> None:
    measured = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").split("<!-- bench: floors -->")[1]
    shown = [cell.removesuffix(" dB") for cell in cells(README.read_text(encoding="utf-8"), name)[1:]]
    found = [cell.removesuffix(" dB") for cell in cells(measured.split("<!--")[0], name)[:4]]
    assert len(shown) == len(found) == 4
    for short, long in zip(shown, found, strict=True):
        assert short == f"{float(long):.{len(short.partition('.')[2])}f}"


def test_paths_that_the_architecture_names_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = re.findall(r"`([a-z_]+/(?:[a-z_]+(?:\.py)?)?)`", text)
    assert len(paths) > 5
    assert [path for path in paths if not any((ROOT / folder / path).exists() for folder in ("", "cvcodec"))] == []
