"""`LatentDataset`: random slices of the latents of .cvl files, by number.

Owns: its options, which clips it has, their pixels. Does not know: what an item is (`items`), how files are kept open
and slices are put together (`reader`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
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
from cvcodec.dataset.attached import load_attached, read_attached
from cvcodec.dataset.index import Record, check_one_space, describe, read_index
from cvcodec.dataset.items import (
    ITEM,
    Layout,
    Lengths,
    Posterior,
    Slices,
    Start,
    check_choice,
    check_whole,
    draw_posterior,
    repeat_last,
)
from cvcodec.dataset.reader import ChunkCache, Slice
from cvcodec.dataset.targets import to_model_space
from cvcodec.errors import InputError, UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.remote import path_of
from cvcodec.video import VideoReader

StrPath = str | os.PathLike[str]
Pixels = Literal["source", "decoded"]
Short = Literal["skip", "error"]


class LatentDataset(Slices, Dataset[dict[str, Any]]):
    """Random slices of latents from the .cvl files of `cvcodec batch`, or of any.

    source: a folder (its index, or else its .cvl files), an index.jsonl, or a list of .cvl files.
    latents: length of a slice, which decodes to f(n-1) + 1 frames, see `reader.Slice`; several: each clip gives slices
        of the longest that it has; None: whole clips.
    start: `random`, or `first`: slices begin with the clip, whose first latent stands for one frame, and every later
        one for f.
    seed: item i of epoch e is the same slice, and the same sample, for the same seed, in every worker and process.
    posterior: `mean`, or `sample`, which draws from the posterior; that wants files of `encode --store-logvar`.
    layout: axes of the latents, `CTHW` or `TCHW`.
    scaled: give (latent - shift_factor) * scaling_factor, as a diffusion model wants it, instead of the latent.
    pixels: None; `source`: frames of the video that the index names; `decoded`: what the model makes of the latents.
    model: for `decoded`: a loaded model, a name or a weights file; None: what the first file names. It runs on the CPU.
    short: clips with fewer latents than a slice: `skip` them, or `error`.
    repeats: items per clip and epoch, each a slice of its own.
    columns: of the manifest, to be given as text. `caption`, `text` and `prompt` stand for each other.
    attached: names of what `attach` stored beside the clips.
    cache_mb: decoded chunks kept in each worker. 0: none.
    transform: applied to the finished item.

    An item is a dict, see `items`. Clips of different sizes make batches with `BucketSampler`.

    Call `set_epoch` before each epoch, or all epochs are alike. Raises InputError, UsageError, BitstreamError.
    """

    def __init__(
        self,
        source: StrPath | Sequence[StrPath],
        *,
        latents: Lengths = None,
        start: Start = "random",
        seed: int = 0,
        posterior: Posterior = "mean",
        layout: Layout = "CTHW",
        scaled: bool = False,
        pixels: Pixels | None = None,
        model: VideoAutoencoder | StrPath | None = None,
        short: Short = "skip",
        repeats: int = 1,
        columns: Sequence[str] = (),
        attached: Sequence[str] = (),
        cache_mb: float = 256.0,
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        super().__init__(
            latents=latents,
            start=start,
            seed=seed,
            posterior=posterior,
            layout=layout,
            columns=columns,
            attached=attached,
            transform=transform,
        )
        check_whole("repeats", repeats, least=1)
        check_choice("pixels", pixels, Pixels, none=True)
        check_choice("short", short, Short)
        self.folder, records = _find_clips(source)
        fits = [record for record in records if record["latents"] >= self._shortest]
        if short == "error" and len(fits) < len(records):
            few = next(record for record in records if record not in fits)
            raise UsageError(f"{few['path']} has {few['latents']} latents, slices of {self._shortest} do not fit")
        if not fits:
            raise InputError(f"none of {len(records)} clips in {source!r} has {self._shortest} latents")
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
        self._repeats, self._scaled, self._pixels, self._model = repeats, scaled, pixels, model
        self._cache = ChunkCache(cache_bytes=int(cache_mb * 2**20))
        self._loaded: VideoAutoencoder | None = None

    def __len__(self) -> int:
        return len(self.records) * self._repeats

    def shape_of(self, item: int) -> tuple[int, ...]:
        """What items of one batch must have in common: (C, n, h, w) of the latents, and with pixels their width, height
        and bit depth."""
        record = self._record(item)
        if not record.keys() >= {"shape", "width", "height", "bit_depth"}:  # of a hand-made index
            record = describe(self.folder / record["path"], self.folder, checksum=False)
        channels, latents, *size = record["shape"]
        length = self.length_of(latents)
        assert length is not None
        shape = (channels, length, *size)
        return shape if self._pixels is None else (*shape, record["width"], record["height"], record["bit_depth"])

    def _record(self, item: int) -> Record:
        return self.records[item % len(self.records)]

    def __getitem__(self, item: int) -> Any:
        if not -len(self) <= item < len(self):
            raise IndexError(f"item {item} is not in the data set, it has {len(self)}")
        item %= len(self)
        record = self._record(item)
        path, cache = self.folder / record["path"], self._cache
        header = cache.header(path)
        generator = self._generator(int(self._epoch), ITEM, item)
        chosen = self._slice(generator, cache.trailer(path).latents, header.temporal_factor)
        values = cache.latents(path, chosen.start, chosen.stop)
        if self._posterior == "sample":
            values = draw_posterior(values, cache.logvar(path, chosen.start, chosen.stop), generator)
        if self._scaled:
            values = to_model_space(values, header.scaling_factor, header.shift_factor)
        pts = cache.pts(path, chosen.first_frame, chosen.end_frame)
        found = self._item(values, pts, chosen, record["path"])
        if self._pixels is not None:
            found["bit_depth"] = header.bit_depth
            found["pixels"] = torch.from_numpy(repeat_last(self._read_pixels(record, path, chosen, pts), chosen))
        found |= self._named(record["columns"], record["path"])
        for name in self._attached:
            found[name] = load_attached(read_attached(self.folder, record, name), name, f"{name} of {record['path']}")
        return self._finished(found)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}  # a worker loads what it needs

    def _decoder(self, name: str) -> VideoAutoencoder:
        if isinstance(self._model, VideoAutoencoder):
            return self._model
        if self._loaded is None:
            self._loaded = load_named_model(name) if self._model is None else load_model(self._model)
        return self._loaded

    def _read_pixels(self, record: Record, path: Path, chosen: Slice, pts: NDArray[np.int64]) -> NDArray[Any]:
        header = self._cache.header(path)
        if self._pixels == "source":
            return _source_frames(record["source"], header, pts)
        with LatentFile(path, model=self._decoder(header.model), device="cpu") as file:
            return _as_torch_can(file.frames[chosen.first_frame : chosen.first_frame + len(pts)])


def _source_frames(source: str, header: Header, pts: NDArray[np.int64]) -> NDArray[Any]:
    """The frames of a video with these time stamps. InputError where they are not what the index was made from."""
    start = int(pts[0]) * header.time_base - info_from_header(header).start_time
    with VideoReader(source, start=start, frames=len(pts), **reader_options(header).arguments()) as reader:
        frames = list(reader)
    if [frame.pts for frame in frames] != pts.tolist():
        raise InputError(f"{source} has other frames than when it was encoded; encode it again")
    return _as_torch_can(np.stack([frame.pixels for frame in frames]))


def _as_torch_can(frames: NDArray[Any]) -> NDArray[Any]:
    """torch has no arithmetic on uint16."""
    return frames if frames.dtype == np.uint8 else frames.astype(np.int32)


def _find_clips(source: StrPath | Sequence[StrPath]) -> tuple[Path, list[Record]]:
    """The folder that paths are relative to, and a record of each clip."""
    if isinstance(source, (str, os.PathLike)):
        path = path_of(source)
        return (path if path.is_dir() else path.parent), read_index(path)
    files = [path_of(entry).absolute() for entry in source]
    if not files:
        raise InputError("the list of .cvl files is empty")
    root = files[0].parents[-1]
    return root, [describe(file, root, checksum=False) for file in files]
