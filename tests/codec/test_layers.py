"""Models of two layers through files: what is stored, what comes back, and what each reader sees of it."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cvcodec
from cvcodec.bitstream import BitstreamReader
from cvcodec.checkpoints.registry import load_model
from cvcodec.codec import DecodeOptions, Decoder, EncodeOptions, encode_stream
from cvcodec.codec.layers import follows_from_latents, requantise
from cvcodec.codec.runner import frames_to_tensor, normalise
from cvcodec.dataset.shared_encoder import SharedEncoder
from cvcodec.errors import UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.quality.target import Target, find_quality
from cvcodec.quantization import ENHANCEMENT_DEAD_ZONE, STEP_QUALITIES, LatentStatistics, Quantizer
from tests.cli.programs import cvcodec as run
from tests.codec.clips import smooth, write_rgb
from tests.codec.models import save_model, tiny_mini

PICTURES = smooth(22, 30, 44)
BASE, ABOVE = 4, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers")
    write_rgb(str(folder / "in.nut"), PICTURES)
    save_model(folder / "two.safetensors", tiny_mini(enhancement_channels=ABOVE, decoder_tail=3, quality_aware=True))
    save_model(folder / "one.safetensors", tiny_mini())
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> VideoAutoencoder:
    return load_model(folder / "two.safetensors")


def encoded(folder: Path, model: VideoAutoencoder, **options: Any) -> bytes:
    sink = io.BytesIO()
    chosen = EncodeOptions(device="cpu", precision="fp32", rdo="none", **options)
    encode_stream(folder / "in.nut", sink, model=model, options=chosen)
    return sink.getvalue()


def decoded(data: bytes, model: VideoAutoencoder, **options: Any) -> np.ndarray:
    chosen = DecodeOptions(device="cpu", precision="fp32", **options)
    decoder = Decoder(io.BytesIO(data), model=model, options=chosen)
    return np.stack([frame.pixels for frame in decoder.frames()])


def whole(model: VideoAutoencoder, quantizer: Quantizer | None, quality: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Base layer of the whole clip, as a file keeps it, and the layer of what its decoding leaves over, by one call of
    each network, without windows: (C, t, h, w) and (E, t, h, w)."""
    pictures = PICTURES + [PICTURES[-1]] * 3  # 25 = 4k + 1 frames
    clip = torch.nn.functional.pad(frames_to_tensor(pictures).float(), (0, 4, 0, 2, 0, 0), mode="replicate")
    x = normalise(clip.round().to(torch.uint8), 8)
    with torch.no_grad():
        mean = model.encode(x).mean[0].numpy()
        base = mean if quantizer is None else quantizer.dequantize(quantizer.quantize(mean))
        decoded = model.decode(torch.from_numpy(base)[None], quality=quality)
        return base, model.enhancement(x - decoded)[0].numpy()  # type: ignore[operator]


def test_layers_stored_as_they_are_equal_those_of_the_whole_clip(folder: Path, model: VideoAutoencoder) -> None:
    data = encoded(folder, model, latents="fp32", layers="all")
    (folder / "raw.cvl").write_bytes(data)
    base, above = whole(model, None, None)
    with cvcodec.open(folder / "raw.cvl") as file:
        assert file.latents.shape == (BASE, 7, 4, 6)
        assert file.enhancement.shape == (ABOVE, 7, 4, 6)
        np.testing.assert_allclose(file.latents[:][..., :3, :5], base[..., :3, :5], atol=1e-4)
        np.testing.assert_allclose(file.enhancement[:][..., :3, :5], above[..., :3, :5], atol=1e-3)
        np.testing.assert_array_equal(file.enhancement[2:5], file.enhancement[:][:, 2:5])
        np.testing.assert_array_equal(file.read_layers(0, 7), np.concatenate([file.latents[:], file.enhancement[:]]))


def test_symbols_are_those_of_what_the_coded_base_layer_leaves_over(folder: Path, model: VideoAutoencoder) -> None:
    reader = BitstreamReader(io.BytesIO(encoded(folder, model, quality=60)))
    got = np.concatenate([chunk.enhancement for chunk in reader.chunks()], 1)
    assert reader.header.quantizer is not None
    _, above = whole(model, reader.header.quantizer, 60)
    steps = np.array(reader.header.enhancement.steps)[:, None, None, None]
    nearest = np.sign(above) * np.maximum(0, np.ceil(np.abs(above) / steps - 0.5 - ENHANCEMENT_DEAD_ZONE))
    assert np.count_nonzero(got) > 0.1 * got.size
    assert (got != nearest)[..., :3, :5].mean() < 0.01  # where rounding errors of fp32 tip the scale


def test_tiles_leave_over_what_whole_pictures_do(folder: Path, model: VideoAutoencoder, tmp_path: Path) -> None:
    write_rgb(str(tmp_path / "in.nut"), smooth(6, 24, 264))
    layers = []
    for tile in (0, 24):
        reader = BitstreamReader(io.BytesIO(encoded(tmp_path, model, quality=60, tile=tile)))
        layers.append(np.concatenate([chunk.enhancement for chunk in reader.chunks()], 1))
    assert np.count_nonzero(layers[0]) > 0.1 * layers[0].size
    assert (layers[0] != layers[1]).mean() < 0.01


def test_what_is_decoded_is_nearer_to_the_source_with_the_layer(folder: Path, model: VideoAutoencoder) -> None:
    source, data = np.stack(PICTURES).astype(float), encoded(folder, model, quality=90)
    with_it, alone = (np.square(decoded(data, model, layers=layers) - source).mean() for layers in ("all", "base"))
    share = ABOVE / 768  # of the error that so many random directions of a patch hold
    assert with_it < (1 - 0.7 * share) * alone


def test_raw_latents_are_the_base_layer_unless_all_are_asked_for(folder: Path, model: VideoAutoencoder) -> None:
    (folder / "base.cvl").write_bytes(encoded(folder, model, latents="fp16"))
    with cvcodec.open(folder / "base.cvl") as file:
        assert file.header.enhancement is None
        assert file.header.requires == ()
        with pytest.raises(UsageError, match="no enhancement layer"):
            file.enhancement[:]


@pytest.mark.parametrize(("quality", "layers", "kept"), [(80, "auto", True), (0, "auto", False), (0, "all", True)])
def test_a_quality_that_leaves_nothing_of_the_second_layer_drops_it(
    folder: Path, model: VideoAutoencoder, quality: float, layers: Any, kept: bool
) -> None:
    header = BitstreamReader(io.BytesIO(encoded(folder, model, quality=quality, layers=layers))).header
    assert (header.enhancement is not None) == kept


def test_decode_reads_both_layers_or_the_base_alone(folder: Path, model: VideoAutoencoder) -> None:
    both, base = encoded(folder, model, quality=80), encoded(folder, model, quality=80, layers="base")
    assert len(base) < len(both)
    alone = decoded(both, model, layers="base")
    np.testing.assert_array_equal(alone, decoded(base, model))
    assert not np.array_equal(alone, decoded(both, model))
    assert len(alone) == len(PICTURES)
    np.testing.assert_array_equal(decoded(both, model, salvage=True), decoded(both, model))
    trimmed = decoded(both, model, start=0.4, frames=3)
    assert any(np.array_equal(trimmed, decoded(both, model)[first : first + 3]) for first in range(20))


def test_frames_of_an_opened_file_are_those_of_a_decode(folder: Path, model: VideoAutoencoder) -> None:
    data = encoded(folder, model, quality=70)
    (folder / "both.cvl").write_bytes(data)
    with cvcodec.open(folder / "both.cvl", model=model, device="cpu", precision="fp32") as file:
        np.testing.assert_array_equal(file.frames[:], decoded(data, model))


@pytest.mark.parametrize("quality", [0.0, 70.0])
def test_requantising_raw_latents_gives_the_bytes_of_an_encode_of_the_base_layer(
    folder: Path, model: VideoAutoencoder, quality: float
) -> None:
    made = io.BytesIO()
    requantise(io.BytesIO(encoded(folder, model, latents="fp32")), made, model=model, quality=quality, rdo="none")
    assert made.getvalue() == encoded(folder, model, quality=quality, layers="base")
    assert follows_from_latents(model, quality) == (quality == 0)


def test_a_target_size_counts_both_layers(folder: Path, model: VideoAutoencoder) -> None:
    options = EncodeOptions(device="cpu", precision="fp32", rdo="none")
    wanted = len(encoded(folder, model, quality=70))
    found = find_quality(folder / "in.nut", Target("size", wanted), model=model, options=options)
    assert found.whole
    assert 69 <= found.quality <= 71


def test_a_batch_gives_the_bytes_of_encodes(folder: Path, model: VideoAutoencoder, tmp_path: Path) -> None:
    options = EncodeOptions(device="cpu", precision="fp32", rdo="none", quality=70, kinds=())
    shared = SharedEncoder(model, device="cpu", precision="fp32")
    made: list[bytes] = []

    def encode() -> None:
        sink = io.BytesIO()
        with shared.stream():
            encode_stream(folder / "in.nut", sink, model=shared, options=options)
        made.append(sink.getvalue())

    threads = [threading.Thread(target=encode) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [encoded(folder, model, quality=70, kinds=())] * 3


def test_the_log_variance_is_kept_beside_both_layers(folder: Path, model: VideoAutoencoder) -> None:
    (folder / "logvar.cvl").write_bytes(encoded(folder, model, quality=70, store_logvar=True))
    (folder / "plain.cvl").write_bytes(encoded(folder, model, quality=70))
    with cvcodec.open(folder / "logvar.cvl") as file, cvcodec.open(folder / "plain.cvl") as plain:
        np.testing.assert_array_equal(file.enhancement[:], plain.enhancement[:])
        np.testing.assert_array_equal(file.latents[:], plain.latents[:])
        assert file.logvar[:].shape == file.latents.shape


def test_an_export_and_an_import_are_the_base_layer(folder: Path, model: VideoAutoencoder, tmp_path: Path) -> None:
    (tmp_path / "a.cvl").write_bytes(encoded(folder, model, quality=70))
    assert run("export", tmp_path / "a.cvl", tmp_path / "a.safetensors").code == 0
    assert run("import", tmp_path / "a.safetensors", tmp_path / "b.cvl", "--latents", "fp32").code == 0
    with cvcodec.open(tmp_path / "a.cvl") as before, cvcodec.open(tmp_path / "b.cvl") as after:
        np.testing.assert_array_equal(before.latents[:], after.latents[:])
        assert after.header.enhancement is None


def test_the_commands_take_layers_and_refuse_a_second_one_that_the_model_lacks(folder: Path, tmp_path: Path) -> None:
    source, weights = folder / "in.nut", folder / "two.safetensors"
    common = ["--weights", weights, "--precision", "fp32", "-q", "80"]
    assert run("encode", source, tmp_path / "all.cvl", *common).code == 0
    assert run("encode", source, tmp_path / "base.cvl", *common, "--layers", "base").code == 0
    assert (tmp_path / "base.cvl").stat().st_size < (tmp_path / "all.cvl").stat().st_size
    assert run("info", tmp_path / "all.cvl", "--json").record["enhancement_channels"] == ABOVE
    assert "and 5 of an enhancement layer" in " ".join(run("info", tmp_path / "all.cvl").out.split())
    assert run("decode", tmp_path / "all.cvl", tmp_path / "out.mkv", "-w", weights, "--layers", "base").code == 0
    refused = run("encode", source, tmp_path / "no.cvl", "-w", folder / "one.safetensors", "--layers", "all")
    assert refused.code == 2
    assert "has one layer" in refused.err
    assert not (tmp_path / "no.cvl").exists()


def test_steps_may_bend_with_quality_channel_by_channel() -> None:
    rows = tuple((0.0, quality / 100) for quality in STEP_QUALITIES)
    statistics = LatentStatistics((0.0, 0.0), (1.0, 1.0), (0.5, 0.5), rows)
    assert LatentStatistics.from_dict(statistics.to_dict()) == statistics
    for quality, octaves in ((0, 0.0), (50, 0.5), (55, 0.55), (100, 1.0)):
        steps = Quantizer.from_statistics(statistics, quality).steps
        plain = 0.5 * 2 ** ((50 - quality) / 10)
        np.testing.assert_allclose(steps, [plain, plain * 2**octaves], rtol=1e-6)
    with pytest.raises(ValueError, match="rows"):
        LatentStatistics((0.0,), (1.0,), (), ((0.0,),))
    with pytest.raises(ValueError, match="one entry per channel"):
        LatentStatistics((0.0,), (1.0,), (), ((0.0, 1.0),) * len(STEP_QUALITIES))
    with pytest.raises(ValueError, match="within"):
        LatentStatistics((0.0,), (1.0,), (), ((9.0,),) * len(STEP_QUALITIES))
