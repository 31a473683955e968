"""What a window in time and a tile in space are made of, in latents.

Owns: the two specs and what makes them valid.
Does not know: pixels, tensors, models.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WindowSpec:
    """A temporal window, in latents: `context_before | kept | blend | context_after`, clipped at the ends of the video.

    Window n keeps latents [n·kept, (n+1)·kept): those ranges are the chunks of a file. It computes `blend` latents
    more, which are cross-faded with the head of the next chunk, and the two contexts, which are discarded.
    """

    kept: int
    """Latents of a chunk, at least 1."""
    context_before: int = 0
    """Latents computed from all they depend on, and discarded, in front."""
    context_after: int = 0
    """Latents computed and discarded behind (0 for a causal encoder)."""
    blend: int = 0
    """Latents cross-faded with the next window, at most `kept`."""

    def __post_init__(self) -> None:
        if self.kept < 1:
            raise ValueError(f"a window must keep at least 1 latent, got {self.kept}")
        if self.context_before < 0 or self.context_after < 0:
            raise ValueError(f"context must not be negative: {self.context_before = }, {self.context_after = }")
        if not 0 <= self.blend <= self.kept:
            raise ValueError(f"blend must be between 0 and kept ({self.kept}), got {self.blend}")

    def longest(self, temporal_factor: int) -> int:
        """The most latents that one model call covers, in either direction."""
        return self.lead(temporal_factor, encoding=True) + self.kept + self.blend + self.context_after

    def lead(self, temporal_factor: int, *, encoding: bool) -> int:
        """Latents that a window which does not begin the video computes in front of those it keeps.

        A model with a temporal factor reads its first latent as one single frame. Encoding, that latent comes on top of
        the context: it is wrong in itself. Decoding, it is right but gives one frame only, so it may be context, and
        without context there must be one.
        """
        if temporal_factor == 1:
            return self.context_before
        return self.context_before + 1 if encoding else max(self.context_before, 1)

    def start(self, index: int, lead: int) -> int:
        """The first latent that window `index` computes, given `lead(...)`."""
        return max(0, index * self.kept - lead)

    def stop(self, index: int) -> int:
        """One past the last latent that window `index` computes, before it is clipped to the video's end."""
        return (index + 1) * self.kept + self.blend + self.context_after

    def first_needed(self, start: int) -> int:
        """The first window that has a part in latent `start`: its own, or the one that is blended into it."""
        index = start // self.kept
        return index - 1 if index and start < index * self.kept + self.blend else index


@dataclass(frozen=True)
class TileSpec:
    """A square spatial tile, in latents: `size` on a side, of which `context` is discarded on every inner side."""

    size: int
    """Side of a tile as the model sees it, context and blend included."""
    context: int = 0
    """Latents computed and discarded on each side that is not an edge of the picture."""
    blend: int = 0
    """Latents cross-faded between neighbouring tiles."""

    def __post_init__(self) -> None:
        if self.context < 0 or self.blend < 0:
            raise ValueError(f"context and blend must not be negative: {self.context = }, {self.blend = }")
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
