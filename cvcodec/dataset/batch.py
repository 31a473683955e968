"""A run over many clips: what is known before it, one clip at a time, what is left behind by it.

Owns: when an output counts as done, retries, its atomic place; the index and its journal, the list of failures. Does
not know: who encodes (`local_engine`, `ray_engine`), terminals. What concerns one clip can be sent to another machine.

While a run goes on, its index lies in `index.jsonl.partial`, a line for each clip that is done, in the order in which
they ended; a run that was killed is resumed from it. At the end the lines are sorted and the file gets its name, so
that the same clips leave the same index however often they were interrupted. Its lock keeps a second run out of the
folder; shards have an index each. What other runs wrote into it stays in it, as long as the file is there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal

from cvcodec.codec import EncodeOptions, EncodeResult
from cvcodec.codec.encode import encode_stream
from cvcodec.codec.headers import clip_metadata, open_reader
from cvcodec.codec.options import describe_damage
from cvcodec.dataset.index import (
    BATCH_KEY,
    FAILURES_NAME,
    INDEX_NAME,
    Record,
    describe,
    dump_line,
    identities_of,
    index_files,
    merge_records,
    parse_lines,
    shard_name,
)
from cvcodec.dataset.shared_encoder import SharedEncoder
from cvcodec.dataset.sidecars import read_sidecars
from cvcodec.dataset.sources import Clip, cut_from
from cvcodec.errors import BitstreamError, CheckpointError, CvcodecError, InputError, OutputError, UsageError
from cvcodec.fileio import atomic_output, make_folder, partial_path
from cvcodec.model.base import VideoAutoencoder
from cvcodec.remote import as_source, fetched, path_of

Status = Literal["encoded", "skipped", "failed", "left out"]

PIECE_BYTES, PIECES = 1 << 20, 256
"""A source is known again by all of its bytes, if these are no more than so many pieces, else by so many pieces from
its start to its end. Size, start and end would not do: uncompressed video that was rendered anew keeps all three."""

_RETRY_DELAY_S = 0.5
_EXAMPLES = 3


class Stopped(Exception):
    """The run was interrupted; the clip counts as not begun."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every clip of a run is encoded with."""

    out: str
    """The output folder, absolute."""
    options: EncodeOptions
    settings: str
    """Identity of model and options, see `settings_id`."""
    overwrite: bool = False
    """Encode again what was made from another source or with other settings, instead of failing."""
    retries: int = 1
    latent_space_id: str | None = None
    """Of the model; None: not known."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A clip, and what the index says of its output."""

    clip: Clip
    known: Record | None = None
    further_retries: int = 0
    """Beyond those of the job: a worker that is lost may live on for a while, and its lock on the output with it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a clip ended."""

    clip: Clip
    status: Status
    record: Record | None = None
    """Of the index; None where it failed or was left out."""
    error: str | None = None
    reason: str | None = None
    """Why it was left out."""
    attempts: int = 0
    seconds: float = 0.0
    notices: tuple[str, ...] = ()
    video_bytes: int | None = None
    """Of an output made now, copied streams excluded."""
    source_video_bytes: int | None = None
    """Of the source's own packets of the same frames, where it was read now."""

    @property
    def damage(self) -> str | None:
        """What a person should know of a damaged source, in a sentence; None for an intact one, and where there is no
        output."""
        record = self.record or {}
        return describe_damage(*(int(record.get(name) or 0) for name in ("decode_errors", "concealed_frames")))

    @property
    def pixels(self) -> int:
        """Width * height * frames that were encoded."""
        if self.record is None or self.status != "encoded":
            return 0
        return int(self.record["width"] * self.record["height"] * self.record["frames"])


def settings_id(model: VideoAutoencoder, options: EncodeOptions) -> str:
    """16 hex digits: everything that decides which latents a source becomes, devices and threads aside."""
    reader = options.reader.arguments()
    for name in ("threads", "hwaccel"):
        reader.pop(name, None)
    values = asdict(options) | {"reader": reader}
    for name in ("device", "threads", "metadata"):
        del values[name]
    if options.latents != "quantised":
        del values["quality"], values["rdo"]
    if not model.config.enhancement_channels:
        del values["layers"]
    elif options.layers != "base":
        values["decoder"] = model.decoder_hash
    if not options.drop_last_frames:
        del values["drop_last_frames"]  # files of runs before it could be asked for are what they are
    values |= {"latent_space_id": model.latent_space_id, "config": model.config.digest()}
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _settings_of(clip: Clip, job: Job) -> str:
    """The job's settings, and which part of its source a clip is."""
    piece = clip.piece
    if piece is None:
        return job.settings
    text = json.dumps([job.settings, piece.first, piece.frames, str(piece.start)])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _content_of(clip: Clip) -> str:
    """`source_id` of the clip's source, which is not read again for each clip that is cut from it."""
    if clip.piece is None:
        return source_id(clip.source)
    return _read_once(clip.source, *stamp_of(clip.source).values())


@functools.lru_cache(maxsize=256)
def _read_once(source: str, *stamp: int) -> str:
    return source_id(source)


def source_id(path: str | os.PathLike[str]) -> str:
    """32 hex digits: size of a file and its content, of large files pieces of it. Raises InputError."""
    try:
        with fetched(path).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest = hashlib.blake2b(str(size).encode(), digest_size=16)
            last = size - PIECE_BYTES
            spread = (number * last // (PIECES - 1) for number in range(PIECES))
            for start in spread if size > PIECE_BYTES * PIECES else range(0, size, PIECE_BYTES):
                file.seek(start)
                digest.update(file.read(PIECE_BYTES))
    except OSError as error:
        raise InputError(f"{os.fspath(path)} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def encode_clip(
    task: Task,
    job: Job,
    encoder: SharedEncoder,
    *,
    on_frames: Callable[[int, int | None], None] = lambda done, total: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Encode a clip unless that is done already. What goes wrong with it is in the outcome, never raised.

    on_frames: is given frames done and expected; it may raise `Stopped`, which passes through.
    """
    clip, begun = task.clip, time.monotonic()
    attempts = 0
    while True:
        attempts += 1
        try:
            found = _existing(task, job)
            if found is not None:
                return Outcome(clip=clip, status="skipped", record=found, seconds=time.monotonic() - begun)
            record, result = _encode(task, job, encoder, on_frames)
            return Outcome(
                clip=clip,
                status="encoded",
                record=record,
                attempts=attempts,
                seconds=time.monotonic() - begun,
                notices=result.notices,
                video_bytes=result.size_bytes - result.copied_bytes,
                source_video_bytes=result.source_bytes,
            )
        except Stopped:
            raise
        except (UsageError, CheckpointError) as error:
            message, hopeless = str(error), True  # the same however often it is tried
        except (CvcodecError, OSError) as error:
            message, hopeless = str(error), False
        except Exception as error:  # noqa: BLE001  # a defect that one clip of thousands meets must not end the run
            message, hopeless = f"this is a defect in cvcodec, please report it: {type(error).__name__}: {error}", False
        if hopeless or attempts > job.retries + task.further_retries:
            spent = time.monotonic() - begun
            return Outcome(
                clip=clip, status="failed", error=" ".join(message.split()), attempts=attempts, seconds=spent
            )
        sleep(_RETRY_DELAY_S * 2 ** (attempts - 1))


def _existing(task: Task, job: Job) -> Record | None:
    """The index record of an output that is there and up to date. UsageError for one that is not, unless it may be
    replaced."""
    clip = task.clip
    target = path_of(job.out) / clip.output
    if not target.is_file():
        return None
    wanted = {"source_id": _identity(task), "settings": _settings_of(clip, job)}
    known = task.known or {}
    # The file's name appears only when it is complete, so a look at its size is enough.
    if known.items() >= {**wanted, "size_bytes": target.stat().st_size}.items():
        return {**known, **stamp_of(clip.source), **_naming(task)}
    try:
        with target.open("rb") as file:
            made: Mapping[str, str] = identities_of(open_reader(file).header.metadata)
        found = "from another source" if made.get("source_id") != wanted["source_id"] else "with other settings"
        if all(made.get(name) == value for name, value in wanted.items()):
            return {**describe(target, path_of(job.out)), **stamp_of(clip.source), **_naming(task)}
    except BitstreamError as error:
        found = f"and is damaged ({error})"
    if not job.overwrite:
        raise UsageError(f"{target} exists, made {found}; use -y to encode it again, or another --out")
    return None


def stamp_of(source: str) -> Record:
    """By which a source is taken for what it was, without being read. Raises InputError."""
    try:
        status = path_of(source).stat()
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from error
    return {"source_bytes": status.st_size, "source_mtime_ns": status.st_mtime_ns}


def _identity(task: Task) -> str:
    """`source_id` of the clip; the one that the index knows, where nothing was written since."""
    known, source = task.known or {}, task.clip.source
    if known.get("source_id") and known.items() >= {**stamp_of(source), "source": source}.items():
        return str(known["source_id"])
    return _content_of(task.clip)


def _naming(task: Task) -> Record:
    """What the index says of how a clip was named: source, manifest and columns, and what is attached to these.
    InputError for captions beside the video that cannot be read.

    Columns of the manifest rule over captions beside the video; where no manifest names the clip, what the index knows
    stays, and such captions rule over it."""
    clip, known = task.clip, task.known or {}
    beside = read_sidecars(clip.sidecars)
    earlier = known.get("columns") or {}
    columns = {**earlier, **beside} if clip.columns is None else {**beside, **clip.columns}
    return {
        "source": clip.source,
        "columns": columns,
        "manifest": clip.manifest or known.get("manifest"),
        # What was made from other columns, such as the embedding of a caption, is not that of these.
        "attached": known.get("attached", {}) if columns == earlier else {},
    }


def _encode(
    task: Task, job: Job, encoder: SharedEncoder, on_frames: Callable[[int, int | None], None]
) -> tuple[Record, EncodeResult]:
    clip = task.clip
    target = path_of(job.out) / clip.output
    # Before it is read: what is written meanwhile is another source, and a caption that is none costs no encode.
    stamp, naming = stamp_of(clip.source), _naming(task)
    made = {"source_id": _content_of(clip), "settings": _settings_of(clip, job)}
    options = replace(job.options, metadata={**job.options.metadata, BATCH_KEY: made})
    if clip.piece is not None:
        options = replace(
            options,
            reader=replace(options.reader, start=clip.piece.start, frames=clip.piece.frames),
            metadata={**options.metadata, **clip_metadata(clip.piece.first)},
        )
    make_folder(target.parent)
    # A partial file of a fixed name, so that a run that was killed leaves nothing that the next one does not finish.
    with atomic_output(target, overwrite=job.overwrite, inputs=[clip.source], keep_partial=True) as sink:
        try:
            if target.exists() and not job.overwrite:  # since we looked, before we had the lock
                raise OutputError(f"{target} has just been written by another process")
            with encoder.stream(), as_source(clip.source) as source:
                result = encode_stream(
                    source,
                    sink,
                    model=encoder,
                    options=options,
                    on_progress=lambda frames, size, total: on_frames(frames, total),
                )
        except BaseException:
            partial_path(target).unlink(missing_ok=True)  # ours alone: the lock on it is still held
            raise
    return {**describe(target, path_of(job.out)), **stamp, **naming, "attached": {}}, result


Engine = Callable[[Sequence[Task]], Iterator[Outcome]]
"""Encodes tasks in any order, and gives one outcome for each. Closing the iterator ends the work."""


@dataclass(frozen=True)
class Summary:
    """How many clips a run encoded and left as they were, which failed, and where its index is."""

    encoded: int
    skipped: int
    failures: tuple[Outcome, ...]
    index: Path
    damaged: int
    """Clips, encoded now or before, whose source was damaged."""
    left_out: tuple[Outcome, ...] = ()
    """Clips that were not to be encoded."""


def run_batch(
    clips: Sequence[Clip],
    job: Job,
    engine: Engine,
    *,
    settled: Sequence[Outcome] = (),
    shard: tuple[int, int] | None = None,
    whole: Sequence[Clip] | None = None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> Summary:
    """Encode clips into `job.out`, and leave an index of all that is there. settled: of clips that are not to be
    encoded. shard: (i, n), if these clips are one part of many; it only names the index. whole: the clips of all
    shards, before sources were cut, which tell what left a manifest; None: these. on_notice: is given what a person
    should know of the folder.

    Clips that a manifest named once and names no more leave the index; their files stay.

    Raises OutputError where the folder cannot be written or another run is at work in it. What goes wrong with a clip
    is in the summary.
    """
    folder = make_folder(job.out)
    name, listed = folder / shard_name(INDEX_NAME, shard), folder / shard_name(FAILURES_NAME, shard)
    for path in (name, listed):  # before anything is encoded
        if path.is_dir():
            raise OutputError(f"{path} is a folder, where a run writes a file; rename it, or use another --out")
    known = merge_records(folder, {file: parse_lines(file.read_bytes()) for file in index_files(folder)})
    # What other runs wrote stays in it, but not what a later run put into another index since.
    listed_here = parse_lines(name.read_bytes()) if name.is_file() else []
    own = {record["path"]: known[record["path"]] for record in listed_here}
    counts = {"encoded": 0, "skipped": 0, "damaged": 0}
    failures: list[Outcome] = []
    left_out: list[Outcome] = []
    with atomic_output(name, overwrite=True, keep_partial=True, resume=True) as journal:
        done = {record["path"]: record for record in _read_journal(journal)}
        known |= done
        own |= done
        for left in _left_manifests(own, clips if whole is None else whole, on_notice):
            del own[left]
        _warn_of_others(folder, known, clips, job, on_notice)
        try:
            encoded = engine([Task(clip=clip, known=known.get(clip.output)) for clip in clips])
            for outcome in chain(settled, encoded):
                if outcome.status == "left out":
                    left_out.append(outcome)
                    own.pop(outcome.clip.output, None)  # an earlier run may have had it
                elif outcome.record is None:
                    failures.append(outcome)
                else:
                    counts[outcome.status] += 1
                    counts["damaged"] += outcome.damage is not None
                    own[outcome.clip.output] = outcome.record
                    journal.write(dump_line(outcome.record))
                    journal.flush()
                on_outcome(outcome)
        except BaseException:
            if not journal.tell():  # nothing was done: no journal is needed
                partial_path(name).unlink(missing_ok=True)
            raise
        journal.seek(0)
        journal.truncate()
        journal.writelines(dump_line(own[path]) for path in sorted(own) if (folder / path).is_file())
    for listing in (failures, left_out):
        listing.sort(key=lambda outcome: outcome.clip.output)
    _write_failures(listed, [*failures, *left_out])
    return Summary(counts["encoded"], counts["skipped"], tuple(failures), name, counts["damaged"], tuple(left_out))


def _left_manifests(own: Mapping[str, Record], clips: Sequence[Clip], on_notice: Callable[[str], None]) -> list[str]:
    """The paths of records that came from a manifest of these clips, which does not name them any more; it is said."""
    manifests, named = {clip.manifest for clip in clips} - {None}, {clip.output for clip in clips}
    named |= {path for path in own if cut_from(path) in named}
    left = sorted(path for path in own.keys() - named if own[path].get("manifest") in manifests)
    if left:
        some = ", ".join(left[:_EXAMPLES]) + (", ..." if len(left) > _EXAMPLES else "")
        on_notice(f"{len(left)} clips left their manifest, and leave the index; their files stay: {some}")
    return left


def _warn_of_others(
    folder: Path, known: Mapping[str, Record], clips: Sequence[Clip], job: Job, on_notice: Callable[[str], None]
) -> None:
    """Say so where the folder holds latents of another space, which this run will not replace."""
    ours = {clip.output for clip in clips}
    for path in sorted(known.keys() - ours):
        space = known[path].get("latent_space_id")
        if None not in (space, job.latent_space_id) and space != job.latent_space_id and (folder / path).is_file():
            on_notice(
                f"{folder / path} holds latents of another latent space ({space} of {known[path].get('model')}, this "
                f"run's is {job.latent_space_id}); what reads the folder refuses both together, use another --out"
            )
            return


def _read_journal(journal: BinaryIO) -> list[Record]:
    """The lines of an interrupted run; half a line at its end is cut off."""
    data = journal.read()
    complete = data[: data.rfind(b"\n") + 1]
    journal.seek(len(complete))
    journal.truncate()
    return parse_lines(complete)


def _write_failures(path: Path, failures: Iterable[Outcome]) -> None:
    lines = [
        dump_line(
            {"path": failure.clip.output, "source": failure.clip.source}
            | ({"error": failure.error} if failure.status == "failed" else {"left_out": failure.reason})
        )
        for failure in failures
    ]
    if lines or path.exists():
        with atomic_output(path, overwrite=True, keep_partial=True) as sink:  # a kill leaves nothing that stays
            sink.writelines(lines)
