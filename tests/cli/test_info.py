"""`cvcodec info`: what a file says of itself, and whether it is whole."""

from __future__ import annotations

import io
import json
import shutil
from fractions import Fraction
from pathlib import Path

import pytest

from cvcodec.bitstream import BitstreamReader, BitstreamWriter
from tests.cli.programs import cvcodec as run
from tests.cli.programs import finished, one_line
from tests.codec.clips import smooth, write_rgb
from tests.codec.models import save_model, tiny_mini, tiny_official

COUNT, HEIGHT, WIDTH = 20, 18, 30

KEYS = {
    "command", "source", "checked", "format_version", "tool", "model", "latent_space_id", "decoder_hash", "latents",
    "latent_kind", "quality", "latent_shape", "frames", "width", "height", "bit_depth", "duration_s", "time_base",
    "average_rate_fps", "sample_aspect_ratio", "rotation_degrees", "color", "windows", "window_latents",
    "tile_latents", "chunks", "records", "chunk_bytes", "copied_bytes", "bpp_of_chunks", "metadata",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("info")
    save_model(path / "tiny.safetensors", tiny_mini())
    write_rgb(str(path / "in.mkv"), smooth(COUNT, HEIGHT, WIDTH), container="matroska")
    assert run("encode", path / "in.mkv", path / "a.cvl", "-w", path / "tiny.safetensors", "-q", "60").code == 0
    return path


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copyfile(folder / "a.cvl", tmp_path / "a.cvl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_json_has_the_documented_keys_and_the_facts(here: Path) -> None:
    outcome = run("info", "a.cvl", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    record = outcome.record
    assert set(record) >= KEYS
    assert (record["command"], record["source"], record["checked"]) == ("info", "a.cvl", False)
    assert (record["frames"], record["width"], record["height"], record["bit_depth"]) == (COUNT, WIDTH, HEIGHT, 8)
    assert (record["model"], record["latents"], record["quality"], record["latent_kind"]) == (
        "tiny", "quantised", 60.0, "mean",
    )  # fmt: skip
    assert record["latent_shape"] == [4, 6, 3, 4]
    assert (record["windows"], record["window_latents"], record["chunks"]) == ("context", 3, 2)
    assert Fraction(record["time_base"]) == Fraction(1, 1000)
    assert record["average_rate_fps"] == "25"
    assert record["duration_s"] == pytest.approx(COUNT / 25)
    assert record["color"]["matrix"] == "rgb"
    stored = (here / "a.cvl").stat().st_size
    assert 0 < record["chunk_bytes"] < stored
    assert sum(total["bytes"] for total in record["records"].values()) < stored
    assert record["bpp_of_chunks"] == pytest.approx(8 * record["chunk_bytes"] / (COUNT * WIDTH * HEIGHT))


def test_the_table_is_for_people(here: Path) -> None:
    outcome = run("info", "a.cvl", "--check")
    assert (outcome.code, outcome.err) == (0, "")
    for words in (
        "a.cvl",
        "tiny",
        "quality 60",
        f"{COUNT} frames of {WIDTH}x{HEIGHT}",
        "25 frames/s",
        "every record intact",
    ):
        assert words in outcome.out


def test_check_reads_everything_and_needs_no_model(here: Path) -> None:
    assert run("info", "a.cvl", "--check", "--json").record["checked"] is True
    data = bytearray((here / "a.cvl").read_bytes())
    place = BitstreamReader(io.BytesIO(bytes(data))).index[0]
    data[place.offset + place.size // 2] ^= 1
    (here / "b.cvl").write_bytes(data)
    assert run("info", "b.cvl").code == 0  # header and trailer are whole
    outcome = run("info", "b.cvl", "--check")
    assert outcome.code == 5
    assert one_line(outcome.err).startswith("cvcodec: error: ")
    assert outcome.out == ""


def test_files_of_all_kinds_are_shown(folder: Path, here: Path) -> None:
    save_model(here / "official.safetensors", tiny_official())
    for options, kind in (
        (["-w", "official.safetensors", "--frames", "5"], {"windows": "official", "latents": "quantised"}),
        (["-w", folder / "tiny.safetensors", "--latents", "fp16"], {"quality": None, "latents": "fp16"}),
        (["-w", folder / "tiny.safetensors", "--store-logvar"], {"latents": "quantised"}),
        (["-w", folder / "tiny.safetensors", "--tile", "none"], {"tile_latents": None}),
    ):
        assert run("encode", folder / "in.mkv", "b.cvl", "-y", *options).code == 0
        outcome = run("info", "b.cvl", "--check", "--json")
        assert outcome.code == 0, outcome.err
        assert {key: outcome.record[key] for key in kind} == kind
        assert run("info", "b.cvl").code == 0


def test_what_is_no_file_of_ours_is_one_line(here: Path) -> None:
    (here / "text.cvl").write_text("hello\n" * 50)
    (here / "empty.cvl").write_bytes(b"")
    (here / "cut.cvl").write_bytes((here / "a.cvl").read_bytes()[:-5])
    for name, code in (("absent.cvl", 3), (".", 3), ("text.cvl", 5), ("empty.cvl", 5), ("cut.cvl", 5)):
        outcome = run("info", name)
        assert (outcome.code, outcome.out) == (code, "")
        assert one_line(outcome.err).startswith("cvcodec: error: ")


def test_a_file_that_needs_a_newer_release_says_so(here: Path) -> None:
    source, sink = BitstreamReader(io.BytesIO((here / "a.cvl").read_bytes())), io.BytesIO()
    with BitstreamWriter(sink, source.header) as writer:
        for chunk in source.chunks():
            writer.write_chunk(chunk)
        writer.write_record("XNEW", b"", required=True)
    (here / "new.cvl").write_bytes(sink.getvalue())
    outcome = run("info", "new.cvl", "--check")
    assert outcome.code == 5
    assert "XNEW" in one_line(outcome.err)


def test_a_pipe_is_read_to_its_end(here: Path) -> None:
    data = (here / "a.cvl").read_bytes()
    result = finished("info", "-", "--json", data=data, cwd=here)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["frames"] == COUNT
    assert finished("info", "-", "--json", data=data[:-1], cwd=here).returncode == 5
