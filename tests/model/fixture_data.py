"""Reference outputs that other projects' code computed once (tests/fixtures), and models with the same weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvcodec.model import VideoAutoencoder, build_model
from cvcodec.model.official.config import config_from_official
from tests.fixtures.parity.weights import stand_in_video, stand_in_weights

FIXTURES = Path(__file__).parents[1] / "fixtures"


@dataclass
class Reference:
    """One recorded model."""

    notes: dict[str, Any]
    arrays: dict[str, Tensor]

    @classmethod
    def load(cls, name: str) -> Reference:
        """`name`: folder and file, without a suffix."""
        path = FIXTURES / name
        with np.load(path.with_suffix(".npz")) as arrays:
            tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        return cls(json.loads(path.with_suffix(".json").read_text()), tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: tuple(shape) for key, shape in self.notes["shapes"].items()}

    def model(self) -> VideoAutoencoder:
        return stand_in_model(self.notes["config"])

    @staticmethod
    def video(video: dict[str, int]) -> Tensor:
        return torch.from_numpy(stand_in_video(video["seed"], video["frames"], video["height"], video["width"]))


def stand_in_model(official: dict[str, Any]) -> VideoAutoencoder:
    """The model of an official config with deterministic weights, in eval mode."""
    model = build_model(config_from_official(official))
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(value) for key, value in stand_in_weights(shapes).items()})
    return model.eval()
