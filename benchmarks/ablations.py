"""`python benchmarks/ablations.py`: the paper's ablations at small scale, for equal training time.

Table 6, Table 7, and 2D+3D blocks against all-3D.

Owns: the rows, running those that are missing, the tables next to the paper's numbers. Does not know: the trainer.
Rows are measured on the whole validation split (17 frames, short side 256, latents not quantised); the tables are in
ablations.md and ablations.json, too.

Each row is a run of its own in a folder under OUTPUT; a row that is finished is not trained again, so an interrupted
series continues where it stopped, and rows may be run one by one. All start from the same 2D model, data and seed. The
2D model is trained first, for the time of a row, where the config names none. Time is CPU time unless the config says
otherwise: on a shared machine minutes of the wall clock are not equal.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from cvcodec.cli import report
from cvcodec.errors import UsageError
from cvcodec.fileio import atomic_output
from cvcodec.training.config import JOB_DEFAULTS, Job, TrainConfig, check_values, read_config_file
from cvcodec.training.log import LOG_NAME, read_log
from cvcodec.training.run_folder import has_state, read_config
from cvcodec.training.trainer import train

MINUTES = 20.0
"""Training time of a row, unless asked otherwise."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str
    changes: Mapping[str, Any]
    paper: tuple[float, float, float] | None
    """PSNR in dB, SSIM, LPIPS on WebVid, as the paper prints them (Tables 6, 7 and 1); None: it has no such row."""

    @property
    def folder(self) -> str:
        """Of the run: the same setting in two tables is one run (`decoder`, `random` and `2d-3d`)."""
        settings = {**_BASE, **self.changes}
        blocks = "2d-3d" if settings["half_3d"] else "3d"
        if settings["regularization"] == "none":
            return f"none-{blocks}"
        return f"{settings['regularization']}-{settings['mapping']}-{blocks}"


TABLES: dict[str, tuple[str, tuple[Row, ...]]] = {
    "table6": (
        "Table 6: type of regularisation (mapping: random)",
        (
            Row("none", {"regularization": "none"}, None),
            Row("encoder", {"regularization": "encoder"}, (26.0, 0.748, 0.222)),
            Row("decoder", {"regularization": "decoder"}, (28.0, 0.803, 0.158)),
            Row("both", {"regularization": "both"}, (27.6, 0.795, 0.176)),
        ),
    ),
    "table7": (
        "Table 7: mapping (regularisation: decoder)",
        (
            Row("first", {"mapping": "first"}, (26.6, 0.771, 0.191)),
            Row("average", {"mapping": "average"}, (27.9, 0.801, 0.172)),
            Row("slice", {"mapping": "slice"}, (27.7, 0.799, 0.168)),
            Row("random", {"mapping": "random"}, (28.4, 0.811, 0.153)),
        ),
    ),
    "blocks": (
        "2D+3D against all-3D (paper: Table 1)",
        (
            Row("2d-3d", {"half_3d": True}, (28.5, 0.817, 0.143)),
            Row("3d", {"half_3d": False}, (28.6, 0.819, 0.145)),
        ),
    ),
}
_BASE: dict[str, Any] = {"regularization": "decoder", "mapping": "random", "half_3d": True}
_DEFAULTS: dict[str, Any] = {
    "latent_channels": 4,  # the paper's subject
    "clock": "cpu",
    # The whole validation split, unquantised, as the paper measures; once, at the end.
    "validation_clips": 1000,
    "validation_frames": 17,
    "validation_qualities": (),
    "validate_minutes": 0.0,
    "validate_first": False,
}
_OF_IMAGE_VAE = (
    *("data", "val_fraction", "cache", "cache_gigabytes", "cache_side", "segment_frames", "workers"),
    *("seed", "device", "precision", "threads", "clock", "log_every", "checkpoint_minutes", "statistics_clips"),
    *("latent_channels", "widths", "encoder_blocks", "decoder_blocks", "unit_step", "default_quality"),
    *("validation_clips", "validation_frames", "validation_side", "validation_lpips", "validate_minutes"),
    *("validation_qualities", "validate_first"),
)
"""Settings of the rows that the 2D model, where it is trained here, shares with them."""
_NO_MATTER = ("output", "resume", "name", "threads", "workers", "cache", "cache_gigabytes")
"""Settings that may differ between the parts of a series."""
_COLUMNS = ("psnr_db", "ssim", "lpips_alex", "psnr_db_image_decoder", "psnr_db_image_encoder")
_PAPER = ("psnr_db", "ssim", "lpips")

Numbers = Mapping[str, float]


def row_names() -> list[str]:
    """Of all rows, in the tables' order."""
    return [row.name for _, rows in TABLES.values() for row in rows]


def run_ablations(
    which: str, values: Mapping[str, Any], output: Path, *, minutes: float = MINUTES, steps: int = 0
) -> Iterator[str]:
    """Train what is missing of `which` (a row, a table or `all`); give the tables in Markdown, with all rows done.

    `values`: fields of the rows' config. Writes ablations.md and ablations.json to OUTPUT after each row. UsageError
    for another name, or when a run in OUTPUT has other settings; KeyboardInterrupt when a signal stops a run.
    """
    if which != "all" and which not in (*TABLES, *row_names()):
        raise UsageError(f"no ablation is called {which!r}; wanted {', '.join((*row_names(), *TABLES))} or all")
    length = {"steps": steps, "minutes": 0.0} if steps else {"steps": 0, "minutes": minutes}
    values = {**JOB_DEFAULTS["video-vae"], **_DEFAULTS, **values, **length}
    if not values.get("image_vae"):
        values["image_vae"] = str(_image_vae(values, output))
    numbers = _earlier(values, output)  # refuses a folder of other settings before anything is trained
    chosen = [row for name, (_, rows) in TABLES.items() for row in rows if which in ("all", name, row.name)]
    for row in chosen:
        if row.folder not in numbers:
            config = TrainConfig.of(**{**values, **_BASE, **row.changes, "output": str(output / row.folder)})
            numbers[row.folder] = _run("video-vae", config)
            _write(output, numbers)
    runs = {row.folder for row in chosen}
    for name, (_, rows) in TABLES.items():
        if which in ("all", name) or (which not in TABLES and runs & {row.folder for row in rows}):
            yield from _markdown(name, numbers)
            yield ""


def _image_vae(values: Mapping[str, Any], output: Path) -> Path:
    """The weights of the 2D model that all rows share, trained if it is not there yet."""
    folder = output / "image-vae"
    length = {name: values[name] for name in ("steps", "minutes")}
    shared = {name: values[name] for name in _OF_IMAGE_VAE if name in values}
    _run("image-vae", TrainConfig.of(**{**JOB_DEFAULTS["image-vae"], **shared, **length, "output": str(folder)}))
    return folder / "model.safetensors"


def _run(job: Job, config: TrainConfig) -> Numbers:
    folder = Path(config.run.output)
    if (done := _finished(config)) is not None:
        return done
    result = train(job, config.with_values(resume=has_state(folder)), on_line=lambda event, line: report.line(line))
    if not result.finished:
        raise KeyboardInterrupt  # the same command continues the series
    return {**result.validation, "steps": result.step}


def _finished(config: TrainConfig) -> Numbers | None:
    """The numbers of a run that went to its end. UsageError when its folder holds one of other settings."""
    folder = Path(config.run.output)
    if not (folder / LOG_NAME).is_file():
        return None
    before = read_config(folder)
    if differ := [name for name in _settings(config) if _settings(config)[name] != _settings(before)[name]]:
        raise UsageError(f"{folder} holds a run of other settings ({', '.join(differ)}); give another --output")
    lines = list(read_log(folder))
    if not any(line["event"] == "end" and line["finished"] for line in lines):
        return None
    numbers: dict[str, float] = {}
    for line in lines:
        if line["event"] == "end":
            numbers["steps"] = line["step"]
        if line["event"] == "validation":
            numbers |= {k: v for k, v in line.items() if isinstance(v, int | float) and k not in ("step", "minutes")}
    return numbers


def _settings(config: TrainConfig) -> dict[str, Any]:
    return {name: value for name, value in config.values.items() if name not in _NO_MATTER}


def _earlier(values: Mapping[str, Any], output: Path) -> dict[str, Numbers]:
    """The numbers of rows that earlier calls finished, by folder. UsageError when one has other settings."""
    found: dict[str, Numbers] = {}
    for _, rows in TABLES.values():
        for row in rows:
            if row.folder not in found:
                config = TrainConfig.of(**{**values, **_BASE, **row.changes, "output": str(output / row.folder)})
                if (earlier := _finished(config)) is not None:
                    found[row.folder] = earlier
    return found


def _write(output: Path, numbers: Mapping[str, Numbers]) -> None:
    record = {
        name: {
            row.name: {
                "measured": numbers.get(row.folder),
                "paper": dict(zip(_PAPER, row.paper, strict=True)) if row.paper else None,
            }
            for row in rows
        }
        for name, (_, rows) in TABLES.items()
    }
    tables = "\n\n".join("\n".join(_markdown(name, numbers)) for name in TABLES)
    for name, text in (("ablations.md", tables), ("ablations.json", json.dumps(record, indent=2))):
        with atomic_output(output / name, overwrite=True) as file:
            file.write(f"{text}\n".encode())


def _markdown(table: str, numbers: Mapping[str, Numbers]) -> Iterator[str]:
    title, rows = TABLES[table]
    yield f"**{title}**"
    yield ""
    yield (
        "| | steps | PSNR, dB | SSIM | LPIPS (AlexNet) | 2D decoder on video latents, dB "
        "| video decoder on 2D latents, dB | paper: PSNR, dB | SSIM | LPIPS |"
    )
    yield "|---" + "|--:" * 9 + "|"
    for row in rows:
        yield "| " + " | ".join([row.name, *_measured(numbers.get(row.folder, {})), *_printed(row.paper)]) + " |"


def _measured(numbers: Numbers) -> Sequence[str]:
    digits = [(column, 2 if column.startswith("psnr") else 3) for column in _COLUMNS]
    cells = [f"{numbers[column]:.{places}f}" if column in numbers else "–" for column, places in digits]
    return [f"{numbers['steps']:.0f}" if "steps" in numbers else "–", *cells]


def _printed(paper: tuple[float, float, float] | None) -> Sequence[str]:
    return ("–",) * 3 if paper is None else (f"{paper[0]:.1f}", f"{paper[1]:.3f}", f"{paper[2]:.3f}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    add = parser.add_argument
    add("which", metavar="ROW|TABLE|all", help=f"{', '.join((*row_names(), *TABLES))}, or all")
    add("config", nargs="?", type=Path, help="config of the rows, as for video-vae")
    add("--data", action="append", help="as for video-vae")
    add("--image-vae", help="the 2D model of all rows (default: trained first)")
    add("--threads", type=int, help="CPU threads")
    add("--output", "-o", type=Path, default=Path("ablations"), help="folder for runs and tables (default: ablations)")
    add("--minutes", type=float, default=MINUTES, help=f"CPU time of each row (default: {MINUTES:g})")
    add("--steps", type=int, default=0, help="length of each row in steps instead")
    options = parser.parse_args(arguments)
    return harness.run_program(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    values = read_config_file(options.config) if options.config is not None else {}
    given = {name: getattr(options, name) for name in ("data", "image_vae", "threads") if getattr(options, name)}
    values |= check_values(given, where="options")
    for line in run_ablations(options.which, values, options.output, minutes=options.minutes, steps=options.steps):
        report.show(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
