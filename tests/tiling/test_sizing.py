"""`auto` keeps the config's sizes unless the estimate says they do not fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvcodec.tiling import TileSpec, WindowSpec, activation_bytes_per_pixel, estimate_bytes, fit_to_memory

WINDOW = WindowSpec(kept=16, context_before=3, blend=1)


def test_the_estimate_is_pixels_of_one_call_times_bytes_per_pixel() -> None:
    # 1 latent read as one frame + 3 of context + 16 kept + 1 blended = 21 latents = 81 frames
    assert estimate_bytes(WINDOW, None, height=719, width=1280, bytes_per_pixel=10) == 81 * 720 * 1280 * 10
    assert estimate_bytes(WINDOW, TileSpec(32), height=720, width=100, bytes_per_pixel=1) == 81 * 256 * 104
    assert estimate_bytes(WINDOW, None, height=8, width=8, bytes_per_pixel=1, temporal_factor=1) == 20 * 64
    assert activation_bytes_per_pixel(128) == 6 * 128 * 4
    assert activation_bytes_per_pixel(64, patch_size=2, itemsize=2) == 6 * 64 * 2 / 4


@given(
    kept=st.integers(1, 40),
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    size=st.none() | st.integers(10, 200),
    available=st.integers(0, 10**10),
    shrink_window=st.booleans(),
)
def test_sizes_change_only_when_they_must_and_only_as_far_as_allowed(
    kept: int, height: int, width: int, size: int | None, available: int, shrink_window: bool
) -> None:
    window = WindowSpec(kept=kept, context_before=2, blend=1)
    tile = None if size is None else TileSpec(size, 2, 1)
    fit = fit_to_memory(
        window, tile, height=height, width=width, bytes_per_pixel=100, available=available, context=2, blend=1,
        shrink_window=shrink_window,
    )  # fmt: skip
    asked = estimate_bytes(window, tile, height=height, width=width, bytes_per_pixel=100)
    assert fit.needed == estimate_bytes(fit.window, fit.tile, height=height, width=width, bytes_per_pixel=100) <= asked
    assert fit.fits == (fit.needed <= available)
    assert fit.shrunk == ((fit.window, fit.tile) != (window, tile))
    if asked <= available:
        assert (fit.window, fit.tile) == (window, tile)
    if not shrink_window:
        assert fit.window == window
    if not fit.fits:
        assert not shrink_window or fit.window.kept == 1
        assert fit.tile is None or fit.tile.size <= max(7, size or 0)
        assert fit.tile is None or min(fit.tile.size, -(-max(height, width) // 8)) <= 7


def test_tiles_shrink_before_the_window_does() -> None:
    def fit(available: int) -> tuple[int, int | None]:
        result = fit_to_memory(
            WINDOW, None, height=720, width=1280, bytes_per_pixel=100, available=available, context=2, blend=1
        )
        assert result.fits
        return result.window.kept, result.tile.size if result.tile else None

    assert fit(81 * 720 * 1280 * 100) == (16, None)
    assert fit(81 * 720 * 1280 * 100 - 1) == (16, 80)
    assert fit(81 * 160 * 160 * 100) == (16, 20)
    assert fit(81 * 160 * 160 * 100 - 1) == (8, 20)
    assert fit(21 * 160 * 160 * 100 - 1) == (1, 10)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="no such size"):
        fit_to_memory(WINDOW, None, height=0, width=1, bytes_per_pixel=1, available=1)
    with pytest.raises(ValueError, match="at least 1"):
        activation_bytes_per_pixel(0)
