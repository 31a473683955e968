"""Boxes of MP4 and HEIF (ISO/IEC 14496-12), put together and taken apart by hand."""

from __future__ import annotations

_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"meta"}
_VISUAL_ENTRY = 8 + 78  # header and fields of a visual sample entry; its boxes follow


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def full(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, bytes([version]), flags.to_bytes(3, "big"), *parts)


def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, content) of the boxes that `data` consists of."""
    found, at = [], 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + size]))
        at += size
    return found


def with_sample_box(data: bytes, added: bytes) -> bytes:
    """An MP4 whose index lies at its end, with a box more in the sample entry of its first track."""
    done = False

    def grow(kind: bytes, content: bytes) -> bytes:
        nonlocal done
        if done or kind not in _PARENTS:
            return box(kind, content)
        if kind == b"stsd":
            done = True
            ((entry, inner),) = boxes(content[8:])
            return box(kind, content[:8], box(entry, inner, added))
        return box(kind, *(grow(*item) for item in boxes(content)))

    return b"".join(grow(*item) for item in boxes(data))


def sample_boxes(data: bytes) -> dict[bytes, bytes]:
    """The boxes in the sample entry of the first track of an MP4, by kind."""
    content = data
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"):
        content = next(inner for name, inner in boxes(content) if name == kind)
    entry = content[8:]
    size = int.from_bytes(entry[:4], "big")
    return dict(boxes(entry[_VISUAL_ENTRY:size]))
