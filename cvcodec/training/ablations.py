"""The paper's ablations at small scale: Table 6, Table 7, and 2D+3D blocks against all-3D, for equal training time.

Owns: the rows, running those that are missing, the tables next to the paper's numbers. Does not know: the trainer.

Each row is a run of its own in OUTPUT/ROW; a row that is finished is not trained again, so an interrupted series
continues where it stopped. All rows start from the same 2D model, data and seed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvcodec.errors import UsageError
from cvcodec.training.config import TrainConfig
from cvcodec.training.log import LOG_NAME, read_log
from cvcodec.training.state import STATE_NAME


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str
    changes: Mapping[str, Any]
    paper: tuple[float, float, float]
    """PSNR, SSIM, LPIPS on WebVid, as the paper prints them (Tables 6, 7 and 1)."""


TABLES: dict[str, tuple[str, tuple[Row, ...]]] = {
    "table6": (
        "Table 6: type of regularisation",
        (
            Row("encoder", {"regularization": "encoder"}, (26.0, 0.748, 0.222)),
            Row("decoder", {"regularization": "decoder"}, (28.0, 0.803, 0.158)),
            Row("both", {"regularization": "both"}, (27.6, 0.795, 0.176)),
        ),
    ),
    "table7": (
        "Table 7: mapping",
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
_COLUMNS = ("psnr_db", "ssim", "lpips_alex", "psnr_db_image_decoder", "psnr_db_image_encoder")
_BASE: dict[str, Any] = {"regularization": "decoder", "mapping": "random", "half_3d": True}


def run_ablations(
    which: str, values: Mapping[str, Any], output: Path, *, minutes: float = 20.0, steps: int = 0
) -> Iterator[str]:
    """Train the rows of `which` (a table's name or `all`) and give the lines of the tables in Markdown.

    `values`: fields of the rows' config. Writes ablations.md and ablations.json to OUTPUT. UsageError for another name.
    """
    if which != "all" and which not in TABLES:
        raise UsageError(f"no ablation is called {which!r}; wanted {', '.join(TABLES)} or all")
    tables = list(TABLES) if which == "all" else [which]
    length = {"steps": steps, "minutes": 0.0} if steps else {"steps": 0, "minutes": minutes}
    lines: list[str] = []
    numbers: dict[str, dict[str, dict[str, float]]] = {}
    for table in tables:
        title, rows = TABLES[table]
        numbers[table] = {}
        for row in rows:
            changes = {**_BASE, **row.changes}
            # The same setting in two tables is one run: Table 6 "decoder", Table 7 "random" and "2d-3d".
            folder = output / "-".join(str(changes[name]).lower() for name in ("regularization", "mapping", "half_3d"))
            config = TrainConfig(**{**values, **changes, **length, "output": str(folder)})
            numbers[table][row.name] = _finished(config, folder) or _train(config, folder)
        lines += [*_markdown(title, rows, numbers[table]), ""]
    (output / "ablations.md").write_text("\n".join(lines), encoding="utf-8")
    (output / "ablations.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    yield from lines


def _train(config: TrainConfig, folder: Path) -> dict[str, float]:
    from cvcodec.training.trainer import train

    result = train("video-vae", dataclasses.replace(config, resume=(folder / STATE_NAME).exists()))
    if not result.finished:
        raise KeyboardInterrupt  # the same command continues the series
    return {**result.validation, "steps": result.step}


def _finished(config: TrainConfig, folder: Path) -> dict[str, float] | None:
    """The numbers of a row that ran to its end. UsageError when the folder holds a row of other settings."""
    if not (folder / LOG_NAME).is_file():
        return None
    if (folder / "config.toml").read_text(encoding="utf-8") != config.to_toml():
        raise UsageError(f"{folder} holds a row of other settings; give another --output")
    lines = list(read_log(folder))
    if not any(line["event"] == "end" and line["finished"] for line in lines):
        return None
    numbers = [line for line in lines if line["event"] == "validation"][-1:]
    return {
        name: value
        for line in numbers
        for name, value in {**line, "steps": line["step"]}.items()
        if isinstance(value, int | float) and name not in ("step", "minutes")
    }


def _markdown(title: str, rows: tuple[Row, ...], numbers: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    yield f"**{title}**"
    yield ""
    yield (
        "| | steps | PSNR, dB | SSIM | LPIPS (AlexNet) | 2D decoder, dB | 2D encoder, dB "
        "| paper: PSNR, dB | SSIM | LPIPS |"
    )
    yield "|---" * 10 + "|"
    for row in rows:
        measured = numbers[row.name]
        cells = [f"{measured.get('steps', 0):.0f}"]
        for column in _COLUMNS:
            digits = 2 if column.startswith("psnr") else 3
            cells.append(f"{measured[column]:.{digits}f}" if column in measured else "-")
        psnr, ssim, lpips = row.paper
        yield f"| {row.name} | {' | '.join(cells)} | {psnr:.1f} | {ssim:.3f} | {lpips:.3f} |"
