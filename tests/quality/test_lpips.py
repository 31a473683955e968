"""LPIPS against numbers of the original programs.

The numbers named ORIGINAL_* came from the authors' own forward functions (lpips 0.1.4, stlpips-pytorch 0.0.2, torch
2.13 on a CPU) on the pictures of `tests.pictures`; for standard LPIPS, whose backbone files are large, the backbone had
the seeded weights of `_seeded` and the linear weights were the published ones.
"""

import hashlib
import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cvcodec.errors import CheckpointError, MissingDependencyError
from cvcodec.quality import backbones, lpips_weights
from cvcodec.quality.lpips import Lpips
from tests.pictures import degraded, pattern

SIZES = ((64, 80), (97, 123))
ORIGINAL_SHIFT_TOLERANT = {
    "alex": (0.32480478286743164, 0.2634347677230835),
    "vgg": (0.3072148561477661, 0.36632344126701355),
}
ORIGINAL_STANDARD = {
    "alex": (0.010334601625800133, 0.009667199105024338),
    "vgg": (0.016420455649495125, 0.014986690133810043),
    "squeeze": (0.021646052598953247, 0.021714380010962486),
}

needs_shift_tolerant = pytest.mark.skipif(
    lpips_weights.installed_shift_tolerant("alex") is None, reason="stlpips-pytorch is not installed"
)


def _pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    image = pattern(height, width, 3)
    pictures = [
        torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        for pixels in (image, degraded(image, 3))
    ]
    return pictures[0], pictures[1]


def _seeded(extractor: backbones.Backbone) -> dict[str, Tensor]:
    """Stand-in weights in torchvision's key order: entry i from seed i, He-scaled; biases a tenth of normal."""
    state = {}
    for index, (key, value) in enumerate(extractor.state_dict().items()):
        rng = np.random.default_rng(index)
        spread = (2 / np.prod(value.shape[1:])) ** 0.5 if value.ndim == 4 else 0.1
        state[key] = torch.from_numpy((rng.standard_normal(tuple(value.shape)) * spread).astype(np.float32))
    return state


def _standard(net: str) -> Lpips:
    extractor = backbones.build_standard(net)
    extractor.load_state_dict(_seeded(extractor))
    return Lpips(extractor, lpips_weights.read_linear(net), f"seeded-{net}")


@pytest.fixture(scope="module")
def small() -> Lpips:
    """The quickest network."""
    return _standard("squeeze")


@needs_shift_tolerant
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_shift_tolerant_distances_equal_the_original_program(net: str) -> None:
    before = set(sys.modules)  # of the same process, other tests may have imported anything
    metric = Lpips.load(net, "shift-tolerant")
    assert metric.name == f"st-lpips-{net}"
    for size, expected in zip(SIZES, ORIGINAL_SHIFT_TOLERANT[net], strict=True):
        with torch.inference_mode():
            assert metric(*_pair(*size)).item() == pytest.approx(expected, rel=1e-5)
    assert not {"stlpips_pytorch", "torchvision", "IPython"} & (set(sys.modules) - before)


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_standard_distances_equal_the_original_program(net: str) -> None:
    metric = _standard(net)
    for size, expected in zip(SIZES, ORIGINAL_STANDARD[net], strict=True):
        with torch.inference_mode():
            assert metric(*_pair(*size)).item() == pytest.approx(expected, rel=1e-4)


def test_linear_weights_are_the_published_ones() -> None:
    sums = {
        net: [weight.sum().item() for weight in lpips_weights.read_linear(net)] for net in ("alex", "vgg", "squeeze")
    }
    assert sums["alex"] == pytest.approx([2.34953, 16.14303, 39.26844, 27.19718, 20.31718], abs=1e-4)
    assert sums["vgg"] == pytest.approx([6.92599, 8.85833, 17.51501, 51.52132, 47.03485], abs=1e-4)
    assert sums["squeeze"] == pytest.approx(
        [5.69010, 1.18528, 16.32656, 71.01263, 37.37072, 24.26287, 17.59055], abs=1e-4
    )
    notice = Path(lpips_weights.__file__).with_name("lpips_v0.1_linear.LICENSE.txt").read_text(encoding="utf-8")
    assert "Copyright (c) 2018, Richard Zhang" in notice


def test_blur_pool_is_a_reflected_binomial_filter() -> None:
    x = np.random.default_rng(0).standard_normal((7, 6))
    padded = np.pad(x, 2, mode="reflect")
    taps = np.outer([1, 2, 1], [1, 2, 1]) / 16
    expected = [
        [(padded[i : i + 3, j : j + 3] * taps).sum() for j in range(0, padded.shape[1] - 2, 2)]
        for i in range(0, padded.shape[0] - 2, 2)
    ]
    blurred = backbones.BlurPool(2).double()(torch.from_numpy(np.stack([x, 2 * x]))[None])
    np.testing.assert_allclose(blurred[0, 0].numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(blurred[0, 1].numpy(), 2 * np.asarray(expected), atol=1e-12)


@pytest.mark.parametrize(
    ("build", "net"),
    [(backbones.build_standard, net) for net in backbones.STANDARD]
    + [(backbones.build_shift_tolerant, net) for net in backbones.SHIFT_TOLERANT],
)
def test_the_minimum_side_is_where_the_layers_run_out(build: type(_standard), net: str) -> None:
    extractor = build(net)
    side = extractor.architecture.minimum_side
    with torch.inference_mode():
        maps = extractor(torch.zeros(1, 3, side, side))
        assert tuple(features.shape[1] for features in maps) == extractor.architecture.channels
        with pytest.raises(RuntimeError):
            extractor(torch.zeros(1, 3, side - 1, side - 1))


def test_smaller_pictures_are_refused_by_name_and_size(small: Lpips) -> None:
    x = torch.zeros(1, 3, 40, small.minimum_side - 1)
    with pytest.raises(ValueError, match=r"seeded-squeeze needs at least 17x17 pixels, got 16x40"):
        small(x, x)
    with pytest.raises(ValueError, match="one shape wanted"):
        small(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 33))
    with pytest.raises(ValueError, match="one shape wanted"):
        small(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_identical_pictures_have_distance_zero_and_finite_gradients(small: Lpips) -> None:
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)
    distance = small(x, x.detach().clone())
    assert distance.item() == 0.0
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    assert bool(gradient.isfinite().all())


def test_a_feature_vector_of_zeros_gives_no_nan() -> None:
    metric = _standard("squeeze")
    for parameter in metric.backbone.parameters():
        parameter.zero_()
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    distance = metric(x, torch.rand(1, 3, 32, 32))
    assert distance.item() == 0.0
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    assert gradient.abs().max().item() == 0.0


def test_gradients_of_both_sides_agree_with_finite_differences() -> None:
    metric = _standard("squeeze").double()
    generator = torch.Generator().manual_seed(0)
    x, y, u, v = torch.rand(4, 1, 3, 24, 25, dtype=torch.float64, generator=generator) * 2 - 1
    x.requires_grad_()
    y.requires_grad_()
    gradients = torch.autograd.grad(metric(x, y).sum(), (x, y))
    slope = sum((g * direction).sum() for g, direction in zip(gradients, (u, v), strict=True))
    step = 1e-6
    with torch.no_grad():
        difference = (metric(x + step * u, y + step * v) - metric(x - step * u, y - step * v)).item() / (2 * step)
    assert float(slope) == pytest.approx(difference, rel=1e-4)


def test_it_stays_frozen_and_in_eval_mode_inside_a_model_being_trained(small: Lpips) -> None:
    model = torch.nn.ModuleDict({"loss": small}).train()
    assert not small.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_items_of_a_batch_and_memory_formats_give_the_same_numbers(small: Lpips) -> None:
    x, y = _pair(*SIZES[0])
    batch_x, batch_y = torch.cat([x, y.flip(-1)]), torch.cat([y, x])
    alone = torch.cat([small(a[None], b[None]) for a, b in zip(batch_x, batch_y, strict=True)])
    assert small(batch_x, batch_y).shape == (2,)
    torch.testing.assert_close(small(batch_x, batch_y), alone, rtol=1e-5, atol=0)
    channels_last = [side.contiguous(memory_format=torch.channels_last) for side in (batch_x, batch_y)]
    torch.testing.assert_close(small(*channels_last), alone, rtol=1e-5, atol=0)


def test_bf16_autocast_returns_float32_near_the_full_result(small: Lpips) -> None:
    x, y = _pair(*SIZES[0])
    with torch.autocast("cpu", torch.bfloat16):
        low = small(x, y)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, small(x, y), rtol=0.05, atol=0)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for torchvision's squeezenet file, its name carrying its true checksum, on a "server"; no cache."""
    extractor = backbones.build_standard("squeeze")
    state = {**_seeded(extractor), "classifier.1.weight": torch.zeros(10, 512, 1, 1)}
    source = tmp_path / "server"
    source.mkdir()
    torch.save(state, source / "file")
    digest = hashlib.sha256((source / "file").read_bytes()).hexdigest()
    path = (source / "file").rename(source / f"squeezenet1_1-{digest[:8]}.pth")
    monkeypatch.setitem(lpips_weights.BACKBONE_FILES, "squeeze", path.name)
    monkeypatch.setattr(lpips_weights, "BACKBONE_URL", source.as_uri() + "/")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return path


def test_a_backbone_is_taken_from_a_path_the_cache_or_a_download_and_named(published: Path) -> None:
    x, y = _pair(*SIZES[0])
    by_path = Lpips.load("squeeze", backbone=published)
    assert by_path.name == "lpips-squeeze-v0.1"
    assert by_path(x, y).item() == pytest.approx(ORIGINAL_STANDARD["squeeze"][0], rel=1e-4)
    with pytest.raises(MissingDependencyError, match="allow the download"):
        Lpips.load("squeeze")
    assert Lpips.load("squeeze", download=True).name == "lpips-squeeze-v0.1"
    published.unlink()
    assert Lpips.load("squeeze").name == "lpips-squeeze-v0.1"


def test_a_file_that_is_not_the_published_one_is_refused(published: Path, tmp_path: Path) -> None:
    other = tmp_path / published.name
    other.write_bytes(published.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match=r"is not torchvision's squeezenet1_1-"):
        Lpips.load("squeeze", backbone=other)
    with pytest.raises(CheckpointError, match="cannot read"):
        Lpips.load("squeeze", backbone=tmp_path / "absent.pth")


def test_a_damaged_download_leaves_nothing_in_the_cache(published: Path) -> None:
    published.write_bytes(b"not it")
    with pytest.raises(CheckpointError, match="is not squeezenet1_1-"):
        Lpips.load("squeeze", download=True)
    assert not lpips_weights.cached_backbone("squeeze").exists()


def test_an_unreachable_server_says_what_to_do(published: Path) -> None:
    published.unlink()
    with pytest.raises(MissingDependencyError, match="could not download"):
        Lpips.load("squeeze", download=True)


@needs_shift_tolerant
def test_auto_prefers_a_cached_standard_backbone_and_never_mixes_names(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Lpips.load("alex").name == "st-lpips-alex"
    extractor = backbones.build_standard("alex")
    cache = lpips_weights.cached_backbone("alex")
    cache.parent.mkdir(parents=True)
    torch.save(_seeded(extractor), cache)
    with pytest.raises(CheckpointError, match=r"is not torchvision's alexnet-owt-7be5be79\.pth"):
        Lpips.load("alex")
    digest = hashlib.sha256(cache.read_bytes()).hexdigest()
    monkeypatch.setitem(lpips_weights.BACKBONE_FILES, "alex", f"alexnet-owt-{digest[:8]}.pth")
    cache.rename(lpips_weights.cached_backbone("alex"))
    assert Lpips.load("alex").name == "lpips-alex-v0.1"
    assert Lpips.load("alex", "shift-tolerant").name == "st-lpips-alex"


@needs_shift_tolerant
def test_changed_shift_tolerant_weights_are_refused(tmp_path: Path) -> None:
    source = lpips_weights.installed_shift_tolerant("alex")
    assert source is not None
    changed = tmp_path / source.name
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"is not alex_shift_tolerant\.pth of stlpips-pytorch"):
        Lpips.load("alex", "shift-tolerant", backbone=changed)


def test_without_any_weights_the_error_names_the_extra(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    for variant in ("auto", "shift-tolerant"):
        with pytest.raises(MissingDependencyError, match=r"pip install cvcodec\[lpips\]") as caught:
            Lpips.load("alex", variant)
        assert "\n" not in str(caught.value)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="resnet"):
        Lpips.load("resnet")
    with pytest.raises(ValueError, match="shift-tolerant LPIPS has no"):
        Lpips.load("squeeze", "shift-tolerant")
