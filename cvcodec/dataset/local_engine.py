"""The engine of one machine: threads in this process, one copy of the model on each device.

Owns: threads, devices, stopping them. Does not know: what is done with a clip (`batch`).
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import torch

from cvcodec.dataset.batch import Job, Outcome, Stopped, Task, encode_clip
from cvcodec.dataset.shared_encoder import SharedEncoder
from cvcodec.dataset.sources import Clip
from cvcodec.errors import UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.system import host
from cvcodec.system.device import arithmetic, select_device

_POLL_S = 0.1  # how often the main thread looks up, so that signals reach it

OnFrames = Callable[[Clip, int, int | None], None]


def devices_of(names: str) -> list[torch.device]:
    """`auto` (every CUDA device there is, else the CPU), or a list such as `cuda:0,cuda:1`. Raises UsageError or
    DeviceError."""
    if names.strip().lower() in ("auto", "cuda") and torch.cuda.is_available():
        return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    devices = [select_device(name) for name in names.split(",")]
    if len(set(devices)) < len(devices):
        raise UsageError(f"{names!r} names a device twice; one copy of the model serves each")
    return devices


def default_batch(device: torch.device) -> int:
    """Clips in one call: small clips do not fill a GPU, and a CPU gains nothing."""
    return 4 if device.type == "cuda" else 1


def default_jobs(devices: int, batch: int) -> int:
    """Files at once on each device: one more than the model can take, so that it need not wait for the next one."""
    return max(2, min(batch + 2, 2 * host.usable_cpus() // devices))


def run_local(
    tasks: Sequence[Task],
    job: Job,
    model: VideoAutoencoder,
    *,
    devices: str = "auto",
    jobs: int | None = None,
    batch: int | None = None,
    on_frames: OnFrames = lambda clip, done, total: None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> Iterator[Outcome]:
    """An outcome for each task, as they end. jobs: files at once on each device; batch: clips in one call of the model.

    Closing the iterator stops the threads at their next chunk and waits for them.
    """
    targets = devices_of(devices)
    size = batch or default_batch(targets[0])
    threads = jobs or default_jobs(len(targets), size)
    encoders = [
        SharedEncoder(model, device=device, precision=job.options.precision, batch=size, on_notice=on_notice)
        for device in targets
    ]
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    ended: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise Stopped

    def serve(encoder: SharedEncoder) -> None:
        try:
            while not stop.is_set():
                try:
                    task = waiting.get_nowait()
                except queue.Empty:
                    return

                def report(done: int, total: int | None, clip: Clip = task.clip) -> None:
                    pause(0)
                    on_frames(clip, done, total)

                ended.put(encode_clip(task, job, encoder, on_frames=report, sleep=pause))
        except Stopped:
            return
        except BaseException as error:  # noqa: BLE001  # for the thread that waits
            ended.put(error)

    workers = [
        threading.Thread(target=serve, args=(encoder,), name=f"encode-{encoder.device}-{number}", daemon=True)
        for encoder in encoders
        for number in range(min(threads, len(tasks)))
    ]
    with contextlib.ExitStack() as stack:
        # Model calls switch TF32 for the whole process and back. With several devices they overlap, so that what they
        # put back must be what they all want.
        stack.enter_context(arithmetic(targets[0], "fp32"))
        stack.callback(_join, workers, stop)
        for worker in workers:
            worker.start()
        for _ in tasks:
            yield _next(ended)


def _next(ended: queue.SimpleQueue[Outcome | BaseException]) -> Outcome:
    while True:
        try:
            outcome = ended.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def _join(workers: list[threading.Thread], stop: threading.Event) -> None:
    stop.set()
    for worker in workers:
        if worker.ident is not None:
            worker.join()
