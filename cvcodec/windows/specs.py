"""What windows and tiles are made of: the numbers that a file's header keeps.

Owns: the three specs and what makes them valid.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A temporal window, in latents: `context_before | kept | context_after`, clipped at the ends of the video.

    Window n keeps latents [n·kept, (n+1)·kept): those ranges are the chunks of a file. The two contexts are computed
    for their sake and discarded.
    """

    kept: int
    """Latents of a chunk, at least 1."""
    context_before: int = 0
    """Latents computed from all they depend on, and discarded, in front."""
    context_after: int = 0
    """Latents computed and discarded behind (0 for a causal encoder)."""
    blend: int = 0
    """Latents cross-faded with the next window: has its place in the format and is always 0, as context is exact."""

    def __post_init__(self) -> None:
        _at_least(1, "window", kept=self.kept)
        _at_least(0, "window", context_before=self.context_before, context_after=self.context_after, blend=self.blend)

    def lead(self, temporal_factor: int, *, encoding: bool) -> int:
        """Latents that a window which does not begin the video computes in front of those it keeps.

        A model with a temporal factor reads its first latent as one single frame. Encoding, that latent comes on top of
        the context: it is wrong in itself. Decoding, it is right but gives one frame only, so it may be context, and
        without context there must be one.
        """
        if temporal_factor == 1:
            return self.context_before
        return self.context_before + 1 if encoding else max(self.context_before, 1)

    def longest(self, temporal_factor: int) -> int:
        """The most latents that one model call covers, in either direction."""
        return self.lead(temporal_factor, encoding=True) + self.kept + self.context_after


@dataclass(frozen=True)
class Tile:
    """A square spatial tile, in latents: `size` on a side, of which `context` is discarded on every inner side."""

    size: int
    """Side of a tile as the model sees it, context and blend included."""
    context: int = 0
    """Latents computed and discarded on each side that is not an edge of the picture."""
    blend: int = 0
    """Latents cross-faded between neighbouring tiles."""

    def __post_init__(self) -> None:
        _at_least(0, "tile", size=self.size, context=self.context, blend=self.blend)
        if self.size < self.smallest:
            raise ValueError(
                f"a tile of {self.size} latents is too small for context {self.context} and blend {self.blend}: "
                f"at least {self.smallest} wanted"
            )

    @property
    def smallest(self) -> int:
        """The smallest size for this context and blend: the part that is not context holds two blends and one more, so
        that no point belongs to two cross-fades in one direction."""
        return 2 * self.context + max(3 * self.blend, 1)

    @property
    def stride(self) -> int:
        """The largest distance between the starts of neighbouring tiles."""
        return self.size - 2 * self.context - self.blend


@dataclass(frozen=True)
class Official:
    """Chunks and tiles of the official CV-VAE inference (docs/cv-vae.md, section 3)."""

    chunk_frames: int | None = 16
    """New frames per chunk, a multiple of the temporal factor; None: the whole video at once."""
    tile_pixels: int = 576
    """Side of a tile in pixels; 0: no tiles."""
    tile_overlap: float = 0.2222
    """Share of a tile that overlaps its neighbour."""

    def __post_init__(self) -> None:
        if self.chunk_frames is not None:
            _at_least(1, "official", chunk_frames=self.chunk_frames)
        _at_least(0, "official", tile_pixels=self.tile_pixels)
        if not 0 <= self.tile_overlap < 1:
            raise ValueError(f"official.tile_overlap is {self.tile_overlap}, wanted 0 to less than 1")


def _at_least(least: int, what: str, **values: object) -> None:
    """ValueError unless all are integers of at least `least`: they may come from a file."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{what}.{name} is {ascii(value)[:40]}, wanted an integer of at least {least}")
