"""The second layer of a mini model: the base layer does not notice it, and the decoder works with and without."""

from __future__ import annotations

import pytest
import torch

from cvcodec.checkpoints.identity import identities
from cvcodec.model.base import Posterior, coded_layers
from cvcodec.model.config import ModelConfig
from cvcodec.model.mini import MiniAutoencoder, mini_config
from cvcodec.training.pca import patches
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


@torch.no_grad()
def test_moments_hold_mean_logvar_and_enhancement_in_this_order(model: MiniAutoencoder, clip: torch.Tensor) -> None:
    moments = model.moments(clip)
    assert moments.shape == (2, 4 + 4 + 6, 3, 2, 3)
    posterior = model.encode(clip)
    torch.testing.assert_close(posterior.mean, moments[:, :4])
    torch.testing.assert_close(posterior.logvar, moments[:, 4:8])
    torch.testing.assert_close(posterior.enhancement, moments[:, 8:])
    torch.testing.assert_close(coded_layers(moments, model.config), torch.cat([moments[:, :4], moments[:, 8:]], 1))
    torch.testing.assert_close(posterior.layers, coded_layers(moments, model.config))


def test_a_posterior_of_one_layer_is_what_it_was() -> None:
    moments = torch.randn(1, 8, 2, 2, 2)
    posterior = Posterior.from_moments(moments)
    assert posterior.enhancement is None
    torch.testing.assert_close(posterior.layers, moments[:, :4])


@torch.no_grad()
def test_the_base_layer_alone_is_a_batch_whose_enhancement_is_not_present(
    model: MiniAutoencoder, clip: torch.Tensor
) -> None:
    layers = model.encode(clip).layers
    alone = model.decode(layers[:, :4])
    mixed = model.decode(layers, present=torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(mixed[0], alone[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed[1], model.decode(layers)[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone, model.decode(layers), atol=1e-3)


@torch.no_grad()
def test_the_decoder_is_told_the_quality_and_takes_none_for_100(model: MiniAutoencoder, clip: torch.Tensor) -> None:
    layers = model.encode(clip).layers
    torch.testing.assert_close(model.decode(layers), model.decode(layers, quality=100))
    assert not torch.allclose(model.decode(layers), model.decode(layers, quality=20), atol=1e-4)
    both = model.decode(layers, quality=torch.tensor([20.0, 100.0]))
    torch.testing.assert_close(both[:1], model.decode(layers[:1], quality=20), atol=1e-5, rtol=1e-5)


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


def test_the_latent_space_id_covers_the_encoders_second_layer_and_the_decoder_hash_the_tails() -> None:
    model = random_model(**LAYERED)
    before = identities(model.config, model.state_dict())
    with torch.no_grad():
        model.encoder.enhancement.shortcut.bias += 1
    between = identities(model.config, model.state_dict())
    assert between[0] != before[0]
    assert between[1] == before[1]
    with torch.no_grad():
        model.decoder.tail_in.bias += 1
    assert identities(model.config, model.state_dict())[1] != before[1]


@torch.no_grad()
def test_a_grown_model_is_the_old_one_on_its_base_layer_and_gains_by_the_second() -> None:
    old = random_model()
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    clips = [
        torch.sin((rows + shift) * frequency + columns * 0.3).expand(3, 5, 24, 24).contiguous()
        for shift in range(4)
        for frequency in (0.2, 0.7, 1.3)
    ]
    new = grown(old, enhancement_channels=6, decoder_tail=4, quality_aware=True, clips=lambda: clips).eval()
    x = torch.stack(clips)
    posterior = new.encode(x)
    torch.testing.assert_close(posterior.mean, old.encode(x).mean)
    torch.testing.assert_close(new.decode(posterior.mean), old.decode(posterior.mean), atol=1e-5, rtol=1e-5)
    lost = (new.decode(posterior.mean) - x).square().mean()
    assert (new.decode(posterior.layers) - x).square().mean() < 0.5 * lost
    # The components are orthonormal but for one gain, so that steps of both layers cost alike.
    assert new.decoder.enhancement is not None
    basis = new.decoder.enhancement.restore.weight
    torch.testing.assert_close(basis.T @ basis, 16 * torch.eye(6), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_along_its_components_a_grown_model_gives_back_exactly_what_it_was_given() -> None:
    torch.manual_seed(5)
    clips = [torch.rand(3, 9, 16, 16) * 2 - 1 for _ in range(4)]
    new = grown(random_model(), enhancement_channels=6, decoder_tail=0, quality_aware=False, clips=lambda: clips).eval()
    x = torch.rand(2, 3, 13, 24, 16) * 2 - 1
    layers = new.encode(x).layers
    assert new.decoder.enhancement is not None
    components = new.decoder.enhancement.restore.weight
    for layer, exact in ((layers, True), (layers[:, :4], False)):
        lost = (patches(new.decode(layer) - x, 4) @ components).unflatten(0, (2, 4, -1))
        # But for the first latent: of its group, which the encoder saw as one frame four times, one is shown.
        assert (lost[:, 1:].abs().max() < 1e-3) == exact


@torch.no_grad()
def test_what_the_base_layer_tells_is_taken_away_and_given_back(model: MiniAutoencoder) -> None:
    above, below = model.encoder.enhancement, model.decoder.enhancement
    assert above is not None
    assert below is not None
    before, rest = below.conv_base.weight.clone(), above.conv_base.weight.clone()
    try:
        clip = torch.rand(1, 3, 9, 16, 16) * 2 - 1
        old = model.encode(clip)
        change = torch.randn(above.conv_base.weight.shape)
        above.conv_base.weight += change
        new = model.encode(clip)
        torch.testing.assert_close(new.mean, old.mean)
        assert not torch.allclose(new.layers, old.layers, atol=1e-2)
        below.conv_base.weight += change
        latent = old.layers.transpose(1, 2).flatten(0, 1)
        moved = new.layers.transpose(1, 2).flatten(0, 1)
        wanted = below.correction(moved, 3, None, None).coded
        below.conv_base.weight.copy_(before)
        torch.testing.assert_close(wanted, below.correction(latent, 3, None, None).coded, atol=1e-4, rtol=1e-4)
    finally:
        below.conv_base.weight.copy_(before)
        above.conv_base.weight.copy_(rest)


def test_a_grown_model_keeps_what_it_has_and_is_refused_another_size() -> None:
    old = random_model(**LAYERED)
    assert grown(old, enhancement_channels=0, decoder_tail=0, quality_aware=False, clips=None) is old
    with pytest.raises(ValueError, match="enhancement_channels = 6 already"):
        grown(old, enhancement_channels=8, decoder_tail=0, quality_aware=False, clips=None)


def test_gradients_reach_every_parameter_of_both_layers(clip: torch.Tensor) -> None:
    model = random_model(**LAYERED)
    posterior = model.encode(clip)
    told = {
        "quality": torch.tensor([30.0, 60.0]),
        "present": torch.tensor([0.0, 1.0]),
        "steps": torch.full((1, 6), 0.1),
    }
    output = model.decode(posterior.layers, **told)
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
    layers = model.encode(clip).layers
    torch.testing.assert_close(model.encode(clip[:, :, :17]).layers, layers[:, :, :5], atol=1e-5, rtol=1e-5)
    reach = model.config.encode_context
    torch.testing.assert_close(
        model.encode(clip[:, :, 4:]).layers[:, :, reach + 1 :], layers[:, :, reach + 2 :], atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_projections_within_the_bounds_of_their_symbols_are_left_and_others_moved_into_them() -> None:
    torch.manual_seed(6)
    clips = [torch.rand(3, 9, 16, 16) * 2 - 1 for _ in range(4)]
    new = grown(random_model(), enhancement_channels=6, decoder_tail=0, quality_aware=False, clips=lambda: clips).eval()
    layer = new.decoder.enhancement
    assert layer is not None
    layers = new.encode(torch.rand(1, 3, 13, 24, 16) * 2 - 1).layers
    step = 0.5
    rounded = torch.cat([layers[:, :4], (layers[:, 4:] / step).round() * step], 1)
    components = layer.restore.weight / 16
    wanted = layer.correction(rounded.transpose(1, 2).flatten(0, 1), 4, None, None).coded[1:].flatten(0, 2)

    def projections(steps: torch.Tensor | None) -> torch.Tensor:
        found = patches(new.decode(rounded, steps=steps), 4).unflatten(0, (4, -1))[1:] @ components * 4
        return found.flatten(0, 1) / 4

    exact, given = projections(None), projections(torch.full((1, 6), step))
    torch.testing.assert_close(exact * 4, wanted * 4, atol=1e-3, rtol=1e-3)
    without = projections(torch.full((1, 6), 1e9))  # every bound is met: nothing is corrected
    inside = (without - wanted).abs() <= step / 2
    assert 0.02 < inside.float().mean() < 0.98
    torch.testing.assert_close(given[inside], without[inside], atol=1e-4, rtol=1e-4)
    moved = (given - wanted)[~inside].abs()
    torch.testing.assert_close(moved, torch.full_like(moved, step / 4), atol=1e-4, rtol=1e-3)  # caution: one half
