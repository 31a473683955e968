"""Reading other projects' weights: a file, a folder or a Hugging Face repository -> tensors and config.json.

Owns: which file of a folder is taken, safe unpickling, downloads, the licence a source states.

Pickle never runs code here: PyTorch checkpoints are read with `weights_only=True` and refused if that is not enough.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cvcodec.checkpoints.checkpoint import first_line
from cvcodec.errors import CheckpointError, InputError, MissingDependencyError
from cvcodec.fileio import refuse_address

PICKLED = (".ckpt", ".pt", ".pth", ".bin")
_FOLDER_WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
)
_PIPELINE_SUBFOLDER = "vae"  # where a diffusers pipeline keeps its autoencoder
HUB_SCHEME = "hf://"
_GENERIC_NAME = re.compile(r"diffusion_pytorch_model(\.fp16)?|model|vae|[a-z]:")  # names that say nothing; a drive
_CONFIG_CLASSES = ("CVVAEModel", "CVVAESD3Model", "AutoencoderKL")
_MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class ForeignWeights:
    """What a source holds, before any of it is understood."""

    label: str
    """What to record in the model card: the hf:// address, or a local file's name without its folders."""
    file: Path
    """The weights file itself."""
    config: dict[str, Any] | None
    """config.json beside the weights; None: there is none."""
    licence: str | None
    """What the source's model card states."""

    @property
    def is_pickled(self) -> bool:
        """A PyTorch checkpoint, perhaps of a whole training run."""
        return self.file.suffix.lower() in PICKLED

    def read_tensors(self) -> dict[str, Tensor]:
        """All tensors, on the CPU, mapped from the file where its format allows. CheckpointError for anything
        unreadable.
        """
        return _read_pickled(self.file) if self.is_pickled else _read_safetensors(self.file)


def open_source(
    source: str, *, config: Path | None = None, download: Mapping[str, Any] | None = None
) -> ForeignWeights:
    """Locate a source; nothing but config.json is read, but a Hugging Face source is downloaded into its cache.

    `source`: a weights file, a folder (diffusers style, or a pipeline with `vae/`), or
    `hf://OWNER/REPO[@REVISION][/SUBFOLDER or FILE]`. `config`: a config.json to use instead of the one beside the
    weights. `download`: further arguments of hf_hub_download. Raises InputError when there is nothing there,
    CheckpointError when it is not weights,
    MissingDependencyError for hf:// without huggingface_hub.
    """
    if source.startswith(HUB_SCHEME):
        return _from_hub(source, config, download or {})
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        weights = _weights_in_folder(path)
    elif path.is_file():
        weights = path
    else:
        refuse_address(source)
        raise InputError(f"no weights at {source}: wanted a file, a folder or hf://OWNER/REPO/SUBFOLDER")
    return _local(weights, label=path.resolve().name, config=config)


def suggested_name(source: str) -> str:
    """A model name made from the last telling part of a source's address; nothing is read."""
    path = (
        re.sub(r"@[^/]*", "", source.removeprefix(HUB_SCHEME))
        if source.startswith(HUB_SCHEME)
        else str(Path(source).resolve())
    )
    stems = [
        re.sub(r"\.(safetensors|ckpt|pt|pth|bin)$", "", part) for part in reversed(re.split(r"[\\/]", path.lower()))
    ]
    telling = (stem for stem in stems if stem and not _GENERIC_NAME.fullmatch(stem))
    return re.sub(r"[^a-z0-9._-]+", "-", next(telling, "model")).strip("._-")[:64] or "model"


def _local(weights: Path, *, label: str, config: Path | None, licence: str | None = None) -> ForeignWeights:
    if weights.suffix.lower() not in (".safetensors", *PICKLED):
        raise CheckpointError(f"{weights}: unknown kind of weights; wanted .safetensors or {', '.join(PICKLED)}")
    if config is not None:
        values: dict[str, Any] | None = _read_config(config)
    else:
        beside = weights.parent / "config.json"
        values = _read_config(beside) if beside.is_file() else None
        # A file that happens to lie beside the config of something else (a text encoder, a UNet) must not inherit it.
        if values is not None and not weights.name.startswith("diffusion_pytorch_model"):
            values = values if values.get("_class_name") in _CONFIG_CLASSES else None
    if licence is None:
        licence = _licence_in(weights.parent / "README.md")
    return ForeignWeights(label, weights, values, licence)


def _weights_in_folder(folder: Path) -> Path:
    for place in (folder, folder / _PIPELINE_SUBFOLDER):
        for name in _FOLDER_WEIGHTS:
            if (place / name).is_file():
                return place / name
    others = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".safetensors", *PICKLED))
    if len(others) == 1:
        return others[0]
    found = f"{len(others)} weights files ({', '.join(path.name for path in others[:5])})" if others else "no weights"
    raise InputError(f"{folder} holds {found}; wanted {_FOLDER_WEIGHTS[0]}, or name one file")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes; that is not a model config")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return values


# ---------------------------------------------------------------------------------------------------- file formats


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {first_line(error)}") from error


def _read_pickled(path: Path) -> dict[str, Tensor]:
    content = _unpickle(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = {
        name: value
        for name, value in (content.items() if isinstance(content, dict) else ())
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise CheckpointError(
            f"{path} holds no tensors by name; wanted a state dict, or a checkpoint with `state_dict`"
        )
    return tensors


def _unpickle(path: Path) -> object:
    is_zip = False
    try:
        with open(path, "rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        # Only the zip format (since PyTorch 1.6) can be mapped; older files are read whole.
        with warnings.catch_warnings(action="ignore"):  # what torch has to say of it is no more than our refusal
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
        what = f"the object {named[1]}" if named else "something that is not a tensor"
        raise CheckpointError(
            f"{path} was refused: it is damaged or holds {what}, and loading that could run code from the file; "
            "use the .safetensors file, or save its state_dict alone with torch.save"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable PyTorch checkpoint: {first_line(error)}") from error


def _licence_in(readme: Path) -> str | None:
    """`license:` of a Hugging Face model card's front matter."""
    try:
        text = readme.read_text(encoding="utf-8", errors="replace")[:20_000]
    except OSError:
        return None
    front = re.match(r"\A---\s*\n(.*?)\n---", text, re.DOTALL)
    stated = re.search(r"^license:\s*[\"']?([\w.+-]{1,60})", front[1], re.MULTILINE) if front else None
    return stated[1] if stated else None


# ---------------------------------------------------------------------------------------------------- Hugging Face


def _from_hub(source: str, config: Path | None, download: Mapping[str, Any]) -> ForeignWeights:
    found = re.fullmatch(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<inner>[^\\]+?))?/?", source)
    inner = PurePosixPath(found["inner"] or "") if found else PurePosixPath()
    # Whatever the hub's own library makes of them: each part becomes part of an address, and of a path in its cache.
    parts = [] if found is None else [*found["repo"].split("/"), found["revision"], *(found["inner"] or "").split("/")]
    if found is None or {".", ".."} & set(parts):
        raise InputError(
            f"cannot read {source}: wanted hf://OWNER/REPO, with @REVISION and /SUBFOLDER or /FILE if needed"
        )
    fetch = _hub_fetcher(found["repo"], found["revision"], source, download)
    if inner.suffix.lower() in (".safetensors", *PICKLED):
        weights, folder = fetch(str(inner)), inner.parent
        if weights is None:
            raise InputError(f"{source}: the repository has no file {inner}")
    else:
        weights, folder = None, inner
        for folder in (inner, inner / _PIPELINE_SUBFOLDER):
            weights = next((path for name in _FOLDER_WEIGHTS if (path := fetch(str(folder / name)))), None)
            if weights:
                break
    if weights is None:
        raise InputError(
            f"{source} holds no {_FOLDER_WEIGHTS[0]}, nor the same as .fp16 or .bin; name its subfolder or file"
        )
    fetch(str(folder / "config.json"))  # lands beside the weights in the cache
    readme = fetch("README.md")
    return _local(weights, label=source, config=config, licence=_licence_in(readme) if readme else None)


def _hub_fetcher(
    repo: str, revision: str | None, source: str, download: Mapping[str, Any]
) -> Callable[[str], Path | None]:
    """A function that downloads one file of a repository, or gives None when the repository does not have it."""
    # The library asks once, at import, whether it may tell the hub what else is installed here.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise MissingDependencyError(
            f"{source} needs huggingface_hub; install it with: pip install 'cvcodec[hub]'"
        ) from error
    # huggingface_hub has changed its HTTP client; the first base of its error is always that client's own root.
    client_error: type[Exception] = HfHubHTTPError.__bases__[0]
    # Given with each call because the library reads its environment only once, at import.
    endpoint = os.environ.get("HF_ENDPOINT") or None

    def fetch(name: str) -> Path | None:
        try:
            return Path(hf_hub_download(repo, name, revision=revision, endpoint=endpoint, **download))
        except LocalEntryNotFoundError as error:
            raise InputError(f"cannot reach {source}: {first_line(error)}") from error
        except EntryNotFoundError:
            return None
        except RepositoryNotFoundError as error:  # private and gated ones as well: the hub does not tell them apart
            raise InputError(
                f"{source}: no repository {repo}, or none that you may read; check the name, or log in: hf auth login"
            ) from error
        except RevisionNotFoundError as error:
            raise InputError(f"{source}: the repository {repo} has no revision {revision!r}") from error
        except (client_error, HFValidationError, OSError) as error:
            raise InputError(f"cannot download {name} of {source}: {first_line(error)}") from error

    return fetch
