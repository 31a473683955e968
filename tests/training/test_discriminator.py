"""The 3D PatchGAN against the official network's measured numbers (spec 4.4)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cvcodec.training.discriminator import Discriminator


def test_parameters_and_tensors_are_those_of_the_official_network() -> None:
    with torch.device("meta"):
        discriminator = Discriminator()
    state = discriminator.state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == 29_015_041
    assert len(state) == 58
    assert sum(tensor.numel() for name, tensor in state.items() if "temb_proj" in name) == 722_304
    assert tuple(state["main.0.weight"].shape) == (64, 3, 3, 3, 3)
    assert tuple(state["main.8.nin_shortcut.weight"].shape) == (512, 256, 1, 1, 1)
    assert tuple(state["main.14.weight"].shape) == (1, 512, 3, 3, 3)
    assert "main.11.nin_shortcut.weight" not in state


@pytest.mark.parametrize(("frames", "logits"), [(1, 1), (5, 1), (9, 2), (17, 3)])
def test_logits_have_the_measured_shapes(frames: int, logits: int) -> None:
    with torch.device("meta"):
        assert Discriminator()(torch.empty(2, 3, frames, 64, 48)).shape == (2, 1, logits, 8, 6)


def test_convolutions_start_with_a_deviation_of_two_hundredths() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(32)
    weight = discriminator.state_dict()["main.5.conv2.weight"]
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)


@torch.no_grad()
def test_a_down_block_pads_odd_time_in_front_before_it_pools() -> None:
    torch.manual_seed(0)
    block = Discriminator(32).main[2]
    x = torch.randn(1, 32, 3, 4, 4)

    def pooled(t: torch.Tensor) -> torch.Tensor:
        frames = torch.cat([t[:, :, :1], t], 2)  # 4 frames
        return F.avg_pool3d(frames, 2)

    y = pooled(block.conv1(F.silu(block.norm1(x))))  # type: ignore[operator]
    wanted = block.nin_shortcut(pooled(x)) + block.conv2(F.silu(block.norm2(y)))  # type: ignore[operator]
    torch.testing.assert_close(block(x), wanted)


def test_the_unused_projection_is_not_trained() -> None:
    discriminator = Discriminator(32)
    discriminator(torch.randn(1, 3, 5, 16, 16)).sum().backward()
    for name, parameter in discriminator.named_parameters():
        assert (parameter.grad is None) == ("temb_proj" in name), name
