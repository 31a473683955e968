"""The numbers of a run's log, and its grids, as TensorBoard reads them. The one place that knows TensorBoard.

Owns: names of scalars (`train/loss`, `validation/psnr_db`), where the files lie. Does not know: what numbers mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cvcodec.errors import MissingDependencyError

FOLDER = "tensorboard"

_EVENTS = ("train", "validation")


class Board:
    """Writes into the folder `tensorboard` of a run. MissingDependencyError where TensorBoard is not installed."""

    def __init__(self, run: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError(
                "--tensorboard needs TensorBoard: pip install 'cvcodec[tensorboard]', or leave it out"
            ) from error
        self._writer: Any = SummaryWriter(str(run / FOLDER))

    def write(self, event: str, values: Mapping[str, Any]) -> None:
        """The numbers of a line of the log, at its step."""
        if event not in _EVENTS:
            return
        for name, value in values.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(f"{event}/{name}", value, values["step"])
        self._writer.flush()

    def draw(self, name: str, step: int, pixels: npt.NDArray[np.uint8]) -> None:
        """A picture, (H, W, 3)."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Nothing comes any more."""
        self._writer.close()
