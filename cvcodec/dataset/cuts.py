"""The sources of a run -> its clips, where sources are to be cut or some left out.

Owns: looking through sources, several at once, and `clips.jsonl` in the output folder: a line for each source that was
looked through, from which a run that goes on takes it again as long as the source's file is the same. Losing it costs
time only.
Does not know: which clips a source has (`cutting`), who encodes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from cvcodec.codec.options import ReaderOptions
from cvcodec.dataset.batch import Outcome, stamp_of
from cvcodec.dataset.cutting import Cut, LeftOut, Look, Piece, cut
from cvcodec.dataset.cutting_options import LOOK_EVERY, Cutting
from cvcodec.dataset.index import CUTS_NAME, Record, dump_line, shard_name
from cvcodec.dataset.scenes import SceneFinder
from cvcodec.dataset.sources import Clip, cut_place
from cvcodec.errors import CvcodecError, UsageError
from cvcodec.fileio import IMAGE_SUFFIXES, make_folder
from cvcodec.system import host
from cvcodec.video.survey import SmallPicture, look_through


def cut_sources(
    sources: Sequence[Clip],
    cutting: Cutting,
    reader: ReaderOptions,
    folder: Path,
    *,
    shard: tuple[int, int] | None = None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> tuple[list[Clip], list[Outcome]]:
    """The clips of all sources, in order, and what is known already: sources that cannot be read, clips left out.

    Pictures stay as they are. Raises UsageError for a trimmed reader, for clips that would get one name, and where
    PySceneDetect is asked for and not there.
    """
    if not cutting.asks:
        return list(sources), []
    if reader.is_trimmed:
        raise UsageError("clips are cut from whole sources: leave out start, end, duration and frames")
    if cutting.scenes != "none":
        SceneFinder()  # before anything is read
    path = make_folder(folder) / shard_name(CUTS_NAME, shard)
    known = _Known(path, cutting, reader)
    on_notice(f"sources are looked through for clips: {len(sources)}")
    clips: list[Clip] = []
    settled: list[Outcome] = []
    with ThreadPoolExecutor(host.usable_cpus(), thread_name_prefix="cut") as pool:
        try:
            for source, made in zip(sources, pool.map(lambda clip: _try_cut(clip, known), sources), strict=True):
                if isinstance(made, str):
                    settled.append(Outcome(clip=source, status="failed", error=made, attempts=1))
                elif made is None:
                    clips.append(source)
                else:
                    clips += [_named(source, piece.first, cutting, piece) for piece in made.pieces]
                    left = ((_named(source, out.first, cutting), out.reason) for out in made.left_out)
                    settled += [Outcome(clip=clip, status="left out", reason=reason) for clip, reason in left]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    _check_names(clips)
    return clips, settled


def _named(source: Clip, first: int, cutting: Cutting, piece: Piece | None = None) -> Clip:
    """A source that is not divided keeps its name."""
    return replace(source, output=cut_place(source.output, first), piece=piece) if cutting.divides else source


def _check_names(clips: Sequence[Clip]) -> None:
    taken: dict[str, Clip] = {}
    for clip in clips:
        other = taken.setdefault(clip.output, clip)
        if other is not clip:
            raise UsageError(
                f"{other.source} and {clip.source} would both become {clip.output}; encode them in two runs"
            )


def _try_cut(clip: Clip, known: _Known) -> Cut | str | None:
    """None for a picture; why it failed."""
    if Path(clip.source).suffix.lower() in IMAGE_SUFFIXES:
        return None
    try:
        return known.cut_of(clip.source)
    except (CvcodecError, OSError) as error:
        return " ".join(str(error).split())


class _Known:
    """`clips.jsonl`."""

    def __init__(self, path: Path, cutting: Cutting, reader: ReaderOptions) -> None:
        self._path, self._cutting, self._reader = path, cutting, reader
        self._identity = cutting.identity(reader.fps, reader.stream)
        self._lines: dict[str, Record] = {}
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            try:
                record = json.loads(line)
                self._lines[record["source"]] = record
            except (ValueError, TypeError, KeyError):  # half a line that a killed run left
                continue

    def cut_of(self, source: str) -> Cut:
        """From the file, or by looking through the source. Raises InputError."""
        stamp = stamp_of(source)
        wanted = {**stamp, "source": source, "cutting": self._identity}
        record = self._lines.get(source, {})
        if record.items() >= wanted.items() and (found := _cut_from(record)) is not None:
            return found
        made = cut_source(source, self._cutting, self._reader)
        values = {
            "pieces": [[piece.first, piece.frames, str(piece.start)] for piece in made.pieces],
            "left_out": [[out.first, out.reason] for out in made.left_out],
        }
        with self._path.open("ab") as file:  # one write, so that lines of several threads do not mix
            os.write(file.fileno(), dump_line({**wanted, **values}))
        return made


def _cut_from(record: Record) -> Cut | None:
    """None for a line that is not one of ours."""
    try:
        pieces = tuple(Piece(int(first), int(frames), Fraction(start)) for first, frames, start in record["pieces"])
        return Cut(pieces, tuple(LeftOut(int(first), str(reason)) for first, reason in record["left_out"]))
    except (ValueError, TypeError, KeyError, ZeroDivisionError):
        return None


def cut_source(source: str, cutting: Cutting, reader: ReaderOptions) -> Cut:
    """Look through a source, and cut it. Raises InputError."""
    scenes = SceneFinder() if cutting.scenes != "none" else None
    looks: list[Look] = []

    def see(number: int, picture: SmallPicture) -> None:
        if scenes is not None:
            scenes.add(number, picture)
        if (cutting.skip_still or cutting.skip_black) and number % LOOK_EVERY == 0:
            looks.append(Look.at(number, picture))

    times = look_through(source, stream=reader.stream, on_picture=see if cutting.looks_at_pictures else None)
    return cut(
        cutting,
        times.at(reader.fps),
        zero=times.info.start_time,
        scene_starts=scenes.starts if scenes is not None else (),
        looks=looks,
    )
