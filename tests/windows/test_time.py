"""Frame arithmetic against a literal grouping of frame numbers (spec 1.5)."""

from __future__ import annotations

import pytest

from cvcodec.windows.time import frame_count, frames_of_latents, latent_count, latents_of_frames, padded_frame_count


def groups(latents: int, factor: int) -> list[list[int]]:
    """Frames of each latent, written out: the first latent is frame 0, every later one the next `factor` frames."""
    result: list[list[int]] = []
    frame = 0
    for latent in range(latents):
        size = 1 if latent == 0 else factor
        result.append(list(range(frame, frame + size)))
        frame += size
    return result


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_counts_and_ranges_agree_with_frames_grouped_by_hand(factor: int) -> None:
    table = groups(20, factor)
    latent_of = {frame: latent for latent, frames in enumerate(table) for frame in frames}
    for frames in range(1, 70):
        if frames - 1 in latent_of:
            assert latent_count(frames, factor) == latent_of[frames - 1] + 1
            assert padded_frame_count(frames, factor) == table[latent_of[frames - 1]][-1] + 1
    for start in range(20):
        for stop in range(start + 1, 20):
            flat = [frame for latent in table[start:stop] for frame in latent]
            assert frames_of_latents(start, stop, factor) == (flat[0], flat[-1] + 1)
    last = len(latent_of)
    for first in range(last):
        for end in range(first + 1, last + 1):
            assert latents_of_frames(first, end, factor) == (latent_of[first], latent_of[end - 1] + 1)


def test_the_paper_s_counts_hold() -> None:
    assert [frame_count(n) for n in (1, 5, 16, 25)] == [1, 17, 61, 97]
    assert [latent_count(n) for n in (0, 1, 2, 5, 6, 17, 97)] == [0, 1, 2, 2, 3, 5, 25]


def test_empty_ranges_stay_empty() -> None:
    assert latents_of_frames(6, 6) == (2, 2)
    first, stop = frames_of_latents(3, 3)
    assert first == stop
    assert frame_count(0) == padded_frame_count(0) == 0


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="frames must not be negative"):
        latent_count(-1)
    with pytest.raises(ValueError, match="temporal factor"):
        frame_count(3, 0)
