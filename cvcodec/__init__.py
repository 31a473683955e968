"""cvcodec: a neural video codec and latent cache built on CV-VAE (Zhao et al., NeurIPS 2024, arXiv 2405.20279).

    model = cvcodec.load_model("cvvae-mini-z16")   a model: .encode(pixels) -> posterior, .decode(latent) -> pixels
    cvcodec.encode_file("in.mp4", "out.cvl", model=model)  or encode_array(frames, "out.cvl", fps=24)
    cvcodec.decode_file("out.cvl", "back.mp4", model=model) or decode_array("out.cvl") -> (T, H, W, 3)
    cvcodec.batch("clips/", "latents/", latents="fp16")    a data set of many videos
    cvcodec.export("out.cvl", "svd.safetensors", target="svd") and import_latents, the way back
    with cvcodec.open("out.cvl") as file:          random access: .header, .latents[t0:t1], .frames[t0:t1]

Errors that a user can cause or repair derive from `cvcodec.CvcodecError`. Names are imported when first used, so that
`import cvcodec` imports neither torch nor PyAV.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from cvcodec.errors import CvcodecError

if TYPE_CHECKING:
    import os

    from cvcodec.checkpoints.registry import list_models, load_model
    from cvcodec.codec import (
        DecodeOptions,
        EncodeOptions,
        LatentFile,
        ReaderOptions,
        WriterOptions,
        decode_file,
        encode_file,
    )
    from cvcodec.codec.arrays import decode_array, encode_array
    from cvcodec.dataset.cutting_options import Cutting
    from cvcodec.dataset.exporting import export
    from cvcodec.dataset.importing import ImportOptions, import_latents
    from cvcodec.dataset.run import batch
    from cvcodec.model.base import VideoAutoencoder
    from cvcodec.quality.compare import evaluate

__version__ = "0.1.0"

__all__ = [
    "Cutting",
    "CvcodecError",
    "DecodeOptions",
    "EncodeOptions",
    "ImportOptions",
    "LatentFile",
    "ReaderOptions",
    "WriterOptions",
    "__version__",
    "batch",
    "decode_array",
    "decode_file",
    "encode_array",
    "encode_file",
    "evaluate",
    "export",
    "import_latents",
    "list_models",
    "load_model",
    "open",
]

_HOMES = {
    "Cutting": "cvcodec.dataset.cutting_options",
    "DecodeOptions": "cvcodec.codec",
    "EncodeOptions": "cvcodec.codec",
    "ImportOptions": "cvcodec.dataset.importing",
    "LatentFile": "cvcodec.codec",
    "ReaderOptions": "cvcodec.codec",
    "WriterOptions": "cvcodec.codec",
    "batch": "cvcodec.dataset.run",
    "decode_array": "cvcodec.codec.arrays",
    "decode_file": "cvcodec.codec",
    "encode_array": "cvcodec.codec.arrays",
    "encode_file": "cvcodec.codec",
    "evaluate": "cvcodec.quality.compare",
    "export": "cvcodec.dataset.exporting",
    "import_latents": "cvcodec.dataset.importing",
    "list_models": "cvcodec.checkpoints.registry",
    "load_model": "cvcodec.checkpoints.registry",
}
"""Which module each lazily imported name lives in; the TYPE_CHECKING imports above say the same to type checkers."""


def open(
    path: str | os.PathLike[str],
    *,
    model: VideoAutoencoder | str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> LatentFile:
    """Open a .cvl file for random access: `.header`, `.latents[t0:t1]`, `.frames[t0:t1]`.

    model: what turns latents into frames: a loaded model, a name or a weights file; None for the model the file names.
    It is loaded when frames are first asked for; latents need none. Raises InputError or BitstreamError, and
    UsageError for what cannot seek.
    """
    from cvcodec.codec.latent_file import open_latents

    return open_latents(path, model=model, device=device, precision=precision)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
