"""The official windows piece by piece: the same numbers as for the whole clip, one chunk at a time, any part of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from cvcodec.windows.plan import OfficialPlan
from cvcodec.windows.space import pad_space
from cvcodec.windows.specs import Official
from cvcodec.windows.time import FrameSource, Sequence, pad_time
from tests.windows.toys import OfficialToy, decode_official, encode_official, random_latent, random_video


@pytest.mark.parametrize("frames", [1, 4, 5, 17, 18, 21, 22, 33, 50])
@pytest.mark.parametrize("piece", [1, 7, 60])
def test_streaming_without_padding_gives_exactly_the_same_latents(frames: int, piece: int) -> None:
    model, pixels = OfficialToy("cvvae-sd3"), random_video(frames, 75, 81)
    plan = OfficialPlan.of(model.config)
    sequence = Sequence(FrameSource(pixels.split(piece, 2), 1))
    chunks = list(plan.windows(model.moments, sequence, (0, None), encoding=True))
    assert torch.equal(torch.cat(chunks, 2), encode_official(model, pixels))
    assert [chunk.shape[2] for chunk in chunks][:-1] == [5, 4, 4][: len(chunks) - 1]


@pytest.mark.parametrize("frames", [1, 2, 18, 23, 33])
def test_streaming_with_padding_equals_the_padded_clip_and_loses_no_frame(frames: int) -> None:
    model, pixels = OfficialToy(), random_video(frames, 75, 9)
    plan = OfficialPlan.of(model.config)
    chunks = list(plan.encode(model.moments, pixels.unbind(2)))
    latent = torch.cat(chunks, 2)
    assert torch.equal(latent, encode_official(model, pad_space(pad_time(pixels))))
    assert latent.shape[2:] == (-(-(frames - 1) // 4) + 1, 10, 2)
    spans = [plan.span(index, encoding=True) for index in range(len(chunks))]
    ends = [min(span.keep_end, latent.shape[2]) for span in spans]
    assert [chunk.shape[2] for chunk in chunks] == [end - span.keep for span, end in zip(spans, ends, strict=True)]
    assert ends[-1] == latent.shape[2]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("latents", [1, 2, 5, 6, 9, 10, 13])
def test_streamed_decoding_gives_exactly_the_same_pixels(latents: int, known: bool) -> None:
    model, latent = OfficialToy(), random_latent(latents, 2, 11)
    plan = OfficialPlan.of(model.config)
    log: list[tuple[int, int]] = []

    def read(start: int, stop: int) -> Tensor:
        log.append((start, stop))
        return latent[:, :, start:stop]

    pieces = list(plan.decode(model.decode, read, total=latents if known else None))
    assert torch.equal(torch.cat(pieces, 2), decode_official(model, latent))
    assert [piece.shape[2] for piece in pieces][:-1] == [17, 16, 16][: len(pieces) - 1]
    assert all(before[1] == after[0] for before, after in pairwise(log))


def test_every_part_decodes_to_exactly_what_the_whole_decodes_to() -> None:
    model, latent = OfficialToy(), random_latent(15, 1, 2)
    plan = OfficialPlan.of(model.config)
    whole = decode_official(model, latent)
    for start in range(15):
        for stop in range(start + 1, 16):
            log: list[tuple[int, int]] = []

            def read(a: int, b: int, log: list[tuple[int, int]] = log) -> Tensor:
                log.append((a, b))
                return latent[:, :, a:b]

            part = torch.cat(list(plan.decode(model.decode, read, (start, stop), 15)), 2)
            assert torch.equal(part, whole[:, :, (4 * start - 3 if start else 0) : 4 * stop - 3])
            assert (log[0][0], log[-1][1]) == plan.latents_to_read((start, stop), 15)


def test_random_access_costs_one_chunk() -> None:
    plan = OfficialPlan(4, 8, Official())
    assert plan.latents_to_read((41, 45), 1000) == (40, 45)
    assert plan.latents_to_read((44, 46), 1000) == (40, 49)
    assert plan.latents_to_read((3, 3), 1000) == (3, 3)
    assert OfficialPlan(4, 8, Official(chunk_frames=None)).latents_to_read((7, 8), 9) == (0, 9)


def test_an_encode_that_goes_on_at_a_chunk_gives_the_latents_of_the_whole() -> None:
    model, pixels = OfficialToy(), random_video(50, 16, 24)
    plan = OfficialPlan.of(model.config)
    whole = torch.cat(list(plan.encode(model.moments, [pixels])), 2)
    for start in (0, 5, 9):
        rest = plan.encode(model.moments, [pixels[:, :, plan.first_frame(start) :]], start=start)
        torch.testing.assert_close(torch.cat(list(rest), 2), whole[:, :, start:])
    assert plan.first_frame(9) == 32


def test_without_chunks_the_clip_is_one_call() -> None:
    model, pixels = OfficialToy(chunk=None), random_video(41, 8, 8)
    assert torch.equal(encode_official(model, pixels), model.moments(pixels))
    latent = random_latent(9, 1, 1)
    assert torch.equal(decode_official(model, latent), model.decode(latent))
    plan = OfficialPlan.of(model.config)
    streamed = list(plan.decode(model.decode, lambda a, b: latent[:, :, a:b], (4, 6)))
    assert torch.equal(torch.cat(streamed, 2), model.decode(latent)[:, :, 13:21])
    assert [shape[2] for shape in model.calls[:2]] == [41, 41]


def test_one_chunk_of_frames_is_read_ahead() -> None:
    read = 0

    def frames() -> Iterator[Tensor]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield torch.rand(1, 3, 8, 8)

    stream = OfficialPlan(4, 8, Official()).encode(OfficialToy().moments, frames())
    counts = [(next(stream).shape[2], read) for _ in range(3)]
    assert counts == [(5, 17), (4, 33), (4, 49)]
