"""`IterableLatentDataset` over shards that `export_shards` wrote, and shards read by others."""

from __future__ import annotations

import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import cvcodec
from cvcodec.codec import EncodeOptions, encode_file
from cvcodec.dataset import IterableLatentDataset, LatentDataset
from cvcodec.dataset.exporting import export_shards
from cvcodec.dataset.shards import key_of, read_samples
from cvcodec.errors import InputError, UsageError
from tests.dataset.small import save_small_model, write_clip

CPU = EncodeOptions(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def shards(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips with log-variances in several shards."""
    out = tmp_path_factory.mktemp("shards")
    result = export_shards(folders["fp16"], out, shard_bytes=12_000)
    assert result.clips == 5
    assert result.files == len(list(out.glob("*.tar"))) > 2
    return out


def items(data: IterableLatentDataset, workers: int = 0) -> list[dict[str, Any]]:
    return list(DataLoader(data, batch_size=None, num_workers=workers))


def by_key(found: list[dict[str, Any]]) -> dict[str, tuple[int, bytes]]:
    return {item["path"]: (item["first_latent"], item["latents"].numpy().tobytes()) for item in found}


def test_slices_hold_exactly_what_the_files_hold_there(shards: Path, folders: dict[str, Path]) -> None:
    found = items(IterableLatentDataset(shards, latents=3, columns=["caption"]))
    assert {item["path"] for item in found} == {"v/0.cvl", "v/1.cvl", "v/2.cvl", "v/4.cvl"}
    for item in found:
        with cvcodec.open(folders["fp16"] / item["path"]) as file:
            start = item["first_latent"]
            assert np.array_equal(item["latents"].numpy(), file.latents[start : start + 3])
        assert item["first_frame"] == 4 * item["first_latent"]
        assert item["caption"] == f"clip {Path(item['path']).stem}"


@pytest.mark.parametrize("target", ["raw", "svd"])
@pytest.mark.parametrize("layout", ["CTHW", "TCHW"])
def test_both_data_sets_give_the_same_items(tmp_path: Path, target: Any, layout: Any) -> None:
    """Whatever order of axes the shards keep."""
    model = save_small_model(tmp_path / "sd.safetensors", scaling_factor=0.18215)
    (tmp_path / "in").mkdir()
    encode_file(write_clip(tmp_path / "x.mkv", frames=14), tmp_path / "in/x.cvl", model=model, options=CPU)
    export_shards(tmp_path / "in", tmp_path / "out", target=target)
    asked: dict[str, Any] = {"latents": 3, "start": "first", "layout": layout}
    one = LatentDataset(tmp_path / "in", scaled=target == "svd", **asked)[0]
    (other,) = IterableLatentDataset(tmp_path / "out", **asked)
    assert list(one) == list(other) == ["latents", "pts", "first_latent", "first_frame", "path"]
    assert one.pop("path") == other.pop("path") == "x.cvl"
    for name in one:
        assert torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])), name
        assert torch.as_tensor(one[name]).dtype == torch.as_tensor(other[name]).dtype
    assert one["latents"].shape == ((4, 3, 4, 4) if layout == "CTHW" else (3, 4, 4, 4))
    assert one["pts"].tolist() == list(range(0, 360, 40))


def test_shards_give_batches_of_one_shape_too(shards: Path) -> None:
    with pytest.raises(
        UsageError, match=r"different sizes in one batch.*IterableLatentDataset\(\.\.\., batch_size=N\)"
    ):
        list(DataLoader(IterableLatentDataset(shards, latents=[2, 7]), batch_size=5))
    data = IterableLatentDataset(shards, latents=[2, 7], columns=["caption"], batch_size=2)
    batches = items(data)
    assert sorted((*batch["latents"].shape[:3:2], len(batch["caption"])) for batch in batches) == [
        (1, 7, 1),
        (2, 2, 2),
        (2, 7, 2),
    ]
    assert sorted(path for batch in batches for path in batch["path"]) == [f"v/{number}.cvl" for number in range(5)]
    assert len(items(IterableLatentDataset(shards, latents=[2, 7], batch_size=2, drop_last=True))) == 2


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_share_the_shards_and_give_what_one_process_gives(shards: Path, workers: int) -> None:
    data = IterableLatentDataset(shards, latents=2, posterior="sample", seed=5)
    alone = items(data)
    assert len(alone) == 5
    found = items(data, workers)
    assert len(found) == 5
    assert by_key(found) == by_key(alone)


def test_processes_share_the_shards_too(shards: Path) -> None:
    whole = by_key(items(IterableLatentDataset(shards, latents=2)))
    parts = [by_key(items(IterableLatentDataset(shards, latents=2, rank=rank, world_size=2))) for rank in (0, 1)]
    assert parts[0].keys().isdisjoint(parts[1])
    assert parts[0] | parts[1] == whole


def test_epochs_differ_in_order_and_slices_and_come_back(shards: Path) -> None:
    data = IterableLatentDataset(shards, latents=2)
    orders = []
    for epoch in range(6):
        data.set_epoch(epoch)
        orders.append([(item["path"], item["first_latent"]) for item in items(data)])
    assert len({tuple(key for key, _ in order) for order in orders}) > 1
    assert len({tuple(sorted(order)) for order in orders}) > 1
    data.set_epoch(2)
    assert [(item["path"], item["first_latent"]) for item in items(data)] == orders[2]


def test_an_endless_stream_goes_on_with_the_next_epochs(shards: Path) -> None:
    data = IterableLatentDataset(shards, latents=2)
    epochs = []
    for epoch in (3, 4, 5):
        data.set_epoch(epoch)
        epochs += [(item["path"], item["first_latent"]) for item in items(data)]
    endless = IterableLatentDataset(shards, latents=2, endless=True)
    endless.set_epoch(3)
    assert [(item["path"], item["first_latent"]) for item in islice(endless, 15)] == epochs


@pytest.mark.parametrize("more", [{}, {"endless": True}, {"rank": 1, "world_size": 99}])
def test_slices_that_are_longer_than_every_clip_are_an_error(shards: Path, more: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"none of the clips in \d shards has 99 latents, the longest has 11"):
        list(IterableLatentDataset(shards, latents=99, **more))


@pytest.mark.filterwarnings("ignore:.*shards are fewer")
def test_a_worker_all_of_whose_clips_are_too_short_is_no_error_while_others_have_some(shards: Path) -> None:
    world = {"world_size": len(list(shards.glob("*.tar")))}
    parts = [list(IterableLatentDataset(shards, latents=11, rank=rank, **world)) for rank in range(world["world_size"])]
    assert sorted(len(part) for part in parts) == [*[0] * (len(parts) - 1), 1]


def test_fewer_shards_than_workers_are_warned_of_once(shards: Path) -> None:
    shard = min(shards.glob("*.tar"))
    first, second = (IterableLatentDataset(shard, rank=rank, world_size=3) for rank in (0, 1))
    with pytest.warns(UserWarning, match="1 shards are fewer than 3 workers.*: 2 of them yield nothing") as warned:
        assert [len(list(data)) > 0 for data in (first, first, second)] == [True, True, False]
    assert len(warned) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"latents": 0},
        {"latents": 2.5},
        {"latents": True},
        {"seed": -1},
        {"shuffle": True},
        {"posterior": "samples"},
        {"columns": ["caption", "path"]},
        {"columns": "caption"},
    ],
)
def test_options_that_cannot_be_meant_are_refused(shards: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"wanted|reserved: latents, pts, first_latent, first_frame, path"):
        IterableLatentDataset(shards, **options)


def test_stored_order_is_kept_without_shuffling(shards: Path) -> None:
    stored = [f"{sample.key}.cvl" for path in sorted(shards.glob("*.tar")) for sample in read_samples(path)]
    assert [item["path"] for item in items(IterableLatentDataset(shards, shuffle=0))] == stored


def test_samples_are_spread_like_the_log_variance_says(shards: Path, folders: dict[str, Path]) -> None:
    data = IterableLatentDataset(shards, posterior="sample")
    with cvcodec.open(folders["fp16"] / "v/1.cvl") as file:
        mean, logvar = file.latents[:], file.logvar[:]
    errors = []
    for epoch in range(30):
        data.set_epoch(epoch)
        drawn = next(item["latents"].numpy() for item in items(data) if item["path"] == "v/1.cvl")
        errors.append((drawn - mean) / np.exp(logvar / 2))
    assert np.std(errors) == pytest.approx(1, abs=0.02)


def test_the_shards_of_one_export_are_the_same_bytes_as_those_of_another(
    shards: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    again = tmp_path / shards.name  # which the card names
    export_shards(folders["fp16"], again, shard_bytes=12_000)
    for path in shards.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_shards_of_an_older_export_are_not_read_with_those_of_a_newer_one(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    export_shards(folders["fp32"], tmp_path, shard_bytes=12_000)
    before = len(list(tmp_path.glob("*.tar")))
    (tmp_path / "shard-mine.tar").write_bytes(b"no shard of an export")
    assert export_shards(folders["fp32"], tmp_path, overwrite=True).files == 1 < before
    assert len(list(tmp_path.glob("*.tar"))) == 2, "those of the older export are gone, others stay"
    assert len(items(IterableLatentDataset(tmp_path))) == 5


def test_an_interrupted_export_is_not_taken_for_a_whole_one(folders: dict[str, Path], tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    for overwrite in (False, True):  # before and after there was a whole one
        with pytest.raises(KeyboardInterrupt):
            export_shards(folders["fp32"], tmp_path, shard_bytes=1, on_clip=interrupt, overwrite=overwrite)
        with pytest.raises(InputError, match="is not finished; run it again with -y"):
            IterableLatentDataset(tmp_path)
        export_shards(folders["fp32"], tmp_path, shard_bytes=1, overwrite=True)
        assert len(items(IterableLatentDataset(tmp_path))) == 5
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") or path.suffix == ".partial"]


def test_temporary_files_of_a_killed_export_are_no_shards(shards: Path, tmp_path: Path) -> None:
    for path in shards.glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / ".cvcodec-0123456789ab.tar").write_bytes(b"half")
    assert len(items(IterableLatentDataset(tmp_path))) == 5


def test_plain_tar_and_numpy_read_a_shard(shards: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    for shard in shards.glob("*.tar"):
        with tarfile.open(shard) as tar:
            tar.extractall(tmp_path, filter="data")
    for name in range(5):
        with cvcodec.open(folders["fp16"] / f"v/{name}.cvl") as file:
            latents = np.load(tmp_path / f"v/{name}.latents.npy")
            assert latents.dtype == np.float16
            assert np.array_equal(latents, file.latents[:])
            assert np.array_equal(np.load(tmp_path / f"v/{name}.logvar.npy"), file.logvar[:])


def test_webdataset_reads_a_shard(shards: Path, folders: dict[str, Path]) -> None:
    webdataset = pytest.importorskip("webdataset")
    paths = [str(path) for path in sorted(shards.glob("*.tar"))]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False).decode())
    assert len(samples) == 5
    for sample in samples:
        with cvcodec.open(folders["fp16"] / f"{sample['__key__']}.cvl") as file:
            assert np.array_equal(sample["latents.npy"], file.latents[:])
            assert sample["json"]["layout"] == "CTHW"


@pytest.mark.parametrize(
    ("path", "key"), [("a/b.cvl", "a/b"), ("b.v2.mp4.cvl", "b_v2_mp4"), ("a.b/c.d.cvl", "a.b/c_d")]
)
def test_keys_have_no_dots_in_their_names(path: str, key: str) -> None:
    assert key_of(path) == key


def test_a_shard_that_is_cut_or_no_shard_is_an_error_that_names_it(shards: Path, tmp_path: Path) -> None:
    shard = tmp_path / "x.tar"
    shard.write_bytes(next(shards.glob("*.tar")).read_bytes()[:1500])
    with pytest.raises(InputError, match=r"x\.tar"):
        list(IterableLatentDataset(shard, shuffle=0))
    shard.write_bytes(b"no tar" * 200)
    with pytest.raises(InputError, match=r"x\.tar"):
        list(IterableLatentDataset(shard))
    with pytest.raises(InputError, match="no such file"):
        IterableLatentDataset([tmp_path / "y.tar"])
    with pytest.raises(InputError, match=r"no \.tar shards"):
        IterableLatentDataset(shards / "..")
    with pytest.raises(UsageError, match="no place"):
        IterableLatentDataset(shards, rank=2, world_size=2)


def test_shards_without_log_variances_give_no_samples(folders: dict[str, Path], tmp_path: Path) -> None:
    export_shards(folders["fp32"], tmp_path)
    with pytest.raises(UsageError, match="--store-logvar"):
        list(IterableLatentDataset(tmp_path, posterior="sample"))
    assert torch.is_tensor(next(iter(IterableLatentDataset(tmp_path)))["latents"])


def test_shards_of_several_latent_spaces_are_refused_by_every_worker(
    shards: Path, tmp_path: Path, folders: dict[str, Path]
) -> None:
    other = save_small_model(tmp_path / "other.safetensors", seed=1, scaling_factor=0.5)
    source = LatentDataset(folders["fp32"]).records[0]["source"]
    (tmp_path / "v").mkdir()
    encode_file(source, tmp_path / "v/x.cvl", model=other, options=CPU)
    export_shards(tmp_path / "v", tmp_path / "s")
    mixed = [*sorted(shards.glob("*.tar")), tmp_path / "s/shard-000000.tar"]
    with pytest.raises(
        UsageError, match=r"shard-000000\.tar: v/. \(.* and .*s/shard-000000\.tar: x \(.*read them apart"
    ):
        list(IterableLatentDataset(mixed))
    last = IterableLatentDataset(mixed, shuffle=0, rank=len(mixed) - 1, world_size=len(mixed))
    with pytest.raises(UsageError, match="different latent spaces"):
        list(last)
