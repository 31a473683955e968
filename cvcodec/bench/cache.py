"""What has been measured, on disk: a row of JSON and a picture for each clip and setting, so that a run can go on.

Owns: names and forms of the files. A file that cannot be read counts as absent. Does not know: what is in a row.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvcodec.fileio import atomic_output, atomic_path, make_folder

_SCHEMA = 2  # what a row holds and how it is measured; a change makes old ones be measured again


class Cache:
    """A folder of results. `facts`: everything that may change a number (versions, metrics, threads)."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        """The folder is made where it is missing. Raises OutputError."""
        self.folder = make_folder(folder)
        self._facts = facts

    def key(self, clip: str, setting: dict[str, Any]) -> str:
        """Name of a result: 24 hexadecimal digits."""
        text = json.dumps([_SCHEMA, self._facts, clip, setting], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def load(self, key: str) -> dict[str, Any] | None:
        """The row that was kept; None where there is none that can be read."""
        try:
            row = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return row if isinstance(row, dict) else None

    def store(self, key: str, row: dict[str, Any]) -> None:
        """Keep a row; it appears whole or not at all. Raises OutputError."""
        with atomic_output(self.folder / f"{key}.json", overwrite=True) as file:
            file.write(json.dumps(row, allow_nan=False).encode())

    def picture(self, key: str) -> Path:
        """Where the picture of a result is, or would be."""
        return self.folder / f"{key}.png"

    def store_picture(self, key: str, pixels: NDArray[np.uint8]) -> None:
        """Keep an (H, W, 3) picture. Raises OutputError."""
        from fractions import Fraction

        from cvcodec.video import Frame, VideoWriter

        height, width = pixels.shape[:2]
        with (
            atomic_path(self.picture(key), overwrite=True) as path,
            VideoWriter(path, width=width, height=height, time_base=Fraction(1), container="png") as writer,
        ):
            writer.write(Frame(pixels, pts=0))
