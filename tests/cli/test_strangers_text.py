"""Every command with text of strangers in every place: nothing of it is obeyed, by the terminal or by rich."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from cvcodec.checkpoints.checkpoint import save_checkpoint
from cvcodec.quantization import LatentStatistics
from tests.cli.forged import with_header
from tests.cli.programs import Outcome
from tests.cli.programs import cvcodec as run
from tests.codec.models import tiny_mini

pytestmark = pytest.mark.skipif(os.name == "nt", reason="names that Windows does not have")

EVIL = "\x1b]0;owned\x07[red]:smile:\u202e\x9b2J[link=file:x]y[/nothing]"
"""Titles and clears a terminal, turns the line around; as markup it colours, links, and ends what never began."""

SHOWN = r"\x1b]0;owned\x07[red]:smile:\u202e\x9b2J[link=file:x]y[/nothing]"


MARKUP = "[red]:smile:[link=file:x]y[/nothing]"
"""What a header's names may hold, which must be printable."""


def check(outcome: Outcome) -> str:
    """All that was said, on one line. Fails where a character of it would be obeyed."""
    said = outcome.out + outcome.err
    assert "defect" not in said
    obeyed = [c for c in said if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs")]
    assert not obeyed, repr(said)
    return said.replace("\n", "")


@pytest.fixture
def evil(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: video, .cvl file, weights and folder of models, all named and filled by a stranger."""
    name = EVIL.replace("/", "\u2215")  # no separator
    (here / "in.mkv").rename(f"{name}.mkv")
    metadata = {"source_reader": {EVIL: EVIL}, "title": EVIL, "batch": {"settings": EVIL}}
    with_header(here / "a.cvl", here / f"{name}.cvl", tool=MARKUP, model=MARKUP, metadata=metadata)
    card = {
        "name": EVIL,
        "licence": EVIL,
        "description": f"two\nlines {EVIL}",
        "source": EVIL,
        EVIL: EVIL,
        "quality": {EVIL: EVIL},
    }
    model = tiny_mini()
    statistics = LatentStatistics(*((value,) * model.config.latent_channels for value in (0.0, 0.3, 0.1)))
    save_checkpoint(here / f"{name}.safetensors", model, statistics=statistics, card=card)
    models = here / "home" / "models"
    models.mkdir(parents=True)
    shutil.copyfile(here / f"{name}.safetensors", models / f"{name}.safetensors")
    (models / f"damaged{name}.safetensors").write_bytes(b"no weights")
    monkeypatch.setenv("CVCODEC_HOME", str(here / "home"))
    return here


N = EVIL.replace("/", "\u2215")
NAMED = SHOWN.replace("/", "\u2215")
BENCH = ["--against", "none", "--frames", "5", "--qualities", "50"]
WEIGHTS = ["-w", f"./{N}.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["encode", f"{N}.mkv", f"2{N}.cvl", "-w", "tiny.safetensors"], 0),
        (["encode", f"{N}.mkv", f"2{N}.cvl", *WEIGHTS], 2),
        (["encode", f"{N}.mkv", f"{N}.cvl", *WEIGHTS], 4),
        (["encode", f"{N}.cvl", f"2{N}.cvl", *WEIGHTS], 3),
        (["encode", f"absent{N}.mkv", f"2{N}.cvl", *WEIGHTS], 3),
        (["encode", f"{N}.mkv", f"2{N}.cvl", "-w", N[1:]], 3),
        (["encode", f"{N}.mkv", f"2{N}.cvl", f"--{N}"], 2),
        (["encode", f"{N}.mkv", f"2{N}.cvl", "--start", N], 2),
        (["decode", f"{N}.cvl", f"2{N}.mkv", *WEIGHTS], 0),
        (["decode", f"{N}.cvl", f"2{N}.mkv"], 3),
        (["decode", f"{N}.cvl", f"2{N}.{N}", *WEIGHTS], 4),
        (["decode", "--preview", f"{N}.cvl", f"2{N}.png", *WEIGHTS], 0),
        (["info", f"{N}.cvl"], 0),
        (["info", f"{N}.cvl", "--check"], 0),
        (["info", f"{N}.mkv"], 5),
        (["eval", f"{N}.mkv", f"{N}.mkv", "-m", "psnr"], 0),
        (["eval", f"{N}.mkv", "-m", "psnr", "-w", "tiny.safetensors", "--csv", f"{N}.csv", "--picture", f"{N}.png"], 0),
        (["batch", N, "-o", f"out{N}", *WEIGHTS], 1),
        (["batch", f"{N}.jsonl", "-o", f"out{N}", *WEIGHTS], 3),
        (["bench", f"{N}.mkv", "-w", "tiny.safetensors", "-o", f"bench{N}", *BENCH], 0),
        (["export", f"{N}.cvl", f"{N}.safetensors", "-y"], 0),
        (["export", f"{N}.cvl", f"{N}.npy"], 0),
        (["export", N, f"out{N}", "--format", "webdataset"], 3),
        (["import", f"{N}.mkv", f"2{N}.cvl"], 3),
        (["import", f"{N}.safetensors", f"2{N}.cvl", "--key", N], 3),
        (["models", "list"], 0),
        (["models", "show", f"./{N}.safetensors"], 0),
        (["models", "show", N], 0),
        (["models", "show", f"damaged{N}"], 6),
        (["models", "add", f"{N}.safetensors", "-o", f"2{N}.safetensors"], 0),
        (["models", "add", f"{N}.safetensors", "--name", N], 2),
        (["models", "remove", N, "-y"], 0),
        (["models", "remove", f"absent{N}", "-y"], 2),
        (["train", "plot", N], 3),
        (["train", "video-vae", "--data", N, "--output", f"run{N}", "--steps", "1"], 3),
        ([N], 2),
    ],
    ids=lambda value: ascii(value if isinstance(value, int) else " ".join(value))[:70],
)
def test_no_command_lets_text_of_strangers_be_obeyed(evil: Path, arguments: list[str], code: int) -> None:
    (evil / N).mkdir()
    (evil / N / f"{N}.mkv").write_bytes(b"no video")
    (evil / f"{N}.jsonl").write_text(json.dumps({"path": f"{N}.mkv", "output": f"../{N}"}) + "\n")
    outcome = run(*arguments)
    said = check(outcome)
    assert outcome.code == code, said
    assert NAMED[:20] in said or "models" in arguments or "eval" in arguments


@pytest.mark.parametrize("command", ["info", "models list", "models show"])
def test_what_is_shown_is_what_is_written_there(evil: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    files = {"info": f"{N}.cvl", "models show": f"./{N}.safetensors"}
    said = check(run(*command.split(), *([files[command]] if command in files else [])))
    assert SHOWN in said
    assert NAMED in said


def test_colours_of_a_terminal_are_ours_alone(evil: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "1000")
    plain = run("info", f"{N}.cvl").out
    assert "\x1b[1m" in plain  # bold labels
    assert "\x1b]8;" not in plain  # no link
    assert "\x1b]0;" not in plain
    assert SHOWN in plain
