"""Names of devices and precisions, exact fp32, recognising what running out of memory looks like."""

import contextlib
from collections.abc import Iterator

import pytest
import torch

from cvcodec.errors import DeviceError, UsageError
from cvcodec.system import device, host

CPU = torch.device("cpu")


@pytest.fixture
def thread_count() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA")
def test_auto_is_the_cpu_where_there_is_no_cuda() -> None:
    assert device.select_device("auto") == CPU
    assert device.select_device() == CPU


def test_names_are_taken_in_any_case_and_as_torch_devices() -> None:
    assert device.select_device(" CPU ") == CPU
    assert device.select_device(CPU) == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "", "meta"])
def test_an_unknown_device_is_a_usage_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="wanted auto, cpu, cuda, cuda:N or mps"):
        device.select_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_absent_cuda_is_a_device_error_with_a_way_out(name: str) -> None:
    with pytest.raises(DeviceError, match="use --device cpu"):
        device.select_device(name)


def test_an_index_beyond_the_cards_names_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert device.select_device("auto") == torch.device("cuda", 1)
    assert device.select_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(DeviceError, match="cuda:2 does not exist: 2 visible, cuda:0 to cuda:1"):
        device.select_device("cuda:2")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({"avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({"bf16": True}, "fp32"),
    ],
)
def test_automatic_precision_on_a_cpu_follows_its_instructions(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert device.select_precision("auto", CPU) == expected


@pytest.mark.parametrize(("major", "expected"), [(6, "fp32"), (7, "fp16"), (8, "bf16"), (9, "bf16")])
def test_automatic_precision_on_cuda_follows_the_compute_capability(
    monkeypatch: pytest.MonkeyPatch, major: int, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, 0))
    assert device.select_precision("auto", torch.device("cuda", 0)) == expected


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_precision_asked_for_is_the_one_convolutions_compute_in(name: str, dtype: torch.dtype) -> None:
    precision = device.select_precision(name, CPU)
    assert device.dtype_of(precision) == dtype
    with device.arithmetic(CPU, precision), torch.inference_mode():
        assert torch.nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, 8, 8)).dtype == dtype


def test_an_unknown_precision_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="wanted auto, fp32, bf16, fp16"):
        device.select_precision("int8", CPU)


def test_fp32_on_cuda_switches_tf32_off_and_puts_it_back_even_after_an_error() -> None:
    def switches() -> tuple[str, str, str]:
        return (
            torch.backends.cudnn.conv.fp32_precision,
            torch.backends.cudnn.rnn.fp32_precision,
            torch.backends.cuda.matmul.fp32_precision,
        )

    before = switches()
    assert before[0] == "tf32"
    with contextlib.suppress(KeyError), device.arithmetic(torch.device("cuda", 0), "fp32"):
        with device.arithmetic(torch.device("cuda", 0), "fp32"):  # as a metric beside a model
            assert switches() == ("ieee", "ieee", "ieee")
        assert switches() == ("ieee", "ieee", "ieee")
        raise KeyError
    assert switches() == before


def test_a_real_failed_allocation_is_recognised_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert device.is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.07 GB)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_what_backends_say_when_memory_runs_out_is_recognised(error: Exception) -> None:
    assert device.is_out_of_memory(error)
    wrapped = DeviceError("no room")
    wrapped.__cause__ = error
    assert device.is_out_of_memory(wrapped)


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), ValueError("out of memory"), DeviceError("no CUDA"), KeyboardInterrupt()]
)
def test_other_errors_are_not_taken_for_a_lack_of_memory(error: BaseException) -> None:
    assert not device.is_out_of_memory(error)


def test_the_cpu_has_what_the_host_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "available_memory", lambda: 12345)
    assert device.available_memory(CPU) == 12345


def test_cuda_counts_blocks_that_torch_holds_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 8000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 300)
    assert device.available_memory(torch.device("cuda", 0)) == 1200


def test_threads_asked_for_are_set(thread_count: int) -> None:
    assert device.set_threads(thread_count + 1) == thread_count + 1 == torch.get_num_threads()


def test_default_threads_do_not_exceed_what_the_container_allows(
    monkeypatch: pytest.MonkeyPatch, thread_count: int
) -> None:
    monkeypatch.setattr(host, "usable_cpus", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(3)
    assert device.set_threads(None) == 1


def test_default_threads_leave_the_users_variable_alone(monkeypatch: pytest.MonkeyPatch, thread_count: int) -> None:
    monkeypatch.setattr(host, "usable_cpus", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    assert device.set_threads(None) == 3


def test_no_threads_at_all_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="at least 1, got 0"):
        device.set_threads(0)
