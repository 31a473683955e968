"""A run over many clips: what is known before it, what is written down during it, what is left behind by it.

Owns: the index and its journal, the list of failures. Does not know: who encodes (engines), how (work), terminals.

While a run goes on, its index lies in `index.jsonl.partial`, a line for each clip that is done, in the order in which
they ended; a run that was killed is resumed from it. At the end the lines are sorted and the file gets its name, so
that the same clips leave the same index however often they were interrupted. Its lock keeps a second run out of the
folder; shards have an index each. What other runs wrote into it stays in it, as long as the file is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cvcodec.dataset.index import (
    FAILURES_NAME,
    INDEX_NAME,
    Record,
    dump_line,
    dump_lines,
    index_files,
    merge_records,
    parse_line,
    shard_name,
)
from cvcodec.dataset.sources import Clip
from cvcodec.dataset.work import Job, Outcome, Task
from cvcodec.errors import OutputError
from cvcodec.fileio import atomic_output, make_folder, partial_path

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


def run_batch(
    clips: Sequence[Clip],
    job: Job,
    engine: Engine,
    *,
    shard: tuple[int, int] | None = None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> Summary:
    """Encode clips into `job.out`, and leave an index of all that is there. shard: (i, n), if these clips are one part
    of many; it only names the index. on_notice: is given what a person should know of the folder.

    Raises OutputError where the folder cannot be written or another run is at work in it. What goes wrong with a clip
    is in the summary.
    """
    folder = make_folder(job.out)
    name, listed = folder / shard_name(INDEX_NAME, shard), folder / shard_name(FAILURES_NAME, shard)
    for path in (name, listed):  # before anything is encoded
        if path.is_dir():
            raise OutputError(f"{path} is a folder, where a run writes a file; rename it, or use another --out")
    known = merge_records(folder, {file: _records(file) for file in index_files(folder)})
    # What other runs wrote stays in it, but not what a later run put into another index since.
    own = {record["path"]: known[record["path"]] for record in _records(name)} if name.is_file() else {}
    counts = {"encoded": 0, "skipped": 0, "damaged": 0}
    failures: list[Outcome] = []
    with atomic_output(name, overwrite=True, keep_partial=True, resume=True) as journal:
        done = {record["path"]: record for record in _read_journal(journal)}
        known |= done
        own |= done
        _warn_of_others(folder, known, clips, job, on_notice)
        try:
            for outcome in engine([Task(clip=clip, known=known.get(clip.output)) for clip in clips]):
                if outcome.record is None:
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
        journal.writelines(dump_lines(own[path] for path in sorted(own) if (folder / path).is_file()))
    failures.sort(key=lambda outcome: outcome.clip.output)
    _write_failures(listed, failures)
    return Summary(counts["encoded"], counts["skipped"], tuple(failures), name, counts["damaged"])


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


def _records(file: Path) -> Iterator[Record]:
    for line in file.read_bytes().splitlines():
        record = parse_line(line)
        if record is not None:
            yield record


def _read_journal(journal: BinaryIO) -> list[Record]:
    """The lines of an interrupted run; half a line at its end is cut off."""
    data = journal.read()
    complete = data[: data.rfind(b"\n") + 1]
    journal.seek(len(complete))
    journal.truncate()
    return [record for line in complete.splitlines() if (record := parse_line(line)) is not None]


def _write_failures(path: Path, failures: Iterable[Outcome]) -> None:
    lines = [
        dump_line({"path": failure.clip.output, "source": failure.clip.source, "error": failure.error})
        for failure in failures
    ]
    if lines or path.exists():
        with atomic_output(path, overwrite=True, keep_partial=True) as sink:  # a kill leaves nothing that stays
            sink.writelines(lines)
