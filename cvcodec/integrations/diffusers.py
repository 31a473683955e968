"""A model with the surface of diffusers' `AutoencoderKL`, so that it drops into pipelines.

    vae = DiffusersVAE.from_pretrained("my-sd-compatible-model", torch_dtype=torch.float16)
    pipeline = StableVideoDiffusionPipeline.from_pretrained(..., vae=vae)

Images (B, 3, H, W) and their latents (B, C, h, w) are single frames, each coded alone ("image mode"), so that image
pipelines, and video pipelines that decode frame by frame, work as they are. Videos (B, 3, T, H, W) and (B, C, t, h, w)
are coded as videos: T = 4(t-1) + 1. A pipeline that says `num_frames` when it decodes (Stable Video Diffusion's,
Latte's) gets its latents decoded as one video, in however many pieces it hands them over: 25 become 97 frames.

As in diffusers, `encode` and `decode` neither scale nor shift: the pipeline does, with `config`. Only a model that was
made compatible with the pipeline's own VAE gives sensible pictures. A pipeline that is loaded takes only modules with
diffusers' own base class, so this one has it too, and torch's where diffusers is not installed.
Owns: this surface.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cvcodec.errors import UsageError
from cvcodec.integrations import diffusers_files
from cvcodec.integrations.diffusers_surface import DecoderOutput, EncoderOutput, LatentDistribution, VAEConfig
from cvcodec.integrations.video_pieces import VideoPieces
from cvcodec.model.base import VideoAutoencoder, check_latent, check_pixels
from cvcodec.windows.plan import Plan, choose_plan
from cvcodec.windows.space import pad_space
from cvcodec.windows.time import frame_count, pad_time

if TYPE_CHECKING:
    ModelMixin = torch.nn.Module
else:
    # By this name: where diffusers loads a saved pipeline, it asks the module of a class for its base.
    try:
        from diffusers import ModelMixin
    except (ImportError, RuntimeError):  # RuntimeError: it is there, but something that it needs is not
        ModelMixin = torch.nn.Module


class DiffusersVAE(ModelMixin):
    """See the module. `model` is the model itself, in whatever dtype `to` was given."""

    def __init__(self, model: VideoAutoencoder) -> None:
        super().__init__()
        self.model = model
        self.config = VAEConfig.of(model.config)
        self.use_tiling = False
        self.use_slicing = False

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        variant: str | None = None,
        image: bool = False,
        **options: Any,
    ) -> DiffusersVAE:
        """A model by name or weights file, as for `--weights`; or, as in diffusers, a folder or a repository
        `OWNER/REPO` on Hugging Face (or `hf://OWNER/REPO/SUBFOLDER`, as for `models add`): what `save_pretrained`
        wrote, official CV-VAE weights, or an AutoencoderKL.

        torch_dtype, or dtype: None is float32. image: an AutoencoderKL stays a model of pictures; else it is inflated
        to video, which a warning says. options: `cache_dir`, `token`, `local_files_only` and `force_download` of a
        download; what else diffusers hands over when it loads a pipeline is of no use here. Weights require gradients,
        as in diffusers. Raises InputError, CheckpointError or MissingDependencyError.
        """
        model = diffusers_files.load(
            name_or_path,
            dtype=torch_dtype or dtype or torch.float32,
            image=image,
            subfolder=subfolder,
            revision=revision,
            variant=variant,
            options=options,
        )
        return cls(model).eval()

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, variant: str | None = None, **options: Any
    ) -> None:
        """Write the weights as they are now, and the config, for `from_pretrained`; pipelines call it when they are
        saved, and find this class again if its module has been imported.

        options: of diffusers' own, of no use here. Raises OutputError, and UsageError for `push_to_hub`.
        """
        if options.get("push_to_hub"):
            raise UsageError("save the folder first, then push it: huggingface_hub.upload_folder")
        config = {"_class_name": type(self).__name__, **self.config}
        diffusers_files.save(self.model, config, save_directory, variant=variant)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of what `encode` and `decode` give."""
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """What `encode` and `decode` compute on: where the weights are, or, of weights that come one layer at a time
        (`enable_sequential_cpu_offload`), where they come to."""
        there = next(self.model.parameters()).device
        if there.type != "meta":
            return there
        hooks = (getattr(module, "_hf_hook", None) for module in self.modules())
        devices = (getattr(hook, "execution_device", None) for hook in hooks)
        return next((torch.device(device) for device in devices if device is not None), there)

    @property
    def temporal_compression_ratio(self) -> int:
        """Frames of a latent after the first."""
        return int(self.config.temporal_compression_ratio)

    @property
    def spatial_compression_ratio(self) -> int:
        """Pixels of a latent's side."""
        return int(self.config.spatial_compression_ratio)

    def enable_tiling(self, use_tiling: bool = True) -> None:
        """Windows in time and tiles in space, as the config names them: any length and size in bounded memory."""
        self.use_tiling = use_tiling

    def disable_tiling(self) -> None:
        """Whole clips again."""
        self.use_tiling = False

    def enable_slicing(self) -> None:
        """One clip of a batch at a time."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        """Whole batches again."""
        self.use_slicing = False

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """x: pixels in [-1, 1], (B, 3, H, W) or (B, 3, T, H, W); sides and T are padded by repetition to what the model
        takes. Gives an `EncoderOutput`, or a tuple with the distribution. ValueError for what cannot be meant."""
        check_pixels(x, ranks=(4, 5))
        self._come_back()
        videos = self._as_videos(x)
        padded = pad_space(videos, self.model.config.spatial_factor)
        if self.model.config.is_video:
            padded = pad_time(padded, self.model.config.temporal_factor)
        moments = self._each(self._tiled_encode if self.use_tiling else self._encode, padded)
        distribution = LatentDistribution(moments[:, :, 0] if x.ndim == 4 else moments)
        return EncoderOutput(distribution) if return_dict else (distribution,)

    def decode(
        self,
        z: Tensor,
        return_dict: bool | int = True,
        generator: torch.Generator | None = None,
        *,
        num_frames: int | None = None,
    ) -> Any:
        """z: latents, (B, C, h, w) or (B, C, t, h, w), unscaled. num_frames: take every so many of (B, C, h, w) for the
        latents of one video; its frames then follow each other along the batch. Where that is all of them, they are
        decoded when the result is used, since they may be a piece of a longer video (`VideoPieces`). It may also come
        second, where diffusers' `AutoencoderKLTemporalDecoder` has it. generator: of no use here, as in diffusers.
        Gives a `DecoderOutput`, or a tuple with the pixels, unclamped. ValueError for what cannot be meant."""
        check_latent(z, self.model.config.latent_channels, ranks=(4, 5))
        if not isinstance(return_dict, bool):
            num_frames, return_dict = return_dict, True
        self._come_back()
        if num_frames is not None and (z.ndim == 5 or num_frames < 1 or len(z) % num_frames):
            raise ValueError(f"num_frames = {num_frames} wants (B * num_frames, C, h, w), got {tuple(z.shape)}")
        if num_frames is not None and self.model.config.is_video:
            pieces = VideoPieces.of(z.to(self.device, self.dtype), self, num_frames)
            pixels = pieces if num_frames == len(z) else pieces.decoded(num_frames).flatten(0, 1)
        else:
            pixels = self._each(self._tiled_decode if self.use_tiling else self._decode, self._as_videos(z))
            if z.ndim == 4:
                pixels = pixels.transpose(1, 2).flatten(0, 1)
        return DecoderOutput(pixels) if return_dict else (pixels,)

    def video_shape(self, latents: Tensor) -> tuple[int, int, int, int]:
        """Latents (t, C, h, w) of one video -> (T, 3, H, W)."""
        frames, factor = (
            frame_count(len(latents), self.temporal_compression_ratio),
            self.config.scale_factor_spatial,
        )
        return frames, 3, factor * latents.shape[2], factor * latents.shape[3]

    def decode_video(self, latents: Tensor, piece: int) -> Tensor:
        """Latents (B, C, t, h, w) -> (B, 3, T, H, W), in windows of `piece` latents with the context that the model
        needs; in tiles, too, with `enable_tiling`."""
        if piece >= latents.shape[2] and not self.use_tiling:
            return self._each(self._decode, latents)
        window, tile = (None, None) if self.use_tiling else (piece, 0)
        return torch.cat([self._tiled_decode(clip, window=window, tile=tile) for clip in latents.split(1)])

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
        num_frames: int | None = None,
    ) -> Any:
        """Encode and decode. Pipelines look here for whether `decode` takes `num_frames`."""
        found: LatentDistribution = self.encode(sample).latent_dist
        latents = found.sample(generator) if sample_posterior else found.mode()
        return self.decode(latents, return_dict, num_frames=num_frames)

    def _come_back(self) -> None:
        """Onto the device, where a pipeline keeps its models elsewhere (`enable_model_cpu_offload`): accelerate does so
        before `forward` alone. What is offloaded layer by layer comes back whole and stays, since layers of ours read
        each other's weights, and a VAE is small beside what it decodes for."""
        hook = getattr(self, "_hf_hook", None)
        if hook is None:
            return
        device = self.device
        if next(self.model.parameters()).device.type == "meta" != device.type:
            from accelerate.hooks import remove_hook_from_module

            remove_hook_from_module(self, recurse=True)
            self.to(device)
        else:
            hook.pre_forward(self)

    def _as_videos(self, x: Tensor) -> Tensor:
        videos = x.unsqueeze(2) if x.ndim == 4 else x
        return videos.to(self.device, self.dtype)

    def _each(self, function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        """The function of the whole batch, or of one clip after another."""
        alone = (self.use_slicing or self.use_tiling) and len(batch) > 1
        return torch.cat([function(clip) for clip in batch.split(1)]) if alone else function(batch)

    def _encode(self, pixels: Tensor) -> Tensor:
        channels = self.model.config.latent_channels
        return self.model.moments(pixels)[:, : 2 * channels].to(self.dtype)  # the base layer

    def _decode(self, latents: Tensor) -> Tensor:
        return self.model.decode(latents).to(self.dtype)

    def _plan(self, height: int, width: int, *, window: int | None = None, tile: int | None = None) -> Plan:
        return choose_plan(self.model.config, height=height, width=width, window=window, tile=tile)

    def _tiled_encode(self, pixels: Tensor) -> Tensor:
        parts = self._plan(*pixels.shape[3:]).encode(self._encode, [pixels])
        return torch.cat(list(parts), dim=2)

    def _tiled_decode(self, latents: Tensor, *, window: int | None = None, tile: int | None = None) -> Tensor:
        factor = self.model.config.spatial_factor
        plan = self._plan(latents.shape[3] * factor, latents.shape[4] * factor, window=window, tile=tile)
        total = latents.shape[2]
        parts = plan.decode(self._decode, lambda start, stop: latents[:, :, start:stop], (0, total), total)
        return torch.cat(list(parts), dim=2)
