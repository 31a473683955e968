"""Frames of a video whose latents a pipeline hands over in pieces, to be decoded when all of them are there.

Pipelines for video (Stable Video Diffusion's, Latte's) decode `decode_chunk_size` latents at a time, join what comes
back with `torch.cat`, and reshape it to clips of their number of latents, because their own VAEs give a frame for each.
Our pieces cannot be decoded alone: a frame depends on the latents to either side, and n latents are 4n-3 frames only
where they are the whole video. So what comes back for a piece is a tensor that is computed when it is used: joined with
others it is the latents of all of them, reshaped to clips of n latents it is those videos, decoded, and used in any
other way it is its latents decoded as one video.
Owns: that tensor. Does not know: models; how latents are decoded is given to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


class VideoDecoder(Protocol):
    """What decodes in the end."""

    def video_shape(self, latents: Tensor) -> tuple[int, int, int, int]:
        """Latents (t, C, h, w) of one video -> (T, 3, H, W)."""

    def decode_video(self, latents: Tensor, piece: int) -> Tensor:
        """Latents (B, C, t, h, w), of which a pipeline would have decoded `piece` at a time -> (B, 3, T, H, W)."""


_QUESTIONS = {
    Tensor.shape.__get__,  # type: ignore[attr-defined]
    Tensor.dtype.__get__,  # type: ignore[attr-defined]
    Tensor.device.__get__,
    Tensor.ndim.__get__,  # type: ignore[attr-defined]
    Tensor.size,
    Tensor.dim,
    Tensor.__len__,
}
"""What can be answered without the pixels."""


class VideoPieces(Tensor):
    """Frames (T, 3, H, W) of latents (t, C, h, w) that are not decoded yet."""

    _latents: Tensor
    _decoder: VideoDecoder
    _piece: int

    @classmethod
    def of(cls, latents: Tensor, decoder: VideoDecoder, piece: int) -> VideoPieces:
        """piece: the most latents that the pipeline hands over at once."""
        pieces: VideoPieces = torch.Tensor._make_wrapper_subclass(
            cls, decoder.video_shape(latents), dtype=latents.dtype, device=latents.device
        )
        pieces._latents, pieces._decoder, pieces._piece = latents, decoder, piece
        return pieces

    def decoded(self, length: int) -> Tensor:
        """The pixels, (B, T, 3, H, W), of videos of `length` latents each."""
        videos = self._latents.unflatten(0, (-1, length)).transpose(1, 2)
        return self._decoder.decode_video(videos, self._piece).transpose(1, 2)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Joins, and splits into videos; everything else is asked of the decoded frames."""
        kwargs = kwargs or {}
        if func in _QUESTIONS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func is torch.cat and not any(args[1:]) and not any(kwargs.values()):
            pieces = list(args[0])
            if all(isinstance(piece, VideoPieces) for piece in pieces):
                joined = torch.cat([piece._latents for piece in pieces])
                return cls.of(joined, pieces[0]._decoder, max(piece._piece for piece in pieces))
        if func is Tensor.reshape and len(args) == 6 and args[1] == -1 and tuple(args[3:]) == tuple(args[0].shape[1:]):
            pieces, length = args[0], args[2]
            if length > 0 and len(pieces._latents) % length == 0:
                return pieces.decoded(length)
        return cls.__torch_dispatch__(func, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's own annotation has no cls
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Any operation, of the decoded frames."""
        args, kwargs = tree_map(_as_one_video, (args, dict(kwargs or {})))
        return func(*args, **kwargs)


def _as_one_video(value: Any) -> Any:
    return value.decoded(len(value._latents))[0] if isinstance(value, VideoPieces) else value
