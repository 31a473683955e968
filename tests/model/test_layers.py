"""Norms and attention, against PyTorch's GroupNorm and a written-out softmax."""

import pytest
import torch
import torch.nn.functional as F

from cvcodec.model import convolution
from cvcodec.model.base import from_frames, latent_frames, pixel_frames
from cvcodec.model.official.layers import ClipNorm, DiffusersAttention
from tests.model.naive_cvvae import softmax_attention


@pytest.mark.parametrize("mean", [0.0, 300.0])
@pytest.mark.parametrize("run", [1, 1 << 22])
def test_the_norm_is_group_norm_over_the_whole_clip_even_with_a_large_mean(monkeypatch, mean, run):
    monkeypatch.setattr(convolution, "CPU_RUN_ELEMENTS", run)
    torch.manual_seed(0)
    norm = ClipNorm(12, groups=4, eps=1e-5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    clip = mean + torch.randn(2, 12, 3, 5, 6)
    expected = F.group_norm(clip.double(), 4, norm.weight.double(), norm.bias.double(), 1e-5)
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            result = from_frames(norm(clip.permute(2, 0, 3, 4, 1).contiguous()))
            torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-5 * (1 + mean))
            activated = from_frames(norm(clip.permute(2, 0, 3, 4, 1).contiguous(), silu=True))
            torch.testing.assert_close(activated.double(), F.silu(expected), rtol=0, atol=1e-5 * (1 + mean))


def test_the_norm_keeps_bfloat16_and_loses_no_more_than_its_rounding():
    torch.manual_seed(0)
    norm = ClipNorm(8, groups=2, eps=1e-6).bfloat16()
    frames = (5 + torch.randn(4, 1, 16, 16, 8)).bfloat16()
    with torch.no_grad():
        result = norm(frames)
    assert result.dtype == torch.bfloat16
    expected = F.group_norm(frames.double().permute(1, 4, 0, 2, 3), 2, eps=1e-6)
    assert (from_frames(result).double() - expected).abs().max() < 2**-8 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_statistics_of_half_precision_are_those_of_its_values(dtype):
    torch.manual_seed(0)
    norm = ClipNorm(12, groups=4, eps=1e-6)
    frames = (60 + 3 * torch.randn(3, 2, 40, 33, 12)).to(dtype)
    mean, variance = norm._statistics(frames)
    grouped = frames.double().unflatten(4, (4, 3)).permute(1, 4, 0, 2, 3, 5).flatten(2)  # (B, groups, all the rest)
    torch.testing.assert_close(mean.double(), grouped.mean(2).repeat_interleave(3, 1), rtol=1e-6, atol=0)
    wanted = grouped.var(2, correction=0).repeat_interleave(3, 1)
    torch.testing.assert_close(variance.double(), wanted, rtol=1e-4, atol=0)


def test_a_width_that_the_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="20 channels do not divide into 32 norm groups"):
        ClipNorm(20, groups=32, eps=1e-5)


def test_attention_looks_at_each_frame_alone():
    torch.manual_seed(0)
    layer = DiffusersAttention(16, groups=4, eps=1e-6)
    frames = torch.randn(3, 2, 4, 5, 16)
    with torch.no_grad():
        result = layer(frames)
        for time in range(3):
            for clip in range(2):
                image = frames[time, clip]
                normed = F.group_norm(image.permute(2, 0, 1)[None], 4, eps=1e-6)[0].flatten(1).T[None]
                mixed = softmax_attention(layer.to_q(normed), layer.to_k(normed), layer.to_v(normed))
                expected = image + layer.to_out[0](mixed).view(4, 5, 16)
                torch.testing.assert_close(result[time, clip], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 4, 1, 8, 8), (1, 3, 0, 8, 8), (1, 3, 1, 7, 8)])
def test_pixels_of_the_wrong_shape_are_refused_with_their_shape(shape):
    with pytest.raises(ValueError, match=r"want pixels \(B, 3, T, H, W\) with sides of at least 8.*shape"):
        pixel_frames(torch.zeros(shape), smallest=8)


@pytest.mark.parametrize("shape", [(4, 2, 2), (1, 3, 1, 2, 2), (1, 4, 1, 0, 2)])
def test_latents_of_the_wrong_shape_are_refused_with_their_shape(shape):
    with pytest.raises(ValueError, match=r"latents are .*; wanted a float tensor \(B, 4, t, h, w\)"):
        latent_frames(torch.zeros(shape), 4)
