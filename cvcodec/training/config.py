"""The settings of a training run: a dataclass for each table of the config file; each field is a key of the file and an
option of the command.

Owns: fields, defaults, their help texts, cross-checks, the batch specifications; reading TOML and YAML (by suffix; keys
may be grouped in tables of any name: `[data]`, `loss:`) and writing TOML.
Does not know: torch, data, models.

YAML is read by the rules of YAML 1.2 where PyYAML's are older and surprising: `1e-3` is a number, a key that appears
twice is an error. No tag makes an object.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cvcodec.errors import InputError, MissingDependencyError, UsageError
from cvcodec.options import option

Job = Literal["image-vae", "video-vae", "finetune"]
Distortion = Literal["mse-db", "l1", "mse", "l1+mse"]
Mapping2d = Literal["first", "average", "slice", "random"]

YAML_SUFFIXES = frozenset({".yaml", ".yml"})
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?")  # YAML 1.2.2, section 10.3.2, without .inf and .nan
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_BATCH = re.compile(rf"(\d+)x(\d+)x(\d+)(?:\*{_NUMBER})?(?:@{_NUMBER})?")


@dataclass(frozen=True)
class BatchShape:
    """Clips of `frames` frames and `size` x `size` pixels, `clips` of them in one step of all processes together."""

    clips: int
    frames: int
    size: int
    weight: float = 1.0
    start: float = 0.0

    @classmethod
    def parse(cls, text: str) -> BatchShape:
        """`CLIPSxFRAMESxSIZE[*WEIGHT][@START]`, such as `3x9x128` or `16x1x128*0.2@0.6`. UsageError otherwise."""
        match = _BATCH.fullmatch(text.replace(" ", ""))
        if not match:
            raise UsageError(f"batch {text!r} is not CLIPSxFRAMESxSIZE[*WEIGHT][@START], such as 2x17x128@0.6")
        shape = cls(int(match[1]), int(match[2]), int(match[3]), float(match[4] or 1), float(match[5] or 0))
        if shape.clips < 1 or shape.frames < 1 or shape.size < 8 or shape.size % 8 or (shape.frames - 1) % 4:
            raise UsageError(f"batch {text!r}: want at least one clip, 4k+1 frames and a size that is a multiple of 8")
        if not 0 <= shape.start < 1 or shape.weight <= 0:
            raise UsageError(f"batch {text!r}: want a weight above 0 and a start in [0, 1)")
        return shape


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How long a run is, and where it happens."""

    output: str = option("", "Run folder: log, state, weights, grids. Must be new, unless --resume.")
    resume: bool = option(
        False,
        "Continue the run in the output folder exactly where its state was saved, by the settings that it recorded; "
        "options given beside it change them, and are listed.",
    )
    steps: int = option(0, "Length of the run in steps; resumes bit for bit. Give this or --minutes.")
    minutes: float = option(0.0, "Length of the run in minutes of training; the schedule follows the clock.")
    max_minutes: float = option(
        0.0,
        "Wall time of the process, start and compilation included, after which it saves and ends, to be continued by "
        "--resume; without --steps and --minutes also the length of the schedule. 0: no limit.",
    )
    clock: Literal["wall", "cpu"] = option(
        "wall", "What --minutes counts: wall, or cpu: processor time of all threads, fair on a shared machine."
    )
    seed: int = option(0, "All randomness comes from this and the index of a sample.", least=-math.inf)
    device: str = option("auto", "cpu, cuda, cuda:N or auto.")
    precision: str = option("auto", "bf16 (autocast), fp32 or auto: bf16 where the processor multiplies it.")
    threads: int = option(0, "CPU threads; 0: torch's choice. Two processes of one thread beat one of two.")
    name: str = option("", "Name for the model card; default: the run folder's name.")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What is learned from, and how batches are made of it."""

    data: tuple[str, ...] = option(
        (),
        "Folder, .txt list or .csv, .tsv, .jsonl manifest (columns path, split, source); may be given several times.",
    )
    val_fraction: float = option(0.1, "Share of the sources held out where the manifest names no split.", most=1)
    cache: str = option("", "Folder for decoded clips (memory-mapped); empty: in memory.")
    cache_gigabytes: float = option(4.0, "Limit for decoded clips, in memory or in the cache folder.")
    cache_side: int = option(512, "Decoded clips are scaled down to at most this short side, in pixels.")
    data_on_device: Literal["auto", "yes", "no"] = option(
        "auto",
        "Decode all training clips once into the device's memory and make batches there: yes, no, or auto: on an "
        "accelerator, where they take less than a third of its free memory.",
    )
    segment_frames: int = option(160, "Longer videos are decoded and cached in pieces of this many frames.", least=1)
    batches: tuple[str, ...] = option(
        (),
        "CLIPSxFRAMESxSIZE[*WEIGHT][@START]: shapes drawn by weight among those with the largest START (share of the "
        "run) that was passed. All processes together make CLIPS clips a step.",
    )
    fill_device: bool = option(
        False,
        "Take so many times the clips of --batches, a power of two found by a short probe, that the device is busy.",
    )
    accumulate: int = option(
        1,
        "Make each step of N parts, one after the other, each of an N-th of the clips of --batches: the gradients of "
        "the whole in the memory of a part.",
        least=1,
    )
    strides: tuple[int, ...] = option((1, 1, 1, 2, 3), "Frame strides to draw from (repeat to weigh).", least=1)
    photo_share: float = option(0.18, "Share of clips made from photos by synthetic pan and zoom.", most=1)
    augment: bool = option(True, "Scales, flips, reversed time, transposition, colour and brightness jitter.")
    workers: int = option(1, "Threads that prepare batches.", least=1)

    @property
    def batch_shapes(self) -> tuple[BatchShape, ...]:
        """`batches`, parsed."""
        return tuple(BatchShape.parse(text) for text in self.batches)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What is trained, and what it starts from."""

    init: str = option(
        "",
        "Weights to start from: model name or file (image-vae: also a video mini, as it is on images). "
        "Default: a fresh or inflated model.",
    )
    image_vae: str = option(
        "", "2D model (name or file): the source of inflation and the frozen reference of the regularisation."
    )
    inflate: bool = option(True, "Start a video model from --image-vae by inflation when there is no --init.")
    latent_channels: int = option(16, "Latent channels of a fresh model.")
    widths: tuple[int, ...] = option((), "Channels at each level, finest first; empty: the mini's.")
    encoder_blocks: tuple[int, ...] = option((), "Residual blocks at each level; empty: the mini's.")
    decoder_blocks: tuple[int, ...] = option((), "Residual blocks at each level; empty: the mini's.")
    encoder_temporal: tuple[int, ...] = option((), "How many of them look along time; empty: the mini's.")
    decoder_temporal: tuple[int, ...] = option((), "How many of them look along time; empty: the mini's.")
    enhancement_channels: int = option(
        0,
        "Channels of an enhancement layer, a PCA of what the decoder leaves over, made with each file of weights. "
        "0: as many as --init has.",
    )
    decoder_tail: int = option(
        0, "Channels that each frame of a group has to itself before the output; added to --init where it has none."
    )
    quality_aware: bool = option(False, "Tell the decoder the quality; added to --init likewise.")
    half_3d: bool = option(True, "2D+3D blocks (paper); --no-half-3d: all-3D.")
    pca: bool = option(True, "Start the patch shortcut of a fresh mini model as a PCA of training patches.")
    freeze: Literal["none", "encoder", "decoder"] = option(
        "none", "Part that stays as it is: none, encoder or decoder."
    )
    compile: Literal["auto", "yes", "no"] = option(
        "auto", "torch.compile of the networks and the rate model: yes, no, or auto: on CUDA."
    )
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass: less memory.")


@dataclass(frozen=True, kw_only=True)
class RegularisationSettings:
    """How a video model's latents are held in a 2D model's space."""

    regularization: Literal["none", "encoder", "decoder", "both"] = option(
        "decoder", "none, encoder, decoder or both (video-vae)."
    )
    mapping: Literal["first", "average", "slice", "random"] = option(
        "random", "psi of the paper: first, average, slice or random."
    )
    decoder_regularization: float = option(1.0, "Weight of the 2D decoder's term (lambda 1).")
    encoder_regularization: float = option(1.0, "Weight of the 2D encoder's term (lambda 2).")
    regularization_latents: int = option(
        0, "Latents of each clip, newly drawn each step, that the 2D decoder sees; 0: all."
    )


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What is made small."""

    loss: Literal["codec", "paper"] = option(
        "codec", "codec: distortion + rate with quantisation noise; paper: the official code's sums."
    )
    distortion: Literal["mse-db", "l1", "mse", "l1+mse"] = option(
        "mse-db", "mse-db: mean over clips of 10 log10(mse); l1, mse, l1+mse."
    )
    position_power: float = option(
        1.0,
        "codec: power of the mean over the frames of a group of their squared errors; more than 1 evens them out.",
        least=1,
    )
    rate_weight: float = option(10.0, "codec: weight of the estimated bits per source pixel.")
    matched_rate: float = option(
        0.0,
        "codec: instead of --rate-weight, squared error (pixels in [-1, 1]) that a bit per pixel is worth at quality "
        "50, four times as much every ten points below; in theory 0.28 at --unit-step 0.68. 0: --rate-weight.",
    )
    kl_weight: float | None = option(None, "Default: 0.002 per latent (codec), 1.0 on the sum (paper).")
    perceptual_weight: float | None = option(None, "LPIPS (VGG16). Default: 0 (codec), 0.5 (paper).")
    perceptual_start: float = option(0.0, "Share of the run after which LPIPS is added.", most=1)
    perceptual_frames: int = option(0, "codec: frames of each clip, newly drawn, that LPIPS sees; 0: all.")
    lpips_variant: Literal["auto", "standard", "shift-tolerant"] = option("auto", "auto, standard or shift-tolerant.")
    adversarial_weight: float | None = option(None, "3D PatchGAN. Default: 0 (codec), 0.5 (paper).")
    adversarial_start: int = option(1, "First step with adversarial losses.")
    discriminator_width: int = option(64, "Channels of the discriminator's first layer.")
    adaptive_weight: bool = option(
        True, "Scale the adversarial gradient to the reconstruction's, at the decoder's end."
    )

    @property
    def is_paper(self) -> bool:
        """Whether the official sums are used (spec 4.3)."""
        return self.loss == "paper"

    @property
    def resolved_kl_weight(self) -> float:
        """`kl_weight`, or the default of the chosen loss."""
        return self.kl_weight if self.kl_weight is not None else 1.0 if self.is_paper else 0.002

    @property
    def resolved_perceptual_weight(self) -> float:
        """`perceptual_weight`, or the default of the chosen loss."""
        return self.perceptual_weight if self.perceptual_weight is not None else 0.5 if self.is_paper else 0.0

    @property
    def resolved_adversarial_weight(self) -> float:
        """`adversarial_weight`, or the default of the chosen loss."""
        return self.adversarial_weight if self.adversarial_weight is not None else 0.5 if self.is_paper else 0.0


@dataclass(frozen=True, kw_only=True)
class QuantisationSettings:
    """What the decoder and the rate model see of the latents."""

    unit_step: float = option(
        0.68,
        "codec: quantiser step at quality 50, stored; 0: a channel's deviation. Not used where --init has one.",
    )
    default_quality: float = option(75.0, "Quality that --default-share of the clips see.")
    default_share: float = option(0.4, "Share of clips with noise of the default quality.", most=1)
    noise_quality: tuple[float, ...] = option((45.0, 85.0), "Uniform range of most other clips.")
    rounded_share: float = option(
        0.0, "Share of clips whose decoder sees rounded latents, straight through, instead of noise.", most=1
    )
    learn_steps: bool = option(False, "Learn each channel's step as a function of quality; stored with the statistics.")
    wide_share: float = option(0.04, "Share of clips with any quality from 0 to 100.", most=1)
    sample_share: float = option(0.15, "Share of clips decoded from a posterior sample instead.", most=1)


@dataclass(frozen=True, kw_only=True)
class OptimiserSettings:
    """How weights move."""

    optimizer: Literal["muon", "adamw"] = option("muon", "muon: for wide kernels, AdamW for the rest.")
    muon_rate: float = option(0.02, "Learning rate of Muon.")
    rate: float = option(1e-3, "Learning rate of AdamW.")
    shortcut_rate: float = option(2e-4, "Learning rate of the patch shortcuts (mini).")
    auxiliary_rate: float = option(3e-3, "Learning rate of the rate model and learned log-variances.")
    discriminator_rate: float = option(2e-4, "Learning rate of the discriminator (constant).")
    betas: tuple[float, ...] = option((0.9, 0.98), "AdamW.")
    epsilon: float = option(1e-8, "AdamW (official: 1e-4).")
    weight_decay: float = option(0.0, "AdamW (official: 0.01).")
    gradient_clip: float = option(5.0, "Largest norm of the gradients that AdamW uses; 0: no limit.")
    warmup_steps: int = option(50, "Linear rise of the learning rates; of the rate term, 6 times slower.")
    schedule: Literal["cosine", "constant"] = option(
        "cosine", "cosine over the run; or constant, with --cooldown at the end of the run."
    )
    cooldown: float = option(0.2, "constant: share of the run at its end in which the rates fall.", most=1)
    final_rate: float = option(0.02, "Share of the learning rates at the end of the schedule.", most=1)
    ema_decay: float = option(0.998, "Moving average of the weights, which is stored; 0: none.", most=1)


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What a run leaves behind, and how often."""

    log_every: int = option(50, "Steps between lines of the log.", least=1)
    checkpoint_minutes: float = option(4.0, "Minutes between saved states.")
    state_pieces: Literal["no", "exact", "half"] = option(
        "no",
        "Save states and weights in pieces of at most 15 MiB, in the folder pieces, which --resume reads; half: "
        "all in 16 bits, a third of the size.",
    )
    validate_minutes: float = option(12.0, "Minutes between validations; 0: none by the clock.")
    validate_every: int = option(0, "Steps between validations; 0: none by steps.")
    validate_first: bool = option(True, "Validate before the first step, too.")
    validation_clips: int = option(12, "Held-out clips, spread over the sources.")
    validation_frames: int = option(17, "First frames of each.", least=1)
    validation_side: int = option(256, "Held-out clips are scaled to this short side.", least=1)
    validation_qualities: tuple[float, ...] = option((65.0, 75.0, 85.0), "Quantiser settings to measure.", most=100)
    validation_lpips: bool = option(True, "Report LPIPS (AlexNet), if its weights are installed.")
    profile: int = option(0, "Profile this many steps: where the time goes, in profile.txt; 0: none.")
    grid_every: int = option(0, "Steps between grids of reconstructions; 0: at each validation.")
    curves: bool = option(True, "Draw curves.png with each validation, if matplotlib is installed.")
    tensorboard: bool = option(False, "Also write numbers and grids for TensorBoard, into tensorboard of the run.")
    statistics_clips: int = option(64, "Training clips that the stored per-channel statistics come from.", least=1)
    store: Literal["fp16", "fp32"] = option("fp16", "Type of the stored weights.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run, apart from the data's bytes."""

    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    regularisation: RegularisationSettings = RegularisationSettings()
    loss: LossSettings = LossSettings()
    quantisation: QuantisationSettings = QuantisationSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    reports: ReportSettings = ReportSettings()

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            least, most = (OPTIONS[name].field.metadata[limit] for limit in ("least", "most"))
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and not (
                    (least or 0) <= number < math.inf and number <= (most or math.inf)
                ):
                    limits = f"a number from {least or 0:g}" + (f" to {most:g}" if most else "")
                    raise UsageError(f"{name} is {number}; wanted {limits}")
        run, data, quantisation, betas = self.run, self.data, self.quantisation, self.optimiser.betas
        if (run.steps > 0 and run.minutes > 0) or not (run.steps or run.minutes or run.max_minutes):
            raise UsageError(f"give the length of the run in steps or in minutes (got {run.steps} and {run.minutes:g})")
        if not run.output:
            raise UsageError("no run folder: give --output")
        if not data.data:
            raise UsageError("no data: give --data with a folder, a list or a manifest")
        if not any(shape.start == 0 for shape in data.batch_shapes):
            raise UsageError(f"no batch shape starts at 0 among {', '.join(data.batches) or 'none'}")
        noise = quantisation.noise_quality
        if len(noise) != 2 or not noise[0] <= noise[1] <= 100:
            raise UsageError(f"noise quality is {list(noise)}; wanted two numbers in order, from 0 to 100")
        if len(betas) != 2 or max(betas) >= 1:
            raise UsageError(f"betas are {list(betas)}; wanted two numbers from 0, below 1")
        default, wide = quantisation.default_share, quantisation.wide_share
        if default + wide > 1:
            raise UsageError(f"default share {default} and wide share {wide} sum to more than 1")
        if not data.strides:
            raise UsageError("strides are []; wanted whole numbers from 1")

    @classmethod
    def of(cls, **values: Any) -> TrainConfig:
        """From values by option. UsageError for those that make no sense."""
        groups: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            groups.setdefault(OPTIONS[name].group, {})[name] = value
        kinds = typing.get_type_hints(cls)
        return cls(**{group: kinds[group](**given) for group, given in groups.items()})

    @property
    def values(self) -> dict[str, Any]:
        """By option."""
        return {name: getattr(getattr(self, entry.group), name) for name, entry in OPTIONS.items()}

    def with_values(self, **changes: Any) -> TrainConfig:
        """The same but for `changes`."""
        return TrainConfig.of(**{**self.values, **changes})

    def to_toml(self) -> str:
        """One key a line, in a table for each group; absent values are left out."""
        lines: list[str] = []
        for group in dataclasses.fields(self):
            lines += ["", f"[{group.name}]"]
            for name, value in vars(getattr(self, group.name)).items():
                if value is not None:
                    lines.append(f"{name} = {json.dumps(list(value) if isinstance(value, tuple) else value)}")
        return "\n".join(lines[1:]) + "\n"


@dataclass(frozen=True)
class Option:
    """A field of a group."""

    group: str
    field: dataclasses.Field[Any]
    hint: Any


OPTIONS = {
    field.name: Option(group, field, typing.get_type_hints(kind)[field.name])
    for group, kind in typing.get_type_hints(TrainConfig).items()
    for field in dataclasses.fields(kind)
}
"""By name."""

JOB_DEFAULTS: dict[Job, dict[str, Any]] = {
    # A latent of a 2D model stands for one picture, not four: a bit per pixel is a quarter of the bits per latent.
    "image-vae": {"batches": ("12x1x128",), "photo_share": 0.6, "rate_weight": 2.5, "regularization": "none"},
    "video-vae": {"batches": ("3x9x128", "2x17x128@0.6")},
    "finetune": {"batches": ("3x9x128",), "regularization": "none", "rate": 2e-4, "muon_rate": 0.004},
}
"""Defaults of fields that depend on the job."""


def read_config_file(path: str | Path) -> dict[str, Any]:
    """The keys of a config, tables flattened, types checked.

    A file named .yaml or .yml is YAML, any other is TOML. InputError when it cannot be read, UsageError that names file
    and key for what it says, MissingDependencyError for YAML without PyYAML.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot read config {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    document = (_read_yaml if Path(path).suffix.lower() in YAML_SUFFIXES else _read_toml)(text, path)
    flat: dict[str, Any] = {}
    for key, value in document.items():
        for name, item in (value if isinstance(value, dict) else {key: value}).items():
            if not isinstance(name, str):
                raise UsageError(f"{path}: {key} holds {name!r}: wanted settings, one `name: value` a line")
            if name in flat:
                raise UsageError(f"{path}: {name} is given twice")
            flat[name] = item
    return check_values(flat, where=str(path))


def _read_toml(text: str, path: str | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def _read_yaml(text: str, path: str | Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} is YAML, which needs PyYAML: pip install 'cvcodec[yaml]', or write the config as TOML"
        ) from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
        """Safe, with numbers as in YAML 1.2 and no repeated keys."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value]
            for name in names:
                if names.count(name) > 1:
                    raise UsageError(f"{path}: {name} is given twice")
            return super().construct_mapping(node, deep)  # type: ignore[no-any-return]

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(f"^(?:{_FLOAT.pattern})$"), list("-+.0123456789")
    )
    try:
        document = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise UsageError(f"{path} is no config: wanted settings, one `name: value` a line")
    return document


def check_values(values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """`values`, lists made tuples and whole numbers floats where wanted. UsageError for unknown keys or types."""
    unknown = sorted(set(values) - set(OPTIONS))
    if unknown:
        raise UsageError(f"{where}: no such setting: {', '.join(unknown)}; see cvcodec train video-vae --help")
    return {name: _checked(value, OPTIONS[name].hint, f"{where}: {name}") for name, value in values.items()}


def _checked(value: Any, hint: Any, what: str) -> Any:
    if isinstance(hint, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _checked(value, options[0], what)
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise UsageError(f"{what} is {value!r}; wanted one of {', '.join(typing.get_args(hint))}")
        return value
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_checked(item, typing.get_args(hint)[0], what) for item in items)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UsageError(f"{what} is {value!r}; wanted {hint.__name__}")
    return value
