"""Addresses such as `s3://bucket/clips/a.mp4` or `hf://datasets/me/set`: paths that are not on this machine, by fsspec.

Owns: what is such an address, `RemotePath`, which has what this program asks of a `pathlib.Path`, the cache of files
that are read more than once, uploads that appear whole, and what goes wrong there as errors of this program.
Does not know: what is read and written. `fileio` opens files wherever they lie.

fsspec is an extra, and each protocol has a package of its own (s3fs, gcsfs, huggingface_hub ...), which finds its
credentials itself: an address that holds a password is refused, so that none gets into a message or an index.
Addresses of the web and of streams (`https://`, `rtsp://` ...) are none: no file of a stranger has others fetched.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

from cvcodec.errors import CvcodecError, InputError, MissingDependencyError, OutputError

StrPath = str | os.PathLike[str]

_ADDRESS = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]+::)*([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_NO_STORES = {
    *("http", "https", "ftp", "ftps", "file", "rtsp", "rtmp", "rtp", "udp", "tcp", "tls", "srt", "mms"),
    *("concat", "data", "crypto", "async", "cache", "pipe"),
}
"""Schemes of the web, of streams, and what FFmpeg calls protocols."""

CACHE_VARIABLE, CACHE_SIZE_VARIABLE = "CVCODEC_CACHE", "CVCODEC_CACHE_GB"
"""Environment variables: the folder of the cache, and its size in 10**9 bytes."""
_CACHE_GB = 20.0

_BLOCK = 1 << 22
_NO_HOST = "|"  # in the first part of a path, where an address has three slashes: nothing between the second and third


def is_remote(path: object) -> bool:
    """Whether it is an address that fsspec may read, and no file of that name."""
    if isinstance(path, RemotePath):
        return True
    match = _ADDRESS.match(os.fspath(path)) if isinstance(path, str | os.PathLike) else None
    return match is not None and match[1].lower() not in _NO_STORES and not os.path.exists(cast(StrPath, path))


def path_of(path: StrPath) -> Path:
    """A path on this machine, or a `RemotePath`, which can stand for one here. InputError for an address with a
    password."""
    return cast(Path, _address(path)) if is_remote(path) else Path(path)


def _address(path: StrPath) -> RemotePath:
    if isinstance(path, RemotePath):
        return path
    text = os.fspath(path)
    match = _ADDRESS.match(text)
    assert match is not None
    head, rest = text[: match.start(2) - 3], match[2]
    if re.match(r"[^/@]*:[^/]*@", rest):
        raise InputError(
            f"an address of {head}:// has a password in it, which would be shown in messages and indexes; "
            "give it to the protocol's package by its environment variables or its configuration"
        )
    return RemotePath(f"{head}:{_NO_HOST if rest.startswith('/') else ''}", rest.lstrip("/"))


class RemotePath(PurePosixPath):
    """An address in the shape of a path, and as much of `pathlib.Path` as is asked of one. InputError from all methods
    that look at the store."""

    def __str__(self) -> str:
        head, _, rest = super().__str__().partition("/")
        if not head.endswith((":", _NO_HOST)):  # relative to another
            return super().__str__()
        scheme = head.removesuffix(_NO_HOST).removesuffix(":")
        return f"{scheme}:///{rest}" if head.endswith(_NO_HOST) else f"{scheme}://{rest}"

    def __fspath__(self) -> str:
        return str(self)

    def _store(self) -> tuple[Any, str]:
        return _store_of(self)

    def exists(self) -> bool:
        """Whether there is something."""
        with _failing(self, "read", InputError):
            fs, name = self._store()
            return bool(fs.exists(name))

    def is_file(self) -> bool:
        """Whether there is a file."""
        with _failing(self, "read", InputError):
            fs, name = self._store()
            return bool(fs.isfile(name))

    def is_dir(self) -> bool:
        """Whether something lies below."""
        with _failing(self, "read", InputError):
            fs, name = self._store()
            return bool(fs.isdir(name))

    def is_fifo(self) -> bool:
        """Never."""
        return False

    def stat(self) -> Any:
        """`st_size`, and `st_mtime_ns`, 0 where the store does not say. FileNotFoundError where there is none."""
        info: dict[str, Any] | None = None
        with _failing(self, "read", InputError):
            fs, name = self._store()
            with contextlib.suppress(FileNotFoundError):
                info = fs.info(name)
        if info is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        times = [info.get(key) for key in ("mtime", "LastModified", "last_modified", "updated", "created")]
        modified = next((time for time in times if time is not None), 0)
        seconds = modified.timestamp() if hasattr(modified, "timestamp") else modified
        whole = int(seconds * 1e9) if isinstance(seconds, int | float) else 0
        return SimpleNamespace(st_size=int(info.get("size") or 0), st_mtime_ns=whole)

    def open(self, mode: str = "rb") -> BinaryIO:
        """To be read."""
        assert mode == "rb", "written by `uploaded` alone"
        return _open(self)

    def read_bytes(self) -> bytes:
        """All of it."""
        with self.open() as file, _failing(self, "read", InputError):
            return file.read()

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Files below whose names match; `**` for any depth."""
        with _failing(self, "read", InputError):
            fs, name = self._store()
            found = sorted(fs.glob(f"{name.rstrip('/')}/{pattern}"))
        root = name.strip("/")
        for path in found:
            yield self / path.strip("/").removeprefix(root).lstrip("/")

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        """Files at any depth."""
        yield from self.glob(f"**/{pattern}")

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove it."""
        with _failing(self, "removed", OutputError):
            fs, name = self._store()
            if not missing_ok or fs.exists(name):
                fs.rm_file(name)

    def resolve(self) -> RemotePath:
        """Itself, as `absolute`."""
        return self

    absolute = resolve


def _store_of(path: RemotePath, **options: Any) -> tuple[Any, str]:
    """fsspec's file system and the name in it. MissingDependencyError, or InputError for an unknown protocol."""
    scheme = str(path).partition("://")[0]
    try:
        import fsspec
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} is read and written by fsspec: pip install 'cvcodec[remote]', and the package of {scheme}://"
        ) from error
    try:
        fs, name = fsspec.core.url_to_fs(str(path), **options)
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: fsspec needs a package for {scheme}://: {' '.join(str(error).split())}"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} is an address of {scheme}://, which fsspec does not know; wanted a file, or such as s3://BUCKET/FILE"
        ) from error
    return fs, name


@contextlib.contextmanager
def _failing(path: StrPath, what: str, kind: type[CvcodecError]) -> Iterator[None]:
    """What a store answers, as an error of ours. Its own words stay behind: they may hold secrets."""
    try:
        yield
    except CvcodecError:
        raise
    except FileNotFoundError as error:
        raise kind(f"{os.fspath(path)}: no such file") from error
    except Exception as error:  # each protocol's package has errors of its own
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise kind(f"{os.fspath(path)} cannot be {what}: {why}") from error


class _Reading(io.RawIOBase):
    """A file of a store with a name for messages, and errors of ours."""

    def __init__(self, raw: Any, path: RemotePath) -> None:
        self._raw, self._path, self.name = raw, path, str(path)
        self._at = 0  # our own place: some stores hand the same object to every reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: None}[whence]
        with _failing(self._path, "read", InputError):
            if start is None:
                start = self._raw.seek(0, os.SEEK_END)
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        with _failing(self._path, "read", InputError):
            self._raw.seek(self._at)
            data = self._raw.read(len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def _open(path: RemotePath) -> BinaryIO:
    with _failing(path, "read", InputError):
        fs, name = _store_of(path)
        if not fs.isfile(name) and fs.isdir(name):
            raise InputError(f"{path} is a folder; name a file")
        raw = fs.open(name, "rb")
    return cast(BinaryIO, io.BufferedReader(_Reading(raw, path), 1 << 16))


def check_free(path: StrPath, *, overwrite: bool) -> None:
    """OutputError where there is a file already, unless it may be overwritten."""
    if not overwrite and path_of(path).exists():
        raise OutputError(f"{os.fspath(path)} exists; use -y to overwrite it")


@contextlib.contextmanager
def uploaded(path: StrPath, *, overwrite: bool) -> Iterator[Path]:
    """Yields the name of an empty temporary file of this machine, of the same suffix, that is uploaded when the block
    ends well; a block or an upload that fails leaves nothing. OutputError where it exists, or cannot be written."""
    target = _address(path)
    with tempfile.TemporaryDirectory(prefix="cvcodec-") as folder:
        temporary = Path(folder) / f"output{target.suffix}"
        temporary.touch()
        yield temporary
        check_free(path, overwrite=overwrite)
        _upload(temporary, target)


def _upload(source: Path, target: RemotePath) -> None:
    with _failing(target, "written", OutputError):
        # In a transaction a file appears when all of it is there. One belongs to an instance, which others share.
        fs, name = _store_of(target, skip_instance_cache=True)
        try:
            _put(fs, source, name)
        except FileNotFoundError:  # a store with real folders
            fs, name = _store_of(target, skip_instance_cache=True)
            fs.makedirs(name.rpartition("/")[0], exist_ok=True)
            _put(fs, source, name)
        _store_of(target)[0].invalidate_cache()


def _put(fs: Any, source: Path, name: str) -> None:
    with fs.transaction, source.open("rb") as read, fs.open(name, "wb") as write:
        while block := read.read(_BLOCK):
            write.write(block)


# ---------------------------------------------------------------------------------------------------- the cache


def fetched(path: StrPath) -> Path:
    """A file of this machine with the same content: the file itself, or a copy in the cache, of which those that were
    not used for longest go when it is full. InputError where it cannot be read."""
    if not is_remote(path):
        return Path(path)
    source = _address(path)
    with _failing(source, "read", InputError):
        fs, name = _store_of(source)
        key = hashlib.blake2b(f"{source}\n{fs.ukey(name)}".encode(), digest_size=16).hexdigest()
        copy = _cache_folder() / f"{key}{source.suffix}"
        if copy.is_file():
            with contextlib.suppress(OSError):
                os.utime(copy)
            return copy
        temporary = copy.with_name(f".{key}-{secrets.token_hex(4)}")
        try:
            fs.get_file(name, str(temporary))
            temporary.replace(copy)
        finally:
            temporary.unlink(missing_ok=True)
    _make_room(copy)
    return copy


@contextlib.contextmanager
def as_source(path: StrPath) -> Iterator[StrPath | BinaryIO]:
    """What a video reader takes: the path itself, or the cache's copy of an address, open, with its name."""
    if not is_remote(path):
        yield path
        return
    copy = fetched(path)
    with copy.open("rb") as file, io.BufferedReader(_Reading(file, _address(path))) as named:
        yield cast(BinaryIO, named)


def _cache_folder() -> Path:
    chosen = os.environ.get(CACHE_VARIABLE)
    folder = Path(chosen) if chosen else Path.home() / ".cache" / "cvcodec"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _make_room(newest: Path) -> None:
    """Remove what was not used for longest, beyond the size of the cache; the newest stays, be it as large as it is."""
    try:
        limit = float(os.environ.get(CACHE_SIZE_VARIABLE) or _CACHE_GB) * 1e9
    except ValueError:
        limit = _CACHE_GB * 1e9
    entries = []
    for file in newest.parent.iterdir():
        with contextlib.suppress(OSError):
            status = file.stat()
            if file != newest and re.fullmatch(r"[0-9a-f]{32}(\.\w+)?", file.name):
                entries.append((status.st_mtime_ns, status.st_size, file))
    held = newest.stat().st_size
    for _, size, file in sorted(entries, reverse=True):  # from the last used on
        held += size
        if held > limit:
            with contextlib.suppress(OSError):  # another process was quicker, or it is open on Windows
                file.unlink()
