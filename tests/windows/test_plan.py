"""Windows in time: windowed equals whole, every frame exactly once, parts equal the whole, one clip alive."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from cvcodec.model import mini
from cvcodec.windows.plan import ContextPlan
from cvcodec.windows.space import pad_space
from cvcodec.windows.specs import Tile, Window
from cvcodec.windows.time import pad_time, trim_frames
from tests.windows.toys import (
    ToyDecoder,
    ToyEncoder,
    context_plan,
    decode_stream,
    encode_stream,
    random_latent,
    random_video,
)

REACH = 2


class Reader:
    """A `read_latents` that keeps a log of what was asked for."""

    def __init__(self, latent: Tensor) -> None:
        self.latent = latent
        self.log: list[tuple[int, int]] = []

    def __call__(self, start: int, stop: int) -> Tensor:
        self.log.append((start, stop))
        return self.latent[:, :, start:stop]


@st.composite
def windows(draw: st.DrawFn) -> Window:
    return Window(
        kept=draw(st.integers(1, 6)),
        context_before=draw(st.integers(REACH, REACH + 2)),
        context_after=draw(st.integers(REACH, REACH + 1)),
    )


def lengths(draw: st.DrawFn, total: int) -> list[int]:
    pieces: list[int] = []
    while sum(pieces) < total:
        pieces.append(draw(st.integers(1, total - sum(pieces))))
    return pieces


@given(data=st.data(), window=windows(), frames=st.integers(1, 70), after=st.booleans())
@settings(max_examples=40, deadline=None)
def test_windowed_encoding_equals_the_whole_clip(data: st.DataObject, window: Window, frames: int, after: bool) -> None:
    if not after:
        window = Window(window.kept, window.context_before)
    encode, video = ToyEncoder(reach=REACH), random_video(frames)
    pieces = video.split(data.draw(st.composite(lengths)(frames)), dim=2)
    chunks = list(encode_stream(encode, iter(pieces), window=window))
    whole = encode(pad_time(video))
    assert [chunk.shape[2] for chunk in chunks] == [
        min(window.kept, whole.shape[2] - start) for start in range(0, whole.shape[2], window.kept)
    ]
    torch.testing.assert_close(torch.cat(chunks, 2), whole, atol=1e-5, rtol=0)


@given(window=windows(), latents=st.integers(1, 20), known=st.booleans())
@settings(max_examples=40, deadline=None)
def test_windowed_decoding_equals_the_whole_clip(window: Window, latents: int, known: bool) -> None:
    decode, latent = ToyDecoder(reach=REACH), random_latent(latents)
    reader = Reader(latent)
    total = latents if known else None
    result = torch.cat(list(decode_stream(decode, reader, window=window, total=total)), 2)
    torch.testing.assert_close(result, decode(latent), atol=1e-5, rtol=0)
    assert all(before[1] == after[0] for before, after in pairwise(reader.log))


@pytest.mark.parametrize("context", [0, 1])
def test_too_little_context_is_seen_and_enough_is_enough(context: int) -> None:
    video, latent = random_video(41), random_latent(11)
    encode, decode = ToyEncoder(reach=REACH), ToyDecoder(reach=REACH)
    whole_latent, whole_pixels = encode(video), decode(latent)
    for margin, exact in ((context, False), (REACH, True)):
        window = Window(kept=3, context_before=margin, context_after=margin)
        encoded = torch.cat(list(encode_stream(encode, [video], window=window)), 2)
        decoded = torch.cat(list(decode_stream(decode, Reader(latent), window=window, total=11)), 2)
        assert ((encoded - whole_latent).abs().max() < 1e-5) == exact
        assert ((decoded - whole_pixels).abs().max() < 1e-5) == exact


def test_without_any_context_a_window_still_never_keeps_the_latent_it_reads_as_one_frame() -> None:
    encode, decode = ToyEncoder(reach=0), ToyDecoder(reach=0)
    video, latent = random_video(30), random_latent(9)
    window = Window(kept=2)
    encoded = torch.cat(list(encode_stream(encode, [video], window=window)), 2)
    torch.testing.assert_close(encoded, encode(pad_time(video)), atol=1e-5, rtol=0)
    decoded = torch.cat(list(decode_stream(decode, Reader(latent), window=window, total=9)), 2)
    torch.testing.assert_close(decoded, decode(latent), atol=1e-5, rtol=0)


def test_windows_start_at_frames_4k_and_cover_what_the_specification_says() -> None:
    starts: list[tuple[int, int]] = []

    def encode(clip: Tensor) -> Tensor:
        starts.append((int(clip[0, 0, 0, 0, 0]), int(clip[0, 0, -1, 0, 0])))
        return clip[:, :1, ::4, ::8, ::8]

    video = torch.arange(42.0).view(1, 1, 42, 1, 1).expand(1, 3, 42, 8, 8)
    chunks = list(encode_stream(encode, [video], window=Window(kept=4, context_before=1, context_after=1)))
    # chunk n keeps latents 4n..4n+3; in front 1 of context and 1 read as a single frame; behind 1 of context
    assert starts == [(0, 16), (8, 32), (24, 41)]
    assert [chunk[0, 0, :, 0, 0].tolist() for chunk in chunks] == [[0, 4, 8, 12], [16, 20, 24, 28], [32, 36, 40, 41]]


@pytest.mark.parametrize("frames", range(1, 71))
def test_every_frame_comes_back_exactly_once(frames: int) -> None:
    def encode(clip: Tensor) -> Tensor:  # a latent holds its four frame numbers; the first repeats frame 0
        padded = torch.cat([clip[:, :1, :1].expand(-1, -1, 3, -1, -1), clip[:, :1]], 2)
        return padded.reshape(1, -1, 4, *clip.shape[3:]).transpose(1, 2)[..., ::8, ::8]

    def decode(latent: Tensor) -> Tensor:
        frames = latent.transpose(1, 2).reshape(1, 1, -1, *latent.shape[3:])[:, :, 3:]
        return frames.expand(1, 3, -1, -1, -1).repeat_interleave(8, 3).repeat_interleave(8, 4)

    video = torch.arange(float(frames)).view(1, 1, frames, 1, 1).expand(1, 3, frames, 3, 5)
    window = Window(kept=4, context_before=1, context_after=1)
    chunks = list(encode_stream(encode, video.unbind(2), window=window))
    latent = torch.cat(chunks, 2)
    assert latent.shape[2] == (frames - 1 + 3) // 4 + 1
    pieces = decode_stream(decode, Reader(latent), window=window, total=latent.shape[2])
    numbers = [n for piece in trim_frames(pieces, 0, 0, frames) for n in piece[0, 0, :, 0, 0].tolist()]
    assert numbers == list(range(frames))


@given(data=st.data(), window=windows(), latents=st.integers(1, 16))
@settings(max_examples=40, deadline=None)
def test_a_part_decodes_to_exactly_what_the_whole_decodes_to(data: st.DataObject, window: Window, latents: int) -> None:
    decode, latent = ToyDecoder(reach=3), random_latent(latents)  # more reach than context, so windows are visible
    whole = torch.cat(list(decode_stream(decode, Reader(latent), window=window, total=latents)), 2)
    start = data.draw(st.integers(0, latents - 1))
    stop = data.draw(st.integers(start + 1, latents))
    reader = Reader(latent)
    part = torch.cat(list(decode_stream(decode, reader, (start, stop), window=window, total=latents)), 2)
    first = 4 * start - 3 if start else 0
    assert torch.equal(part, whole[:, :, first : 4 * stop - 3])
    assert (reader.log[0][0], reader.log[-1][1]) == context_plan(window).latents_to_read((start, stop), latents)


@given(data=st.data(), window=windows(), latents=st.integers(1, 16))
@settings(max_examples=40, deadline=None)
def test_random_access_to_frames_touches_only_the_latents_named(
    data: st.DataObject, window: Window, latents: int
) -> None:
    frames = 4 * (latents - 1) + 1
    first = data.draw(st.integers(0, frames - 1))
    stop = data.draw(st.integers(first + 1, frames))
    decode, latent = ToyDecoder(reach=REACH), random_latent(latents)
    wanted = ((first + 3) // 4, (stop + 2) // 4 + 1)
    span = slice(*context_plan(window).latents_to_read(wanted, latents))
    poisoned = torch.full_like(latent, torch.nan)
    poisoned[:, :, span] = latent[:, :, span]
    pieces = decode_stream(decode, Reader(poisoned), wanted, window=window, total=latents)
    base = 4 * wanted[0] - 3 if wanted[0] else 0
    part = torch.cat(list(trim_frames(pieces, base, first, stop)), 2)
    torch.testing.assert_close(part, decode(latent)[:, :, first:stop], atol=1e-5, rtol=0)


def test_latents_far_from_the_part_are_not_read() -> None:
    plan = context_plan(Window(kept=4, context_before=2, context_after=2))
    assert plan.latents_to_read((50, 54), 1000) == (46, 58)  # of windows 12 and 13
    assert plan.latents_to_read((10, 10), 1000) == (10, 10)


def test_windows_and_tiles_together_equal_the_whole() -> None:
    encode, decode = ToyEncoder(reach=1), ToyDecoder(reach=1)
    video = random_video(23, 61, 75)
    window = Window(kept=2, context_before=1, context_after=1)
    tile = Tile(size=6, context=1, blend=1)
    encoded = torch.cat(list(encode_stream(encode, video.split(3, 2), window=window, tile=tile)), 2)
    whole = encode(pad_space(pad_time(video)))
    torch.testing.assert_close(encoded, whole, atol=1e-5, rtol=0)
    decoded = torch.cat(list(decode_stream(decode, Reader(whole), window=window, tile=tile, total=7)), 2)
    torch.testing.assert_close(decoded, decode(whole), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 9), (8, 8), (33, 2)])
def test_any_size_is_padded_by_its_edges(height: int, width: int) -> None:
    encode, video = ToyEncoder(reach=1), random_video(6, height, width)
    encoded = torch.cat(list(encode_stream(encode, [video], window=Window(kept=1, context_before=1))), 2)
    assert encoded.shape[3:] == (-(-height // 8), -(-width // 8))
    torch.testing.assert_close(encoded, encode(pad_space(pad_time(video))), atol=1e-5, rtol=0)


def test_an_image_model_needs_no_lead_and_sees_every_frame_once() -> None:
    seen: list[int] = []

    def encode(clip: Tensor) -> Tensor:
        seen.append(clip.shape[2])
        return clip[:, :1, :, ::8, ::8]

    video = random_video(11)
    chunks = list(encode_stream(encode, [video], window=Window(kept=4), temporal_factor=1))
    assert seen == [4, 4, 3]
    assert torch.equal(torch.cat(chunks, 2), video[:, :1, :, ::8, ::8])

    def decode(latent: Tensor) -> Tensor:
        return latent.expand(1, 3, -1, -1, -1).repeat_interleave(8, 3).repeat_interleave(8, 4)

    pieces = list(decode_stream(decode, Reader(torch.cat(chunks, 2)), window=Window(kept=4), temporal_factor=1))
    assert [piece.shape[2] for piece in pieces] == [4, 4, 3]


def test_windows_that_are_cross_faded_in_time_are_refused() -> None:
    for windows in ((Window(4, blend=1), Window(4)), (Window(4), Window(4, 1, 1, blend=4))):
        with pytest.raises(ValueError, match=r"not cross-faded in time.*blend = [14]"):
            ContextPlan(4, 8, *windows)


def test_an_encode_that_goes_on_at_a_chunk_gives_the_latents_of_the_whole() -> None:
    encode, video = ToyEncoder(reach=3), random_video(50)  # more reach than context, so windows are visible
    plan = context_plan(Window(kept=3, context_before=1))
    whole = torch.cat(list(plan.encode(encode, [video])), 2)
    for start in (0, 3, 9):
        rest = plan.encode(encode, [video[:, :, plan.first_frame(start) :]], start=start)
        assert torch.equal(torch.cat(list(rest), 2), whole[:, :, start:])
    assert plan.first_frame(9) == 4 * (9 - 2)


class CountingVideo:
    """Yields single frames and counts how many are alive: each borrows the memory of a watched array."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.alive = self.most = 0

    def _gone(self) -> None:
        self.alive -= 1

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(self.frames):
            array = np.zeros((1, 3, 1, 8, 8), np.float32)
            weakref.finalize(array, self._gone)
            self.alive += 1
            self.most = max(self.most, self.alive)
            frame = torch.from_numpy(array)
            del array
            yield frame
            del frame


def test_one_clip_is_alive_whatever_the_length() -> None:
    window = Window(kept=4, context_before=2, context_after=2)
    longest = 4 * (3 + 4 + 2 - 1) + 1
    clips: list[StorageWeakRef] = []
    most: list[int] = []

    def encode(clip: Tensor) -> Tensor:
        assert clip.shape[2] <= longest
        assert all(ref.expired() for ref in clips[-2:]), "an earlier window's clip is still alive"
        clips.append(StorageWeakRef(clip.untyped_storage()))
        return clip[:, :1, ::4, ::8, ::8].clone()

    for frames in (50, 400, 1500):
        video = CountingVideo(frames)
        latents = 0
        for chunk in encode_stream(encode, video, window=window):
            latents += chunk.shape[2]
            assert clips[-1].expired(), "a window's clip outlives its chunk"
        assert latents == (frames + 2) // 4 + 1
        most.append(video.most)
    # of the longest window, its overlap with the one before comes from there; one frame more is on its way
    assert most[0] == most[1] == most[2]
    assert 4 * 4 <= most[0] <= longest + 1


def test_latents_are_yielded_before_more_frames_are_read() -> None:
    read = 0

    def frames() -> Iterator[Tensor]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield torch.zeros(1, 3, 8, 8)

    stream = encode_stream(ToyEncoder(reach=1), frames(), window=Window(kept=4, context_before=1, context_after=1))
    assert next(stream).shape[2] == 4
    assert read == 4 * 4 + 1
    assert next(stream).shape[2] == 4
    assert read == 4 * 8 + 1


def test_decoding_holds_one_window_of_pixels() -> None:
    outputs: list[StorageWeakRef] = []

    def decode(latent: Tensor) -> Tensor:
        assert latent.shape[2] <= 1 + 3 + 1
        assert all(ref.expired() for ref in outputs[-2:]), "an earlier window's pixels are still alive"
        result = torch.zeros(1, 3, 4 * latent.shape[2] - 3, 8, 8)
        outputs.append(StorageWeakRef(result.untyped_storage()))
        return result

    def read(start: int, stop: int) -> Tensor:
        return torch.zeros(1, 2, min(stop, 400) - start, 1, 1)

    window = Window(kept=3, context_before=1, context_after=1)
    frames = 0
    for piece in decode_stream(decode, read, window=window):
        frames += piece.shape[2]
        del piece
    assert frames == 4 * 399 + 1


def test_results_of_inference_mode_are_blended_too() -> None:
    toy = ToyEncoder(reach=1)

    @torch.inference_mode()
    def encode(clip: Tensor) -> Tensor:
        return toy(clip)

    video = random_video(30, 40, 40)
    window, tile = Window(kept=2, context_before=1), Tile(size=4, context=1)
    encoded = torch.cat(list(encode_stream(encode, [video], window=window, tile=tile)), 2)
    torch.testing.assert_close(encoded, toy(pad_time(video)), atol=1e-5, rtol=0)


def test_no_frames_give_no_latents() -> None:
    assert list(encode_stream(ToyEncoder(), iter(()), window=Window(kept=2))) == []
    assert list(decode_stream(ToyDecoder(), lambda a, b: None, window=Window(kept=2))) == []


def test_what_does_not_fit_together_is_refused() -> None:
    window = Window(kept=2)
    with pytest.raises(ValueError, match=r"window\.kept is 0, wanted an integer of at least 1"):
        Window(kept=0)
    with pytest.raises(ValueError, match=r"window\.context_after is -1"):
        Window(kept=1, context_after=-1)
    with pytest.raises(ValueError, match="one size"):
        list(encode_stream(ToyEncoder(), [random_video(1, 8, 8), random_video(1, 8, 16)], window=window))
    with pytest.raises(ValueError, match="frames come as"):
        list(encode_stream(ToyEncoder(), [torch.zeros(8, 8)], window=window))
    with pytest.raises(ValueError, match="along the time axis"):
        list(encode_stream(lambda clip: clip[..., ::8, ::8], [random_video(9)], window=window))
    with pytest.raises(ValueError, match="not a range"):
        decode_stream(ToyDecoder(), lambda a, b: None, (3, 2), window=window)
    with pytest.raises(ValueError, match="not a range"):
        decode_stream(ToyDecoder(), lambda a, b: None, (0, 9), window=window, total=8)
    with pytest.raises(ValueError, match="were asked for"):
        list(decode_stream(ToyDecoder(), lambda a, b: random_latent(1), window=window, total=8))


def test_the_mini_model_in_windows_equals_the_whole_clip_at_its_default_context() -> None:
    torch.manual_seed(0)
    config = mini.mini_config(4, widths=(16, 24, 32))
    model = mini.MiniAutoencoder(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    video = random_video(45, 16, 24)
    with torch.no_grad():
        whole = model.encode(video).mean
        pixels = model.decode(whole)
    before = Window(kept=3, context_before=config.encode_context)
    both = Window(kept=3, context_before=config.decode_context, context_after=config.decode_context)
    encoded = torch.cat(list(encode_stream(lambda clip: model.encode(clip).mean, video.split(1, 2), window=before)), 2)
    decoded = torch.cat(list(decode_stream(model.decode, Reader(whole), window=both, total=12)), 2)
    assert whole.std() > 0.1
    assert pixels.std() > 0.1
    torch.testing.assert_close(encoded, whole, atol=1e-4, rtol=0)
    torch.testing.assert_close(decoded, pixels, atol=1e-4, rtol=0)
