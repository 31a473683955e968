"""The byte specification of `.cvl`, format version 1, and its limits.

All integers are little-endian. `uvarint` is unsigned LEB128 in its shortest form, at most 10 bytes; `svarint` is a
zigzagged uvarint (0, -1, 1, -2, ... are 0, 1, 2, 3, ...). JSON is UTF-8 without NaN, infinities and repeated keys;
this program writes it canonically (sorted keys, no spaces).

FILE        offset 0, 6 bytes   89 43 56 4C 0D 0A ("\\x89CVL\\r\\n")
            offset 6, u16       format version: 1. A reader refuses any other
            offset 8            records, back to back:
                                HEAD, then CHNK and any others in any order, then TRLR, then FOOT, then nothing

RECORD      offset 0, 4 bytes   type, from A-Z and 0-9
            offset 4, u8        flags. Bit 0: required, a reader that does not know the type must refuse the file by
                                naming it (else it skips the record). Bits 1 to 7 are zero; a reader refuses others
            offset 5, u32       n, length of the payload, at most 2**30
            offset 9, u16       low 16 bits of the CRC-32 of bytes 0 to 8, so that a damaged length is never followed
            offset 11, n bytes  payload
            offset 11 + n, u32  CRC-32 (IEEE 802.3, as zlib's) of all bytes of the record before it

BLOCK       uvarint             2 * stored length + 1 if the content is compressed
            bytes               the content itself; or one zstd frame (RFC 8878) without magic number, checksum and
                                dictionary id, with its content size, which must be exactly what its place wants
SIZED BLOCK uvarint, then a block: content length, where nothing else says it; at most 2**12 + 2**9 times the block's
            stored length

HEAD        required, first record, once
            sized block, at most 2**20 bytes, compressed with `HEADER_DICTIONARY` as a raw-content dictionary: a JSON
            object whose keys and ranges `header` documents. Unknown keys are kept and ignored; a feature that a reader
            must know is named in "requires", and a reader refuses names it does not know

CHNK        required, one per window
            uvarint             index: 0, 1, 2, ... without gaps
            uvarint             first latent: the sum of the latent counts before
            uvarint             t, latent count: 1 to 4096
            uvarint             first frame: the sum of the frame counts before
            uvarint             frame count: 1 to t * temporal_factor
            sized block         time stamps, see below
            rest                payload: (C, t, h, w) latents, h and w from the header, at most 2**27 values and
                                at most 2**22 + 2**10 times the payload's length. Where the header has an "enhancement"
                                of E channels (then at most 2**27 values of both): uvarint, length of the payload; the
                                payload; and to the end another payload, coded by itself, of the (E, t, h, w) latents of
                                the second layer, with steps and offsets of its own. Readers of the first skip it

 time stamps, in units of the header's time base
            svarint             pts of the first frame, int64
            byte, values        0: svarint step, every pts is the step after the one before (no step for one frame)
                                1: svarint first step, then for each further frame a svarint: how its step differs from
                                the one before
            byte, values        durations. 0: unknown. 1: uvarint, all alike. 2: uvarint of the last frame + 1, or 0
                                for unknown; the others last until the pts that follows. 3: for each frame a uvarint,
                                duration + 1, or 0 for unknown
            byte, values        flags. 0: none set. 1: one byte for each frame; bit 0: concealed (the source was
                                damaged here and the decoder made the frame up); other bits are kept and ignored

 payload    byte                mode; an unknown one is refused by number
  mode 0    byte                b, bytes per value: 2 in fp16 files, 4 in fp32 files, else 1, 2 or 4 (signed)
            block               b * C * t * h * w bytes: the lowest byte of every value in (C, t, h, w) order, then
                                the next byte of every value, and so on
  mode 1    quantised files only: what differs from a prediction, sorted by the magnitude that is expected
            C bytes             bits 6 and 7: predictor of the channel; bit 5: its first latent has predictor 2, else 0;
                                bits 0 to 4: code of its scale
            uvarint             mask: bit k (1 to 28) set if expectation class k starts a new stream
            uvarint, each       length of each stream (one more than bits in the mask); the sum is C * t * h * w
            streams             each as `entropy` documents; one of length zero takes no bytes
            Position p = (c, t, y, x) belongs to front c + 2t + y + x. Fronts ascend; inside a front, positions ascend
            in (c, t, y, x) order. In this order each position computes its expectation, which selects its class, thus
            its stream; takes the next value there; unzigzags it to the residual r; and adds its prediction. All of it
            is integer arithmetic with floor division, residuals and symbols outside the chunk count as zero:
              a neighbour's magnitude = min(|r|, 255)
              E = 16 * (10 * (left + up) + 8 * before + 3 * (up-left + around)) + (7 * S >> 4)
                  + (13 * (A * S >> 8) >> 4)
              before: one latent earlier; around: sum of the four neighbours of that; both are zero at the second latent
              of a chunk if the channel's predictor is 1 or 3
              S = ((2 + (code & 1)) << (code >> 1)) >> 1
              A = 256 for c = 0, else the sum over channels k < c of min((magnitude << 16) // S_k, 4096), // c
              class = how many of the thresholds (2 << 3), (3 << 3), (2 << 4), (3 << 4), ..., (3 << 16) are <= E
            Predictors, on symbols: 0: zero. 1: one latent earlier. 2: left + up - up-left, held between left and up.
            3: the median of 1, of 2, and of 1 + (2 applied to the differences from one latent earlier).
  mode 2    quantised files only: channels that hold zeros alone are left out, at least one
            (C + 7) // 8 bytes  bit c & 7 of byte c >> 3: channel c is there; bits from C on are 0
            rest                payload of mode 0 or 1 of the channels that are there; nothing where none is

            A symbol beyond 2**20 in magnitude is refused in any mode.

            Symbols become latents by the header's steps and offsets: float32(float32(symbol) * step) + offset, both
            operations rounded to float32.

TRLR        required, once, after the last chunk
            sized block, at most 2**26 bytes
            uvarint             chunks, at least 1; for each chunk, in order, none ending behind this record's offset:
              uvarint             bytes between the end of the chunk before (of the HEAD record for the first) and it
              uvarint             size of the whole record, at least 30
              uvarint, uvarint    latent count, frame count
              svarint             smallest pts less the largest of the chunk before (less 0 for the first)
              uvarint             largest pts less smallest
            uvarint             record types; for each, in ascending order, TRLR and FOOT left out:
              4 bytes             type
              uvarint, uvarint    how many records, their bytes with framing
            16 bytes            BLAKE2b-128 over the first 8 bytes of the file and, for every record before this one in
                                order, its type and its CRC-32
            uvarint, bytes      length (at most 2**20), JSON object; length 0: none

FOOT        required, last record, 23 bytes in all
            u64                 offset of the TRLR record, so that a reader that can seek finds the index at once

LVAR        optional; where the header's "logvar" is true, one follows each CHNK record
            uvarint             index of that chunk
            rest                payload of mode 0 with 2 bytes a value: (C, t, h, w) float16 log-variances of the
                                posterior, each within -30 to 20

STRM, ATCH, PKTS  optional: streams that were copied from the source as packets, with chapters and tags;
                  `passthrough.records` specifies them

RESERVED    Types that start with X are for private use and never become part of the format.

A reader must refuse, before it allocates: every limit above and in `header`; a payload whose frames declare another
size than the geometry wants, or more than their length can hold; more entries of the index, packets or side data than
the bytes that stand for them. Who shows it refuses times beyond 2**32 seconds from zero. A reader never seeks unless it
can, never trusts a length, and reports a missing trailer as truncation, even after every chunk was intact. It never
runs code from the file.
"""

from __future__ import annotations

import struct

MAGIC = b"\x89CVL\r\n"
"""First byte beyond ASCII, then a line end that text-mode transfers damage, as in PNG."""

VERSION = 1

PREAMBLE = struct.Struct("<6sH")
"""Magic and format version."""

RECORD_HEAD = struct.Struct("<4sBIH")
"""Type, flags, payload length, check of the first nine bytes."""

RECORD_CHECKED = 9
"""Bytes of a record head that its 16-bit check covers."""

RECORD_TAIL = struct.Struct("<I")
"""CRC-32 of all before it."""

RECORD_OVERHEAD = RECORD_HEAD.size + RECORD_TAIL.size

REQUIRED = 1
"""Record flag: a reader that does not know the type must refuse the file."""

HEAD, CHNK, LVAR, TRLR, FOOT = "HEAD", "CHNK", "LVAR", "TRLR", "FOOT"

FOOTER = struct.Struct("<Q")
"""Offset of the trailer record."""

FOOTER_BYTES = RECORD_OVERHEAD + FOOTER.size

MAX_RECORD = 1 << 30
"""Bytes of a payload."""

MAX_JSON = 1 << 20
"""Bytes of a JSON text."""

MAX_JSON_DEPTH = 16
"""Nesting of a JSON text."""

MAX_SIDE = 1 << 16
"""Pixels of a side, padding included."""

MAX_AREA = 1 << 28
"""Pixels of a frame, padding included."""

MAX_CHANNELS = 256
"""Channels of a latent."""

MAX_FACTOR = 64
"""Frames per latent; pixels per latent side."""

MAX_CHUNK_LATENTS = 4096
"""Latents of a chunk; also bounds windows, contexts and blends."""

MAX_CHUNK_VALUES = 1 << 27
"""C * t * h * w of a chunk: 16 latents of 16 channels at 7680 x 4320."""

FREE_VALUES, VALUE_DENSITY = 1 << 22, 1 << 10
"""A payload of n bytes holds at most `FREE_VALUES` + `VALUE_DENSITY` * n values."""

MIN_CHUNK_RECORD = RECORD_OVERHEAD + 15
"""Bytes of the shortest CHNK record: five of its place, six of time stamps, four of payload."""

MAX_COUNT = 1 << 48
"""Latents, frames, records and bytes of a file."""

MAX_TRAILER = 1 << 26
"""Bytes of an unpacked trailer: about five million chunks."""

MAX_SECONDS = 1 << 32
"""How far from zero a frame, a packet or a chapter may be shown: what plays them counts in 64 bits, in finer ticks."""

DIGEST_BYTES = 16
"""BLAKE2b digest that chains the records."""

LOGVAR_RANGE = (-30.0, 20.0)
"""Log-variances are clamped to this before they are stored, as before every use (specification, section 1.6)."""

FLAG_CONCEALED = 1
"""Frame flag: the source was damaged here."""

HEADER_DICTIONARY = (
    b'{"average_rate":[30000,1001],"average_rate":[24000,1001],"average_rate":null,"bit_depth":10,"bit_depth":8,"color":'
    b'{"guessed":false,"matrix":"bt2020nc","primaries":"bt2020","range":"full","transfer":"smpte2084"},"color":'
    b'{"guessed":true,"matrix":"smpte170m","primaries":"smpte170m","range":"limited","transfer":"smpte170m"},"color":'
    b'{"guessed":true,"matrix":"bt709","primaries":null,"range":"limited","transfer":null},"color":{"guessed":false,'
    b'"matrix":"bt709","primaries":"bt709","range":"limited","transfer":"bt709"},"config_digest":"0123456789abcdef",'
    b'"decode_tile":[64,8,8],"decode_window":[16,8,8,0],"decoder_hash":"fedcba9876543210","encode_tile":null,'
    b'"encode_window":[16,8,0,0],"height":1080,"height":720,"latent_channels":4,"latent_channels":16,"latent_kind":"mean",'
    b'"latent_space_id":"","latents":"fp16","latents":"fp32","latents":"quantised","logvar":false,"metadata":{},'
    b'"model":"cvvae-mini-z4","model":"cvvae-mini-z16","official":[16,576,0.2222],"official":null,'
    b'"offsets":"000000000000000000000000","padding":[0,0,0,0],"pixel_range":[-1.0,1.0],"quality":50.0,"requires":[],'
    b'"rotation":0,"sample_aspect_ratio":[1,1],"scaling_factor":0.18215,"scaling_factor":1.0,"shift_factor":0.0,'
    b'"spatial_factor":8,"steps":"3f3e3d","temporal_factor":4,"time_base":[1,90000],"time_base":[1,1000],'
    b'"time_base":[1,12800],"time_base":[1,15360],"tool":"cvcodec 0.1.0","width":1920,"width":1280,'
    b'"windows":"official","windows":"context"}'
)
"""Part of format version 1 for ever: what a header has in common with others costs nothing."""
