"""What a person or a shell script sees of the program itself: help, version, exit codes, signals, closed pipes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cvcodec
from cvcodec import errors

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and pipes")

# A program of our shape with one command that behaves as the argument says, run by the real `run`.
PROGRAM = """
import os, signal, sys, time
import typer
from cvcodec import errors, fileio
from cvcodec.cli import app as cli, report

application = typer.Typer()

@application.command()
def behave(how: str, path: str = "", times: int = 1) -> None:
    if how == "fail":
        raise getattr(errors, path)("first line\\nsecond [red]line[/red]")
    if how == "crash":
        raise KeyError("nobody expected this")
    if how == "memory":
        raise MemoryError
    if how == "open":
        open(path)
    if how == "print":
        for number in range(times):
            report.emit({"line": number})
    if how == "write":
        with fileio.atomic_output(path) as file:
            file.write(b"half")
            file.flush()
            print("writing", flush=True)
            time.sleep(60)
    if how == "import":
        sys.path.insert(0, path)
        try:
            import interrupted
        except BaseException:
            print("half a module", flush=True)
        else:
            print("a whole module", flush=True)
        time.sleep(60)
    if how == "finalise":
        class Interrupted:
            def __del__(self):
                signal.raise_signal(signal.SIGINT)
        Interrupted()
        time.sleep(60)

sys.exit(cli.run(application, sys.argv[1:]))
"""


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        timeout=300,
    )


def run_cvcodec(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "cvcodec", *arguments], capture_output=True, text=True, check=False)


def test_help_imports_neither_torch_nor_av_nor_numpy() -> None:
    code = """
import sys
from cvcodec.cli import app
sys.argv = ["cvcodec", "--help"]
try:
    app.main()
finally:
    heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "av", "numpy", "safetensors"})
    print(heavy, file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
    assert "Usage: cvcodec" in result.stdout
    assert "models" in result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_every_way_of_asking_for_help_shows_the_commands_and_succeeds(arguments: list[str]) -> None:
    result = run_cvcodec(*arguments)
    assert result.returncode == 0
    assert "Commands" in result.stdout
    assert result.stderr == ""


def test_the_version_is_that_of_the_package() -> None:
    result = run_cvcodec("--version")
    assert (result.returncode, result.stdout) == (0, f"cvcodec {cvcodec.__version__}\n")


@posix
@pytest.mark.parametrize("closing", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", [["models", "list"], ["--version"]])
def test_what_is_done_is_done_whatever_standard_streams_are_closed(closing: str, arguments: list[str]) -> None:
    result = subprocess.run(
        f"{sys.executable} -m cvcodec {' '.join(arguments)} {closing}", shell=True, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")


@posix
def test_no_file_takes_the_number_of_a_closed_standard_stream() -> None:
    code = (
        "import os; from cvcodec.cli import app; app.prepare_standard_streams(); print(os.open('/', os.O_RDONLY) > 2)"
    )
    done = subprocess.run(f'{sys.executable} -c "{code}" <&- 2>&-', shell=True, capture_output=True, text=True)
    assert done.stdout == "True\n"


def test_a_terminal_without_a_names_letters_gets_escapes(tmp_path: Path) -> None:
    (tmp_path / "\u0151.cvl").write_bytes(b"nothing")
    code = "import sys; from cvcodec.cli import app, report; app.prepare_standard_streams(); report.show('\u0151')"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert (done.stdout, done.returncode) == (b"\\u0151\n", 0)


def test_a_table_in_a_pipe_is_not_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.table import Table

    from cvcodec.cli import report

    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table("name")
    table.add_row("long" * 60)
    report.stdout_console().print(table)
    assert "long" * 60 in capsys.readouterr().out


def _error_classes(root: type[errors.CvcodecError]) -> list[type[errors.CvcodecError]]:
    return [root, *(found for child in root.__subclasses__() for found in _error_classes(child))]


@pytest.mark.parametrize("name", ["CvcodecError", "UsageError", "OutputError", "MissingDependencyError"])
def test_an_error_of_ours_is_one_line_and_its_own_exit_code(name: str) -> None:
    result = program("fail", "--path", name)
    assert result.returncode == getattr(errors, name).exit_code
    assert result.stderr == "cvcodec: error: first line second [red]line[/red]\n"
    assert result.stdout == ""


def test_exit_codes_are_those_drawn_in_the_error_tree_and_none_means_something_else() -> None:
    drawing = errors.__doc__ or ""
    for kind in _error_classes(errors.CvcodecError):
        own = "exit_code" in vars(kind)
        line = next(line for line in drawing.splitlines() if kind.__name__ in line.split())
        assert (f"exit code {kind.exit_code} " in line) == own, line
        assert 1 <= kind.exit_code <= 9


def test_a_debug_variable_adds_the_traceback() -> None:
    result = program("fail", "--path", "InputError", CVCODEC_DEBUG="1")
    assert result.returncode == 3
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("cvcodec: error: first line second [red]line[/red]\n")


@pytest.mark.parametrize("arguments", [["behave"], ["fail", "--no-such-option"], ["print", "--times", "many"], []])
def test_a_command_line_that_cannot_be_understood_is_one_line_and_exit_code_2(arguments: list[str]) -> None:
    if arguments == ["behave"]:
        arguments = ["print", "surplus"]
    result = program(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("cvcodec: error: ")
    assert result.stderr.endswith("(see: cvcodec --help)\n")
    assert result.stderr.count("\n") == 1


def test_a_defect_asks_for_a_report_in_one_line_and_shows_the_traceback_on_demand() -> None:
    result = program("crash")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert f"defect in cvcodec {cvcodec.__version__}" in result.stderr
    assert "KeyError: 'nobody expected this' at <string>:" in result.stderr
    assert "CVCODEC_DEBUG=1" in result.stderr
    assert "Traceback (most recent call last)" in program("crash", CVCODEC_DEBUG="1").stderr


def test_running_out_of_memory_is_a_device_error_with_a_way_out() -> None:
    result = program("memory")
    assert result.returncode == errors.DeviceError.exit_code
    assert result.stderr == "cvcodec: error: out of memory; use a smaller --window or --tile\n"


def test_an_error_of_the_system_names_the_file(tmp_path: Path) -> None:
    result = program("open", "--path", str(tmp_path / "absent"))
    assert result.returncode == 1
    assert result.stderr == f"cvcodec: error: {tmp_path / 'absent'}: No such file or directory\n"


@posix
@pytest.mark.parametrize(
    ("number", "message"),
    [(signal.SIGINT, "cvcodec: error: interrupted\n"), (signal.SIGTERM, ""), (signal.SIGHUP, "")],
)
def test_a_stopped_command_leaves_nothing_behind_and_says_by_what(
    tmp_path: Path, number: signal.Signals, message: str
) -> None:
    command = [sys.executable, "-c", PROGRAM, "write", "--path", str(tmp_path / "out.cvl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert [path.suffix for path in tmp_path.iterdir()] == [".cvl"]
        process.send_signal(number)
        _, complaints = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert complaints == message
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_waits_for_the_end_of_an_import(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    result = program("import", "--path", str(tmp_path))
    assert (result.stdout, result.stderr) == ("a whole module\n", "cvcodec: error: interrupted\n")
    assert result.returncode == 130


def test_an_interrupt_while_the_program_itself_is_imported_is_one_line() -> None:
    code = """
import signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "cvcodec.cli.app":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from cvcodec.__main__ import main
main()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (130, "cvcodec: error: interrupted\n")


def test_an_interrupt_in_a_finalizer_is_not_lost() -> None:
    result = program("finalise")
    assert (result.returncode, result.stderr) == (130, "cvcodec: error: interrupted\n")


@posix
def test_an_interrupt_after_the_end_does_not_change_the_exit_code() -> None:
    code = """
import os, signal, sys
from cvcodec.cli import app
sys.argv = ["cvcodec", "--version"]
class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGINT):
        kill(process, number)
late = Late()  # until Python takes down its modules
app.main()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_after_an_interrupt_nobody_waits_for_threads_or_for_python_to_take_itself_down() -> None:
    code = """
import signal, sys, threading, time
from cvcodec.cli import app
threading.Thread(target=time.sleep, args=(60,)).start()
app.app.command("stop")(lambda: signal.raise_signal(signal.SIGINT))
sys.argv = ["cvcodec", "stop"]
app.main()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert (result.returncode, result.stderr) == (130, "cvcodec: error: interrupted\n")


@posix
def test_a_reader_that_leaves_early_is_no_error_worth_words() -> None:
    command = [sys.executable, "-c", PROGRAM, "print", "--times", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == '{"line": 0}\n'
        process.stdout.close()
        assert process.stderr is not None
        complaints = process.stderr.read()
    assert process.returncode == 1
    assert complaints == ""


@posix
def test_nohup_is_respected(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + PROGRAM.replace("sleep(60)", "sleep(0.5)")
    command = [sys.executable, "-c", code, "write", "--path", str(tmp_path / "out.cvl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGHUP)
    assert process.returncode == 0
    assert (tmp_path / "out.cvl").read_bytes() == b"half"
