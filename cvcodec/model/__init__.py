"""Networks: tensors in, tensors out. No paths, no windows, no devices; the only error is ValueError.

    base                        what every model shows and takes
    config                      what a model is
    mini, mini_inflate          ours, for CPUs, and its 2D twin
    official/                   the CV-VAE models and the image models of Stable Diffusion
    convolution, winograd, patches    what they compute with

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
        from cvcodec.model.official.cvvae import CVVAE

        return CVVAE(config)
    if config.family == "cvvae-sd3":
        from cvcodec.model.official.diffusers import CVVAESD3

        return CVVAESD3(config)
    if config.family == "autoencoder-kl":
        from cvcodec.model.official.diffusers import ImageVAE

        return ImageVAE(config)
    from cvcodec.model.mini import MiniAutoencoder

    return MiniAutoencoder(config)
