"""Where the time of a training step goes: phases of the step and operators of torch, measured over a few steps.

Owns: when the profiler runs, adding up, the tables. Does not know: what a step does; it marks its parts with `phase`.

Times are those of the thread that trains. Batches are prepared by other threads, of which `data` shows the waiting.
Phases whose name has a colon are parts of what stands before it (`forward: encoder` of `forward`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

PROFILE_NAME = "profile.txt"
WARM_UP = 3
"""Steps before the profiled ones: memory is being allocated, kernels are chosen."""

_MARK = "train/"
_OPERATORS = 16  # lines of the second table


def phase(name: str) -> AbstractContextManager[object]:
    """Marks what happens inside as part of a step; costs microseconds when nothing is profiled."""
    return record_function(_MARK + name)


@dataclass(frozen=True)
class Profile:
    """Means over the profiled steps."""

    steps: int
    seconds: float
    """Of one step, as profiled (a little slower than without)."""
    processor_seconds: float
    """Of one step, by all threads of the process: on a busy machine the wall clock says little."""
    mpixel: float
    """Of one step, of this process."""
    phases: Mapping[str, float]
    """Seconds by name, in the order in which they came."""
    operators: Mapping[str, tuple[float, float]]
    """(seconds, calls) of each operator without those that it calls, longest first."""

    def table(self) -> str:
        """Both tables as text."""
        lines = [
            f"{self.steps} steps of {self.mpixel:.3f} Mpixel: {self.seconds:.3f} s a step, "
            f"{self.mpixel / self.seconds:.3f} Mpixel/s, {self.mpixel / self.processor_seconds:.3f} Mpixel a second "
            "of processor time",
            "",
            f"{'phase':44}{'s / step':>10}{'share':>8}",
        ]
        rest = self.seconds - sum(value for name, value in self.phases.items() if ": " not in name)
        for name, value in {**self.phases, "everything else": rest}.items():
            shown = f"  {name.partition(': ')[2]}" if ": " in name else name
            lines.append(f"{shown:44}{value:10.3f}{value / self.seconds:8.1%}")
        lines += ["", f"{'operator (own time)':44}{'s / step':>10}{'share':>8}{'calls':>8}"]
        for name, (value, calls) in list(self.operators.items())[:_OPERATORS]:
            lines.append(f"{name[:43]:44}{value:10.3f}{value / self.seconds:8.1%}{calls:8.0f}")
        return "\n".join(lines) + "\n"

    def write(self, folder: Path, say: Callable[[str], None]) -> None:
        """Keep the tables in the run folder and show the phases."""
        text = self.table()
        (folder / PROFILE_NAME).write_text(text, encoding="utf-8")
        for line in text.split("\n\noperator")[0].splitlines():
            say(line)
        say(f"operators: {folder / PROFILE_NAME}")


class StepProfiler:
    """Profiles `steps` steps after the first few of this process, once; 0: none."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self._left, self._warm_up, self._device = steps, WARM_UP, device
        self._steps = steps
        self._profiler: Any = None
        self._began = self._began_processor = self._mpixel = 0.0

    def before_step(self) -> None:
        """Call when a step begins."""
        if not self._left or self._profiler is not None:
            return
        if self._warm_up:
            self._warm_up -= 1
            return
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profiler = profile(activities=activities)
        self._profiler.__enter__()
        self._began, self._began_processor = time.monotonic(), time.process_time()

    def after_step(self, mpixel: float) -> Profile | None:
        """Call when a step of so many megapixels is done; the profile after the last of the profiled ones."""
        if self._profiler is None:
            return None
        self._left -= 1
        self._mpixel += mpixel
        if self._left:
            return None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = time.monotonic() - self._began
        processor_seconds = time.process_time() - self._began_processor
        events = self._stop()
        return Profile(
            steps=self._steps,
            seconds=seconds / self._steps,
            processor_seconds=processor_seconds / self._steps,
            mpixel=self._mpixel / self._steps,
            phases=_phases(events, self._steps),
            operators=_operators(events, self._steps),
        )

    def close(self) -> None:
        """Stop where a run ends in the midst of it."""
        if self._profiler is not None:
            self._stop()
            self._left = 0

    def _stop(self) -> Any:
        profiler, self._profiler = self._profiler, None
        profiler.__exit__(None, None, None)
        return profiler.key_averages()


def _phases(events: Any, steps: int) -> dict[str, float]:
    found = {
        event.key.removeprefix(_MARK): event.cpu_time_total / 1e6 / steps
        for event in events
        if event.key.startswith(_MARK)
    }
    ordered: dict[str, float] = {}
    for name in found:
        if ": " not in name:
            ordered[name] = found[name]
            ordered |= {part: value for part, value in found.items() if part.startswith(f"{name}: ")}
    return ordered


def _operators(events: Any, steps: int) -> dict[str, tuple[float, float]]:
    found = {
        event.key: (event.self_cpu_time_total / 1e6 / steps, event.count / steps)
        for event in events
        if not event.key.startswith(_MARK)
    }
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))
