"""Devices, precisions and threads: what `--device`, `--precision` and `--threads` mean to torch.

Owns: turning those words into torch objects, what memory a device has left, which exceptions mean "out of memory".
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from cvcodec.errors import DeviceError, UsageError
from cvcodec.system import host

Precision = Literal["fp32", "bf16", "fp16"]

_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_OUT_OF_MEMORY_TEXTS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
    "std::bad_alloc",
)
"""Parts of lower-cased messages of plain RuntimeErrors: CPU allocators (Linux, macOS, Windows), MPS, cuDNN, cuBLAS."""


def select_device(name: str | torch.device = "auto") -> torch.device:
    """The device called `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    `auto` is CUDA where there is one, else the CPU; `mps` is taken only when asked for, as nothing was measured on it.
    A CUDA device comes back with its index. Raises UsageError for another name, DeviceError for an absent device.
    """
    text = str(name).strip().lower()
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    if text == "cpu":
        return torch.device("cpu")
    if text == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("device mps is not available here: it needs macOS on Apple silicon; use --device cpu")
        return torch.device("mps")
    match = re.fullmatch(r"cuda(?::(\d+))?", text)
    if not match:
        raise UsageError(f"unknown device {str(name)!r}; wanted auto, cpu, cuda, cuda:N or mps")
    if not torch.cuda.is_available():
        reason = "this build of torch has no CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        raise DeviceError(f"device {text} is not available: {reason}; use --device cpu")
    index = torch.cuda.current_device() if match[1] is None else int(match[1])
    count = torch.cuda.device_count()
    if index >= count:
        raise DeviceError(f"device cuda:{index} does not exist: {count} visible, cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", index)


def select_precision(name: str, device: torch.device) -> Precision:
    """The arithmetic called `auto`, `fp32`, `bf16` or `fp16` on `device`.

    `auto` is bf16 where the device multiplies it natively, else fp32: on CUDA from compute capability 8.0 (fp16 from
    7.0), on a CPU with AMX or AVX-512 BF16 (see `cpu_multiplies_bf16`), never on MPS. Raises UsageError for another
    name, DeviceError where the device cannot do what was asked for.
    """
    if name == "auto":
        return _automatic_precision(device)
    if name not in _DTYPES:
        raise UsageError(f"unknown precision {name!r}; wanted auto, {', '.join(_DTYPES)}")
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise DeviceError(f"{torch.cuda.get_device_name(device)} has no bf16; use --precision fp16 or fp32")
    if name == "bf16" and device.type == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0):
        raise DeviceError("bf16 on mps needs macOS 14; use --precision fp16 or fp32")
    return name


def _automatic_precision(device: torch.device) -> Precision:
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return "bf16" if major >= 8 else "fp16" if major >= 7 else "fp32"
    if device.type == "cpu" and cpu_multiplies_bf16():
        return "bf16"
    return "fp32"


def cpu_multiplies_bf16() -> bool:
    """Whether the CPU has bf16 multiply instructions that oneDNN uses: AMX or AVX-512 BF16.

    A question of instructions, not a timing, so that `auto` is the same in every run on a machine. Both are real gains:
    3x3x3 and 3x3 convolutions in channels_last take 1.5 to 2.9 times less time than in fp32 on a Zen 4 (AVX-512 BF16,
    no AMX). Without them oneDNN converts to fp32 and back, and bf16 loses.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def dtype_of(precision: Precision) -> torch.dtype:
    """The torch dtype of a precision."""
    return _DTYPES[precision]


@contextlib.contextmanager
def arithmetic(device: torch.device, precision: Precision) -> Iterator[None]:
    """Run the model calls inside in `precision`: autocast for bf16 and fp16; for fp32 true fp32, TF32 switched off.

    TF32 (10 bits of mantissa, torch's default for CUDA convolutions) would break the 1e-4 parity that fp32 promises.
    The switch is torch's own, for the whole process; it is put back on leaving.
    """
    if precision != "fp32":
        with torch.autocast(device.type, dtype=_DTYPES[precision]):
            yield
    elif device.type == "cuda":
        with _without_tf32():
            yield
    else:
        yield


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    backends: Any = torch.backends
    switches: list[tuple[Any, str, object]]
    if hasattr(backends.cudnn, "conv"):  # torch 2.9 and later, where mixing these with the older flags is an error
        owners = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
        switches = [(owner, "fp32_precision", "ieee") for owner in owners]
    else:
        switches = [(owner, "allow_tf32", False) for owner in (backends.cudnn, backends.cuda.matmul)]
    before = [getattr(owner, name) for owner, name, _ in switches]
    try:
        for owner, name, exact in switches:
            setattr(owner, name, exact)
        yield
    finally:
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` of the CPU on `device`, without the host waiting for the device."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def to_host(tensor: Tensor) -> Tensor:
    """`tensor` in the CPU's memory; from CUDA by way of pinned memory, which is several times as fast as other."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(tensor.device))
    done.synchronize()
    return copy


def available_memory(device: torch.device) -> int | None:
    """Bytes `device` could still give to tensors; None where it does not tell.

    CUDA: free on the card plus what torch's allocator holds unused. CPU: see `host.available_memory`.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return host.available_memory()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, so that a smaller window or tile may succeed.

    Torch's own error types, Python's, plain RuntimeErrors known by their text, or a DeviceError raised from one.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, DeviceError):
        return error.__cause__ is not None and is_out_of_memory(error.__cause__)
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY_TEXTS)


def release_memory(device: torch.device) -> None:
    """Hand torch's unused cached blocks back to the device; call it before retrying something smaller."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def set_threads(threads: int | None) -> int:
    """Set the number of CPU threads torch computes with, and return it.

    None: torch's own default, or OMP_NUM_THREADS, cut to what containers allow (torch sees the host's processors and
    would start dozens of threads for a quota of two). Raises UsageError below 1.
    """
    if threads is None:
        threads = torch.get_num_threads()
        if "OMP_NUM_THREADS" not in os.environ:
            threads = min(threads, host.usable_cpus())
    elif threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)
    return threads
