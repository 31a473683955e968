"""The specification's tables against the names and shapes recorded from the official classes."""

import json
from pathlib import Path

import pytest

from tests.checkpoints.official_shapes import autoencoder

PARITY = Path(__file__).parents[1] / "fixtures" / "parity"


@pytest.mark.parametrize(("file", "style", "channels"), [("cvvae_z4", "ldm", 4), ("cvvae_sd3_z16", "diffusers", 16)])
def test_the_tables_give_the_names_and_shapes_of_the_official_classes(file: str, style: str, channels: int) -> None:
    recorded = json.loads((PARITY / f"{file}.json").read_text())["shapes"]
    assert autoencoder((32, 64, 128, 128), 2, channels, style=style, dims=3) == {
        name: tuple(shape) for name, shape in recorded.items()
    }


def test_the_tables_give_the_published_tensor_and_parameter_counts_of_2d_vaes() -> None:
    sd = autoencoder((128, 256, 512, 512), 2, 4, style="diffusers", dims=2, quant=True)
    sd3 = autoencoder((128, 256, 512, 512), 2, 16, style="diffusers", dims=2)
    assert (len(sd), _elements(sd)) == (248, 83_653_863)
    assert (len(sd3), _elements(sd3)) == (244, 83_819_683)


def _elements(shapes: dict[str, tuple[int, ...]]) -> int:
    total = 0
    for shape in shapes.values():
        count = 1
        for side in shape:
            count *= side
        total += count
    return total
