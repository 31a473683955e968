"""`python benchmarks/memory.py`: whether the commands' memory grows with the length of the video.

Owns: running `cvcodec encode` and `cvcodec decode` as programs on synthetic clips of different length, and the peak of
resident memory that the operating system reports for each.

The peak is `ru_maxrss` of `wait4`. A process inherits the peak of the one that starts it, so each program is started
by a small interpreter of its own, not by this one, which has torch in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import harness
from cvcodec.checkpoints import registry
from cvcodec.checkpoints.checkpoint import save_checkpoint
from cvcodec.cli import report
from cvcodec.codec import DEFAULT_MODEL
from cvcodec.errors import CvcodecError, UsageError
from cvcodec.model.mini import mini_config

_LAUNCHER = """
import json, os, sys, time
begun = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([os.waitstatus_to_exitcode(status), peak, time.perf_counter() - begun]))
"""

_HOUR = ((64, 64), (20.0, 3600.0))
_OUTPUT_LINES = 5  # of a failed program that are shown


@dataclass(frozen=True)
class Run:
    """One program on one clip."""

    command: str
    """`encode` or `decode`."""
    width: int
    height: int
    clip_seconds: float
    frames: int
    peak_bytes: int
    """Largest resident memory of the process, shared libraries and weights included."""
    seconds: float
    """Wall time, start of the program included."""


def peak_memory(command: Sequence[str]) -> tuple[int, float]:
    """Peak resident bytes and wall seconds of a program. UsageError without POSIX, CvcodecError when it fails."""
    if not hasattr(os, "wait4"):
        raise UsageError("peak memory is read with wait4, which this system does not have; run this on Linux or macOS")
    # The program must be that of this checkout.
    checkout = Path(__file__).resolve().parents[1]
    paths = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-S", "-c", _LAUNCHER, *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1:]  # the program's own output comes before
    code, peak, seconds = json.loads(last[0]) if done.returncode == 0 and last else (done.returncode, 0, 0.0)
    if code != 0:
        said = " / ".join(done.stderr.strip().splitlines()[-_OUTPUT_LINES:])
        raise CvcodecError(f"{' '.join(command[1:5])} ... exited with {code}: {said}")
    return int(peak), float(seconds)


def measure(
    folder: Path, *, size: tuple[int, int], seconds: float, weights: str, arguments: Sequence[str] = ()
) -> list[Run]:
    """Encode and decode a synthetic clip of `seconds`; further `arguments` go to both programs."""
    width, height = size
    frames = max(1, round(seconds * harness.RATE))
    clip, coded, decoded = folder / "clip.mp4", folder / "clip.cvl", folder / "decoded.mp4"
    harness.write_clip(clip, width, height, frames)
    runs = []
    for command, source, target in (("encode", clip, coded), ("decode", coded, decoded)):
        peak, wall = peak_memory(
            [
                sys.executable,
                *("-m", "cvcodec", command, str(source), str(target)),
                *("--weights", weights, "-y", "--quiet", *arguments),
            ]
        )
        runs.append(Run(command, width, height, seconds, frames, peak, wall))
    for path in (clip, coded, decoded):
        path.unlink()
    return runs


def ratios(runs: Sequence[Run]) -> dict[tuple[str, int, int], float]:
    """For each command and size: the peak for the longest clip over the peak for the shortest."""
    by_case: dict[tuple[str, int, int], float] = {}
    for key in dict.fromkeys((run.command, run.width, run.height) for run in runs):
        group = sorted(
            (run for run in runs if (run.command, run.width, run.height) == key), key=lambda run: run.clip_seconds
        )
        by_case[key] = group[-1].peak_bytes / group[0].peak_bytes
    return by_case


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Exits with 1 when a ratio is above --limit."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/memory.py",
        description="Peak memory of `cvcodec encode` and `cvcodec decode` for clips of different length. "
        "What follows -- goes to both commands.",
    )
    add = parser.add_argument
    add("--size", type=harness.size_argument, default=(1280, 720), metavar="WxH", help="of the synthetic clips")
    add(
        "--seconds",
        type=harness.list_argument(float),
        default=[20.0, 60.0],
        metavar="S,...",
        help=f"lengths of the clips, {harness.RATE} frames a second (default: 20,60)",
    )
    add("--hour", action="store_true", help="also 20 seconds and one hour at 64x64")
    add("--weights", metavar="NAME|FILE", help="the model (default: the default model, else random weights)")
    add("--limit", type=float, default=1.1, metavar="R", help="exit with 1 when longest / shortest is above this")
    add("--json", action="store_true", help="JSON lines: one a run, then one a ratio")
    add("passed_on", nargs="*", metavar="-- OPTION", help="options of both commands, such as -- --threads 2")
    options = parser.parse_args(arguments)
    if not options.seconds or min(options.seconds) <= 0:
        parser.error("--seconds must be positive")
    return harness.run_program(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    cases = [(options.size, tuple(options.seconds))] + ([_HOUR] if options.hour else [])
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="cvcodec-bench-") as name:
        folder = Path(name)
        weights = options.weights or _default_weights(folder)
        for size, lengths in cases:
            for seconds in lengths:
                report.say(f"encoding and decoding {seconds:g} s of {size[0]}x{size[1]} ...")
                for run in measure(folder, size=size, seconds=seconds, weights=weights, arguments=options.passed_on):
                    runs.append(run)
                    if options.json:
                        report.emit(asdict(run))
    worst = 0.0
    for (command, width, height), ratio in ratios(runs).items():
        worst = max(worst, ratio)
        if options.json:
            report.emit({"command": command, "width": width, "height": height, "ratio": ratio})
    if not options.json:
        _show(runs, weights if options.weights else DEFAULT_MODEL)
    return 0 if worst <= options.limit else 1


def _default_weights(folder: Path) -> str:
    if registry.find_model(DEFAULT_MODEL) is not None:
        return DEFAULT_MODEL
    report.say("no weights are installed: measuring a mini model with random weights")
    path = folder / "random.safetensors"
    model = harness.random_model(mini_config(), "random")
    save_checkpoint(path, model, statistics=model.statistics, card={})
    return str(path)


def _show(runs: Sequence[Run], model: str) -> None:
    by_case = ratios(runs)
    rows = []
    for run in runs:
        longest = run.clip_seconds == max(
            other.clip_seconds for other in runs if (other.width, other.height) == (run.width, run.height)
        )
        ratio = by_case[run.command, run.width, run.height] if longest else None
        rows.append(
            (
                run.command,
                f"{run.width}x{run.height}",
                f"{run.clip_seconds:g} s",
                str(run.frames),
                harness.number(run.peak_bytes / 2**20, 0, " MiB"),
                harness.number(ratio, 3),
                harness.number(run.seconds, 1, " s"),
            )
        )
    harness.show_table(
        f"Peak memory, {model}",
        ("command", "size", "length", "frames", "peak", "longest / shortest", "time"),
        rows,
    )


if __name__ == "__main__":
    sys.exit(main())
