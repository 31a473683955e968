"""Weights files: round trips, what a reader refuses, and the library's own view of what was written."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cvcodec.bitstream import format as fmt
from cvcodec.checkpoints.checkpoint import (
    Checkpoint,
    check_state_dict,
    default_statistics,
    instantiate,
    load_checkpoint,
    make_checkpoint,
    read_summary,
    save_checkpoint,
    write_checkpoint,
)
from cvcodec.errors import CheckpointError, DeviceError, InputError, OutputError
from cvcodec.model import build_model, config
from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.mini import mini_config
from cvcodec.quantization import LatentStatistics

CONFIG = mini_config(4, widths=(8, 16, 24), scaling_factor=0.5, shift_factor=0.25)
STATISTICS = LatentStatistics(mean=(0.1, 0.2, 0.3, 0.4), std=(1.0, 2.0, 3.0, 4.0), unit_step=(0.5, 0.6, 0.7, 0.8))
CARD = {"name": "tiny", "licence": "Apache-2.0", "quality": {"psnr_db": 33.25}}


@pytest.fixture(scope="module")
def model() -> VideoAutoencoder:
    torch.manual_seed(0)
    made = build_model(CONFIG).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.1)
    return made


@pytest.fixture
def file(model: VideoAutoencoder, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, model, statistics=STATISTICS, card=CARD)
    return path


def rewrite(
    path: Path, metadata: dict[str, str | None] | None = None, tensors: dict[str, Tensor | None] | None = None
) -> None:
    """Write the file again through the library with some metadata or tensors replaced; None removes."""
    with safe_open(path, framework="pt") as opened:
        old = opened.metadata()
    merged = {key: value for key, value in {**old, **(metadata or {})}.items() if value is not None}
    contents = {name: tensor.clone() for name, tensor in load_file(path).items()}
    for name, tensor in (tensors or {}).items():
        if tensor is None:
            del contents[name]
        else:
            contents[name] = tensor
    save_file(contents, path, metadata=merged)


# ------------------------------------------------------------------------------------------------ round trips


def test_what_was_saved_comes_back(model: VideoAutoencoder, file: Path) -> None:
    loaded = load_checkpoint(file)
    assert loaded.config == CONFIG
    assert loaded.statistics == STATISTICS
    assert loaded.card == CARD
    expected = model.state_dict()
    assert set(loaded.state_dict) == set(expected)
    assert all(torch.equal(loaded.state_dict[name], expected[name]) for name in expected)


def test_the_safetensors_library_reads_the_same_tensors_and_metadata(model: VideoAutoencoder, file: Path) -> None:
    theirs = load_file(file)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in model.state_dict().items())
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata["cvcodec.config"])["family"] == "cvvae-mini"
    assert json.loads(metadata["cvcodec.statistics"])["unit_step"] == [0.5, 0.6, 0.7, 0.8]
    assert json.loads(metadata["cvcodec.card"]) == CARD


def test_mixed_types_of_odd_sizes_are_stored_aligned(model: VideoAutoencoder, tmp_path: Path) -> None:
    state = {
        name: tensor.half() if index % 2 else tensor for index, (name, tensor) in enumerate(model.state_dict().items())
    }
    path = tmp_path / "mixed.safetensors"
    write_checkpoint(path, make_checkpoint(CONFIG, state, statistics=None, card={}))
    theirs = load_file(path)
    assert {name: tensor.dtype for name, tensor in theirs.items()} == {
        name: tensor.dtype for name, tensor in state.items()
    }
    assert all(torch.equal(theirs[name], state[name]) for name in state)
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    header = json.loads(path.read_bytes()[8 : 8 + length])
    width = {"F32": 4, "F16": 2}
    assert length % 8 == 0
    assert all(
        entry["data_offsets"][0] % width[entry["dtype"]] == 0
        for name, entry in header.items()
        if name != "__metadata__"
    )


def test_the_same_content_is_the_same_bytes(model: VideoAutoencoder, file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    save_checkpoint(again, model, statistics=STATISTICS, card=dict(reversed(CARD.items())))
    assert again.read_bytes() == file.read_bytes()
    rewritten = tmp_path / "rewritten.safetensors"
    write_checkpoint(rewritten, load_checkpoint(file))
    assert rewritten.read_bytes() == file.read_bytes()


def test_half_precision_halves_the_file_and_its_values_load_exactly(
    model: VideoAutoencoder, file: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half.safetensors"
    save_checkpoint(half, model, statistics=None, card={}, dtype=torch.float16)
    parameters = sum(tensor.numel() for tensor in model.state_dict().values())
    assert file.stat().st_size - half.stat().st_size == pytest.approx(2 * parameters, rel=0.05)
    loaded = instantiate(load_checkpoint(half), name="half")
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype is torch.float32
        assert torch.equal(tensor, model.state_dict()[name].half().float())


def test_the_summary_needs_no_weights(model: VideoAutoencoder, file: Path) -> None:
    summary = read_summary(file)
    loaded = load_checkpoint(file)
    assert (summary.latent_space_id, summary.decoder_hash) == (loaded.latent_space_id, loaded.decoder_hash)
    assert summary.encoder_parameters == sum(parameter.numel() for parameter in model.encoder.parameters())
    assert summary.decoder_parameters == sum(parameter.numel() for parameter in model.decoder.parameters())
    assert summary.dtypes == ("F32",)


def test_a_loaded_model_computes_what_the_saved_one_did(model: VideoAutoencoder, file: Path) -> None:
    loaded = instantiate(load_checkpoint(file), name="tiny")
    pixels = torch.rand(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        latent = model.encode(pixels).mean
        assert torch.equal(loaded.encode(pixels).mean, latent)
        assert torch.equal(loaded.decode(latent), model.decode(latent))
    assert not loaded.training
    assert (loaded.name, loaded.statistics) == ("tiny", STATISTICS)
    assert (loaded.latent_space_id, loaded.decoder_hash) == (
        read_summary(file).latent_space_id,
        read_summary(file).decoder_hash,
    )


def test_a_loaded_model_keeps_no_graph_unless_it_is_asked_for_gradients(file: Path) -> None:
    loaded = instantiate(load_checkpoint(file), name="tiny")
    pixels = torch.zeros(1, 3, 5, 16, 16)
    assert loaded.decode(loaded.encode(pixels).mean).grad_fn is None
    assert loaded.encode(pixels.requires_grad_()).mean.grad_fn is not None, "pixels may still be optimised"


def test_training_a_loaded_model_does_not_change_its_file(file: Path) -> None:
    before = file.read_bytes()
    loaded = instantiate(load_checkpoint(file), name="tiny", requires_grad=True)
    with torch.no_grad():
        for parameter in loaded.parameters():
            assert parameter.requires_grad
            parameter.add_(1.0)
    assert file.read_bytes() == before


def test_without_measured_statistics_scale_and_shift_give_them(model: VideoAutoencoder, tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_checkpoint(path, model, statistics=None, card={})
    assert load_checkpoint(path).statistics is None
    # (latent - shift) * scale has mean 0 and deviation 1
    expected = LatentStatistics(mean=(0.25,) * 4, std=(2.0,) * 4, unit_step=(2.0,) * 4)
    assert default_statistics(CONFIG) == expected
    assert instantiate(load_checkpoint(path), name="plain").statistics == expected


def test_tuning_the_decoder_windows_statistics_and_card_keep_the_latent_space(
    model: VideoAutoencoder, file: Path, tmp_path: Path
) -> None:
    base = load_checkpoint(file)
    tuned = {name: tensor + name.startswith("decoder.") for name, tensor in base.state_dict.items()}
    config = dataclasses.replace(CONFIG, window_latents=4, decode_context=1)
    other = make_checkpoint(config, tuned, statistics=None, card={"name": "tuned"})
    assert other.latent_space_id == base.latent_space_id
    assert other.decoder_hash != base.decoder_hash


# ------------------------------------------------------------------------------------------------ refusals


def test_an_existing_file_is_kept_when_asked(model: VideoAutoencoder, file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        save_checkpoint(file, model, statistics=None, card={}, overwrite=False)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights file"):
        load_checkpoint(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="is a folder; import it first: cvcodec models add"):
        load_checkpoint(tmp_path)


def test_foreign_weights_point_to_the_import(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"encoder.conv_in.weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="not a cvcodec weights file; import it first: cvcodec models add"):
        load_checkpoint(path)


def edited_config(**changes: Any) -> str:
    values = {**CONFIG.to_dict(), **changes}
    return json.dumps({key: value for key, value in values.items() if value is not ...})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"cvcodec.format": "2"}, "weights format 2; this release reads 1"),
        ({"cvcodec.latent_space_id": "0" * 16}, "the stored latent-space id is 0000000000000000 but its weights give"),
        ({"cvcodec.decoder_hash": "0" * 16}, "the stored decoder hash is 0000000000000000 but its weights give"),
        ({"cvcodec.decoder_hash": None}, "has no cvcodec.decoder_hash"),
        ({"cvcodec.config": "{"}, "cvcodec.config is not JSON"),
        ({"cvcodec.config": "[" * 100_000}, "cvcodec.config is not JSON"),
        ({"cvcodec.config": "[]"}, "cvcodec.config is not a JSON object"),
        ({"cvcodec.config": edited_config(surprise=1)}, "unknown fields: surprise"),
        ({"cvcodec.config": edited_config(family=...)}, "lacks family"),
        ({"cvcodec.config": edited_config(family="vqgan")}, "unknown model family 'vqgan'"),
        ({"cvcodec.config": edited_config(widths="8")}, "widths is '8', which is not tuple"),
        ({"cvcodec.config": edited_config(widths=[8, 16.5, 24])}, "widths is .8, 16.5, 24., which is not"),
        ({"cvcodec.config": edited_config(latent_channels=True)}, "latent_channels is True, which is not int"),
        ({"cvcodec.config": edited_config(norm_eps=float("nan"))}, "norm_eps is nan, which is not float"),
        *(
            ({"cvcodec.config": edited_config(**{name: value})}, f"{name} is {value}, wanted {least} to")
            for least, name, values in [
                (1, "window_latents", (0, 4097, 65536)),
                (0, "encode_context", (4097,)),
                (0, "decode_context", (65536,)),
                (0, "tile_latents", (65537,)),
                (0, "official_tile_pixels", (1 << 20,)),
                (1, "temporal_factor", (0, 65)),
                (1, "spatial_factor", (0, 65536)),
                (1, "patch_size", (0,)),
            ]
            for value in values
        ),
        ({"cvcodec.config": edited_config(official_chunk_frames=0)}, "official_chunk_frames = 0 is not a multiple"),
        (
            {"cvcodec.config": edited_config(official_chunk_frames=65540)},
            "65540 is not a multiple of 4 from 1 to 16384",
        ),
        ({"cvcodec.config": edited_config(official_tile_overlap=1.0)}, "official_tile_overlap = 1.0 is no share"),
        ({"cvcodec.config": edited_config(scaling_factor=0)}, "scaling factor must be positive"),
        ({"cvcodec.config": edited_config(widths=[8, 16, 1 << 30])}, "cannot fill"),
        ({"cvcodec.config": edited_config(encoder_blocks=[1, 1 << 30, 1])}, "cannot fill"),
        ({"cvcodec.config": edited_config(widths=[8, 16, 32])}, r"mis-shaped \(decoder.* is \(.*24.*\), wanted \(.*32"),
        ({"cvcodec.statistics": '{"mean": [1]}'}, "statistics want"),
        (
            {"cvcodec.statistics": '{"mean": ["x"], "std": [1], "unit_step": [1]}'},
            "mean is not a list of finite numbers",
        ),
        ({"cvcodec.statistics": '{"mean": [0], "std": [1], "unit_step": [1]}'}, "1 entries for a model of 4"),
        ({"cvcodec.card": "3"}, "cvcodec.card is not a JSON object"),
    ],
)
def test_wrong_metadata_are_refused_in_one_line(file: Path, metadata: dict[str, str | None], message: str) -> None:
    rewrite(file, metadata)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_one_changed_weight_is_noticed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 0x40
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or was edited"):
        load_checkpoint(file)


def test_a_truncated_or_damaged_file_is_refused(file: Path) -> None:
    content = file.read_bytes()
    for damaged in (b"", content[:7], content[:100], content[:-1], b"\xff" * 64, content + b"x"):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            load_checkpoint(file)


def test_missing_unexpected_and_misshaped_tensors_are_listed(model: VideoAutoencoder) -> None:
    state = dict(model.state_dict())
    names = sorted(state)
    wrong = names[20]
    state[wrong] = torch.ones(3, 3)
    for name in names[:8]:
        del state[name]
    state["encoder.surprise"] = torch.ones(1)
    with pytest.raises(CheckpointError) as caught:
        check_state_dict(CONFIG, state, what="weights.safetensors")
    message = str(caught.value)
    assert f"8 missing ({', '.join(names[:5])} and 3 more)" in message
    assert "1 unexpected (encoder.surprise)" in message
    assert f"1 mis-shaped ({wrong} is (3, 3), wanted (" in message


def test_the_error_stays_short_whatever_the_names(model: VideoAutoencoder) -> None:
    state = {**model.state_dict(), **{f"encoder.{index}{'x' * 10_000}": torch.ones(1) for index in range(50)}}
    with pytest.raises(CheckpointError, match="50 unexpected") as caught:
        check_state_dict(CONFIG, state, what="weights")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (1e30, torch.float16, "is too large for float16; store the weights as float32"),
        (float("nan"), None, "holds NaN or infinity"),
        (float("nan"), torch.float16, "holds NaN or infinity"),
    ],
)
def test_weights_that_would_not_survive_are_not_written(
    model: VideoAutoencoder, value: float, dtype: torch.dtype | None, message: str
) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    next(iter(state.values())).view(-1)[0] = value
    with pytest.raises(CheckpointError, match=message):
        make_checkpoint(CONFIG, state, statistics=None, card={}, dtype=dtype)


def test_integers_and_doubles_are_not_weights(model: VideoAutoencoder, file: Path) -> None:
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="is float64; weights files hold"):
        make_checkpoint(CONFIG, state, statistics=None, card={})
    name = next(iter(state))
    rewrite(file, tensors={name: torch.ones(3, dtype=torch.int64)})
    with pytest.raises(CheckpointError, match="is stored as I64, not as float"):
        load_checkpoint(file)


def test_a_device_that_is_not_there_is_a_device_error(file: Path) -> None:
    checkpoint: Checkpoint = load_checkpoint(file)
    with pytest.raises(DeviceError, match="cannot put the model on cuda:99"):
        instantiate(checkpoint, name="tiny", device="cuda:99")


def test_a_config_has_the_windows_that_a_files_header_can_say() -> None:
    limits = (config.MOST_LATENTS, config.MOST_SIDE, config.MOST_FACTOR)
    assert limits == (fmt.MAX_CHUNK_LATENTS, fmt.MAX_SIDE, fmt.MAX_FACTOR)
    dataclasses.replace(CONFIG, window_latents=4096, decode_context=4096)
    with pytest.raises(ValueError, match="window_latents is 4097"):
        dataclasses.replace(CONFIG, window_latents=4097)
