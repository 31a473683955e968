"""`BucketSampler`: batches of one shape, everything once, as many for every process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from cvcodec.dataset import BucketSampler, LatentDataset
from cvcodec.errors import UsageError


class Shapes:
    """A data set of which only shapes are known."""

    def __init__(self, shapes: Sequence[int]) -> None:
        self.shapes, self.epoch = shapes, 0

    def __len__(self) -> int:
        return len(self.shapes)

    def shape_of(self, item: int) -> tuple[int, ...]:
        return (self.shapes[item],)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def samplers(data: Shapes, size: int, world: int, epoch: int = 0, **more: Any) -> list[BucketSampler]:
    made = [BucketSampler(data, size, rank=rank, world_size=world, **more) for rank in range(world)]
    for sampler in made:
        sampler.set_epoch(epoch)
    return made


@given(
    shapes=st.lists(st.integers(1, 4), min_size=1, max_size=60),
    size=st.integers(1, 9),
    world=st.integers(1, 5),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)
def test_processes_share_the_items_in_batches_of_one_shape(
    shapes: list[int], size: int, world: int, epoch: int, shuffle: bool, drop_last: bool
) -> None:
    found = samplers(Shapes(shapes), size, world, epoch, shuffle=shuffle, drop_last=drop_last)
    least = sum(-(-shapes.count(shape) // size) for shape in set(shapes))
    if not drop_last and -(-least // world) * world > len(shapes):
        with pytest.raises(UsageError, match="cannot be shared by"):
            list(found[0])
        return
    batches = [list(sampler) for sampler in found]
    assert {len(sampler) for sampler in found} == {len(own) for own in batches}
    assert len({len(own) for own in batches}) == 1
    given_out = sorted(item for own in batches for batch in own for item in batch)
    assert len(set(given_out)) == len(given_out)
    for batch in (batch for own in batches for batch in own):
        assert len({shapes[item] for item in batch}) == 1
        assert len(batch) == size if drop_last else 1 <= len(batch) <= size
    if drop_last:
        whole = sum(shapes.count(shape) // size for shape in set(shapes))
        assert len(given_out) == whole // world * world * size
    else:
        assert given_out == list(range(len(shapes)))


def test_accelerate_shares_out_batches_as_they_are() -> None:
    """It repeats some where they do not divide, but neither joins them nor leaves any out."""
    sharing = pytest.importorskip("accelerate.data_loader").BatchSamplerShard
    data = Shapes([number % 3 for number in range(51)])
    (whole,) = samplers(data, 4, 1)
    parts = [list(sharing(whole, num_processes=2, process_index=rank)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1])
    given_out = sorted(map(tuple, (batch for part in parts for batch in part)))
    assert set(given_out) == set(map(tuple, whole))
    assert len(given_out) - len(whole) == len(whole) % 2


def test_most_steps_have_one_shape_on_all_processes() -> None:
    data = Shapes([number % 3 for number in range(300)])
    steps = list(zip(*samplers(data, 4, 4), strict=True))
    alike = sum(len({data.shapes[batch[0]] for batch in step}) == 1 for step in steps)
    assert (alike, len(steps)) == (18, 19)


def test_seed_and_epoch_give_the_order_and_each_matters() -> None:
    data = Shapes([number % 3 for number in range(60)])

    def order(seed: int, epoch: int) -> list[list[int]]:
        (sampler,) = samplers(data, 4, 1, epoch, seed=seed)
        assert data.epoch == epoch, "slices are drawn anew, too"
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 0)
    assert list(BucketSampler(data, 20, shuffle=False)) == [list(range(first, 60, 3)) for first in range(3)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_clips_of_many_lengths_make_batches_in_a_loader(folders: dict[str, Path], workers: int) -> None:
    data = LatentDataset(folders["fp32"], latents=[2, 7], repeats=2)
    sampler = BucketSampler(data, 4)
    loader = DataLoader(data, batch_sampler=sampler, num_workers=workers)
    assert len(loader) == len(sampler) == 3
    sampler.set_epoch(3)
    batches = list(loader)
    assert sorted(tuple(batch["latents"].shape) for batch in batches) == [
        (2, 4, 7, 3, 4),
        (4, 4, 2, 3, 4),
        (4, 4, 7, 3, 4),
    ]
    data.set_epoch(3)
    wanted = sorted(data[item]["first_latent"] for item in range(len(data)))
    assert sorted(torch.cat([batch["first_latent"] for batch in batches]).tolist()) == wanted


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(UsageError, match="batch_size = 0, wanted a whole number"):
        BucketSampler(Shapes([1]), 0)
    with pytest.raises(UsageError, match="rank = 2 of world_size = 2 is no place"):
        BucketSampler(Shapes([1]), 1, rank=2, world_size=2)
    with pytest.raises(UsageError, match="3 batches of one item cannot be shared by 2 processes evenly; take"):
        list(BucketSampler(Shapes([1, 1, 1]), 1, rank=0, world_size=2))
