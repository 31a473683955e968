"""Which windows and tiles a video is coded with: chosen once, recorded in the file, reused on decode.

Owns: the choice between context windows and the official ones, their sizes, how they are written in the header, and
calling the right functions of `tiling` with them.
Does not know: files, threads, colour.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from cvcodec import tiling
from cvcodec.bitstream.header import Header, Official, Tile, Window
from cvcodec.errors import BitstreamError, UsageError
from cvcodec.model.config import ModelConfig
from cvcodec.tiling import OfficialGrid, OfficialRunner, TileRunner, TileSpec, WindowSpec

WindowMode = Literal["auto", "context", "official"]

ReadLatents = Callable[[int, int], Tensor | None]
ClipFunction = Callable[[Tensor], Tensor]

_MEMORY_SHARE = 0.8  # of the free memory that one model call may be estimated to take
_FALLBACK_CONTEXT, _FALLBACK_BLEND = 4, 2  # latents, for models whose config names no tiles, when memory demands some


@dataclass(frozen=True)
class Plan:
    """How a video is cut for the model. Either the two windows (and tiles), or the official grid."""

    temporal_factor: int
    spatial_factor: int
    encode_window: WindowSpec | None = None
    decode_window: WindowSpec | None = None
    encode_tile: TileSpec | None = None
    decode_tile: TileSpec | None = None
    grid: OfficialGrid | None = None

    # ------------------------------------------------------------------------------------------------ choosing

    @classmethod
    def choose(
        cls,
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
        Raises UsageError for sizes that cannot work.
        """
        factor = config.temporal_factor if config.is_video else 1
        official = config.uses_official_windows if mode == "auto" else mode == "official"
        if official and not config.uses_official_windows:
            raise UsageError(
                f"--windows official is for official CV-VAE models, not for {config.family}; use --windows context"
            )
        try:
            plan = cls._official(config, window, tile) if official else cls._context(config, factor, window, tile)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if available_memory is None or official:
            return plan  # official sizes are part of the result, so only running out of memory changes them
        return plan._fitted(
            config, height, width, window, tile, int(available_memory * _MEMORY_SHARE), itemsize, on_notice
        )

    @classmethod
    def _official(cls, config: ModelConfig, window: int | None, tile: int | None) -> Plan:
        grid = OfficialGrid.from_config(config)
        if window is not None:
            grid = dataclasses.replace(grid, chunk_frames=window * config.temporal_factor)
        if tile is not None:
            grid = dataclasses.replace(grid, tile_pixels=tile * config.spatial_factor)
        if grid.tile_pixels:
            grid.check_tiles()
        return cls(config.temporal_factor, config.spatial_factor, grid=grid)

    @classmethod
    def _context(cls, config: ModelConfig, factor: int, window: int | None, tile: int | None) -> Plan:
        kept = window or config.window_latents
        least = 1 if factor > 1 else 0
        before, around = max(config.encode_context, least), max(config.decode_context, least)
        size = config.tile_latents if tile is None else tile
        tiles = (
            TileSpec(size, config.tile_context or _FALLBACK_CONTEXT, config.tile_blend or _FALLBACK_BLEND)
            if size
            else None
        )
        return cls(
            factor,
            config.spatial_factor,
            encode_window=WindowSpec(kept, context_before=before),
            decode_window=WindowSpec(kept, context_before=around, context_after=config.decode_context),
            encode_tile=tiles,
            decode_tile=tiles,
        )

    def _fitted(
        self,
        config: ModelConfig,
        height: int,
        width: int,
        window: int | None,
        tile: int | None,
        available: int,
        itemsize: int,
        on_notice: Callable[[str], None],
    ) -> Plan:
        assert self.encode_window is not None and self.decode_window is not None
        # Decoding sees context on both sides, so it is the larger of the two calls.
        fit = tiling.fit_to_memory(
            self.decode_window,
            self.decode_tile,
            height=height,
            width=width,
            bytes_per_pixel=bytes_per_pixel(config, itemsize),
            available=available,
            context=config.tile_context or _FALLBACK_CONTEXT,
            blend=config.tile_blend or _FALLBACK_BLEND,
            shrink_window=window is None,
            temporal_factor=self.temporal_factor,
            spatial_factor=self.spatial_factor,
        )
        if tile is not None:
            fit = dataclasses.replace(fit, tile=self.decode_tile)
        if (fit.window, fit.tile) == (self.decode_window, self.decode_tile):
            return self
        tiles = f"tiles of {fit.tile.size} latents" if fit.tile else "no tiles"
        on_notice(
            f"{available / 2**30:.1f} GiB of memory do not hold the usual windows: using {tiles} and windows of "
            f"{fit.window.kept} latents; the file records it"
        )
        return dataclasses.replace(
            self,
            encode_window=dataclasses.replace(self.encode_window, kept=fit.window.kept),
            decode_window=fit.window,
            encode_tile=fit.tile,
            decode_tile=fit.tile,
        )

    # ------------------------------------------------------------------------------------------------ the header

    def header_fields(self) -> dict[str, Any]:
        """Keyword arguments for `Header`."""
        if self.grid is not None:
            official = Official(
                chunk_frames=self.grid.chunk_frames, tile_pixels=self.grid.tile_pixels, tile_overlap=self.grid.overlap
            )
            return {"windows": "official", "official": official}
        return {
            "windows": "context",
            "encode_window": _to_window(self.encode_window),
            "decode_window": _to_window(self.decode_window),
            "encode_tile": _to_tile(self.encode_tile),
            "decode_tile": _to_tile(self.decode_tile),
        }

    @classmethod
    def from_header(cls, header: Header, *, family: str = "cvvae") -> Plan:
        """What a file was coded with. `family` of the model tells which way official tiles round odd sizes.

        Raises BitstreamError for windows and tiles that cannot be."""
        try:
            return cls._from_header(header, family)
        except ValueError as error:
            raise BitstreamError(f"the header's windows cannot be: {error}") from error

    @classmethod
    def _from_header(cls, header: Header, family: str) -> Plan:
        if header.windows == "official":
            assert header.official is not None
            grid = OfficialGrid(
                chunk_frames=header.official.chunk_frames,
                tile_pixels=header.official.tile_pixels,
                overlap=header.official.tile_overlap,
                round_up=family == "cvvae-sd3",
                temporal_factor=header.temporal_factor,
                spatial_factor=header.spatial_factor,
            )
            if grid.tile_pixels:
                grid.check_tiles()
            return cls(header.temporal_factor, header.spatial_factor, grid=grid)
        return cls(
            header.temporal_factor,
            header.spatial_factor,
            encode_window=_from_window(header.encode_window),
            decode_window=_from_window(header.decode_window),
            encode_tile=_from_tile(header.encode_tile),
            decode_tile=_from_tile(header.decode_tile),
        )

    # ------------------------------------------------------------------------------------------------ running

    def encode(
        self,
        encode: ClipFunction,
        frames: Iterable[Tensor],
        on_backoff: Callable[[Plan, str], None],
        *,
        start: int = 0,
    ) -> Iterator[Tensor]:
        """Latents (or moments) of each chunk in turn; `frames` as for `tiling.encode_stream`.

        start: the first latent of a chunk, which comes first; `frames` then begin at `first_frame(start)`.

        on_backoff: is given the plan that replaces this one and a sentence, each time memory ran out.
        """
        if self.grid is not None:
            official = OfficialRunner(self.grid, may_shrink=True, on_backoff=self._grid_backoff(on_backoff))
            return tiling.encode_official_stream(encode, frames, official, start=start)

        def smaller(old: TileSpec | None, new: TileSpec) -> None:
            on_backoff(dataclasses.replace(self, encode_tile=new), _backoff_text(new.size))

        assert self.encode_window is not None
        return tiling.encode_stream(
            encode,
            frames,
            window=self.encode_window,
            tile=TileRunner(self.encode_tile, context=_FALLBACK_CONTEXT, blend=_FALLBACK_BLEND, on_backoff=smaller),
            start=start,
            temporal_factor=self.temporal_factor,
            spatial_factor=self.spatial_factor,
        )

    def first_frame(self, start: int) -> int:
        """The first frame that encoding needs for the latents from `start`, the first of a chunk, on."""
        if self.grid is not None:
            return tiling.official_first_frame(start, self.grid)
        assert self.encode_window is not None
        return tiling.first_frame_to_read(start, self.encode_window, temporal_factor=self.temporal_factor)

    def as_asked(self, stored: Plan, *, window: int | None, tile: int | None) -> Plan:
        """`stored`, the plan of a partial file, where it answers to the same options as this one, else this one: sizes
        that were left to choose may have been made smaller for want of memory."""
        if (self.grid is None) != (stored.grid is None):
            return self
        if self.grid is not None and stored.grid is not None:
            frames = window is None or self.grid.chunk_frames == stored.grid.chunk_frames
            return stored if frames and (tile is None or self.grid.tile_pixels == stored.grid.tile_pixels) else self
        assert self.encode_window is not None and stored.encode_window is not None
        kept = window is None or self.encode_window.kept == stored.encode_window.kept
        return stored if kept and (tile is None or self.encode_tile == stored.encode_tile) else self

    def decode(
        self,
        decode: ClipFunction,
        read: ReadLatents,
        latents: tuple[int, int | None],
        total: int | None,
        on_backoff: Callable[[Plan, str], None],
    ) -> Iterator[Tensor]:
        """Pixels of latents [start, stop), window by window; arguments as for `tiling.decode_stream`."""
        if self.grid is not None:
            official = OfficialRunner(self.grid, may_shrink=True, on_backoff=self._grid_backoff(on_backoff))
            return tiling.decode_official_stream(decode, read, latents, grid=official, total=total)

        def smaller(old: TileSpec | None, new: TileSpec) -> None:
            on_backoff(dataclasses.replace(self, decode_tile=new), _backoff_text(new.size))

        assert self.decode_window is not None
        return tiling.decode_stream(
            decode,
            read,
            latents,
            window=self.decode_window,
            tile=TileRunner(self.decode_tile, context=_FALLBACK_CONTEXT, blend=_FALLBACK_BLEND, on_backoff=smaller),
            total=total,
            temporal_factor=self.temporal_factor,
            spatial_factor=self.spatial_factor,
        )

    def _grid_backoff(self, on_backoff: Callable[[Plan, str], None]) -> Callable[[OfficialGrid, OfficialGrid], None]:
        def report(old: OfficialGrid, new: OfficialGrid) -> None:
            on_backoff(dataclasses.replace(self, grid=new), _backoff_text(new.tile_latents))

        return report

    def frames_at_once(self, frames: int) -> int:
        """The most frames of a video of `frames` that decoding holds as pixels: those of a window."""
        if self.grid is not None:
            chunk = self.grid.chunk_frames
            return frames if chunk is None else min(frames, chunk + 1)
        assert self.decode_window is not None
        return min(frames, self.decode_window.longest(self.temporal_factor) * self.temporal_factor)

    def latents_to_read(self, latents: tuple[int, int], total: int) -> tuple[int, int]:
        """The latents, context included, that decoding [start, stop) of a video of `total` latents reads."""
        if self.grid is not None:
            return tiling.official_latents_to_read(latents, self.grid, total)
        assert self.decode_window is not None
        return tiling.latents_to_read(latents, self.decode_window, total)


def bytes_per_pixel(config: ModelConfig, itemsize: int) -> float:
    """Estimated peak of a model call, in bytes per pixel of its clip."""
    if config.family.endswith("-mini"):
        # Groups of frames are folded into channels, so the activations are small. Measured on 33x512x512: 65 bytes a
        # pixel encoding and 35 decoding in bf16, 120 and 71 in fp32.
        return 12.0 + 28.0 * itemsize
    return tiling.activation_bytes_per_pixel(config.widths[0], itemsize=itemsize)


def _backoff_text(size: int) -> str:
    return f"the device ran out of memory: going on with tiles of {size} latents"


def _to_window(spec: WindowSpec | None) -> Window | None:
    return None if spec is None else Window(**dataclasses.asdict(spec))


def _to_tile(spec: TileSpec | None) -> Tile | None:
    return None if spec is None else Tile(**dataclasses.asdict(spec))


def _from_window(window: Window | None) -> WindowSpec | None:
    return None if window is None else WindowSpec(**dataclasses.asdict(window))


def _from_tile(tile: Tile | None) -> TileSpec | None:
    return None if tile is None else TileSpec(**dataclasses.asdict(tile))
