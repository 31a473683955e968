"""One model on one device for several encodes at once: their calls of equal shape run as one batch.

Owns: collecting the calls of threads, and giving each its result. Does not know: files, windows, threads' purposes.

Each encode runs in a thread of its own (decoding, entropy coding and writing overlap with the model's work); the model
itself runs one call at a time, in whichever of the waiting threads comes first. A batch is started as soon as it is
full, or nobody is left who could join it, or its first call has waited `PATIENCE_S`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cvcodec.codec.runner import ModelRunner
from cvcodec.model.base import VideoAutoencoder
from cvcodec.system.device import Precision, is_out_of_memory, release_memory

PATIENCE_S = 0.05
"""Longest time that a call waits for others while the device does nothing."""

_Key = tuple[tuple[int, ...], torch.dtype, int]


@dataclass(eq=False)
class _Call:
    frames: Tensor
    bit_depth: int
    since: float = field(default_factory=time.monotonic)
    result: Tensor | None = None
    error: BaseException | None = None

    @property
    def key(self) -> _Key:
        return tuple(self.frames.shape), self.frames.dtype, self.bit_depth

    @property
    def done(self) -> bool:
        return self.result is not None or self.error is not None


class SharedEncoder:
    """A `ModelRunner` for threads. `batch`: most clips in one call; 1 keeps results the same to the last bit, however
    the threads are timed, since kernels may add in another order for another batch size.
    """

    def __init__(
        self,
        model: VideoAutoencoder,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        batch: int = 1,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        if batch < 1:
            raise ValueError(f"a batch holds at least one clip, got {batch}")
        self._runner = ModelRunner(model, device=device, precision=precision, on_notice=on_notice)
        self._batch = batch
        self._condition = threading.Condition()
        self._waiting: list[_Call] = []
        self._streams = 0
        self._running = False
        self.largest = 0
        """Most clips that one call has had."""

    @property
    def model(self) -> VideoAutoencoder:
        """The copy that runs."""
        return self._runner.model

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._runner.device

    @property
    def precision(self) -> Precision:
        """The arithmetic."""
        return self._runner.precision

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """To be held by a thread while it encodes a file: batches wait for those who hold it, and for nobody else."""
        with self._condition:
            self._streams += 1
        try:
            yield
        finally:
            with self._condition:
                self._streams -= 1
                self._condition.notify_all()

    def encode(self, frames: Tensor, bit_depth: int) -> Tensor:
        """As `ModelRunner.encode`, for one clip (1, 3, T, H, W)."""
        call = _Call(frames, bit_depth)
        with self._condition:
            self._waiting.append(call)
            self._condition.notify_all()
            while not call.done:
                group = self._next_group()
                if group is None:
                    self._condition.wait(PATIENCE_S)
                else:
                    self._lead(group)
        if call.error is not None:
            raise call.error
        assert call.result is not None
        return call.result

    def decode(self, latent: Tensor, quality: float | None = None) -> Tensor:
        """As `ModelRunner.decode`."""
        with self._alone():
            return self._runner.decode(latent, quality)

    def enhancement(self, frames: Tensor, bit_depth: int, decoded: Tensor) -> Tensor:
        """As `ModelRunner.enhancement`."""
        with self._alone():
            return self._runner.enhancement(frames, bit_depth, decoded)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """The device, for a call that is in no batch."""
        with self._condition:
            self._condition.wait_for(lambda: not self._running)
            self._running = True
        try:
            yield
        finally:
            with self._condition:
                self._running = False
                self._condition.notify_all()

    def _next_group(self) -> list[_Call] | None:
        """The calls to run now; None while the device is busy or others may still join."""
        if self._running or not self._waiting:
            return None
        groups: dict[_Key, list[_Call]] = {}
        for call in self._waiting:
            groups.setdefault(call.key, []).append(call)
        full = next((group for group in groups.values() if len(group) >= self._batch), None)
        if full is not None:
            return full[: self._batch]
        oldest = groups[self._waiting[0].key]
        alone = len(self._waiting) >= self._streams
        return oldest if alone or time.monotonic() - oldest[0].since >= PATIENCE_S else None

    def _lead(self, group: list[_Call]) -> None:
        """Run a group in this thread; the lock is held before and after."""
        for call in group:
            self._waiting.remove(call)
        self._running = True
        self._condition.release()
        try:
            self._run(group)
        finally:
            self._condition.acquire()
            self._running = False
            self.largest = max(self.largest, len(group))
            self._condition.notify_all()

    def _run(self, group: list[_Call]) -> None:
        if len(group) > 1:
            try:
                stacked = torch.cat([call.frames for call in group])
                results = self._runner.encode(stacked, group[0].bit_depth)
            except BaseException as error:  # noqa: BLE001
                # Then each for itself, so that nobody fails for another and a single call that is too large says so.
                if is_out_of_memory(error):
                    self._batch = max(1, len(group) // 2)
                    release_memory(self.device)
            else:
                for number, call in enumerate(group):
                    call.result = results[number : number + 1]
                return
        for call in group:
            try:
                call.result = self._runner.encode(call.frames, call.bit_depth)
            except BaseException as error:  # noqa: BLE001
                call.error = error  # belongs to the thread that asked
