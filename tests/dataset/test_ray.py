"""Ray: two nodes as processes of their own on the loopback address, one killed in the middle of a run; and, with a
cluster that is only pretended, what happens to the clips of workers that are lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cvcodec.dataset import batch
from cvcodec.dataset import ray_engine as engine
from cvcodec.dataset.batch import Outcome, Summary, Task, run_batch
from cvcodec.dataset.ray_engine import check_address
from cvcodec.dataset.sources import find_clips
from cvcodec.errors import DeviceError, MissingDependencyError
from cvcodec.fileio import partial_path
from cvcodec.model.base import VideoAutoencoder
from tests.dataset.small import write_clip
from tests.dataset.test_batch import encode, make_job, tree

CLIPS = 80

LOOPBACK = "127.0.0.2"
"""Ray takes 127.0.0.1 for this machine's address in its network, which need not lead back here; this one it leaves."""

PATIENCE_S = 400
"""No wait is for a time; this only ends one whose state never comes."""


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@contextmanager
def node(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Ray node of two processors, in a session of its own, so that all of it can be killed."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=2", "--disable-usage-stats"]
    command += [f"--node-ip-address={LOOPBACK}", "--object-store-memory=100000000", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """A node and everything that it started, without a word of farewell."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(address: str, nodes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until the cluster has all these nodes."""
    import ray

    wait_until(lambda: answers(address), nodes, "a cluster that answers")
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    try:
        wait_until(lambda: sum(entry["Alive"] for entry in ray.nodes()) >= len(nodes), nodes, "a cluster of all nodes")
    finally:
        ray.shutdown()


def answers(address: str) -> bool:
    try:
        check_address(address)
    except DeviceError:
        return False
    return True


def wait_until(state: Callable[[], bool], nodes: Sequence[subprocess.Popen[bytes]], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not state():
        assert all(node.poll() is None for node in nodes), f"a node ended before there was {what}"
        assert time.monotonic() < deadline, f"never saw {what}"
        time.sleep(0.2)


def living_workers() -> int:
    from ray._private.state import actors

    return sum(actor["State"] == "ALIVE" for actor in actors().values())


@pytest.mark.skipif(sys.platform != "linux", reason="kills a process group; other systems have one loopback address")
@pytest.mark.skipif("CVCODEC_TEST_RAY" not in os.environ, reason="starts a cluster: CVCODEC_TEST_RAY=1 runs it")
def test_a_node_killed_midway_costs_no_output_and_changes_none(
    model: VideoAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'cvcodec[ray]'")
    # Else a token that this user's Ray has left behind counts for some of its programs and not for others.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    source = tmp_path / "v"
    for number in range(CLIPS):
        write_clip(source / f"{number:02d}.mkv", frames=60, size=(48, 48), seed=number)
    encode(model, source, tmp_path / "local")

    job = make_job(model, tmp_path / "ray", retries=1)
    outcomes: list[Outcome] = []
    notices: list[str] = []
    with ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray"))  # short: sockets lie in it
        address = f"{LOOPBACK}:{free_port()}"
        head = [f"--port={address.rpartition(':')[2]}", "--include-dashboard=false", f"--temp-dir={temporary}"]
        first = stack.enter_context(node("--head", *head))
        wait_for(address, [first])
        second = stack.enter_context(node(f"--address={address}"))
        wait_for(address, [first, second])

        def note(outcome: Outcome) -> None:
            if len(notices) < 2:  # the first worker shall not do it all
                wait_until(lambda: living_workers() == 2, [first, second], "two workers")
            else:
                outcomes.append(outcome)
                if len(outcomes) == 5:
                    kill(second)

        summary = run_batch(
            find_clips([source]),
            job,
            lambda tasks: engine.run_ray(
                tasks, job, model, address=address, workers=2, jobs=2, on_notice=notices.append
            ),
            on_outcome=note,
        )
    assert summary.failures == ()
    assert summary.encoded + summary.skipped == CLIPS
    said = [" ".join(text.split()[:4]) for text in notices]
    assert said[:3] == ["a worker is ready", "a worker is ready", "a worker was lost;"]
    assert set(said[3:]) <= {"a worker is ready"}  # where the cluster found room for another
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


class Lost(Exception):
    """What the pretended cluster raises for a worker that is gone."""


class PretendedRay:
    """As much of Ray as the engine uses. Actors work when they are waited for, and die at the calls in `deaths`,
    counted from 1 over all of them (0: at their start)."""

    class exceptions:
        RayActorError = Lost
        WorkerCrashedError = Lost

    def __init__(self, deaths: set[int], *, dead_starts: int = 0) -> None:
        self.deaths, self.dead_starts = deaths, dead_starts
        self.calls = 0
        self.actors: list[PretendedActor] = []

    def is_initialized(self) -> bool:
        return True

    def lose(self, task: Task) -> None:
        """A worker dies with this task."""

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0}

    def put(self, value: Any) -> Any:
        return value

    def remote(self, kind: Any) -> PretendedRay:
        self.kind = kind
        return self

    def options(self, **wanted: Any) -> Any:
        self.wanted = wanted
        return SimpleNamespace(remote=lambda *arguments: PretendedActor(self, self.kind(*arguments)))

    def wait(self, answers: list[Answer], num_returns: int) -> tuple[list[Answer], list[Answer]]:
        return [answers[-1]], answers[:-1]  # the newest first, so that order is no help

    def get(self, answer: Answer) -> Any:
        return answer()


Answer = Callable[[], Any]


class PretendedActor:
    def __init__(self, ray: PretendedRay, real: Any) -> None:
        self.ray, self.real, self.dead = ray, real, ray.dead_starts > len(ray.actors)
        ray.actors.append(self)
        self.ready, self.encode = (
            SimpleNamespace(remote=self._call("ready")),
            SimpleNamespace(remote=self._call("encode")),
        )

    def _call(self, name: str) -> Callable[..., Answer]:
        def answer(*arguments: Any) -> Any:
            if name == "encode" and not self.dead:
                self.ray.calls += 1
                self.dead = self.ray.calls in self.ray.deaths
                if self.dead:
                    self.ray.lose(*arguments)
            if self.dead:
                raise Lost("it is gone")
            return getattr(self.real, name)(*arguments)

        return lambda *arguments: lambda: answer(*arguments)


def pretended_run(
    monkeypatch: pytest.MonkeyPatch, ray: PretendedRay, model: VideoAutoencoder, videos: Path, out: Path
) -> Summary:
    monkeypatch.setattr(engine, "ray", ray)
    job = make_job(model, out)
    return run_batch(find_clips([videos]), job, lambda tasks: engine.run_ray(tasks, job, model, workers=2, jobs=2))


@pytest.mark.parametrize("deaths", [set(), {1}, {1, 2}, {3, 4, 6}])
def test_clips_of_lost_workers_are_encoded_by_others(
    model: VideoAutoencoder, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: set[int]
) -> None:
    ray = PretendedRay(deaths)
    assert pretended_run(monkeypatch, ray, model, videos, tmp_path / "ray").encoded == 6
    encode(model, videos, tmp_path / "local")
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
    assert len(ray.actors) == 2 + len(deaths)


def test_the_clip_of_a_lost_worker_waits_for_the_lock_that_it_left(
    model: VideoAutoencoder, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(batch, "_RETRY_DELAY_S", 0.001)
    ghost = ExitStack()
    waited: list[str] = []
    real = batch.encode_clip

    def encode_clip(task: Task, *arguments: Any) -> Outcome:
        lock = partial_path(tmp_path / "ray" / task.clip.output)
        if len(ray.actors) > 2 and lock.exists():  # the only one there: the lost worker's
            waited.append(task.clip.output)
            return real(task, *arguments, sleep=lambda seconds: ghost.close() if seconds > 0.01 else None)
        return real(task, *arguments)

    class Haunted(PretendedRay):
        def lose(self, task: Task) -> None:
            path = tmp_path / "ray" / task.clip.output
            path.parent.mkdir(parents=True, exist_ok=True)
            file = ghost.enter_context(partial_path(path).open("wb"))
            fcntl.flock(file, fcntl.LOCK_EX)

    monkeypatch.setattr(engine, "encode_clip", encode_clip)
    ray = Haunted({2})
    assert pretended_run(monkeypatch, ray, model, videos, tmp_path / "ray").encoded == 6
    assert len(waited) == 1
    encode(model, videos, tmp_path / "local")
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def test_a_clip_that_costs_worker_after_worker_is_given_up(
    model: VideoAutoencoder, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engine.Encoder.encode

    def encode_but_one(self: Any, task: Task) -> Outcome:
        if "clip 4" in task.clip.source:
            raise Lost("it took all the memory")
        return real(self, task)

    monkeypatch.setattr(engine.Encoder, "encode", encode_but_one)
    summary = pretended_run(monkeypatch, PretendedRay(set()), model, videos, tmp_path)
    assert summary.encoded == 5
    assert "3 workers were lost while they encoded it" in str(summary.failures[0].error)


@pytest.mark.parametrize(("threads", "processors"), [(None, 2), (1, 1), (3, 3)])
def test_workers_compute_with_as_many_threads_as_they_are_given_processors(
    model: VideoAutoencoder, monkeypatch: pytest.MonkeyPatch, threads: int | None, processors: int
) -> None:
    ray = PretendedRay(set())
    monkeypatch.setattr(engine, "ray", ray)
    job = make_job(model, Path("out"))
    job = replace(job, options=replace(job.options, threads=threads))
    run = engine._Run(job, model, 1, 1, 1, print)
    assert ray.wanted["num_cpus"] == run._arguments[1].options.threads == processors


def test_workers_that_never_start_end_the_run(
    model: VideoAutoencoder, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DeviceError, match="cannot start workers: it is gone"):
        pretended_run(monkeypatch, PretendedRay(set(), dead_starts=99), model, videos, tmp_path)


def test_without_ray_the_engine_says_what_to_install(
    model: VideoAutoencoder, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "ray", None)
    job = make_job(model, tmp_path)
    with pytest.raises(MissingDependencyError, match=r"cvcodec\[ray\]"):
        run_batch(find_clips([videos]), job, lambda tasks: engine.run_ray(tasks, job, model))


# ------------------------------------------------------------------------------------------------ dead addresses


@contextmanager
def listener(answer: bytes | None) -> Iterator[str]:
    """The address of somebody who gives one answer to whatever is said; None: never any."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server, ExitStack() as stack:

        def serve() -> None:
            with suppress(OSError):
                connection = stack.enter_context(server.accept()[0])
                connection.recv(100)
                if answer is not None:
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_a_server_that_speaks_as_rays_does_is_taken_for_one() -> None:
    settings = bytes((0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100))  # RFC 9113: a SETTINGS frame of one setting
    with listener(settings) as address:
        check_address(address)
    with listener(settings) as address:
        check_address(f"ray://{address}")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "something else listens"),
        (b"", "something else"),
        (None, "no answer in time"),
    ],
)
def test_who_is_no_cluster_is_told_at_once(monkeypatch: pytest.MonkeyPatch, answer: bytes | None, reason: str) -> None:
    monkeypatch.setattr(engine, "_PATIENCE_S", 0.3)
    with listener(answer) as address, pytest.raises(DeviceError, match=f"{address}: {reason}.*give another --address"):
        check_address(address)


def test_a_dead_address_ends_the_run_before_ray_waits_for_it(
    model: VideoAutoencoder, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NeverAsked(PretendedRay):
        def is_initialized(self) -> bool:
            return False

    with closing(socket.create_server(("127.0.0.1", 0))) as closed:
        dead = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(engine, "ray", NeverAsked(set()))
    job = make_job(model, tmp_path / "out")
    for address, variable in ((dead, ""), (None, dead)):
        monkeypatch.setenv("RAY_ADDRESS", variable)
        with pytest.raises(DeviceError, match=f"no Ray cluster answers at {dead}: "):
            run_batch(find_clips([videos]), job, lambda tasks: engine.run_ray(tasks, job, model, address=address))  # noqa: B023
    for address in ("10.0.0.1", "10.0.0.1:port", ":6379"):
        with pytest.raises(DeviceError, match="wanted HOST:PORT"):
            check_address(address)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_address(None)
