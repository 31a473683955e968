"""`python -m cvcodec.bench.gpu_check`: whether your CUDA or MPS device computes what the CPU computes, and how fast.

Owns: which models, precisions and sizes are checked, the table, and the report file. Does not know: the checks
themselves (`device_checks`, `device_speed`).

Exits with 0 when every check passed, 1 when one failed, 7 where there is no device. The report is JSON: `machine`,
`passed`, `checks` and `speed`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from cvcodec import registry
from cvcodec.bench import device_checks, device_speed, harness
from cvcodec.bench.device_checks import Check, Subject
from cvcodec.bench.device_speed import Speed
from cvcodec.bench.machine import describe_machine, machine_facts
from cvcodec.device import select_device, select_precision, set_threads
from cvcodec.errors import DeviceError
from cvcodec.fileio import atomic_output
from cvcodec.model import VideoAutoencoder

_TINY_WIDTH = 32  # base width of the small official models: the least that their 32 norm groups allow
_SIZES = ((256, 256), (1280, 720), (1920, 1080))
_FRAMES = 61  # one window of the mini, four official ones


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(
        prog="python -m cvcodec.bench.gpu_check",
        description="Parity with the CPU, windows and tiles, running out of memory, peak memory and speed on a device.",
    )
    add = parser.add_argument
    add("--device", default="auto", help="cuda, cuda:N or mps; cpu runs the checks without a device (default: the GPU)")
    add(
        "--models",
        type=harness.list_argument(str),
        metavar="NAME,...",
        help="names or weights files to check besides small official models (default: all bundled ones)",
    )
    add(
        "--precision",
        type=harness.list_argument(str),
        default=["fp32", "bf16", "fp16"],
        metavar="P,...",
        help="fp32, bf16, fp16; those the device lacks are left out (default: all)",
    )
    add(
        "--size",
        type=harness.list_argument(harness.size_argument),
        default=list(_SIZES),
        metavar="WxH,...",
        help="sizes for speed and memory (default: 256x256,1280x720,1920x1080)",
    )
    add("--frames", type=int, default=_FRAMES, metavar="N", help="frames for speed and memory (default: %(default)s)")
    add("--no-speed", action="store_true", help="checks only")
    add("--official", action="store_true", help="speed and memory of the official z=4 architecture at full width too")
    add("--output", default="gpu-report.json", metavar="FILE", help="the report (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.frames < 1:
        parser.error("--frames must be at least 1")
    return harness.run_program(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    device = _device(options.device)
    set_threads(None)
    facts = machine_facts(device)
    precisions = list(_available(options.precision, device))
    checks: list[Check] = []
    speeds: list[Speed] = []
    models = _bundled(options.models)
    for model in [*models, *_small_official()]:
        checks += _check(model, device, precisions)
    if not options.no_speed:
        timed = [*models, *([harness.named_model("official")] if options.official else [])]
        for model in timed:
            for width, height in options.size:
                for precision in precisions:
                    harness.note(f"timing {model.name} in {precision} at {width}x{height} ...")
                    speeds.append(
                        device_speed.speed(model, device, precision, width=width, height=height, frames=options.frames)
                    )
    passed = all(check.passed for check in checks)
    report = {
        "machine": facts,
        "passed": passed,
        "checks": [{**dataclasses.asdict(check), "passed": check.passed} for check in checks],
        "speed": [dataclasses.asdict(row) for row in speeds],
    }
    _write_report(options.output, report)
    _show(checks, speeds, describe_machine(facts))
    failed = sum(not check.passed for check in checks)
    harness.note(
        f"{len(checks)} checks on {facts['device_name'] or device}: "
        + ("all passed" if passed else f"{failed} failed")
        + f"; the report is in {options.output}"
    )
    return 0 if passed else 1


def _device(name: str) -> torch.device:
    """The device asked for; without a name CUDA, else MPS. Raises DeviceError where there is neither."""
    if name != "auto":
        return select_device(name)
    if torch.cuda.is_available():
        return select_device("cuda")
    if torch.backends.mps.is_available():
        return select_device("mps")
    reason = "this build of torch has no CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
    raise DeviceError(f"no CUDA or MPS device here ({reason}); --device cpu runs the same checks on the CPU")


def _available(names: Sequence[str], device: torch.device) -> Iterator[str]:
    for name in names:
        try:
            yield select_precision(name, device)
        except DeviceError as error:
            harness.note(f"{name} is left out: {error}")


def _bundled(names: Sequence[str] | None) -> list[VideoAutoencoder]:
    if names is None:
        names = [entry.name for entry in registry.list_models() if entry.bundled]
    return [harness.named_model(name) for name in names or ["mini"]]


def _small_official() -> list[VideoAutoencoder]:
    return [
        harness.random_model(harness.official_config(family, width=_TINY_WIDTH), f"{family}-small-random")
        for family in ("cvvae", "cvvae-sd3")
    ]


def _check(model: VideoAutoencoder, device: torch.device, precisions: Sequence[str]) -> list[Check]:
    """All checks of a model. One that raises has failed, and its message is the check's note."""
    harness.note(f"checking {model.name} ...")
    subject = Subject(model, device)
    found: list[Check] = []

    def attempt(name: str, precision: str, work: Callable[[], list[Check]]) -> None:
        try:
            found.extend(work())
        except (RuntimeError, DeviceError) as error:
            message = str(error).strip().split("\n")[0]
            found.append(
                Check(
                    name=name,
                    model=subject.name,
                    precision=precision,
                    value=float("nan"),
                    limit=0.0,
                    unit="",
                    note=f"{type(error).__name__}: {message}",
                )
            )

    for precision in precisions:
        attempt("as on the CPU", precision, functools.partial(device_checks.parity, subject, precision))
    attempt("windows and tiles", "fp32", lambda: device_checks.windows(subject))
    attempt("memory", "fp32", lambda: [device_checks.out_of_memory(subject)])
    attempt("files", "fp32", lambda: [device_checks.file_round_trip(subject)])
    return found


def _write_report(path: str, report: dict[str, Any]) -> None:
    text = json.dumps(harness.finite(report), indent=1, allow_nan=False) + "\n"
    with atomic_output(Path(path), overwrite=True) as file:
        file.write(text.encode())


def _show(checks: Sequence[Check], speeds: Sequence[Speed], machine: str) -> None:
    harness.show_table(
        "Checks",
        ("check", "model", "precision", "value", "limit", "unit", "", "note"),
        [
            (
                check.name,
                check.model,
                check.precision,
                f"{check.value:.3g}",
                ("≥ " if check.at_least else "≤ ") + f"{check.limit:.3g}",
                check.unit,
                "pass" if check.passed else "FAIL",
                check.note,
            )
            for check in checks
        ],
        caption=machine,
    )
    if speeds:
        harness.show_table(
            "Speed in Mpixel/s and peak device memory",
            ("model", "precision", "clip", "encode", "memory", "decode", "memory", "note"),
            [
                (
                    row.model,
                    row.precision,
                    f"{row.frames}x{row.width}x{row.height}",
                    harness.number(row.encode_mpixel_per_s),
                    _mebibytes(row.encode_peak_bytes),
                    harness.number(row.decode_mpixel_per_s),
                    _mebibytes(row.decode_peak_bytes),
                    row.note,
                )
                for row in speeds
            ],
        )


def _mebibytes(count: int | None) -> str:
    return harness.number(None if count is None else count / 2**20, 0, " MiB")


if __name__ == "__main__":
    sys.exit(main())
