"""What a reader needs to judge figures from a machine: its processor, load, device and versions, as facts and words."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cvcodec import __version__
from cvcodec.system import host


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What a reader needs to judge figures from this machine; plain JSON types."""
    return {
        "cvcodec": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "usable_cpus": host.usable_cpus(),
        "threads": torch.get_num_threads(),
        "bf16_instructions": _bf16_instructions(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def describe_machine(facts: Mapping[str, Any]) -> str:
    """The same in a sentence, for captions."""
    bf16 = facts["bf16_instructions"] or "no"
    device = f", {facts['device_name'] or facts['device']}" if facts["device"] != "cpu" else ""
    load = "" if facts["load_1min"] is None else f", load {facts['load_1min']}"
    return (
        f"{facts['cpu']}, {facts['threads']} threads on {facts['usable_cpus']} usable CPUs{load}, "
        f"{bf16} bf16 instructions{device}; torch {facts['torch']}, cvcodec {facts['cvcodec']}"
    )


def _bf16_instructions() -> str | None:
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        amx, avx512 = capabilities.get("amx_bf16"), capabilities.get("avx512_bf16")
    else:
        amx, avx512 = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
    return "AMX" if amx else "AVX-512" if avx512 else None


def _cpu_name() -> str:
    try:
        listing = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        listing = ""
    name = re.search(r"^model name\s*:\s*(.+)$", listing, re.MULTILINE)
    return name[1].strip() if name else platform.processor() or platform.machine()
