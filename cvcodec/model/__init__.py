"""Networks: tensors in, tensors out. No paths, no windows, no devices; the only error is ValueError.

    config            what a model is                  base, posterior   what every model shows
    cvvae             SD2.1-compatible, z = 4          mini              ours, for CPUs
    cvvae_sd3         SD3-compatible, z = 16           image_vae         2D, SD and SD3
    layers, convolution, winograd, schedule, frames, diffusers_layout    what the official ones are made of
    official_config   official config.json -> config   inflate           2D weights -> 3D weights

`build_model` is the way in.
"""

from __future__ import annotations

from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.config import ModelConfig

__all__ = ["ModelConfig", "VideoAutoencoder", "build_model"]


def build_model(config: ModelConfig) -> VideoAutoencoder:
    """The network that `config` describes, with PyTorch's default initialisation. ValueError for an impossible config.

    Under `torch.device("meta")` it costs neither time nor memory.
    """
    # Imported here, so that a program that only reads configs does not load every network.
    if config.family == "cvvae":
        from cvcodec.model.cvvae import CVVAE

        return CVVAE(config)
    if config.family == "cvvae-sd3":
        from cvcodec.model.cvvae_sd3 import CVVAESD3

        return CVVAESD3(config)
    if config.family == "autoencoder-kl":
        from cvcodec.model.image_vae import ImageVAE

        return ImageVAE(config)
    from cvcodec.model.mini import MiniAutoencoder

    return MiniAutoencoder(config)
