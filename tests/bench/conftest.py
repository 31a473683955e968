"""A weights file so small that a benchmark of it takes no time."""

import pytest

from cvcodec.bench.harness import random_model
from cvcodec.checkpoint import save_checkpoint
from cvcodec.model.mini import mini_config


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = mini_config(4, widths=(8, 8, 8), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), window_latents=4)
    model = random_model(config, "tiny")
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, model, statistics=model.statistics, card={})
    return str(path)
