"""What the operating system lets this process use: memory and processors, container limits included.

Owns: reading /proc, control groups (v1 and v2), and their counterparts on macOS and Windows; the C library's allocator.
Standard library only, so that the command line may ask before importing torch.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_IMPORTED = time.monotonic()
_UNLIMITED_V1 = 1 << 60
"""Control groups v1 write "no limit" as a number close to 2**63."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
_ALLOCATOR_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def available_memory() -> int | None:
    """Bytes this process could still allocate without swapping or being killed; None where the system does not tell.

    Linux: the smaller of `MemAvailable` and what the control groups leave (their page cache counted as free).
    """
    if os.name == "nt":
        return _available_memory_windows()
    if sys.platform == "darwin":
        return _available_memory_macos()
    else:  # noqa: RET505  # the type checker knows this form for platforms
        return min((size for size in (meminfo_available(), cgroup_memory_left()) if size is not None), default=None)


def keep_freed_memory() -> bool:
    """Have glibc use freed memory again: blocks up to 64 MiB are kept, 256 MiB in all. Returns whether it was set.

    By default it gives them back, and the kernel clears each page again for the next tensor: a fifth of a CPU's time in
    the mini models. For programs, as it holds for the whole process. Nothing is done with another C library, or where
    the environment sets these limits itself (mallopt(3)).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or any(name in os.environ for name in _ALLOCATOR_VARIABLES):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 64 << 20) and mallopt(_M_TRIM_THRESHOLD, 256 << 20))


def usable_cpus() -> int:
    """Processors this process may keep busy: its affinity mask, cut to the control groups' quota. At least 1."""
    if sys.platform == "linux":
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = cgroup_cpu_quota()
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def process_age() -> float:
    """Seconds since this process was started; where the system does not tell, since this module was imported."""
    started = re.search(r"\)(?: \S+){19} (\d+)", _read(Path("/proc/self/stat")))  # field 22 of proc(5), in clock ticks
    uptime = _read(Path("/proc/uptime")).split()
    if started is None or not uptime:
        return time.monotonic() - _IMPORTED
    return max(0.0, float(uptime[0]) - int(started[1]) / os.sysconf("SC_CLK_TCK"))


def meminfo_available(root: Path = Path("/")) -> int | None:
    """`MemAvailable` of /proc/meminfo in bytes (proc(5)); None where there is none."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def cgroup_memory_left(root: Path = Path("/")) -> int | None:
    """Bytes left under the tightest memory limit of this process's control groups; None without a limit.

    Source: the kernel's admin-guide/cgroup-v2 (`memory.max`, `memory.current`, `inactive_file` in `memory.stat`)
    and cgroup-v1/memory. Inactive file pages are given back under pressure, so they count as free.
    """
    left = []
    for folder in _cgroup_folders(root, ""):
        limit = _read_number(folder / "memory.max")
        current = _read_number(folder / "memory.current")
        if limit is not None and current is not None:
            left.append(limit - current + _stat_entry(folder, "inactive_file"))
    for folder in _cgroup_folders(root, "memory"):
        limit = _read_number(folder / "memory.limit_in_bytes")
        current = _read_number(folder / "memory.usage_in_bytes")
        if limit is not None and current is not None and limit < _UNLIMITED_V1:
            left.append(limit - current + _stat_entry(folder, "total_inactive_file"))
    return max(0, min(left)) if left else None


def cgroup_cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time under the tightest quota of this process's control groups; None without a quota."""
    quotas = []
    for folder in _cgroup_folders(root, ""):
        match = re.fullmatch(r"(\d+) (\d+)", _read(folder / "cpu.max").strip())
        if match and int(match[2]):
            quotas.append(int(match[1]) / int(match[2]))
    for folder in _cgroup_folders(root, "cpu"):
        quota = _read_number(folder / "cpu.cfs_quota_us")
        period = _read_number(folder / "cpu.cfs_period_us")
        if quota is not None and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """This process's group and all groups above it; `controller` is "" for v2, the controller's name for v1."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, group = rest.partition(":")
        if controller not in names.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (names if controller else "")
        if controller and not mount.is_dir():
            mount = root / "sys/fs/cgroup" / controller
        # Inside a container the path may be the host's and absent here; the mount itself is then our own group.
        folder = mount / group.strip("/")
        while folder != mount:
            yield folder
            folder = folder.parent
        yield mount


def _stat_entry(folder: Path, name: str) -> int:
    match = re.search(rf"^{name} (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
    return int(match[1]) if match else 0


def _read_number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _available_memory_macos() -> int | None:
    try:
        listing = subprocess.run(["/usr/bin/vm_stat"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return parse_vm_stat(listing)


def parse_vm_stat(listing: str) -> int | None:
    """Bytes that macOS's `vm_stat` lists as free, inactive, speculative or purgeable; None if it is not its output."""
    page = re.search(r"page size of (\d+) bytes", listing)
    pages = re.findall(r"^Pages (?:free|inactive|speculative|purgeable):\s+(\d+)\.$", listing, re.MULTILINE)
    return int(page[1]) * sum(map(int, pages)) if page and pages else None


class _MemoryStatusEx(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API (sysinfoapi.h)."""

    _fields_ = [
        ("dwLength", ctypes.c_uint32),
        ("dwMemoryLoad", ctypes.c_uint32),
        ("ullTotalPhys", ctypes.c_uint64),
        ("ullAvailPhys", ctypes.c_uint64),
        ("ullTotalPageFile", ctypes.c_uint64),
        ("ullAvailPageFile", ctypes.c_uint64),
        ("ullTotalVirtual", ctypes.c_uint64),
        ("ullAvailVirtual", ctypes.c_uint64),
        ("ullAvailExtendedVirtual", ctypes.c_uint64),
    ]


def _available_memory_windows() -> int | None:
    if sys.platform == "win32":
        status = _MemoryStatusEx(dwLength=ctypes.sizeof(_MemoryStatusEx))
        if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            return int(status.ullAvailPhys)
    return None
