"""Addresses by fsspec, on its memory and local file systems: what is read, what appears, what an error says."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cvcodec
from cvcodec import remote
from cvcodec.checkpoints.registry import load_model
from cvcodec.cli import app
from cvcodec.dataset import IterableLatentDataset, LatentDataset
from cvcodec.errors import InputError, MissingDependencyError, OutputError, UsageError
from cvcodec.fileio import atomic_output, atomic_path, check_output, open_input
from cvcodec.remote import fetched, is_remote, path_of
from tests.dataset.small import save_small_model, write_clip

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CVCODEC_CACHE", str(folder))
    return folder


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's memory, empty."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, memory: Any, tmp_path: Path) -> str:
    """The address of an empty folder."""
    return "memory://set" if request.param == "memory" else f"local://{tmp_path}/set"


def content(address: str) -> dict[str, bytes]:
    """Every file below an address, read by fsspec alone."""
    fs, root = fsspec.core.url_to_fs(address)
    names = fs.find(root) if fs.exists(root) else []
    return {name.removeprefix(root).lstrip("/"): fs.cat_file(name) for name in names}


def put(address: str, data: bytes) -> str:
    fs, name = fsspec.core.url_to_fs(address)
    fs.makedirs(name.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(name, data)
    return address


# ------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize("address", ["s3://bucket/a/b.mp4", "hdfs:///a/b.mp4", "simplecache::s3://bucket/a/b.mp4"])
def test_an_address_is_a_path_that_comes_back_as_it_was(address: str) -> None:
    path = path_of(address)
    assert (str(path), os.fspath(path), path.name, path.suffix) == (address, address, "b.mp4", ".mp4")
    assert str(path.parent / "c.mp4") == address.replace("b.mp4", "c.mp4")
    assert path.relative_to(path.parent.parent).as_posix() == "a/b.mp4"
    assert str(path_of(path)) == address


def test_what_is_of_the_web_or_of_this_machine_is_no_address_of_a_store(tmp_path: Path) -> None:
    for name in ("https://host/a.mp4", "rtsp://host/a", "file:///a.mp4", "C://a.mp4", "a:b.mp4", "-", str(tmp_path)):
        assert not is_remote(name)
    (tmp_path / "memory:").mkdir()
    (tmp_path / "memory:" / "a").touch()
    assert not is_remote(f"{tmp_path}/memory://a")


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        path_of("sftp://me:geheim@host/a.mp4")
    assert "geheim" not in str(caught.value)
    assert path_of("sftp://me@host/a.mp4").name == "a.mp4"


def test_an_unknown_protocol_and_a_missing_package_are_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"nonsense://a is an address of nonsense://, which fsspec does not know"):
        path_of("nonsense://a").exists()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingDependencyError, match=r"s3://bucket/a: fsspec needs a package for s3://.*s3fs"):
        cvcodec.open("s3://bucket/a")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cvcodec\[remote\]', and the package of s3://"):
        cvcodec.open("s3://bucket/a")


# ------------------------------------------------------------------------------------------------ files


def test_a_file_appears_when_it_is_complete_and_not_otherwise(store: str) -> None:
    address = f"{store}/a/b.bin"
    with atomic_output(address) as sink:
        sink.write(b"header")
        sink.seek(0)
        sink.write(b"H")
        assert content(store) == {}
    assert content(store) == {"a/b.bin": b"Header"}
    with pytest.raises(OutputError, match=r"b\.bin exists; use -y"):
        check_output(address)
    with pytest.raises(KeyboardInterrupt), atomic_output(address, overwrite=True) as sink:
        sink.write(b"half")
        raise KeyboardInterrupt
    with atomic_path(f"{store}/c.mkv") as path:
        assert path.suffix == ".mkv"
        path.write_bytes(b"video")
    assert content(store) == {"a/b.bin": b"Header", "c.mkv": b"video"}


def test_an_upload_that_fails_leaves_nothing(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put = remote._put

    def interrupted(fs: Any, source: Path, name: str) -> None:
        class Torn:
            def open(self, mode: str) -> Any:
                return io.BufferedReader(TornReader())

        class TornReader(io.RawIOBase):
            read_once = False

            def readable(self) -> bool:
                return True

            def readinto(self, buffer: Any) -> int:
                if self.read_once:
                    raise ConnectionResetError(104, "Connection reset by peer")
                self.read_once = True
                buffer[:4] = b"half"
                return 4

        put(fs, Torn(), name)  # type: ignore[arg-type]

    monkeypatch.setattr(remote, "_put", interrupted)
    with pytest.raises(OutputError, match=r"x\.bin cannot be written: Connection reset by peer"):
        with atomic_output(f"{store}/x.bin") as sink:
            sink.write(b"whole")
    assert content(store) == {}


def test_a_file_is_read_from_any_place_by_several_readers(store: str) -> None:
    data = bytes(range(256)) * 1000
    address = put(f"{store}/x.bin", data)
    with open_input(address) as one, open_input(address) as other:
        one.seek(-10, os.SEEK_END)
        assert other.read(3) == data[:3]
        assert one.read() == data[-10:]
        other.seek(70000)
        assert (other.read(100), other.tell()) == (data[70000:70100], 70100)
    for name, words in (("absent", "no such file"), ("", "is a folder; name a file")):
        with pytest.raises(InputError, match=words), open_input(f"{store}/{name}".rstrip("/")):
            pass


def test_copies_are_kept_while_there_is_room_and_follow_their_source(
    store: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [put(f"{store}/{number}.bin", bytes([number]) * 400) for number in range(3)]
    first = fetched(addresses[0])
    assert (first.read_bytes(), first.suffix) == (bytes(400), ".bin")
    assert fetched(addresses[0]) == first
    put(addresses[0], b"new")
    assert fetched(addresses[0]).read_bytes() == b"new"
    monkeypatch.setenv("CVCODEC_CACHE_GB", "9e-7")  # 900 bytes
    os.utime(first, (1, 1))
    fetched(addresses[1])
    fetched(addresses[2])
    assert not first.exists()
    assert sum(file.stat().st_size for file in cache.iterdir()) <= 900
    assert fetched(addresses[2]).read_bytes() == b"\2" * 400


# ------------------------------------------------------------------------------------------------ commands


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_small_model(path)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_clip(folder / "one.mkv", frames=5)
    write_clip(folder / "b" / "two.mkv", frames=9, seed=1)
    return folder


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> dict[str, Any]:
    """The JSON of a command that has to end well."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(app, "_exit_on_signals", lambda: None)
    code = app.run(app.app, [*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out.splitlines()[-1])  # type: ignore[no-any-return]


def test_encode_info_decode_export_and_import_take_addresses(
    store: str, weights: Path, videos: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(f"{store}/in.mkv", (videos / "one.mkv").read_bytes())
    run(capsys, monkeypatch, "encode", f"{store}/in.mkv", f"{store}/x.cvl", "-w", weights, "--latents", "fp32")
    run(capsys, monkeypatch, "encode", videos / "one.mkv", tmp_path / "x.cvl", "-w", weights, "--latents", "fp32")
    assert content(store)["x.cvl"] == (tmp_path / "x.cvl").read_bytes()
    assert run(capsys, monkeypatch, "info", f"{store}/x.cvl", "--check")["frames"] == 5
    run(capsys, monkeypatch, "decode", f"{store}/x.cvl", f"{store}/back.mkv", "-w", weights)
    run(capsys, monkeypatch, "export", f"{store}/x.cvl", f"{store}/x.npy")
    run(capsys, monkeypatch, "import", f"{store}/x.npy", f"{store}/again.cvl")
    with cvcodec.open(f"{store}/again.cvl") as again, cvcodec.open(tmp_path / "x.cvl") as file:
        assert np.array_equal(again.latents[:], file.latents[:])
    assert sorted(content(store)) == ["again.cvl", "back.mkv", "in.mkv", "x.cvl", "x.npy", "x.npy.json"]


def test_a_data_set_is_made_and_read_where_it_lies(store: str, weights: Path, videos: Path, tmp_path: Path) -> None:
    for file in videos.rglob("*.mkv"):
        put(f"{store}/videos/{file.relative_to(videos).as_posix()}", file.read_bytes())
    put(f"{store}/videos/.hidden/x.mkv", b"no video")
    model = load_model(weights)
    options = cvcodec.EncodeOptions(latents="fp32", device="cpu", precision="fp32")
    given: dict[str, Any] = {"model": model, "options": options, "retries": 0, "jobs": 1, "devices": "cpu"}
    here = cvcodec.batch(videos, tmp_path / "here", **given)
    there = cvcodec.batch(f"{store}/videos", f"{store}/out", **given)
    assert [failure.error for failure in (*here.failures, *there.failures)] == []
    assert sorted(content(f"{store}/out")) == ["b/two.cvl", "index.jsonl", "one.cvl"]
    again = cvcodec.batch(f"{store}/videos/**/*.mkv", f"{store}/out", **given)
    assert (again.encoded, again.skipped) == (0, 2)
    for item, other in zip(LatentDataset(f"{store}/out"), LatentDataset(tmp_path / "here"), strict=True):
        assert torch.equal(item["latents"], other["latents"])
        assert item["path"] == other["path"]
    (line, _) = content(f"{store}/out")["index.jsonl"].splitlines()
    assert json.loads(line)["source"] == f"{store}/videos/b/two.mkv"
    cvcodec.export(f"{store}/out", f"{store}/shards", shuffle=None)
    paths = [item["path"] for item in IterableLatentDataset(f"{store}/shards", shuffle=0)]
    assert paths == ["b/two.cvl", "one.cvl"]


def test_what_only_this_machine_can_do_is_refused(store: str, weights: Path, videos: Path) -> None:
    with pytest.raises(UsageError, match="an upload cannot be continued"):
        cvcodec.encode_file(videos / "one.mkv", f"{store}/x.cvl", model=weights, resume=True)
    cvcodec.encode_file(videos / "one.mkv", f"{store}/x.cvl", model=weights)
    with pytest.raises(OutputError, match="a sequence of images is written on this machine"):
        cvcodec.decode_file(f"{store}/x.cvl", f"{store}/%05d.png", model=weights)
    put(f"{store}/list.txt", b"one.mkv\n")
    with pytest.raises(InputError, match="a manifest is read on this machine"):
        cvcodec.batch(f"{store}/list.txt", f"{store}/out", model=weights)
    assert sorted(content(store)) == ["list.txt", "x.cvl"]


def test_fsspec_is_imported_only_for_an_address(tmp_path: Path) -> None:
    code = "import sys, cvcodec.fileio; cvcodec.fileio.check_output('x'); print('fsspec' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "False\n"
