"""Models by name: the bundled ones, those the user added, and which file a `--weights NAME|PATH` means.

Owns: where weights files live, names and versions, adding and removing, and that a name in a file opens no path.

Bundled files lie in `weights/` of a checkout and in `cvcodec/weights/` of an installed package; the user's in
`models/` of the data folder (`CVCODEC_HOME`, else the platform's place for application data). A file is called
NAME.safetensors. A name may end in a version, `-v1`; without it, it means the newest version. What a name stands for
never changes: better weights get a new version.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from cvcodec.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointSummary,
    instantiate,
    load_checkpoint,
    make_checkpoint,
    read_summary,
    write_checkpoint,
)
from cvcodec.errors import CvcodecError, InputError, OutputError, UsageError
from cvcodec.fileio import make_folder
from cvcodec.model.base import VideoAutoencoder

_SUFFIX = ".safetensors"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_VERSION = re.compile(r"(?P<base>.+)-v(?P<number>\d{1,4})")
# Windows opens a device for these names, whatever their suffix.
_DEVICE_NAMES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(10))}
)


@dataclass(frozen=True)
class ModelEntry:
    """One weights file that has a name."""

    name: str
    path: Path
    bundled: bool
    """Part of this release, as opposed to added by the user."""

    @property
    def base_name(self) -> str:
        """The name without its version."""
        found = _VERSION.fullmatch(self.name)
        return found["base"] if found else self.name

    @property
    def version(self) -> int:
        """0 for a name without one."""
        found = _VERSION.fullmatch(self.name)
        return int(found["number"]) if found else 0

    def summary(self) -> CheckpointSummary:
        """The file's header. CheckpointError when it is damaged."""
        return read_summary(self.path)


# ---------------------------------------------------------------------------------------------------- places


def user_data_folder() -> Path | None:
    """`CVCODEC_HOME`, else the platform's folder for application data. It need not exist. None where nothing says where
    it would be: without a home folder, as in some containers.
    """
    chosen = os.environ.get("CVCODEC_HOME")
    if chosen:
        return Path(os.path.expanduser(chosen))
    given = {"win32": "LOCALAPPDATA", "darwin": ""}.get(sys.platform, "XDG_DATA_HOME")
    if folder := os.environ.get(given):
        return Path(folder) / "cvcodec"
    home = os.path.expanduser("~")
    if home == "~":
        return None
    usual = {"win32": "AppData/Local", "darwin": "Library/Application Support"}.get(sys.platform, ".local/share")
    return Path(home) / usual / "cvcodec"


def bundled_folders() -> list[Path]:
    """Folders of bundled weights, the checkout's first."""
    package = Path(__file__).resolve().parents[1]
    in_checkout = (package.parent / "pyproject.toml").is_file()
    folders = [package.parent / "weights"] if in_checkout else []
    return [folder for folder in (*folders, package / "weights") if folder.is_dir()]


def _user_folder() -> Path | None:
    folder = user_data_folder()
    return None if folder is None else folder / "models"


# ---------------------------------------------------------------------------------------------------- look up


def list_models() -> list[ModelEntry]:
    """All named models, bundled ones first, each group by name and version. A name appears once: bundled goes before
    added.
    """
    entries: dict[str, ModelEntry] = {}
    for folder, bundled in (*((folder, True) for folder in bundled_folders()), (_user_folder(), False)):
        for path in sorted(folder.glob(f"*{_SUFFIX}")) if folder is not None and folder.is_dir() else ():
            name = path.name.removesuffix(_SUFFIX)
            if not path.name.startswith("."):  # a file still being written
                entries.setdefault(name, ModelEntry(name, path, bundled))
    return sorted(entries.values(), key=lambda entry: (not entry.bundled, entry.base_name, entry.version))


def find_model(name: str) -> ModelEntry | None:
    """The entry of that exact name, else the newest version of that base name; bundled before added."""
    entries = list_models()
    exact = next((entry for entry in entries if entry.name == name), None)
    if exact is not None:
        return exact
    versions = [entry for entry in entries if entry.base_name == name]
    return max(versions, key=lambda entry: (entry.bundled, entry.version), default=None)


def resolve(name_or_path: str | os.PathLike[str]) -> ModelEntry:
    """What `--weights NAME|PATH` means. A name wins over a file of the same name; write ./NAME for the file.

    Raises InputError, with the known names, when it is neither.
    """
    text = os.fspath(name_or_path)
    entry = find_model(text) if isinstance(name_or_path, str) else None
    if entry is not None:
        return entry
    path = Path(os.path.expanduser(text))
    if path.exists():
        return ModelEntry(path.name.removesuffix(_SUFFIX), path, bundled=False)
    if text.endswith(_SUFFIX) or any(separator in text for separator in ("/", os.sep)):
        raise InputError(f"no weights file {text}")
    raise InputError(f"no model is called {text!r} and there is no such file; {_known_models()}")


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    requires_grad: bool = False,
) -> VideoAutoencoder:
    """A model by name or weights file, in eval mode, with `.name`, `.statistics`, `.latent_space_id` and
    `.decoder_hash`.

    requires_grad: of its weights. Without, a call keeps no graph, unless its input asks for gradients.
    The file is verified against its identities. Raises InputError, CheckpointError or DeviceError.
    """
    entry = resolve(name_or_path)
    return instantiate(
        load_checkpoint(entry.path), name=entry.name, device=device, dtype=dtype, requires_grad=requires_grad
    )


def load_named_model(name: str) -> VideoAutoencoder:
    """As `load_model`, for a name that stands in a file: of a model that is installed, never a path, since nobody but
    the user says which files are opened. Raises InputError or CheckpointError.
    """
    entry = find_model(name)
    if entry is None:
        raise InputError(
            f"the file wants model {name[:80]!r}, which is not installed ({_known_models()}); name its weights "
            "with --weights (in Python: model=)"
        )
    return load_model(entry.name)


def _known_models() -> str:
    return "known models: " + (", ".join(entry.name for entry in list_models()) or "none")


# ---------------------------------------------------------------------------------------------------- add, remove


def check_new_name(name: str) -> None:
    """UsageError unless a user may give a model this name."""
    if not _NAME.fullmatch(name) or ".." in name or name.split(".")[0] in _DEVICE_NAMES or name.endswith(_SUFFIX):
        raise UsageError(
            f"{name[:80]!r} is no model name; wanted up to 64 of a-z, 0-9, '.', '_' and '-', "
            "beginning and ending in a letter or digit"
        )
    base = ModelEntry(name, Path(), bundled=False).base_name
    if any(entry.bundled and entry.base_name == base for entry in list_models()):
        raise UsageError(
            f"the name {name!r} belongs to a bundled model, whose versions come with releases; choose another name"
        )


def add_model(name: str, checkpoint: Checkpoint, *, dtype: torch.dtype | None = None) -> tuple[ModelEntry, bool]:
    """Keep a checkpoint under a name of the user's: (entry, whether it is new).

    Adding the same content again changes nothing. Raises UsageError for a name that cannot be taken and OutputError
    for one that stands for something else.
    """
    check_new_name(name)
    folder = _user_folder()
    if folder is None:
        raise UsageError("there is no home folder to keep models in; name one in the environment: CVCODEC_HOME=FOLDER")
    path = folder / f"{name}{_SUFFIX}"
    entry = ModelEntry(name, path, bundled=False)
    make_folder(path.parent)
    new = make_checkpoint(
        checkpoint.config,
        checkpoint.state_dict,
        statistics=checkpoint.statistics,
        card={**checkpoint.card, "name": name},
        dtype=dtype,
    )
    if path.exists():
        if _same_content(path, new):
            return entry, False
        raise OutputError(
            f"the name {name!r} stands for other weights, and a name never changes content; "
            f"choose a new name such as {_next_version(name)}, or first: cvcodec models remove {name}"
        )
    write_checkpoint(path, new)
    return entry, True


def _same_content(path: Path, new: Checkpoint) -> bool:
    """Card and storage type apart: the same model with the same quantiser tables."""
    try:
        old = read_summary(path)
    except CvcodecError:
        return False
    return (old.latent_space_id, old.decoder_hash, old.config) == (
        new.latent_space_id,
        new.decoder_hash,
        new.config,
    ) and old.statistics == new.statistics


def _next_version(name: str) -> str:
    entry = ModelEntry(name, Path(), bundled=False)
    taken = (other.version for other in list_models() if other.base_name == entry.base_name)
    return f"{entry.base_name}-v{max(1, *taken) + 1}"


def removable_model(name: str) -> ModelEntry:
    """A model the user added (exact name). UsageError for a bundled or unknown one."""
    entry = next((entry for entry in list_models() if entry.name == name), None)
    if entry is None:
        added = ", ".join(entry.name for entry in list_models() if not entry.bundled) or "none"
        raise UsageError(f"no model is called {name!r}; added models: {added}")
    if entry.bundled:
        raise UsageError(f"{name!r} is a bundled model and cannot be removed")
    return entry


def remove_model(name: str) -> Path:
    """Delete a model the user added (exact name); gives the path it had. UsageError for a bundled or unknown one."""
    entry = removable_model(name)
    try:
        entry.path.unlink()
    except OSError as error:
        raise OutputError(f"cannot remove {entry.path}: {error.strerror or error}") from error
    return entry.path
