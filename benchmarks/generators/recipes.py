"""What the recipes share: a pipeline of diffusers with a VAE of ours in it, and the files made of what it generates.

A recipe has the pipeline stop at its latents. They become a .cvl file, as `cvcodec import` makes one, and that decodes
in windows, so that 97 frames of 1024x576 need no more memory than any other video.
Owns: options of all recipes, loading, latents -> .cvl, videos, pictures. Does not know: what a pipeline is asked for.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))

from cvcodec.checkpoints.checkpoint import first_line
from cvcodec.codec import DecodeOptions, decode_file
from cvcodec.codec.decode import check_sequence, is_image_sequence
from cvcodec.dataset.importing import ImportOptions, import_latents
from cvcodec.dataset.targets import Mode, TargetName
from cvcodec.errors import InputError, MissingDependencyError, OutputError, UsageError
from cvcodec.fileio import check_output
from cvcodec.integrations.diffusers import DiffusersVAE
from cvcodec.system.device import dtype_of, select_device, select_precision, set_threads
from cvcodec.video.writer import IMAGE_CONTAINERS, container_for
from harness import add_machine_arguments, run_program, size_argument

OUTPUT_LAYER = ("conv_out.weight", "conv_out.bias")
"""Tensors of a U-Net's last layer, which `tune_output_layer` tunes and `--output-layer` puts in."""


def parser(description: str) -> argparse.ArgumentParser:
    """With what every program here takes: the pipeline, the VAE, where to compute."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--pipeline", required=True, metavar="FOLDER|OWNER/REPO", help="a pipeline of diffusers")
    made.add_argument(
        "--vae",
        metavar="NAME|PATH|hf://...",
        help="CV-VAE weights of the pipeline's latent space, such as hf://AILab-CVC/CV-VAE/vae3d_v1-1; "
        "needless where the pipeline was saved with one",
    )
    made.add_argument("--variant", help="of the pipeline's weights, such as fp16")
    made.add_argument("--seed", type=int, default=0, help="the same seed gives the same (default: 0)")
    made.add_argument("-y", "--overwrite", action="store_true", help="overwrite what exists")
    add_machine_arguments(made)
    return made


def generating_parser(description: str) -> argparse.ArgumentParser:
    """With what every recipe takes, too."""
    made = parser(description)
    made.add_argument(
        "--output",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="any of: a .cvl of the latents, a video (.mp4, .mkv, ...), a picture or pictures (out/%%02d.png)",
    )
    made.add_argument("--size", type=size_argument, metavar="WxH", help="of the pictures (default: the pipeline's)")
    made.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the pipeline's)")
    made.add_argument(
        "--output-layer", type=Path, metavar="FILE", help="what tune_output_layer.py wrote for this pipeline"
    )
    made.add_argument("--offload", action="store_true", help="keep models that wait in the CPU's memory")
    made.add_argument("--save", type=Path, metavar="FOLDER", help="save the pipeline, its VAE and output layer, too")
    return made


def add_text_arguments(made: argparse.ArgumentParser) -> None:
    """What recipes take that begin with a text."""
    made.add_argument("--prompt", required=True, help="what to show")
    made.add_argument("--negative-prompt", help="what not to show")
    made.add_argument("--guidance", type=float, metavar="X", help="of the text (default: the pipeline's)")


def add_video_arguments(made: argparse.ArgumentParser, *, latents: int) -> None:
    """What recipes for video take. latents: how many, if nothing else is said."""
    made.add_argument("--latents", type=int, default=latents, metavar="N", help=f"in time (default: {latents})")
    made.add_argument(
        "--mode",
        choices=("video", "image"),
        default="video",
        help="video: N latents are 4N-3 frames; image: a frame each (default: video)",
    )
    made.add_argument(
        "--rate",
        type=rate_argument,
        metavar="N",
        help="frames per second of the video (default: what keeps the speed that the model was taught)",
    )


def program(
    made: argparse.ArgumentParser, words: Sequence[str] | None, work: Callable[[argparse.Namespace], None]
) -> int:
    """The exit code of `work` with the arguments that the words, or the command line, give."""
    arguments = made.parse_args(words)

    def done() -> int:
        work(arguments)
        return 0

    return run_program(done)


def rate_argument(text: str) -> Fraction:
    """`24` or `30000/1001`, for argparse."""
    rate = Fraction(text) if re.fullmatch(r"\d+(\.\d+|/\d+)?", text) and not re.search("/0+$", text) else Fraction(0)
    if not 0 < rate <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no frame rate; wanted a number such as 24 or 30000/1001")
    return rate


def load_pipeline(arguments: argparse.Namespace, *, takes: Sequence[str]) -> Any:
    """The pipeline with the VAE in it, on its device, in its precision; the VAE stays in fp32.

    takes: what the call of a pipeline of the right kind takes. UsageError for one of another kind, and without a VAE of
    ours; InputError for what cannot be loaded; MissingDependencyError.
    """
    diffusers = _diffusers()
    set_threads(arguments.threads)
    device = select_device(arguments.device)
    dtype = dtype_of(select_precision(arguments.precision, device))
    given = {} if arguments.vae is None else {"vae": DiffusersVAE.from_pretrained(arguments.vae)}
    log = diffusers.utils.logging
    verbosity = log.get_verbosity()
    log.set_verbosity_error()  # else it warns that the VAE is not the class that the pipeline was published with
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            arguments.pipeline, dtype={"default": dtype, "vae": torch.float32}, variant=arguments.variant, **given
        )
    except (OSError, ValueError) as error:
        what = f"{arguments.pipeline} cannot be loaded as a pipeline of diffusers"
        raise InputError(f"{what}: {first_line(error)}") from error
    finally:
        log.set_verbosity(verbosity)
    kind = type(pipeline).__name__
    missing = [name for name in takes if name not in inspect.signature(pipeline.__call__).parameters]
    if missing:
        raise UsageError(f"{arguments.pipeline} is a {kind}, which takes no {' and no '.join(missing)}; see --help")
    if not isinstance(pipeline.vae, DiffusersVAE):
        raise UsageError(
            f"the VAE of {arguments.pipeline} is a {type(pipeline.vae).__name__}; name a CV-VAE with --vae"
        )
    pipeline.vae.requires_grad_(False)
    if getattr(arguments, "output_layer", None) is not None:
        put_output_layer(pipeline.unet, read_tensors(arguments.output_layer), arguments.output_layer)
    if getattr(arguments, "save", None) is not None:
        save_pipeline(pipeline, arguments.save, overwrite=arguments.overwrite)
    if getattr(arguments, "offload", False) and device.type != "cpu":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    return pipeline


def save_pipeline(pipeline: Any, folder: Path, *, overwrite: bool) -> None:
    """For `--pipeline` without `--vae`. OutputError for a folder that holds something, without `overwrite`."""
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise OutputError(f"{folder} is not empty; use -y to overwrite what is in it")
    try:
        pipeline.save_pretrained(folder)
    except OSError as error:
        raise OutputError(f"{folder}: the pipeline cannot be saved: {error.strerror or error}") from error


def put_output_layer(unet: Any, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Tuned weights, read from `file`, into a U-Net. InputError for those of another one."""
    own = {name: unet.get_parameter(name) for name in OUTPUT_LAYER}
    found, wanted = ({name: tuple(each.shape) for name, each in layer.items()} for layer in (tensors, own))
    if found != wanted:
        raise InputError(f"{file} holds {found}, the output layer of this U-Net is {wanted}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """A safetensors file. InputError for what is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} cannot be read as .safetensors: {first_line(error)}") from error


def asked_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a pipeline is called with: latents are wanted, from this seed, and what else was said."""
    asked: dict[str, Any] = {"output_type": "latent", "generator": torch.Generator().manual_seed(arguments.seed)}
    if arguments.size is not None:
        asked["width"], asked["height"] = arguments.size
    names = {
        "prompt": "prompt",
        "negative_prompt": "negative_prompt",
        "guidance": "guidance_scale",
        "steps": "num_inference_steps",
    }
    given = {theirs: getattr(arguments, ours, None) for ours, theirs in names.items()}
    return asked | {name: value for name, value in given.items() if value is not None}


def check_outputs(outputs: Sequence[Path], *, pictures: bool, overwrite: bool) -> None:
    """Before hours of generation: OutputError for what exists or has no known format, UsageError for one name for many
    pictures. pictures: whether several are to be written."""
    for output in outputs:
        decoded = output.suffix != ".cvl"
        if decoded and is_image_sequence(output):
            check_sequence(output, overwrite=overwrite)
            continue
        check_output(output, overwrite=overwrite)
        if decoded and container_for(output) in IMAGE_CONTAINERS and pictures:
            raise UsageError(f"{output} is one picture for many; number them: {output.with_stem(output.stem + '%02d')}")
    if sum(output.suffix == ".cvl" for output in outputs) > 1:
        raise UsageError("one .cvl file is enough, its copies would be the same")


def write_video(
    latents: Tensor, pipeline: Any, arguments: argparse.Namespace, *, target: TargetName, taught_rate: Fraction
) -> None:
    """`write_outputs` of a video. taught_rate: latents per second that the pipeline's motion is meant for."""
    frames = pipeline.vae.temporal_compression_ratio if arguments.mode == "video" else 1
    rate = arguments.rate or taught_rate * frames
    write_outputs(latents, pipeline, arguments, target=target, mode=arguments.mode, rate=rate)


def write_outputs(
    latents: Tensor,
    pipeline: Any,
    arguments: argparse.Namespace,
    *,
    target: TargetName,
    mode: Mode,
    rate: Fraction | None = None,
) -> None:
    """What a pipeline gave, as a file of each kind that was asked for. rate: frames per second of the video."""
    model = pipeline.vae.model
    options = ImportOptions(target=target, mode=mode, rate=rate)
    decode = DecodeOptions(device=arguments.device, precision=arguments.precision, threads=arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "latents.npy"
        np.save(raw, latents.float().cpu().numpy())
        kept = [output for output in arguments.output if output.suffix == ".cvl"]
        file = kept[0] if kept else Path(folder) / "generated.cvl"
        import_latents(raw, file, model=model, options=options, overwrite=arguments.overwrite)
        for output in arguments.output:
            if output.suffix != ".cvl":
                decode_file(file, output, model=model, options=decode, overwrite=arguments.overwrite)


def _diffusers() -> Any:
    """The library, which needs transformers for all these pipelines."""
    try:
        import diffusers
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"{error.name} is not installed; pip install 'cvcodec[generators]'") from error
    return diffusers
