"""Latents for training loops: random slices of .cvl files (`LatentDataset`), or of tar shards in one pass over each
(`IterableLatentDataset`).

Owns: the options of both, what an item is, which shard goes to which worker. Does not know: how files are kept open and
slices are drawn (`reader`), the layout of a shard (`shards`).
"""

from __future__ import annotations

import itertools
import operator
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from cvcodec.bitstream import Header
from cvcodec.checkpoints.registry import load_model, load_named_model
from cvcodec.codec import LatentFile
from cvcodec.codec.headers import info_from_header, reader_options
from cvcodec.dataset.index import Record, check_one_space, describe, read_index
from cvcodec.dataset.keys import epoch_generator
from cvcodec.dataset.reader import ChunkCache, Slice, draw_slice
from cvcodec.dataset.shards import LATENTS, LOGVAR, SHARDS_NAME, Sample, read_samples
from cvcodec.dataset.targets import to_model_space
from cvcodec.errors import InputError, UsageError
from cvcodec.fileio import partial_path
from cvcodec.model.base import VideoAutoencoder
from cvcodec.video import VideoReader

StrPath = str | os.PathLike[str]
Posterior = Literal["mean", "sample"]
Pixels = Literal["source", "decoded"]
Short = Literal["skip", "error"]

ITEM, SAMPLE, SHARDS, BUFFER = range(1, 5)
"""What random numbers are for: an item of a map-style data set, a sample of a shard, the order of shards, and that of
samples."""


class _Slices:
    """What both data sets are asked for alike. Raises UsageError for what cannot be meant."""

    RESERVED: ClassVar[tuple[str, ...]]
    """What an item has besides columns."""

    def __init__(
        self,
        latents: int | None,
        seed: int,
        posterior: Posterior,
        columns: Sequence[str],
        transform: Callable[[dict[str, Any]], Any] | None,
    ) -> None:
        if latents is not None:
            _check_whole("latents", latents, least=1, otherwise=", or None for whole clips")
        _check_whole("seed", seed, least=0)
        _check_choice("posterior", posterior, Posterior)
        if isinstance(columns, str):
            raise UsageError(f"columns = {columns!r}, wanted a list of names: [{columns!r}]")
        taken = next((column for column in columns if column in self.RESERVED), None)
        if taken is not None:
            raise UsageError(
                f"column {taken!r} would replace what an item itself has by that name; rename it in the manifest "
                f"(reserved: {', '.join(self.RESERVED)})"
            )
        self._length, self._seed, self._posterior = latents, seed, posterior
        self._columns, self._transform = tuple(columns), transform
        # In shared memory, so that workers that live on see a later `set_epoch` too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw the slices, and the order, of this epoch; to be called before the loader is iterated."""
        self._epoch.fill_(epoch)

    def _named(self, record: Mapping[str, Any], what: str) -> dict[str, str]:
        """The columns that were asked for. UsageError where `what` has no such one."""
        columns = record.get("columns", {})
        for column in self._columns:
            if column not in columns:
                raise UsageError(f"{what} has no column {column!r}; it has {', '.join(columns) or 'none'}")
        return {column: str(columns[column]) for column in self._columns}


def _check_choice(name: str, value: object, allowed: Any, *, none: bool = False) -> None:
    """Refuse what is not one of the values of the Literal `allowed`, nor None where that is allowed."""
    wanted = (*([None] if none else []), *get_args(allowed))
    if value not in wanted:
        raise UsageError(f"{name} = {value!r}, wanted {' or '.join(map(repr, wanted))}")


def _check_whole(name: str, value: Any, *, least: int, otherwise: str = "") -> None:
    """Refuse what is no whole number from `least` on. otherwise: what else may be given, for the message."""
    try:
        fits = not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        fits = False
    if not fits:
        raise UsageError(f"{name} = {value!r}, wanted a whole number, at least {least}{otherwise}")


def draw_posterior(
    mean: NDArray[np.float32], logvar: NDArray[np.float32], generator: np.random.Generator
) -> NDArray[np.float32]:
    """One draw from N(mean, exp(logvar)), same shape (specification, section 1.6)."""
    noise = generator.standard_normal(mean.shape, np.float32)
    drawn: NDArray[np.float32] = mean + np.exp(np.float32(0.5) * logvar) * noise
    return drawn


class LatentDataset(_Slices, Dataset[dict[str, Any]]):
    """Random slices of latents from the .cvl files of `cvcodec batch`, or of any.

    source: a folder (its index, or else its .cvl files), an index.jsonl, or a list of .cvl files.
    latents: length of a slice; None: whole clips. A slice decodes to f(n-1) + 1 frames, see `reader.Slice`.
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

    RESERVED = ("latents", "pts", "first_latent", "first_frame", "clip", "path", "pixels", "bit_depth")

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
        super().__init__(latents, seed, posterior, columns, transform)
        _check_whole("repeats", repeats, least=1)
        _check_choice("pixels", pixels, Pixels, none=True)
        _check_choice("short", short, Short)
        self.folder, records = _find_clips(source)
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
        self._repeats, self._scaled, self._pixels, self._model = repeats, scaled, pixels, model
        self._cache = ChunkCache(cache_bytes=int(cache_mb * 2**20))
        self._loaded: VideoAutoencoder | None = None

    def __len__(self) -> int:
        return len(self.records) * self._repeats

    def __getitem__(self, item: int) -> Any:
        if not -len(self) <= item < len(self):
            raise IndexError(f"item {item} is not in the data set, it has {len(self)}")
        item %= len(self)
        number = item % len(self.records)
        record = self.records[number]
        path, cache = self.folder / record["path"], self._cache
        header = cache.header(path)
        generator = epoch_generator(self._seed, int(self._epoch), ITEM, item)
        chosen = draw_slice(generator, cache.trailer(path).latents, self._length, header.temporal_factor)
        values = cache.latents(path, chosen.start, chosen.stop)
        if self._posterior == "sample":
            values = draw_posterior(values, cache.logvar(path, chosen.start, chosen.stop), generator)
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
        found |= self._named(record, record["path"])
        return self._transform(found) if self._transform is not None else found

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


def _repeat_last(values: NDArray[Any], chosen: Slice) -> NDArray[Any]:
    missing = chosen.end_frame - chosen.first_frame - len(values)
    return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)]) if missing else values


def _find_clips(source: StrPath | Sequence[StrPath]) -> tuple[Path, list[Record]]:
    """The folder that paths are relative to, and a record of each clip."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return (path if path.is_dir() else path.parent), read_index(path)
    files = [Path(entry).absolute() for entry in source]
    if not files:
        raise InputError("the list of .cvl files is empty")
    root = Path(files[0].anchor)
    return root, [describe(file, root, checksum=False) for file in files]


class IterableLatentDataset(_Slices, IterableDataset[dict[str, Any]]):
    """Random slices of latents from the shards of `cvcodec export --format webdataset`.

    source: a folder of .tar shards (those that its shards.jsonl lists, if there is one), or a list of shards.
    latents: length of a slice; None: whole clips. Clips that are shorter are skipped; InputError if all are.
    seed: the same seed and epoch give the same slices, whatever the number of workers and processes; their order
        depends on that number.
    shuffle: samples held to be given in random order, each worker for itself; 0: shards and samples in stored order.
    posterior: `mean`, or `sample`, which draws from the posterior; that wants shards with log-variances.
    rank, world_size: of this process among those that share the shards; None: what torch.distributed says, else alone.
    columns: of the manifest, to be given as text; none may be called like something else that an item has.
    endless: go on with the next epoch instead of ending, so that workers never stand still between epochs.
    transform: applied to the finished item.

    An item is a dict: `latents` (C, n, h, w) float32, in the space and order that the shard was written for (so
    (n, C, h, w) where that is its layout); `first_latent`, `first_frame`, `key`; and the columns.

    Shards are dealt out whole, so there should be several times more of them than workers; with fewer, some workers get
    nothing, which is warned of once. Call `set_epoch` before each epoch. Raises InputError, UsageError.
    """

    RESERVED = ("latents", "first_latent", "first_frame", "key")

    def __init__(
        self,
        source: StrPath | Sequence[StrPath],
        *,
        latents: int | None = None,
        seed: int = 0,
        shuffle: int = 1000,
        posterior: Posterior = "mean",
        rank: int | None = None,
        world_size: int | None = None,
        columns: Sequence[str] = (),
        endless: bool = False,
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        super().__init__(latents, seed, posterior, columns, transform)
        _check_whole("shuffle", shuffle, least=0)
        if (rank is None) != (world_size is None) or (rank is not None and not 0 <= rank < (world_size or 0)):
            raise UsageError(f"rank = {rank} of world_size = {world_size} is no place among processes")
        self.shards = _find_shards(source)
        self._shuffle, self._rank, self._world_size, self._endless = shuffle, rank, world_size, endless
        self._first: tuple[str, dict[str, Any]] | None = None
        self._warned = torch.zeros((), dtype=torch.bool).share_memory_()  # by a worker of any epoch

    def __iter__(self) -> Iterator[Any]:
        items = self._epochs()
        return items if self._transform is None else map(self._transform, items)

    def _epochs(self) -> Iterator[dict[str, Any]]:
        for epoch in itertools.count(int(self._epoch)):
            anything = False
            for item in self._items(epoch):
                anything = True
                yield item
            if not anything:
                self._check_lengths()
            if not (self._endless and anything):
                return

    def _items(self, epoch: int) -> Iterator[dict[str, Any]]:
        order = list(range(len(self.shards)))
        if self._shuffle:
            epoch_generator(self._seed, epoch, SHARDS).shuffle(order)
        worker, workers = self._place()
        if worker == 0:
            self._warn_of_idle(workers)
        mine = order[worker::workers]
        drawn = (
            item
            for number in mine
            for place, sample in enumerate(self._samples(self.shards[number]))
            if (item := self._item(sample, epoch_generator(self._seed, epoch, SAMPLE, number, place))) is not None
        )
        if not (self._shuffle and mine):
            return drawn
        return self._shuffled(drawn, epoch_generator(self._seed, epoch, BUFFER, mine[0]))

    def _shuffled(self, items: Iterator[dict[str, Any]], generator: np.random.Generator) -> Iterator[dict[str, Any]]:
        held: list[dict[str, Any]] = []
        for item in items:
            if len(held) < self._shuffle:
                held.append(item)
                continue
            place = int(generator.integers(len(held)))
            held[place], item = item, held[place]
            yield item
        generator.shuffle(held)
        yield from held

    def _item(self, sample: Sample, generator: np.random.Generator) -> dict[str, Any] | None:
        described = sample.description
        array = sample.array(LATENTS)
        axis = _time_axis(described)
        latents = array.shape[axis]
        if self._length is not None and latents < self._length:
            return None
        chosen = draw_slice(generator, latents, self._length, int(described["temporal_factor"]))
        cut = [slice(None)] * array.ndim
        cut[axis] = slice(chosen.start, chosen.stop)
        values = array[tuple(cut)].astype(np.float32)
        if self._posterior == "sample":
            if LOGVAR not in sample.files:
                raise UsageError(
                    f"{sample.shard}: sample {sample.key} keeps no log-variance; encode with --store-logvar"
                )
            values = draw_posterior(values, sample.array(LOGVAR)[tuple(cut)].astype(np.float32), generator)
        return {
            "latents": torch.from_numpy(values),
            "first_latent": chosen.start,
            "first_frame": chosen.first_frame,
            "key": sample.key,
            **self._named(described, f"{sample.shard}: sample {sample.key}"),
        }

    def _samples(self, shard: Path) -> Iterator[Sample]:
        """Those of a shard. UsageError where one is of another latent space than the first sample of all, which every
        worker compares with, whatever shards it reads."""
        for sample in read_samples(shard):
            if self._first is None:
                self._first = next(
                    (f"{other}: {first.key}", first.description)
                    for other in self.shards
                    for first in read_samples(other)
                )
            check_one_space([self._first, (f"{shard}: {sample.key}", sample.description)])
            yield sample

    def _check_lengths(self) -> None:
        """InputError where no clip is as long as a slice. All shards are asked, so that every worker says the same."""
        longest = 0
        for shard in self.shards:
            for sample in read_samples(shard):
                longest = max(longest, sample.array(LATENTS).shape[_time_axis(sample.description)])
                if longest >= (self._length or 0):
                    return
        if longest:
            raise InputError(
                f"none of the clips in {len(self.shards)} shards has {self._length} latents, "
                f"the longest has {longest}; ask for shorter slices"
            )

    def _warn_of_idle(self, workers: int) -> None:
        if workers > len(self.shards) and not self._warned:
            self._warned.fill_(True)
            warnings.warn(
                f"{len(self.shards)} shards are fewer than {workers} workers, in all processes together: "
                f"{workers - len(self.shards)} of them yield nothing; take fewer, or export with less --shard-size",
                stacklevel=2,
            )

    def _place(self) -> tuple[int, int]:
        """This worker's number among all workers of all processes, and how many there are."""
        rank, world = self._rank, self._world_size
        if rank is None or world is None:
            distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
            rank = torch.distributed.get_rank() if distributed else 0
            world = torch.distributed.get_world_size() if distributed else 1
        worker = get_worker_info()
        workers = 1 if worker is None else worker.num_workers
        return rank * workers + (0 if worker is None else worker.id), world * workers


def _time_axis(description: Mapping[str, Any]) -> int:
    return str(description["layout"]).index("T")


def _find_shards(source: StrPath | Sequence[StrPath]) -> list[Path]:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        listing = path / SHARDS_NAME
        if partial_path(listing).exists():
            raise InputError(f"the export into {path} is not finished; run it again with -y if it was interrupted")
        if listing.is_file():
            found = [path / str(record["path"]) for record in read_index(listing, needed=())]
        else:
            found = sorted(path.glob("[!.]*.tar")) if path.is_dir() else [path]
    else:
        found = [Path(entry) for entry in source]
    if not found:
        raise InputError(f"there are no .tar shards in {source!r}")
    missing = next((path for path in found if not path.is_file()), None)
    if missing is not None:
        raise InputError(f"{missing}: no such file")
    return found
