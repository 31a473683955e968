"""The training config: one flat frozen dataclass; each field is a key of the config file and an option of the command.

Owns: fields, defaults, their help texts, cross-checks, writing TOML, the batch specifications.
Does not know: torch, data, models, reading files (`config_file`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from cvcodec.errors import UsageError
from cvcodec.options import option

Job = Literal["image-vae", "video-vae", "finetune"]
Distortion = Literal["mse-db", "l1", "mse", "l1+mse"]
Mapping2d = Literal["first", "average", "slice", "random"]

T = TypeVar("T")

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_BATCH = re.compile(rf"(\d+)x(\d+)x(\d+)(?:\*{_NUMBER})?(?:@{_NUMBER})?")


def _option(panel: str, default: T, text: str) -> T:
    return option(default, text, panel=panel)


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
class TrainConfig:
    """Everything that decides a run, apart from the data's bytes. See the fields' help texts."""

    # ------------------------------------------------------------------------------------------------ run
    output: str = _option("Run", "", "Run folder: log, state, weights, grids. Must be new, unless --resume.")
    resume: bool = _option(
        "Run",
        False,
        "Continue the run in the output folder exactly where its state was saved, by the settings that it recorded; "
        "options given beside it change them, and are listed.",
    )
    steps: int = _option("Run", 0, "Length of the run in steps; resumes bit for bit. Give this or --minutes.")
    minutes: float = _option("Run", 0.0, "Length of the run in minutes of training; the schedule follows the clock.")
    max_minutes: float = _option(
        "Run",
        0.0,
        "Wall time of the process, start and compilation included, after which it saves and ends, to be continued by "
        "--resume; without --steps and --minutes also the length of the schedule. 0: no limit.",
    )
    clock: Literal["wall", "cpu"] = _option(
        "Run", "wall", "What --minutes counts: wall, or cpu: processor time of all threads, fair on a shared machine."
    )
    seed: int = _option("Run", 0, "All randomness comes from this and the index of a sample.")
    device: str = _option("Run", "auto", "cpu, cuda, cuda:N or auto.")
    precision: str = _option("Run", "auto", "bf16 (autocast), fp32 or auto: bf16 where the processor multiplies it.")
    threads: int = _option("Run", 0, "CPU threads; 0: torch's choice. Two processes of one thread beat one of two.")
    name: str = _option("Run", "", "Name for the model card; default: the run folder's name.")

    # ------------------------------------------------------------------------------------------------ data
    data: tuple[str, ...] = _option(
        "Data", (), "Folder, .txt list or .tsv/.csv manifest (columns file, split, source); may be given several times."
    )
    val_fraction: float = _option("Data", 0.1, "Share of the sources held out where the manifest names no split.")
    cache: str = _option("Data", "", "Folder for decoded clips (memory-mapped); empty: in memory.")
    cache_gigabytes: float = _option("Data", 4.0, "Limit for decoded clips, in memory or in the cache folder.")
    cache_side: int = _option("Data", 512, "Decoded clips are scaled down to at most this short side, in pixels.")
    data_on_device: Literal["auto", "yes", "no"] = _option(
        "Data",
        "auto",
        "Decode all training clips once into the device's memory and make batches there: yes, no, or auto: on an "
        "accelerator, where they take less than a third of its free memory.",
    )
    segment_frames: int = _option("Data", 160, "Longer videos are decoded and cached in pieces of this many frames.")
    batches: tuple[str, ...] = _option(
        "Data",
        (),
        "CLIPSxFRAMESxSIZE[*WEIGHT][@START]: shapes drawn by weight among those with the largest START (share of the "
        "run) that was passed. All processes together make CLIPS clips a step.",
    )
    fill_device: bool = _option(
        "Data",
        False,
        "Take so many times the clips of --batches, a power of two found by a short probe, that the device is busy.",
    )
    strides: tuple[int, ...] = _option("Data", (1, 1, 1, 2, 3), "Frame strides to draw from (repeat to weigh).")
    photo_share: float = _option("Data", 0.18, "Share of clips made from photos by synthetic pan and zoom.")
    augment: bool = _option("Data", True, "Scales, flips, reversed time, transposition, colour and brightness jitter.")
    workers: int = _option("Data", 1, "Threads that prepare batches.")

    # ------------------------------------------------------------------------------------------------ model
    init: str = _option(
        "Model",
        "",
        "Weights to start from: model name or file (image-vae: also a video mini, as it is on images). "
        "Default: a fresh or inflated model.",
    )
    image_vae: str = _option(
        "Model", "", "2D model (name or file): the source of inflation and the frozen reference of the regularisation."
    )
    inflate: bool = _option("Model", True, "Start a video model from --image-vae by inflation when there is no --init.")
    latent_channels: int = _option("Model", 16, "Latent channels of a fresh model.")
    widths: tuple[int, ...] = _option("Model", (), "Channels at each level, finest first; empty: the mini's.")
    encoder_blocks: tuple[int, ...] = _option("Model", (), "Residual blocks at each level; empty: the mini's.")
    decoder_blocks: tuple[int, ...] = _option("Model", (), "Residual blocks at each level; empty: the mini's.")
    encoder_temporal: tuple[int, ...] = _option("Model", (), "How many of them look along time; empty: the mini's.")
    decoder_temporal: tuple[int, ...] = _option("Model", (), "How many of them look along time; empty: the mini's.")
    enhancement_channels: int = _option(
        "Model",
        0,
        "Channels of a second latent layer that only the video decoder reads; added to --init where it has none.",
    )
    decoder_tail: int = _option(
        "Model", 0, "Channels that each frame of a group has to itself before the output; added to --init likewise."
    )
    quality_aware: bool = _option("Model", False, "Tell the decoder the quality; added to --init likewise.")
    half_3d: bool = _option("Model", True, "2D+3D blocks (paper); --no-half-3d: all-3D.")
    pca: bool = _option("Model", True, "Start the patch shortcut of a fresh mini model as a PCA of training patches.")
    freeze: Literal["none", "encoder", "decoder"] = _option(
        "Model", "none", "Part that stays as it is: none, encoder or decoder."
    )
    compile: Literal["auto", "yes", "no"] = _option(
        "Model", "auto", "torch.compile of the networks and the rate model: yes, no, or auto: on CUDA."
    )
    gradient_checkpointing: bool = _option("Model", False, "Recompute activations in the backward pass: less memory.")

    # ------------------------------------------------------------------------------------------------ regularisation
    regularization: Literal["none", "encoder", "decoder", "both"] = _option(
        "Regularisation", "decoder", "none, encoder, decoder or both (video-vae)."
    )
    mapping: Literal["first", "average", "slice", "random"] = _option(
        "Regularisation", "random", "psi of the paper: first, average, slice or random."
    )
    decoder_regularization: float = _option("Regularisation", 1.0, "Weight of the 2D decoder's term (lambda 1).")
    encoder_regularization: float = _option("Regularisation", 1.0, "Weight of the 2D encoder's term (lambda 2).")
    regularization_latents: int = _option(
        "Regularisation", 0, "Latents of each clip, newly drawn each step, that the 2D decoder sees; 0: all."
    )

    # ------------------------------------------------------------------------------------------------ loss
    loss: Literal["codec", "paper"] = _option(
        "Loss", "codec", "codec: distortion + rate with quantisation noise; paper: the official code's sums."
    )
    distortion: Literal["mse-db", "l1", "mse", "l1+mse"] = _option(
        "Loss", "mse-db", "mse-db: mean over clips of 10 log10(mse); l1, mse, l1+mse."
    )
    position_power: float = _option(
        "Loss",
        1.0,
        "codec: power of the mean over the frames of a group of their squared errors; more than 1 evens them out.",
    )
    rate_weight: float = _option("Loss", 10.0, "codec: weight of the estimated bits per source pixel.")
    matched_rate: float = _option(
        "Loss",
        0.0,
        "codec: instead of --rate-weight, squared error (pixels in [-1, 1]) that a bit per pixel is worth at quality "
        "50, four times as much every ten points below; in theory 0.28 at --unit-step 0.68. 0: --rate-weight.",
    )
    kl_weight: float | None = _option("Loss", None, "Default: 0.002 per latent (codec), 1.0 on the sum (paper).")
    perceptual_weight: float | None = _option("Loss", None, "LPIPS (VGG16). Default: 0 (codec), 0.5 (paper).")
    perceptual_start: float = _option("Loss", 0.0, "Share of the run after which LPIPS is added.")
    perceptual_frames: int = _option("Loss", 0, "codec: frames of each clip, newly drawn, that LPIPS sees; 0: all.")
    lpips_variant: Literal["auto", "standard", "shift-tolerant"] = _option(
        "Loss", "auto", "auto, standard or shift-tolerant."
    )
    adversarial_weight: float | None = _option("Loss", None, "3D PatchGAN. Default: 0 (codec), 0.5 (paper).")
    adversarial_start: int = _option("Loss", 1, "First step with adversarial losses.")
    discriminator_width: int = _option("Loss", 64, "Channels of the discriminator's first layer.")
    adaptive_weight: bool = _option(
        "Loss", True, "Scale the adversarial gradient to the reconstruction's, at the decoder's end."
    )

    # ------------------------------------------------------------------------------------------------ quantisation
    unit_step: float = _option(
        "Quantisation",
        0.68,
        "codec: quantiser step at quality 50, stored; 0: a channel's deviation. Not used where --init has one.",
    )
    default_quality: float = _option("Quantisation", 75.0, "Quality that --default-share of the clips see.")
    default_share: float = _option("Quantisation", 0.4, "Share of clips with noise of the default quality.")
    noise_quality: tuple[float, ...] = _option("Quantisation", (45.0, 85.0), "Uniform range of most other clips.")
    rounded_share: float = _option(
        "Quantisation", 0.0, "Share of clips whose decoder sees rounded latents, straight through, instead of noise."
    )
    enhancement_drop: float = _option(
        "Quantisation", 0.25, "Share of clips that are decoded from the base layer alone, where there are two."
    )
    learn_steps: bool = _option(
        "Quantisation", False, "Learn each channel's step as a function of quality; stored with the statistics."
    )
    wide_share: float = _option("Quantisation", 0.04, "Share of clips with any quality from 0 to 100.")
    sample_share: float = _option("Quantisation", 0.15, "Share of clips decoded from a posterior sample instead.")

    # ------------------------------------------------------------------------------------------------ optimiser
    optimizer: Literal["muon", "adamw"] = _option("Optimiser", "muon", "muon: for wide kernels, AdamW for the rest.")
    muon_rate: float = _option("Optimiser", 0.02, "Learning rate of Muon.")
    rate: float = _option("Optimiser", 1e-3, "Learning rate of AdamW.")
    shortcut_rate: float = _option("Optimiser", 2e-4, "Learning rate of the patch shortcuts (mini).")
    auxiliary_rate: float = _option("Optimiser", 3e-3, "Learning rate of the rate model and learned log-variances.")
    discriminator_rate: float = _option("Optimiser", 2e-4, "Learning rate of the discriminator (constant).")
    betas: tuple[float, ...] = _option("Optimiser", (0.9, 0.98), "AdamW.")
    epsilon: float = _option("Optimiser", 1e-8, "AdamW (official: 1e-4).")
    weight_decay: float = _option("Optimiser", 0.0, "AdamW (official: 0.01).")
    gradient_clip: float = _option("Optimiser", 5.0, "Largest norm of the gradients that AdamW uses; 0: no limit.")
    warmup_steps: int = _option("Optimiser", 50, "Linear rise of the learning rates; of the rate term, 6 times slower.")
    schedule: Literal["cosine", "constant"] = _option(
        "Optimiser", "cosine", "cosine over the run; or constant, with --cooldown at the end of the run."
    )
    cooldown: float = _option("Optimiser", 0.2, "constant: share of the run at its end in which the rates fall.")
    final_rate: float = _option("Optimiser", 0.02, "Share of the learning rates at the end of the schedule.")
    ema_decay: float = _option("Optimiser", 0.998, "Moving average of the weights, which is stored; 0: none.")

    # ------------------------------------------------------------------------------------------------ reports
    log_every: int = _option("Reports", 50, "Steps between lines of the log.")
    checkpoint_minutes: float = _option("Reports", 4.0, "Minutes between saved states.")
    state_pieces: Literal["no", "exact", "half"] = _option(
        "Reports",
        "no",
        "Save states and weights in pieces of at most 15 MiB, in the folder pieces, which --resume reads; half: "
        "all in 16 bits, a third of the size.",
    )
    validate_minutes: float = _option("Reports", 12.0, "Minutes between validations; 0: none by the clock.")
    validate_every: int = _option("Reports", 0, "Steps between validations; 0: none by steps.")
    validate_first: bool = _option("Reports", True, "Validate before the first step, too.")
    validation_clips: int = _option("Reports", 12, "Held-out clips, spread over the sources.")
    validation_frames: int = _option("Reports", 17, "First frames of each.")
    validation_side: int = _option("Reports", 256, "Held-out clips are scaled to this short side.")
    validation_qualities: tuple[float, ...] = _option("Reports", (65.0, 75.0, 85.0), "Quantiser settings to measure.")
    validation_lpips: bool = _option("Reports", True, "Report LPIPS (AlexNet), if its weights are installed.")
    profile: int = _option("Reports", 0, "Profile this many steps: where the time goes, in profile.txt; 0: none.")
    grid_every: int = _option("Reports", 0, "Steps between grids of reconstructions; 0: at each validation.")
    statistics_clips: int = _option("Reports", 64, "Training clips that the stored per-channel statistics come from.")
    store: Literal["fp16", "fp32"] = _option("Reports", "fp16", "Type of the stored weights.")

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and not (0 <= number < math.inf) and item.name != "seed":
                    raise UsageError(f"{item.name} is {number}; wanted a number from 0")
        if (self.steps > 0 and self.minutes > 0) or not (self.steps or self.minutes or self.max_minutes):
            raise UsageError(
                f"give the length of the run in steps or in minutes (got {self.steps} and {self.minutes:g})"
            )
        if not self.output:
            raise UsageError("no run folder: give --output")
        if not self.data:
            raise UsageError("no data: give --data with a folder, a list or a manifest")
        shapes = self.batch_shapes
        if not any(shape.start == 0 for shape in shapes):
            raise UsageError(f"no batch shape starts at 0 among {', '.join(self.batches) or 'none'}")
        if len(self.noise_quality) != 2 or not 0 <= self.noise_quality[0] <= self.noise_quality[1] <= 100:
            raise UsageError(f"noise quality is {list(self.noise_quality)}; wanted two numbers in order, from 0 to 100")
        if len(self.betas) != 2 or max(self.betas) >= 1:
            raise UsageError(f"betas are {list(self.betas)}; wanted two numbers from 0, below 1")
        if max(self.validation_qualities, default=0.0) > 100:
            raise UsageError(
                f"validation_qualities are {list(self.validation_qualities)}; wanted numbers from 0 to 100"
            )
        shares = ("val_fraction", "photo_share", "perceptual_start", "default_share", "wide_share", "sample_share")
        for name in (*shares, "rounded_share", "enhancement_drop", "cooldown", "final_rate", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; wanted a number from 0 to 1")
        if self.default_share + self.wide_share > 1:
            raise UsageError(f"default share {self.default_share} and wide share {self.wide_share} sum to more than 1")
        if self.position_power < 1:
            raise UsageError(f"position_power is {self.position_power}; wanted a number from 1")
        if not self.strides or min(self.strides) < 1:
            raise UsageError(f"strides are {list(self.strides)}; wanted whole numbers from 1")
        counts = ("log_every", "workers", "validation_frames", "validation_side", "statistics_clips", "segment_frames")
        for name in counts:
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; wanted at least 1")

    @property
    def batch_shapes(self) -> tuple[BatchShape, ...]:
        """`batches`, parsed."""
        return tuple(BatchShape.parse(text) for text in self.batches)

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

    def to_toml(self) -> str:
        """The config as TOML, one key a line, tables as in the options' help; absent values are left out."""
        lines: list[str] = []
        panel = ""
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            if item.metadata["panel"] != panel:
                panel = item.metadata["panel"]
                lines += ["", f"[{panel.lower()}]"]
            lines.append(f"{item.name} = {json.dumps(list(value) if isinstance(value, tuple) else value)}")
        return "\n".join(lines[1:]) + "\n"


JOB_DEFAULTS: dict[Job, dict[str, Any]] = {
    # A latent of a 2D model stands for one picture, not four: a bit per pixel is a quarter of the bits per latent.
    "image-vae": {"batches": ("12x1x128",), "photo_share": 0.6, "rate_weight": 2.5, "regularization": "none"},
    "video-vae": {"batches": ("3x9x128", "2x17x128@0.6")},
    "finetune": {"batches": ("3x9x128",), "regularization": "none", "rate": 2e-4, "muon_rate": 0.004},
}
"""Defaults of fields that depend on the job."""
