"""The temporal schedule, against convolutions of padded sequences."""

import pytest
import torch
import torch.nn.functional as F

from cvcodec.model.convolution import TAPS, TimePadding, output_frames, runs


def padded(sequence: torch.Tensor, padding: TimePadding) -> torch.Tensor:
    if padding is TimePadding.CAUSAL:
        return F.pad(sequence, (2, 0), mode="replicate")
    return F.pad(sequence, (1, 1), mode="replicate" if padding is TimePadding.REPLICATE else "constant")


@pytest.mark.parametrize("padding", TimePadding)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("longest", [1, 3, 100])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 9])
def test_the_schedule_is_a_convolution_of_the_padded_clip(padding, stride, longest, frames):
    if stride == 2 and padding is not TimePadding.CAUSAL:
        stride = 1  # the official models only stride in causal convolutions
    sequence = torch.randn(1, 1, frames, dtype=torch.float64)
    kernel = torch.randn(1, 1, TAPS, dtype=torch.float64)
    expected = F.conv1d(padded(sequence, padding), kernel, stride=stride).flatten()

    result, seen = [], 0
    for run in runs(frames, padding, stride=stride, longest=longest):
        assert run.first == seen
        assert 1 <= run.count <= longest
        seen += run.count
        start, end = run.needs(stride)
        for index in range(run.first, run.first + run.count):
            used = [index * stride + source.offset for source in run.sources]
            assert all(start <= frame < end for frame in used)
            taps = [kernel[0, 0, list(source.taps)].sum() for source in run.sources]
            result.append(sum(tap * sequence[0, 0, frame] for tap, frame in zip(taps, used, strict=True)))
    assert seen == output_frames(frames, stride) == len(expected)
    torch.testing.assert_close(torch.stack(result), expected)


def test_a_2d_kernel_sees_each_frame_alone_in_runs_of_any_length():
    assert [(run.first, run.count) for run in runs(5, None, longest=2)] == [(0, 2), (2, 2), (4, 1)]
