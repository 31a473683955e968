"""What a run knows of clips beyond their encoding: columns, damage, latent spaces, and which source is the same one."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from cvcodec.bitstream import BitstreamReader
from cvcodec.dataset import batch
from cvcodec.dataset.batch import run_batch
from cvcodec.dataset.local_engine import run_local
from cvcodec.dataset.sources import find_clips
from cvcodec.model.base import VideoAutoencoder
from tests.dataset.small import break_a_packet, save_small_model, write_clip
from tests.dataset.test_batch import encode, index_of, make_job


def test_a_run_that_has_no_manifest_keeps_the_columns_that_are_known(
    model: VideoAutoencoder, videos: Path, tmp_path: Path
) -> None:
    manifest, out = tmp_path / "m.csv", tmp_path / "out"
    rows = [f"{file},{file.relative_to(videos)},caption {file.stem}\n" for file in sorted(videos.rglob("*.mkv"))]
    manifest.write_text("path,output,caption\n" + "".join(row.replace(".mkv,caption", ".cvl,caption") for row in rows))
    encode(model, manifest, out)
    before = {path: record["columns"] for path, record in index_of(out).items()}
    assert before["a/clip 1.cvl"] == {"caption": "caption clip 1"}
    (tmp_path / "v").symlink_to(videos)
    (tmp_path / "list.txt").write_text("v/a/clip 1.mkv\n")
    assert encode(model, videos, out)[0].skipped == 6
    assert encode(model, tmp_path / "list.txt", out)[0].encoded == 1, "v/a/clip 1.cvl"
    assert {path: record["columns"] for path, record in index_of(out).items()} == {**before, "v/a/clip 1.cvl": {}}
    assert encode(model, videos, out, quality=20, overwrite=True)[0].encoded == 6
    assert {path: record["columns"] for path, record in index_of(out).items()} == {**before, "v/a/clip 1.cvl": {}}


def test_damage_of_a_source_is_counted_in_the_index_whatever_became_of_it(
    model: VideoAutoencoder, tmp_path: Path
) -> None:
    break_a_packet(write_clip(tmp_path / "v/bad.mkv", frames=12))
    write_clip(tmp_path / "v/good.mkv")
    out = tmp_path / "out"
    summary, outcomes = encode(model, tmp_path / "v", out)
    assert (summary.encoded, summary.damaged) == (2, 1)
    before = index_of(out)
    counts = {path: (record["decode_errors"], record["concealed_frames"]) for path, record in before.items()}
    assert counts == {"bad.cvl": (1, 0), "good.cvl": (0, 0)}
    (bad,) = [outcome for outcome in outcomes if outcome.damage is not None]
    assert bad.clip.output == "bad.cvl"
    assert bad.damage in bad.notices
    for path in before:
        with (out / path).open("rb") as file:
            BitstreamReader(file, sequential=True).verify()
    (out / "index.jsonl").unlink()
    summary, _ = encode(model, tmp_path / "v", out)
    assert (summary.skipped, summary.damaged) == (2, 1)
    assert index_of(out) == before


def test_a_folder_that_holds_another_latent_space_is_warned_of(
    model: VideoAutoencoder, videos: Path, tmp_path: Path
) -> None:
    other = save_small_model(tmp_path / "other.safetensors", seed=1)
    clips = find_clips([videos])
    said: list[str] = []

    def run(model: VideoAutoencoder, *numbers: int, overwrite: bool = False) -> None:
        job = make_job(model, tmp_path / "out", overwrite=overwrite)
        job = dataclasses.replace(job, latent_space_id=model.latent_space_id)
        some = [clips[number] for number in numbers]
        run_batch(some, job, lambda tasks: run_local(tasks, job, model, devices="cpu"), on_notice=said.append)

    run(model, 0)
    run(model, 1)
    run(other, 0, 1, overwrite=True)
    assert not said, "nothing of another space stays"
    run(model, 2)
    (text,) = said
    assert f"{clips[0].output} holds latents of another latent space ({other.latent_space_id} of other" in text


@pytest.mark.parametrize("limit", [1 << 20, 64])
def test_a_source_is_known_by_its_whole_content_or_by_many_pieces_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    path = tmp_path / "x.y4m"
    data = np.random.default_rng(0).bytes(300_000)
    path.write_bytes(data)
    monkeypatch.setattr(batch, "PIECE_BYTES", limit)
    known = batch.source_id(path)
    for start, length in ((0, 1), (100_000, 300_000 // 255), (299_999, 1)):
        path.write_bytes(data[:start] + bytes(length) + data[start + length :])
        assert batch.source_id(path) != known
    path.write_bytes(data)
    assert batch.source_id(path) == known


def test_a_source_that_nothing_was_written_to_is_not_read_again(
    model: VideoAutoencoder, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    encode(model, videos, out)
    read: list[str] = []

    def spy(path: str) -> str:
        read.append(path)
        return real(path)

    real = batch.source_id
    monkeypatch.setattr(batch, "source_id", spy)
    assert encode(model, videos, out)[0].skipped == 6
    assert not read
    touched = min(videos.rglob("*.mkv"))
    os.utime(touched, ns=(1, 1))
    for wanted in ([str(touched)], []):
        assert encode(model, videos, out)[0].skipped == 6, "its content is the same"
        assert read == wanted
        read.clear()
