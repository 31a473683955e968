"""Random damage to a `.cvl`: each file must be a clean error or the same symbols, within the memory its size explains.

Two kinds of damage: of the file, as a disk or a network makes it; and of payloads whose checksums are then made to
match, as an attacker does. Run as a program for longer: `python -m tests.bitstream.fuzz --cases 2000 --seed 1`.
"""

import argparse
import io
import sys
import tracemalloc
from collections import Counter

import numpy as np

from cvcodec.bitstream import BitstreamReader, Salvage, scan_partial
from cvcodec.bitstream.chunk import unpack_chunk
from cvcodec.bitstream.records import pack_record
from cvcodec.errors import BitstreamError
from tests.bitstream.samples import make_file, make_header
from tests.bitstream.test_stream import forge, records_of

HEADER = make_header(width=45, height=30, padding=(0, 0, 3, 2))
LENGTHS = (3, 2, 1)

MEMORY = 4_000_000
"""Most bytes that Python and numpy may allocate over one file of some 2 kB: reads ask for 1 MiB at a time."""


def digest(reader: BitstreamReader) -> tuple[object, ...]:
    """Everything that decoding gives."""
    return reader.header, *((c.symbols.tobytes(), c.pts.tobytes(), c.flags.tobytes()) for c in reader.chunks())


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """One or a few random changes."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, size = int(rng.integers(len(out))), int(rng.integers(1, 64))
        match int(rng.integers(7)):
            case 0:
                del out[at:]
            case 1 | 2:
                out[at] ^= 1 << int(rng.integers(8))
            case 3:
                out[at] = int(rng.integers(256))
            case 4:
                out[at : at + size] = bytes(len(out[at : at + size]))
            case 5:
                del out[at : at + size]
            case 6:
                out[at:at] = rng.bytes(size)
        if not out:
            break
    return bytes(out)


def forged_damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage inside the payload of one record, with checksums that match again."""
    pieces = records_of(data)
    number = int(rng.integers(len(pieces)))
    kind, flags, payload = pieces[number][:4].decode(), pieces[number][4], pieces[number][11:-4]
    head = int(rng.integers(2))  # the structure is at the front
    payload = damage(payload[:48], rng) + payload[48:] if head else damage(payload, rng)
    pieces[number] = pack_record(kind, payload, required=bool(flags))
    return forge(pieces) if kind != "FOOT" else data[:8] + b"".join(pieces)


def examine(data: bytes, wanted: tuple[object, ...], *, forged: bool) -> str:
    """What becomes of a damaged file, in every way of reading it."""
    outcomes = []
    for sequential in (False, True):
        try:
            same = digest(BitstreamReader(io.BytesIO(data), sequential=sequential)) == wanted
        except BitstreamError as error:
            outcomes.append(type(error).__name__)
        else:
            assert same or forged, "other symbols passed for good"
            outcomes.append("same" if same else "other")
    try:
        for _ in Salvage(io.BytesIO(data)).parts():
            pass
        scan_partial(io.BytesIO(data))
    except BitstreamError:
        pass
    if forged:  # straight at the payload, past the chain over all records that would refuse it first
        for piece in records_of(data):
            if piece[:4] == b"CHNK":
                try:
                    unpack_chunk(piece[11:-4], HEADER)
                except BitstreamError as error:
                    outcomes.append(type(error).__name__)
    return outcomes[0]


def fuzz(cases: int, seed: int, trace_every: int = 1) -> Counter[str]:
    """Outcomes of `cases` damaged files, half of them forged. Any exception is a bug. Memory is watched, which is slow,
    in one of `trace_every`, an odd number."""
    rng = np.random.default_rng(seed)
    data = make_file(HEADER, LENGTHS)
    wanted = digest(BitstreamReader(io.BytesIO(data)))
    outcomes: Counter[str] = Counter()
    for number in range(cases):
        forged = bool(number % 2)
        changed = forged_damage(data, rng) if forged else damage(data, rng)
        traced = number % trace_every == 0
        if traced:
            tracemalloc.start()
        try:
            outcomes[("forged " if forged else "") + examine(changed, wanted, forged=forged)] += 1
            peak = tracemalloc.get_traced_memory()[1] if traced else 0
        finally:
            tracemalloc.stop()
        assert peak < MEMORY, f"case {number} of seed {seed} allocated {peak} bytes for {len(changed)}"
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for outcome, count in sorted(fuzz(options.cases, options.seed).items()):
        sys.stdout.write(f"{count:6d}  {outcome}\n")
