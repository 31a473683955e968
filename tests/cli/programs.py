"""Running the program: inside the test's process, which is quick, or as one of its own, which is the real thing."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

COUNT, HEIGHT, WIDTH = 30, 26, 38
"""Of the clip in the folder that commands run in (`conftest.here`), at 25 frames/s."""


@dataclass(frozen=True)
class Outcome:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        (line,) = self.out.splitlines()
        value: dict[str, Any] = json.loads(line)
        return value


def cvcodec(*arguments: object) -> Outcome:
    """A command, run by the program's own `run`, which turns errors into lines and exit codes."""
    from cvcodec.cli import app

    hook, handlers = sys.excepthook, {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    hup = getattr(signal, "SIGHUP", None)
    if hup is not None:
        handlers[hup] = signal.getsignal(hup)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = app.run(app.app, [str(argument) for argument in arguments])
    finally:
        sys.excepthook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Outcome(code, out.getvalue(), err.getvalue())


def command(*arguments: object) -> list[str]:
    """A command line of the program."""
    return [sys.executable, "-m", "cvcodec", *map(str, arguments)]


def environment() -> dict[str, str]:
    """This process's, with the package importable from any folder and one thread for torch."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def process(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """The program as a process of its own."""
    return subprocess.Popen(command(*arguments), env=environment(), **options)


def finished(*arguments: object, data: bytes | None = None, cwd: Path | None = None) -> Any:
    """A process of its own, run to its end: `returncode`, `stdout`, `stderr` (bytes)."""
    return subprocess.run(
        command(*arguments), env=environment(), input=data, capture_output=True, check=False, cwd=cwd, timeout=120
    )


def one_line(text: str | bytes) -> str:
    """The single line of an error, without its end. Fails for more or less than one."""
    lines: Sequence[str] = (text.decode() if isinstance(text, bytes) else text).splitlines()
    assert len(lines) == 1, lines
    return lines[0]
