"""What one encode or decode has from beginning to end: its notices, CPU threads, the model on its device, its clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypedDict, TypeVar

from torch import Tensor

from cvcodec.codec.options import RunOptions
from cvcodec.codec.runner import ClipEncoder, ModelRunner
from cvcodec.errors import DeviceError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.system.device import set_threads
from cvcodec.windows.space import ClipFunction

T = TypeVar("T")

Progress = Callable[[int, int, int | None], None]
"""Is given frames and bytes done so far, and the number of frames expected in all where that is known."""


class Notices:
    """Passes on sentences that a person should read, each once, and remembers them. Safe between threads."""

    def __init__(self, on_notice: Callable[[str], None] | None = None) -> None:
        self.said: list[str] = []
        self._on_notice = on_notice
        self._lock = threading.RLock()  # a callback may have something to say itself

    def __call__(self, text: str) -> None:
        """Say `text` unless it was said."""
        with self._lock:
            if text not in self.said:
                self.said.append(text)
                if self._on_notice is not None:
                    self._on_notice(text)

    def extend(self, texts: Iterable[str]) -> None:
        """Say those of `texts` that were not said."""
        for text in texts:
            self(text)


class RunFacts(TypedDict):
    """What `EncodeResult` and `DecodeResult` both say of a run."""

    seconds: float
    model_seconds: float
    precision: str
    device: str


class Session:
    """One run, from its making on. notices: handed to all that has something to say."""

    def __init__(self, options: RunOptions, on_notice: Callable[[str], None] | None) -> None:
        self.notices = Notices(on_notice)
        self._options, self._begun, self._model_seconds = options, time.perf_counter(), 0.0
        set_threads(options.threads)

    def runner(self, model: VideoAutoencoder) -> ModelRunner:
        """`model` on the device, in the precision that were asked for."""
        options = self._options
        return ModelRunner(model, device=options.device, precision=options.precision, on_notice=self.notices)

    def timed(self, call: ClipFunction) -> ClipFunction:
        """`call`, whose time counts as the model's."""

        def measured(clip: Tensor) -> Tensor:
            begun = time.perf_counter()
            result = call(clip)
            self._model_seconds += time.perf_counter() - begun
            return result

        return measured

    def facts(self, runner: ClipEncoder) -> RunFacts:
        """What a result says of the run: seconds so far, and the arithmetic."""
        return {
            "seconds": time.perf_counter() - self._begun,
            "model_seconds": self._model_seconds,
            "precision": runner.precision,
            "device": str(runner.device),
        }


def memory_errors(pieces: Iterator[T]) -> Iterator[T]:
    """What `Plan.encode` or `Plan.decode` gives, or is made of it; DeviceError when the smallest tiles do not fit."""
    try:
        yield from pieces
    except MemoryError as error:
        raise DeviceError(str(error) or "out of memory; use a smaller --window or --tile") from error
