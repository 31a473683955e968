"""`LatentDataset`: random slices of .cvl files, map-style.

Owns: what an item is. Does not know: how files are kept open (`clips`), how slices are drawn (`slices`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from cvcodec.bitstream import Header
from cvcodec.checkpoints.registry import load_model, load_named_model
from cvcodec.codec import LatentFile
from cvcodec.codec.headers import info_from_header, reader_options
from cvcodec.dataset.checks import check_choice, check_columns, check_latents, check_one_space, check_whole
from cvcodec.dataset.index import Record, describe, read_index
from cvcodec.dataset.posterior import Posterior, to_model_space, values_of
from cvcodec.dataset.reader import ChunkCache
from cvcodec.dataset.slices import ITEM, Slice, draw_slice, generator_for
from cvcodec.errors import InputError, UsageError
from cvcodec.model.base import VideoAutoencoder

StrPath = str | os.PathLike[str]
Pixels = Literal["source", "decoded"]
Short = Literal["skip", "error"]

RESERVED = ("latents", "pts", "first_latent", "first_frame", "clip", "path", "pixels", "bit_depth")
"""What an item has besides columns."""


class LatentDataset(Dataset[dict[str, Any]]):
    """Random slices of latents from the .cvl files of `cvcodec batch`, or of any.

    source: a folder (its index, or else its .cvl files), an index.jsonl, or a list of .cvl files.
    latents: length of a slice; None: whole clips. A slice decodes to f(n-1) + 1 frames, see `slices`.
    seed: item i of epoch e is the same slice, and the same sample, for the same seed, in every worker and process.
    posterior: `mean`, or `sample`, which draws from the posterior; that wants files of `encode --store-logvar`.
    scaled: give (latent - shift_factor) * scaling_factor, as a diffusion model wants it, instead of the latent.
    pixels: None; `source`: frames of the video that the index names; `decoded`: what the model makes of the latents.
    model: for `decoded`: a loaded model, a name or a weights file; None: what the first file names. It runs on the CPU.
    short: clips with fewer latents than a slice: `skip` them, or `error`.
    repeats: items per clip and epoch, each a slice of its own.
    columns: of the manifest, to be given as text; none may be called like something else that an item has.
    cache_mb: decoded chunks kept in each worker. 0: none.
    transform: applied to the finished item.

    An item is a dict: `latents` (C, n, h, w) float32; `pts` (f(n-1) + 1,) int64 in units of the file's time base;
    `first_latent`, `first_frame`, `clip` (its number in `records`), `path`; `pixels` (f(n-1) + 1, H, W, 3) uint8, or
    int32 above 8 bits, code values from 0 to 2**`bit_depth` - 1, and that `bit_depth`; and the columns. Where a clip
    ends inside the last latent, its last frame and pts are repeated.

    Call `set_epoch` before each epoch, or all epochs are alike. Raises InputError, UsageError, BitstreamError.
    """

    def __init__(
        self,
        source: StrPath | Sequence[StrPath],
        *,
        latents: int | None = None,
        seed: int = 0,
        posterior: Posterior = "mean",
        scaled: bool = False,
        pixels: Pixels | None = None,
        model: VideoAutoencoder | StrPath | None = None,
        short: Short = "skip",
        repeats: int = 1,
        columns: Sequence[str] = (),
        cache_mb: float = 256.0,
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        check_latents(latents)
        check_whole("seed", seed, least=0)
        check_whole("repeats", repeats, least=1)
        check_choice("posterior", posterior, Posterior)
        check_choice("pixels", pixels, Pixels, none=True)
        check_choice("short", short, Short)
        self.folder, records = _find(source)
        fits = [record for record in records if latents is None or record["latents"] >= latents]
        if short == "error" and len(fits) < len(records):
            few = next(record for record in records if record not in fits)
            raise UsageError(f"{few['path']} has {few['latents']} latents, slices of {latents} do not fit")
        if not fits:
            raise InputError(f"none of {len(records)} clips in {source!r} has {latents or 1} latents")
        check_one_space((str(self.folder / record["path"]), record) for record in fits)
        without = next((record for record in fits if not record["logvar"]), None)
        if posterior == "sample" and without is not None:
            raise UsageError(f"{without['path']} keeps no log-variance to sample from; encode with --store-logvar")
        nameless = next((record for record in fits if not record["source"]), None)
        if pixels == "source" and nameless is not None:
            raise UsageError(
                f"the source of {nameless['path']} is not known; "
                'pixels="source" wants the index that `cvcodec batch` wrote, pixels="decoded" needs none'
            )
        self.records: list[Record] = fits
        """What the index says of each clip that is used, in the order of items."""
        self.skipped = len(records) - len(fits)
        """Clips that are too short."""
        self._length, self._seed, self._repeats = latents, seed, repeats
        self._posterior, self._scaled, self._pixels, self._model = posterior, scaled, pixels, model
        self._columns, self._transform = check_columns(columns, RESERVED), transform
        self._cache_bytes = int(cache_mb * 2**20)
        self._cache: ChunkCache | None = None
        self._loaded: VideoAutoencoder | None = None
        # In shared memory, so that workers that live on see a later `set_epoch` too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw the slices of this epoch; to be called before the loader is iterated."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.records) * self._repeats

    def __getitem__(self, item: int) -> Any:
        if not -len(self) <= item < len(self):
            raise IndexError(f"item {item} is not in the data set, it has {len(self)}")
        item %= len(self)
        number = item % len(self.records)
        record = self.records[number]
        path = self.folder / record["path"]
        cache = self._clips()
        header = cache.header(path)
        generator = generator_for(self._seed, int(self._epoch), ITEM, item)
        chosen = draw_slice(generator, cache.trailer(path).latents, self._length, header.temporal_factor)
        mean = cache.latents(path, chosen.start, chosen.stop)
        if self._posterior == "sample":
            values = values_of(mean, cache.logvar(path, chosen.start, chosen.stop), generator)
        else:
            values = mean
        if self._scaled:
            values = to_model_space(values, header.scaling_factor, header.shift_factor)
        pts = cache.pts(path, chosen.first_frame, chosen.end_frame)
        found: dict[str, Any] = {
            "latents": torch.from_numpy(values),
            "pts": torch.from_numpy(_repeat_last(pts, chosen)),
            "first_latent": chosen.start,
            "first_frame": chosen.first_frame,
            "clip": number,
            "path": record["path"],
        }
        if self._pixels is not None:
            found["bit_depth"] = header.bit_depth
            found["pixels"] = torch.from_numpy(_repeat_last(self._read_pixels(record, path, chosen, pts), chosen))
        for column in self._columns:
            found[column] = _column(record, column)
        return self._transform(found) if self._transform is not None else found

    def __getstate__(self) -> dict[str, Any]:
        # A worker maps its own files: neither maps nor chunks are worth sending.
        return {**self.__dict__, "_cache": None, "_loaded": None}

    def _clips(self) -> ChunkCache:
        if self._cache is None:
            self._cache = ChunkCache(cache_bytes=self._cache_bytes)
        return self._cache

    def _decoder(self, name: str) -> VideoAutoencoder:
        if self._loaded is None:
            if isinstance(self._model, VideoAutoencoder):
                self._loaded = self._model
            else:
                self._loaded = load_named_model(name) if self._model is None else load_model(self._model)
        return self._loaded

    def _read_pixels(self, record: Record, path: Path, chosen: Slice, pts: NDArray[np.int64]) -> NDArray[Any]:
        header = self._clips().header(path)
        if self._pixels == "decoded":
            with LatentFile(path, model=self._decoder(header.model), device="cpu") as file:
                return _as_torch_can(file.frames[chosen.first_frame : chosen.first_frame + len(pts)])
        return _source_frames(record["source"], header, pts)


def _source_frames(source: str, header: Header, pts: NDArray[np.int64]) -> NDArray[Any]:
    """The frames of a video with these time stamps. InputError where they are not what the index was made from."""
    from cvcodec.video import VideoReader

    start = int(pts[0]) * header.time_base - info_from_header(header).start_time
    with VideoReader(source, start=start, frames=len(pts), **reader_options(header).arguments()) as reader:
        frames = list(reader)
    if [frame.pts for frame in frames] != pts.tolist():
        raise InputError(f"{source} has other frames than when it was encoded; encode it again")
    return _as_torch_can(np.stack([frame.pixels for frame in frames]))


def _as_torch_can(frames: NDArray[Any]) -> NDArray[Any]:
    """torch has no arithmetic on uint16."""
    return frames if frames.dtype == np.uint8 else frames.astype(np.int32)


def _repeat_last(values: NDArray[Any], chosen: Slice) -> NDArray[Any]:
    missing = chosen.end_frame - chosen.first_frame - len(values)
    return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)]) if missing else values


def _column(record: Mapping[str, Any], column: str) -> str:
    try:
        return str(record["columns"][column])
    except KeyError:
        known = ", ".join(record["columns"]) or "none"
        raise UsageError(f"{record['path']} has no column {column!r}; it has {known}") from None


def _find(source: StrPath | Sequence[StrPath]) -> tuple[Path, list[Record]]:
    """The folder that paths are relative to, and a record of each clip."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.suffix == ".cvl" and path.is_file():
            return path.parent, [describe(path, path.parent, checksum=False)]
        return (path if path.is_dir() else path.parent), read_index(path)
    files = [Path(entry).absolute() for entry in source]
    if not files:
        raise InputError("the list of .cvl files is empty")
    root = Path(files[0].anchor)
    return root, [describe(file, root, checksum=False) for file in files]
