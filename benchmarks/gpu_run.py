"""`python benchmarks/gpu_run.py`: everything to be learned from a GPU that is there for a quarter of an hour.

Owns: the order and the time limits of three parts, their results, and finding what is missing in a folder of wheels:

    check   does the device compute what the CPU computes (`benchmarks/device_checks.py`)
    speed   Mpixel/s of encode and decode, through windows with copies, and of whole commands
    train   training for the minutes that are left, from a checkpoint, on packed clips (`cvcodec train pack`)

A part that fails or runs out of its time does not stop the next. OUTPUT/results.json is written again whenever there is
something new; the state and the weights of the training come as pieces of at most 15 MiB (OUTPUT/pieces), its log as
OUTPUT/train.jsonl. What comes back is joined by `cvcodec train join`, or continued by --resume.

Needs nothing from the network. Of the repository it needs cvcodec/ and benchmarks/, and of weights/ only what --init
and --image-vae name: without them the networks are measured with random weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("check", "speed", "train")
CHECK_S, SPEED_S = 90.0, 90.0
PATIENCE = 10  # times as long may parts of a rehearsal take: processors are slow, and often busy
GRACE_S = 20.0  # for what a training that reached its limit still writes
LEAST_TRAINING_S = 60.0
WHEELS = ("wheels", ".wheels", ".whl")
NEEDED = ("av", "zstandard", "numpy", "torch", "safetensors", "rich", "typer")
TINY_TRAINING = (
    *("--latent-channels", "4", "--widths", "8", "--widths", "16", "--widths", "24", "--no-pca", "--steps", "3"),
    *("--batches", "2x5x32", "--validation-side", "40", "--validation-frames", "5", "--statistics-clips", "2"),
)


class Run:
    """The results so far, on disk whenever they change, and the time that is left."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.began = options, time.monotonic()
        self.output: Path = options.output
        self.output.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, Any] = {"command": sys.argv[1:], "parts": {}}

    @property
    def left_s(self) -> float:
        return float(60 * self.options.minutes - (time.monotonic() - self.began))

    def limit_s(self, seconds: float) -> float:
        """Of a part that may take so long, or what is left."""
        return min(seconds * (PATIENCE if self.options.tiny else 1), self.left_s)

    def write(self) -> None:
        part = self.output / "results.json.part"
        part.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self.output / "results.json")

    def part(self, name: str, command: Sequence[str], limit_s: float, environment: dict[str, str], **more: Any) -> None:
        """Run a command to its end or its limit; its lines of JSON become the part's `rows`."""
        say(f"{name}: at most {limit_s:.0f} s")
        entry: dict[str, Any] = {"command": list(command), "limit_s": round(limit_s, 1), "rows": [], **more}
        self.results["parts"][name] = entry
        began = time.monotonic()
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        assert process.stdout is not None
        tail: list[str] = []
        reader = threading.Thread(target=self._read, args=(process.stdout, entry, tail), daemon=True)
        reader.start()
        stopped = False
        while process.poll() is None:
            time.sleep(0.2)
            self.mirror()
            if time.monotonic() - began > limit_s + (GRACE_S if stopped else 0):
                if stopped:
                    process.kill()
                    break
                stopped = True
                process.terminate()
        process.wait()
        reader.join(timeout=5)
        self.mirror()
        entry |= {"exit_code": process.returncode, "seconds": round(time.monotonic() - began, 1), "stopped": stopped}
        entry["tail"] = tail[-30:]
        self.write()
        say(f"{name}: exit code {process.returncode} after {entry['seconds']} s")

    def _read(self, stream: IO[str], entry: dict[str, Any], tail: list[str]) -> None:
        for line in stream:
            if line.startswith("{"):
                entry["rows"].append(json.loads(line))
                self.write()
            else:
                tail.append(line.rstrip())
            show(line)

    def mirror(self) -> None:
        """The training's log and pieces, as they are renewed, into the output folder."""
        source = self.options.run_folder
        if (source / "log.jsonl").is_file():
            shutil.copyfile(source / "log.jsonl", self.output / "train.jsonl")
        listed, target = source / "pieces" / "pieces.json", self.output / "pieces"
        try:
            content = listed.read_bytes()
            if (target / "pieces.json").is_file() and (target / "pieces.json").read_bytes() == content:
                return
            target.mkdir(exist_ok=True)
            kept = {entry["piece"] for pieces in json.loads(content).values() for entry in pieces}
            for name in kept:
                shutil.copyfile(source / "pieces" / name, target / name)
            (target / "pieces.json").write_bytes(content)
            for path in target.iterdir():
                if path.name not in kept | {"pieces.json"}:
                    path.unlink()
        except FileNotFoundError:  # none yet, or renewed just now: the next look finds them
            return


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.speed_rows:
        return speed_rows(options)
    sys.path.insert(0, str(ROOT))
    run = Run(options)
    with tempfile.TemporaryDirectory(prefix="gpu-run-") as folder:
        work = Path(folder)
        options.run_folder = options.run_folder or work / "run"
        environment = prepare(run, work)
        run.write()
        for name, part in (("check", check), ("speed", speed), ("train", train)):
            if name in options.parts:
                try:
                    part(run, work, environment)
                except (OSError, ValueError, subprocess.SubprocessError) as error:
                    run.results["parts"].setdefault(name, {})["error"] = f"{type(error).__name__}: {error}"
                    say(f"{name}: {error}")
                    run.write()
    return 0 if all(run.results["parts"].get(name, {}).get("exit_code") == 0 for name in options.parts) else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/gpu_run.py", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--output", type=Path, default=Path("gpu-run"), help="folder for the results (default: %(default)s)")
    add("--minutes", type=float, default=14.0, help="wall time for everything (default: %(default)s)")
    add("--parts", type=lambda text: text.split(","), default=list(PARTS), help="check,speed,train (default: all)")
    add("--device", default="auto", help="cuda, cuda:N, cpu or auto")
    add("--wheels", type=Path, help=f"folder of wheels for what is missing (default: {' or '.join(WHEELS)} here)")
    add("--data", action="append", default=[], help="training data, as for cvcodec train: the manifest of a pack")
    add("--init", default="", help="weights that training starts from; without, a fresh model")
    add("--image-vae", default="", help="the 2D model of video-vae")
    add("--job", default="", help="image-vae, video-vae or finetune (default: finetune with --init)")
    add("--config", type=Path, help="config file of the training")
    add("--run-folder", type=Path, help="folder of the training; one that holds a run is continued")
    add("--tiny", action="store_true", help="tiny models and clips: a rehearsal on a CPU")
    add("--speed-rows", action="store_true", help=argparse.SUPPRESS)
    add("rest", nargs="*", metavar="-- OPTION", help="after --: more options for the training")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return options


def say(text: str) -> None:
    show(f"[gpu_run] {text}\n")


def show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


# ---------------------------------------------------------------------------------------------------- parts


def prepare(run: Run, work: Path) -> dict[str, str]:
    """The environment of the parts: this checkout first, and missing packages from the folder of wheels."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "150"}
    paths = [str(ROOT)]
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        folders = [run.options.wheels] if run.options.wheels else [ROOT / name for name in WHEELS]
        wheels = [str(path) for folder in folders for path in sorted(folder.glob("*.whl"))]
        say(f"missing: {', '.join(missing)}; {len(wheels)} wheels found")
        run.results["missing"] = missing
        if wheels:
            site = work / "site"
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
            done = subprocess.run([*pip, "--target", str(site), *wheels], check=False, capture_output=True, text=True)
            run.results["wheels"] = {"exit_code": done.returncode, "said": done.stderr[-500:]}
            paths.append(str(site))
    environment["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    return environment


def check(run: Run, work: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "device_checks.py"), "--device", run.options.device]
    command += ["--models", tiny_model(work) if run.options.tiny else "mini", "--precision", "fp32,bf16"]
    run.part("check", command, run.limit_s(CHECK_S), environment)


def speed(run: Run, work: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, str(Path(__file__).resolve()), "--speed-rows", "--device", run.options.device]
    limit = run.limit_s(SPEED_S)
    command += ["--minutes", f"{(limit - 8) / 60:.3f}", *(["--tiny"] if run.options.tiny else [])]
    run.part("speed", command, limit, environment)


def train(run: Run, work: Path, environment: dict[str, str]) -> None:
    options = run.options
    left = run.left_s - GRACE_S
    if left < LEAST_TRAINING_S and not options.tiny:
        raise ValueError(f"{left:.0f} s are left, too few to train")
    job = options.job or ("finetune" if options.init else "video-vae")
    command = [sys.executable, "-m", "cvcodec", "train", job, *([str(options.config)] if options.config else [])]
    data = options.data or [str(tiny_clips(work))] if options.tiny else options.data
    for name in data:
        command += ["--data", name]
    command += ["--output", str(options.run_folder), "--device", options.device, "--max-minutes", f"{left / 60:.3f}"]
    command += ["--checkpoint-minutes", "1.5", "--state-pieces", "half"]
    for name, value in (("--init", options.init), ("--image-vae", options.image_vae)):
        command += [name, value] if value else []
    if not options.image_vae and not options.config:
        command += ["--regularization", "none"]
    if (options.run_folder / "log.jsonl").exists() or (options.run_folder / "pieces").exists():
        command.append("--resume")
    command += TINY_TRAINING if options.tiny else ["--fill-device"]
    run.part("train", [*command, *options.rest], left, environment)


def tiny_model(work: Path) -> str:
    """A weights file of a mini that takes no time."""
    from cvcodec.checkpoints.checkpoint import save_checkpoint
    from harness import random_model

    model = random_model(tiny_config(), "tiny")
    save_checkpoint(work / "tiny.safetensors", model, statistics=model.statistics, card={})
    return str(work / "tiny.safetensors")


def tiny_clips(work: Path) -> Path:
    """A folder of synthetic clips."""
    from harness import write_clip

    (work / "clips").mkdir(exist_ok=True)
    for index in range(4):
        write_clip(work / "clips" / f"{index}.mp4", 64, 48, 20, seed=index)
    return work / "clips"


def tiny_config() -> Any:
    from cvcodec.model.mini import mini_config

    return mini_config(4, widths=(8, 8, 8), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), window_latents=4)


# ---------------------------------------------------------------------------------------------------- speed


def speed_rows(options: argparse.Namespace) -> int:
    """Lines of JSON, most wanted first, until the minutes are over; runs in a process of its own."""
    import dataclasses

    from cvcodec.bench.machine import machine_facts
    from cvcodec.cli import report
    from cvcodec.errors import CvcodecError
    from cvcodec.system.device import select_device, select_precision, set_threads
    from device_speed import speed as measure

    end = time.monotonic() + 60 * options.minutes
    device = select_device(options.device)
    set_threads(None)
    report.emit({"machine": machine_facts(device)})
    models = dict(model_builders(options.tiny))
    for kind, name, precision, width, height, frames in cases(options.tiny):
        if time.monotonic() >= end:
            report.emit({"left_out": [kind, name, precision, width, height]})
            continue
        try:
            select_precision(precision, device)
            model = models[name]()
            if kind == "windows":
                row = measure(model, device, precision, width=width, height=height, frames=frames)
                report.emit({"kind": kind, **dataclasses.asdict(row)})
            else:
                report.emit({"kind": kind, **command_speed(model, device, precision, width, height, frames)})
        except (CvcodecError, RuntimeError) as error:
            report.emit({"kind": kind, "model": name, "precision": precision, "error": str(error)[:300]})
    return 0


def model_builders(tiny: bool) -> Iterator[tuple[str, Any]]:
    import functools

    import harness

    def official(family: str, width: int) -> Any:
        return harness.random_model(harness.official_config(family, width=width), f"{family}-random")

    if tiny:
        yield "mini", functools.partial(harness.random_model, tiny_config(), "tiny")
    else:
        yield "mini", functools.cache(functools.partial(harness.named_model, "mini"))
    for family in ("cvvae", "cvvae-sd3"):
        yield family, functools.cache(functools.partial(official, family, 4 if tiny else 128))


def cases(tiny: bool) -> Iterator[tuple[str, str, str, int, int, int]]:
    """(kind, model, precision, width, height, frames)."""
    if tiny:
        yield from (("windows", "mini", "fp32", 32, 24, 9), ("command", "mini", "fp32", 32, 24, 9))
        yield from (("windows", family, "fp32", 16, 16, 5) for family in ("cvvae", "cvvae-sd3"))
        return
    large, medium, small = sizes = ((1920, 1080), (1280, 720), (256, 256))
    families = ("cvvae", "cvvae-sd3")
    yield from (("windows", "mini", "bf16", *size, 61) for size in sizes)
    yield from (("command", "mini", "bf16", *size, 125) for size in sizes)
    for size in (small, medium):
        yield from (("windows", family, "bf16", *size, 17) for family in families)
    yield from (("windows", "mini", "fp32", *size, 61) for size in (small, medium))
    yield from (("windows", family, "fp32", *small, 17) for family in families)
    yield from (("command", family, "bf16", *medium, 17) for family in families)
    yield ("windows", "mini", "fp32", *large, 61)
    yield from (("windows", family, "bf16", *large, 17) for family in families)
    yield from (("command", "mini", "fp32", *size, 61) for size in (medium, small, large))
    yield from (("windows", family, "fp32", *size, 17) for size in (medium, large) for family in families)


def command_speed(model: Any, device: Any, precision: str, width: int, height: int, frames: int) -> dict[str, Any]:
    """`encode_file` and `decode_file` on a synthetic clip, after a short warm-up."""
    import harness
    from cvcodec.codec import DecodeOptions, EncodeOptions, decode_file, encode_file

    with tempfile.TemporaryDirectory(prefix="gpu-run-") as name:
        folder = Path(name)
        clip, coded, decoded = folder / "in.mp4", folder / "a.cvl", folder / "out.mp4"
        encode = EncodeOptions(device=str(device), precision=precision)
        decode = DecodeOptions(device=str(device), precision=precision)
        harness.write_clip(clip, width, height, 9)
        encode_file(clip, coded, model=model, options=encode, overwrite=True)
        decode_file(coded, decoded, model=model, options=decode, overwrite=True)
        harness.write_clip(clip.with_name("long.mp4"), width, height, frames)
        there = encode_file(clip.with_name("long.mp4"), coded, model=model, options=encode, overwrite=True)
        back = decode_file(coded, decoded, model=model, options=decode, overwrite=True)
    return {
        "model": model.name, "precision": precision, "width": width, "height": height, "frames": frames,
        "encode_mpixel_per_s": there.megapixels_per_s, "encode_model_s": there.model_seconds,
        "encode_s": there.seconds, "decode_mpixel_per_s": back.megapixels_per_s,
        "decode_model_s": back.model_seconds, "decode_s": back.seconds,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
