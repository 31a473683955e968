"""What lies beside videos, or stands beside their names, and looks as if it were to be read, but is not.

Owns: telling it, so that a data set is not made without its captions. Does not know: how clips are found (`sources`).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from cvcodec.dataset.manifests import FILE, PATH
from cvcodec.dataset.sources import Clip
from cvcodec.dataset.tables import TABLE_SUFFIXES

_OF_A_VIDEO = frozenset({".txt", ".json", ".caption", ".srt", ".vtt"})
_OF_A_FOLDER = TABLE_SUFFIXES | {".jsonl"}
_LIKE_PATHS = ("video", "video_path", "videos", "video_file", "filename", "file_name")
_EXAMPLES = 3


def overlooked(clips: Sequence[Clip], sources: Sequence[str | os.PathLike[str]]) -> Iterator[str]:
    """A sentence for each kind. `sources`: what `find_clips` was given, for a list that is named is read."""
    columns = {column for clip in clips for column in clip.columns or ()}
    if named := [column for column in _LIKE_PATHS if column in columns]:
        yield f"videos are those of column `{PATH}` or `{FILE}`; kept in the index and not read: {_listed(named)}"
    if files := list(_beside(clips, {os.path.realpath(source) for source in sources})):
        yield (
            f"{len(files)} files beside videos are not read ({_listed(files)}); captions are columns of a manifest, "
            f"which is a source that is named: a .csv with `{PATH}`, or .jsonl"
        )


def _beside(clips: Sequence[Clip], given: set[str]) -> Iterator[str]:
    """Names of files in the clips' folders that are called as a clip is, or are a table."""
    stems: dict[Path, set[str]] = defaultdict(set)
    for clip in clips:
        if clip.columns is None:
            stems[Path(clip.source).parent].add(Path(clip.source).stem)
    for folder, known in stems.items():
        for entry in sorted(os.listdir(folder)) if folder.is_dir() else ():
            name, suffix = os.path.splitext(entry)
            mine = suffix.lower() in _OF_A_FOLDER or (suffix.lower() in _OF_A_VIDEO and name in known)
            if mine and os.path.realpath(folder / entry) not in given:
                yield entry


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")
