"""The `cvcodec` program: its commands, and the one place where errors become a line and an exit code.

Owns: registration of commands, `--version`, signals, exit codes.

Exit codes: 0 done; those of the error tree (see `cvcodec.errors`); 2 also for a command line typer refuses; 130 and
128 + N when stopped by Ctrl-C or by signal N; 1 for a closed pipe, and for a defect of ours, which asks for a report.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Annotated, NoReturn

import typer

from cvcodec import __version__
from cvcodec.cli import batch, bench, decode, encode, eval, export, import_, info, models, report, train
from cvcodec.errors import CvcodecError, DeviceError, OutputError
from cvcodec.fileio import is_full, prepare_standard_streams
from cvcodec.system import host

DEBUG_VARIABLE = "CVCODEC_DEBUG"
"""Environment variable: 1 shows tracebacks."""

_INTERRUPTED = 128 + signal.SIGINT
_AGAIN_S = 0.05  # how long a signal waits that comes where it would be lost

app = typer.Typer(
    name="cvcodec",
    help="A neural video codec and latent cache: CV-VAE for files of any length and size.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cvcodec {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("encode", no_args_is_help=True)(encode.encode)
app.command("decode", no_args_is_help=True)(decode.decode)
app.command("info", no_args_is_help=True)(info.info)
app.command("eval")(eval.evaluate)
app.command("bench", no_args_is_help=True)(bench.bench)
app.command("batch", no_args_is_help=True)(batch.batch)
app.command("export", no_args_is_help=True)(export.export)
app.command("import", no_args_is_help=True)(import_.import_latents)
app.add_typer(models.app, name="models")
app.add_typer(train.app, name="train")


def main() -> NoReturn:
    """Run the program and end the process: the console script."""
    # Python takes its handlers back before it takes down its modules, and an interrupt would then change the exit code
    # of what is done.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    host.keep_freed_memory()
    code = run(app)
    if code == _INTERRUPTED:
        # All files are as they shall be. A thread that is still inside FFmpeg or torch must not meet with libraries
        # that are being taken down, and nobody who interrupts wants to wait for that.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(application: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a typer application as this process's program and give its exit code.

    arguments: those after the program's name; None for the process's own. What is not an error of ours is left to
    `sys.excepthook`, which this sets to a short report.
    """
    sys.excepthook = _report_defect
    prepare_standard_streams()
    _exit_on_signals()
    try:
        code = _run(application, arguments)
        if code == _INTERRUPTED:
            report.error("interrupted")
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone, for instance `| head`. Python would complain once more when it flushes at exit.
        _discard_stdout()
        return 1
    except OSError as error:  # what was still in the buffer of standard output
        _discard_stdout()
        return _report_system_error(error)
    return code


def _discard_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_system_error(error: OSError) -> int:
    """The exit code; a full disk behind standard output is an output that cannot be written."""
    full = is_full(error)
    name = error.filename or ("standard output cannot be written" if full else None)
    report.error(f"{name}: {error.strerror}" if name else str(error))
    return OutputError.exit_code if full else 1


def _run(application: typer.Typer, arguments: Sequence[str] | None) -> int:
    try:
        command = typer.main.get_command(application)
        result = command.main(arguments, prog_name="cvcodec", standalone_mode=False)
    except CvcodecError as error:
        _show_traceback_if_asked(error)
        report.error(str(error) or type(error).__name__)
        return error.exit_code
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        if message := error.format_message():
            report.error(message + (f" (see: {context.command_path} --help)" if context else ""))
        return error.exit_code
    except typer.Abort:
        report.error("aborted")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except MemoryError as error:
        _show_traceback_if_asked(error)
        report.error("out of memory; use a smaller --window or --tile")
        return DeviceError.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:
        _show_traceback_if_asked(error)
        return _report_system_error(error)
    # Commands return nothing; what comes back otherwise is the code of a typer.Exit.
    return result if isinstance(result, int) else 0


def _exit_on_signals() -> None:
    """Let termination unwind the stack, so that temporary files are removed."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit_on_signal)
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        # nohup(1) has SIGHUP ignored, and it stays so.
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _exit_on_signal)


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    if _swallows_exceptions(frame):
        _send_again(number)
    elif number == signal.SIGINT:
        raise KeyboardInterrupt
    else:
        raise SystemExit(128 + number)


def _send_again(number: int) -> None:
    """Soon. It is a signal that comes then: it ends waiting, too, and asking for it takes neither locks nor threads."""
    if sys.platform == "win32":
        threading.Timer(_AGAIN_S, _thread.interrupt_main, (number,)).start()
    else:
        signal.signal(signal.SIGALRM, lambda _, frame: _exit_on_signal(number, frame))
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)


def _swallows_exceptions(frame: FrameType | None) -> bool:
    """Whether what is raised here may get lost: in finalizers, and in imports, some of which are made by C code that
    goes on with half a module (torch's of NumPy)."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _report_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook`: an exception nobody expected is a defect of ours. Python exits with 1 afterwards."""
    _show_traceback_if_asked(error)
    if issubclass(kind, KeyboardInterrupt):  # before or after the command itself
        report.error("interrupted")
        return
    where = traceback.extract_tb(trace)[-1:]
    place = f" at {os.path.basename(where[0].filename)}:{where[0].lineno}" if where else ""
    hint = "" if _wants_tracebacks() else f"; {DEBUG_VARIABLE}=1 shows where"
    report.error(f"this is a defect in cvcodec {__version__}, please report it: {kind.__name__}: {error}{place}{hint}")


def _wants_tracebacks() -> bool:
    return os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")


def _show_traceback_if_asked(error: BaseException) -> None:
    if _wants_tracebacks():
        traceback.print_exception(error)
