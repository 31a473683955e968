"""The windows of a file: chosen for an encode, written in its header, and found there again.

Owns: `Plan` <-> the header's fields, and what goes wrong with windows as errors of this program.
Does not know: what windows do, frames, models' insides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from cvcodec.bitstream import Header
from cvcodec.errors import BitstreamError, DeviceError, UsageError
from cvcodec.windows import plan as windows
from cvcodec.windows.plan import ContextPlan, OfficialPlan, Plan


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


choose_plan = _usage_errors()(windows.choose_plan)
"""`windows.plan.choose_plan`, which raises UsageError for sizes that cannot work."""


def memory_errors(pieces: Iterator[Tensor]) -> Iterator[Tensor]:
    """What `Plan.encode` or `Plan.decode` gives; DeviceError when even the smallest tiles do not fit."""
    try:
        yield from pieces
    except MemoryError as error:
        raise DeviceError(str(error) or "out of memory; use a smaller --window or --tile") from error


def header_fields(plan: Plan) -> dict[str, Any]:
    """Keyword arguments for `Header`."""
    if isinstance(plan, OfficialPlan):
        return {"windows": "official", "official": plan.official}
    assert isinstance(plan, ContextPlan)
    names = ("encode_window", "decode_window", "encode_tile", "decode_tile")
    return {"windows": "context", **{name: getattr(plan, name) for name in names}}


def plan_of(header: Header) -> Plan:
    """What a file was coded with: inverse of `header_fields`. Raises BitstreamError for windows that cannot be."""
    factors = header.temporal_factor, header.spatial_factor
    try:
        if header.official is not None and header.windows == "official":
            return OfficialPlan(*factors, header.official)
        assert header.encode_window is not None and header.decode_window is not None  # `Header` sees to it
        windows = header.encode_window, header.decode_window
        return ContextPlan(*factors, *windows, header.encode_tile, header.decode_tile)
    except ValueError as error:
        raise BitstreamError(f"the header's windows cannot be: {error}") from error
