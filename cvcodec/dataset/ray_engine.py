"""The engine of a Ray cluster: an actor with the model on every GPU, or on a share of every node's processors.

Owns: whether a cluster answers, which is known within seconds (Ray itself tries for minutes, in silence), actors,
handing out clips, and what happens to those of an actor that is lost. Does not know: what is done
with a clip (`batch`). The sources and the output folder must have the same paths on every node; weights travel
from here, once to each node.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from cvcodec.dataset.batch import Job, Outcome, Task, encode_clip
from cvcodec.dataset.shared_encoder import SharedEncoder
from cvcodec.errors import DeviceError, MissingDependencyError
from cvcodec.model.base import VideoAutoencoder

try:
    import ray
except ImportError:
    ray = None  # type: ignore[assignment,unused-ignore]  # by whether it is installed

MOST_LOSSES = 3
"""So many workers may be lost while they work on one clip; then it is taken to be the cause."""

_CPUS = 2  # of a worker without a GPU

_RETRIES_AFTER_LOSS = 6
"""Half a minute in all. What a lost worker began may still be locked: its processes outlive it by some seconds where
only its node's daemon died, its locks by more on a network file system."""

_PATIENCE_S = 10.0  # for the connection, and again for its first answer
_FOUND_BY_RAY = ("", "auto", "local")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client of gRPC begins: HTTP/2's connection preface and an empty SETTINGS frame (RFC 9113, section 3.4)."""
_SETTINGS = 4
"""Type of the frame that a server must send first; the fourth byte of it."""


class Encoder:
    """What an actor is: a model on this node's device, encoding several clips at once."""

    def __init__(self, model: VideoAutoencoder, job: Job, batch: int) -> None:
        self._job = job
        self._encoder = SharedEncoder(model, device="auto", precision=job.options.precision, batch=batch)

    def ready(self) -> str:
        """Answers once the model is loaded: where it is."""
        return f"{self._encoder.device} of {platform.node()}"

    def encode(self, task: Task) -> Outcome:
        """One clip."""
        return encode_clip(task, self._job, self._encoder)


def run_ray(
    tasks: Sequence[Task],
    job: Job,
    model: VideoAutoencoder,
    *,
    address: str | None = None,
    workers: int | None = None,
    jobs: int | None = None,
    batch: int | None = None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> Iterator[Outcome]:
    """An outcome for each task, as they end.

    address: of a cluster, `auto` for the one on this machine; None: RAY_ADDRESS, else a cluster of this machine alone.
    workers: actors; None: one for each GPU, or for every two processors where there are none. jobs: clips at once in
    each. Without a GPU each computes with as many threads as `job.options` names, or two, and has as many processors;
    sums are split among threads, so that another number of them may change the last bit of a latent.
    Clips of a lost worker go to others, and it is replaced as soon as the cluster has room.
    Raises MissingDependencyError, and DeviceError where no cluster can be reached.
    """
    if ray is None:
        raise MissingDependencyError("--engine ray needs Ray: pip install 'cvcodec[ray]'")
    try:
        begun = not ray.is_initialized()
        if begun:
            check_address(address)
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use by default
            ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise DeviceError(f"no Ray cluster can be reached at {address or 'this machine'}: {error}") from error
    try:
        yield from _Run(job, model, workers, jobs, batch, on_notice).outcomes(tasks)
    finally:
        if begun:
            ray.shutdown()


@dataclasses.dataclass(eq=False)
class _Worker:
    """One actor; `free` is how many more clips it can take."""

    actor: Any
    free: int = 0


class _Run:
    """One run: actors, and which clips they have."""

    def __init__(
        self,
        job: Job,
        model: VideoAutoencoder,
        workers: int | None,
        jobs: int | None,
        batch: int | None,
        on_notice: Callable[[str], None],
    ) -> None:
        total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call,unused-ignore]
        gpus = int(total.get("GPU", 0))
        batch = batch or (4 if gpus else 1)
        self._jobs = jobs or batch + 1
        self._count = workers or gpus or max(1, int(total.get("CPU", 1)) // (job.options.threads or _CPUS))
        share = min(_CPUS, max(1, int(total.get("CPU", 1)) // self._count))
        wanted = {"num_gpus": 1} if gpus else {"num_cpus": job.options.threads or share}
        self._actor = ray.remote(Encoder).options(max_concurrency=self._jobs, **wanted)
        options = dataclasses.replace(job.options, threads=job.options.threads or wanted.get("num_cpus"))
        self._arguments = (ray.put(model), dataclasses.replace(job, options=options), batch)
        self._on_notice = on_notice
        self._running: dict[Any, tuple[_Worker, Task | None]] = {}
        """By the answer that is awaited: who gives it, and for which clip; None for the first one, that it is ready."""
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def outcomes(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """One for each task."""
        waiting = deque(tasks)
        losses: dict[str, int] = {}
        left = len(waiting)
        for _ in range(min(self._count, left)):
            self._start()
        while left:
            (answer,), _ = ray.wait(list(self._running), num_returns=1)
            worker, task = self._running.pop(answer)
            outcome: Outcome | None = None
            try:
                result = ray.get(answer)
            except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError) as error:
                self._replace(worker, task, error)
                if task is not None:
                    outcome = self._give_back(task, losses, waiting, error)
            else:
                if task is None:
                    worker.free, self._failed_starts = self._jobs, 0
                    self._on_notice(f"a worker is ready on {result}")
                else:
                    worker.free, outcome = worker.free + 1, result
            self._hand_out(waiting)
            if outcome is not None:
                left -= 1
                yield outcome

    def _start(self) -> None:
        worker = _Worker(self._actor.remote(*self._arguments))
        self._workers.append(worker)
        self._running[worker.actor.ready.remote()] = worker, None

    def _hand_out(self, waiting: deque[Task]) -> None:
        """Clips to whoever is free; one to each before a second one to anybody."""
        while waiting and (free := [worker for worker in self._workers if worker.free]):
            for worker in free[: len(waiting)]:
                task = waiting.popleft()
                worker.free -= 1
                self._running[worker.actor.encode.remote(task)] = worker, task

    def _replace(self, worker: _Worker, task: Task | None, error: BaseException) -> None:
        """Start another worker for one that is lost. DeviceError where none ever starts."""
        if worker not in self._workers:
            return  # it had several clips, and was replaced when the first of them came back
        self._workers.remove(worker)
        self._failed_starts += task is None
        if self._failed_starts >= MOST_LOSSES:
            raise DeviceError(f"Ray cannot start workers: {_one_line(error)}") from error
        self._on_notice("a worker was lost; its clips go to others")
        self._start()

    def _give_back(
        self, task: Task, losses: dict[str, int], waiting: deque[Task], error: BaseException
    ) -> Outcome | None:
        """Put the clip of a lost worker in front of the others; an outcome if it has cost too many workers."""
        place = task.clip.output
        losses[place] = losses.get(place, 0) + 1
        if losses[place] < MOST_LOSSES:
            waiting.appendleft(dataclasses.replace(task, further_retries=_RETRIES_AFTER_LOSS))
            return None
        message = f"{MOST_LOSSES} workers were lost while they encoded it: {_one_line(error)}"
        return Outcome(clip=task.clip, status="failed", error=message, attempts=MOST_LOSSES)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def check_address(address: str | None) -> None:
    """DeviceError, after 20 seconds at most, unless a server of Ray's kind is at `address`; None: at RAY_ADDRESS.

    Where neither says a place, Ray looks among the programs of this machine, which is quick.
    """
    place = address or os.environ.get("RAY_ADDRESS", "")
    if place in _FOUND_BY_RAY:
        return
    parts = urlsplit(place if "://" in place else f"//{place}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise DeviceError(f"{place!r} is no address of a Ray cluster; wanted HOST:PORT, such as 10.0.0.1:6379, or auto")
    try:
        reason = _refusal(host, port)
    except OSError as error:
        reason = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
    if reason:
        raise DeviceError(
            f"no Ray cluster answers at {place}: {reason}; start one (ray start --head), or give another --address"
        )


def _refusal(host: str, port: int) -> str:
    """What is wrong with who answers; empty: nothing."""
    with socket.create_connection((host, port), timeout=_PATIENCE_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return ""  # it would not answer in the clear
        connection.sendall(_PREFACE)
        first = b""
        while len(first) < 4 and (more := connection.recv(9)):
            first += more
    return "" if first[3:4] == bytes((_SETTINGS,)) else "something else listens there"
