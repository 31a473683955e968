"""Batches made on a device against the same samples made one at a time on the CPU; here both run on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cvcodec.dataset.device_clips import BatchPlan, DeviceClips, StoredClip, stored_bytes
from cvcodec.dataset.media import ClipCache, MediaFile, Reporter, find_sources, training_files
from cvcodec.dataset.sampling import ClipSampler, Crop
from cvcodec.errors import InputError
from cvcodec.training.config import BatchShape

from .conftest import moving_texture, write_picture, write_video

CPU = torch.device("cpu")


def both(files: list[MediaFile], *, segment_frames: int = 160, **settings: object) -> tuple[ClipSampler, ...]:
    """A sampler of pieces in memory, and one of pieces in a device's buffer, with the buffer."""
    cache = ClipCache(limit=1 << 30, short_side=512, segment_frames=segment_frames, folder=None, reporter=Reporter())
    clips = DeviceClips(files, cache.get, segment_frames=segment_frames, device=CPU)
    settings = {"seed": 3, "strides": (1, 2), "segment_frames": segment_frames, **settings}
    return ClipSampler(files, cache, **settings), ClipSampler(files, clips, **settings), clips  # type: ignore[arg-type]


def rendered(clips: DeviceClips, drawn: list[StoredClip], shape: BatchShape) -> torch.Tensor:
    return clips.render(BatchPlan.of(drawn, shape.frames, shape.size))


@pytest.fixture
def files(media: Path) -> list[MediaFile]:
    return training_files(find_sources([media / "manifest.tsv"], 0.1), Reporter())


@pytest.mark.parametrize("shape", [BatchShape(1, 1, 32), BatchShape(1, 9, 24), BatchShape(1, 5, 36)])
def test_a_batch_made_on_the_device_is_the_samples_of_the_cpu(files: list[MediaFile], shape: BatchShape) -> None:
    sampler, stored, clips = both(files, segment_frames=12, photo_share=0.4)
    indices = range(80)
    drawn = [stored.draw(index, shape.frames, shape.size) for index in indices]
    batch = rendered(clips, drawn, shape)
    wanted = torch.stack([sampler.sample(index, shape.frames, shape.size) for index in indices])
    kinds = [isinstance(clip.view, Crop) and clip.view.side == shape.size for clip in drawn]
    assert 10 < sum(kinds) < 75, "crops at their own scale, and others"
    assert torch.equal(batch[kinds], wanted[kinds]), "where nothing is interpolated, the same pixels"
    torch.testing.assert_close(batch, wanted, atol=0.05 / 127.5, rtol=0)
    assert batch.stride(1) == 1, "colour innermost, as the models like it"


def test_long_pans_over_the_edge_of_a_picture_are_mirrored_as_on_the_cpu(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", moving_texture(1, 34, 40, 4)[0])
    sampler, stored, clips = both(training_files(find_sources([tmp_path], 0.0), Reporter()))
    shape = BatchShape(1, 29, 32)
    batch = rendered(clips, [stored.draw(index, shape.frames, shape.size) for index in range(30)], shape)
    wanted = torch.stack([sampler.sample(index, shape.frames, shape.size) for index in range(30)])
    torch.testing.assert_close(batch, wanted, atol=0.1 / 127.5, rtol=0)


def test_a_group_too_large_for_one_go_is_made_in_parts(files: list[MediaFile], monkeypatch: pytest.MonkeyPatch) -> None:
    _, stored, clips = both(files, photo_share=0.4)
    shape = BatchShape(1, 5, 32)
    drawn = [stored.draw(index, shape.frames, shape.size) for index in range(24)]
    whole = rendered(clips, drawn, shape)
    monkeypatch.setattr("cvcodec.dataset.device_clips._GROUP_VALUES", 60_000)
    torch.testing.assert_close(rendered(clips, drawn, shape), whole, atol=1e-5, rtol=0)


def test_a_batch_made_alone_or_among_others_is_the_same(files: list[MediaFile]) -> None:
    _, stored, clips = both(files)
    shape = BatchShape(1, 5, 32)
    together = rendered(clips, [stored.draw(index, shape.frames, shape.size) for index in range(12)], shape)
    for index in range(12):
        alone = rendered(clips, [stored.draw(index, shape.frames, shape.size)], shape)
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-5, rtol=0)


def test_files_that_cannot_be_decoded_are_left_out(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", moving_texture(8, 32, 40, 0))
    write_video(tmp_path / "b.mkv", moving_texture(8, 32, 40, 1))
    files = training_files(find_sources([tmp_path], 0.0), Reporter())
    assert stored_bytes(files, 512) == 2 * 8 * 32 * 40 * 3
    assert stored_bytes(files, 16) == 2 * 8 * 16 * 20 * 3
    (tmp_path / "b.mkv").write_bytes(b"gone")
    _, stored, clips = both(files)
    assert clips.bytes_held == 8 * 32 * 40 * 3
    assert rendered(clips, [stored.draw(0, 5, 32)], BatchShape(1, 5, 32)).shape == (1, 3, 5, 32, 32)
    (tmp_path / "a.mkv").write_bytes(b"gone")
    with pytest.raises(InputError, match="no file could be decoded"):
        both(files)
