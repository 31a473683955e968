"""Limits of memory and processors, read from folders laid out as the kernel documents them."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cvcodec.system import host

MIB = 1 << 20

# From a Mac's `vm_stat` (vm_stat(1)).
VM_STAT = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            300000.
Pages inactive:                            2000.
Pages speculative:                          300.
Pages throttled:                              0.
Pages wired down:                        100000.
Pages purgeable:                             40.
"Translation faults":                 123456789.
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_memavailable_is_read_in_kibibytes(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/meminfo": "MemTotal:  100 kB\nMemFree:  1 kB\nMemAvailable:   2048 kB\n"})
    assert host.meminfo_available(root) == 2 * MIB


def test_without_proc_nothing_is_known(tmp_path: Path) -> None:
    assert host.meminfo_available(tmp_path) is None
    assert host.cgroup_memory_left(tmp_path) is None
    assert host.cgroup_cpu_quota(tmp_path) is None


def test_the_tightest_group_above_a_process_limits_its_memory(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/outer/inner\n",
            "sys/fs/cgroup/outer/memory.max": f"{100 * MIB}\n",
            "sys/fs/cgroup/outer/memory.current": f"{90 * MIB}\n",
            "sys/fs/cgroup/outer/memory.stat": f"anon 1\ninactive_file {5 * MIB}\nactive_file 3\n",
            "sys/fs/cgroup/outer/inner/memory.max": f"{50 * MIB}\n",
            "sys/fs/cgroup/outer/inner/memory.current": f"{20 * MIB}\n",
        },
    )
    assert host.cgroup_memory_left(root) == 15 * MIB


def test_a_group_without_limit_says_max(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "max\n",
            "sys/fs/cgroup/memory.current": "7\n",
            "sys/fs/cgroup/cpu.max": "max 100000\n",
        },
    )
    assert host.cgroup_memory_left(root) is None
    assert host.cgroup_cpu_quota(root) is None


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "10\n", "sys/fs/cgroup/memory.current": "12\n"}
    assert host.cgroup_memory_left(write(tmp_path, files)) == 0


def test_version_one_groups_are_read_too(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "5\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{64 * MIB}\n",
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{60 * MIB}\n",
            "sys/fs/cgroup/memory/job/memory.stat": f"inactive_file 1\ntotal_inactive_file {MIB}\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    assert host.cgroup_memory_left(root) == 5 * MIB
    assert host.cgroup_cpu_quota(root) == 1.5


def test_a_path_of_the_host_falls_back_to_the_containers_own_group(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/kubepods/pod1/abc\n",
            "sys/fs/cgroup/memory.max": f"{8 * MIB}\n",
            "sys/fs/cgroup/memory.current": f"{MIB}\n",
            "sys/fs/cgroup/cpu.max": "50000 100000\n",
        },
    )
    assert host.cgroup_memory_left(root) == 7 * MIB
    assert host.cgroup_cpu_quota(root) == 0.5


def test_macos_counts_free_inactive_speculative_and_purgeable_pages() -> None:
    assert host.parse_vm_stat(VM_STAT) == 16384 * (10000 + 2000 + 300 + 40)
    assert host.parse_vm_stat("something else") is None


def test_a_quota_below_one_processor_still_gives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cgroup_cpu_quota", lambda: 0.5)
    assert host.usable_cpus() == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_an_affinity_mask_limits_the_processors() -> None:
    mask = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(mask)})
        assert host.usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, mask)


@pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux's sysconf")
def test_available_memory_lies_between_nothing_and_all_there_is() -> None:
    available = host.available_memory()
    assert available is not None
    assert 16 * MIB < available <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


ALLOCATION = """
import ctypes
import numpy
from cvcodec.system import host

class Info(ctypes.Structure):  # struct mallinfo of <malloc.h>
    _fields_ = [(name, ctypes.c_int) for name in
                ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keep")]

mallinfo = ctypes.CDLL(None).mallinfo
mallinfo.restype = Info
print(host.keep_freed_memory())
before = mallinfo().hblks
block = numpy.ones(48 << 20, numpy.uint8)
print(mallinfo().hblks - before)
del block
print(mallinfo().arena >> 20)
"""


def _allocation(**environment: str) -> tuple[bool, bool, int]:
    """Whether the setting was made; whether 48 MiB were mapped for themselves, which end when they are freed; and the
    MiB of the heap after that."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done, mapped, heap = subprocess.run(
        [sys.executable, "-c", ALLOCATION], env=kept | environment, capture_output=True, text=True, check=True
    ).stdout.split()
    return done == "True", int(mapped) > 0, int(heap)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this allocator")
def test_freed_memory_is_used_again_unless_the_environment_says_otherwise() -> None:
    done, mapped, heap = _allocation()
    assert (done, mapped) == (True, False)
    assert heap >= 48
    done, mapped, heap = _allocation(MALLOC_MMAP_THRESHOLD_="1048576")
    assert (done, mapped) == (False, True)
    assert heap < 48
