"""`python benchmarks/payload.py CLIPS...`: how small the coded symbols are, and simpler ways to store the same ones.

Owns: counting the same integers four ways, and the time that ours takes:

    payload      what the chunks of a .cvl hold: each chunk by itself, tables included (`bitstream.entropy`)
    zstd -19     all symbols of the clip as raw bytes (int8, or int16 where they do not fit), in one go
    order-0      the entropy of each channel's symbols over the whole clip, without any table: what no code of single
                 symbols can beat
    time         of choosing and coding the symbols, over that of an encode which stores floats instead, each in seconds
                 of processor time

zstd and order-0 see the whole clip at once; ours sees a chunk at a time. All count the symbols that the codec stores
at that quality with its default choice of symbols.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zstandard
from numpy.typing import NDArray

import harness
from cvcodec.bench.report import check_block, update_block
from cvcodec.bitstream.entropy import encode_symbols
from cvcodec.checkpoints.registry import load_model
from cvcodec.cli import report
from cvcodec.codec import DEFAULT_MODEL, DEFAULT_QUALITY, EncodeOptions, LatentFile, ReaderOptions, encode_file
from cvcodec.codec.headers import make_quantizer
from cvcodec.codec.layers import quantised
from cvcodec.codec.options import RateDistortion
from cvcodec.system.device import set_threads

BLOCK = "bench: payload"

_RDO: RateDistortion = EncodeOptions().rdo
_FRAMES = 129


@dataclass(frozen=True)
class Sizes:
    """One clip at one quality. Bytes of the symbols alone: no header, no time stamps."""

    clip: str
    quality: float
    symbols: int
    payload_bytes: int
    zstd_bytes: int
    order0_bytes: float
    coding_seconds: float
    """Processor time of making payloads of the symbols."""
    encode_seconds: float
    """Processor time of an encode of the same frames that stores floats: reading, network, writing."""

    @property
    def against_zstd(self) -> float:
        """Payload over zstd."""
        return self.payload_bytes / self.zstd_bytes

    @property
    def against_order0(self) -> float:
        """Payload over the entropy; 1 where there is none, as of symbols that are all alike."""
        return self.payload_bytes / self.order0_bytes if self.order0_bytes else 1.0

    @property
    def time_share(self) -> float:
        """Coding over the rest of an encode."""
        return self.coding_seconds / self.encode_seconds


def order0_bytes(symbols: NDArray[np.int32]) -> float:
    """Entropy of symbols (C, t, h, w), each channel by its own frequencies (Shannon 1948), in bytes."""
    bits = 0.0
    for channel in symbols:
        _, counts = np.unique(channel, return_counts=True)
        bits += float((counts * np.log2(channel.size / counts)).sum())
    return bits / 8


def zstd_bytes(symbols: NDArray[np.int32]) -> int:
    """Symbols as raw bytes, the smallest signed type that holds them, by zstd at level 19."""
    peak = int(np.abs(symbols).max(initial=0))
    raw = symbols.astype(np.int8 if peak < 128 else "<i2" if peak < 1 << 15 else "<i4")
    return len(zstandard.ZstdCompressor(level=19).compress(raw.tobytes()))


def measure(
    clip: Path, folder: Path, *, weights: str, qualities: Sequence[float], frames: int, threads: int | None
) -> Iterator[Sizes]:
    """Encode a clip's latents once, and count its symbols at every quality."""
    model = load_model(weights)
    stored = folder / "payload.cvl"
    options = EncodeOptions(latents="fp32", threads=threads, kinds=(), tags=False, reader=ReaderOptions(frames=frames))
    begun = time.process_time()
    encode_file(clip, stored, model=model, options=options, overwrite=True)
    encode_seconds = time.process_time() - begun
    with LatentFile(stored) as file:
        latents = file.latents[:]
        kept = file.header.encode_window.kept if file.header.encode_window else latents.shape[1]
    for quality in qualities:
        quantizer, _ = make_quantizer(model, quality).split(latents.shape[0])
        begun = time.process_time()
        chunks = [quantised(latents[:, at : at + kept], quantizer, _RDO) for at in range(0, latents.shape[1], kept)]
        payload = sum(len(encode_symbols(chunk)) for chunk in chunks)
        coding_seconds = time.process_time() - begun
        symbols = np.concatenate(chunks, axis=1)
        yield Sizes(
            clip=clip.stem,
            quality=quality,
            symbols=symbols.size,
            payload_bytes=payload,
            zstd_bytes=zstd_bytes(symbols),
            order0_bytes=order0_bytes(symbols),
            coding_seconds=coding_seconds,
            encode_seconds=encode_seconds,
        )


def markdown(sizes: Sequence[Sizes]) -> str:
    """A line for each quality: means over clips, and the worst clip."""
    lines = [
        "| quality | bytes/zstd -19 | worst clip | bytes/order-0 entropy | worst clip | time/encode's |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for quality in dict.fromkeys(entry.quality for entry in sizes):
        group = [entry for entry in sizes if entry.quality == quality]
        zstd = [entry.against_zstd for entry in group]
        order0 = [entry.against_order0 for entry in group]
        share = sum(entry.coding_seconds for entry in group) / sum(entry.encode_seconds for entry in group)
        lines.append(
            f"| {quality:g} | {np.mean(zstd):.2f} | {max(zstd):.2f} | {np.mean(order0):.2f} | {max(order0):.2f} "
            f"| {100 * share:.1f} % |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments, or the process's own; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/payload.py",
        description="Bytes of the coded symbols against zstd -19 and order-0 entropy on the same symbols.",
    )
    add = parser.add_argument
    add("clips", nargs="+", type=Path, metavar="CLIP")
    add("--weights", "-w", default=DEFAULT_MODEL, metavar="NAME|FILE", help="default: the default model")
    add("--qualities", type=harness.list_argument(float), default=[25.0, 50.0, DEFAULT_QUALITY], metavar="Q,...")
    add("--frames", type=int, default=_FRAMES, metavar="N", help="first frames of each clip")
    add("--threads", type=int, metavar="N", help="CPU threads of the model")
    add("--json", action="store_true", help="JSON lines: one a clip and quality")
    harness.add_update_argument(parser, BLOCK)
    options = parser.parse_args(arguments)
    if options.frames < 1 or not options.qualities:
        parser.error("--frames must be at least 1, and --qualities not empty")
    return harness.run_program(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    check_block(options.update, BLOCK)
    set_threads(options.threads)
    every: list[Sizes] = []
    with tempfile.TemporaryDirectory(prefix="cvcodec-bench-") as name:
        for clip in options.clips:
            for sizes in measure(
                clip,
                Path(name),
                weights=options.weights,
                qualities=options.qualities,
                frames=options.frames,
                threads=options.threads,
            ):
                every.append(sizes)
                if options.json:
                    report.emit(dataclasses.asdict(sizes))
                else:
                    report.say(
                        f"{sizes.clip} q {sizes.quality:g}: {sizes.payload_bytes} bytes, {sizes.against_zstd:.3f} of "
                        f"zstd -19, {sizes.against_order0:.3f} of order-0, {100 * sizes.time_share:.1f} % of the time"
                    )
    table = markdown(every)
    if not options.json:
        sys.stdout.write(table + "\n")
    update_block(options.update, BLOCK, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
