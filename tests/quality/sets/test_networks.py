"""What networks that a user names are given, against their own preprocessing elsewhere, and what they must answer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cvcodec.errors import CheckpointError, InputError, NumericalError, UsageError
from cvcodec.quality.lpips import Lpips
from cvcodec.quality.sets.networks import Clip, I3d, Inception, Pairs, Script
from tests.quality.sets import scripts

CPU = torch.device("cpu")


def pictures(count: int, height: int, width: int) -> Tensor:
    random = torch.Generator().manual_seed(count)
    small = torch.rand(count, 3, height // 4 + 1, width // 4 + 1, generator=random) * 255
    grown = torch.nn.functional.interpolate(small, (height, width), mode="bicubic", align_corners=False)
    return grown.clamp(0, 255).to(torch.uint8)


def test_i3d_sees_the_middle_of_a_clip_of_224_pixels_in_minus_one_to_one(tmp_path: Path) -> None:
    network = I3d(scripts.save(scripts.ClipMeans(), tmp_path / "i3d.pt"), CPU)
    clip = torch.zeros(10, 3, 224, 448, dtype=torch.uint8)
    clip[..., 112:336] = 255  # what lies beside the middle is not seen
    clip[0] = 0
    features = network.features(clip)
    assert features.shape == (1, 6)
    np.testing.assert_allclose(features[0], [0.8] * 3 + [2.0] * 3, atol=1e-6)
    assert network.features(pictures(9, 40, 60)).shape == (1, 6)


def test_a_name_is_that_of_the_file_and_the_start_of_its_hash(tmp_path: Path) -> None:
    path = scripts.save(scripts.ClipMeans(), tmp_path / "i3d.pt")
    assert I3d(path, CPU).name == f"i3d.pt {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


@pytest.mark.parametrize("network", [scripts.PictureMeans(), scripts.FirstOfTwo()], ids=["stylegan", "torch-fidelity"])
def test_inception_sees_every_picture_as_it_is(tmp_path: Path, network: torch.nn.Module) -> None:
    seen = pictures(11, 20, 36)
    features = Inception(scripts.save(network, tmp_path / "inception.pt"), CPU).features(seen)
    np.testing.assert_allclose(features, seen.numpy().astype(np.float64).mean((2, 3)), rtol=1e-5)


def test_pairs_are_measured_at_224_pixels_by_a_script_and_at_their_own_size_by_lpips(tmp_path: Path) -> None:
    others = pictures(9, 64, 96)
    script = Pairs(Script(scripts.save(scripts.Differences(), tmp_path / "dreamsim.pt"), CPU), CPU)
    distances = script.distances(others[2:3], others)
    assert distances.shape == (9,) and float(distances[2]) == 0 and float(distances.min()) == 0
    assert float(distances[0]) > 0.01
    pytest.importorskip("stlpips_pytorch")
    lpips = Lpips.load("alex", "shift-tolerant")
    few = pictures(2, 24, 32)
    expected = lpips((few[:1].float() / 127.5 - 1).expand_as(few), few.float() / 127.5 - 1)
    np.testing.assert_allclose(Pairs(lpips, CPU).distances(few[:1], few), expected, rtol=1e-4, atol=1e-7)
    with pytest.raises(UsageError, match="takes no 16x16 pixels, 21 on each side"):
        Pairs(lpips, CPU).distances(others[:1], pictures(1, 16, 16))


@pytest.mark.parametrize(
    ("network", "error", "said"),
    [
        (
            scripts.Maps(),
            CheckpointError,
            r"n\.pt answers \(2, 3, 8, 8\); wanted \(N, D\): features",
        ),
        (
            scripts.OneRow(),
            CheckpointError,
            r"n\.pt answers \(2, 3, 8, 8\) uint8 with \(1, 3\); wanted one row for each",
        ),
        (scripts.NotFinite(), NumericalError, r"n\.pt answers .* not finite"),
        (scripts.Differences(), CheckpointError, r"n\.pt does not take \(2, 3, 8, 8\) uint8: .*"),
    ],
)
def test_what_is_no_network_of_features_is_named(
    tmp_path: Path, network: torch.nn.Module, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as found:
        Inception(scripts.save(network, tmp_path / "n.pt"), CPU).features(pictures(2, 8, 8))
    assert "\n" not in str(found.value)


def test_files_that_are_no_networks_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pt cannot be read: No such file or directory; networks are no"):
        I3d(tmp_path / "none.pt", CPU)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"weights\.pt is no TorchScript file"):
        I3d(tmp_path / "weights.pt", CPU)


def test_clip_sees_what_its_own_processor_makes_of_pictures_and_captions(tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    folder = scripts.save_clip(tmp_path / "tiny-clip")
    clip = Clip(str(folder), CPU)
    assert clip.name.startswith("tiny-clip ") and len(clip.name) == len("tiny-clip ") + 8
    seen = pictures(9, 50, 70)
    size = {"shortest_edge": 32}
    processor = transformers.CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32})
    inputs = processor([picture.permute(1, 2, 0).numpy() for picture in seen], return_tensors="pt")
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        pixels = model.get_image_features(**inputs)
    expected = torch.nn.functional.normalize(getattr(pixels, "pooler_output", pixels), dim=-1)
    found = clip.of_pictures(seen)
    assert float((found * expected).sum(dim=1).min()) > 0.999  # PIL's bicubic filter rounds otherwise
    text = clip.of_text("a cat, on a very long mat that does not fit")
    assert text.shape == (8,) and float(text.norm()) == pytest.approx(1)
    assert not torch.equal(text, clip.of_text("dog"))


def test_a_clip_model_that_is_not_here_is_not_downloaded(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(InputError, match=r"no CLIP model is at .*none \(.*\); nothing is downloaded"):
        Clip(str(tmp_path / "none"), CPU)
