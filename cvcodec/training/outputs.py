"""What a run leaves for others: the weights file with its card, and the grids.

Owns: the stored types, the model card's fields, the grid's columns. Does not know: when they are written.
"""

from __future__ import annotations

import datetime
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cvcodec.checkpoints.checkpoint import load_checkpoint, make_checkpoint, write_checkpoint
from cvcodec.checkpoints.registry import resolve
from cvcodec.codec.runner import normalise
from cvcodec.quantization import LatentStatistics
from cvcodec.training.grids import error_picture, grid, write_png
from cvcodec.training.objective import decode_pictures

if TYPE_CHECKING:
    from cvcodec.training.trainer import Trainer

WEIGHTS_NAME = "model.safetensors"
_GRID_ROWS = 4


def store_weights(trainer: Trainer, statistics: LatentStatistics) -> None:
    """Write the model's present weights, which are the averaged ones, to the run folder.

    A half that was frozen keeps the numbers and the types it was loaded with, so that its identity stays.
    """
    config = trainer.config
    dtype = torch.float16 if config.store == "fp16" else torch.float32
    tensors: dict[str, Tensor] = {}
    frozen = {name for name, parameter in trainer.model.named_parameters() if not parameter.requires_grad}
    original = load_checkpoint(resolve(config.init).path).state_dict if frozen and config.init else {}
    for name, tensor in trainer.model.state_dict().items():
        tensors[name] = original[name] if name in frozen and name in original else tensor.detach().to("cpu", dtype)
    card = _card(trainer)
    checkpoint = make_checkpoint(trainer.model.config, tensors, statistics=statistics, card=card)
    write_checkpoint(trainer.folder / WEIGHTS_NAME, checkpoint, overwrite=True)


def write_grid(trainer: Trainer) -> None:
    """grid-STEP.png: original, reconstruction, its error (4x), and the frozen 2D decoder's view of the same latent."""
    rows = []
    with torch.no_grad():
        for clip in trainer.validator.clips[:_GRID_ROWS]:
            x = normalise(clip.to(trainer.device), 8)
            with trainer.arithmetic():
                posterior = trainer.model.encode(x)
                latent, output = posterior.mean, trainer.model.decode(posterior.layers).float()
            shown = (x.shape[2] - 1) // 8 * 4  # a frame near the middle at which a latent sits
            pictures = [x[0, :, shown], output[0, :, shown], error_picture(x[0, :, shown], output[0, :, shown])]
            if trainer.start.image_model is not None and trainer.model.config.is_video:
                with trainer.arithmetic():
                    decoded = decode_pictures(trainer.start.image_model, latent[:, :, shown // 4 : shown // 4 + 1])
                pictures.append(decoded[0, :, 0].float())
            rows.append(pictures)
    write_png(trainer.folder / f"grid-{trainer.step:07d}.png", grid(rows))


def _card(trainer: Trainer) -> dict[str, Any]:
    config = trainer.config
    return {
        "name": config.name or trainer.folder.resolve().name,
        "job": trainer.job,
        "command": " ".join(["cvcodec", *sys.argv[1:]]),
        "config": config.to_toml(),
        "steps": trainer.step,
        "hours": round(trainer.seconds / 3600, 2),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__,
        "quality": {name: round(value, 4) for name, value in trainer.validation.items()},
    }
