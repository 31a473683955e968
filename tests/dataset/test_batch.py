"""Runs over many clips: what is skipped, tried again, listed, and left behind after kills."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cvcodec
from cvcodec.codec import EncodeOptions, ReaderOptions, encode_file
from cvcodec.dataset import batch
from cvcodec.dataset.batch import Job, Outcome, Summary, Task, run_batch, settings_id
from cvcodec.dataset.index import read_index
from cvcodec.dataset.local_engine import run_local
from cvcodec.dataset.sources import find_clips, shard_of
from cvcodec.errors import InputError, OutputError
from cvcodec.fileio import atomic_output
from cvcodec.model.base import VideoAutoencoder
from tests.dataset.small import write_clip


def make_job(model: VideoAutoencoder, out: Path, *, overwrite: bool = False, retries: int = 0, **options: Any) -> Job:
    chosen = EncodeOptions(device="cpu", precision="fp32", threads=1, **options)
    return Job(out=str(out), options=chosen, settings=settings_id(model, chosen), overwrite=overwrite, retries=retries)


def encode(model: VideoAutoencoder, source: Path, out: Path, **changes: Any) -> tuple[Summary, list[Outcome]]:
    shard = changes.pop("shard", None)
    engine = {name: changes.pop(name) for name in ("jobs", "batch") if name in changes}
    job = make_job(model, out, **changes)
    outcomes: list[Outcome] = []
    summary = run_batch(
        shard_of(find_clips([source]), shard),
        job,
        lambda tasks: run_local(tasks, job, model, devices="cpu", **engine),
        shard=shard,
        on_outcome=outcomes.append,
    )
    return summary, outcomes


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with a hash of its content."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def index_of(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "index.jsonl").read_text().splitlines()
    return {record["path"]: record for record in map(json.loads, lines)}


def test_outputs_are_what_encoding_each_file_alone_gives(model: VideoAutoencoder, videos: Path, tmp_path: Path) -> None:
    summary, _ = encode(model, videos, tmp_path / "out", jobs=3)
    assert (summary.encoded, summary.skipped, summary.failures) == (6, 0, ())
    for source in videos.rglob("*.mkv"):
        alone = tmp_path / "alone.cvl"
        encode_file(source, alone, model=model, options=EncodeOptions(device="cpu", precision="fp32"), overwrite=True)
        with (
            cvcodec.open(alone) as wanted,
            cvcodec.open(tmp_path / "out" / source.relative_to(videos).with_suffix(".cvl")) as got,
        ):
            assert np.array_equal(wanted.latents[:], got.latents[:])


def test_the_index_says_of_each_file_what_the_file_says(model: VideoAutoencoder, videos: Path, tmp_path: Path) -> None:
    encode(model, videos, tmp_path)
    records = index_of(tmp_path)
    assert list(records) == sorted(records)
    assert len(records) == 6
    for path, record in records.items():
        data = (tmp_path / path).read_bytes()
        assert record["sha256"] == hashlib.sha256(data).hexdigest()
        assert record["size_bytes"] == len(data)
        with cvcodec.open(tmp_path / path) as file:
            assert record["shape"] == list(file.latents.shape)
            pts = file.pts(0, file.frame_count)
            assert (record["frames"], record["first_pts"], record["last_pts"]) == (len(pts), pts[0], pts[-1])
            assert record["latent_space_id"] == model.latent_space_id
            assert Path(record["source"]).relative_to(videos).with_suffix(".cvl").as_posix() == path


def test_columns_of_a_manifest_are_carried_over(model: VideoAutoencoder, videos: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path,output,caption\n{videos}/a/clip 1.mkv,one,first\n{videos}/a/clip 3.mkv,two,second\n")
    encode(model, manifest, tmp_path / "out")
    assert {path: record["columns"] for path, record in index_of(tmp_path / "out").items()} == {
        "one.cvl": {"caption": "first"},
        "two.cvl": {"caption": "second"},
    }
    manifest.write_text(manifest.read_text().replace("second", "third"))
    summary, _ = encode(model, manifest, tmp_path / "out")
    assert summary.skipped == 2
    assert index_of(tmp_path / "out")["two.cvl"]["columns"] == {"caption": "third"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_line_ends_in_captions_and_names_that_are_no_text_survive_the_index(
    model: VideoAutoencoder, tmp_path: Path
) -> None:
    caption = "one\ntwo\u2028three\x85\x1cfour"
    name = os.fsdecode(b"clip \xff.mkv")
    write_clip(tmp_path / "v/x.mkv").rename(tmp_path / "v" / name)
    write_clip(tmp_path / "v/y.mkv", seed=1)
    clips = [dataclasses.replace(clip, columns={"caption": caption}) for clip in find_clips([tmp_path / "v"])]
    job = make_job(model, tmp_path / "out")
    for wanted in ((2, 0), (0, 2)):
        summary = run_batch(clips, job, lambda tasks: run_local(tasks, job, model, devices="cpu"))
        assert (summary.encoded, summary.skipped) == wanted
    first, second = read_index(tmp_path / "out")
    assert first["source"] == str(tmp_path / "v" / name)
    assert first["columns"] == second["columns"] == {"caption": caption}
    assert (tmp_path / "out" / first["path"]).is_file()


def test_a_second_run_skips_everything_even_without_its_index(
    model: VideoAutoencoder, videos: Path, tmp_path: Path
) -> None:
    encode(model, videos, tmp_path)
    before = tree(tmp_path)
    assert encode(model, videos, tmp_path)[0].skipped == 6
    (tmp_path / "index.jsonl").unlink()
    assert encode(model, videos, tmp_path)[0].skipped == 6
    assert tree(tmp_path) == before


def test_other_settings_and_changed_sources_are_failures_until_replacing_is_allowed(
    model: VideoAutoencoder, tmp_path: Path
) -> None:
    source = write_clip(tmp_path / "v/x.mkv", seed=1)
    encode(model, tmp_path / "v", tmp_path / "out")
    first = (tmp_path / "out/x.cvl").read_bytes()

    summary, _ = encode(model, tmp_path / "v", tmp_path / "out", quality=50.0)
    assert "made with other settings; use -y" in str(summary.failures[0].error)
    write_clip(source, seed=2)
    summary, _ = encode(model, tmp_path / "v", tmp_path / "out")
    assert "made from another source; use -y" in str(summary.failures[0].error)
    assert (tmp_path / "out/x.cvl").read_bytes() == first

    summary, _ = encode(model, tmp_path / "v", tmp_path / "out", overwrite=True)
    assert summary.encoded == 1
    assert (tmp_path / "out/x.cvl").read_bytes() != first
    assert encode(model, tmp_path / "v", tmp_path / "out", overwrite=True)[0].skipped == 1


def test_a_damaged_output_is_no_output(model: VideoAutoencoder, tmp_path: Path) -> None:
    write_clip(tmp_path / "v/x.mkv")
    encode(model, tmp_path / "v", tmp_path / "out")
    output = tmp_path / "out/x.cvl"
    whole = output.read_bytes()
    output.write_bytes(whole[:-10])
    summary, _ = encode(model, tmp_path / "v", tmp_path / "out")
    assert "is damaged" in str(summary.failures[0].error)
    assert encode(model, tmp_path / "v", tmp_path / "out", overwrite=True)[0].encoded == 1
    assert output.read_bytes() == whole


def test_devices_and_threads_are_no_settings_but_everything_else_is(model: VideoAutoencoder) -> None:
    base = EncodeOptions()
    elsewhere = ReaderOptions(threads=2, hwaccel="auto")
    same = [dataclasses.replace(base, device="cpu"), dataclasses.replace(base, threads=3)]
    same.append(dataclasses.replace(base, reader=elsewhere))
    assert {settings_id(model, options) for options in same} == {settings_id(model, base)}
    changes: dict[str, Any] = {
        "quality": 74.0,
        "rdo": "none",
        "latents": "fp16",
        "store_logvar": True,
        "windows": "context",
        "window": 3,
        "drop_last_frames": True,
        "tile": 0,
        "precision": "fp32",
        "reader": ReaderOptions(rotate=False),
    }
    untouched = {"device", "threads", "metadata"}
    others = {settings_id(model, dataclasses.replace(base, **{name: value})) for name, value in changes.items()}
    assert len(others - {settings_id(model, base)}) == len(changes)
    known = {field.name for field in dataclasses.fields(EncodeOptions)}
    assert known >= set(changes) | untouched


def test_a_clip_is_tried_again_as_often_as_asked(
    model: VideoAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "v/x.mkv")
    calls: list[float] = []
    real = batch.encode_stream

    def unreliable(*args: Any, **kwargs: Any) -> Any:
        calls.append(time.monotonic())
        if len(calls) < 3:
            raise InputError("the network is away")
        return real(*args, **kwargs)

    monkeypatch.setattr(batch, "encode_stream", unreliable)
    monkeypatch.setattr(batch, "_RETRY_DELAY_S", 0.01)
    _, (outcome,) = encode(model, tmp_path / "v", tmp_path / "out", retries=2)
    assert (outcome.status, outcome.attempts) == ("encoded", 3)

    calls.clear()
    (tmp_path / "out/x.cvl").unlink()
    summary, (outcome,) = encode(model, tmp_path / "v", tmp_path / "out", retries=1)
    assert (outcome.status, outcome.attempts) == ("failed", 2)
    (line,) = map(json.loads, (tmp_path / "out/failures.jsonl").read_text().splitlines())
    assert line == {"path": "x.cvl", "source": str(tmp_path / "v/x.mkv"), "error": "the network is away"}
    assert summary.failures == (outcome,)


@pytest.mark.parametrize("name", ["failures.jsonl", "index.jsonl"])
def test_a_folder_where_a_list_belongs_is_refused_before_anything_is_encoded(
    model: VideoAutoencoder, videos: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(OutputError, match=rf"{name} is a folder, where a run writes a file"):
        encode(model, videos, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == [name]


def test_a_defect_that_one_clip_meets_does_not_end_the_run(
    model: VideoAutoencoder, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = batch.encode_stream

    def defective(source: str, *args: Any, **kwargs: Any) -> Any:
        if "clip 2" in source:
            raise ZeroDivisionError("by nought")
        return real(source, *args, **kwargs)

    monkeypatch.setattr(batch, "encode_stream", defective)
    summary, _ = encode(model, videos, tmp_path)
    assert summary.encoded == 5
    assert "ZeroDivisionError: by nought" in str(summary.failures[0].error)
    assert not list(tmp_path.rglob("*.partial"))


def test_an_index_keeps_what_other_runs_wrote_while_the_files_are_there(
    model: VideoAutoencoder, tmp_path: Path
) -> None:
    for number in range(3):
        write_clip(tmp_path / f"v{number}/{number}.mkv", seed=number)
        encode(model, tmp_path / f"v{number}", tmp_path / "out")
    assert list(index_of(tmp_path / "out")) == ["0.cvl", "1.cvl", "2.cvl"]
    (tmp_path / "out/1.cvl").unlink()
    encode(model, tmp_path / "v0", tmp_path / "out")
    assert list(index_of(tmp_path / "out")) == ["0.cvl", "2.cvl"]


def test_shards_write_indexes_of_their_own_which_together_are_the_whole(
    model: VideoAutoencoder, videos: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    encode(model, videos, whole)
    for number in (1, 0):
        encode(model, videos, parts, shard=(number, 2))
    assert sorted(path.name for path in parts.glob("*.jsonl")) == [
        "index-00000-of-00002.jsonl",
        "index-00001-of-00002.jsonl",
    ]
    lines = [line for path in parts.glob("index-*") for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted((whole / "index.jsonl").read_text().splitlines())
    assert encode(model, videos, parts)[0].skipped == 6
    assert (parts / "index.jsonl").read_bytes() == (whole / "index.jsonl").read_bytes()


def test_an_index_does_not_keep_what_a_later_run_of_a_shard_replaced(model: VideoAutoencoder, tmp_path: Path) -> None:
    for number in range(2):
        write_clip(tmp_path / f"v/{number}.mkv", seed=number)
    encode(model, tmp_path / "v", tmp_path / "out")
    encode(model, tmp_path / "v", tmp_path / "out", shard=(0, 1), quality=20, overwrite=True)
    wanted = read_index(tmp_path / "out")
    assert all(record["size_bytes"] == (tmp_path / "out" / record["path"]).stat().st_size for record in wanted)
    encode(model, tmp_path / "v/0.mkv", tmp_path / "out", quality=20)
    assert list(index_of(tmp_path / "out").values()) == wanted


def test_a_second_run_into_the_same_folder_is_refused_while_the_first_one_works(
    model: VideoAutoencoder, videos: Path, tmp_path: Path
) -> None:
    with (
        atomic_output(tmp_path / "index.jsonl", keep_partial=True),
        pytest.raises(OutputError, match="being written by another process"),
    ):
        encode(model, videos, tmp_path)


def test_an_interrupted_run_leaves_a_journal_and_no_pieces(
    model: VideoAutoencoder, videos: Path, tmp_path: Path
) -> None:
    job = make_job(model, tmp_path)

    def interrupted(tasks: Sequence[Task]) -> Iterator[Outcome]:
        outcomes = run_local(tasks, job, model, devices="cpu", jobs=1)
        yield next(outcomes)
        outcomes.close()  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(find_clips([videos]), job, interrupted)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["index.jsonl.partial"]
    assert not list(tmp_path.rglob("*.cvl.partial"))
    with (tmp_path / "index.jsonl.partial").open("ab") as journal:
        journal.write(b'{"path": "half a li')
    done = len(list(tmp_path.rglob("*.cvl")))
    assert done < 6
    summary, _ = encode(model, videos, tmp_path)
    assert (summary.encoded, summary.skipped) == (6 - done, done)
    assert len(index_of(tmp_path)) == 6


@pytest.mark.skipif(os.name == "nt", reason="kills with SIGKILL")
def test_200_clips_killed_twice_and_resumed_leave_the_tree_of_an_undisturbed_run(
    model: VideoAutoencoder, weights: Path, tmp_path: Path
) -> None:
    source = tmp_path / "v"
    for number in range(200):
        write_clip(source / f"{number % 7}" / f"{number:03d}.mkv", frames=8 + number % 5, seed=number)
    broken = source / "3/broken.mp4"
    broken.write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(2000))

    undisturbed = tmp_path / "undisturbed"
    summary, _ = encode(model, source, undisturbed, jobs=2)
    assert (summary.encoded, len(summary.failures)) == (200, 1)

    resumed = tmp_path / "resumed"
    command = [sys.executable, "-m", "cvcodec", "batch", str(source), "--out", str(resumed), "--weights", str(weights)]
    command += ["--device", "cpu", "--precision", "fp32", "--threads", "1", "--jobs", "2", "--retries", "0"]
    counts = [0]
    for wanted in (40, 110):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while len(list(resumed.rglob("*.cvl"))) < wanted and process.poll() is None:  # however slow the machine is
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was to be killed in the middle"
        counts.append(len(list(resumed.rglob("*.cvl"))))
    assert 40 <= counts[1] < counts[2] < 200
    final = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert final.returncode == 1
    lines = [json.loads(line) for line in final.stdout.splitlines()]
    assert len(lines) == 201
    (failed,) = [line for line in lines if line["status"] == "failed"]
    assert failed["source"] == str(broken)
    assert sum(line["status"] == "skipped" for line in lines) == counts[2]
    assert tree(resumed) == tree(undisturbed)
    assert len(index_of(resumed)) == 200
