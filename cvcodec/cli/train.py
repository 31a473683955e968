"""`cvcodec train`: image-vae, video-vae, finetune, plot, pack, join.

Owns: an option for every field of the training config.
"""

from __future__ import annotations

import dataclasses
import inspect
import signal
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cvcodec.cli import options, report
from cvcodec.training.config import JOB_DEFAULTS, OPTIONS, Job, TrainConfig, check_values, read_config_file

app = typer.Typer(no_args_is_help=True, help="Train a 2D VAE, a compatible video VAE, or any checkpoint further.")

_JOB_HELP: dict[Job, str] = {
    "image-vae": "Train a 2D image VAE on photos and video frames: the frozen reference of a compatible video VAE.",
    "video-vae": "Inflate a 2D VAE and train the video VAE, its latents held in the 2D VAE's space (paper, section 3).",
    "finetune": "Train a checkpoint further; --freeze encoder keeps every existing .cvl file valid.",
}
_CONFIG_HELP = (
    "TOML or YAML file with any of the options below as keys (underscores for dashes); options on the line win."
)


def _train_command(job: Job) -> Callable[..., None]:
    def command(**given: Any) -> None:
        config_file: Path | None = given.pop("config_file")
        json: bool = given.pop("json")
        values: dict[str, Any] = read_config_file(config_file) if config_file is not None else {}
        values |= check_values(
            {name: value for name, value in given.items() if value is not None and value != []}, where="options"
        )
        from cvcodec.training.run_folder import resumed_values
        from cvcodec.training.trainer import train

        whole = resumed_values(values) if values.get("resume") else JOB_DEFAULTS[job] | values
        with report.progress("train", unit="steps/s") as meter:
            result = train(
                job, TrainConfig.of(**whole), on_line=_tell, on_progress=lambda step, total: meter(step, total=total)
            )
        if json:
            report.emit({"command": "train", "job": job, **dataclasses.asdict(result)})
        if result.interrupted:
            raise typer.Exit(128 + signal.SIGINT)

    argument = options.argument("[CONFIG]", _CONFIG_HELP)
    parameters = [
        inspect.Parameter(
            "config_file",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Path | None, argument],
        )
    ]
    for name, setting in OPTIONS.items():
        kind, metavar = _option_type(setting.hint)
        option = typer.Option(
            help=setting.field.metadata["help"],
            rich_help_panel=setting.group.capitalize(),
            metavar=metavar,
            show_default=_shown(JOB_DEFAULTS[job].get(name, setting.field.default)),
        )
        annotation = Annotated[kind, option]  # type: ignore[valid-type]  # made for typer at run time
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    parameters.append(inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=options.Json))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _option_type(hint: Any) -> tuple[Any, str | None]:
    """The type that typer sees, absent by default, and the word for its value."""
    if isinstance(hint, types.UnionType):
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    origin = typing.get_origin(hint)
    if origin is Literal:
        return str | None, "|".join(typing.get_args(hint))
    if origin is tuple:
        return list[typing.get_args(hint)[0]] | None, None  # type: ignore[misc]
    return hint | None, None


def _tell(event: str, line: str) -> None:
    """A line of the log; a bar that moves stands for those of steps."""
    if event == "warning":
        report.warn(line)
    elif event != "train" or not report.stderr_is_terminal():
        report.line(line)


def _shown(default: Any) -> str | bool:
    if default is None or default in ("", ()):
        return False
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


for _job, _help in _JOB_HELP.items():
    app.command(_job, help=_help)(_train_command(_job))


@app.command("plot")
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, drawn into one picture.", metavar="RUN...")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="PNG to write.", show_default="curves.png in the first run")
    ] = None,
    json: options.Json = False,
) -> None:
    """Draw loss, bits and PSNR curves of runs as a PNG."""
    from cvcodec.training.log import CURVES_NAME, plot_runs

    drawn = plot_runs(runs, output or runs[0] / CURVES_NAME)
    if json:
        report.emit({"command": "train plot", "output": drawn})
    else:
        report.show(str(drawn))


@app.command("pack")
def pack(
    data: Annotated[list[str], typer.Argument(help="Folders, lists and manifests, as for --data.", metavar="DATA...")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make; its MANIFEST.tsv is the new --data.")],
    megabytes: Annotated[float, typer.Option("--megabytes", help="Largest size of the folder, in MiB.")] = 40.0,
    short_side: Annotated[int, typer.Option("--short-side", help="Pixels that clips are scaled down to.")] = 256,
    frames: Annotated[int, typer.Option("--frames", help="First frames of each video; 0: all.")] = 0,
    codec: Annotated[str, typer.Option("--codec", help="Encoder, as for decode.")] = "libx265",
    preset: Annotated[str, typer.Option("--preset", help="Of the encoder.")] = "medium",
    val_fraction: Annotated[float, typer.Option("--val-fraction", help="As for video-vae.")] = 0.1,
    json: options.Json = False,
) -> None:
    """Scale training clips and photos down and code them again, so that they fit a number of bytes: for a machine that
    is reached through a narrow door, or rented for a short while."""
    from cvcodec.dataset.pack import pack as make_pack

    packed = make_pack(
        data, output, budget_bytes=int(megabytes * 2**20), short_side=short_side, frames=frames, codec=codec,
        preset=preset, val_fraction=val_fraction, report=lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    if json:
        report.emit({"command": "train pack", **dataclasses.asdict(packed)})
    else:
        typer.echo(
            f"{packed.videos} videos ({packed.frames} frames) at CRF {packed.crf:g} and {packed.photos} photos, "
            f"{packed.size_bytes / 2**20:.1f} MiB in {packed.folder}"
        )


@app.command("join")
def join(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")],
    json: options.Json = False,
) -> None:
    """Join the pieces that --state-pieces left: state.pt and model.safetensors in the run folder."""
    from cvcodec.training.run_folder import write_joined

    written = write_joined(run)
    if json:
        report.emit({"command": "train join", "outputs": written})
    else:
        for path in written:
            typer.echo(path)
