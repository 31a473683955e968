"""What an encode records in its file: windows, tiles, model, source; and what it does when the machine is small."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cvcodec.bitstream import BitstreamReader, Header
from cvcodec.codec import DecodeOptions, Decoder, EncodeOptions, EncodeResult, encode, encode_file, encode_stream
from cvcodec.errors import DeviceError, InputError, NumericalError, OutputError, UsageError
from cvcodec.windows.specs import Official, Tile, Window
from tests.codec.clips import Pipe, Sink, noise, smooth, write_rgb
from tests.codec.models import tiny_mini, tiny_official
from tests.codec.patch_model import CHANNELS, PatchModel
from tests.windows.toys import decode_official, encode_official

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


def video(pictures: list[Any], **arguments: Any) -> io.BytesIO:
    target = io.BytesIO()
    write_rgb(target, pictures, **arguments)
    target.seek(0)
    return target


def run(source: Any, model: Any, **options: Any) -> tuple[Header, EncodeResult, io.BytesIO]:
    file = io.BytesIO()
    result = encode_stream(source, file, model=model, options=EncodeOptions(**{**CPU, **options}))
    file.seek(0)
    header = BitstreamReader(file).header
    file.seek(0)
    return header, result, file


def identified(model: Any) -> Any:
    model.latent_space_id, model.decoder_hash, model.name = "a" * 16, "b" * 16, "named"
    return model


def test_the_header_says_what_the_model_and_the_source_are() -> None:
    header, result, file = run(video(noise(6, 10, 13), rate=Fraction(30000, 1001)), PatchModel(), quality=60.0)
    assert (header.model, header.latent_space_id, header.decoder_hash) == (
        "patch-model",
        "0123456789abcdef",
        "fedcba9876543210",
    )
    assert header.config_digest == PatchModel().config.digest()[:16]
    assert (header.latents, header.quality, header.latent_channels) == ("quantised", 60.0, CHANNELS)
    assert set(header.steps) == {float(np.float32(0.05))}  # unit step 0.1, ten points above 50 halve it
    assert (header.width, header.height, header.padding) == (13, 10, (0, 0, 3, 2))
    assert header.average_rate == Fraction(30000, 1001)
    assert header.color.matrix == "rgb"
    assert (result.frames, result.width, result.height, result.chunks) == (6, 13, 10, 2)
    assert result.size_bytes == len(file.getvalue())
    assert result.bpp == 8 * result.size_bytes / (6 * 13 * 10)
    assert 0 < result.model_seconds < result.seconds


def test_windows_and_tiles_are_the_models_unless_others_are_asked_for() -> None:
    header, *_ = run(video(noise(9, 40, 40)), PatchModel())
    assert header.encode_window == Window(kept=2, context_before=1)
    assert header.decode_window == Window(kept=2, context_before=1, context_after=1)
    assert header.encode_tile == header.decode_tile == Tile(size=6, context=1, blend=1)
    header, *_, file = run(video(noise(21, 40, 40)), PatchModel(), window=5, tile=0)
    assert header.encode_window is not None and header.encode_window.kept == 5
    assert header.encode_tile is None and header.decode_tile is None
    assert [entry.latent_count for entry in BitstreamReader(file).index] == [5, 1]
    header, *_ = run(video(noise(9, 40, 40)), PatchModel(), tile=7)
    assert header.encode_tile == Tile(size=7, context=1, blend=1)
    with pytest.raises(UsageError, match="too small"):
        run(video(noise(9, 40, 40)), PatchModel(), tile=4)


def test_decoding_uses_the_windows_and_tiles_that_the_file_records() -> None:
    _, _, file = run(video(noise(33, 40, 40)), PatchModel(), window=3, tile=7)
    model = PatchModel(window_latents=1, tile_latents=0)
    list(Decoder(file, model=model, options=DecodeOptions(**CPU)).frames())
    assert max(shape[2] for shape in model.decoded) == 3 + 2
    assert max(shape[3] for shape in model.decoded) == 7


def test_little_memory_makes_tiles_and_windows_smaller_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "available_memory", lambda device: 3_000_000)
    pictures = noise(21, 40, 40)
    header, result, file = run(video(pictures), PatchModel(window_latents=64, tile_latents=0), latents="fp32")
    assert header.encode_window is not None and header.encode_window.kept < 64
    assert any("memory" in notice and "records it" in notice for notice in result.notices)
    frames = list(Decoder(file, model=PatchModel(), options=DecodeOptions(**CPU)).frames())
    np.testing.assert_array_equal([frame.pixels for frame in frames], pictures)
    # What was asked for is not changed behind the user's back.
    header, *_ = run(video(pictures), PatchModel(), window=7, tile=9)
    assert header.encode_window is not None and header.encode_window.kept == 7
    assert header.encode_tile is not None and header.encode_tile.size == 9


class Cramped(PatchModel):
    """Runs out of memory on anything larger than `limit` latents squared."""

    def __init__(self, limit: int, after: int = 0) -> None:
        super().__init__(tile_latents=0)
        self.limit, self.after = limit, after

    def moments(self, pixels: Tensor) -> Tensor:
        if len(self.encoded) >= self.after and pixels.shape[3] * pixels.shape[4] > (4 * self.limit) ** 2:
            self.encoded.append(tuple(pixels.shape))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return super().moments(pixels)

    def decode(self, latent: Tensor) -> Tensor:
        if latent.shape[3] * latent.shape[4] > self.limit**2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return super().decode(latent)


def test_running_out_of_memory_halves_the_tiles_once_and_the_file_records_it() -> None:
    pictures = noise(13, 64, 64)
    model = Cramped(14)
    header, result, file = run(video(pictures), model, latents="fp32")
    assert header.encode_tile is not None and header.encode_tile.size == 14
    (notice,) = [notice for notice in result.notices if "out of memory" in notice]
    assert "tiles of 14 latents; the file records it" in notice
    assert [shape[3:] for shape in model.encoded].count((64, 64)) == 1  # tried once, not at every window
    notices: list[str] = []
    decoder = Decoder(file, model=Cramped(14), options=DecodeOptions(**CPU), on_notice=notices.append)
    np.testing.assert_array_equal([frame.pixels for frame in decoder.frames()], pictures)
    assert [notice for notice in notices if "out of memory" in notice]


def test_running_out_of_memory_later_is_said_but_not_recorded() -> None:
    header, result, _ = run(video(noise(30, 64, 64)), Cramped(14, after=2), latents="fp32")
    assert header.encode_tile is None
    assert any("earlier chunks were made with larger ones" in notice for notice in result.notices)


def test_a_machine_too_small_for_any_tile_is_an_error() -> None:
    with pytest.raises(DeviceError, match="smallest tiles"):
        run(video(noise(5, 64, 64)), Cramped(1))


def test_official_models_use_official_windows_by_default() -> None:
    model = identified(tiny_official())
    pictures = smooth(22, 90, 100)
    header, _, file = run(video(pictures), model, latents="fp32")
    assert (header.windows, header.encode_window) == ("official", None)
    assert header.official == Official(chunk_frames=16, tile_pixels=72, tile_overlap=0.2222)
    clip = torch.from_numpy(np.stack([*pictures, *[pictures[-1]] * 3])).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    clip = torch.nn.functional.pad(clip, (0, 4, 0, 6, 0, 0), mode="replicate")
    moments = encode_official(model, clip)
    stored = [chunk.symbols for chunk in BitstreamReader(file).chunks()]
    assert [values.shape[1] for values in stored] == [5, 2]
    np.testing.assert_allclose(np.concatenate(stored, axis=1), moments[0, :4], atol=1e-4)
    file.seek(0)
    decoded = Decoder(file, model=model, options=DecodeOptions(**CPU)).frames()
    expected = decode_official(model, moments[:, :4])[0, :, :22, :90, :100]
    ours = np.stack([frame.pixels for frame in decoded]).astype(int)
    theirs = ((expected + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 3, 0).numpy().astype(int)
    assert np.abs(ours - theirs).max() <= 1
    assert (ours != theirs).mean() < 1e-3  # where a rounding error crosses a half


def test_official_sizes_can_be_changed_or_context_windows_taken_instead() -> None:
    model = identified(tiny_official())
    clip = smooth(9, 24, 32)
    header, *_ = run(video(clip), model, windows="official", window=2, tile=0)
    assert header.official == Official(chunk_frames=8, tile_pixels=0, tile_overlap=0.2222)
    header, _, file = run(video(clip), model, windows="context", window=2)
    assert header.windows == "context" and header.official is None
    assert len(list(Decoder(file, model=model, options=DecodeOptions(**CPU)).frames())) == 9
    with pytest.raises(UsageError, match="not for cvvae-mini"):
        run(video(clip), PatchModel(), windows="official")


def test_an_image_model_makes_one_latent_of_each_frame() -> None:
    model = identified(tiny_mini(video=False))
    header, result, file = run(video(smooth(7, 16, 24)), model)
    assert header.temporal_factor == 1
    trailer = BitstreamReader(file).trailer
    assert trailer is not None and trailer.latents == trailer.frames == result.frames == 7
    file.seek(0)
    assert len(list(Decoder(file, model=model, options=DecodeOptions(**CPU)).frames())) == 7


@pytest.mark.parametrize(("frames", "kept", "wanted"), [(16, 13, 13), (17, 17, 17), (4, 1, 1), (1, 1, 1), (16, 13, 16)])
def test_the_last_frames_may_be_left_out_as_the_official_code_does(frames: int, kept: int, wanted: int) -> None:
    """Those that fill no latent; without the option they are encoded, and the last one is repeated."""
    cut = kept == wanted
    header, result, file = run(video(smooth(frames, 16, 24)), PatchModel(), drop_last_frames=cut)
    trailer = BitstreamReader(file).trailer
    assert trailer is not None
    assert (trailer.frames, trailer.latents) == (wanted, (wanted + 6) // 4)
    assert any("are left out: they do not fill a latent" in text for text in result.notices) == (wanted < frames)
    if cut:  # the bytes of a source that has no others
        _, _, other = run(video(smooth(frames, 16, 24)[:kept]), PatchModel(), metadata=header.metadata)
        assert file.getvalue() == other.getvalue()


class Fragile(PatchModel):
    """NaN in any reduced precision; `broken`: in fp32 too."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((1,), float("nan") if broken else 1.0))

    def _spoil(self, x: Tensor) -> Tensor:
        reduced = self.scale.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
        return x * float("nan") if reduced else x * self.scale

    def moments(self, pixels: Tensor) -> Tensor:
        return self._spoil(super().moments(pixels))

    def decode(self, latent: Tensor) -> Tensor:
        return self._spoil(super().decode(latent))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_nan_in_reduced_precision_is_computed_again_in_fp32_and_said_once(precision: str) -> None:
    pictures = noise(20, 8, 8)
    _, result, file = run(video(pictures), Fragile(), precision=precision, latents="fp32")
    assert [notice for notice in result.notices if f"{precision} gave NaN" in notice] == [
        f"{precision} gave NaN or infinity in moments; such clips are computed in fp32"
    ]
    assert result.precision == precision
    notices: list[str] = []
    options = DecodeOptions(device="cpu", precision=precision)
    frames = list(Decoder(file, model=Fragile(), options=options, on_notice=notices.append).frames())
    np.testing.assert_array_equal([frame.pixels for frame in frames], pictures)
    assert len(notices) == 1


def test_nan_in_fp32_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match="fp32 too"):
        encode_file(video(noise(5, 8, 8)), tmp_path / "a.cvl", model=Fragile(broken=True))
    assert list(tmp_path.iterdir()) == []


def test_a_latent_that_fp16_cannot_hold_is_an_error_with_a_way_out() -> None:
    class Loud(PatchModel):
        def moments(self, pixels: Tensor) -> Tensor:
            return super().moments(pixels) * 1e6

    with pytest.raises(NumericalError, match="use --latents fp32"):
        run(video(noise(3, 8, 8)), Loud(), latents="fp16")
    with pytest.raises(NumericalError, match="lower the quality"):
        run(video(noise(3, 8, 8)), Loud(unit_step=0.001), quality=90.0)


def test_pipes_carry_the_same_bytes_as_files() -> None:
    source = video(noise(18, 10, 10))
    *_, file = run(source, PatchModel())
    sink = Sink()
    piped = Pipe(source.getvalue())
    encode_stream(piped, sink, model=PatchModel(), options=EncodeOptions(**CPU))
    assert bytes(sink.data) == file.getvalue()


def test_an_encode_is_the_same_bytes_every_time() -> None:
    model = identified(tiny_mini())
    first, second = (run(video(smooth(15, 33, 47)), model)[2].getvalue() for _ in range(2))
    assert first == second


def test_progress_counts_frames_and_bytes_up_to_the_result() -> None:
    seen: list[tuple[int, int, int | None]] = []
    file = io.BytesIO()
    result = encode_stream(
        video(noise(20, 8, 8)),
        file,
        model=PatchModel(),
        options=EncodeOptions(**CPU),
        on_progress=lambda *values: seen.append(values),
    )
    assert [frames for frames, _, _ in seen] == [5, 13, 20]
    assert [size for _, size, _ in seen] == sorted({size for _, size, _ in seen})
    assert seen[-1][1] < result.size_bytes  # the trailer comes after the last chunk


def test_a_source_larger_than_the_format_holds_is_refused_and_not_a_defect(tmp_path: Path) -> None:
    write_rgb(str(tmp_path / "in.nut"), [np.zeros((1, 70_000, 3), np.uint8)])
    with pytest.raises(UsageError, match="65536"):
        encode_file(tmp_path / "in.nut", tmp_path / "a.cvl", model=PatchModel(tile_latents=0))
    assert [path.name for path in tmp_path.iterdir()] == ["in.nut"]


def test_what_is_no_video_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video at all\n" * 100)
    for source, kind, words in (
        ("absent.mp4", InputError, "does not exist"),
        ("text.mp4", InputError, "cannot open"),
    ):
        with pytest.raises(kind, match=words):
            encode_file(tmp_path / source, tmp_path / "a.cvl", model=PatchModel())
    with pytest.raises(OutputError, match="source itself"):
        encode_file(tmp_path / "text.mp4", tmp_path / "text.mp4", model=PatchModel(), overwrite=True)
    (tmp_path / "a.cvl").write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists"):
        encode_file(tmp_path / "text.mp4", tmp_path / "a.cvl", model=PatchModel())
    with pytest.raises(InputError):
        encode_file(tmp_path / "text.mp4", tmp_path / "a.cvl", model=PatchModel(), overwrite=True)
    assert (tmp_path / "a.cvl").read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.cvl", "text.mp4"]


def test_a_model_that_was_only_built_is_refused_with_a_way_out() -> None:
    with pytest.raises(UsageError, match="latent-space id"):
        run(video(noise(3, 8, 8)), tiny_mini())
