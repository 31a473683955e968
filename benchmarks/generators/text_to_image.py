"""Stable Diffusion 2.1 (1.5, ...) with a CV-VAE: pictures of a text, each latent decoded as one frame (Table 2).

    python benchmarks/generators/text_to_image.py --pipeline sd21/ --vae hf://AILab-CVC/CV-VAE/vae3d_v1-1 \\
        --prompt "a fox in the snow" --output fox.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from recipes import (
    add_text_arguments,
    asked_of,
    check_outputs,
    generating_parser,
    load_pipeline,
    program,
    write_outputs,
)


def main(words: Sequence[str] | None = None) -> int:
    """The program."""
    made = generating_parser(__doc__ or "")
    add_text_arguments(made)
    made.add_argument("--count", type=int, default=1, metavar="N", help="pictures (default: 1)")
    return program(made, words, generate)


def generate(arguments: argparse.Namespace) -> None:
    """Load, generate, write."""
    check_outputs(arguments.output, pictures=arguments.count > 1, overwrite=arguments.overwrite)
    pipeline = load_pipeline(arguments, takes=("prompt", "num_images_per_prompt"))
    latents = pipeline(num_images_per_prompt=arguments.count, **asked_of(arguments)).images
    write_outputs(latents, pipeline, arguments, target="sd21", mode="image")


if __name__ == "__main__":
    sys.exit(main())
