"""`LatentDataset` against `cvcodec.open`, with and without workers."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import cvcodec
from cvcodec.codec import EncodeOptions
from cvcodec.dataset import LatentDataset
from cvcodec.dataset.batch import Job, run_batch, settings_id
from cvcodec.dataset.items import RESERVED
from cvcodec.dataset.local_engine import run_local
from cvcodec.dataset.reader import ChunkCache
from cvcodec.dataset.sources import find_clips
from cvcodec.errors import InputError, TruncatedError, UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.video import VideoReader
from tests.dataset.small import write_clip

Folders = dict[str, Path]


def first_item(items: list[Any]) -> Any:
    return items[0]


def loaded(data: LatentDataset, workers: int, **settings: Any) -> list[dict[str, Any]]:
    return list(DataLoader(data, batch_size=1, num_workers=workers, collate_fn=first_item, **settings))


def same(one: Iterable[dict[str, Any]], other: Iterable[dict[str, Any]]) -> bool:
    return all(
        a["path"] == b["path"] and a["first_latent"] == b["first_latent"] and torch.equal(a["latents"], b["latents"])
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("kind", ["quantised", "fp16", "fp32"])
def test_a_slice_holds_exactly_what_the_file_holds_there(folders: Folders, kind: str) -> None:
    data = LatentDataset(folders[kind], latents=5, repeats=4, columns=["caption"])
    assert [record["path"] for record in data.records] == ["v/1.cvl", "v/2.cvl", "v/4.cvl"]
    assert data.skipped == 2
    assert len(data) == 12
    starts = set()
    for item in map(data.__getitem__, range(len(data))):
        with cvcodec.open(folders[kind] / item["path"]) as file:
            start = item["first_latent"]
            assert np.array_equal(item["latents"].numpy(), file.latents[start : start + 5])
            wanted = file.pts(item["first_frame"], min(item["first_frame"] + 17, file.frame_count))
            assert item["pts"].tolist()[: len(wanted)] == wanted.tolist()
        assert item["first_frame"] == 4 * start
        assert item["latents"].dtype == torch.float32
        assert item["pts"].shape == (17,)
        assert item["caption"] == f"clip {Path(item['path']).stem}"
        starts.add((item["path"], start))
    assert len(starts) > 6, "slices are random"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_give_what_one_process_gives(folders: Folders, workers: int) -> None:
    data = LatentDataset(folders["fp16"], latents=3, repeats=5, posterior="sample", seed=3)
    alone = loaded(data, 0)
    assert len(alone) == 20
    assert same(alone, loaded(data, workers))


def test_spawned_workers_do_too_though_the_files_were_open_before(folders: Folders) -> None:
    data = LatentDataset(folders["fp32"], latents=3)
    alone = loaded(data, 0)
    assert same(alone, loaded(data, 1, multiprocessing_context="spawn"))
    assert same(alone, [pickle.loads(pickle.dumps(data))[item] for item in range(len(data))])


def test_an_epoch_changes_the_slices_of_workers_that_live_on(folders: Folders) -> None:
    data = LatentDataset(folders["fp32"], latents=2, repeats=6)
    loader = DataLoader(data, batch_size=1, num_workers=1, collate_fn=first_item, persistent_workers=True)
    epochs = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        epochs.append(list(loader))
    assert same(epochs[0], epochs[2])
    assert not same(epochs[0], epochs[1])


def test_items_of_equal_clips_make_batches(folders: Folders) -> None:
    (batch,) = DataLoader(LatentDataset(folders["fp32"], latents=7), batch_size=3)
    assert batch["latents"].shape == (3, 4, 7, 3, 4)
    assert batch["pts"].shape == (3, 25)


def test_whole_clips_come_without_a_length(folders: Folders) -> None:
    data = LatentDataset(folders["fp32"])
    assert [data[item]["latents"].shape[1] for item in range(5)] == [3, 11, 9, 2, 7]
    assert data[3]["pts"].tolist() == [0, 40, 80, 80, 80], "the padded end repeats the last time stamp"


def test_samples_follow_the_posterior_that_was_stored(folders: Folders) -> None:
    data = LatentDataset(folders["fp16"], latents=11, posterior="sample", repeats=400)
    with cvcodec.open(folders["fp16"] / "v/1.cvl") as file:
        mean, logvar = file.latents[:], file.logvar[:]
    drawn = np.stack([data[item]["latents"].numpy() for item in range(400)])
    error = (drawn - mean) / np.exp(logvar / 2)
    assert abs(error.mean()) < 4 / error.size**0.5
    assert abs(error.std() - 1) < 4 / error.size**0.5
    assert (drawn.var(axis=0) / np.exp(logvar)).mean() == pytest.approx(1, abs=0.01)


def test_means_of_files_with_log_variances_are_those_without(folders: Folders) -> None:
    fp16, fp32 = (LatentDataset(folders[kind], latents=3) for kind in ("fp16", "fp32"))
    for item in range(len(fp16)):
        assert torch.equal(fp16[item]["latents"], fp32[item]["latents"].half().float())


def test_scaled_latents_are_those_of_the_diffusion_model(folders: Folders) -> None:
    plain, scaled = (LatentDataset(folders["fp32"], latents=3, scaled=flag) for flag in (False, True))
    assert torch.equal(scaled[0]["latents"], plain[0]["latents"] * 0.5)


def test_source_pixels_are_the_frames_with_these_time_stamps(folders: Folders) -> None:
    data = LatentDataset(folders["fp32"], latents=2, pixels="source", repeats=3)
    for item in map(data.__getitem__, range(len(data))):
        source = next(record["source"] for record in data.records if record["path"] == item["path"])
        with VideoReader(source) as reader:
            frames = {frame.pts: frame.pixels for frame in reader}
        assert item["pixels"].shape == (5, 24, 32, 3)
        wanted = np.stack([frames[pts] for pts in item["pts"].tolist()])
        assert np.array_equal(item["pixels"].numpy(), wanted)


@pytest.mark.parametrize("pixels", ["source", "decoded"])
def test_pixels_of_more_than_8_bits_come_with_their_depth(model: VideoAutoencoder, tmp_path: Path, pixels: Any) -> None:
    write_clip(tmp_path / "v/x.mkv", bit_depth=10)
    options = EncodeOptions(device="cpu", precision="fp32")
    job = Job(out=str(tmp_path), options=options, settings=settings_id(model, options))
    run_batch(find_clips([tmp_path / "v"]), job, lambda tasks: run_local(tasks, job, model, devices="cpu"))
    data = LatentDataset(tmp_path, pixels=pixels, model=model)
    assert data.records[0]["bit_depth"] == data[0]["bit_depth"] == 10
    assert data[0]["pixels"].dtype == torch.int32
    assert 255 < data[0]["pixels"].max() < 1024
    assert "bit_depth" not in LatentDataset(tmp_path)[0]


def test_decoded_pixels_are_those_of_the_file(folders: Folders, model: VideoAutoencoder) -> None:
    data = LatentDataset(folders["quantised"], latents=2, pixels="decoded", model=model)
    item = data[1]
    with cvcodec.open(folders["quantised"] / item["path"], model=model) as file:
        assert np.array_equal(item["pixels"].numpy(), file.frames[item["first_frame"] : item["first_frame"] + 5])


def test_any_list_of_files_and_any_folder_without_an_index_will_do(folders: Folders, tmp_path: Path) -> None:
    wanted = LatentDataset(folders["fp32"], latents=3)[1]
    (tmp_path / "sub").mkdir()
    for name in ("1", "2"):
        (tmp_path / f"sub/{name}.cvl").write_bytes((folders["fp32"] / f"v/{name}.cvl").read_bytes())
    by_list = LatentDataset([tmp_path / "sub/1.cvl", tmp_path / "sub/2.cvl"], latents=3)
    by_folder = LatentDataset(tmp_path, latents=3)
    assert [record["path"] for record in by_folder.records] == ["sub/1.cvl", "sub/2.cvl"]
    for data in (by_list, by_folder):
        assert np.array_equal(data[1]["latents"].shape, wanted["latents"].shape)
        with cvcodec.open(tmp_path / "sub/2.cvl") as file:
            start = data[1]["first_latent"]
            assert np.array_equal(data[1]["latents"].numpy(), file.latents[start : start + 3])


def test_what_cannot_be_given_is_refused_with_the_way_out(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--store-logvar"):
        LatentDataset(folders["fp32"], posterior="sample")
    with pytest.raises(UsageError, match="slices of 5 do not fit"):
        LatentDataset(folders["fp32"], latents=5, short="error")
    with pytest.raises(InputError, match="has 99 latents"):
        LatentDataset(folders["fp32"], latents=99)
    with pytest.raises(UsageError, match="has no column 'texts'; it has caption"):
        LatentDataset(folders["fp32"], columns=["texts"])[0]
    with pytest.raises(UsageError, match="index"):
        LatentDataset([folders["fp32"] / "v/1.cvl"], pixels="source")
    with pytest.raises(UsageError, match=r"the source of .*v/1\.cvl is not known"):
        LatentDataset([folders["fp32"] / "v/1.cvl"], pixels="source")
    with pytest.raises(InputError, match="no such folder"):
        LatentDataset(tmp_path / "none")
    with pytest.raises(IndexError):
        LatentDataset(folders["fp32"])[5]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"latents": 0}, "latents = 0, wanted a whole number, at least 1, several of these, or None"),
        ({"latents": 2.5}, "latents = 2.5, wanted a whole number"),
        ({"latents": True}, "latents = True, wanted a whole number"),
        ({"latents": "5"}, "latents = '5', wanted a whole number"),
        ({"seed": -1}, "seed = -1, wanted a whole number, at least 0"),
        ({"repeats": 0}, "repeats = 0, wanted a whole number, at least 1"),
        ({"latents": []}, r"latents = \(\), wanted at least one length"),
        ({"latents": [5, None]}, "latents = None, wanted a whole number"),
        ({"start": "begin"}, "start = 'begin', wanted 'random' or 'first'"),
        ({"layout": "HWC"}, "layout = 'HWC', wanted 'CTHW' or 'TCHW'"),
        ({"attached": "text"}, r"attached = 'text', wanted a list of names: \['text'\]"),
        ({"attached": ["text"], "columns": ["text"]}, "'text' is asked for as a column and as what is attached"),
        ({"posterior": "samples"}, "posterior = 'samples', wanted 'mean' or 'sample'"),
        ({"pixels": "sources"}, "pixels = 'sources', wanted None or 'source' or 'decoded'"),
        ({"short": "raise"}, "short = 'raise', wanted 'skip' or 'error'"),
        ({"columns": "caption"}, r"columns = 'caption', wanted a list of names: \['caption'\]"),
        ({"columns": ["caption", "pts"]}, r"column 'pts' .* \(reserved: latents, pts, first_latent, .* bit_depth\)"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(folders: Folders, options: dict[str, Any], wanted: str) -> None:
    with pytest.raises(UsageError, match=wanted):
        LatentDataset(folders["fp32"], **options)
    assert len(LatentDataset(folders["fp32"], latents=np.int64(3), seed=np.uint8(0))) == 4  # type: ignore[arg-type]


def test_the_reserved_names_are_those_of_an_item(folders: Folders) -> None:
    assert set(LatentDataset(folders["fp32"], pixels="source")[0]) == set(RESERVED)


def test_slices_may_begin_with_the_clip(folders: Folders) -> None:
    data = LatentDataset(folders["fp32"], latents=2, start="first", repeats=5)
    assert {(item["first_latent"], item["first_frame"]) for item in map(data.__getitem__, range(len(data)))} == {(0, 0)}


def test_of_several_lengths_a_clip_gives_the_longest_that_it_has(folders: Folders) -> None:
    data = LatentDataset(folders["fp32"], latents=[2, 9, 3])
    assert [data[item]["latents"].shape[1] for item in range(5)] == [3, 9, 9, 2, 3]
    assert [data.shape_of(item) for item in (0, 1)] == [(4, 3, 3, 4), (4, 9, 3, 4)]
    assert LatentDataset(folders["fp32"], latents=[9, 5]).skipped == 2


def test_time_may_come_before_channels(folders: Folders) -> None:
    plain, other = (LatentDataset(folders["fp32"], latents=3, layout=layout)[1] for layout in ("CTHW", "TCHW"))
    assert torch.equal(plain["latents"], other["latents"].transpose(0, 1))
    assert other["latents"].is_contiguous()


@pytest.mark.parametrize("asked", ["caption", "text", "prompt"])
def test_captions_answer_to_the_names_that_others_use(folders: Folders, asked: str) -> None:
    assert LatentDataset(folders["fp32"], columns=[asked])[1][asked] == "clip 1"


def test_clips_of_different_sizes_are_no_batch_and_the_error_says_what_makes_one(folders: Folders) -> None:
    data = LatentDataset(folders["fp32"])
    with pytest.raises(
        UsageError,
        match=r"sizes in one batch: latents of 4x3x3x4 \(v/0.cvl\) and 4x11x3x4 \(v/1.cvl\); .*BucketSampler\(",
    ):
        next(iter(DataLoader(data, batch_size=2)))
    whole = LatentDataset(folders["fp32"], latents=2, columns=["caption"])
    (batch,) = DataLoader(whole, batch_size=5)
    assert type(batch) is dict
    assert batch["caption"] == [f"clip {number}" for number in range(5)]


def test_a_file_that_was_cut_is_an_error_that_names_it(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "x.cvl").write_bytes((folders["fp32"] / "v/1.cvl").read_bytes()[:-9])
    with pytest.raises(TruncatedError, match=r"x\.cvl"):
        LatentDataset(tmp_path)


def test_the_cache_keeps_to_its_budget_and_its_number_of_files(folders: Folders) -> None:
    folder = folders["fp32"]
    chunk = 4 * 4 * 3 * 4 * 4
    cache = ChunkCache(open_files=2, cache_bytes=2 * chunk)
    for _ in range(2):
        for name in ("1", "2", "4"):
            for start in range(7):
                cache.latents(folder / f"v/{name}.cvl", start, start + 1)
                assert cache._chunks.held == sum(values.nbytes for values in cache._chunks.values.values()) <= 2 * chunk
                assert len(cache._files.values) <= 2
    assert len(cache._chunks.values) == 2
