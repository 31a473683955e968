"""Finding, opening, caching and sampling files."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from cvcodec.dataset.media import ClipCache, MediaFile, Reporter, decode_clip, find_sources, probe, training_files
from cvcodec.dataset.sampling import ClipSampler
from cvcodec.errors import InputError
from cvcodec.training.config import BatchShape
from cvcodec.training.data import BatchLoader, active_shapes, shape_of_step

from .conftest import moving_texture, write_picture, write_video


def opened(media: Path) -> list[MediaFile]:
    return training_files(find_sources([media / "manifest.tsv"], 0.1), Reporter())


def cache_of(
    media: Path, *, limit: int = 1 << 30, folder: Path | None = None, reporter: Reporter | None = None
) -> ClipCache:
    return ClipCache(limit=limit, short_side=512, segment_frames=160, folder=folder, reporter=reporter or Reporter())


# ------------------------------------------------------------------------------------------------ finding


def test_a_manifest_says_which_files_are_held_out(media: Path) -> None:
    sources = find_sources([media / "manifest.tsv"], 0.9)
    assert [source.path.name for source in sources if source.split == "val"] == ["v3.mkv"]
    assert {source.group for source in sources if source.path.suffix == ".png"} == {"photos"}


def test_a_csv_manifest_and_a_list_name_files_relative_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file,split\na.mp4,train\nb.mp4,test\n")
    (tmp_path / "l.txt").write_text("# comment\n\nsub/c.png\n")
    (tmp_path / "m.jsonl").write_text('{"video": "sub/d.mp4", "split": "val", "source": "film"}\n')
    sources = find_sources([tmp_path / "m.csv", tmp_path / "l.txt", tmp_path / "m.jsonl"], 0.0)
    assert [(source.path.relative_to(tmp_path).as_posix(), source.split) for source in sources] == [
        ("a.mp4", "train"),
        ("b.mp4", "test"),
        ("sub/c.png", "train"),
        ("sub/d.mp4", "val"),
    ]
    assert sources[-1].group == "film"


def test_a_folder_is_split_by_its_subfolders(tmp_path: Path) -> None:
    for film in range(40):
        (tmp_path / f"film{film}").mkdir()
        for clip in range(3):
            (tmp_path / f"film{film}" / f"{clip}.mp4").touch()
    (tmp_path / "notes.txt").touch()
    sources = find_sources([tmp_path], 0.3)
    assert len(sources) == 120
    splits = {group: {s.split for s in sources if s.group == group} for group in {s.group for s in sources}}
    assert all(len(found) == 1 for found in splits.values())
    assert 4 <= sum("val" in found for found in splits.values()) <= 20


def test_data_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such data"):
        find_sources([tmp_path / "nowhere"], 0.1)
    with pytest.raises(InputError, match="no videos or images"):
        find_sources([tmp_path], 0.1)
    (tmp_path / "m.tsv").write_text("clip\tsplit\nx\ttrain\n")
    with pytest.raises(InputError, match="no column `path`"):
        find_sources([tmp_path / "m.tsv"], 0.1)


def test_corrupt_and_audio_only_files_are_named_once_and_left_out(media: Path) -> None:
    lines: list[str] = []
    reporter = Reporter(lines.append)
    sources = find_sources([media / "manifest.tsv"], 0.1)
    for _ in range(2):
        files = probe(sources, "train", reporter)
    assert sorted(file.path.name for file in files) == ["p0.png", "p1.png", "v0.mkv", "v1.mkv", "v2.mkv"]
    assert sorted(Path(line.split(": ")[0].removeprefix("skipped ")).name for line in lines) == [
        "corrupt.mp4",
        "silence.wav",
    ]


def test_nothing_but_unreadable_files_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(InputError, match="nothing to train on: 1 of 1 files"):
        training_files(find_sources([tmp_path], 0.0), Reporter())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", "file,split\none.mp4,train\n".encode("utf-16"), "is not UTF-8 text"),
        ("a.txt", "caf\xe9.mp4".encode("latin-1"), "is not UTF-8 text"),
        ("a.csv", b'file,split\n"one.mp4,train\ntwo.mp4,train\n', "line 2 cannot be read"),
        ("a.csv", b"path,split\none.mp4,train\n,train\n", "line 3: its `path` is empty; wanted the path of a video"),
        ("a.jsonl", b'{"path": "a.mp4"}\n{"path": ""}\n', "line 2: its `path` is empty"),
        ("a.jsonl", b'{"split": "train"}\n', "line 1 names no video: no `path`"),
        ("a.csv", b"file,split\n" + b"x" * 200_000 + b",train\n", "line 2 cannot be read"),
    ],
)
def test_a_list_that_cannot_be_read_is_a_clear_error(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=rf"a\.(csv|txt|jsonl),? {message}"):
        find_sources([tmp_path / name], 0.1)


def test_manifests_of_spreadsheets_and_quotes_between_tabs_are_understood(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbffile,split\none.mp4,train\n")
    (tmp_path / "b.tsv").write_text('path\tsplit\n"two.mp4\ttrain\nthree.mp4\tval\n')
    found = find_sources([tmp_path / "a.csv", tmp_path / "b.tsv"], 0.1)
    assert [(s.path.name, s.split) for s in found] == [
        ('"two.mp4', "train"),
        ("one.mp4", "train"),
        ("three.mp4", "val"),
    ]


def test_files_that_are_all_held_out_are_told_from_unreadable_ones(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(InputError, match="all 1 files are held out; lower --val-fraction"):
        training_files(find_sources([tmp_path], 1.0), Reporter())


# ------------------------------------------------------------------------------------------------ decoding, caching


def test_decoded_frames_are_those_that_were_written(tmp_path: Path) -> None:
    clip = moving_texture(9, 24, 32, 5)
    write_video(tmp_path / "a.mkv", clip)
    assert np.array_equal(decode_clip(tmp_path / "a.mkv", count=100, short_side=64), clip)
    part = decode_clip(tmp_path / "a.mkv", start=Fraction(4, 25), count=3, short_side=64)
    assert np.array_equal(part, clip[4:7])


def test_large_pictures_are_scaled_down_and_small_ones_left_alone(tmp_path: Path) -> None:
    picture = np.full((40, 60, 3), 77, np.uint8)
    write_picture(tmp_path / "a.png", picture)
    assert decode_clip(tmp_path / "a.png", count=1, short_side=40).shape == (1, 40, 60, 3)
    small = decode_clip(tmp_path / "a.png", count=1, short_side=20)
    assert small.shape == (1, 20, 30, 3)
    assert (small == 77).all()


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_cache_stays_within_its_limit_and_answers_the_same(media: Path, tmp_path: Path, on_disk: bool) -> None:
    files = opened(media)
    fresh = {file.path: decode_clip(file.path, count=160, short_side=512) for file in files}
    limit = max(clip.nbytes for clip in fresh.values()) + 1000
    folder = tmp_path / "cache" if on_disk else None
    cache = cache_of(media, limit=limit, folder=folder)
    for _ in range(2):
        for file in files:
            clip = cache.get(file)
            assert clip is not None
            assert np.array_equal(clip, fresh[file.path])
            assert cache.bytes_held <= limit
    if folder is not None:
        assert sum(path.stat().st_size for path in folder.iterdir()) <= limit + 1000


def test_a_cache_folder_serves_the_next_run_without_decoding(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = next(file for file in opened(media) if file.path.name == "v0.mkv")
    first = cache_of(media, folder=tmp_path).get(file)
    monkeypatch.setattr("cvcodec.dataset.media.VideoReader", None)
    again = cache_of(media, folder=tmp_path).get(file)
    assert first is not None
    assert again is not None
    assert np.array_equal(first, again)


def test_a_file_that_breaks_while_decoding_is_reported_once(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", moving_texture(8, 32, 32, 0))
    file = MediaFile(tmp_path / "a.mkv", "a", 8, False)
    (tmp_path / "a.mkv").write_bytes(b"gone")
    lines: list[str] = []
    cache = cache_of(tmp_path, reporter=Reporter(lines.append))
    assert cache.get(file) is None
    assert cache.get(file) is None
    assert len(lines) == 1


# ------------------------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize("shape", [BatchShape(1, 1, 32), BatchShape(1, 9, 32), BatchShape(1, 13, 40)])
def test_samples_are_functions_of_their_index(media: Path, shape: BatchShape) -> None:
    samplers = [ClipSampler(opened(media), cache_of(media), seed=3, strides=(1, 2)) for _ in range(2)]
    forwards = [samplers[0].sample(index, shape.frames, shape.size) for index in range(12)]
    backwards = [samplers[1].sample(index, shape.frames, shape.size) for index in reversed(range(12))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert one.shape == (3, shape.frames, shape.size, shape.size)
        assert torch.equal(one, other)
        assert one.min() >= -1
        assert one.max() <= 1
    assert len({clip.sum().item() for clip in forwards}) == 12


def test_without_augmentation_a_crop_is_the_sources_pixels(tmp_path: Path) -> None:
    clip = moving_texture(5, 40, 40, 2)
    write_video(tmp_path / "a.mkv", clip)
    files = training_files(find_sources([tmp_path], 0.0), Reporter())
    sampler = ClipSampler(files, cache_of(tmp_path), seed=0, augment=False)
    sample = ((sampler.sample(0, 5, 40) + 1) * 127.5).permute(1, 2, 3, 0)
    np.testing.assert_allclose(sample.numpy(), clip, atol=1e-3)


def test_photos_become_clips_that_move(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", moving_texture(1, 96, 96, 4)[0])
    files = training_files(find_sources([tmp_path], 0.0), Reporter())
    sampler = ClipSampler(files, cache_of(tmp_path), seed=0)
    clips = [sampler.sample(index, 5, 32) for index in range(20)]
    moving = sum(bool((clip[:, 0] - clip[:, -1]).abs().mean() > 0.01) for clip in clips)
    assert 8 <= moving <= 19


def test_all_files_unreadable_while_sampling_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    sampler = ClipSampler([MediaFile(tmp_path / "a.mp4", "a", 9, False)], cache_of(tmp_path), seed=0)
    with pytest.raises(InputError, match="could not be decoded"):
        sampler.sample(0, 1, 32)


# ------------------------------------------------------------------------------------------------ batches


def constant(index: int, frames: int, size: int) -> torch.Tensor:
    return torch.full((3, frames, size, size), float(index))


def stack(clips: list[torch.Tensor], frames: int, size: int) -> torch.Tensor:
    return torch.stack(clips)


def test_two_processes_share_the_samples_of_one() -> None:
    shapes = [BatchShape(4, 1, 8)]
    with contextlib.closing(BatchLoader(constant, stack, shapes, seed=0, start=5)) as loader:
        whole = [loader.next() for _ in range(3)]
    parts = []
    for rank in range(2):
        with contextlib.closing(
            BatchLoader(constant, stack, shapes, seed=0, start=5, rank=rank, processes=2)
        ) as loader:
            parts.append([loader.next() for _ in range(3)])
    for batch, first, second in zip(whole, *parts, strict=True):
        assert first.indices + second.indices == batch.indices
        assert torch.equal(torch.cat([first.pixels, second.pixels]), batch.pixels)


def test_batches_come_in_step_order_whatever_the_number_of_threads() -> None:
    with contextlib.closing(BatchLoader(constant, stack, [BatchShape(2, 1, 8)], seed=0, start=7, workers=3)) as loader:
        assert [loader.next().step for _ in range(10)] == list(range(7, 17))


def test_shapes_are_drawn_by_weight_and_keyed_on_the_step() -> None:
    shapes = [BatchShape(1, 1, 8, weight=3), BatchShape(1, 5, 8, weight=1)]
    drawn = [shape_of_step(shapes, 0, step).frames for step in range(2000)]
    assert drawn == [shape_of_step(shapes, 0, step).frames for step in range(2000)]
    assert drawn.count(5) == pytest.approx(500, abs=80)


def test_the_shapes_with_the_largest_start_that_was_passed_are_active() -> None:
    shapes = tuple(BatchShape.parse(text) for text in ("4x9x64", "8x1x64*0.5", "2x17x64@0.5"))
    assert active_shapes(shapes, 0.2) == shapes[:2]
    assert active_shapes(shapes, 0.5) == shapes[2:]
