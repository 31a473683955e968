"""Tune the last layer of a generator's U-Net, and nothing else, on cached latents of a CV-VAE (paper, section 4.3).

    cvcodec batch clips/ --out latents/ --latents fp16 --weights vae3d_v1-1
    python benchmarks/generators/tune_output_layer.py --pipeline svd-xt/ --vae hf://AILab-CVC/CV-VAE/vae3d_v1-1 \\
        --data latents/ --latents 25 --steps 5000 --output tuned/
    python benchmarks/generators/image_to_video.py ... --output-layer tuned/conv_out.safetensors

The layer is a convolution of 11 524 numbers, kept in fp32 whatever the precision of the rest. A run that was stopped
goes on with `--resume` to the same layer, bit for bit on the same machine.
Owns: which data, the loop, its files. Does not know: noise, targets, conditioning (`denoising`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader

import cvcodec
from cvcodec.cli import report
from cvcodec.dataset import IterableLatentDataset, LatentDataset
from cvcodec.dataset.buckets import BucketSampler
from cvcodec.dataset.exporting import check_target
from cvcodec.dataset.keys import torch_generator
from cvcodec.dataset.shards import SHARDS_NAME, read_samples
from cvcodec.dataset.targets import TARGETS, Target
from cvcodec.errors import InputError, NumericalError, OutputError, UsageError
from cvcodec.fileio import atomic_output, make_folder
from denoising import Objective, objective_of
from recipes import OUTPUT_LAYER, load_pipeline, parser, program, put_output_layer, read_tensors

LAYER, STATE, LOG = "conv_out.safetensors", "state.safetensors", "log.jsonl"
"""Files of a run: the layer for `--output-layer`, what `--resume` needs besides, a line for each report."""
_MOMENTS = ("exp_avg", "exp_avg_sq")


def main(words: Sequence[str] | None = None) -> int:
    """The program."""
    made = parser(__doc__ or "")
    add = made.add_argument
    add("--data", type=Path, required=True, metavar="FOLDER", help="of `batch`, or shards of `export --for` the model")
    add("--output", type=Path, required=True, metavar="FOLDER", help="where the layer, the state and the log go")
    add("--latents", type=int, metavar="N", help="of each clip, from its first (default: 25 for SVD, 16, 1 for images)")
    add("--caption", metavar="COLUMN", help="the manifest's column of captions (default: none, texts are empty)")
    add("--steps", type=int, default=5000, metavar="N", help="(default: 5000)")
    add("--batch", type=int, default=1, metavar="N", help="clips a step (default: 1)")
    add("--rate", type=float, default=1e-5, metavar="X", help="learning rate, constant (default: 1e-5)")
    add("--drop", type=float, default=0.1, metavar="P", help="how often nothing is told (default: 0.1)")
    add("--fps", type=int, default=7, help="SVD: what it is told of the rate (default: 7)")
    add("--motion", type=int, default=127, help="SVD: its motion bucket (default: 127)")
    add("--sigma", type=float, nargs=2, default=(0.7, 1.6), metavar=("MEAN", "STD"), help="SVD: of log sigma")
    add("--use-scale", type=float, metavar="X", help="VideoCrafter2: its factor of late latents, 0.7")
    add("--every", type=int, default=100, metavar="N", help="steps between reports and checkpoints (default: 100)")
    add("--workers", type=int, default=0, metavar="N", help="processes that read latents (default: 0)")
    add("--resume", action="store_true", help="go on with the run in the folder")
    return program(made, words, tune)


def tune(arguments: argparse.Namespace) -> None:
    """Load, train, write."""
    for name, least in (("steps", 1), ("batch", 1), ("every", 1), ("workers", 0)):
        if getattr(arguments, name) < least:
            raise UsageError(f"--{name} {getattr(arguments, name)}: wanted at least {least}")
    run = Run(arguments.output)
    run.check(resume=arguments.resume, overwrite=arguments.overwrite)
    pipeline = load_pipeline(arguments, takes=())
    objective = objective_of(
        pipeline,
        drop=arguments.drop,
        scale=arguments.use_scale,
        fps=arguments.fps,
        motion=arguments.motion,
        mean=arguments.sigma[0],
        std=arguments.sigma[1],
    )
    layer = only_output_layer(pipeline.unet)
    optimizer = torch.optim.AdamW(layer, lr=arguments.rate)
    done = run.read(pipeline.unet, optimizer) if arguments.resume else 0
    batches = batches_of(arguments, objective, start=done)
    train(pipeline.unet, objective, optimizer, batches, run, arguments, done=done)


def only_output_layer(unet: Any) -> list[torch.nn.Parameter]:
    """Freeze all but the last layer, which computes in fp32: a step of 1e-5 is lost in bf16's eight bits."""
    unet.requires_grad_(False).eval()
    layer = unet.conv_out.float().requires_grad_(True)
    layer.register_forward_pre_hook(lambda _, inputs: tuple(each.float() for each in inputs))
    return list(layer.parameters())


def train(
    unet: Any,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[Tensor, Sequence[str]]],
    run: Run,
    arguments: argparse.Namespace,
    *,
    done: int,
) -> None:
    """The loop. Noise is drawn for the number of a step, so that a run that goes on draws what it would have drawn.

    NumericalError for a loss that is not finite.
    """
    losses: list[float] = []
    begun = time.monotonic()
    for step in range(done, arguments.steps):
        latents, captions = next(batches)
        latents = latents.to(next(iter(optimizer.param_groups[0]["params"])).device)
        loss = objective.loss(latents, captions, torch_generator(arguments.seed, "tuning", step))
        losses.append(float(loss.detach()))
        if not loss.isfinite():
            raise NumericalError(
                f"the loss of step {step} is {losses[-1]}; use --precision bf16 or fp32, or a lower --rate"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % arguments.every == 0 or step + 1 == arguments.steps:
            mean = sum(losses) / len(losses)
            run.write(unet, optimizer, step + 1, mean)
            pace = (time.monotonic() - begun) / (step + 1 - done)
            report.note(f"step {step + 1} of {arguments.steps}: loss {mean:.4f}, {pace:.2f} s a step")
            losses.clear()


# ---------------------------------------------------------------------------------------------------- data


def batches_of(
    arguments: argparse.Namespace, objective: Objective, *, start: int
) -> Iterator[tuple[Tensor, Sequence[str]]]:
    """Batches for ever, from that of step `start` on: scaled latents (B, C, n, h, w), and captions.

    UsageError for latents of another model than the pipeline's, or as long as no U-Net of its kind takes them.
    """
    length = arguments.latents or {"svd": 25, "sd21": 1}.get(objective.target, 16)
    if objective.target == "sd21" and length != 1:
        raise UsageError(f"--latents {length}: a U-Net for pictures learns from single latents")
    if arguments.caption is None and objective.target != "svd":
        report.note("without --caption all texts are empty: what is tuned is generation without guidance")
    asked: dict[str, Any] = {
        "latents": length,
        "start": "first",
        "seed": arguments.seed,
        "columns": [] if arguments.caption is None else [arguments.caption],
    }
    source: Path = arguments.data
    shards = source.suffix == ".tar" or (source / SHARDS_NAME).exists() or any(source.glob("*.tar"))
    read = _of_shards if shards else _of_files
    for batch in islice(read(arguments, TARGETS[objective.target], asked), start, None):
        yield batch["latents"], batch.get(arguments.caption, [""] * len(batch["latents"]))


def _of_files(arguments: argparse.Namespace, target: Target, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    clips = LatentDataset(arguments.data, scaled=True, **asked)
    with cvcodec.open(clips.folder / clips.records[0]["path"]) as file:
        check_target(file.header, target, str(arguments.data))
    sampler = BucketSampler(clips, arguments.batch, seed=arguments.seed)
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield from DataLoader(clips, batch_sampler=sampler, num_workers=arguments.workers)


def _of_shards(arguments: argparse.Namespace, target: Target, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    clips = IterableLatentDataset(arguments.data, batch_size=arguments.batch, endless=True, **asked)
    exported_for = next(iter(read_samples(clips.shards[0]))).description.get("target")
    if exported_for != target.name:
        raise UsageError(
            f"{arguments.data} was exported for {exported_for}; wanted `cvcodec export --for {target.name}`"
        )
    yield from DataLoader(clips, batch_size=None, num_workers=arguments.workers)


# ---------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class Run:
    """The folder of a run."""

    folder: Path

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """OutputError where a run lies that is neither to go on nor to be overwritten; InputError where none does that
        should go on."""
        there = (self.folder / STATE).exists()
        if there and not (resume or overwrite):
            raise OutputError(f"{self.folder} holds a run; go on with --resume, or overwrite it with -y")
        if resume and not there:
            raise InputError(f"{self.folder} holds no run to go on with; leave out --resume")
        make_folder(self.folder)
        if not resume:
            for name in (STATE, LAYER, LOG):
                (self.folder / name).unlink(missing_ok=True)

    def write(self, unet: Any, optimizer: torch.optim.Optimizer, step: int, loss: float) -> None:
        """The layer, what a resumed run needs, and a line of the log; each file whole or not at all."""
        layer = {name: unet.get_parameter(name).detach().cpu().contiguous() for name in OUTPUT_LAYER}
        state = {"step": torch.tensor(step), **layer}
        for name in OUTPUT_LAYER:
            moments = optimizer.state[unet.get_parameter(name)]
            state |= {f"{name}.{moment}": moments[moment].cpu().contiguous() for moment in _MOMENTS}
        for file, tensors in ((STATE, state), (LAYER, layer)):
            with atomic_output(self.folder / file, overwrite=True) as sink:
                sink.write(save(tensors, {"step": str(step)}))
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": step, "loss": round(loss, 6)}) + "\n")

    def read(self, unet: Any, optimizer: torch.optim.Optimizer) -> int:
        """The state into U-Net and optimiser; how many steps are done. InputError for a state of another U-Net."""
        path = self.folder / STATE
        tensors = read_tensors(path)
        wanted = {"step", *OUTPUT_LAYER, *(f"{name}.{moment}" for name in OUTPUT_LAYER for moment in _MOMENTS)}
        if tensors.keys() != wanted:
            raise InputError(f"{path} is no state of this program; start anew with -y")
        put_output_layer(unet, {name: tensors[name] for name in OUTPUT_LAYER}, path)
        step = int(tensors["step"])
        for name in OUTPUT_LAYER:
            parameter = unet.get_parameter(name)
            moments = {moment: tensors[f"{name}.{moment}"].to(parameter.device) for moment in _MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
        return step


if __name__ == "__main__":
    sys.exit(main())
