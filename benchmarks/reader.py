"""`python benchmarks/reader.py`: how fast training loops get slices of latents, from .cvl files and from others.

Owns: the readers that are compared and what is timed. Every reader gives the same thing, a random slice of a random
clip as a float32 tensor (C, n, h, w), through a `DataLoader` with 0, 2 and 4 workers, of the same latents:

    .cvl          `LatentDataset` over quantised, fp16 and fp32 files, without a cache of decoded chunks and with one
                  that holds everything
    torch.save    one .pt file a clip, fp16: loaded whole, and with mmap=True
    safetensors   one file a clip, fp16: `get_slice`
    WebDataset    tar shards of `cvcodec export`, fp16: `IterableLatentDataset`, and the `webdataset` package

Slices a second are counted after the first `WARM_UP` of them, so that the start of workers is left out; MB/s are of the
float32 slices. Every number is the median of `--repeats` rounds through all readers, so that a machine that is busy
with something else for a while does not slow down one reader alone. Files lie in the page cache, as those of a training
set that fits into memory do: what is compared is the work of the processor. Disk figures are of the files themselves.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

import harness
from cvcodec.bench.machine import describe_machine, machine_facts
from cvcodec.bench.report import check_block, update_block
from cvcodec.bitstream import BitstreamReader, BitstreamWriter, Chunk
from cvcodec.cli import report
from cvcodec.codec import DEFAULT_QUALITY, EncodeOptions, encode_file
from cvcodec.codec.headers import make_quantizer
from cvcodec.codec.layers import latents_of
from cvcodec.dataset import IterableLatentDataset, LatentDataset
from cvcodec.dataset.items import ITEM
from cvcodec.dataset.keys import epoch_generator
from cvcodec.dataset.reader import draw_slice
from cvcodec.dataset.shards import LATENTS
from cvcodec.errors import UsageError
from cvcodec.model import VideoAutoencoder
from cvcodec.system.device import set_threads

KINDS = ("quantised", "fp16", "fp32")

WARM_UP = 16
"""Slices that are not counted: starting workers and opening files."""

BLOCK = "bench: reader"
"""The block that --update replaces."""

_SHARDS = 8
_REPEATS = 1000  # slices of each clip that can be drawn


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one reader takes on disk and gives in a second."""

    reader: str
    disk_mb: float
    slices_per_s: dict[int, float]
    """By number of workers."""
    mb_per_s: dict[int, float]


# ---------------------------------------------------------------------------------------------------- the same latents


def make_clips(folder: Path, model: VideoAutoencoder, *, clips: int, frames: int, size: tuple[int, int]) -> None:
    """`clips` files of each kind in a folder each, and the other formats, of the same synthetic videos."""
    for kind in (*KINDS, "pt", "safetensors"):
        (folder / kind).mkdir(parents=True)
    video, encoded = folder / "x.mkv", folder / "x.cvl"
    for number in range(clips):
        harness.write_clip(video, *size, frames, seed=number)
        encode_file(video, encoded, model=model, options=EncodeOptions(latents="fp32"), overwrite=True)
        latent = torch.from_numpy(_store(encoded, folder, f"{number:05d}", model)).half()
        torch.save(latent, folder / f"pt/{number:05d}.pt")
        _save_safetensors(latent, folder / f"safetensors/{number:05d}.safetensors")
    video.unlink()
    encoded.unlink()


def _store(source: Path, folder: Path, name: str, model: VideoAutoencoder) -> np.ndarray[Any, Any]:
    """Write an fp32 file as a file of each kind; its latents."""
    quantizer = make_quantizer(model, DEFAULT_QUALITY)
    with source.open("rb") as file:
        reader = BitstreamReader(file)
        chunks = list(reader.chunks())
        latents = [latents_of(chunk, reader.header) for chunk in chunks]
    for kind in KINDS:
        header = reader.header
        if kind == "quantised":
            steps, offsets = tuple(quantizer.steps.tolist()), tuple(quantizer.offsets.tolist())
            header = header.replace(latents=kind, quality=DEFAULT_QUALITY, steps=steps, offsets=offsets)
        else:
            header = header.replace(latents=kind)
        with (folder / kind / f"{name}.cvl").open("wb") as sink, BitstreamWriter(sink, header) as writer:
            for chunk, latent in zip(chunks, latents, strict=True):
                stored = quantizer.quantize(latent) if kind == "quantised" else latent.astype(header.latent_dtype)
                writer.write_chunk(Chunk(**{**vars(chunk), "symbols": stored}))
    return np.concatenate(latents, axis=1)


def _save_safetensors(latent: Tensor, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"latents": latent.contiguous()}, path)


def _export(folder: Path) -> None:
    from cvcodec.dataset.exporting import export_shards

    size = sum(path.stat().st_size for path in (folder / "pt").iterdir())
    export_shards(folder / "fp16", folder / "tar", shard_bytes=size // _SHARDS)


# ---------------------------------------------------------------------------------------------------- the others


class Files(Dataset[Tensor]):
    """Random slices of files that `read` opens, (path, slice of latents) -> (C, n, h, w)."""

    def __init__(self, folder: Path, length: int, read: Callable[[Path, Callable[[int], slice]], Tensor]) -> None:
        self.paths = sorted(folder.iterdir())
        self.length, self.read = length, read

    def __len__(self) -> int:
        return len(self.paths) * _REPEATS

    def __getitem__(self, item: int) -> Tensor:
        def choose(latents: int) -> slice:
            drawn = draw_slice(epoch_generator(0, 0, ITEM, item), latents, self.length)
            return slice(drawn.start, drawn.stop)

        return self.read(self.paths[item % len(self.paths)], choose).float()


def read_torch(path: Path, choose: Callable[[int], slice]) -> Tensor:
    """A slice of a .pt file, which is loaded whole for it."""
    latent: Tensor = torch.load(path, weights_only=True)
    return latent[:, choose(latent.shape[1])].clone()


def read_torch_mapped(path: Path, choose: Callable[[int], slice]) -> Tensor:
    """A slice of a .pt file that is mapped, so that only its pages are read."""
    latent: Tensor = torch.load(path, weights_only=True, mmap=True)
    return latent[:, choose(latent.shape[1])].clone()


def read_safetensors(path: Path, choose: Callable[[int], slice]) -> Tensor:
    """A slice of a .safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        part = file.get_slice("latents")
        latent: Tensor = part[:, choose(part.get_shape()[1])]
        return latent


class WebDatasetShards(IterableDataset[Tensor]):
    """The same shards through the `webdataset` package, shuffled and decoded as its documentation does it."""

    def __init__(self, folder: Path, length: int) -> None:
        self.paths, self.length = [str(path) for path in sorted(folder.glob("*.tar"))], length

    def __iter__(self) -> Iterator[Tensor]:
        import webdataset  # type: ignore[import-untyped,unused-ignore]

        generator = np.random.default_rng()
        shards = webdataset.WebDataset(self.paths, shardshuffle=len(self.paths), empty_check=False)
        for sample in shards.repeat().shuffle(1000).decode():
            latent = sample[LATENTS]
            drawn = draw_slice(generator, latent.shape[1], self.length)
            yield torch.from_numpy(latent[:, drawn.start : drawn.stop].astype(np.float32))


# ---------------------------------------------------------------------------------------------------- timing


def first_of(items: list[Any]) -> Tensor:
    """A batch of one, as the tensor it holds."""
    found = items[0]
    return found["latents"] if isinstance(found, dict) else found  # type: ignore[no-any-return]


def endless(data: Any, workers: int) -> Iterator[Tensor]:
    """Slices without end through one loader: workers never start anew."""
    sampler = None if isinstance(data, IterableDataset) else RandomSampler(data, replacement=True, num_samples=1 << 30)
    return iter(DataLoader(data, batch_size=1, sampler=sampler, num_workers=workers, collate_fn=first_of))


def measure(data: Any, workers: int, *, seconds: float, skip: int) -> tuple[float, float]:
    """Slices and MB a second, after `skip` slices."""
    slices = endless(data, workers)
    for _ in itertools.islice(slices, skip):
        pass
    count = size = 0
    begun = time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        latent = next(slices)
        count += 1
        size += latent.numel() * latent.element_size()
    return count / spent, size / 1e6 / spent


def readers(folder: Path, length: int, clips: int) -> Iterator[tuple[str, Path, Any, int]]:
    """(name, where its files are, data set, slices to skip)."""
    for kind in KINDS:
        yield (
            f".cvl {kind}",
            folder / kind,
            LatentDataset(folder / kind, latents=length, repeats=_REPEATS, cache_mb=0),
            WARM_UP,
        )
        cached = LatentDataset(folder / kind, latents=length, repeats=_REPEATS, cache_mb=4096)
        yield f".cvl {kind}, cached", folder / kind, cached, 6 * clips
    yield "torch.save", folder / "pt", Files(folder / "pt", length, read_torch), WARM_UP
    yield "torch.save, mmap", folder / "pt", Files(folder / "pt", length, read_torch_mapped), WARM_UP
    path = folder / "safetensors"
    yield "safetensors, get_slice", path, Files(path, length, read_safetensors), WARM_UP
    shards = IterableLatentDataset(folder / "tar", latents=length, endless=True)
    yield "WebDataset shards, cvcodec", folder / "tar", shards, WARM_UP
    try:
        import webdataset  # noqa: F401
    except ImportError:
        report.say("the webdataset package is not installed, its own reader is left out")
    else:
        yield "WebDataset shards, webdataset", folder / "tar", WebDatasetShards(folder / "tar", length), WARM_UP


def run(options: argparse.Namespace) -> list[Row]:
    """Make the files and time every reader."""
    set_threads(1)
    model = harness.named_model(options.model)
    folder = Path(tempfile.mkdtemp(prefix="cvcodec-reader-", dir=options.folder))
    try:
        report.say(f"encoding {options.clips} clips of {options.frames} frames")
        make_clips(folder, model, clips=options.clips, frames=options.frames, size=options.size)
        _export(folder)
        compared = list(readers(folder, options.latents, options.clips))
        speeds: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for turn in range(options.repeats):
            for name, _, data, skip in compared:
                for workers in options.workers:
                    report.say(f"{turn + 1} of {options.repeats}: {name}, {workers} workers")
                    measured = measure(data, workers, seconds=options.seconds, skip=skip)
                    speeds.setdefault((name, workers), []).append(measured)
        return [
            Row(
                reader=name,
                disk_mb=sum(path.stat().st_size for path in place.iterdir() if path.suffix != ".jsonl") / 1e6,
                slices_per_s={
                    workers: median(slices for slices, _ in speeds[name, workers]) for workers in options.workers
                },
                mb_per_s={workers: median(size for _, size in speeds[name, workers]) for workers in options.workers},
            )
            for name, place, _, _ in compared
        ]
    finally:
        shutil.rmtree(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments, or the process's own; its exit code."""
    parser = argparse.ArgumentParser(prog="python benchmarks/reader.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--clips", type=int, default=48, help="default: 48")
    parser.add_argument("--frames", type=int, default=61, help="of each clip; default: 61, which are 16 latents")
    parser.add_argument("--size", type=harness.size_argument, default=(256, 256), help="WIDTHxHEIGHT; default: 256x256")
    parser.add_argument("--latents", type=int, default=5, help="of a slice; default: 5, which are 17 frames")
    parser.add_argument("--workers", type=harness.list_argument(int), default=[0, 2, 4], help="default: 0,2,4")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement; default: 3")
    parser.add_argument("--repeats", type=int, default=1, help="rounds, of which medians are given; default: 1")
    parser.add_argument("--model", default="mini", help="mini, or a name or weights file; default: mini")
    parser.add_argument("--folder", type=Path, help="for the files while it runs; default: the system's temporary one")
    parser.add_argument("--json", action="store_true", help="one JSON object a reader instead of a table")
    harness.add_update_argument(parser, BLOCK)
    options = parser.parse_args(arguments)

    def work() -> int:
        if options.clips < _SHARDS or options.frames < 4 * (options.latents - 1) + 1:
            raise UsageError(f"wanted at least {_SHARDS} clips, and clips no shorter than slices")
        if options.repeats < 1:
            raise UsageError(f"--repeats {options.repeats}: wanted at least 1")
        check_block(options.update, BLOCK)
        facts = machine_facts(torch.device("cpu"))  # before the run, whose own load says nothing
        machine = describe_machine(facts)
        rows = run(options)
        if options.json:
            for row in rows:
                report.emit({**asdict(row), **facts, "clips": options.clips, "frames": options.frames})
        else:
            _show(rows, options, machine)
        update_block(options.update, BLOCK, markdown(rows, options, machine))
        return 0

    return harness.run_program(work)


def _show(rows: Sequence[Row], options: argparse.Namespace, machine: str) -> None:
    columns = ["reader", "disk MB"]
    for workers in options.workers:
        columns += [f"slices/s, {workers} workers", "MB/s"]
    harness.show_table(
        f"Slices of {options.latents} latents from {options.clips} clips of {options.frames} frames",
        columns,
        [
            [
                row.reader,
                harness.number(row.disk_mb, 1),
                *(
                    harness.number(value, digits)
                    for workers in options.workers
                    for value, digits in ((row.slices_per_s[workers], 0), (row.mb_per_s[workers], 1))
                ),
            ]
            for row in rows
        ],
        caption=f"{machine}. Files in the page cache.",
    )


def markdown(rows: Sequence[Row], options: argparse.Namespace, machine: str) -> str:
    """The table for a document."""
    counts = [f"{workers} workers" for workers in options.workers]
    lines = [
        f"| slices/s (MB/s) | disk MB | {' | '.join(counts)} |",
        "|---|---:|" + "---:|" * len(counts),
        *(
            f"| {row.reader} | {row.disk_mb:.1f} | "
            + " | ".join(f"{row.slices_per_s[n]:.0f} ({row.mb_per_s[n]:.0f})" for n in options.workers)
            + " |"
            for row in rows
        ),
        "",
        f"Slices of {options.latents} latents from {options.clips} clips of {options.frames} frames, "
        f"{options.size[0]}x{options.size[1]}. {machine}. Files in the page cache.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
