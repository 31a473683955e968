"""Files that appear whole or not at all, wherever they lie, and `-` for standard input and output.

Owns: temporary names, the final rename, partial files that a later run may resume, refusing to overwrite, what a
file's suffix says of it.
Does not know: what is written, how addresses are reached (`remote`). Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeGuard, cast

from cvcodec.errors import BitstreamError, InputError, OutputError
from cvcodec.remote import check_free, is_remote, path_of, uploaded

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

StrPath = str | os.PathLike[str]

STANDARD_STREAM = "-"
"""The name that stands for standard input or standard output. A file of that name is `./-`, given as a string."""

PARTIAL_SUFFIX = ".partial"

_VIDEO = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .m2ts .mts .flv .ogv .wmv .3gp .y4m .gif .apng .mxf .vob"
_IMAGE = ".jpg .jpeg .png .webp .bmp .tif .tiff .ppm .avif .heic .jxl"
VIDEO_SUFFIXES, IMAGE_SUFFIXES = frozenset(_VIDEO.split()), frozenset(_IMAGE.split())
"""What is taken for a video or a picture where a folder is searched; a file that is named may be called anything."""

_LONGEST_NAME = 255  # bytes, on nearly every file system

_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NO_HARD_LINKS = {
    *(errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL),
    *(errno.ENOTSUP, errno.EOPNOTSUPP),
}
"""What link(2) answers on file systems without hard links (FAT, exFAT, many network mounts)."""


def is_standard_stream(path: StrPath) -> bool:
    """Whether `path` is `-`."""
    return os.fspath(path) == STANDARD_STREAM


def refuse_address(text: str) -> None:
    """InputError for an address (`https://...`): files are read, and no file of a stranger has others fetched."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise InputError(f"{text} is an address, and this reads files; download it first, or pipe it in")


def prepare_standard_streams() -> None:
    """For a program: what is written to a closed standard stream (`>&-`) goes nowhere, and no file takes its number, to
    which C libraries write; what the encoding of standard output lacks is written as `\\u` escapes."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: the stream's own
            if name != "stdin":
                setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace"))
        elif name == "stdout" and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")


def partial_path(path: StrPath) -> Path:
    """Where `atomic_output` writes, with `named_partial` or `keep_partial`, until it is finished: `OUT.cvl.partial`.
    Beside an address nothing is written."""
    target = path_of(path) if is_remote(path) else _resolve(path)
    return target.with_name(target.name + PARTIAL_SUFFIX)


def check_output(path: StrPath, *, overwrite: bool = False, inputs: Iterable[StrPath] = ()) -> None:
    """Refuse early what `atomic_output` would refuse, before any work is done. Raises OutputError."""
    if is_remote(path):
        if any(os.fspath(source) == os.fspath(path) for source in inputs):
            raise OutputError(f"{os.fspath(path)} is the source itself; name another output")
        check_free(path, overwrite=overwrite)
        return
    if is_standard_stream(path) or _is_special(Path(path)):
        return
    name = os.fspath(path)
    target = _resolve(path)
    if any(_same_file(source, target) for source in inputs if not is_standard_stream(source)):
        raise OutputError(f"{name} is the source itself; name another output")
    with _naming_output(path):  # a name that is too long or leads through a file, a folder that may not be searched
        if not target.parent.is_dir():
            raise OutputError(f"{name} cannot be written: the folder {target.parent} does not exist; create it first")
        if target.is_dir():
            raise OutputError(f"{name} is a folder; name a file in it")
        if target.exists() and not overwrite:
            raise OutputError(f"{name} exists; use -y to overwrite it")


def make_folder(folder: StrPath) -> Path:
    """The folder, made with those above it where they are missing; an address as it is. Raises OutputError."""
    if is_remote(folder):
        return path_of(folder)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{os.fspath(folder)} cannot be created: {error.strerror or error}") from error
    return Path(folder)


@contextlib.contextmanager
def atomic_output(
    path: StrPath,
    *,
    overwrite: bool = False,
    inputs: Iterable[StrPath] = (),
    named_partial: bool = False,
    keep_partial: bool = False,
    resume: bool = False,
) -> Iterator[BinaryIO]:
    """Open `path` for binary reading and writing so that it appears only when the block ends well.

    Until then bytes go to a temporary file in the same folder, which is removed on any exception, KeyboardInterrupt and
    SystemExit included (the command line turns SIGTERM into SystemExit). At the end it is flushed to the disk and
    renamed; the block leaves it open. With `named_partial` the temporary file is `partial_path(path)`, locked against a
    second writer, so that a later run finds it when this process is killed; one that is there already is refused unless
    `overwrite`. With `keep_partial` it is left there whenever the block fails, and emptied by the next run, except that
    `resume` opens it as it is, at its start.

    `-` is standard output; devices and named pipes are written directly. None of these can seek or tell. A file for an
    address is written on this machine and uploaded when it is complete; it leaves no partial file.
    Raises OutputError if `path` exists and `overwrite` is false, if it is one of `inputs`, if it cannot be created, if
    another process writes its partial file, or if the disk is full.
    """
    if is_standard_stream(path):
        with _standard_output() as stream, _reporting_full("standard output"):
            yield stream
        return
    check_output(path, overwrite=overwrite, inputs=inputs)
    if is_remote(path):
        with _reporting_full(path), uploaded(path, overwrite=overwrite) as beside, beside.open("rb+") as local:
            yield local
            local.flush()
        return
    target = _resolve(path)
    if _is_special(target):
        # Unbuffered: what a full device refuses is refused in the block, not when a buffer is emptied as it closes.
        with _reporting_full(path), target.open("wb", buffering=0) as device:
            yield cast(BinaryIO, _ForwardOnly(cast(BinaryIO, device), os.fspath(path)))
        return
    named = keep_partial or (named_partial and len(os.fsencode(partial_path(path).name)) <= _LONGEST_NAME)
    temporary = partial_path(path) if named else _temporary_path(target)
    with _naming_output(path):
        file = _create_named(temporary) if named else _create(temporary)
    ours = not named  # to be removed when the block fails
    try:
        with file:
            if named:
                _claim(file, temporary, path)
                if not (keep_partial or overwrite) and os.fstat(file.fileno()).st_size:
                    raise OutputError(
                        f"{temporary} was left by an interrupted run; --resume goes on with it, -y starts over"
                    )
                ours = not keep_partial
                if not resume:
                    file.truncate(0)
            try:
                yield file
            except BaseException:
                with contextlib.suppress(OSError):
                    file.flush()
                ours = ours or not os.fstat(file.fileno()).st_size  # nothing in it to go on with
                raise
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":
                file.close()  # Windows does not rename open files; elsewhere the lock is held until the name is final
            with _naming_output(path):
                _publish(temporary, target, overwrite=overwrite)
    except BaseException as error:
        if ours:
            temporary.unlink(missing_ok=True)
        _raise_if_full(error, path)
        raise


@contextlib.contextmanager
def atomic_path(path: StrPath, *, overwrite: bool = False, inputs: Iterable[StrPath] = ()) -> Iterator[Path]:
    """As `atomic_output`, for libraries that want a path: yields that of an empty temporary file with the same suffix.

    The block writes or replaces that file. A device or a named pipe is yielded as it is. Raises OutputError as
    `atomic_output` does, and for `-`, which has no path.
    """
    if is_standard_stream(path):
        raise OutputError("standard output cannot be used here: this output must be able to seek; name a file")
    check_output(path, overwrite=overwrite, inputs=inputs)
    if is_remote(path):
        with _reporting_full(path), uploaded(path, overwrite=overwrite) as beside:
            yield beside
        return
    target = _resolve(path)
    if _is_special(target):
        yield target
        return
    temporary = _temporary_path(target)
    with _naming_output(path):
        _create(temporary).close()
    try:
        yield temporary
        with _naming_output(path):
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            _publish(temporary, target, overwrite=overwrite)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _raise_if_full(error, path)
        raise


@contextlib.contextmanager
def replacing(path: StrPath) -> Iterator[BinaryIO]:
    """A file that takes the place of whatever is called `path`, links included, when the block ends well: for names
    that the program chooses itself. What the system answers passes through as OSError.
    """
    temporary = _temporary_path(Path(path))
    try:
        with _create(temporary) as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def open_input(path: StrPath) -> Iterator[BinaryIO]:
    """Open a file for binary reading; `-` is standard input, which cannot seek or tell; an address is read piece by
    piece, where it is asked for.

    Raises InputError for a file that is missing, is a folder or may not be read, and for `-` at a terminal.
    """
    if is_standard_stream(path):
        if sys.stdin is None:
            raise InputError("standard input is closed; pipe data into it or name a file")
        if sys.stdin.isatty():
            raise InputError("standard input is a terminal; pipe data into it or name a file")
        _binary_mode(sys.stdin.fileno())
        yield cast(BinaryIO, io.BufferedReader(_ForwardOnly(_unbuffered(sys.stdin.buffer), "standard input"), 1 << 16))
        return
    if is_remote(path):
        with path_of(path).open("rb") as remote:
            yield remote
        return
    name = os.fspath(path)
    try:
        file = Path(path).open("rb")  # noqa: SIM115  # closed below; only the opening may raise InputError
    except FileNotFoundError:
        refuse_address(name)
        raise InputError(f"{name}: no such file") from None
    except OSError as error:
        if Path(path).is_dir():
            raise InputError(f"{name} is a folder; name a file") from None
        raise InputError(f"{name} cannot be read: {error.strerror}") from error
    with file:
        yield file


@contextlib.contextmanager
def naming_damage(path: StrPath) -> Iterator[None]:
    """Put the file's name in front of what a BitstreamError says, unless it is there."""
    try:
        yield
    except BitstreamError as error:
        name = "standard input" if is_standard_stream(path) else os.fspath(path)
        if not str(error).startswith(name):
            error.args = (f"{name}: {error}", *error.args[1:])
        raise


def _unbuffered(stream: BinaryIO) -> BinaryIO:
    """What lies under the buffer of a standard stream, where nothing waits.

    Python closes the buffers as it exits, and dies on one whose lock a thread holds that waits for a silent pipe.
    """
    return cast(BinaryIO, getattr(stream, "raw", stream))


class _ForwardOnly(io.RawIOBase):
    """A stream that is not ours to close and on which nobody may seek or tell.

    Standard output redirected to a file can seek, but `>>` then appends wherever one seeks to; a device claims it can.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self.name = name
        """For messages."""

    def readable(self) -> bool:
        return self._stream.readable()

    def writable(self) -> bool:
        return self._stream.writable()

    def readinto(self, buffer: WriteableBuffer) -> int:
        # What a pipe has now: a buffered stream's readinto would wait for a full buffer.
        read_once = getattr(self._stream, "readinto1", None) or cast(io.RawIOBase, self._stream).readinto
        return cast(int, read_once(buffer))

    def write(self, data: ReadableBuffer) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):  # an unbuffered stream may take less than all
            done += self._stream.write(view[done:]) or 0
        return done

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        pass


@contextlib.contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    if sys.__stdout__ is None:  # `sys.stdout` may stand in for it
        raise OutputError("standard output is closed; pipe it into a program or a file, or name a file")
    if sys.stdout.isatty():
        raise OutputError("standard output is a terminal; pipe it into a program or a file, or name a file")
    sys.stdout.flush()
    _binary_mode(sys.stdout.fileno())
    yield cast(BinaryIO, _ForwardOnly(_unbuffered(sys.stdout.buffer), "standard output"))


def _binary_mode(descriptor: int) -> None:
    """Keep Windows from translating line ends on standard streams."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(descriptor, os.O_BINARY)


def _resolve(path: StrPath) -> Path:
    """The file behind symbolic links, so that a link is written through and not replaced."""
    # The links in /dev/fd lead nowhere that has a path.
    return Path(path) if _is_special(Path(path)) else Path(os.path.realpath(path))


def _is_special(path: Path) -> bool:
    """A device, named pipe or socket: something to write into, not to replace."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _same_file(one: StrPath, other: StrPath) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(one, other)
    return os.path.normcase(os.path.realpath(one)) == os.path.normcase(os.path.realpath(other))


def _temporary_path(target: Path) -> Path:
    # Not built from the target's name, which may already be as long as a name can be; the suffix tells PyAV the format.
    return target.with_name(f".cvcodec-{secrets.token_hex(6)}{target.suffix}")


def _create(path: Path, flags: int = os.O_EXCL) -> BinaryIO:
    flags |= os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "r+b")  # mkstemp would force mode 0600; this leaves it to the umask


def _create_named(path: Path) -> BinaryIO:
    """Open a file whose name anybody could foresee, or create it. OutputError where the name leads elsewhere: what is
    written there would change, or be published as, a file that nobody named."""
    with contextlib.suppress(FileExistsError):
        return _create(path)
    if _is_ours_alone(path.lstat()):
        file = _create(path, getattr(os, "O_NOFOLLOW", 0))  # it may have become a link since
        if _is_ours_alone(os.fstat(file.fileno())):
            return file
        file.close()
    raise OutputError(
        f"{path} is a link or no plain file, so nothing is written to it; remove it or name another output"
    )


def _is_ours_alone(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_nlink <= 1


def _claim(file: BinaryIO, temporary: Path, path: StrPath) -> None:
    """Take the partial file for this process; the lock goes when the file is closed."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0x7FFF_FFFE)  # locks are mandatory there, and cover what they name: one byte out of the way
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Anything else is a file system without locks (some network mounts): no reason to refuse.
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise OutputError(f"{os.fspath(path)} is being written by another process") from None
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(file.fileno()), temporary.stat()):
            return
    # It was given its final name between our opening it and our lock.
    raise OutputError(f"{os.fspath(path)} has just been written by another process")


def _publish(temporary: Path, target: Path, *, overwrite: bool) -> None:
    """Give the finished file its name. Without `overwrite`, not even over a file that appeared in the meantime."""
    if overwrite:
        with contextlib.suppress(OSError):
            shutil.copymode(target, temporary)
        temporary.replace(target)
    elif os.name == "nt":
        temporary.rename(target)  # refuses an existing target there
    else:
        try:
            os.link(temporary, target)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if target.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            temporary.replace(target)
        else:
            temporary.unlink()
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; Windows has no call for it."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _naming_output(path: StrPath) -> Iterator[None]:
    """Turn what the system answers to creating, flushing or renaming into an OutputError that names the output."""
    try:
        yield
    except FileExistsError:
        raise OutputError(f"{os.fspath(path)} appeared while it was being written; use -y to overwrite it") from None
    except OSError as error:
        raise OutputError(f"{os.fspath(path)} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _reporting_full(path: StrPath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _raise_if_full(error, path)
        raise


def is_full(error: BaseException) -> TypeGuard[OSError]:
    """Whether a disk, a quota or a file size limit ends the writing."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def _raise_if_full(error: BaseException, path: StrPath) -> None:
    if is_full(error):
        raise OutputError(f"{os.fspath(path)} cannot be written: {error.strerror}") from error
