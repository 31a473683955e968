"""One frozen dataclass that describes every model and travels inside its weights file.

Owns: the architecture's numbers, their cross-checks and the properties derived from them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

_LATER_FIELDS = ("enhancement_channels", "decoder_tail", "quality_aware")

FAMILIES = ("cvvae", "cvvae-sd3", "autoencoder-kl", "cvvae-mini", "image-vae-mini")
_MINI = ("cvvae-mini", "image-vae-mini")

_LIVE_TENSORS = 6
"""Finest-level activations alive at the peak of a residual block: its input, the normalised copy, the convolution's
padded input and output, the shortcut, and the convolution's workspace."""

MOST_LATENTS, MOST_SIDE, MOST_FACTOR = 4096, 1 << 16, 64
"""Of a window and its contexts, of a tile's side in latents or pixels, of a factor: what a file's header can say."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model is. Every field is stored in the weights file; unknown fields are refused on load."""

    family: str
    """`cvvae` (SD2.1, official CVVAEModel), `cvvae-sd3` (official CVVAESD3Model), `autoencoder-kl` (2D, SD/SD3),
    `cvvae-mini` (ours, for CPUs) or `image-vae-mini` (its 2D twin)."""
    latent_channels: int
    """Channels C of the latent (B, C, t, h, w)."""
    widths: tuple[int, ...]
    """Channels at each resolution level, finest first. Official: base width times 1, 2, 4, 4."""
    encoder_blocks: tuple[int, ...]
    """Residual blocks of the encoder at each level, finest first."""
    decoder_blocks: tuple[int, ...]
    """Residual blocks of the decoder at each level, finest first."""
    half_3d: bool = True
    """Second convolution of each residual block is 2D ("2D+3D" in the paper, section 3.2); False: all-3D."""
    norm_groups: int = 32
    """Groups of the GroupNorm (official families and autoencoder-kl; unused by mini)."""
    norm_eps: float = 1e-5
    """Epsilon of every norm but the temporal attention's LayerNorm (1e-5 for cvvae, 1e-6 for cvvae-sd3 and SD VAEs)."""
    mid_attention: bool = True
    """Attention in the middle blocks (official families and autoencoder-kl)."""
    temporal_attention: bool = False
    """Temporal half of the decoder's middle attention (cvvae as released)."""
    quant_conv: bool = False
    """1x1 convolutions around the latent (autoencoder-kl for z=4)."""
    encoder_temporal: tuple[int, ...] = ()
    """mini: how many of the encoder's blocks at each level look at neighbouring latents in time."""
    decoder_temporal: tuple[int, ...] = ()
    """mini: how many of the decoder's blocks at each level look at neighbouring latents in time."""
    patch_size: int = 1
    """mini: pixel-unshuffle factor at the input, in pixels."""
    enhancement_channels: int = 0
    """mini: channels E of the enhancement layer, which holds, on the same grid, what the decoder leaves over.
    `latent_channels` stays C: the base layer, which other decoders, caches and diffusion models speak of."""
    decoder_tail: int = 0
    """mini: channels that each frame of a group has to itself in front of the decoder's output; 0: none."""
    quality_aware: bool = False
    """mini: whether the decoder is told the quality that its latent was quantised with."""

    scaling_factor: float = 1.0
    """model space = (latent - shift_factor) * scaling_factor; only around a diffusion model, never inside encode."""
    shift_factor: float = 0.0
    """What is subtracted before scaling."""

    window_latents: int = 16
    """Default length of a temporal window: latents kept per chunk."""
    encode_context: int = 0
    """Default latents computed and discarded in front of a window by the encoder (causal: nothing behind)."""
    decode_context: int = 0
    """Default latents computed and discarded on each side of a window by the decoder."""
    tile_latents: int = 0
    """Default side of a spatial tile in latents, overlap included; 0: no tiles."""
    tile_context: int = 0
    """Default latents computed and discarded on each side of a tile."""
    tile_blend: int = 0
    """Default latents cross-faded between neighbouring tiles."""
    official_chunk_frames: int | None = None
    """Official windows (spec 3.1): new frames per chunk (`en_de_n_frames_a_time`), a multiple of 4; None: no chunks."""
    official_tile_pixels: int = 576
    """Official tiles (spec 3.2): `tile_spatial_size`."""
    official_tile_overlap: float = 0.2222
    """Official tiles (spec 3.2): `tile_overlap_ratio`."""

    temporal_factor: int = 4
    """Frames per latent after the first (rho_t)."""
    spatial_factor: int = 8
    """Pixels per latent side (rho_s)."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"unknown model family {self.family!r}; known: {', '.join(FAMILIES)}")
        if self.latent_channels < 1 or any(width < 1 for width in self.widths):
            raise ValueError(f"channel counts must be positive: {self.latent_channels = }, {self.widths = }")
        if not len(self.widths) == len(self.encoder_blocks) == len(self.decoder_blocks):
            raise ValueError(
                f"one entry per level wanted: {self.widths = }, {self.encoder_blocks = }, {self.decoder_blocks = }"
            )
        if not self.scaling_factor > 0:
            raise ValueError(f"the scaling factor must be positive: {self.scaling_factor = }")
        if self.family != "cvvae-mini" and (self.enhancement_channels or self.decoder_tail or self.quality_aware):
            raise ValueError(f"only cvvae-mini has an enhancement layer, tails or quality: {self.family = }")
        self._check_windows()

    def _check_windows(self) -> None:
        for least, most, names in (
            (1, MOST_FACTOR, ("temporal_factor", "spatial_factor", "patch_size")),
            (1, MOST_LATENTS, ("window_latents",)),
            (0, MOST_LATENTS, ("encode_context", "decode_context")),
            (0, MOST_SIDE, ("tile_latents", "tile_context", "tile_blend", "official_tile_pixels")),
        ):
            for name in names:
                if not least <= getattr(self, name) <= most:
                    raise ValueError(f"model config field {name} is {getattr(self, name)}, wanted {least} to {most}")
        if not 0 <= self.official_tile_overlap < 1:
            raise ValueError(f"{self.official_tile_overlap = } is no share of a tile; wanted 0 up to, not including, 1")
        chunk, most = self.official_chunk_frames, MOST_LATENTS * self.temporal_factor
        if chunk is not None and (chunk % self.temporal_factor or not 0 < chunk <= most):
            raise ValueError(
                f"{self.official_chunk_frames = } is not a multiple of {self.temporal_factor} from 1 to {most}"
            )

    @property
    def is_video(self) -> bool:
        """Whether the model has a time axis (the 2D families encode each frame alone)."""
        return self.family not in ("autoencoder-kl", "image-vae-mini")

    @property
    def coded_channels(self) -> int:
        """C + E: channels of both layers."""
        return self.latent_channels + self.enhancement_channels

    @property
    def uses_official_windows(self) -> bool:
        """Whether the default windows are the official ones (spec 3), because GroupNorm spans time."""
        return self.family in ("cvvae", "cvvae-sd3")

    @property
    def is_local(self) -> bool:
        """Whether every value depends on a neighbourhood alone, so that windows and tiles with enough context equal the
        whole clip: the mini models'; norms over groups see all of it."""
        return self.family in _MINI

    @property
    def takes_any_dtype(self) -> bool:
        """Whether the model casts its input itself (the mini models, whose linear shortcut stays in fp32)."""
        return self.family in _MINI

    def bytes_per_pixel(self, itemsize: int) -> float:
        """Estimated peak of a model call, in bytes per pixel of its clip, for numbers of `itemsize` bytes."""
        if self.family in _MINI:
            # Groups of frames are folded into channels, so the activations are small. Measured on 33x512x512: 65 bytes
            # a pixel encoding and 35 decoding in bf16, 120 and 71 in fp32.
            return 12.0 + 28.0 * itemsize
        # The finest level dominates: the next has four times fewer positions, and at most twice the channels.
        return float(_LIVE_TENSORS * self.widths[0] * itemsize)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, in field order; what came later is left out at its default, so that digests stay."""
        values = dataclasses.asdict(self)
        for name in _LATER_FIELDS:
            if not values[name]:
                del values[name]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Inverse of `to_dict`. Raises ValueError on a field this release does not know."""
        if unknown := sorted(set(values) - {field.name for field in dataclasses.fields(cls)}):
            raise ValueError(f"model config has unknown fields: {', '.join(unknown)}")
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fields)

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
