"""Stable Video Diffusion with a CV-VAE: 25 latents from a picture, decoded to 97 frames (Table 3).

    python benchmarks/generators/image_to_video.py --pipeline svd-xt/ --vae hf://AILab-CVC/CV-VAE/vae3d_v1-1 \\
        --image fox.png --output fox.mp4 fox.cvl

`--mode image` decodes each latent as one frame (CV-VAE-I in the table). The picture that SVD starts from is encoded by
the same VAE, as one frame.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from cvcodec.video import VideoReader
from recipes import add_video_arguments, asked_of, check_outputs, generating_parser, load_pipeline, program, write_video


def main(words: Sequence[str] | None = None) -> int:
    """The program."""
    made = generating_parser(__doc__ or "")
    made.add_argument("--image", required=True, metavar="FILE", help="a picture, or a video whose first frame is taken")
    made.add_argument("--fps", type=int, default=7, help="what SVD is told of the rate (default: 7)")
    made.add_argument("--motion", type=int, default=127, help="SVD's motion bucket, 0 to 255 (default: 127)")
    made.add_argument("--noise", type=float, default=0.02, help="that the picture gets (default: 0.02)")
    add_video_arguments(made, latents=25)
    return program(made, words, generate)


def generate(arguments: argparse.Namespace) -> None:
    """Load, generate, write."""
    check_outputs(arguments.output, pictures=True, overwrite=arguments.overwrite)
    image = first_picture(arguments.image)
    pipeline = load_pipeline(arguments, takes=("image", "num_frames", "motion_bucket_id"))
    latents = pipeline(
        image,
        num_frames=arguments.latents,
        fps=arguments.fps,
        motion_bucket_id=arguments.motion,
        noise_aug_strength=arguments.noise,
        **asked_of(arguments),
    ).frames
    write_video(latents, pipeline, arguments, target="svd", taught_rate=Fraction(arguments.fps))


def first_picture(source: str | Path) -> Any:
    """As Pillow's image, which pipelines resize themselves. InputError for what cannot be read."""
    from PIL import Image

    with VideoReader(source, frames=1) as reader:
        return Image.fromarray(next(iter(reader)).pixels)


if __name__ == "__main__":
    sys.exit(main())
