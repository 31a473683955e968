"""Whether a Ray cluster answers at an address, known within seconds: Ray itself tries for minutes, in silence.

Owns: reading the address, and the first bytes of the conversation. Does not know: Ray.
"""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

from cvcodec.errors import DeviceError

_PATIENCE_S = 10.0  # for the connection, and again for its first answer
_FOUND_BY_RAY = ("", "auto", "local")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client of gRPC begins: HTTP/2's connection preface and an empty SETTINGS frame (RFC 9113, section 3.4)."""
_SETTINGS = 4
"""Type of the frame that a server must send first; the fourth byte of it."""


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
