"""The enhancement layer of a mini model: what its decoder leaves over and adds again; and what else it may have."""

from __future__ import annotations

import pytest
import torch

from cvcodec.checkpoints.identity import identities
from cvcodec.model.config import ModelConfig
from cvcodec.model.mini import MiniAutoencoder, mini_config
from cvcodec.training.pca import patches, with_enhancement, without_enhancement
from cvcodec.training.start import grown

SMALL = {"widths": (8, 8, 8), "encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1), "decoder_temporal": (0, 1, 0)}


def random_model(**changes: object) -> MiniAutoencoder:
    torch.manual_seed(3)
    model = MiniAutoencoder(mini_config(4, **{**SMALL, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


LAYERED = {"enhancement_channels": 6, "decoder_tail": 4, "quality_aware": True}


@pytest.fixture(scope="module")
def model() -> MiniAutoencoder:
    return random_model(**LAYERED)


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    torch.manual_seed(4)
    return torch.rand(2, 3, 9, 16, 24) * 2 - 1


def left_over_clips() -> list[torch.Tensor]:
    """Clips of waves: what a bad decoder would leave over."""
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(16.0), indexing="ij")
    return [
        torch.sin((rows + shift) * frequency + columns * 0.3).expand(1, 3, 9, 24, 16).contiguous()
        for shift in range(4)
        for frequency in (0.2, 0.7, 1.3)
    ]


@torch.no_grad()
def test_moments_are_of_the_base_layer(model: MiniAutoencoder, clip: torch.Tensor) -> None:
    assert model.moments(clip).shape == (2, 4 + 4, 3, 2, 3)
    assert model.encode(clip).mean.shape == (2, 4, 3, 2, 3)


@torch.no_grad()
def test_the_layer_is_the_products_of_patches_with_its_basis(clip: torch.Tensor) -> None:
    model = with_enhancement(random_model(), 6, left_over_clips())
    basis = model.decoder.enhancement.basis
    torch.testing.assert_close(basis @ basis.T, torch.eye(6), atol=1e-4, rtol=1e-4)
    wanted = (patches(clip, 4) @ basis.T).unflatten(0, (2, 3, 2, 3)).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(model.enhancement(clip), wanted, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="no enhancement layer"):
        random_model().enhancement(clip)


@torch.no_grad()
def test_with_the_layer_the_decoder_gives_the_projections_of_the_source_and_adds_nothing_else() -> None:
    old = random_model()
    model = with_enhancement(old, 6, left_over_clips())
    x = torch.rand(2, 3, 13, 24, 16) * 2 - 1
    base = model.encode(x).mean
    torch.testing.assert_close(model.decode(base), old.decode(base))
    above = model.enhancement(x - model.decode(base))
    lost = patches(x - model.decode(torch.cat([base, above], 1)), 4)
    before, basis = patches(x - model.decode(base), 4), model.decoder.enhancement.basis
    # But for the first latent: of its group, which was compared as one frame four times, one is shown.
    along, across = ((rows @ basis.T).unflatten(0, (2, 4, -1))[:, 1:] for rows in (lost, before))
    assert along.abs().max() < 1e-3 < across.abs().max()
    rest = [rows - rows @ basis.T @ basis for rows in (lost, before)]
    torch.testing.assert_close(*(rows.unflatten(0, (2, 4, -1))[:, 1:] for rows in rest), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_basis_of_what_is_left_over_brings_back_most_of_it() -> None:
    model = with_enhancement(random_model(), 12, left_over_clips())
    for clip in left_over_clips():
        base = torch.zeros(1, 4, 3, 3, 2)
        made = model.decode(base)
        both = model.decode(torch.cat([base, model.enhancement(clip)], 1)) - made
        assert (clip - both)[:, :, 1:].square().mean() < 0.1 * clip.square().mean()


@torch.no_grad()
def test_a_model_without_its_layer_is_the_one_it_was_made_of(clip: torch.Tensor) -> None:
    old = random_model(decoder_tail=4, quality_aware=True)
    new = without_enhancement(with_enhancement(old, 6, left_over_clips()))
    assert new.config == old.config
    assert identities(new.config, new.state_dict()) == identities(old.config, old.state_dict())
    torch.testing.assert_close(new.decode(new.encode(clip).mean), old.decode(old.encode(clip).mean))


@torch.no_grad()
def test_the_decoder_is_told_the_quality_and_takes_none_for_100(model: MiniAutoencoder, clip: torch.Tensor) -> None:
    base = model.encode(clip).mean
    torch.testing.assert_close(model.decode(base), model.decode(base, quality=100))
    assert not torch.allclose(model.decode(base), model.decode(base, quality=20), atol=1e-4)
    both = model.decode(base, quality=torch.tensor([20.0, 100.0]))
    torch.testing.assert_close(both[:1], model.decode(base[:1], quality=20), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_tail_sees_nothing_of_the_other_frames_of_its_group() -> None:
    model, changed = random_model(decoder_tail=4), random_model(decoder_tail=4)
    assert changed.decoder.tail_out is not None
    changed.decoder.tail_out.weight[: 3 * 4] += 1.0  # the first frame's outputs: 3 colours of 2x2 pixels
    latent = torch.randn(1, 4, 3, 2, 3)
    difference = (changed.decode(latent) - model.decode(latent)).abs().amax((0, 1, 3, 4))
    assert [bool(value > 1e-4) for value in difference] == [False, *[True, False, False, False] * 2]


def test_a_latent_of_another_number_of_channels_is_refused(model: MiniAutoencoder) -> None:
    with pytest.raises(ValueError, match="latent"):
        model.decode(torch.zeros(1, 7, 3, 2, 3))


@pytest.mark.parametrize("changes", [{"enhancement_channels": 4}, {"decoder_tail": 4}, {"quality_aware": True}])
def test_only_a_mini_video_model_has_layers(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="only cvvae-mini"):
        mini_config(4, video=False, **changes)


def test_configs_of_one_layer_keep_the_digest_they_had_before_there_were_two() -> None:
    values = mini_config(4).to_dict()
    assert not {"enhancement_channels", "decoder_tail", "quality_aware"} & set(values)
    layered = mini_config(4, **LAYERED)
    assert ModelConfig.from_dict(layered.to_dict()) == layered
    assert layered.digest() != mini_config(4).digest()


def test_the_decoder_hash_covers_the_layer_and_the_tails_and_the_latent_space_id_neither() -> None:
    plain, model = random_model(), random_model(**LAYERED)
    space, decoder = identities(model.config, model.state_dict())
    assert space == identities(plain.config, {**plain.state_dict(), **encoder_of(model)})[0]
    for parameter in (model.decoder.enhancement.basis, model.decoder.tail_in.bias):
        with torch.no_grad():
            parameter += 1
        changed = identities(model.config, model.state_dict())
        assert changed[0] == space
        assert changed[1] != decoder
        decoder = changed[1]


def encoder_of(model: MiniAutoencoder) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith("encoder.")}


@torch.no_grad()
def test_a_grown_model_computes_what_it_did_and_is_refused_another_size(clip: torch.Tensor) -> None:
    old = random_model()
    new = grown(old, decoder_tail=4, quality_aware=True).eval()
    torch.testing.assert_close(new.encode(clip).mean, old.encode(clip).mean)
    latent = old.encode(clip).mean
    torch.testing.assert_close(new.decode(latent), old.decode(latent), atol=1e-5, rtol=1e-5)
    assert grown(new, quality_aware=True) is new
    with pytest.raises(ValueError, match="decoder_tail = 4 already"):
        grown(new, decoder_tail=8)


def test_gradients_reach_every_parameter(clip: torch.Tensor) -> None:
    model = random_model(**LAYERED)
    posterior = model.encode(clip)
    layers = torch.cat([posterior.mean, torch.ones(2, 6, 3, 2, 3)], 1)
    output = model.decode(layers, quality=torch.tensor([30.0, 60.0]))
    (output.square().mean() + posterior.logvar.square().mean()).backward()
    without = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@torch.no_grad()
def test_later_frames_change_no_latent_and_earlier_ones_only_within_the_context(
    model: MiniAutoencoder,
) -> None:
    clip = torch.rand(1, 3, 33, 16, 16) * 2 - 1
    mean = model.encode(clip).mean
    torch.testing.assert_close(model.encode(clip[:, :, :17]).mean, mean[:, :, :5], atol=1e-5, rtol=1e-5)
    reach = model.config.encode_context
    torch.testing.assert_close(
        model.encode(clip[:, :, 4:]).mean[:, :, reach + 1 :], mean[:, :, reach + 2 :], atol=1e-5, rtol=1e-5
    )
