"""A CUDA or MPS device computes what the CPU computes (`make gpu-check`).

Skipped where there is none; CVCODEC_TEST_DEVICE names another, such as cpu.
"""

from __future__ import annotations

import functools
import os

import pytest
import torch

import device_checks
import harness
from cvcodec.checkpoints import registry
from cvcodec.errors import DeviceError
from cvcodec.system.device import select_device, select_precision
from device_checks import Check, Subject

MODELS = [entry.name for entry in registry.list_models() if entry.bundled]


@functools.cache
def device() -> torch.device:
    try:
        name = os.environ.get("CVCODEC_TEST_DEVICE")
        return select_device(name) if name else device_checks.gpu()
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=[*MODELS, *device_checks.FAMILIES])
def subject(request: pytest.FixtureRequest) -> Subject:
    """Each bundled model, and narrow official ones with random weights; with what the CPU makes of a clip."""
    where = device()
    official = request.param in device_checks.FAMILIES
    model = device_checks.small_official(request.param) if official else harness.named_model(request.param)
    return Subject(model, where)


def hold(checks: list[Check]) -> None:
    assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize("precision", device_checks.PRECISIONS)
def test_a_clip_is_encoded_and_decoded_as_on_the_cpu(subject: Subject, precision: str) -> None:
    try:
        select_precision(precision, device())
    except DeviceError as error:
        pytest.skip(str(error))
    hold(device_checks.parity(subject, precision))


def test_windows_and_tiles_give_what_the_whole_clip_gives(subject: Subject) -> None:
    hold(device_checks.windows(subject))


def test_running_out_of_memory_leads_to_smaller_tiles_with_the_same_result(subject: Subject) -> None:
    hold([device_checks.out_of_memory(subject)])


def test_a_file_of_the_device_decodes_on_the_cpu_to_the_same_pictures(subject: Subject) -> None:
    hold([device_checks.file_round_trip(subject)])
