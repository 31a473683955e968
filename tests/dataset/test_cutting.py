"""Which clips a source has: lengths, strides, scenes, rests, still and black ones."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from cvcodec.dataset.cutting import Look, Piece, cut
from cvcodec.dataset.cutting_options import Cutting
from cvcodec.errors import UsageError


def frames(count: int, every: int = 1) -> list[tuple[Fraction, int]]:
    """Every so many frames of a source of 25 a second that begins at 2 s."""
    return [(2 + Fraction(number * every, 25), number * every) for number in range(count)]


def places(count: int, *, scene_starts: Any = (), every: int = 1, **asked: Any) -> list[tuple[int, int]]:
    made = cut(Cutting(**asked), frames(count, every), scene_starts=scene_starts)
    return [(piece.first, piece.frames) for piece in made.pieces]


def test_clips_follow_each_other_and_the_rest_is_left_out_with_its_length() -> None:
    made = cut(Cutting(clip_frames=65), frames(200), zero=Fraction(2))
    assert made.pieces == (
        Piece(0, 65, Fraction(0)), Piece(65, 65, Fraction(65, 25)), Piece(130, 65, Fraction(130, 25))
    )  # fmt: skip
    assert [(out.first, out.reason) for out in made.left_out] == [(195, "5 frames, wanted at least 65")]


@pytest.mark.parametrize(
    ("count", "asked", "wanted"),
    [
        (130, {"clip_frames": 65}, [(0, 65), (65, 65)]),
        (64, {"clip_frames": 65}, []),
        (64, {"clip_frames": 65, "min_frames": 33}, [(0, 64)]),
        (100, {"clip_frames": 65, "min_frames": 33}, [(0, 65), (65, 35)]),
        (20, {"clip_frames": 9, "clip_stride": 4}, [(0, 9), (4, 9), (8, 9)]),
        (40, {"clip_frames": 9, "clip_stride": 20}, [(0, 9), (20, 9)]),
        (100, {"clip_frames": 10, "max_clips": 2}, [(20, 10), (70, 10)]),
        (100, {"clip_frames": 10, "max_clips": 1}, [(50, 10)]),
        (100, {"clip_frames": 50, "max_clips": 5}, [(0, 50), (50, 50)]),
        (100, {"min_frames": 17}, [(0, 100)]),
        (16, {"min_frames": 17}, []),
    ],
)
def test_lengths_strides_and_numbers(count: int, asked: dict[str, Any], wanted: list[tuple[int, int]]) -> None:
    assert places(count, **asked) == wanted


def test_no_clip_crosses_a_cut() -> None:
    assert places(100, scene_starts=[30, 77], clip_frames=20, scenes="auto") == [(0, 20), (30, 20), (50, 20), (77, 20)]
    assert places(100, scene_starts=[30, 77], scenes="auto") == [(0, 30), (30, 47), (77, 23)]


def test_cuts_are_those_of_the_source_where_frames_were_dropped_or_repeated() -> None:
    assert places(50, every=2, scene_starts=[30], scenes="auto") == [(0, 15), (15, 35)]
    assert places(50, every=2, scene_starts=[31], scenes="auto") == [(0, 16), (16, 34)]
    repeated = [(Fraction(number, 50), number // 2) for number in range(100)]
    made = cut(Cutting(scenes="auto"), repeated, scene_starts=[10])
    assert [(piece.first, piece.frames) for piece in made.pieces] == [(0, 20), (20, 80)]


def looks(pictures: list[Any]) -> list[Look]:
    return [Look.at(4 * number, np.ascontiguousarray(picture)) for number, picture in enumerate(pictures)]


def flat(value: int) -> Any:
    return np.full((144, 256, 3), value, np.uint8)


def test_still_and_black_clips_are_left_out_each_only_where_asked() -> None:
    moving = flat(100)
    moving[:16, :16] = 140  # a small part
    seen = looks([flat(100)] * 5 + [flat(100), moving, flat(100), flat(100), flat(100)] + [flat(3), flat(12)] * 3)
    asked = {"clip_frames": 20}

    def made(**more: bool) -> Any:
        return cut(Cutting(**asked, **more), frames(60), looks=seen)

    assert [piece.first for piece in made(skip_still=True).pieces] == [20, 40]
    assert [piece.first for piece in made(skip_black=True).pieces] == [0, 20]
    assert [piece.first for piece in made(skip_still=True, skip_black=True).pieces] == [20]
    reasons = [out.reason.split(":")[0] for out in made(skip_still=True, skip_black=True).left_out]
    assert reasons == ["still", "black"]


def test_noise_of_a_coder_is_no_movement() -> None:
    rng = np.random.default_rng(0)
    noisy = [(flat(100) + rng.normal(0, 3, (144, 256, 3))).astype(np.uint8) for _ in range(5)]
    assert cut(Cutting(clip_frames=20, skip_still=True), frames(20), looks=looks(noisy)).pieces == ()


def test_small_pictures_of_any_size_are_looked_at() -> None:
    for shape in ((1, 1, 3), (5, 300, 3), (144, 256, 3)):
        look = Look.at(0, np.full(shape, 77, np.uint8))
        assert look.brightness == 77
        assert set(look.cells.ravel().tolist()) == {77}


@pytest.mark.parametrize("asked", [{"clip_stride": 5}, {"max_clips": 3}, {"clip_frames": 9, "min_frames": 10}])
def test_options_that_contradict_each_other_are_refused(asked: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Cutting(**asked)
