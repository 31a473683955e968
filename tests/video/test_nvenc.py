"""Encoders of NVIDIA cards: how they are asked, and what is said where there is no card."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from cvcodec.errors import OutputError
from cvcodec.video import Frame, VideoWriter
from cvcodec.video.encoders import encoder_named, encoder_options


@pytest.mark.parametrize("name", ["h264_nvenc", "hevc_nvenc"])
def test_quality_and_preset_go_by_the_names_of_nvenc(name: str) -> None:
    options = encoder_options(
        encoder_named(name), crf=23, preset="p7", mastering_display=None, content_light=None, notices=[]
    )
    # Constant quality, as `ffmpeg -h encoder=h264_nvenc` describes it: variable rate, no target, cq.
    assert options == {"rc": "vbr", "b": "0", "cq": "23", "preset": "p7"}


@pytest.mark.parametrize("name", ["h264_nvenc", "hevc_nvenc"])
def test_without_a_card_the_way_out_is_named(name: str, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    with pytest.raises(OutputError, match=rf"{name} cannot encode .*needs an NVIDIA card.*use libx264"):
        with VideoWriter(tmp_path / "a.mp4", width=256, height=256, time_base=Fraction(1, 25), codec=name) as writer:
            writer.write(Frame(pixels=np.zeros((256, 256, 3), np.uint8), pts=0, duration=1))
