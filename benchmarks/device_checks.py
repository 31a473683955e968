"""`python benchmarks/device_checks.py`: does a device compute what the CPU computes, and survive running out of memory?

Owns: the checks, their inputs and their limits. A line of JSON for each; the tests in tests/gpu, which `make gpu-check`
runs, are the same checks one by one.

The reference is always the same model on the CPU in fp32. Limits of differences are relative to the largest magnitude
of the reference, at least 1. Their reasons, measured on CPUs: two sets of fp32 kernels differ by 1e-5, and rounding the
inputs of every convolution to TF32's 10 bits of mantissa, which fp32 must not do, gives 1.3e-4 and more. With the range
of the reference as peak, PSNR was 45 dB and more in bf16, 66 dB and more in fp16.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import functools
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import harness
from cvcodec.bench.machine import machine_facts
from cvcodec.checkpoints import registry
from cvcodec.cli import report
from cvcodec.codec import EncodeOptions, LatentFile, encode_file
from cvcodec.codec.runner import ModelRunner
from cvcodec.errors import DeviceError
from cvcodec.model import ModelConfig, VideoAutoencoder
from cvcodec.model.base import Posterior
from cvcodec.system.device import release_memory, select_device, select_precision, set_threads
from cvcodec.windows.plan import ContextPlan, OfficialPlan, Plan
from cvcodec.windows.specs import Tile, Window

PRECISIONS = ("fp32", "bf16", "fp16")
FAMILIES = ("cvvae", "cvvae-sd3")
"""Of the official models."""

FP32_LIMIT = 1e-4
PSNR_LIMITS_DB = {"bf16": 40.0, "fp16": 55.0}
CODE_LIMIT = 1.0  # code values by which a rounded pixel may differ when the float beneath lies at a rounding edge

DEPTH = 8  # bits of the code values of clips
_MEMORY_SHARES = (0.6, 0.45, 0.3)  # of what a whole clip takes: the first that makes it fail counts


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison of a value with its limit."""

    name: str
    model: str
    precision: str
    value: float
    limit: float
    unit: str
    at_least: bool = False
    """Whether the value must reach the limit, or stay within it."""
    note: str = ""

    @property
    def passed(self) -> bool:
        """False for NaN."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class Subject:
    """A model on the device in fp32, and what it gives on the CPU for one clip."""

    def __init__(self, model: VideoAutoencoder, device: torch.device) -> None:
        self.model, self.device = model, device
        self.name = model.name or model.config.family
        self.config: ModelConfig = model.config
        # Copies, because a runner moves the model it is given.
        self.cpu = ModelRunner(copy.deepcopy(model), device="cpu", precision="fp32")
        self.exact = self.runner("fp32")
        self.clip = harness.moving_clip(64, 48, 9)
        self.moments = self.cpu.encode(self.clip, DEPTH)
        self.latent = Posterior.from_moments(self.moments).mean
        self.pixels = self.cpu.decode(self.latent)

    def runner(self, precision: str, on_notice: Callable[[str], None] | None = None) -> ModelRunner:
        """The model on the device in a precision."""
        return ModelRunner(copy.deepcopy(self.model), device=self.device, precision=precision, on_notice=on_notice)

    def difference(self, name: str, result: Tensor, reference: Tensor, note: str = "") -> Check:
        """A check that `result`, from the device in fp32, equals `reference`."""
        result, reference = result.float().cpu(), reference.float().cpu()
        if result.shape != reference.shape:
            value, note = math.nan, f"shape {tuple(result.shape)}, wanted {tuple(reference.shape)}"
        else:
            value = float((result - reference).abs().max())
        limit = FP32_LIMIT * max(1.0, float(reference.abs().max()))
        return Check(name=name, model=self.name, precision="fp32", value=value, limit=limit, unit="max abs", note=note)


# ---------------------------------------------------------------------------------------------------- parity


def parity(subject: Subject, precision: str) -> list[Check]:
    """Encoder and decoder against the CPU in fp32: the largest difference in fp32, PSNR in reduced precisions."""
    if precision == "fp32":
        return [
            subject.difference("encode as on the CPU", subject.exact.encode(subject.clip, DEPTH), subject.moments),
            subject.difference("decode as on the CPU", subject.exact.decode(subject.latent), subject.pixels),
        ]
    notices: list[str] = []
    runner = subject.runner(precision, notices.append)
    mean = Posterior.from_moments(runner.encode(subject.clip, DEPTH)).mean
    pixels = runner.decode(subject.latent)
    return [
        Check(
            name=name,
            model=subject.name,
            precision=precision,
            value=_psnr(result, reference),
            limit=PSNR_LIMITS_DB[precision],
            unit="dB",
            at_least=True,
            note="; ".join(notices),
        )
        for name, result, reference in (
            ("encode as on the CPU", mean, subject.latent),
            ("decode as on the CPU", pixels, subject.pixels),
        )
    ]


def _psnr(result: Tensor, reference: Tensor) -> float:
    result, reference = result.double().cpu(), reference.double().cpu()
    error = float((result - reference).square().mean())
    span = float(reference.max() - reference.min())
    return math.inf if error == 0 else 10 * math.log10(span**2 / error)


# ---------------------------------------------------------------------------------------------------- windows, tiles


def windows(subject: Subject) -> list[Check]:
    """Windows and tiles on the device: equal to the whole clip for the mini models, to the CPU for official windows."""
    config = subject.config
    if config.uses_official_windows:
        return _official_windows(subject)
    if not config.is_local:
        return []
    factor, scale = (config.temporal_factor if config.is_video else 1), config.spatial_factor
    clip = harness.moving_clip(64, 48, factor * 10 + 1)
    windowed = ContextPlan(
        factor,
        scale,
        encode_window=Window(4, context_before=config.encode_context),
        decode_window=Window(4, context_before=config.decode_context, context_after=config.decode_context),
    )
    reach = spatial_reach(config)
    tile = Tile(2 * reach + 8, context=reach, blend=2)
    tiled = ContextPlan(
        factor,
        scale,
        encode_window=Window(64),
        decode_window=Window(64),
        encode_tile=tile,
        decode_tile=tile,
    )
    picture = harness.moving_clip((tile.size + 12) * scale, tile.size * scale, factor + 1)
    checks = []
    for what, plan, source in (("windows", windowed, clip), ("tiles", tiled, picture)):
        whole = Posterior.from_moments(subject.exact.encode(source, DEPTH)).mean
        pieces = encode_all(plan, subject.exact, source)
        checks.append(subject.difference(f"encode in {what} as whole", pieces, whole))
        pixels = subject.exact.decode(whole)
        checks.append(subject.difference(f"decode in {what} as whole", decode_all(plan, subject.exact, whole), pixels))
    return checks


def _official_windows(subject: Subject) -> list[Check]:
    plan = OfficialPlan.of(subject.config)
    plan = dataclasses.replace(plan, official=dataclasses.replace(plan.official, tile_pixels=64, tile_overlap=0.25))
    source = harness.moving_clip(96, 48, (plan.official.chunk_frames or 16) + 5)
    latent = encode_all(plan, subject.cpu, source)
    return [
        subject.difference("official encode as on the CPU", encode_all(plan, subject.exact, source), latent),
        subject.difference(
            "official decode as on the CPU",
            decode_all(plan, subject.exact, latent),
            decode_all(plan, subject.cpu, latent),
        ),
    ]


def spatial_reach(config: ModelConfig) -> int:
    """Latents on each side that a mini model's encoder or decoder can see: 3x3 convolutions, summed over its levels."""
    units = [config.patch_size << level for level in range(len(config.widths))]
    encoder = units[0] + units[-1] + sum(units[:-1])
    decoder = units[0] + units[-1]
    encoder += sum(2 * blocks * unit for blocks, unit in zip(config.encoder_blocks, units, strict=True))
    decoder += sum(2 * blocks * unit for blocks, unit in zip(config.decoder_blocks, units, strict=True))
    return -(-max(encoder, decoder) // config.spatial_factor) + 1  # a latent's own pixels are not centred on it


def encode_all(
    plan: Plan, runner: ModelRunner, clip: Tensor, on_backoff: Callable[[Plan], None] | None = None
) -> Tensor:
    """The latents of a clip of code values, by `plan`, on the CPU."""
    report = on_backoff or (lambda plan: None)
    pieces = plan.encode(
        lambda x: Posterior.from_moments(runner.encode(x, DEPTH)).mean, [clip], lambda plan, text: report(plan)
    )
    return torch.cat([piece.cpu() for piece in pieces], dim=2)


def decode_all(plan: Plan, runner: ModelRunner, latent: Tensor) -> Tensor:
    """The pixels of a latent, by `plan`, on the CPU."""
    total = latent.shape[2]
    pieces = plan.decode(runner.decode, lambda start, stop: latent[:, :, start:stop], (0, total), total)
    return torch.cat([piece.cpu() for piece in pieces], dim=2)


# ---------------------------------------------------------------------------------------------------- memory


def out_of_memory(subject: Subject) -> Check:
    """With too little memory for a whole clip, tiles are made smaller until it fits, and the result is what those tiles
    give on the CPU.
    """
    # Where memory is not measured, less will do.
    width, height = (512, 512) if subject.device.type == "cuda" else (256, 64)
    plan = _untiled(subject.config)
    clip = harness.moving_clip(width, height, subject.config.temporal_factor + 1 if subject.config.is_video else 2)
    needed = harness.peak_bytes(subject.device, lambda: subject.exact.encode(clip, DEPTH))
    used: list[Plan] = []
    for share in _MEMORY_SHARES:
        with _little_memory(subject.exact, needed, share, math.prod(clip.shape)) as limited:
            latent = encode_all(plan, limited, clip, used.append)
        if used:
            break
    if not used:
        return Check(
            name="smaller tiles when memory runs out",
            model=subject.name,
            precision="fp32",
            value=math.nan,
            limit=FP32_LIMIT,
            unit="max abs",
            note=f"memory did not run out at {_MEMORY_SHARES[-1]:.0%} of what the whole clip took",
        )
    reference = encode_all(used[-1], subject.cpu, clip)
    return subject.difference(
        "smaller tiles when memory runs out",
        latent,
        reference,
        f"tiles of {used[-1].tile_latents(encoding=True)} of {width // plan.spatial_factor} latents",
    )


def _untiled(config: ModelConfig) -> ContextPlan:
    factor = config.temporal_factor if config.is_video else 1
    return ContextPlan(factor, config.spatial_factor, encode_window=Window(64), decode_window=Window(64))


@contextlib.contextmanager
def _little_memory(runner: ModelRunner, needed: tuple[int, int], share: float, elements: int) -> Iterator[ModelRunner]:
    """`runner` with `share` of the memory that a clip of `elements` values took: limited in torch's allocator on CUDA;
    elsewhere a runner that reports what running out looks like.
    """
    device = runner.device
    if device.type == "cuda":
        before, peak = needed
        total = torch.cuda.get_device_properties(device).total_memory
        release_memory(device)
        torch.cuda.set_per_process_memory_fraction(min(1.0, (before + share * (peak - before)) / total), device)
        try:
            yield runner
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    else:
        yield _ScarceRunner(runner, round(share * elements))


class _ScarceRunner(ModelRunner):
    """Runs `other`, but no more than `elements` input values at a time. For devices whose memory cannot be limited."""

    def __init__(self, other: ModelRunner, elements: int) -> None:
        super().__init__(other.model, device=other.device, precision=other.precision)
        self._other, self._elements = other, elements

    def encode(self, frames: Tensor, bit_depth: int) -> Tensor:
        """See ModelRunner. OutOfMemoryError beyond the limit."""
        if frames.numel() > self._elements:
            raise torch.OutOfMemoryError("out of memory (pretended, to see what happens)")
        return self._other.encode(frames, bit_depth)


# ---------------------------------------------------------------------------------------------------- files


def file_round_trip(subject: Subject) -> Check:
    """A file encoded on the device decodes to the same pictures on the device and on the CPU, up to rounding."""
    with tempfile.TemporaryDirectory(prefix="cvcodec-gpu-check-") as name:
        source, coded = Path(name) / "clip.mp4", Path(name) / "clip.cvl"
        harness.write_clip(source, 64, 48, 23)
        options = EncodeOptions(device=str(subject.device), precision="fp32")
        encode_file(source, coded, model=copy.deepcopy(subject.model), options=options)
        pictures = []
        for device in (str(subject.device), "cpu"):
            with LatentFile(coded, model=copy.deepcopy(subject.model), device=device, precision="fp32") as file:
                pictures.append(file.frames[:].astype(np.int32))
    return Check(
        name="a file decodes as on the CPU",
        model=subject.name,
        precision="fp32",
        value=float(np.abs(pictures[0] - pictures[1]).max()) if len(pictures[0]) == 23 else math.nan,
        limit=CODE_LIMIT,
        unit="code values",
    )


# ---------------------------------------------------------------------------------------------------- all of them


def gpu() -> torch.device:
    """CUDA, else MPS. Raises DeviceError where there is neither."""
    if torch.cuda.is_available():
        return select_device("cuda")
    if torch.backends.mps.is_available():
        return select_device("mps")
    reason = "this build of torch has no CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
    raise DeviceError(f"no CUDA or MPS device here ({reason}); --device cpu runs the same checks on the CPU")


def small_official(family: str, width: int = 32) -> VideoAutoencoder:
    """An official architecture with random weights, as narrow as its 32 norm groups allow."""
    return harness.random_model(harness.official_config(family, width=width), f"{family}-small-random")


def every_check(model: VideoAutoencoder, device: torch.device, precisions: Sequence[str]) -> Iterator[Check]:
    """All checks of a model. One that raises has failed, and its message is the check's note."""
    subject = Subject(model, device)
    work: list[tuple[str, str, Callable[[], list[Check]]]] = [
        ("as on the CPU", precision, functools.partial(parity, subject, precision)) for precision in precisions
    ]
    work += [
        ("windows and tiles", "fp32", lambda: windows(subject)),
        ("memory", "fp32", lambda: [out_of_memory(subject)]),
        ("files", "fp32", lambda: [file_round_trip(subject)]),
    ]
    for name, precision, attempt in work:
        try:
            yield from attempt()
        except (RuntimeError, DeviceError) as error:
            note = f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"
            yield Check(
                name=name, model=subject.name, precision=precision, value=math.nan, limit=0.0, unit="", note=note
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks; the exit code is 1 where one has failed."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/device_checks.py",
        description="Parity with the CPU, windows and tiles, running out of memory, files: a JSON line for each check.",
    )
    add = parser.add_argument
    add("--device", default="auto", help="cuda, cuda:N, mps or cpu (default: the GPU)")
    add("--models", type=harness.list_argument(str), metavar="NAME,...", help="default: all bundled ones")
    add("--precision", type=harness.list_argument(str), default=list(PRECISIONS), help="default: fp32,bf16,fp16")
    options = parser.parse_args(arguments)
    return harness.run_program(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    device = gpu() if options.device == "auto" else select_device(options.device)
    set_threads(None)
    report.emit({"machine": machine_facts(device)})
    bundled = [entry.name for entry in registry.list_models() if entry.bundled]
    models = [harness.named_model(name) for name in options.models or bundled or ["mini"]]
    precisions = []
    for name in options.precision:
        try:
            precisions.append(select_precision(name, device))
        except DeviceError as error:
            report.say(f"{name} is left out: {error}")
    failed = count = 0
    for model in [*models, *map(small_official, FAMILIES)]:
        for check in every_check(model, device, precisions):
            report.emit({**dataclasses.asdict(check), "passed": check.passed})
            count, failed = count + 1, failed + (not check.passed)
    report.say(f"{count} checks on {device}: {f'{failed} failed' if failed else 'all passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
