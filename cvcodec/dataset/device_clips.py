"""All training clips in a device's memory, and batches made of them there.

Owns: decoding every piece once into one buffer, and the tensors that turn what was drawn (`sampling`) into pixels: the
same clips as on the CPU, equal where nothing is interpolated and to rounding elsewhere.
Does not know: what is drawn, steps, processes.

Resizing, panning and zooming are separable: rows and columns of a clip are weighted sums of the source's, so that a
group of clips is two batched matrix products whatever their scales. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cvcodec.dataset.media import MediaFile, Pixels
from cvcodec.dataset.sampling import Crop, Drawn, Pan
from cvcodec.errors import InputError
from cvcodec.model.base import RGB
from cvcodec.system import host
from cvcodec.system.device import to_device

_GROUP_VALUES = 1 << 28  # floats that a group of clips may take while it is resampled: 1 GiB
_CUBIC = -0.75  # as in torch's bicubic sampling


@dataclass(frozen=True)
class StoredPiece:
    """A decoded piece in the buffer."""

    first: int
    """Index of its first pixel."""
    shape: tuple[int, ...]
    """(T, H, W, 3)."""


StoredClip = Drawn[StoredPiece]


def stored_bytes(files: Sequence[MediaFile], short_side: int) -> int:
    """About how many bytes the decoded files take."""
    total = 0.0
    for file in files:
        scale = min(1.0, short_side / max(1, min(file.width, file.height)))
        total += RGB * file.frames * file.width * file.height * scale**2
    return int(total)


@dataclass(frozen=True)
class _Group:
    """Clips that are made alike. Whole numbers: (G, 6), a row a clip: place in the batch, first pixel, pixels from
    frame to frame and from row to row, rows and columns of the source. Numbers of `_weights`: (G, 7)."""

    whole: Tensor
    real: Tensor
    rows: int
    columns: int
    """The largest source."""
    scaled: int
    """The longest side of a scaled source."""

    @classmethod
    def of(cls, whole: list[list[int]], real: list[list[float]]) -> _Group:
        rows, columns = (max((row[place] for row in whole), default=0) for place in (4, 5))
        scaled = max((int(max(row[:2])) for row in real), default=0)
        return cls(
            torch.tensor(whole, dtype=torch.int64).view(-1, 6),
            torch.tensor(real, dtype=torch.float32).view(-1, 7),
            rows,
            columns,
            scaled,
        )

    def __len__(self) -> int:
        return len(self.whole)

    def parts(self, values_of_one: int) -> Iterator[_Group]:
        """In pieces, so that each takes no more than `_GROUP_VALUES`."""
        step = max(1, _GROUP_VALUES // max(1, values_of_one))
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            yield _Group(self.whole[part], self.real[part], self.rows, self.columns, self.scaled)


@dataclass(frozen=True)
class BatchPlan:
    """A batch before its pixels: tables on the host, made beside the training step."""

    count: int
    frames: int
    size: int
    exact: _Group
    crops: _Group
    pans: _Group
    turned: Tensor
    """(3, B) bool: reversed in time, mirrored, transposed."""
    colour: Tensor
    """(B, 4): gains and the offset."""

    @classmethod
    def of(cls, drawn: Sequence[StoredClip], frames: int, size: int) -> BatchPlan:
        """The tables of clips of `frames` frames and `size` x `size` pixels."""
        whole: tuple[list[list[int]], ...] = ([], [], [])
        real: tuple[list[list[float]], ...] = ([], [], [])
        middle = (size - 1) / 2
        for place, clip in enumerate(drawn):
            height, width = clip.piece.shape[1:3]
            view, first, frame = clip.view, clip.piece.first, height * width
            if isinstance(view, Crop):
                kind = 0 if view.side == size else 1
                corner = first + view.start * frame + view.top * width + view.left
                whole[kind].append([place, corner, view.stride * frame, width, view.side, view.side])
                real[kind].append([size, size, middle, middle, 0.0, 0.0, 1.0])
            else:
                whole[2].append([place, first + view.frame * frame, 0, width, height, width])
                real[2].append([view.height, view.width, *_path(view, size)])
        exact, crops, pans = (_Group.of(*tables) for tables in zip(whole, real, strict=True))
        jitters = [clip.jitter for clip in drawn]
        return cls(
            len(drawn),
            frames,
            size,
            exact,
            crops,
            pans,
            torch.tensor([[j.reverse for j in jitters], [j.mirror for j in jitters], [j.transpose for j in jitters]]),
            torch.tensor([[*jitter.gain, jitter.offset] for jitter in jitters], dtype=torch.float32),
        )


class DeviceClips:
    """`get` says where a piece lies; `render` makes a batch of drawn clips."""

    def __init__(
        self,
        files: Sequence[MediaFile],
        decode: Callable[[MediaFile, int], Pixels | None],
        *,
        segment_frames: int,
        device: torch.device,
    ) -> None:
        """Decodes all pieces of all files, by as many threads as there are processors. InputError where none can be."""
        keys = [(file, segment) for file in files for segment in range(file.segments(segment_frames))]
        with ThreadPoolExecutor(host.usable_cpus(), "decode", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            decoded = list(pool.map(lambda key: decode(*key), keys))
        self._pieces: dict[tuple[MediaFile, int], StoredPiece] = {}
        count = 0
        for key, pixels in zip(keys, decoded, strict=True):
            if pixels is not None:
                self._pieces[key] = StoredPiece(count, pixels.shape)
                count += pixels.size // RGB
        if not self._pieces:
            raise InputError("nothing to sample from: no file could be decoded; see the skipped files above")
        self._pixels = torch.empty(count, RGB, dtype=torch.uint8, device=device)
        decoded.reverse()
        for key in keys:
            pixels = decoded.pop()
            if pixels is not None:
                flat = torch.from_numpy(np.array(pixels).reshape(-1, RGB))  # a copy: a cache's is read-only
                self._pixels[self._pieces[key].first :][: len(flat)] = flat

    @property
    def bytes_held(self) -> int:
        """Bytes of the buffer."""
        return self._pixels.numel()

    def get(self, file: MediaFile, segment: int = 0) -> StoredPiece | None:
        """Where the piece is; None for one that could not be decoded."""
        return self._pieces.get((file, segment))

    @torch.no_grad()
    def render(self, plan: BatchPlan) -> Tensor:
        """(B, 3, T, S, S) float32 in [-1, 1], colour innermost in memory."""
        frames, size = plan.frames, plan.size
        clips = torch.empty(plan.count, frames, size, size, RGB, device=self._pixels.device)
        for part in plan.exact.parts(frames * size * size * RGB):
            self._place(clips, part, self._gather(part, frames, size, size))
        for part in plan.crops.parts(frames * RGB * plan.crops.columns * (plan.crops.rows + size)):
            source = self._gather(part, frames, part.rows, part.columns).flatten(3)
            rows, columns = (matrix[:, 0] for matrix in self._weights(part, 1, size))
            half = torch.einsum("gyk,gtkw->gtyw", rows, source).unflatten(3, (-1, RGB))
            self._place(clips, part, torch.einsum("gxk,gtykc->gtyxc", columns, half))
        for part in plan.pans.parts(frames * size * (RGB * plan.pans.columns + 2 * plan.pans.scaled)):
            source = self._gather(part, 1, part.rows, part.columns)[:, 0].flatten(2)
            rows, columns = self._weights(part, frames, size)
            half = torch.einsum("gtyk,gkw->gtyw", rows, source).unflatten(3, (-1, RGB))
            self._place(clips, part, torch.einsum("gtxk,gtykc->gtyxc", columns, half))
        clips = self._jitter(clips, plan)
        return clips.div_(127.5).sub_(1).permute(0, 4, 1, 2, 3)

    def _place(self, clips: Tensor, part: _Group, made: Tensor) -> None:
        clips.index_copy_(0, self._here(part.whole[:, 0]), made.clamp_(0, 255))

    def _gather(self, part: _Group, frames: int, rows: int, columns: int) -> Tensor:
        """(G, T, rows, columns, 3) float32 in [0, 255]; what a smaller source does not have is anything."""
        device = self._pixels.device
        table = self._here(part.whole)
        first, frame, row = (table[:, place].view(-1, 1, 1, 1) for place in (1, 2, 3))
        y, x = (
            torch.arange(length, device=device).minimum(table[:, place, None] - 1)
            for length, place in ((rows, 4), (columns, 5))
        )
        index = first + frame * torch.arange(frames, device=device).view(1, -1, 1, 1)
        index = index + row * y[:, None, :, None] + x[:, None, None, :]
        return self._pixels.index_select(0, index.flatten()).view(*index.shape, RGB).float()

    def _weights(self, part: _Group, frames: int, size: int) -> tuple[Tensor, Tensor]:
        """What each row and column of a clip takes from those of its source: (G, T, S, rows), (G, T, S, columns)."""
        real, whole = self._here(part.real), self._here(part.whole)
        made = []
        for axis, longest in ((0, part.rows), (1, part.columns)):
            scaled, centre, drift, zoom = (real[:, place] for place in (axis, 2 + axis, 4 + axis, 6))
            taken = _bicubic(_positions(centre, drift, zoom, frames, size), scaled, part.scaled)
            made.append(taken.flatten(1, 2) @ _antialiased(whole[:, 4 + axis], scaled, longest, part.scaled))
        rows, columns = (matrix.unflatten(1, (frames, size)) for matrix in made)
        return rows, columns

    def _jitter(self, clips: Tensor, plan: BatchPlan) -> Tensor:
        reverse, mirror, transpose = self._here(plan.turned).view(3, -1, 1, 1, 1, 1)
        if bool(plan.turned[0].any()):
            clips = torch.where(reverse, clips.flip(1), clips)
        if bool(plan.turned[1].any()):
            clips = torch.where(mirror, clips.flip(3), clips)
        if bool(plan.turned[2].any()):
            clips = torch.where(transpose, clips.transpose(2, 3), clips)
        gain, offset = self._here(plan.colour).view(-1, 1, 1, 1, RGB + 1).split((RGB, 1), -1)
        return (clips - 128).mul_(gain).add_(128).add_(offset).clamp_(0, 255)

    def _here(self, tensor: Tensor) -> Tensor:
        return to_device(tensor, self._pixels.device)


def _path(view: Pan, size: int) -> list[float]:
    """Middle of the window in the scaled picture (y, x), drift (y, x) and zoom at the end."""
    if not view.moving:
        top, left = view.corner(size)
        return [top + (size - 1) / 2, left + (size - 1) / 2, 0.0, 0.0, 1.0]
    return [view.center_y, view.center_x, view.drift_y, view.drift_x, view.end_zoom]


def _positions(centre: Tensor, drift: Tensor, zoom: Tensor, frames: int, size: int) -> Tensor:
    """Where each row of each frame lies in the scaled picture: (G, T, S)."""
    time = torch.arange(frames, device=centre.device).view(1, -1, 1)
    offsets = torch.arange(size, device=centre.device).view(1, 1, -1) - (size - 1) / 2
    centre, drift, zoom = (tensor.view(-1, 1, 1) for tensor in (centre, drift, zoom))
    return centre + drift * time + offsets * (1 + (zoom - 1) * time / frames)


def _bicubic(positions: Tensor, scaled: Tensor, longest: int) -> Tensor:
    """Weights (G, T, S, longest) of four pixels about each position, mirrored at the ends, as grid_sample has them."""
    whole = positions.floor()
    part = positions - whole
    length = scaled.view(-1, 1, 1)
    pixels = torch.arange(longest, device=positions.device)
    weights = torch.zeros(*positions.shape, longest, device=positions.device)
    for tap in range(-1, 3):
        distance = (part - tap).abs()
        if tap in (0, 1):
            weight = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
        else:
            weight = ((distance - 5) * distance + 8) * distance * _CUBIC - 4 * _CUBIC
        mirrored = (whole + tap + 0.5).abs()
        turns = (mirrored / length).floor()
        rest = mirrored - turns * length
        at = torch.where(turns % 2 == 0, rest, length - rest) - 0.5
        at = at.minimum(length - 1).clamp_min(0)
        weights += weight[..., None] * (at[..., None] == pixels)
    return weights


def _antialiased(extent: Tensor, scaled: Tensor, longest: int, longest_scaled: int) -> Tensor:
    """Weights (G, longest_scaled, longest) of torch's antialiased bilinear resizing of `extent` to `scaled` pixels."""
    extent = extent.view(-1, 1, 1)
    scale = extent / scaled.view(-1, 1, 1)
    centres = (torch.arange(longest_scaled, device=scale.device).view(1, -1, 1) + 0.5) * scale
    pixels = torch.arange(longest, device=scale.device).view(1, 1, -1)
    weights = (1 - (pixels + 0.5 - centres).abs() / scale.clamp_min(1)).clamp_min(0) * (pixels < extent)
    return weights / weights.sum(2, keepdim=True).clamp_min(1e-12)
