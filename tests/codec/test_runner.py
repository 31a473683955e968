"""Between integer frames and the model's floats: the number range, shapes, precisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cvcodec.codec.runner import ModelRunner, denormalise, frames_to_tensor, normalise, tensor_to_frames
from tests.codec.models import tiny_mini, tiny_official
from tests.codec.patch_model import PatchModel


@pytest.mark.parametrize("bit_depth", range(8, 17))
def test_every_code_value_survives_the_way_to_floats_and_back(bit_depth: int) -> None:
    peak = 2**bit_depth - 1
    codes = torch.arange(peak + 1, dtype=torch.int32)
    pixels = normalise(codes.to(torch.uint8) if bit_depth == 8 else codes, bit_depth)
    assert (pixels[0].item(), pixels[-1].item()) == (-1.0, 1.0)
    exact = np.arange(peak + 1, dtype=np.float64) * 2 / peak - 1
    np.testing.assert_allclose(pixels.numpy(), exact, atol=1.2e-7)
    back = denormalise(pixels, bit_depth)
    assert back.dtype == (torch.uint8 if bit_depth == 8 else torch.int32)
    assert torch.equal(back.to(torch.int32), codes)


def test_what_lies_outside_the_range_is_clamped_and_what_lies_between_rounded() -> None:
    values = torch.tensor([-3.0, -1.001, 1.001, 7.0, 0.0, 2.4 / 127.5, 2.6 / 127.5])
    assert denormalise(values, 8).tolist() == [0, 0, 255, 255, 128, 130, 130]
    assert denormalise(torch.tensor([1e30, -1e30]), 10).tolist() == [1023, 0]


@pytest.mark.parametrize(("bit_depth", "dtype"), [(8, np.uint8), (10, np.uint16)])
def test_frames_and_clips_are_each_others_mirror(bit_depth: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 2**bit_depth, (5, 7, 3)).astype(dtype) for _ in range(4)]
    clip = frames_to_tensor(frames)
    assert clip.shape == (1, 3, 4, 5, 7)
    assert int(clip[0, 1, 2, 3, 4]) == int(frames[2][3, 4, 1])
    back = tensor_to_frames(clip, bit_depth)
    assert back.dtype == dtype and back.flags.c_contiguous
    np.testing.assert_array_equal(back, frames)


@torch.no_grad()
@pytest.mark.parametrize("make", [tiny_mini, tiny_official])
def test_fp32_is_the_models_own_call_and_bf16_is_near_it(make: object) -> None:
    model = make()  # type: ignore[operator]
    frames = torch.randint(0, 256, (1, 3, 5, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = model.moments(frames.float() / 127.5 - 1)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exact = ModelRunner(model, device="cpu", precision="fp32")
    torch.testing.assert_close(exact.encode(frames, 8), expected, atol=1e-5, rtol=1e-5)
    latent = expected[:, :4].contiguous()
    torch.testing.assert_close(exact.decode(latent), model.decode(latent))
    reduced = ModelRunner(model, device="cpu", precision="bf16")
    moments = reduced.encode(frames, 8)
    assert moments.dtype == reduced.decode(latent).dtype == torch.float32
    assert 0 < (moments - expected).abs().max() < 0.1 * expected.abs().max()
    for name, tensor in model.state_dict().items():  # the model that was passed in stays as it was
        assert torch.equal(tensor, weights[name]) and tensor.dtype == weights[name].dtype


def test_results_need_no_gradients() -> None:
    model = tiny_mini()
    assert any(parameter.requires_grad for parameter in model.parameters())
    runner = ModelRunner(model, device="cpu", precision="fp32")
    assert not runner.encode(torch.zeros(1, 3, 1, 8, 8, dtype=torch.uint8), 8).requires_grad


def test_ten_bits_reach_the_model_undiminished() -> None:
    frames = torch.arange(1024, dtype=torch.int32)[: 4 * 4 * 3].reshape(1, 3, 1, 4, 4)
    runner = ModelRunner(PatchModel(), device="cpu", precision="fp32")
    latent = runner.encode(frames, 10)[:, :192]
    assert torch.equal(denormalise(runner.decode(latent), 10), frames)
