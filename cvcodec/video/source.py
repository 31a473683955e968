"""Opening what a person names: a file, a pipe, a numbered image sequence, a file object. Gives a PyAV input container.

No file makes FFmpeg open others: playlists are refused, and so are addresses, in whatever place they stand.
A container whose index lies behind its data (an ordinary MP4) cannot be read
from a pipe; `InputFile` sees this in the first bytes, or in a failed attempt, and spools the pipe to a temporary file.

What PyAV tells of a container only in words is taken apart here too: FFmpeg's own description of it. What its facts are
used for, streams and frames are not known here.
"""

from __future__ import annotations

import os
import re
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import av
import av.error
import av.logging
from av.container import InputContainer

from cvcodec.errors import InputError, UsageError
from cvcodec.fileio import refuse_address
from cvcodec.remote import is_remote, path_of
from cvcodec.video.hardware import hardware_decoder
from cvcodec.video.libav import captured_log, reason

VideoSource = str | os.PathLike[str] | BinaryIO
"""What `VideoReader` takes."""

SEQUENCE_PATTERN = re.compile(r"%(0\d+)?d")
"""The number in the name of an image sequence: `%d` or `%05d`."""

_IMAGE_SUFFIXES = {
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".exr",
    ".dpx",
    ".ppm",
    ".pgm",
    ".avif",
    ".jxl",
}
_ISO_BOXES = {
    b"ftyp",
    b"moov",
    b"mdat",
    b"free",
    b"skip",
    b"wide",
    b"moof",
    b"styp",
    b"sidx",
    b"uuid",
    b"pnot",
    b"meta",
}
_PLAYLISTS = {
    *("avisynth", "concat", "dash", "hls", "imf", "rtp", "rtsp", "sap", "sdp"),
    *("vapoursynth", "vobsub", "webm_dash_manifest"),
}
"""FFmpeg's names of formats whose files say which other files or addresses are to be read."""
_FORMATS = ",".join(sorted({name for names in av.formats_available for name in names.split(",")} - _PLAYLISTS))
_SNIFF_LIMIT = 1 << 20
# Tags in another encoding must not make a file unreadable; from 19 on PyAV sees to that itself.
_TEXT_OPTIONS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_SPOOL_IN_MEMORY = 8 << 20
_BLOCK = 1 << 20


def is_sequence(path: str) -> bool:
    """Whether `path` is the pattern of a numbered image sequence rather than an existing file."""
    return SEQUENCE_PATTERN.search(Path(path).name) is not None and not os.path.exists(path)


def number_in(name: str) -> re.Match[str]:
    """Where the number is in the name of an image sequence; all else stands for itself, `%` too. Raises UsageError
    unless there is exactly one."""
    numbers = list(SEQUENCE_PATTERN.finditer(name))
    if len(numbers) != 1:
        raise UsageError(f"{name!r} has {len(numbers)} numbers, an image sequence has one, such as 'frame_%05d.png'")
    return numbers[0]


def numbered(pattern: str, number: int) -> str:
    """The path of one image of a sequence. Raises UsageError as `number_in`."""
    folder, name = os.path.split(pattern)
    number_at = number_in(name)
    return os.path.join(folder, name[: number_at.start()] + number_at[0] % number + name[number_at.end() :])


def _image2_pattern(pattern: str) -> str:
    """A sequence as FFmpeg's image2 takes it: doubled where `%` is no number, and a colon before it no protocol."""
    folder, name = os.path.split(pattern)
    number_at = number_in(name)
    before, after = os.path.join(folder, name[: number_at.start()]), name[number_at.end() :]
    return "file:" + before.replace("%", "%%") + number_at[0] + after.replace("%", "%%")


def refuse_pipe(path: str | os.PathLike[str], reader: str) -> None:
    """UsageError where `path` is a pipe with a name (also /dev/fd/N), for a `reader` that needs it more than once."""
    if Path(path).is_fifo():
        raise UsageError(
            f"{reader} reads the video more than once, which a pipe ({os.fspath(path)}) cannot: give it a file"
        )


def sequence_files(pattern: str) -> tuple[int, int]:
    """(first number, count) of the files of a sequence.

    Raises InputError where there are none, or where a number is missing between the first and the last, and UsageError
    as `number_in`."""
    path = Path(pattern)
    number_at = number_in(path.name)
    matcher = re.compile(re.escape(path.name[: number_at.start()]) + r"(\d+)" + re.escape(path.name[number_at.end() :]))
    try:
        names = set(os.listdir(path.parent))
    except OSError as error:
        raise InputError(f"cannot list the images of {pattern!r}: {reason(error)}") from error
    numbers = sorted(
        int(match[1])
        for name in names
        if (match := matcher.fullmatch(name)) and numbered(path.name, int(match[1])) == name
    )
    if not numbers:
        raise InputError(f"no images match {pattern!r}")
    for expected, number in enumerate(numbers, start=numbers[0]):
        if number != expected:
            raise InputError(f"image {numbered(str(path), expected)!r} is missing in the middle of the sequence")
    return numbers[0], len(numbers)


class Pipe:
    """A read-only stream over an object that cannot seek, with peeking, and a tape of what was read while `taping`."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._read = getattr(raw, "read1", raw.read)
        self._ahead = bytearray()
        self._tape: Any = tempfile.SpooledTemporaryFile(max_size=_SPOOL_IN_MEMORY)  # noqa: SIM115

    def readable(self) -> bool:
        """Always: PyAV asks."""
        return True

    def seekable(self) -> bool:
        """Never: PyAV asks."""
        return False

    def peek(self, size: int) -> bytes:
        """The next `size` bytes without consuming them; fewer only at the end."""
        while len(self._ahead) < size:
            block = self._read(_BLOCK)
            if not block:
                break
            self._ahead += block
        return bytes(self._ahead[:size])

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; b"" only at the end."""
        if self._ahead:
            size = len(self._ahead) if size < 0 else size
            block = bytes(self._ahead[:size])
            del self._ahead[:size]
        else:
            block = self._read(_BLOCK if size < 0 else size) or b""
        if self._tape is not None:
            self._tape.write(block)
        return block

    def stop_tape(self) -> None:
        """Forget what was read; from now on nothing is kept."""
        if self._tape is not None:
            self._tape.close()
            self._tape = None

    def spool(self) -> BinaryIO:
        """Everything from the first byte to the last in a temporary file, at its start. Needs an unbroken tape."""
        assert self._tape is not None
        while self.read(_BLOCK):
            pass
        tape, self._tape = self._tape, None
        tape.rollover()
        tape.seek(0)
        return tape  # type: ignore[no-any-return]


def _index_is_last(pipe: Pipe) -> bool:
    """Whether the stream is an MP4 or MOV whose `mdat` box comes before its `moov` box (ISO/IEC 14496-12, 4.2)."""
    offset = 0
    while offset + 16 <= _SNIFF_LIMIT:
        header = pipe.peek(offset + 16)[offset:]
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if len(header) < 8 or kind not in _ISO_BOXES:
            return False
        if kind in (b"mdat", b"moov", b"moof"):
            return kind == b"mdat"
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:
            return False
        offset += size
    return True


class _Nameless:
    """A seekable file object without its `name`, which FFmpeg would interpret."""

    def __init__(self, raw: BinaryIO) -> None:
        self._read, self.seek, self.tell = raw.read, raw.seek, raw.tell
        self._failed = False

    def read(self, size: int = -1) -> bytes:
        """As the file's. After an error it is at its end: FFmpeg reads on, and PyAV prints all errors but one."""
        try:
            return b"" if self._failed else self._read(size)
        except OSError:
            self._failed = True
            raise


class InputFile:
    """A named input that can be opened, and, where it can seek, opened again.

    source: a path, the pattern of a numbered image sequence (`frames/%05d.png`), or a binary file object, which is not
        closed: seekable (read from its byte 0) or not.
    rate: frames per second of image sequences and raw streams, which do not say.
    hwaccel: `none`, `auto` or a device that decodes, see `hardware_decoder`, whose errors are raised here.
    Raises InputError where there is nothing to open.
    """

    def __init__(self, source: VideoSource, *, rate: Fraction | None = None, hwaccel: str = "none") -> None:
        self._rate = rate
        self.hardware = hardware_decoder(hwaccel)
        self._owned: list[BinaryIO] = []
        self._file: BinaryIO | None = None
        self._pipe: Pipe | None = None
        self._path: str | None = None
        self.images: tuple[int, int] | None = None
        if isinstance(source, (str, os.PathLike)):
            self.name = os.fspath(source)
            self._from_path(self.name)
        else:
            self.name = str(getattr(source, "name", "stream"))
            self._from_object(source)

    def _from_path(self, path: str) -> None:
        if is_remote(path):
            raw = path_of(path).open("rb")
            self._owned.append(raw)
            self._from_object(raw)
            return
        if not os.path.exists(path):
            refuse_address(path)
        if is_sequence(path):
            self.images = sequence_files(path)
            self._path = _image2_pattern(path)
        elif os.path.isdir(path):
            raise InputError(f"{path!r} is a folder; name a video file, or an image sequence such as 'folder/%05d.png'")
        elif not os.path.exists(path):
            raise InputError(f"{path!r} does not exist")
        elif not os.path.isfile(path) or (Path(path).suffix.lower() in _IMAGE_SUFFIXES and re.search(r"[%*?{]", path)):
            # Named pipes; and still images whose names FFmpeg would take for patterns.
            try:
                raw = open(path, "rb")  # noqa: SIM115
            except OSError as error:
                raise InputError(f"cannot open {path!r}: {reason(error)}") from error
            self._owned.append(raw)
            self._from_object(raw)
        else:
            self._path = "file:" + path

    def _from_object(self, raw: BinaryIO) -> None:
        seekable = getattr(raw, "seekable", None)
        if not hasattr(raw, "read"):
            raise InputError(f"cannot read video from {type(raw).__name__}; wanted a path or a binary file object")
        if isinstance(getattr(raw, "mode", None), str) and "b" not in raw.mode:
            raise InputError(f"{self.name!r} is open as text; open it in binary mode")
        if seekable() if callable(seekable) else hasattr(raw, "seek"):
            self._file = raw
        else:
            self._pipe = Pipe(raw)

    @property
    def seekable(self) -> bool:
        """Whether `open` works more than once."""
        return self._pipe is None

    def open(self) -> InputContainer:
        """A container at its beginning. Raises InputError where FFmpeg cannot make sense of it."""
        if self._pipe is not None:
            return self._open_pipe(self._pipe)
        if self._file is not None:
            self._file.seek(0)
            return self._open(_Nameless(self._file))
        return self._open(self._path)

    def _open_pipe(self, pipe: Pipe) -> InputContainer:
        try:
            if not pipe.peek(1):
                raise InputError(f"{self.name!r} is empty")
            if not _index_is_last(pipe):
                try:
                    container = self._open_raw(pipe)
                except (av.error.FFmpegError, ValueError):
                    pass
                else:
                    pipe.stop_tape()
                    return container
            self._file = pipe.spool()
        except OSError as error:
            raise InputError(f"cannot read {self.name!r}: {reason(error)}") from error
        self._owned.append(self._file)
        self._pipe = None
        return self.open()

    def _open(self, target: Any) -> InputContainer:
        try:
            return self._open_raw(target)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise InputError(
                f"cannot open {self.name!r}: {reason(error)}; wanted a video or image that FFmpeg can read"
            ) from error

    def _open_raw(self, target: Any) -> InputContainer:
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        if self._rate is not None:
            options["framerate"] = str(self._rate)
        if self.images is not None:
            options["start_number"] = str(self.images[0])
        kind = "image2" if self.images else None
        with captured_log() as said:
            try:
                container: InputContainer = av.open(
                    target, "r", format=kind, container_options=options, hwaccel=self.hardware, **_TEXT_OPTIONS
                )
            except av.error.FFmpegError as error:
                if any("not on whitelist" in line for line in said()):
                    raise InputError(
                        f"{self.name!r} is a playlist or the like, which names other files instead of holding a video; "
                        "encode those, or join them first: ffmpeg -i PLAYLIST -c copy VIDEO.mkv"
                    ) from error
                raise
        return container

    def close(self) -> None:
        """Close files opened here; file objects passed in stay open."""
        if self._pipe is not None:
            self._pipe.stop_tape()
        for raw in self._owned:
            raw.close()
        self._owned.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


UNKNOWN = "unknown"
"""Name of a codec that FFmpeg does not know."""


def codec_name(stream: Any) -> str:
    """FFmpeg's name of a stream's codec, also where it has no decoder for it; `UNKNOWN` where it has no name either."""
    found = re.match(r"\w+: (?!none\b)(\w+)", _description(stream))
    return found[1] if found else UNKNOWN


def cropping(stream: Any) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) that the container asks for: Matroska's cropping, the clean aperture of MP4 and MOV.
    FFmpeg leaves it to the application."""
    found = re.search(r"^ +Frame [Cc]ropping: (\d+)/(\d+)/(\d+)/(\d+)$", _description(stream), re.MULTILINE)
    left, right, top, bottom = (int(value) for value in found.groups()) if found else (0, 0, 0, 0)
    return top, bottom, left, right


class TileGrid(NamedTuple):
    """A picture in tiles. rotation: degrees anticlockwise by which it is shown. streams: indices of the tiles, row by
    row. default: it is the file's main picture."""

    width: int
    height: int
    rotation: int
    streams: tuple[int, ...]
    default: bool


def tile_grids(container: Any) -> list[TileGrid]:
    """The grids of an input container."""
    with captured_log(av.logging.VERBOSE):
        text: str = container.dumps_format()
    grids = []
    for group in re.split(r"^  (?=Stream )", text, flags=re.MULTILINE)[1:]:
        head = group.splitlines()[0]
        if size := re.match(r"Stream group #\S+: Tile Grid: .* (\d+)x(\d+)(?: |$)", head):
            turn = re.search(r"^      Display Matrix: rotation of (-?[\d.]+) degrees", group, re.MULTILINE)
            tiles = re.findall(r"^    Stream #\d+:(\d+)", group, re.MULTILINE)
            rotation = round(float(turn[1])) if turn else 0
            grids.append(TileGrid(int(size[1]), int(size[2]), rotation, tuple(map(int, tiles)), "(default)" in head))
    return [grid for grid in grids if grid.streams]


def _description(stream: Any) -> str:
    """Of one stream: `Audio: aac (LC), ...` and the lines of its tags and side data."""
    with captured_log(av.logging.INFO):
        text: str = stream.container.dumps_format()
    _, *parts = re.split(r"^  Stream #\d+:(\d+)[^ ]*: ", text, flags=re.MULTILINE)
    return dict(zip(map(int, parts[::2]), parts[1::2], strict=True)).get(stream.index, "")
