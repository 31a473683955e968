"""`cvcodec.batch`: many videos to a folder of .cvl files and its index, in one call.

Owns: what is asked for, in the order in which it is needed: clips, model, job, engine. Does not know: how a clip is
encoded and what a run leaves behind (`batch`), who does the work (`local_engine`, `ray_engine`), terminals.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from cvcodec.checkpoints.registry import load_model
from cvcodec.codec.headers import check_layers
from cvcodec.codec.options import DEFAULT_MODEL, EncodeOptions, LatentsKind, options_with
from cvcodec.dataset.batch import Job, Outcome, Summary, Task, run_batch, settings_id
from cvcodec.dataset.cuts import cut_sources
from cvcodec.dataset.cutting_options import Cutting
from cvcodec.dataset.sources import Clip, find_clips, overlooked, shard_of
from cvcodec.errors import UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.remote import is_remote, path_of

StrPath = str | os.PathLike[str]


def batch(
    sources: StrPath | Sequence[StrPath],
    out: StrPath,
    *,
    model: VideoAutoencoder | StrPath = DEFAULT_MODEL,
    options: EncodeOptions | None = None,
    latents: LatentsKind | None = None,
    quality: float | None = None,
    cutting: Cutting | None = None,
    overwrite: bool = False,
    retries: int = 1,
    shard: tuple[int, int] | None = None,
    engine: Literal["local", "ray"] = "local",
    devices: str = "auto",
    address: str | None = None,
    workers: int | None = None,
    jobs: int | None = None,
    clips_per_call: int | None = None,
    on_clips: Callable[[Sequence[Clip]], None] = lambda clips: None,
    on_frames: Callable[[Clip, int, int | None], None] = lambda clip, done, total: None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    on_notice: Callable[[str], None] = lambda text: None,
    on_warning: Callable[[str], None] | None = None,
) -> Summary:
    """Encode many videos: mirrored .cvl files and an index in the folder `out`. Run again, it skips what is done.

    sources: videos, folders, globs and manifests (.csv, .tsv, .jsonl, .txt), one or several.
    model: as `load_model` gives it, or what that takes. options: how to encode; latents, quality: fields of them that
        are chosen most often. cutting: clips of which length, and what is left out.
    overwrite: encode again what was made from another source or with other settings.
    retries: further attempts at a clip that fails. shard: (i, n), every n-th clip from the i-th on, from 0.
    engine: `local` with one copy of the model on each of `devices` (`auto`, or such as `cuda:0,cuda:1`), or `ray`, the
        cluster at `address` with so many `workers`. jobs: files at once on each device. clips_per_call: most clips of
        equal shape in one call of the model.
    on_clips: is given the clips before the first is encoded; on_outcome: how each ended, as it ends; on_frames: a clip,
        frames done and expected, from several threads (local only). on_notice: sentences that a person should read;
        on_warning: those of them that tell of something probably not meant (None: on_notice).

    What goes wrong with a clip is in the summary's `failures` and in failures.jsonl, and ends nothing. Raises
    InputError for sources that are not there, OutputError where `out` cannot be written or another run is at work in
    it, UsageError, CheckpointError, DeviceError, MissingDependencyError.
    """
    _check(engine, devices, address, workers)
    chosen = options_with(options, latents=latents, quality=quality)
    named = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    every = find_clips(named)
    for text in overlooked(every, named):
        on_notice(text)
    if cutting not in (None, Cutting()) and is_remote(out):
        raise UsageError(f"{os.fspath(out)}: clips are cut, or left out, into a folder of this machine; upload it then")
    clips, settled = cut_sources(
        shard_of(every, shard), cutting or Cutting(), chosen.reader, path_of(out), shard=shard, on_notice=on_notice
    )
    on_clips([*clips, *(outcome.clip for outcome in settled)])
    loaded = model if isinstance(model, VideoAutoencoder) else load_model(model)
    check_layers(loaded, chosen.layers)
    job = Job(
        out=str(path_of(out).resolve()),
        options=chosen,
        settings=settings_id(loaded, chosen),
        overwrite=overwrite,
        retries=retries,
        latent_space_id=loaded.latent_space_id,
    )

    def work(tasks: Sequence[Task]) -> Iterator[Outcome]:
        if engine == "ray":
            from cvcodec.dataset.ray_engine import run_ray

            return run_ray(
                tasks, job, loaded, address=address, workers=workers, jobs=jobs, batch=clips_per_call,
                on_notice=on_notice,
            )  # fmt: skip
        from cvcodec.dataset.local_engine import run_local

        return run_local(
            tasks, job, loaded, devices=devices, jobs=jobs, batch=clips_per_call, on_frames=on_frames,
            on_notice=on_notice,
        )  # fmt: skip

    return run_batch(
        clips, job, work, settled=settled, shard=shard, whole=every, on_outcome=on_outcome,
        on_notice=on_warning or on_notice,
    )  # fmt: skip


def _check(engine: str, devices: str, address: str | None, workers: int | None) -> None:
    """Before anything is loaded: a wrong address is known at once."""
    if engine == "ray":
        from cvcodec.dataset.ray_engine import check_address

        check_address(address)
        if devices != "auto":
            raise UsageError("--devices is for --engine local: Ray gives each worker its device")
    elif address is not None or workers is not None:
        raise UsageError("--address and --workers are for --engine ray")
