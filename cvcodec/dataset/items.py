"""An item of a data set of latents, the same of both data sets, and what they are asked for alike.

Owns: the options that decide what an item is, its keys, shapes and axes, and why items make no batch. Does not know:
where latents come from.

An item is a dict:

    latents               (C, n, h, w) float32; (n, C, h, w) with layout="TCHW"
    pts                   (f(n-1) + 1,) int64 in units of the file's time base, f being the temporal factor
    first_latent, first_frame   where the slice begins
    path                  of the .cvl file, in its folder
    pixels, bit_depth     where they are asked for: (f(n-1) + 1, H, W, 3) uint8, or int32 above 8 bits, code values
                          from 0 to 2**bit_depth - 1
    columns               as text, each by its name
    attached              a tensor each by its name, or a dict of tensors

Where a clip ends inside its last latent, its last frame and pts are repeated: a video of 16 frames has 5 latents, which
stand for 17 frames.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data._utils.collate import default_collate, default_collate_fn_map

from cvcodec.dataset.keys import epoch_generator
from cvcodec.dataset.reader import Slice, draw_slice, slice_at
from cvcodec.dataset.sidecars import CAPTION
from cvcodec.errors import UsageError

Posterior = Literal["mean", "sample"]
Start = Literal["random", "first"]
Layout = Literal["CTHW", "TCHW"]
Lengths = int | Sequence[int] | None

ITEM, SAMPLE, SHARDS, BUFFER, BATCHES = range(1, 6)
"""What random numbers are for: an item of a map-style data set, a sample of a shard, the order of shards, that of
samples, and that of batches."""

RESERVED = ("latents", "pts", "first_latent", "first_frame", "path", "pixels", "bit_depth")
"""What an item has besides columns and what is attached."""

CAPTIONS = (CAPTION, "text", "prompt")
"""Names of one column: who asks for one of them gets the first that is there, by the name that was asked for."""


class Item(dict[str, Any]):
    """An item as a data set gives it. Those of other sizes than each other are refused as a batch, with the way out."""


def _collate(batch: Sequence[Item], *, collate_fn_map: Any = None) -> Any:
    first = batch[0]
    for name, value in first.items():
        if not isinstance(value, Tensor):
            continue
        other = next((item for item in batch if item[name].shape != value.shape), None)
        if other is not None:
            sizes = " and ".join(f"{'x'.join(map(str, item[name].shape))} ({item['path']})" for item in (first, other))
            way = (
                "DataLoader(data, batch_sampler=BucketSampler(data, N)) gives batches of one shape, and so does "
                "IterableLatentDataset(..., batch_size=N)"
                if name in RESERVED
                else "pad it where it is attached, or in transform="
            )
            raise UsageError(f"clips of different sizes in one batch: {name} of {sizes}; {way}")
    return default_collate([dict(item) for item in batch])


default_collate_fn_map[Item] = _collate


class Slices:
    """What both data sets are asked for alike. Raises UsageError for what cannot be meant."""

    def __init__(
        self,
        *,
        latents: Lengths,
        start: Start,
        seed: int,
        posterior: Posterior,
        layout: Layout,
        columns: Sequence[str],
        attached: Sequence[str],
        transform: Callable[[dict[str, Any]], Any] | None,
    ) -> None:
        lengths: list[Any] = list(latents) if isinstance(latents, (list, tuple)) else [latents]
        for length in lengths:
            if length is not None or len(lengths) != 1:
                check_whole("latents", length, least=1, otherwise=", several of these, or None for whole clips")
        if not lengths:
            raise UsageError("latents = (), wanted at least one length, or None for whole clips")
        check_whole("seed", seed, least=0)
        check_choice("posterior", posterior, Posterior)
        check_choice("start", start, Start)
        check_choice("layout", layout, Layout)
        _check_names(columns, attached)
        self._lengths = sorted((int(length) for length in lengths if length is not None), reverse=True)
        self._start, self._seed, self._posterior, self._layout = start, seed, posterior, layout
        self._columns, self._attached, self._transform = tuple(columns), tuple(attached), transform
        # In shared memory, so that workers that live on see a later `set_epoch` too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw the slices, and the order, of this epoch; to be called before the loader is iterated."""
        self._epoch.fill_(epoch)

    def length_of(self, latents: int) -> int | None:
        """How long a slice of a clip with so many latents is: the longest length that fits; None where none does."""
        return next((length for length in self._lengths if length <= latents), None) if self._lengths else latents

    @property
    def _shortest(self) -> int:
        return self._lengths[-1] if self._lengths else 1

    def _generator(self, *place: int) -> np.random.Generator:
        return epoch_generator(self._seed, *place)

    def _slice(self, generator: np.random.Generator, latents: int, factor: int) -> Slice:
        """Of a clip that is long enough."""
        length = self.length_of(latents)
        assert length is not None
        return slice_at(0, length, factor) if self._start == "first" else draw_slice(generator, latents, length, factor)

    def _item(
        self, values: NDArray[np.float32], pts: NDArray[np.int64] | None, chosen: Slice, path: str
    ) -> dict[str, Any]:
        """values: (C, n, h, w); pts: of the frames that there are, None where they are not known."""
        arranged = np.ascontiguousarray(values if self._layout == "CTHW" else values.swapaxes(0, 1))
        times = {} if pts is None else {"pts": torch.from_numpy(repeat_last(pts, chosen))}
        place = {"first_latent": chosen.start, "first_frame": chosen.first_frame, "path": path}
        return Item(latents=torch.from_numpy(arranged), **times, **place)

    def _named(self, columns: Mapping[str, Any], what: str) -> dict[str, str]:
        """The columns that were asked for. UsageError where `what` has no such one."""
        named = {}
        for asked in self._columns:
            names = (asked, *CAPTIONS) if asked in CAPTIONS else (asked,)
            column = next((name for name in names if name in columns), None)
            if column is None:
                raise UsageError(f"{what} has no column {asked!r}; it has {', '.join(columns) or 'none'}")
            named[asked] = str(columns[column])
        return named

    def _finished(self, item: dict[str, Any]) -> Any:
        return item if self._transform is None else self._transform(item)


def check_choice(name: str, value: object, allowed: Any, *, none: bool = False) -> None:
    """Refuse what is not one of the values of the Literal `allowed`, nor None where that is allowed."""
    wanted = (*([None] if none else []), *get_args(allowed))
    if value not in wanted:
        raise UsageError(f"{name} = {value!r}, wanted {' or '.join(map(repr, wanted))}")


def check_whole(name: str, value: Any, *, least: int, otherwise: str = "") -> None:
    """Refuse what is no whole number from `least` on. otherwise: what else may be given, for the message."""
    try:
        fits = not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        fits = False
    if not fits:
        raise UsageError(f"{name} = {value!r}, wanted a whole number, at least {least}{otherwise}")


def _check_names(columns: Sequence[str], attached: Sequence[str]) -> None:
    for kind, names in (("columns", columns), ("attached", attached)):
        if isinstance(names, str):
            raise UsageError(f"{kind} = {names!r}, wanted a list of names: [{names!r}]")
    taken = next((column for column in columns if column in RESERVED), None)
    if taken is not None:
        raise UsageError(
            f"column {taken!r} would replace what an item itself has by that name; rename it in the manifest "
            f"(reserved: {', '.join(RESERVED)})"
        )
    both = next((name for name in attached if name in columns), None)
    if both is not None:
        raise UsageError(f"{both!r} is asked for as a column and as what is attached; an item has one of a name")


def process_place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This process's number and how many there are; where None is given, what torch.distributed says, else alone.
    UsageError for a place that cannot be."""
    if (rank is None) != (world_size is None) or (rank is not None and not 0 <= rank < (world_size or 0)):
        raise UsageError(f"rank = {rank} of world_size = {world_size} is no place among processes")
    if rank is not None and world_size is not None:
        return rank, world_size
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def draw_posterior(
    mean: NDArray[np.float32], logvar: NDArray[np.float32], generator: np.random.Generator
) -> NDArray[np.float32]:
    """One draw from N(mean, exp(logvar)), same shape (specification, section 1.6)."""
    noise = generator.standard_normal(mean.shape, np.float32)
    drawn: NDArray[np.float32] = mean + np.exp(np.float32(0.5) * logvar) * noise
    return drawn


def repeat_last(values: NDArray[Any], chosen: Slice) -> NDArray[Any]:
    """What a slice has of frames, with the last one repeated where the clip ends inside its last latent."""
    missing = chosen.end_frame - chosen.first_frame - len(values)
    return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)]) if missing else values
