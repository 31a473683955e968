"""VideoCrafter2 or TextToVideoSD with a CV-VAE: 16 latents of a text, decoded to 61 frames (Table 5).

    python benchmarks/generators/text_to_video.py --pipeline text-to-video/ --vae hf://AILab-CVC/CV-VAE/vae3d_v1-1 \\
        --prompt "a fox runs through the snow" --size 512x320 --output fox.mp4 fox.cvl

Any pipeline does whose latents are (B, C, t, h, w) and in SD's space: TextToVideoSD's, and AnimateDiff's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fractions import Fraction

from recipes import (
    add_text_arguments,
    add_video_arguments,
    asked_of,
    check_outputs,
    generating_parser,
    load_pipeline,
    program,
    write_video,
)

RATE = 8
"""Frames per second of what the models were taught."""


def main(words: Sequence[str] | None = None) -> int:
    """The program."""
    made = generating_parser(__doc__ or "")
    add_text_arguments(made)
    add_video_arguments(made, latents=16)
    return program(made, words, generate)


def generate(arguments: argparse.Namespace) -> None:
    """Load, generate, write."""
    check_outputs(arguments.output, pictures=True, overwrite=arguments.overwrite)
    pipeline = load_pipeline(arguments, takes=("prompt", "num_frames"))
    latents = pipeline(num_frames=arguments.latents, **asked_of(arguments)).frames
    write_video(latents, pipeline, arguments, target="videocrafter2", taught_rate=Fraction(RATE))


if __name__ == "__main__":
    sys.exit(main())
