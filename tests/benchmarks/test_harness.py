"""Clips, models, timing and output that the benchmarks share."""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import harness
from cvcodec.errors import InputError
from cvcodec.model import build_model


def test_a_synthetic_clip_moves_and_is_the_same_every_time() -> None:
    first, again = (list(harness.moving_frames(40, 24, 5)) for _ in range(2))
    assert all(picture.shape == (24, 40, 3) and picture.dtype == np.uint8 for picture in first)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(not np.array_equal(a, b) for a, b in zip(first, first[1:], strict=False))


def test_a_picture_of_one_pixel_can_be_made() -> None:
    assert next(harness.moving_frames(1, 1, 1)).shape == (1, 1, 3)


def test_a_written_clip_has_the_size_frame_count_and_rate_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    harness.write_clip(path, 48, 32, 7)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (48, 32, harness.RATE)
        assert sum(1 for _ in container.decode(stream)) == 7


@pytest.mark.parametrize(("family", "channels"), [("cvvae", 4), ("cvvae-sd3", 16)])
def test_the_official_configs_have_the_published_widths_and_a_narrow_form(family: str, channels: int) -> None:
    config = harness.official_config(family)
    assert (config.widths, config.latent_channels, config.norm_groups) == ((128, 256, 512, 512), channels, 32)
    narrow = harness.official_config(family, width=8)
    assert (narrow.widths, narrow.norm_groups) == ((8, 16, 32, 32), 8)
    build_model(narrow)


def test_a_random_model_is_seeded_leaves_the_generator_alone_and_has_no_silent_path() -> None:
    config = harness.mini_config(4, widths=(8, 8, 8))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model, again = harness.random_model(config, "a"), harness.random_model(config, "b")
    assert torch.equal(torch.rand(1), expected)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.ndim == 1 or bool(one.any())


def test_timing_repeats_until_its_budget_is_spent() -> None:
    calls: list[None] = []
    assert len(harness.timed(lambda: calls.append(None), repeats=3)) == 3
    assert len(harness.timed(lambda: calls.append(None), repeats=3, budget_s=0.0)) == 1
    assert len(calls) == 4


def test_sizes_and_lists_are_parsed_and_refused() -> None:
    assert harness.list_argument(harness.size_argument)("64x48, 1280x720,") == [(64, 48), (1280, 720)]
    for text in ("64", "0x8", "64x48x2", "axb"):
        with pytest.raises(argparse.ArgumentTypeError):
            harness.size_argument(text)


def test_an_error_of_ours_becomes_one_line_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise InputError("no such clip")

    assert harness.run_program(fail) == InputError.exit_code
    assert capsys.readouterr().err == "cvcodec: error: no such clip\n"
