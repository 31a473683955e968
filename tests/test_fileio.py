"""A file appears whole or not at all; nothing is overwritten unasked; nothing is left behind."""

import errno
import io
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cvcodec.errors import InputError, OutputError
from cvcodec.fileio import atomic_output, atomic_path, check_output, make_folder, open_input, partial_path, replacing

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX file systems")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_only_at_the_end_and_whole(tmp_path: Path) -> None:
    target = tmp_path / "out.cvl"
    with atomic_output(target) as file:
        file.write(b"abc")
        file.flush()
        assert not target.exists()
        assert len(names(tmp_path)) == 1
    assert target.read_bytes() == b"abc"
    assert names(tmp_path) == ["out.cvl"]


def test_what_was_written_can_be_read_back_and_changed_before_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out.cvl"
    with atomic_output(target) as file:
        file.write(b"abcdef")
        file.seek(2)
        assert file.read(2) == b"cd"
        file.seek(0)
        file.write(b"X")
    assert target.read_bytes() == b"Xbcdef"


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_nothing_is_left_when_the_work_stops(tmp_path: Path, stop: type[BaseException]) -> None:
    for open_output in (atomic_output, atomic_path):
        with pytest.raises(stop), open_output(tmp_path / "out.cvl"):
            raise stop
    assert names(tmp_path) == []


def test_the_old_file_survives_a_failed_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "out.cvl"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_output(target, overwrite=True) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert target.read_bytes() == b"old"
    with atomic_output(target, overwrite=True) as file:
        file.write(b"new")
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["out.cvl"]


def test_an_existing_file_is_refused_before_any_work(tmp_path: Path) -> None:
    target = tmp_path / "out.cvl"
    target.write_bytes(b"old")
    for open_output in (atomic_output, atomic_path):
        with pytest.raises(OutputError, match="exists; use -y to overwrite"), open_output(target):
            pytest.fail("the block must not run")
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    if not hard_links:
        monkeypatch.setattr(os, "link", _no_links, raising=False)
    target = tmp_path / "out.cvl"
    with pytest.raises(OutputError, match="appeared while it was being written"), atomic_output(target) as file:
        file.write(b"ours")
        target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs"
    assert names(tmp_path) == ["out.cvl"]


def test_a_file_system_without_hard_links_does_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _no_links, raising=False)
    with atomic_output(tmp_path / "out.cvl") as file:
        file.write(b"abc")
    assert (tmp_path / "out.cvl").read_bytes() == b"abc"
    assert names(tmp_path) == ["out.cvl"]


def _no_links(source: object, target: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_the_source_is_refused_as_output_under_any_of_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in.mp4"
    source.write_bytes(b"video")
    monkeypatch.chdir(tmp_path)
    aliases = ["in.mp4", str(tmp_path / "in.mp4"), os.path.join("..", tmp_path.name, "in.mp4")]
    if os.name != "nt":
        (tmp_path / "soft.mp4").symlink_to(source)
        os.link(source, tmp_path / "hard.mp4")
        aliases += ["soft.mp4", "hard.mp4"]
    for alias in aliases:
        with (
            pytest.raises(OutputError, match="is the source itself"),
            atomic_output(alias, overwrite=True, inputs=[source]),
        ):
            pytest.fail("the block must not run")
    assert source.read_bytes() == b"video"
    check_output("other.mp4", inputs=[source, "-"])


def test_a_folder_and_a_missing_folder_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match=r"folder .*nowhere does not exist"):
        check_output(tmp_path / "nowhere" / "out.cvl")


@posix
def test_a_name_the_system_refuses_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long"), atomic_path(tmp_path / ("x" * 300)):
        pass
    with pytest.raises(OutputError, match="File name too long"):
        with atomic_output(tmp_path / ("x" * 252), keep_partial=True):
            pytest.fail("the block must not run")


@posix
def test_the_longest_name_there_is_can_be_written(tmp_path: Path) -> None:
    with atomic_output(tmp_path / ("x" * 251 + ".cvl")) as file:
        file.write(b"abc")
    assert names(tmp_path) == ["x" * 251 + ".cvl"]


@posix
def test_the_mode_follows_the_umask_and_an_overwritten_file_keeps_its_own(tmp_path: Path) -> None:
    target = tmp_path / "out.cvl"
    before = os.umask(0o027)
    try:
        with atomic_output(target):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    target.chmod(0o600)
    with atomic_output(target, overwrite=True):
        pass
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@posix
def test_a_symbolic_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "out.cvl"
    link.symlink_to(tmp_path / "real" / "data.cvl")
    with atomic_output(link) as file:
        file.write(b"abc")
    assert link.is_symlink()
    assert (tmp_path / "real" / "data.cvl").read_bytes() == b"abc"


@posix
def test_devices_are_written_directly_and_stay_devices() -> None:
    with atomic_output(os.devnull) as file:
        file.write(b"abc")
        assert not file.seekable()
    with atomic_path(os.devnull) as path:
        assert str(path) == os.devnull
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@posix
def test_a_named_pipe_carries_what_is_written(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    with atomic_output(pipe) as file:
        file.write(b"abc")
        with pytest.raises(io.UnsupportedOperation):
            file.tell()
    reader.join(10)
    assert received == [b"abc"]
    assert names(tmp_path) == ["pipe"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left on device"), atomic_output(tmp_path / "out.cvl") as file:
        file.write(b"abc")
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"abc")
    assert names(tmp_path) == []


def test_errors_of_other_files_pass_through_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_output(tmp_path / "out.cvl"):
        (tmp_path / "absent").open()
    with pytest.raises(FileExistsError), atomic_output(tmp_path / "out.cvl"):
        tmp_path.mkdir()
    assert names(tmp_path) == []


def test_a_partial_file_stays_under_its_known_name_and_is_resumed(tmp_path: Path) -> None:
    target = tmp_path / "out.cvl"
    with pytest.raises(KeyboardInterrupt), atomic_output(target, keep_partial=True) as file:
        file.write(b"first")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["out.cvl.partial"]
    assert partial_path(target).read_bytes() == b"first"
    with atomic_output(target, keep_partial=True, resume=True) as file:
        assert file.read() == b"first"
        file.write(b" second")
    assert target.read_bytes() == b"first second"
    assert names(tmp_path) == ["out.cvl"]


def test_without_resume_a_partial_file_is_started_over(tmp_path: Path) -> None:
    target = tmp_path / "out.cvl"
    partial_path(target).write_bytes(b"a longer one from an earlier run")
    with atomic_output(target, keep_partial=True) as file:
        file.write(b"new")
    assert target.read_bytes() == b"new"


@posix
@pytest.mark.parametrize("kind", ["symbolic", "dangling", "hard", "pipe"])
def test_a_partial_file_that_leads_elsewhere_is_refused_and_what_it_leads_to_stays(tmp_path: Path, kind: str) -> None:
    target, precious = tmp_path / "out.cvl", tmp_path / "precious"
    precious.write_bytes(b"of somebody else")
    partial = partial_path(target)
    if kind == "hard":
        os.link(precious, partial)
    elif kind == "pipe":
        os.mkfifo(partial)
    else:
        partial.symlink_to(precious if kind == "symbolic" else tmp_path / "absent")
    before = names(tmp_path)
    for options in ({"named_partial": True}, {"keep_partial": True}, {"keep_partial": True, "resume": True}):
        for overwrite in (False, True):
            with pytest.raises(OutputError, match=r"out\.cvl\.partial is a link or no plain file.*; remove it"):
                with atomic_output(target, overwrite=overwrite, **options):
                    pytest.fail("the block must not run")
    assert names(tmp_path) == before
    assert precious.read_bytes() == b"of somebody else"


@posix
def test_a_name_that_the_program_chose_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"of somebody else")
    (tmp_path / "state").symlink_to(tmp_path / "precious")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "state"):
        raise ZeroDivisionError
    assert (tmp_path / "state").is_symlink()
    with replacing(tmp_path / "state") as file:
        file.write(b"ours")
    assert (tmp_path / "state").read_bytes() == b"ours"
    assert (tmp_path / "precious").read_bytes() == b"of somebody else"
    assert names(tmp_path) == ["precious", "state"]


def test_two_writers_of_one_partial_file_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "out.cvl"
    with atomic_output(target, keep_partial=True) as file:
        file.write(b"abc")
        with pytest.raises(OutputError, match="being written by another process"):
            with atomic_output(target, keep_partial=True):
                pytest.fail("the block must not run")
    assert target.read_bytes() == b"abc"


def test_atomic_path_keeps_the_suffix_and_takes_a_replaced_file(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "out.png") as path:
        assert path.suffix == ".png"
        path.unlink()
        path.write_bytes(b"picture")
    assert (tmp_path / "out.png").read_bytes() == b"picture"
    assert names(tmp_path) == ["out.png"]


def test_standard_output_has_no_path() -> None:
    with pytest.raises(OutputError, match="name a file"), atomic_path("-"):
        pass


def test_a_killed_writer_leaves_nothing_at_the_final_path(tmp_path: Path) -> None:
    code = """
import os, sys
from cvcodec.fileio import atomic_output
with atomic_output(sys.argv[1], keep_partial=True) as file:
    file.write(b"abc"); file.flush(); os._exit(9)
"""
    target = tmp_path / "out.cvl"
    assert subprocess.run([sys.executable, "-c", code, target], check=False).returncode == 9
    assert names(tmp_path) == ["out.cvl.partial"]


COPY = """
import sys
from cvcodec.fileio import atomic_output, open_input
with open_input("-") as source, atomic_output("-") as target:
    assert not source.seekable() and not target.seekable()
    while piece := source.read(100_000):
        target.write(piece)
"""


def test_standard_streams_carry_bytes_unchanged(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000 + b"\r\n\n\x1a"
    result = subprocess.run([sys.executable, "-c", COPY], input=data, capture_output=True, check=True)
    assert result.stdout == data


def test_standard_output_appends_where_the_shell_says_so(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"before ")
    with log.open("ab") as file:
        subprocess.run([sys.executable, "-c", COPY], input=b"after", stdout=file, check=True)
    assert log.read_bytes() == b"before after"


def test_what_a_pipe_has_now_can_be_read_before_it_ends() -> None:
    code = "from cvcodec.fileio import open_input\nwith open_input('-') as f: print(f.read(3), flush=True); f.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"abc")
        process.stdin.flush()
        assert process.stdout.readline().strip() == b"b'abc'"
        process.stdin.close()


@posix
def test_a_terminal_is_neither_read_nor_filled_with_binary_data() -> None:
    import pty

    main, terminal = pty.openpty()
    try:
        for name, stream in (("open_input", "stdin"), ("atomic_output", "stdout")):
            code = f"from cvcodec.fileio import {name}\nwith {name}('-'): pass"
            streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, stream: terminal}
            result = subprocess.run(
                [sys.executable, "-c", code], **streams, stderr=subprocess.PIPE, text=True, check=False
            )
            assert result.returncode == 1
            assert "is a terminal" in result.stderr
    finally:
        os.close(main)
        os.close(terminal)


def test_inputs_that_cannot_be_read_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"), open_input(tmp_path / "absent.mp4"):
        pass
    with pytest.raises(InputError, match="is a folder"), open_input(tmp_path):
        pass
    (tmp_path / "in.mp4").write_bytes(b"video")
    with open_input(tmp_path / "in.mp4") as file:
        assert file.read() == b"video"
    assert file.closed


def test_a_folder_is_made_with_those_above_it_and_refused_where_a_file_stands(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a/b") == make_folder(str(tmp_path / "a/b")) == tmp_path / "a/b"
    assert (tmp_path / "a/b").is_dir()
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(OutputError, match=r"file.* cannot be created: "):
            make_folder(folder)
