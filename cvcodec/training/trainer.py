"""The training loop: batches in, steps, reports, states and weights out.

Owns: the order of things in a run, its clock, what a state holds. Does not know: command lines.

A run folder holds config.toml, log.jsonl, state.pt (everything that the next step depends on), model.safetensors (the
averaged weights with their statistics, renewed at each validation and at the end), grid-*.png and, where matplotlib is
installed, curves.png; with --state-pieces the folder `pieces` instead of state.pt, with --tensorboard its files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_weights
from torch import Tensor

from cvcodec.codec.calibration import channel_moments, measure_statistics
from cvcodec.errors import NumericalError, UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.mini import MiniAutoencoder
from cvcodec.quality.lpips import Lpips
from cvcodec.quantization import STEP_OCTAVES_LIMIT, LatentStatistics
from cvcodec.system.device import arithmetic, select_device, select_precision
from cvcodec.training.acceleration import Compiler, busy_factor
from cvcodec.training.config import BatchShape, Job, TrainConfig
from cvcodec.training.data import Batch, Batches, RunData, active_shapes, parts_of
from cvcodec.training.discriminator import Adversary
from cvcodec.training.distributed import Processes, process_group
from cvcodec.training.log import OnLine, RunLog, draw_curves
from cvcodec.training.objective import Objective
from cvcodec.training.optimizer import MovingAverage, Optimizers, schedule
from cvcodec.training.pca import with_enhancement
from cvcodec.training.profiling import StepProfiler, phase
from cvcodec.training.run_folder import (
    WEIGHTS_NAME,
    changes,
    halved,
    join_pieces,
    load_state,
    prepare_folder,
    read_config,
    save_state,
    save_state_in_pieces,
    store_weights,
    write_config,
)
from cvcodec.training.start import start_model
from cvcodec.training.stop import Flag, Lease, interruption
from cvcodec.training.tensorboard import Board
from cvcodec.training.validation import Validator, validation_clips
from cvcodec.video.writer import write_image

_PCA_CLIPS = 640
_ENHANCEMENT_CLIPS = 240
_PCA_SHAPE = BatchShape(1, 9, 96)
_LEAST_UNIT_STEP = 1e-3  # of a channel that hardly varies


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    finished: bool
    """False: a signal or the limit of wall time stopped it; --resume continues it."""
    step: int
    minutes: float
    validation: dict[str, float]
    """The last one's numbers; empty when there was none."""
    folder: Path
    interrupted: bool = False
    """Whether a signal stopped it."""


def train(
    job: Job,
    config: TrainConfig,
    *,
    on_line: OnLine | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Run a job to its end, or to SIGINT or SIGTERM, after which `resume` continues it.

    on_line: gets each line of the log. on_progress: (steps done, about how many there will be).
    """
    device = select_device(config.run.device)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # batches have few shapes
    with process_group(device.type) as processes:
        if device.type == "cuda" and processes.count > 1:
            device = torch.device("cuda", processes.local_rank)
            torch.cuda.set_device(device)
        folder = Path(config.run.output)
        if processes.is_main:
            prepare_folder(folder, config)
        processes.wait()
        board = Board(folder) if config.reports.tensorboard and processes.is_main else None
        log = RunLog(folder, active=processes.is_main, on_line=on_line, board=board)
        with contextlib.closing(log), interruption() as interrupted:
            return Trainer(job, config, folder, device, processes, log, on_progress, board).run(interrupted)


class Trainer:
    """Everything of one run in one process."""

    def __init__(
        self,
        job: Job,
        config: TrainConfig,
        folder: Path,
        device: torch.device,
        processes: Processes,
        log: RunLog,
        on_progress: Callable[[int, int], None] | None = None,
        board: Board | None = None,
    ) -> None:
        self.job, self.config, self.folder = job, config, folder
        self.device, self.processes, self.log, self._board = device, processes, log, board
        self._on_progress = on_progress if processes.is_main else None
        precision = select_precision(config.run.precision, device)
        self.arithmetic = functools.partial(arithmetic, device, precision)
        wanted = config.model.compile == "yes" or (config.model.compile == "auto" and device.type == "cuda")
        self._compiler = Compiler(log.say, enabled=wanted)
        state = self._state() if config.run.resume else None
        self.data = RunData(config, log.say, processes=processes, device=device)
        log.say(f"{self.data.describe()}; {precision} on {device}, {processes.count} process(es)")
        self.start = start_model(job, config, self._pca_clips, fresh=not config.run.resume)
        self.model = self.start.model.to(device)
        processes.broadcast(list(self.model.parameters()))
        image_model = self.start.image_model.to(device) if self.start.image_model is not None else None
        self.unit_step = self._choose_unit_step()
        lpips = self._perceptual()
        self.objective = Objective(config, torch.tensor(self.unit_step), image_model, lpips).to(device)
        self.optimizers = Optimizers(self.model, self.objective.trainable, config.optimiser)
        self.adversary: Adversary | None = None
        if config.loss.resolved_adversarial_weight:
            self.adversary = Adversary(config, device, processes, self.arithmetic)
        self.average = MovingAverage(self.model, config.optimiser.ema_decay)
        self.validator = self._validator()
        self.shapes = config.data.batch_shapes
        self._clips_factor = 1
        self._lease = Lease(config.run.max_minutes)
        self._begun_at = 0.0  # progress when this process took the run up
        self._began = time.monotonic()  # its first step, or the validation before it
        self._profiler = StepProfiler(config.reports.profile if processes.is_main else 0, device)
        self._clock = time.process_time if config.run.clock == "cpu" else time.monotonic
        self.step = 0
        self.seconds = 0.0
        self._losses = torch.zeros((), device=device)  # of all steps of this process
        self.validation: dict[str, float] = {}
        self.reported_at = -1
        self._compiler.compile(self._networks(), retains_graph=self.adversary is not None)
        if state is not None:
            self._load(state)
        elif config.data.fill_device:
            self._fill_device()

    def _perceptual(self) -> Lpips | None:
        loss = self.config.loss
        if not loss.resolved_perceptual_weight:
            return None
        lpips = Lpips.load("vgg", loss.lpips_variant).to(self.device)
        smallest = min(shape.size for shape in self.config.data.batch_shapes)
        if smallest < lpips.minimum_side:
            raise UsageError(
                f"{lpips.name} needs clips of at least {lpips.minimum_side} pixels, --batches has {smallest}"
            )
        return lpips

    def _validator(self) -> Validator:
        reports, clips = self.config.reports, []
        if self.processes.is_main:
            clips = validation_clips(
                self.data.held_out,
                self.data.cache,
                side=reports.validation_side,
                frames=reports.validation_frames,
                count=reports.validation_clips,
                videos=self.model.config.is_video,
            )
        if not clips:
            held = len(self.data.held_out)
            self.log.warn(
                f"{f'none of the {held} files held out gives a clip' if held else '0 files are held out'}, so nothing "
                "is validated; raise --val-fraction, give more files, or name the split in a manifest"
            )
        lpips = reports.validation_lpips and self.processes.is_main
        return Validator(clips, arithmetic=self.arithmetic, device=self.device, lpips=lpips)

    # ------------------------------------------------------------------------------------------------ the loop

    def run(self, interrupted: Flag) -> Result:
        """Train until the budget is spent or `interrupted` is set; then save."""
        reports = self.config.reports
        self._began = time.monotonic()
        if self.step == 0 and reports.validate_first:
            self._report()
        self._lease.begin()
        last_saved = last_report = time.monotonic()
        finished = False
        batches = Batches(self.data, self.shapes, start=self.step, on_shapes=self._rehearse_all)
        with contextlib.closing(batches), contextlib.closing(self._profiler):
            while True:
                progress, stop, report = self.processes.agree(
                    progress=self.progress,
                    stop=interrupted.is_set() or self._lease.over,
                    report=self._due(last_report),
                )
                finished = progress >= 1
                if finished or stop:
                    break
                if report:
                    self._report()
                    last_report = time.monotonic()
                self._step(batches, progress)
                if reports.grid_every and self.step % reports.grid_every == 0:
                    self._draw_grid()
                if time.monotonic() - last_saved >= 60 * reports.checkpoint_minutes:
                    self.save()
                    last_saved = time.monotonic()
        self.save()
        stopped = self.processes.agree(progress=0.0, stop=interrupted.is_set(), report=False)[1] and not finished
        if not stopped:
            self._report()
        if not finished:
            self.log.say(f"stopped at step {self.step}; continue with --resume")
        self.log.write("end", step=self.step, minutes=self.minutes, finished=finished)
        return Result(finished, self.step, self.minutes, self.validation, self.folder, interrupted=stopped)

    @property
    def minutes(self) -> float:
        """Spent in training steps, by the config's clock; validation and saving do not count."""
        return self.seconds / 60

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        if self.config.run.steps:
            return self.step / self.config.run.steps
        if self.config.run.minutes:
            return self.minutes / self.config.run.minutes
        return self._begun_at + (1 - self._begun_at) * self._lease.share

    def _step(self, batches: Batches, progress: float) -> None:
        self._profiler.before_step()
        began, began_clock = time.monotonic(), self._clock()
        with phase("data"):
            batch = batches.next(progress)
        terms = self._train_on(batch, progress)
        elapsed = time.monotonic() - began
        self.seconds += self._clock() - began_clock
        pixels = batch.pixels[:, 0].numel() / 1e6
        self.log.add(
            {**terms, "seconds": elapsed, "data_wait": batches.waited, "mpixel": pixels * self.processes.count}
        )
        if self._on_progress is not None:
            self._on_progress(self.step, round(self.step / self.progress) if self.progress else self.step)
        profiled = self._profiler.after_step(pixels)
        if profiled is not None:
            profiled.write(self.folder, self.log.say)
        if self.step % self.config.reports.log_every == 0:
            self._check_finite()
            means = self.processes.average_values(self.log.take_averages())
            means["mpixel_per_s"] = means.pop("mpixel") / means["seconds"]
            means["data_wait_share"] = means.pop("data_wait") / means["seconds"]
            if self.device.type == "cuda":
                means["peak_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
            factor = schedule(self.step, progress, self.config.optimiser)
            self.log.write(
                "train", step=self.step, minutes=self.minutes, progress=progress, minutes_left=minutes_left(self),
                **means, learning_rate_factor=factor,
            )  # fmt: skip

    def _train_on(self, batch: Batch[Tensor], progress: float) -> dict[str, Tensor]:
        adversary = self.adversary if self.adversary is not None and self.adversary.takes_part(self.step) else None
        parts = parts_of(batch, self.config.data.accumulate)
        means: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        for part in parts:
            for name, value in self._learn_from(part, progress, adversary, share=1 / len(parts)).items():
                means[name] = means[name] + value / len(parts)
        self._losses += means["loss"]
        with phase("optimiser"):
            self.processes.average_gradients(self.optimizers.parameters)
            self.optimizers.step(schedule(self.step, progress, self.config.optimiser))
        if adversary is not None:
            with phase("discriminator"):
                adversary.update()
        with phase("average of weights"):
            self.average.update(self.step)
        self.step += 1
        return means

    def _learn_from(
        self, batch: Batch[Tensor], progress: float, adversary: Adversary | None, *, share: float
    ) -> dict[str, Tensor]:
        """Add `share` of the gradients of these clips to those of the next update; returns the terms of their loss."""
        with phase("forward"):
            judged = self.objective(self.model, batch, progress=progress, arithmetic=self.arithmetic)
        loss = judged.loss
        if adversary is not None:
            with phase("adversarial term"):
                loss = loss + adversary.generator_term(judged, self._last_layer())
        if self.device.type == "cpu":
            _check_finite(float(loss.detach()), self.step)
        with phase("backward"):
            (share * loss).backward()
        if adversary is not None:
            with phase("discriminator"):
                judged.terms["discriminator_hinge"] = adversary.learn(judged, share)
        return {"loss": loss.detach(), **judged.terms}

    def _check_finite(self) -> None:
        """Waits for the device: with each line of the log and before a state."""
        _check_finite(float(self._losses), self.step)  # NaN and infinity never leave a sum

    def _last_layer(self) -> Tensor:
        weight = self.model.get_submodule("decoder.conv_out").weight
        assert isinstance(weight, Tensor)
        return weight

    def _due(self, last: float) -> bool:
        if self.step == self.reported_at:
            return False
        minutes, every = self.config.reports.validate_minutes, self.config.reports.validate_every
        return (every > 0 and self.step % every == 0) or (minutes > 0 and time.monotonic() - last >= 60 * minutes)

    # ------------------------------------------------------------------------------------------------ reports

    def _report(self) -> None:
        """Measure the averaged weights, store them, draw the grid."""
        self.reported_at = self.step
        began = time.monotonic()
        if self.processes.is_main:
            with self._averaged():
                if self.validator.clips:
                    self.validation = self.validator.measure(
                        self.model,
                        rate=self.objective.rate,
                        steps=self.objective.steps,
                        qualities=() if self.config.loss.is_paper else self.config.reports.validation_qualities,
                        image_model=self.start.image_model,
                    )
                    self.log.write("validation", step=self.step, minutes=self.minutes, **self.validation)
                self._store_weights()
            self._draw_grid()
            if self.config.reports.curves:
                draw_curves(self.folder)
        self.processes.wait()
        self._lease.keep(time.monotonic() - began)

    def _draw_grid(self) -> None:
        if self.processes.is_main and self.validator.clips:
            with self._averaged():
                drawn = self.validator.draw(self.model, self.start.image_model)
            write_image(self.folder / f"grid-{self.step:07d}.png", drawn, overwrite=True)
            if self._board is not None:
                self._board.draw("grid", self.step, drawn)

    def _store_weights(self) -> None:
        """The model's present ones, which are to be the averaged ones."""
        card = {
            "job": self.job,
            "steps": self.step,
            "hours": round(self.seconds / 3600, 2),
            "quality": {name: round(value, 4) for name, value in self.validation.items()},
        }
        model, statistics = self.model, self._statistics()
        if self.start.enhancement_channels:
            model, statistics = self._enhanced(self.start.enhancement_channels, statistics)
        store_weights(self.folder, model, self.config, statistics=statistics, card=card)

    def _enhanced(self, channels: int, statistics: LatentStatistics) -> tuple[VideoAutoencoder, LatentStatistics]:
        """The model and its statistics with an enhancement layer for what it leaves over at the default quality."""
        assert isinstance(self.model, MiniAutoencoder)
        shape = active_shapes(self.config.data.batch_shapes, 0.0)[0]
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad(), self._compiler.off():
            left_over = [self._left_over(clip) for clip in self.data.extra_clips(_ENHANCEMENT_CLIPS, shape)]
            model = with_enhancement(self.model, channels, left_over)
            std = channel_moments(map(model.enhancement, left_over), channels)[1]
        self.model.train(was_training)
        return model, statistics.with_enhancement(tuple(std.tolist()))

    def _left_over(self, clip: Tensor) -> Tensor:
        """Of clips (B, 3, T, H, W): less what the decoder makes of their rounded latents."""
        quality = torch.full((len(clip),), self.config.quantisation.default_quality, device=clip.device)
        told = {"quality": quality} if self.model.config.quality_aware else {}
        with self.arithmetic():
            latent = self.model.encode(clip).mean.float()
            step = self.objective.steps(quality)
            return clip - self.model.decode(torch.round(latent / step) * step, **told).float()

    def _statistics(self) -> LatentStatistics:
        """Measured on training clips; where the encoder is frozen, those of the model that the run started from."""
        if self.config.model.freeze == "encoder" and self.start.statistics is not None:
            return self.start.statistics
        measured = self._measure_statistics()
        keeps_step = self.config.quantisation.unit_step > 0 or self.start.unit_step is not None
        octaves = self.objective.step_octaves.detach().clamp(-STEP_OCTAVES_LIMIT, STEP_OCTAVES_LIMIT).tolist()
        rows = tuple(map(tuple, octaves)) if self.config.quantisation.learn_steps else ()
        return LatentStatistics(measured.mean, measured.std, self.unit_step if keeps_step else (), rows)

    def _measure_statistics(self) -> LatentStatistics:
        shape = active_shapes(self.config.data.batch_shapes, 0.0)[0]
        clips = self.data.extra_clips(self.config.reports.statistics_clips, shape)
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad(), self._compiler.off():
            statistics = measure_statistics(self.model, map(self._mean_latent, clips))
        self.model.train(was_training)
        return statistics

    def _mean_latent(self, clip: Tensor) -> Tensor:
        with self.arithmetic():
            return self.model.encode(clip).mean

    # ------------------------------------------------------------------------------------------------ state

    def save(self) -> None:
        """Write the state; the next step of a resumed run is the one that would have come next."""
        self._check_finite()
        if not self.processes.is_main:
            return
        parts: dict[str, Any] = {
            "job": self.job,
            "config": self.config.to_toml(),
            "step": self.step,
            "progress": self.progress,
            "clips_factor": self._clips_factor,
            "seconds": self.seconds,
            "unit_step": list(self.unit_step),
            "model": self.model.state_dict(),
            "average": self.average.average,
            "objective": self.objective.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "adversary": self.adversary.state_dict() if self.adversary is not None else None,
            "random": torch.get_rng_state(),
        }
        if self.config.reports.state_pieces == "no":
            save_state(self.folder, parts)
        else:
            with self._averaged():
                self._store_weights()
            if self.config.reports.state_pieces == "half":  # the average is what the weights hold
                parts["average"] = None
                parts["model"] = halved(parts["model"], torch.float16)
                parts["optimizers"] = halved(parts["optimizers"], torch.bfloat16)
                parts["adversary"] = halved(parts["adversary"], torch.bfloat16)
            save_state_in_pieces(self.folder, parts)
        self.log.write("state", step=self.step, minutes=self.minutes)

    def _state(self) -> dict[str, Any]:
        parts = load_state(self.folder)
        if parts["job"] != self.job:
            raise UsageError(
                f"{self.folder} holds a run of {parts['job']}; resume it with cvcodec train {parts['job']}"
            )
        return parts

    def _load(self, parts: dict[str, Any]) -> None:
        self.step, self.seconds = parts["step"], parts["seconds"]
        self.unit_step = tuple(parts["unit_step"])
        try:
            self.model.load_state_dict(parts["model"])
            self.objective.load_state_dict(parts["objective"])
            self.optimizers.load_state_dict(parts["optimizers"])
            if self.adversary is not None and parts["adversary"] is not None:
                self.adversary.load_state_dict(parts["adversary"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"{self.folder} was begun with other options ({reason}); see its config.toml") from error
        self.average.load(parts["average"] or self._stored_average())
        torch.set_rng_state(parts["random"])
        self._begun_at = parts.get("progress", 0.0)
        self._set_clips_factor(parts.get("clips_factor", 1))
        self.log.say(f"resumed at step {self.step}, minute {self.minutes:.1f}")
        if self.processes.is_main and (changed := changes(read_config(self.folder), self.config)):
            self.log.say(f"settings changed since the run began: {', '.join(changed)}")
            write_config(self.folder, self.config)

    def _stored_average(self) -> list[Tensor]:
        stored = load_weights(join_pieces(self.folder)[WEIGHTS_NAME])
        return [stored[name] for name, _ in self.model.named_parameters()]

    # ------------------------------------------------------------------------------------------------ acceleration

    def _networks(self) -> list[torch.nn.Module]:
        """What a step spends its time in."""
        models = [model for model in (self.model, self.objective.image_model) if model is not None]
        parts = [model.get_submodule(name) for model in models for name in ("encoder", "decoder")]
        return [*parts, self.objective.rate]

    def _set_clips_factor(self, factor: int) -> None:
        self._clips_factor = factor
        self.shapes = tuple(
            dataclasses.replace(shape, clips=factor * shape.clips) for shape in self.config.data.batch_shapes
        )

    def _fill_device(self) -> None:
        """Choose how many times the clips of the config are taken, by the shape with the most pixels."""
        largest = max(self.config.data.batch_shapes, key=lambda shape: shape.clips * shape.frames * shape.size**2)

        def step(factor: int) -> None:
            self._rehearse(dataclasses.replace(largest, clips=factor * largest.clips))

        with self._compiler.off():
            factor, speeds = busy_factor(step, self.device)
        self._set_clips_factor(round(self.processes.agree(progress=factor, stop=False, report=False)[0]))
        shown = ", ".join(f"{speed / speeds[1]:.1f} at {factor}" for factor, speed in speeds.items())
        self.log.say(f"{self._clips_factor} times the clips of --batches (relative throughput {shown})")

    def _rehearse_all(self, shapes: Sequence[BatchShape]) -> None:
        """Have the networks compiled for batches of these shapes."""
        for shape in shapes:
            what = f"{shape.clips}x{shape.frames}x{shape.size}"
            self._compiler.rehearse(functools.partial(self._rehearse, shape), what)

    def _rehearse(self, shape: BatchShape) -> None:
        """A part of a step, on grey clips, without its update."""
        clips = shape.clips // self.processes.count // self.config.data.accumulate
        size = (clips, shape.frames, shape.size, shape.size, 3)
        grey = torch.zeros(size, device=self.device).permute(0, 4, 1, 2, 3)
        batch = Batch(self.step, tuple(range(clips)), grey)
        try:
            judged = self.objective(self.model, batch, progress=1.0, arithmetic=self.arithmetic)
            loss = judged.loss
            if self.adversary is not None:
                loss = loss + self.adversary.generator_term(judged, self._last_layer())
            loss.backward()
        finally:  # memory may have run out half way
            for parameter in self.optimizers.parameters:
                parameter.grad = None

    # ------------------------------------------------------------------------------------------------ the start

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the model has the averaged weights and is not compiled."""
        self.average.swap()
        try:
            with self._compiler.off():
                yield
        finally:
            self.average.swap()

    def _pca_clips(self) -> Iterator[Tensor]:
        return (clip for clips in self.data.extra_clips(_PCA_CLIPS, _PCA_SHAPE) for clip in clips.cpu())

    def _choose_unit_step(self) -> tuple[float, ...]:
        if self.start.unit_step is not None:
            return self.start.unit_step
        if self.config.quantisation.unit_step > 0:
            return (self.config.quantisation.unit_step,) * self.model.config.latent_channels
        return tuple(max(std, _LEAST_UNIT_STEP) for std in self._measure_statistics().std)


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise NumericalError(f"the loss is {loss} at step {step}; resume from the last state with lower learning rates")


def minutes_left(run: Trainer) -> float | None:
    """Of wall time, validation included, if the rest goes as what this process did so far; None before its first
    step."""
    done = run.progress - run._begun_at
    return (time.monotonic() - run._began) / 60 * (1 - run.progress) / done if done > 0 else None
