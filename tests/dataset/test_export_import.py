"""Latents out and in again, against safetensors and numpy themselves, and decodes of what comes back."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

import cvcodec
from cvcodec.bitstream import Header
from cvcodec.checkpoints.registry import load_model
from cvcodec.codec import EncodeOptions, encode_file
from cvcodec.dataset.exporting import export_file, export_shards
from cvcodec.dataset.importing import ImportOptions, import_latents
from cvcodec.dataset.shards import read_samples
from cvcodec.errors import BitstreamError, InputError, ModelMismatchError, OutputError, UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.video import Color, Frame, VideoWriter
from tests.dataset.small import save_small_model, write_clip

SD = {"scaling_factor": 0.18215}
SD3 = {"scaling_factor": 1.5305, "shift_factor": 0.0609, "latent_channels": 16}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoAutoencoder]:
    """Small models that say they are compatible with SD, with SD3, and with neither."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "sd": save_small_model(folder / "sd.safetensors", **SD),
        "sd3": save_small_model(folder / "sd3.safetensors", **SD3),
        "own": save_small_model(folder / "own.safetensors"),
    }


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "x.mkv", frames=22, size=(37, 25))


def encoded(model: VideoAutoencoder, clip: Path, out: Path, **options: Any) -> Path:
    encode_file(
        clip, out, model=model, options=EncodeOptions(device="cpu", precision="fp32", **{"window": 3, **options})
    )
    return out


def frames_of(path: Path, model: VideoAutoencoder) -> np.ndarray:
    with cvcodec.open(path, model=model, device="cpu", precision="fp32") as file:
        return file.frames[:]


PAIRS = [("raw", "own"), ("sd21", "sd"), ("svd", "sd"), ("videocrafter2", "sd"), ("sd3", "sd3"), ("raw", "sd3")]


@pytest.mark.parametrize("suffix", ["safetensors", "npy"])
@pytest.mark.parametrize(("target", "name"), PAIRS)
@pytest.mark.parametrize("latents", ["quantised", "fp16", "fp32"])
def test_export_then_import_gives_the_same_header_times_latents_and_frames(
    models: dict[str, VideoAutoencoder], clip: Path, tmp_path: Path, target: Any, name: str, suffix: str, latents: str
) -> None:
    model = models[name]
    source = encoded(model, clip, tmp_path / "x.cvl", latents=latents)
    export_file(source, tmp_path / f"x.{suffix}", target=target)
    result = import_latents(tmp_path / f"x.{suffix}", tmp_path / "y.cvl")
    assert (result.frames, result.latents, result.width, result.height) == (22, 7, 37, 25)
    assert (result.target.name, result.mode) == (target, "video")
    with cvcodec.open(source) as one, cvcodec.open(tmp_path / "y.cvl") as other:
        assert other.header == one.header
        if latents == "fp32" and target != "raw":  # scaled and back, each rounded once
            np.testing.assert_allclose(other.latents[:], one.latents[:], rtol=2.5e-7, atol=1e-8)
        else:
            assert np.array_equal(other.latents[:], one.latents[:])
        assert np.array_equal(other.pts(0, 22), one.pts(0, 22))
        assert [entry.latent_count for entry in other.reader.index] == [
            entry.latent_count for entry in one.reader.index
        ]
    wanted, got = frames_of(source, model).astype(int), frames_of(tmp_path / "y.cvl", model).astype(int)
    assert np.abs(wanted - got).max() <= (1 if latents == "fp32" and target != "raw" else 0)


def test_a_safetensors_file_says_what_it_holds(models: dict[str, VideoAutoencoder], clip: Path, tmp_path: Path) -> None:
    source = encoded(models["sd"], clip, tmp_path / "x.cvl", store_logvar=True)
    export_file(source, tmp_path / "x.safetensors", target="svd")
    with safe_open(tmp_path / "x.safetensors", framework="np") as file:
        assert set(file.keys()) == {"latents", "logvar", "pts", "durations", "flags"}
        described = json.loads(file.metadata()["cvcodec.export"])
        latents, logvar, pts = (file.get_tensor(name) for name in ("latents", "logvar", "pts"))
    assert {name: described[name] for name in ("target", "layout", "scaling_factor", "shift_factor", "mode")} == {
        "target": "svd",
        "layout": "BTCHW",
        "scaling_factor": 0.18215,
        "shift_factor": 0.0,
        "mode": "video",
    }
    assert (described["frames"], described["latents"], described["width"], described["height"]) == (22, 7, 37, 25)
    assert described["latent_space_id"] == models["sd"].latent_space_id
    with cvcodec.open(source) as stored:
        assert latents.shape == (1, 7, 4, 4, 5)
        np.testing.assert_allclose(latents[0].swapaxes(0, 1), stored.latents[:] * 0.18215, rtol=1e-6)
        wanted = np.exp(stored.logvar[:] / 2) * 0.18215
        np.testing.assert_allclose(np.exp(logvar[0].swapaxes(0, 1) / 2), wanted, rtol=1e-5)
        assert np.array_equal(pts, stored.pts(0, 22))


def test_latents_of_another_space_are_refused_both_ways(
    models: dict[str, VideoAutoencoder], clip: Path, tmp_path: Path
) -> None:
    source = encoded(models["own"], clip, tmp_path / "x.cvl")
    for target in ("sd21", "svd", "videocrafter2", "sd3"):
        with pytest.raises(ModelMismatchError, match="train a compatible model"):
            export_file(source, tmp_path / "x.safetensors", target=target)  # type: ignore[arg-type]
    assert not (tmp_path / "x.safetensors").exists()
    save_file({"latents": np.zeros((1, 25, 4, 4, 4), np.float32)}, tmp_path / "svd.safetensors")
    with pytest.raises(ModelMismatchError, match="another latent space"):
        import_latents(
            tmp_path / "svd.safetensors",
            tmp_path / "y.cvl",
            model=models["own"],
            options=ImportOptions(target="svd"),
        )


@pytest.mark.parametrize(
    ("target", "name", "shape", "frames"),
    [
        ("svd", "sd", (1, 25, 4, 3, 4), 97),
        ("videocrafter2", "sd", (1, 4, 16, 3, 4), 61),
        ("svd", "sd", (5, 4, 3, 4), 17),
        ("sd3", "sd3", (3, 16, 3, 4), 3),
        ("sd21", "sd", (4, 4, 3, 4), 4),
    ],
)
@torch.no_grad()
def test_generated_latents_decode_as_the_model_decodes_them(
    models: dict[str, VideoAutoencoder],
    tmp_path: Path,
    target: Any,
    name: str,
    shape: tuple[int, ...],
    frames: int,
) -> None:
    model = models[name]
    generated = np.random.default_rng(1).normal(0, 1, shape).astype(np.float16)
    save_file({"latents": generated}, tmp_path / "g.safetensors")
    result = import_latents(
        tmp_path / "g.safetensors", tmp_path / "g.cvl", model=model, options=ImportOptions(target=target)
    )
    assert (result.frames, result.width, result.height) == (frames, 32, 24)
    config = model.config
    unscaled = torch.from_numpy(generated.astype(np.float64) / config.scaling_factor + config.shift_factor).float()
    if target in ("sd21", "sd3"):  # pictures, each decoded alone
        pictures: list[Tensor] = [model.decode(one[None, :, None])[0, :, 0] for one in unscaled]
        wanted = torch.stack(pictures, 1)
    else:
        clip = unscaled if unscaled.ndim == 5 else unscaled[None]
        wanted = model.decode(clip if target == "videocrafter2" else clip.swapaxes(1, 2))[0]
    codes = ((wanted.permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).numpy()
    assert np.abs(frames_of(tmp_path / "g.cvl", model) - codes).max() <= 1


def test_the_mode_can_be_chosen_and_batches_picked_from(models: dict[str, VideoAutoencoder], tmp_path: Path) -> None:
    batch = np.random.default_rng(2).normal(0, 1, (2, 5, 4, 2, 2)).astype(np.float32)
    np.save(tmp_path / "g.npy", batch)

    def run(**options: Any) -> tuple[int, np.ndarray]:
        chosen = ImportOptions(**{"target": "svd", **options})
        result = import_latents(
            tmp_path / "g.npy", tmp_path / "g.cvl", model=models["sd"], options=chosen, overwrite=True
        )
        with cvcodec.open(tmp_path / "g.cvl") as file:
            return result.frames, file.latents[:]

    assert run()[0] == 17
    assert run(mode="image")[0] == 5
    assert run(frames=14)[0] == 14
    np.testing.assert_allclose(run(clip=1)[1] * 0.18215, batch[1].swapaxes(0, 1), rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match="0 to 1"):
        run(clip=2)
    with pytest.raises(UsageError, match="14 to 17 frames"):
        run(frames=13)


def test_times_follow_the_rate_that_is_asked_for(models: dict[str, VideoAutoencoder], tmp_path: Path) -> None:
    np.save(tmp_path / "g.npy", np.zeros((1, 2, 4, 2, 2), np.float32))
    options = ImportOptions(target="svd", rate=Fraction(30000, 1001))
    import_latents(tmp_path / "g.npy", tmp_path / "g.cvl", model=models["sd"], options=options)
    with cvcodec.open(tmp_path / "g.cvl") as file:
        seconds = [pts * file.header.time_base for pts in file.pts(0, 5).tolist()]
    assert seconds == [Fraction(1001 * number, 30000) for number in range(5)]


@pytest.mark.parametrize("text", ['{"prompt": "a fox"}', "[1, 2]", "no JSON", "[" * 100_000])
def test_a_foreign_file_beside_the_latents_is_left_alone_and_named(
    text: str, models: dict[str, VideoAutoencoder], tmp_path: Path
) -> None:
    np.save(tmp_path / "g.npy", np.zeros((1, 2, 4, 2, 2), np.float32))
    (tmp_path / "g.npy.json").write_text(text)
    result = import_latents(
        tmp_path / "g.npy", tmp_path / "g.cvl", model=models["sd"], options=ImportOptions(target="svd")
    )
    assert result.notices == (
        f"{tmp_path / 'g.npy.json'} beside the latents is not of `cvcodec export`: it is not read",
    )
    assert result.frames == 5


def test_bfloat16_and_other_names_are_read(models: dict[str, VideoAutoencoder], tmp_path: Path) -> None:
    from safetensors.torch import save_file as save_torch

    values = torch.randn(1, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    save_torch({"a": values, "b": torch.zeros(3)}, tmp_path / "g.safetensors")
    with pytest.raises(InputError, match="name one of a, b with --key"):
        import_latents(tmp_path / "g.safetensors", tmp_path / "g.cvl", options=ImportOptions(target="svd"))
    options = ImportOptions(target="svd", key="a")
    import_latents(tmp_path / "g.safetensors", tmp_path / "g.cvl", model=models["sd"], options=options)
    with cvcodec.open(tmp_path / "g.cvl") as file:
        np.testing.assert_allclose(file.latents[:] * 0.18215, values[0].swapaxes(0, 1).float(), rtol=1e-5)


def test_what_an_import_cannot_know_it_asks_for(
    models: dict[str, VideoAutoencoder], clip: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "g.npy", np.zeros((1, 2, 4, 2, 2), np.float32))
    with pytest.raises(UsageError, match="--from"):
        import_latents(tmp_path / "g.npy", tmp_path / "g.cvl", model=models["sd"])
    with pytest.raises(UsageError, match="--weights"):
        import_latents(tmp_path / "g.npy", tmp_path / "g.cvl", options=ImportOptions(target="raw"))
    export_file(encoded(models["sd"], clip, tmp_path / "x.cvl"), tmp_path / "x.npy", target="svd")
    with pytest.raises(UsageError, match="exported for svd, not for raw"):
        import_latents(tmp_path / "x.npy", tmp_path / "g.cvl", options=ImportOptions(target="raw"))
    np.save(tmp_path / "i.npy", np.zeros((1, 2, 4, 2, 2), np.int32))
    with pytest.raises(InputError, match="floats"):
        import_latents(tmp_path / "i.npy", tmp_path / "g.cvl", options=ImportOptions(target="raw"))
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="cannot be read as latents"):
        import_latents(tmp_path / "bad.safetensors", tmp_path / "g.cvl")


def test_a_file_of_another_kind_is_said_to_be_what_it_is(clip: Path, tmp_path: Path) -> None:
    latents = torch.zeros(1, 2, 4, 2, 2)
    torch.save(latents, tmp_path / "x.pt")
    torch.save({"latents": latents}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "x.npz", latents=latents.numpy())
    (tmp_path / "x.npz").rename(tmp_path / "renamed.npy")
    (tmp_path / "x.cvl").write_bytes(b"\x89CVL\r\n\x1a\n" + bytes(100))
    (tmp_path / "x.mkv").write_bytes(clip.read_bytes())
    for name, kind in (
        ("x.pt", r"a zip, as torch\.save and numpy\.savez write.*; save the tensor with safetensors\.torch\.save_file"),
        ("old.pt", r"a Python pickle.*; save the tensor with safetensors\.torch\.save_file"),
        ("renamed.npy", r"a zip.*or its array with numpy\.save"),
        ("x.cvl", r"a \.cvl file already; decode it: cvcodec decode"),
        ("x.mkv", "a video; encode it: cvcodec encode"),
    ):
        with pytest.raises(InputError, match=f"it is {kind}") as refused:
            import_latents(tmp_path / name, tmp_path / "g.cvl", options=ImportOptions(target="raw"))
        assert "\n" not in str(refused.value)


def test_a_header_whose_length_looks_like_a_pickle_is_read(models: dict[str, VideoAutoencoder], tmp_path: Path) -> None:
    values = {"latents": np.zeros((1, 4, 2, 2, 2), np.float32)}
    save_file(values, tmp_path / "g.safetensors", metadata={"fill": ""})
    bare = int.from_bytes((tmp_path / "g.safetensors").read_bytes()[:8], "little")
    save_file(values, tmp_path / "g.safetensors", metadata={"fill": "x" * (0x280 - bare)})
    assert (tmp_path / "g.safetensors").read_bytes()[:2] == b"\x80\x02"
    import_latents(
        tmp_path / "g.safetensors", tmp_path / "g.cvl", model=models["own"], options=ImportOptions(target="raw")
    )


def test_nothing_is_overwritten_unasked(models: dict[str, VideoAutoencoder], clip: Path, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    source = encoded(models["own"], clip, tmp_path / "v/x.cvl")
    for out in ("x.safetensors", "x.npy"):
        export_file(source, tmp_path / out)
        with pytest.raises(OutputError, match="exists"):
            export_file(source, tmp_path / out)
    export_shards(tmp_path / "v", tmp_path / "s")
    with pytest.raises(OutputError, match="exists"):
        export_shards(tmp_path / "v", tmp_path / "s")
    export_shards(tmp_path / "v", tmp_path / "s", overwrite=True)


def test_a_name_says_the_format_or_the_option_must(
    models: dict[str, VideoAutoencoder], clip: Path, tmp_path: Path
) -> None:
    source = encoded(models["own"], clip, tmp_path / "x.cvl")
    with pytest.raises(UsageError, match="--format"):
        export_file(source, tmp_path / "x.bin")
    assert export_file(source, tmp_path / "x.bin", kind="npy").shape == (1, 4, 7, 4, 5)
    assert np.load(tmp_path / "x.bin").shape == (1, 4, 7, 4, 5)
    assert import_latents(tmp_path / "x.bin", tmp_path / "y.cvl").frames == 22


def test_one_file_can_be_a_shard_and_no_other_file_is_an_index(
    models: dict[str, VideoAutoencoder], clip: Path, tmp_path: Path
) -> None:
    source = encoded(models["own"], clip, tmp_path / "x.cvl")
    assert export_shards(source, tmp_path / "s").clips == 1
    (sample,) = read_samples(tmp_path / "s/shard-000000.tar")
    with cvcodec.open(source) as file:
        assert np.array_equal(sample.array("latents.npy"), file.latents[:])
    (tmp_path / "x.jsonl").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match="line 1 is no index record"):
        export_shards(tmp_path / "x.jsonl", tmp_path / "t")


def test_names_that_become_the_same_key_are_numbered_in_order_of_their_paths(
    models: dict[str, VideoAutoencoder], clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "v").mkdir()
    source = encoded(models["own"], clip, tmp_path / "v/a.b.cvl")
    for name in ("a_b", "a_b-2", "a_b.", "b"):
        (tmp_path / f"v/{name}.cvl").write_bytes(source.read_bytes())
    for shuffle in (None, 0, 1):
        export_shards(tmp_path / "v", tmp_path / "s", shuffle=shuffle, overwrite=True)
        samples = read_samples(tmp_path / "s/shard-000000.tar")
        assert {sample.description["path"]: sample.key for sample in samples} == {
            "a.b.cvl": "a_b",
            "a_b-2.cvl": "a_b-2",
            "a_b..cvl": "a_b_",
            "a_b.cvl": "a_b-3",
            "b.cvl": "b",
        }


def test_an_export_names_a_damaged_file_and_says_what_it_leaves_out(
    models: dict[str, VideoAutoencoder], clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "no.cvl").write_bytes(b"not a video codec file" * 9)
    with pytest.raises(BitstreamError, match=r"no\.cvl: not a \.cvl file"):
        export_file(tmp_path / "no.cvl", tmp_path / "no.npy")
    source = encoded(models["own"], clip, tmp_path / "x.cvl", store_logvar=True)
    (notice,) = export_file(source, tmp_path / "x.npy").notices
    assert "x.npy leaves out the log-variance" in notice
    assert export_file(source, tmp_path / "x.safetensors").notices == ()
    plain = encoded(models["own"], clip, tmp_path / "y.cvl")
    assert export_file(plain, tmp_path / "y.npy").notices == ()
    with pytest.raises(UsageError, match=r"x\.npy: a \.npy file holds one array; leave out --key"):
        import_latents(tmp_path / "x.npy", tmp_path / "z.cvl", options=ImportOptions(key="a"))


def test_fp16_is_refused_where_it_cannot_hold_a_latent(models: dict[str, VideoAutoencoder], tmp_path: Path) -> None:
    np.save(tmp_path / "g.npy", np.full((1, 4, 2, 2, 2), 1e5, np.float32))
    import_latents(tmp_path / "g.npy", tmp_path / "g.cvl", model=models["own"], options=ImportOptions(target="raw"))
    with pytest.raises(UsageError, match="--dtype fp32"):
        export_file(tmp_path / "g.cvl", tmp_path / "h.npy", dtype="fp16")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 bits, a variable frame rate, BT.709 in full range."""
    path = tmp_path_factory.mktemp("film") / "x.mkv"
    rng = np.random.default_rng(0)
    color = Color("bt709", "full", "bt709", "bt709")
    with VideoWriter(
        path, width=32, height=24, time_base=Fraction(1, 1000), color=color, bit_depth=10, codec="ffv1", threads=1
    ) as writer:
        for pts in (0, 40, 80, 200, 240, 300, 500, 540, 580):
            pixels = rng.integers(0, 1024, (24, 32, 3), np.uint16)
            writer.write(Frame(pixels=pixels, pts=pts, duration=None, bit_depth=10))
    return path


def stored(path: Path) -> tuple[Header, list[int], np.ndarray]:
    with cvcodec.open(path) as file:
        return file.header, file.pts(0, file.frame_count).tolist(), file.latents[:]


@pytest.mark.parametrize("suffix", ["safetensors", "npy"])
def test_an_import_for_the_model_of_the_file_changes_only_what_was_asked_for(
    models: dict[str, VideoAutoencoder], film: Path, tmp_path: Path, suffix: str
) -> None:
    model = models["sd"]
    source = encoded(model, film, tmp_path / "x.cvl", quality=60.0)
    export_file(source, tmp_path / f"x.{suffix}", target="svd")
    header, pts, latents = stored(source)
    assert (header.bit_depth, header.color.range, len(set(np.diff(pts)))) == (10, "full", 4)

    def run(**options: Any) -> tuple[Header, list[int], np.ndarray]:
        result = import_latents(
            tmp_path / f"x.{suffix}", tmp_path / "y.cvl", model=model, options=ImportOptions(**options), overwrite=True
        )
        assert result.notices == ()
        return stored(tmp_path / "y.cvl")

    same, same_pts, same_latents = run()
    assert (same, same_pts) == (header, pts)
    assert np.array_equal(same_latents, latents)
    half, half_pts, half_latents = run(latents="fp16")
    assert (half, half_pts) == (header.replace(latents="fp16", quality=None, steps=(), offsets=()), pts)
    np.testing.assert_allclose(half_latents, latents, rtol=1e-3, atol=1e-6)
    finer, finer_pts, _ = run(latents="quantised", quality=80.0)
    assert finer_pts == pts
    assert finer == header.replace(quality=80.0, steps=tuple(step / 4 for step in header.steps))


def test_latents_of_another_space_are_not_relabelled_unless_both_are_said_to_be_the_targets(
    models: dict[str, VideoAutoencoder], film: Path, tmp_path: Path
) -> None:
    other = save_small_model(tmp_path / "other.safetensors", seed=1, **SD)
    source = encoded(models["sd"], film, tmp_path / "x.cvl", latents="fp32")
    header, pts, _ = stored(source)
    export_file(source, tmp_path / "raw.safetensors")
    with pytest.raises(ModelMismatchError, match=r"are of latent space .* of sd, other has"):
        import_latents(tmp_path / "raw.safetensors", tmp_path / "y.cvl", model=other)
    assert not (tmp_path / "y.cvl").exists()
    export_file(source, tmp_path / "svd.safetensors", target="svd")
    (notice,) = import_latents(tmp_path / "svd.safetensors", tmp_path / "y.cvl", model=other).notices
    assert "they are taken for other's, since both say that theirs is that of Stable Video Diffusion" in notice
    made, made_pts, _ = stored(tmp_path / "y.cvl")
    assert made.latent_space_id == other.latent_space_id
    assert made_pts == pts
    for name in ("bit_depth", "color", "time_base", "average_rate", "width", "height", "latents"):
        assert getattr(made, name) == getattr(header, name), name


def test_a_video_may_be_imported_as_pictures(models: dict[str, VideoAutoencoder], film: Path, tmp_path: Path) -> None:
    export_file(encoded(models["sd"], film, tmp_path / "x.cvl"), tmp_path / "x.safetensors", target="svd")
    options = ImportOptions(mode="image")
    result = import_latents(tmp_path / "x.safetensors", tmp_path / "y.cvl", model=models["sd"], options=options)
    assert (result.mode, result.frames, result.latents) == ("image", 3, 3)
    header, pts, _ = stored(tmp_path / "y.cvl")
    assert (header.bit_depth, len(pts)) == (10, 3)


def test_latents_that_were_cut_ask_for_their_number_of_frames(
    models: dict[str, VideoAutoencoder], film: Path, tmp_path: Path
) -> None:
    export_file(encoded(models["sd"], film, tmp_path / "x.cvl"), tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.load(tmp_path / "x.npy")[:, :, :2])
    with pytest.raises(UsageError, match=r"2 latents stand for 2 to 5 frames, not for 9; .* with --frames 5"):
        import_latents(tmp_path / "x.npy", tmp_path / "y.cvl")
    assert import_latents(tmp_path / "x.npy", tmp_path / "y.cvl", options=ImportOptions(frames=5)).frames == 5
    assert stored(tmp_path / "y.cvl")[1] == [0, 40, 80, 200, 240]


def test_latents_for_a_model_of_pictures_are_pictures(tmp_path: Path) -> None:
    model = load_model("image-vae-mini-z16")
    np.save(tmp_path / "g.npy", np.zeros((1, 16, 3, 2, 2), np.float32))
    result = import_latents(tmp_path / "g.npy", tmp_path / "g.cvl", model=model, options=ImportOptions(target="raw"))
    assert (result.mode, result.frames) == ("image", 3)
