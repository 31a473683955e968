"""EBML (RFC 8794), of which Matroska consists: elements <-> bytes. Does not know what elements mean."""

from collections.abc import Iterator


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(id, content) of the EBML elements that `data` consists of (RFC 8794, 4 to 6). ValueError where it does not."""
    at = 0
    while at < len(data):
        length = 9 - data[at].bit_length()
        identifier = int.from_bytes(data[at : at + length], "big")
        at += length
        if at >= len(data) or not data[at]:
            raise ValueError("an EBML element is cut")
        width = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
        at += width
        if size == (1 << 7 * width) - 1:  # unknown: to the end
            size = len(data) - at
        if at + size > len(data):
            raise ValueError("an EBML element is longer than its parent")
        yield identifier, data[at : at + size]
        at += size


def element(identifier: int, content: bytes) -> bytes:
    """The bytes of an element, its size in eight of them."""
    size = (len(content) | 1 << 56).to_bytes(8, "big")
    return identifier.to_bytes((identifier.bit_length() + 7) // 8, "big") + size + content
