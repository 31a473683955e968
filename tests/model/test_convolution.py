"""Convolutions over frames, against PyTorch's own 3D convolution of explicitly padded, explicitly upsampled clips."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cvcodec.model import convolution
from cvcodec.model.base import from_frames
from cvcodec.model.convolution import FrameConv, SpacePadding, TimePadding, UpsampleConv

TIMES = [TimePadding.CAUSAL, TimePadding.REPLICATE, TimePadding.ZERO, None]


def to_frames(clip: Tensor) -> Tensor:
    return clip.permute(2, 0, 3, 4, 1).contiguous()


def padded(clip: Tensor, time: TimePadding | None, space: SpacePadding) -> Tensor:
    if time is not None:
        front, back = (2, 0) if time is TimePadding.CAUSAL else (1, 1)
        mode = "constant" if time is TimePadding.ZERO else "replicate"
        clip = F.pad(clip, (0, 0, 0, 0, front, back), mode=mode)
    if space is SpacePadding.ZERO_END:
        return F.pad(clip, (0, 1, 0, 1))
    return F.pad(clip, (1, 1, 1, 1, 0, 0), mode="replicate" if space is SpacePadding.REPLICATE else "constant")


def reference(conv: FrameConv | UpsampleConv, clip: Tensor, stride: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
    weight = conv.weight if conv.weight.ndim == 5 else conv.weight.unsqueeze(2)
    return F.conv3d(padded(clip, conv.time, conv.space), weight, conv.bias, stride=stride)


@pytest.fixture
def tiny_runs(monkeypatch):
    """One frame at a time, whatever its size."""
    monkeypatch.setattr(convolution, "CPU_RUN_ELEMENTS", 1)


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("space", SpacePadding)
@pytest.mark.parametrize("frames", [1, 2, 3, 6])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_convolution_equals_conv3d_of_the_padded_clip(time, space, frames, gradients):
    torch.manual_seed(0)
    stride = (2, 2, 2) if space is SpacePadding.ZERO_END and time is TimePadding.CAUSAL else (1, 1, 1)
    conv = FrameConv(3, 4, time=time, space=space, stride=stride[1], time_stride=stride[0]).double()
    clip = torch.randn(2, 3, frames, 7, 10, dtype=torch.float64)
    with torch.set_grad_enabled(gradients):
        result = from_frames(conv(to_frames(clip)))
    torch.testing.assert_close(result.detach(), reference(conv, clip, stride).detach())


@pytest.mark.usefixtures("tiny_runs")
@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("time_stride", [1, 2])
def test_frames_one_at_a_time_give_the_same_as_all_at_once(time, time_stride):
    torch.manual_seed(0)
    if time is not TimePadding.CAUSAL:
        time_stride = 1
    conv = FrameConv(3, 4, time=time, time_stride=time_stride).double()
    clip = torch.randn(2, 3, 8, 5, 6, dtype=torch.float64)
    calls = []

    def before(piece: Tensor) -> Tensor:
        calls.append(len(piece))
        return 2 * piece

    with torch.no_grad():
        result = from_frames(conv(to_frames(clip), before=before))
        torch.testing.assert_close(result, reference(conv, 2 * clip, (time_stride, 1, 1)))
    assert sum(calls) == (8 if time_stride == 1 else 7), "every frame that is read is prepared exactly once"
    assert max(calls) <= 3


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("space", [SpacePadding.ZERO, SpacePadding.REPLICATE])
@pytest.mark.parametrize("size", [(16, 16), (19, 22), (33, 9)])
@pytest.mark.parametrize("tiles", [1, 40, 1 << 16])
def test_winograd_convolutions_equal_conv3d_in_double_precision(monkeypatch, time, space, size, tiles):
    monkeypatch.setattr(convolution, "WINOGRAD_MIN_PIXELS", 1)
    monkeypatch.setattr(convolution, "WINOGRAD_MIN_CHANNELS", 8)
    monkeypatch.setattr(convolution, "WINOGRAD_TILES", tiles)
    torch.manual_seed(0)
    conv = FrameConv(8, 12, time=time, space=space)
    clip = torch.randn(2, 8, 5, *size)
    with torch.no_grad():
        assert conv._winograd_pays(to_frames(clip))
        result = from_frames(conv(to_frames(clip), before=torch.tanh))
        expected = reference(conv.double(), torch.tanh(clip.double()))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-5)


def test_winograd_stays_away_from_gradients_and_reduced_precision():
    conv = FrameConv(64, 64, time=None)
    frames = torch.zeros(1, 1, 64, 64, 64)
    with torch.no_grad():
        assert conv._winograd_pays(frames)
        assert not conv._winograd_pays(frames.bfloat16())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not conv._winograd_pays(frames)
    assert not conv._winograd_pays(frames)


@pytest.mark.parametrize("time", [TimePadding.REPLICATE, None])
@pytest.mark.parametrize("space", [SpacePadding.ZERO, SpacePadding.REPLICATE])
@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("doubles_time", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_upsampling_equals_nearest_neighbour_then_conv3d(time, space, frames, doubles_time, gradients):
    if time is None and doubles_time:
        doubles_time = False
    torch.manual_seed(0)
    conv = UpsampleConv(3, 4, time=time, space=space, doubles_time=doubles_time).double()
    clip = torch.randn(2, 3, frames, 5, 4, dtype=torch.float64)
    with torch.set_grad_enabled(gradients):
        result = from_frames(conv(to_frames(clip))).detach()
    large = F.interpolate(clip, scale_factor=(1, 2, 2), mode="nearest")
    expected = reference(conv, large).detach()
    if doubles_time:
        expected = torch.stack((expected[:, :4], expected[:, 4:]), dim=3).flatten(2, 3)[:, :, 1:]
    torch.testing.assert_close(result, expected)


def test_subframes_interleave_and_the_first_is_dropped():
    conv = UpsampleConv(1, 1, time=TimePadding.REPLICATE, doubles_time=True)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :, 1, 1, 1] = 1.0
        conv.bias.copy_(torch.tensor([10.0, 20.0]))
        result = conv(torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1, 1).expand(3, 1, 4, 4, 1).contiguous())
    assert result[:, 0, 3, 3, 0].tolist() == [20.0, 11.0, 21.0, 12.0, 22.0]  # measured on the official class (spec 1.4)


def test_gradients_equal_those_of_conv3d():
    torch.manual_seed(0)
    conv = FrameConv(3, 4, time=TimePadding.CAUSAL, space=SpacePadding.REPLICATE).double()
    clip = torch.randn(1, 3, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 4, 4, 6, 6, dtype=torch.float64)
    wanted = torch.autograd.grad((reference(conv, clip) * weights).sum(), (clip, conv.weight, conv.bias))
    found = torch.autograd.grad((from_frames(conv(to_frames(clip))) * weights).sum(), (clip, conv.weight, conv.bias))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("width", range(1, 7))
@pytest.mark.parametrize(("padding", "stride"), [(1, 2), (0, 2), (1, 1)])
def test_narrow_images_are_convolved_as_pytorch_does(width, padding, stride):
    torch.manual_seed(0)
    images, weight, bias = torch.randn(2, 3, 5, width + 2 - 2 * padding), torch.randn(4, 3, 3, 3), torch.randn(4)
    want = F.conv2d(images.double(), weight.double(), bias.double(), stride=stride, padding=padding).float()
    got = convolution.conv2d(images, weight, bias, stride=stride, padding=padding)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
