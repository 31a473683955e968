"""Messages of one line, JSON that any parser takes, progress only where someone watches."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cvcodec.cli import report

PROGRESS = """
from cvcodec.cli.report import progress
with progress("encoding", 250) as meter:
    for frames in range(0, 251, 50):
        meter(frames, frames * 1000)
print("done")
"""


def test_a_message_is_one_line_however_long_and_whatever_brackets_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    message = "clip [bold]x[/bold] [1].mp4:\n" + "long " * 60 + "end"
    report.error(message)
    report.warn(message)
    report.note(message)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    body = " ".join(message.split())
    assert lines == [f"cvcodec: {kind}: {body}" for kind in ("error", "warning", "note")]


def test_json_is_one_strict_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclasses.dataclass
    class Totals:
        frames: int
        rate: Fraction

    record = {
        "psnr_db": float("inf"),
        "lpips": np.float32(0.25),
        "none": None,
        "per_frame": np.array([1.5, float("nan")]),
        "path": Path("a") / "b.mp4",
        "totals": Totals(3, Fraction(30000, 1001)),
        "name": "Clip \u00e9\n\udcff",
        "lossless": np.bool_(True),
        "sizes": (1, 2),
    }
    report.emit(record)
    report.emit({"next": 1})
    out, err = capsys.readouterr()
    assert err == ""
    first, second = out.splitlines()
    assert first.isascii()
    assert json.loads(second) == {"next": 1}
    parsed = json.loads(first, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert parsed == {
        "psnr_db": None,
        "lpips": 0.25,
        "none": None,
        "per_frame": [1.5, None],
        "path": os.path.join("a", "b.mp4"),
        "totals": {"frames": 3, "rate": "30000/1001"},
        "name": "Clip \u00e9\n\udcff",
        "lossless": True,
        "sizes": [1, 2],
    }


def test_json_goes_to_standard_error_when_standard_output_carries_data(capsys: pytest.CaptureFixture[str]) -> None:
    report.emit({"frames": 1}, to_stderr=True)
    out, err = capsys.readouterr()
    assert (out, json.loads(err)) == ("", {"frames": 1})


def test_what_has_no_json_form_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        report.jsonable({"a": [object()]})


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (2_345_678_901, "2.3 GB"),
    ],
)
def test_sizes_are_written_in_powers_of_ten(size: int, text: str) -> None:
    assert report.format_size(size) == text


def test_there_is_no_progress_in_a_pipe_not_even_with_forced_colours() -> None:
    environment = {**os.environ, "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRESS], capture_output=True, text=True, check=True, env=environment
    )
    assert (result.stdout, result.stderr) == ("done\n", "")


def on_a_terminal(program: str, columns: int) -> str:
    """What a program writes to standard error, if that is a terminal of so many columns."""
    import pty

    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stderr=terminal,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns)},
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(main, 1 << 16)
        except OSError:  # Linux: the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(main)
    assert process.wait(60) == 0
    return shown.decode()


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_terminal_shows_frames_speed_and_size_and_is_left_clean() -> None:
    text = on_a_terminal(PROGRESS.replace("meter(frames", "import time; time.sleep(0.15); meter(frames"), 120)
    assert "encoding" in text
    assert "/250" in text
    assert "fps" in text
    assert "kB" in text
    assert text.rstrip().endswith("\x1b[2K")


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_note_takes_the_place_of_the_bar_which_goes_on_below() -> None:
    talking = PROGRESS.replace(
        'print("done")', '    from cvcodec.cli.report import note, say\n    note("one")\n    say("two")'
    )
    text = on_a_terminal(talking, 120)
    erased = r"\x1b\[2K(?:\x1b\[[\d;]*[mA])*"
    assert re.search(erased + "cvcodec: ", text)
    assert re.search(erased + "two", text)


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("columns", [20, 40, 60, 80])
def test_a_narrow_terminal_loses_columns_and_no_digits(columns: int) -> None:
    counts = PROGRESS.replace("250", "123456").replace("251, 50", "123457, 61728")
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", on_a_terminal(counts, columns))
    assert "123456/123456" in text.replace(" ", "") if columns > 20 else "encoding" in text
    assert "\u2026" not in text  # what rich puts in place of what it cuts
    assert ("fps" in text) == (columns >= 60)
