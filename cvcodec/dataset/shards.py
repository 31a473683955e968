"""The layout of a tar shard, in WebDataset's naming: the files of a sample share a key and follow each other.

    KEY.latents.npy    the latents, as `KEY.json` says            KEY.logvar.npy    their log-variance, where it is kept
    KEY.pts.npy        the frames' time stamps                    KEY.NAME.safetensors    what is attached as NAME
    KEY.json           `target`, `layout`, `factors`, ... see `dataset.targets`, and the index record of the clip

A key is the path of the .cvl file without its suffix; dots in a name become underscores, since WebDataset cuts keys at
the first dot; an export numbers those that would then be the same. Entries are as plain as tar allows (no owner, no
time), so that the same samples make the same bytes.
Owns: keys, entries, reading samples back. Does not know: what latents are scaled for, where shards lie.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cvcodec.errors import InputError

LATENTS, LOGVAR, PTS, DESCRIPTION = "latents.npy", "logvar.npy", "pts.npy", "json"

SHARDS_NAME = "shards.jsonl"
"""Lists the shards of a folder: path, samples, size_bytes. Others that lie there are none of its shards."""

_BLOCK = 512


@dataclass(frozen=True)
class Sample:
    """The files of one key, as bytes. `shard`: where they came from, for messages."""

    key: str
    files: dict[str, bytes] = field(default_factory=dict)
    shard: str = ""

    def array(self, name: str) -> NDArray[Any]:
        """A .npy file of the sample. InputError where it is missing or damaged."""
        try:
            array: NDArray[Any] = np.load(io.BytesIO(self.files[name]), allow_pickle=False)
        except KeyError:
            raise InputError(f"{self.shard}: sample {self.key} has no {name}") from None
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"{self.shard}: sample {self.key}: {name} is no .npy file: {error}") from error
        return array

    @property
    def description(self) -> dict[str, Any]:
        """What is said of the latents beside them (layout, factor, columns ...). InputError where it cannot be read."""
        try:
            values = json.loads(self.files[DESCRIPTION])
        except (KeyError, ValueError, RecursionError) as error:
            raise InputError(
                f"{self.shard}: sample {self.key} has no {DESCRIPTION} that can be read: {error}"
            ) from error
        if not isinstance(values, dict):
            raise InputError(f"{self.shard}: sample {self.key}: its {DESCRIPTION} is no object")
        wanted = {"layout": str, "temporal_factor": int, "columns": dict}
        for name in wanted.keys() & values.keys():
            if not isinstance(values[name], wanted[name]):
                raise InputError(f"{self.shard}: sample {self.key} says {name} = {ascii(values[name])[:40]}")
        return values


def key_of(path: str) -> str:
    """The key of a .cvl file, given relative to its folder."""
    place = PurePosixPath(path)
    name = place.name.rpartition(".")[0] or place.name
    return place.with_name(name.replace(".", "_")).as_posix()


def attached_name(name: str) -> str:
    """Of the file of a sample that holds what is attached by this name."""
    return f"{name}.safetensors"


def sample_bytes(files: Mapping[str, bytes]) -> int:
    """What a sample takes in a shard, headers and padding included; long keys take a little more."""
    return sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for data in files.values())


def write_sample(tar: tarfile.TarFile, sample: Sample) -> None:
    """Append a sample: a file for each of its parts, KEY.PART, without times or owners, so that equal is equal."""
    for name, data in sample.files.items():
        entry = tarfile.TarInfo(f"{sample.key}.{name}")
        entry.size, entry.mode, entry.mtime = len(data), 0o644, 0
        tar.addfile(entry, io.BytesIO(data))


def npy_bytes(array: NDArray[Any]) -> bytes:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def open_shard(sink: BinaryIO) -> tarfile.TarFile:
    """A tar file to write samples into, front to back."""
    return tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT)


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples of a shard, in order, one in memory. InputError for what is missing, cut or no tar file."""
    try:
        with path.open("rb") as file, _open_whole(file) as tar:
            sample = Sample("")
            for entry in tar:
                if not entry.isfile():
                    continue
                key, _, name = _split(entry.name)
                if key != sample.key and sample.files:
                    yield sample
                if key != sample.key:
                    sample = Sample(key, shard=path.name)
                source = tar.extractfile(entry)
                assert source is not None
                sample.files[name] = source.read()
            if sample.files:
                yield sample
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{path} is no complete tar file: {error}") from error


def _open_whole(file: BinaryIO) -> tarfile.TarFile:
    """A tar file to be read in one pass. TarError where its end is missing; tarfile does not look."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 2 * _BLOCK))
    if size < 2 * _BLOCK or size % _BLOCK or any(file.read()):
        raise tarfile.ReadError("its end is missing")
    file.seek(0)
    return tarfile.open(fileobj=file, mode="r|")


def _split(name: str) -> tuple[str, str, str]:
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return folder + slash + stem, dot, suffix
