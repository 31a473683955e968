"""A model in the folders and repositories that diffusers reads and writes: config.json beside weights.

    vae/config.json                           the numbers that pipelines read, and the name of the class
    vae/diffusion_pytorch_model.safetensors   a weights file of ours (`cvcodec.checkpoints.checkpoint`)

Owns: what `from_pretrained` means by its arguments, what `save_pretrained` leaves.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cvcodec.checkpoints.checkpoint import instantiate, make_checkpoint, save_checkpoint
from cvcodec.checkpoints.foreign import import_model
from cvcodec.checkpoints.foreign_files import HUB_SCHEME, suggested_name
from cvcodec.checkpoints.registry import load_model
from cvcodec.errors import CheckpointError
from cvcodec.fileio import atomic_output, make_folder
from cvcodec.model.base import VideoAutoencoder

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_DOWNLOAD = ("cache_dir", "force_download", "local_files_only", "token")


def load(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: torch.dtype,
    image: bool,
    subfolder: str | None,
    revision: str | None,
    variant: str | None,
    options: Mapping[str, Any],
) -> VideoAutoencoder:
    """A model by name, weights file, folder or repository, with weights that may be trained; see
    `DiffusersVAE.from_pretrained`."""
    text = os.fspath(name_or_path)
    folder = Path(os.path.expanduser(text))
    if folder.is_dir():
        source = str(folder / (subfolder or ""))
    elif text.startswith(HUB_SCHEME) or (
        _REPOSITORY.fullmatch(text) and not folder.exists() and folder.suffix != ".safetensors"
    ):
        owner, _, address = text.removeprefix(HUB_SCHEME).partition("/")
        repository, *inside = address.split("/")
        inside += [subfolder] if subfolder else []
        source = f"{HUB_SCHEME}{owner}/{'/'.join([f'{repository}@{revision}' if revision else repository, *inside])}"
    else:
        return load_model(name_or_path, dtype=dtype, requires_grad=True)
    if variant:
        source = f"{source}/{_weights_name(variant)}"
    download = {name: options[name] for name in _DOWNLOAD if options.get(name) is not None}
    found = import_model(source, image=image, download=download)
    for note in found.notes:
        warnings.warn(f"{source}: {note}", stacklevel=4)
    checkpoint = make_checkpoint(found.config, found.state_dict, statistics=found.statistics, card=found.card)
    name = found.card.get("name") or suggested_name(source)
    return instantiate(checkpoint, name=str(name), dtype=dtype, requires_grad=True)


def save(
    model: VideoAutoencoder, config: Mapping[str, Any], folder: str | os.PathLike[str], *, variant: str | None
) -> None:
    """Write the two files. Weights that no file can hold are warned of, so that the rest of a pipeline is saved.

    OutputError where the folder cannot be written.
    """
    place = Path(folder)
    make_folder(place)
    with atomic_output(place / "config.json", overwrite=True) as file:
        file.write((json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    card = {"name": model.name} if model.name else {}
    try:
        save_checkpoint(place / _weights_name(variant), model, statistics=model.statistics, card=card)
    except CheckpointError as error:
        warnings.warn(f"{place} has no weights, give the VAE again when the pipeline is loaded: {error}", stacklevel=3)


def _weights_name(variant: str | None) -> str:
    return f"diffusion_pytorch_model.{variant}.safetensors" if variant else "diffusion_pytorch_model.safetensors"
