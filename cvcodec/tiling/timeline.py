"""The arithmetic between frames and latents in time (spec 1.5).

Owns: which frames a latent stands for, how many of one make how many of the other.
Does not know: tensors, windows, files.

Latent 0 is frame 0 alone; latent j >= 1 stands for frames f(j-1)+1 ... fj, f being the temporal factor (4). With f = 1
(image models) latents and frames are the same thing, so every formula here also serves them.
"""

from __future__ import annotations


def latent_count(frames: int, factor: int = 4) -> int:
    """Latents that hold `frames` frames once the last is repeated up to f·k+1: ceil((frames-1)/f) + 1; 0 for 0."""
    _check(factor, frames=frames)
    return (frames + factor - 2) // factor + 1 if frames else 0


def frame_count(latents: int, factor: int = 4) -> int:
    """Frames that `latents` latents decode to: f·(latents-1) + 1; 0 for 0."""
    _check(factor, latents=latents)
    return factor * (latents - 1) + 1 if latents else 0


def padded_frame_count(frames: int, factor: int = 4) -> int:
    """`frames` rounded up to the next f·k+1; 0 for 0."""
    return frame_count(latent_count(frames, factor), factor)


def frames_of_latents(start: int, stop: int, factor: int = 4) -> tuple[int, int]:
    """The frames, first and one past the last, that latents [start, stop) stand for, repeated last frames included."""
    _check(factor, start=start, stop=stop)
    first = factor * (start - 1) + 1 if start else 0
    return first, max(first, frame_count(stop, factor))


def latents_of_frames(start: int, stop: int, factor: int = 4) -> tuple[int, int]:
    """The smallest latent range [a, b) whose frames include frames [start, stop); empty for an empty range."""
    _check(factor, start=start, stop=stop)
    first = -(-start // factor)
    return first, (-(-(stop - 1) // factor) + 1 if stop > start else first)


def _check(factor: int, **counts: int) -> None:
    if factor < 1:
        raise ValueError(f"temporal factor must be at least 1, got {factor}")
    for name, value in counts.items():
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
