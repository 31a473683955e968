"""How a video is cut for a model: chosen once, recorded in the file, reused on decode.

Owns: the order of windows, what each computes, keeps and yields, and the choice of their sizes.
Does not know: models beyond a config's numbers, files, threads, devices, normalisation. Frames may be uint8 and the
callable may normalise, move to a device and back: whatever it returns is what is yielded.

One clip is alive at a time, and of the previous one only what the two share. A chunk is final, and yielded, as soon as
its own window has been computed.
"""

from __future__ import annotations

import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor

from cvcodec.windows.memory import fit_to_memory, halved, with_backoff
from cvcodec.windows.official import OfficialTiles
from cvcodec.windows.space import ClipFunction, tiled
from cvcodec.windows.specs import Official, Tile, Window
from cvcodec.windows.time import TIME, FrameSource, LatentSource, Sequence, frame_count, frames_of_latents

if TYPE_CHECKING:
    from cvcodec.model.config import ModelConfig

WindowMode = Literal["auto", "context", "official"]

ReadLatents = Callable[[int, int], Tensor | None]

_MEMORY_SHARE = 0.8  # of the free memory that one model call may be estimated to take
_FALLBACK_CONTEXT, _FALLBACK_BLEND = 4, 2  # latents, for models whose config names no tiles, when memory demands some
_WHOLE = 1 << 40  # latents of a chunk where there are none in time


@dataclass(frozen=True)
class Span:
    """One model call, in latents: it computes [first, end), of which it keeps [keep, keep_end)."""

    first: int
    keep: int
    keep_end: int
    end: int


@dataclass(frozen=True)
class Plan(ABC):
    """How a video is cut for the model, in time and in space. `ContextPlan` or `OfficialPlan`."""

    temporal_factor: int
    spatial_factor: int

    @abstractmethod
    def span(self, index: int, *, encoding: bool) -> Span:
        """What window `index` computes and keeps, before it is clipped to the video's end."""

    @abstractmethod
    def index_of(self, latent: int, *, encoding: bool) -> int:
        """The window that keeps `latent`."""

    @abstractmethod
    def tile_latents(self, *, encoding: bool) -> int:
        """Side of a tile in latents; 0: no tiles."""

    @abstractmethod
    def in_tiles(self, fn: ClipFunction, clip: Tensor, *, encoding: bool) -> Tensor:
        """`fn(clip)`, computed tile by tile."""

    @abstractmethod
    def with_smaller_tiles(self, side: int, *, encoding: bool) -> Self | None:
        """With tiles of about half the size for pictures whose longer side is `side` latents; None: nothing smaller."""

    def encode(
        self,
        encode: ClipFunction,
        frames: Iterable[Tensor],
        on_backoff: Callable[[Plan, str], None] = lambda plan, text: None,
        *,
        start: int = 0,
    ) -> Iterator[Tensor]:
        """Latents (or moments) of a video of any length and size, chunk by chunk.

        encode: clip (1, 3, T, H, W), T = f·k+1, H and W multiples of `spatial_factor` -> (1, C, k+1, H/s, W/s).
        frames: an iterable of (1, 3, T_i, H, W) pieces of any length, or single frames (1, 3, H, W) or (3, H, W), read
            lazily; the last frame is repeated up to f·k+1 and the bottom and right edges up to multiples of
            `spatial_factor`.
        on_backoff: is given the plan that replaces this one and a sentence, each time memory ran out.
        start: the first latent of a chunk, which comes first. `frames` then begin at `first_frame(start)`; the latents
            are those that the whole video gives.
        Yields (1, C, n, h, w) for each chunk; nothing when there are no frames. Runs without autograd. ValueError on
        frames of several sizes, MemoryError when even the smallest tiles do not fit.
        """
        source = FrameSource(frames, self.spatial_factor)
        sequence = Sequence(source, start=self.first_frame(start), pad_factor=self.temporal_factor)
        return self.windows(encode, sequence, (start, None), on_backoff, encoding=True)

    def decode(
        self,
        decode: ClipFunction,
        read: ReadLatents,
        latents: tuple[int, int | None] = (0, None),
        total: int | None = None,
        on_backoff: Callable[[Plan, str], None] = lambda plan, text: None,
    ) -> Iterator[Tensor]:
        """Pixels of latents [start, stop) of a video, window by window.

        decode: latent (1, C, n, h, w) -> pixels (1, 3, f·(n-1)+1, h·s, w·s).
        read: (t0, t1) -> (1, C, t1-t0, h, w); called with ascending ranges that do not overlap, never outside
            `latents_to_read`. When `total` is None, returning fewer latents than asked for (or None) ends the video.
        latents: which to decode; None as the end means the last one. Part of a video decodes to exactly what the whole
            decodes to, because the windows are the same.
        total: latents in the video, when known.
        Yields (1, 3, T_i, H, W), uncropped and unclamped, for each window that has a part in the range: the frames that
        its kept latents stand for. Runs without autograd. ValueError on a range outside the video, MemoryError as
        `encode`.
        """
        start, stop = latents
        _check_range(start, stop, total)
        first = self.span(self.index_of(start, encoding=False), encoding=False).first
        sequence = Sequence(LatentSource(read, total), start=first)
        latents = start, total if stop is None else stop
        return self.windows(decode, sequence, latents, on_backoff, encoding=False)

    def windows(
        self,
        fn: ClipFunction,
        sequence: Sequence,
        latents: tuple[int, int | None],
        on_backoff: Callable[[Plan, str], None] = lambda plan, text: None,
        *,
        encoding: bool,
    ) -> Iterator[Tensor]:
        """The one loop behind both directions: what `fn` makes of `sequence`, as far as it stands for `latents`.

        A call over latents [first, end) covers frames [f·first, f·(end-1)], its first latent counting as one frame.
        """
        given, made = (self.temporal_factor, 1) if encoding else (1, self.temporal_factor)
        start, stop = latents
        plan: Plan = self
        for index in itertools.count(self.index_of(start, encoding=encoding)):
            span = self.span(index, encoding=encoding)
            if stop is not None and span.keep >= stop:
                return
            reached = sequence.fill(given * (span.end - 1) + 1)
            end = (reached - 1) // given + 1
            if end <= span.keep:  # the end, or a tail too short to add a latent
                return
            result, plan = plan._call(fn, sequence.take(given * span.first, reached), on_backoff, encoding)
            wanted = made * (end - span.first - 1) + 1
            if result.ndim != 5 or result.shape[TIME] != wanted:
                raise ValueError(
                    f"the function returned {tuple(result.shape)} for a window of {end - span.first} latents; {wanted} "
                    "wanted along the time axis"
                )
            sequence.drop_before(given * self.span(index + 1, encoding=encoding).first)
            keep_end = min(span.keep_end, end if stop is None else min(end, stop))
            first, last = frames_of_latents(max(start, span.keep), keep_end, made)
            if first < last:
                yield result[:, :, first - made * span.first : last - made * span.first]
            del result

    def _call(
        self, fn: ClipFunction, clip: Tensor, on_backoff: Callable[[Plan, str], None], encoding: bool
    ) -> tuple[Tensor, Plan]:
        """`fn(clip)` in tiles, and the plan whose tiles memory held."""
        side = -(-max(clip.shape[3:]) // (self.spatial_factor if encoding else 1))

        def report(plan: Plan) -> None:
            size = plan.tile_latents(encoding=encoding)
            on_backoff(plan, f"the device ran out of memory: going on with tiles of {size} latents")

        with torch.no_grad():
            return with_backoff(
                lambda plan: plan.in_tiles(fn, clip, encoding=encoding),
                self,
                lambda plan: plan.with_smaller_tiles(side, encoding=encoding),
                report,
            )

    def first_frame(self, start: int) -> int:
        """The first frame that encoding needs for the latents from `start`, the first of a chunk, on."""
        return self.temporal_factor * self.span(self.index_of(start, encoding=True), encoding=True).first

    def frames_at_once(self, frames: int, *, encoding: bool = False) -> int:
        """The most frames of a video of `frames` that one model call covers."""
        span = self.span(frames, encoding=encoding)  # far from the beginning, which cuts spans short
        return min(frames, frame_count(span.end - span.first, self.temporal_factor))

    def latents_to_read(self, latents: tuple[int, int], total: int) -> tuple[int, int]:
        """The latents, context included, that decoding [start, stop) of a video of `total` latents reads."""
        start, stop = latents
        _check_range(start, stop, total)
        if start == stop:
            return start, start
        first, last = (self.index_of(latent, encoding=False) for latent in (start, stop - 1))
        return self.span(first, encoding=False).first, min(total, self.span(last, encoding=False).end)

    def as_asked(self, stored: Plan, *, window: int | None, tile: int | None) -> Plan:
        """`stored`, the plan of a partial file, where it answers to the same options as this one, else this one: sizes
        that were left to choose may have been made smaller for want of memory."""
        ends = (plan.span(0, encoding=True).keep_end for plan in (self, stored))
        sizes = (plan.tile_latents(encoding=True) for plan in (self, stored))
        same = type(self) is type(stored) and (window is None or len(set(ends)) == 1)
        return stored if same and (tile is None or len(set(sizes)) == 1) else self


@dataclass(frozen=True)
class ContextPlan(Plan):
    """Windows that compute, and discard, the latents around those they keep; tiles likewise.

    With context at least the receptive field this equals the whole clip: `context_before` and `context_after` at least
    the number of neighbouring latents in front and behind that a kept latent (encoding) or its frames (decoding) depend
    on. The latent that a model reads as a single frame, because it stands first in a window, is taken care of
    (`Window.lead`).
    """

    encode_window: Window
    decode_window: Window
    encode_tile: Tile | None = None
    """None: whole pictures."""
    decode_tile: Tile | None = None
    """None: whole pictures."""

    def __post_init__(self) -> None:
        for window in (self.encode_window, self.decode_window):
            if window.blend:
                raise ValueError(f"windows are not cross-faded in time, context makes them exact: {window.blend = }")

    @classmethod
    def of(cls, config: ModelConfig, *, window: int | None = None, tile: int | None = None) -> ContextPlan:
        """The windows and tiles that a model's config names, or of the sizes asked for."""
        factor = config.temporal_factor if config.is_video else 1
        kept, least = window or config.window_latents, 1 if factor > 1 else 0
        before, around = max(config.encode_context, least), max(config.decode_context, least)
        size = config.tile_latents if tile is None else tile
        tiles = Tile(size, *_tile_borders(config)) if size else None
        return cls(
            factor,
            config.spatial_factor,
            encode_window=Window(kept, context_before=before),
            decode_window=Window(kept, context_before=around, context_after=config.decode_context),
            encode_tile=tiles,
            decode_tile=tiles,
        )

    def span(self, index: int, *, encoding: bool) -> Span:
        window, _ = self._side(encoding)
        keep, keep_end = index * window.kept, (index + 1) * window.kept
        first = max(0, keep - window.lead(self.temporal_factor, encoding=encoding))
        return Span(first, keep, keep_end, keep_end + window.context_after)

    def index_of(self, latent: int, *, encoding: bool) -> int:
        return latent // self._side(encoding)[0].kept

    def tile_latents(self, *, encoding: bool) -> int:
        _, tile = self._side(encoding)
        return tile.size if tile else 0

    def in_tiles(self, fn: ClipFunction, clip: Tensor, *, encoding: bool) -> Tensor:
        factors = (self.spatial_factor, 1) if encoding else (1, self.spatial_factor)
        return tiled(fn, clip, self._side(encoding)[1], input_factor=factors[0], output_factor=factors[1])

    def with_smaller_tiles(self, side: int, *, encoding: bool) -> ContextPlan | None:
        tile = halved(self._side(encoding)[1], side=side, context=_FALLBACK_CONTEXT, blend=_FALLBACK_BLEND)
        if tile is None:
            return None
        return dataclasses.replace(self, encode_tile=tile) if encoding else dataclasses.replace(self, decode_tile=tile)

    def fitted(
        self,
        config: ModelConfig,
        *,
        height: int,
        width: int,
        available: int,
        itemsize: int,
        keep_window: bool,
        keep_tile: bool,
    ) -> ContextPlan:
        """With windows and tiles made smaller until a model call is estimated to fit `available` bytes."""
        context, blend = _tile_borders(config)
        # Decoding sees context on both sides, so it is the larger of the two calls.
        window, tile = fit_to_memory(
            self.decode_window,
            self.decode_tile,
            height=height,
            width=width,
            bytes_per_pixel=config.bytes_per_pixel(itemsize),
            available=available,
            context=context,
            blend=blend,
            shrink_window=not keep_window,
            temporal_factor=self.temporal_factor,
            spatial_factor=self.spatial_factor,
        )
        tile = self.decode_tile if keep_tile else tile
        encode_window = dataclasses.replace(self.encode_window, kept=window.kept)
        return dataclasses.replace(
            self, encode_window=encode_window, decode_window=window, encode_tile=tile, decode_tile=tile
        )

    def _side(self, encoding: bool) -> tuple[Window, Tile | None]:
        """What encoding uses, or decoding."""
        return (self.encode_window, self.encode_tile) if encoding else (self.decode_window, self.decode_tile)


@dataclass(frozen=True)
class OfficialPlan(Plan):
    """The chunks and tiles of the official CV-VAE inference (docs/cv-vae.md, section 3).

    In time: chunks of `chunk_frames` new frames behind one shared frame, whose latent (encoding) or frame (decoding) is
    discarded in every chunk but the first. In space: `OfficialTiles`. GroupNorm spans a chunk, so no other windows give
    the same latents.
    """

    official: Official

    def __post_init__(self) -> None:
        frames = self.official.chunk_frames
        if frames is not None and (frames < 1 or frames % self.temporal_factor):
            raise ValueError(f"official chunk of {frames} frames is not a multiple of {self.temporal_factor}")
        _ = self.tiles  # refuses those that leave the latent grid

    @classmethod
    def of(cls, config: ModelConfig, *, window: int | None = None, tile: int | None = None) -> OfficialPlan:
        """The chunks and tiles that a model's config names, or of the sizes asked for."""
        frames = config.official_chunk_frames if window is None else window * config.temporal_factor
        pixels = config.official_tile_pixels if tile is None else tile * config.spatial_factor
        official = Official(frames, pixels, config.official_tile_overlap)
        return cls(config.temporal_factor, config.spatial_factor, official)

    @property
    def tiles(self) -> OfficialTiles:
        """The tiles, with the lengths that follow from their size."""
        return OfficialTiles(self.official.tile_pixels, self.official.tile_overlap, self.spatial_factor)

    def span(self, index: int, *, encoding: bool) -> Span:
        """Latents [0, 5), [5, 9), [9, 13) ... are kept, the one in front of them is shared."""
        first = index * self._chunk_latents
        end = first + self._chunk_latents + 1
        return Span(first, first + 1 if index else 0, end, end)

    def index_of(self, latent: int, *, encoding: bool) -> int:
        return max(0, latent - 1) // self._chunk_latents

    def tile_latents(self, *, encoding: bool) -> int:
        return self.tiles.latents

    def in_tiles(self, fn: ClipFunction, clip: Tensor, *, encoding: bool) -> Tensor:
        return self.tiles.encode(fn, clip) if encoding else self.tiles.decode(fn, clip)

    def with_smaller_tiles(self, side: int, *, encoding: bool) -> OfficialPlan | None:
        """The result then differs from the official one."""
        tiles = self.tiles.halved(side=side)
        if tiles is None:
            return None
        return dataclasses.replace(self, official=dataclasses.replace(self.official, tile_pixels=tiles.pixels))

    @property
    def _chunk_latents(self) -> int:
        """New latents per chunk (4); the first chunk has one more."""
        frames = self.official.chunk_frames
        return _WHOLE if frames is None else frames // self.temporal_factor


def choose_plan(
    config: ModelConfig,
    *,
    height: int,
    width: int,
    mode: WindowMode = "auto",
    window: int | None = None,
    tile: int | None = None,
    available_memory: int | None = None,
    itemsize: int = 4,
    on_notice: Callable[[str], None] = lambda text: None,
) -> Plan:
    """The config's windows and tiles, or the ones asked for.

    window: latents kept per window; tile: side of a tile in latents, 0 for none. None is `auto`: the config's size,
    made smaller, with a notice, only when an estimate says that it does not fit `available_memory` bytes.
    Raises ValueError for sizes that cannot work.
    """
    if config.uses_official_windows if mode == "auto" else mode == "official":
        if not config.uses_official_windows:
            raise ValueError(
                f"--windows official is for official CV-VAE models, not for {config.family}; use --windows context"
            )
        # Official sizes are part of the result, so only running out of memory changes them.
        return OfficialPlan.of(config, window=window, tile=tile)
    usual = ContextPlan.of(config, window=window, tile=tile)
    if available_memory is None:
        return usual
    available = int(available_memory * _MEMORY_SHARE)
    plan = usual.fitted(
        config,
        height=height,
        width=width,
        available=available,
        itemsize=itemsize,
        keep_window=window is not None,
        keep_tile=tile is not None,
    )
    if plan != usual:
        tiles = f"tiles of {plan.decode_tile.size} latents" if plan.decode_tile else "no tiles"
        on_notice(
            f"{available / 2**30:.1f} GiB of memory do not hold the usual windows: using {tiles} and windows of "
            f"{plan.decode_window.kept} latents; the file records it"
        )
    return plan


def _tile_borders(config: ModelConfig) -> tuple[int, int]:
    """Context and blend of tiles."""
    return config.tile_context or _FALLBACK_CONTEXT, config.tile_blend or _FALLBACK_BLEND


def _check_range(start: int, stop: int | None, total: int | None) -> None:
    """ValueError unless 0 <= start <= stop <= total, as far as they are known."""
    end = stop if stop is not None else total
    if start < 0 or (end is not None and end < start) or (end is not None and total is not None and end > total):
        raise ValueError(f"latents [{start}, {stop}) are not a range of a video of {total} latents")
