"""What keeps an accelerator busy: compiled modules, and batches large enough.

Owns: compiling and giving it up, the probe for the number of clips. Does not know: data, what a step computes.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from cvcodec.system.device import is_out_of_memory, release_memory

_BACKEND = "inductor"
_MOST_GRAPHS = 64  # of one module: every batch shape has one, with its gradients
_COMPILE_ERRORS = (
    *(RuntimeError, NotImplementedError, ImportError, OSError, AttributeError, AssertionError),
    *(TypeError, ValueError, LookupError, SyntaxError, subprocess.SubprocessError),
)
"""What compilers raise: those of torch are RuntimeErrors, those beneath it are of many kinds."""
_MOST_FACTOR = 256
_WORTH = 1.07  # a doubled batch must be this much quicker per pixel for another doubling to be tried
_NEAR_BEST = 0.94  # the smallest batch with this share of the best throughput is taken
_MEMORY_SHARE = 0.8  # of a device's memory that a probed step may take
_TIMED = 3


class Compiler:
    """Compiles modules in place, each batch shape for itself; runs them as they are where that fails, said once.

    The modules keep their parameters' names.
    """

    def __init__(self, say: Callable[[str], None], *, enabled: bool) -> None:
        self._say, self._enabled = say, enabled
        self._modules: list[nn.Module] = []

    def compile(self, modules: Sequence[nn.Module], *, retains_graph: bool) -> None:
        """Mark the modules; they are compiled when they first run. `retains_graph`: backward passes may run twice."""
        if self._enabled:
            self._modules = list(modules)
            _allow_many_graphs(retains_graph)
            for module in modules:
                module.compile(dynamic=False, backend=_BACKEND)

    @property
    def enabled(self) -> bool:
        """Whether compiled modules run."""
        return self._enabled

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Inside, modules run as they are: for clips of any size, which would be compiled one by one."""
        if not self._enabled:
            yield
            return
        with torch.compiler.set_stance("force_eager"):
            yield

    def rehearse(self, step: Callable[[], None], what: str) -> None:
        """Have `step` compiled, and say how long that took; after a failure run it uncompiled, as all that follow."""
        if not self._enabled:
            return
        began = time.monotonic()
        try:
            step()
        except _COMPILE_ERRORS as error:
            if is_out_of_memory(error):
                raise
            self._enabled = False
            for module in self._modules:
                module._compiled_call_impl = None
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self._say(f"not compiled, as that failed ({reason}); training goes on without it")
            step()
        else:
            self._say(f"compiled for {what} in {time.monotonic() - began:.0f} s")


def _allow_many_graphs(retains_graph: bool) -> None:
    import torch._dynamo.config
    import torch._functorch.config

    dynamo: Any = torch._dynamo.config
    for name in ("recompile_limit", "cache_size_limit"):  # the newer and the older name
        if hasattr(dynamo, name):
            setattr(dynamo, name, max(_MOST_GRAPHS, getattr(dynamo, name)))
            break
    functorch: Any = torch._functorch.config
    if retains_graph and hasattr(functorch, "donated_buffer"):
        functorch.donated_buffer = False


def busy_factor(step: Callable[[int], None], device: torch.device) -> tuple[int, dict[int, float]]:
    """How many times as many clips keep the device busy, and the relative throughput of each factor tried.

    `step(factor)` is one training step, without its update, of so many times as many clips. Factors are powers of two.
    """
    speeds: dict[int, float] = {}
    factor = 1
    while factor <= _MOST_FACTOR:
        try:
            seconds = _seconds(lambda factor=factor: step(factor), device)  # type: ignore[misc]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not speeds:
                raise
            break
        finally:
            release_memory(device)
        speeds[factor] = factor / seconds
        if device.type == "cuda":
            used = torch.cuda.max_memory_allocated(device) / torch.cuda.get_device_properties(device).total_memory
            if 2 * used > _MEMORY_SHARE:
                break
        if factor > 1 and speeds[factor] < _WORTH * speeds[factor // 2]:
            break
        factor *= 2
    best = max(speeds.values())
    return min(factor for factor, speed in speeds.items() if speed >= _NEAR_BEST * best), speeds


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Of the quickest of a few calls, after one that does not count."""
    found = []
    for _ in range(1 + _TIMED):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return min(found[1:])
