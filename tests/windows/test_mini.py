"""The mini model through windows and tiles: equal to the whole clip where the context covers its receptive field."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cvcodec.model.mini import MiniAutoencoder
from cvcodec.windows.specs import Tile, Window
from tests.model.test_mini import clip, small_model
from tests.windows.toys import decode_stream, encode_stream


@pytest.fixture(scope="module")
def model() -> MiniAutoencoder:
    return small_model()


@torch.no_grad()
def test_the_default_contexts_make_windowed_encoding_equal_to_the_whole_clip(model: MiniAutoencoder) -> None:
    pixels = clip(57, 16, 24)
    window = Window(kept=5, context_before=model.config.encode_context)
    windowed = torch.cat(list(encode_stream(model.moments, [pixels], window=window)), dim=2)
    torch.testing.assert_close(windowed, model.moments(pixels), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_one_latent_less_of_context_is_not_enough_for_the_encoder(model: MiniAutoencoder) -> None:
    pixels = clip(57, 16, 24)
    window = Window(kept=5, context_before=model.config.encode_context - 1)
    windowed = torch.cat(list(encode_stream(model.moments, [pixels], window=window)), dim=2)
    assert (windowed - model.moments(pixels)).abs().amax() > 1e-3


@torch.no_grad()
def test_the_default_contexts_make_windowed_decoding_equal_to_the_whole_clip(model: MiniAutoencoder) -> None:
    latent = torch.randn(1, 4, 15, 3, 2, generator=torch.Generator().manual_seed(4))

    def read(start: int, stop: int) -> Tensor:
        return latent[:, :, start:stop]

    context = model.config.decode_context
    window = Window(kept=5, context_before=context, context_after=context)
    windowed = torch.cat(list(decode_stream(model.decode, read, window=window, total=15)), dim=2)
    torch.testing.assert_close(windowed, model.decode(latent), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_tiles_with_enough_context_equal_the_whole_picture(model: MiniAutoencoder) -> None:
    latent = torch.randn(1, 4, 2, 44, 5, generator=torch.Generator().manual_seed(5))
    tile = Tile(size=30, context=12, blend=2)
    window = Window(kept=2, context_before=2, context_after=2)

    def read(start: int, stop: int) -> Tensor:
        return latent[:, :, start:stop]

    tiled = torch.cat(list(decode_stream(model.decode, read, window=window, tile=tile, total=2)), dim=2)
    torch.testing.assert_close(tiled, model.decode(latent), atol=1e-4, rtol=1e-4)
