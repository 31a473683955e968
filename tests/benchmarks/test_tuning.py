"""Noise, targets and conditioning against diffusers' own schedulers and closed forms; the loop on very small U-Nets."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import denoising
import tune_output_layer
from cvcodec.checkpoints.checkpoint import save_checkpoint
from cvcodec.checkpoints.registry import load_model
from cvcodec.dataset.exporting import export_shards
from cvcodec.dataset.importing import ImportOptions, import_latents
from cvcodec.dataset.index import INDEX_NAME, describe, dump_line
from cvcodec.integrations.diffusers import DiffusersVAE
from recipes import OUTPUT_LAYER
from tests.integrations import tiny_pipelines
from tests.model.test_mini import small_model

CLIPS, LATENTS, SIDE = 4, 3, 4
CAPTIONS = ["a fox", "a hen", "snow", "an owl"]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------------- noise, targets


def test_the_loss_of_edm_is_the_plain_one_of_what_the_network_gives() -> None:
    """Karras et al. 2022, equation 8 and table 1, with sigma_data = 1 and SVD's sign of c_out."""
    latents, noise, output = (drawn(3, 2, 4, 4, 4, seed=seed) for seed in range(3))
    sigma = torch.tensor([0.02, 1.0, 50.0])
    noised = denoising.edm(latents, noise, sigma)
    wide = sigma.view(-1, 1, 1, 1, 1)
    c_skip, c_out, weight = 1 / (wide**2 + 1), -wide / (wide**2 + 1).sqrt(), (wide**2 + 1) / wide**2
    torch.testing.assert_close(weight * c_out**2, torch.ones_like(wide))
    noisy = latents + wide * noise
    torch.testing.assert_close(noised.sample, noisy / (wide**2 + 1).sqrt())
    wanted = weight * (c_skip * noisy + c_out * output - latents) ** 2
    torch.testing.assert_close((output - noised.target) ** 2, wanted, rtol=1e-3, atol=1e-4)


def test_a_network_that_gives_the_target_denoises_in_the_scheduler_of_svd() -> None:
    scheduler = tiny_pipelines.svd_scheduler()
    scheduler.set_timesteps(5)
    latents, noise = drawn(1, 2, 4, 4, 4), drawn(1, 2, 4, 4, 4, seed=1)
    sigma, time = scheduler.sigmas[2], scheduler.timesteps[2]
    noised = denoising.edm(latents, noise, sigma.reshape(1))
    torch.testing.assert_close(noised.timestep, time.reshape(1))
    noisy = latents + sigma * noise
    torch.testing.assert_close(noised.sample, scheduler.scale_model_input(noisy, time))
    found = scheduler.step(noised.target, time, noisy).pred_original_sample
    torch.testing.assert_close(found, latents, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_targets_of_steps_are_closed_forms_and_what_another_scheduler_denoises_with(kind: str) -> None:
    diffusers, _ = tiny_pipelines.diffusers_and_transformers()
    config = {"prediction_type": kind, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    latents, noise, step = drawn(3, 4, 2, 2, 2), drawn(3, 4, 2, 2, 2, seed=1), torch.tensor([0, 500, 999])
    noised = denoising.discrete(diffusers.DDPMScheduler(**config), latents, noise, step)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = torch.from_numpy(np.cumprod(1 - betas)[step.numpy()]).float().view(-1, 1, 1, 1, 1)
    alpha, sigma = kept.sqrt(), (1 - kept).sqrt()
    wanted = {"epsilon": noise, "v_prediction": alpha * noise - sigma * latents, "sample": latents}[kind]
    torch.testing.assert_close(noised.target, wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(noised.sample, alpha * latents + sigma * noise, rtol=1e-3, atol=1e-4)
    other = diffusers.DDIMScheduler(**config, clip_sample=False)
    other.set_timesteps(1000)
    found = other.step(noised.target[1:2], 500, noised.sample[1:2]).pred_original_sample
    torch.testing.assert_close(found, latents[1:2], rtol=1e-3, atol=1e-3)


def test_late_latents_of_videocrafter2_are_smaller() -> None:
    diffusers, _ = tiny_pipelines.diffusers_and_transformers()
    scheduler = diffusers.DDPMScheduler()
    scale = denoising.videocrafter_scale(0.7)
    assert (scale[0], scale[399], scale[999], len(scale)) == (1.0, pytest.approx(0.7), pytest.approx(0.7), 1000)
    latents, noise, step = drawn(2, 4, 2, 2, 2), drawn(2, 4, 2, 2, 2, seed=1), torch.tensor([0, 700])
    noised = denoising.discrete(scheduler, latents, noise, step, scale=scale)
    factors = torch.tensor([1.0, 0.7]).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(noised.sample, scheduler.add_noise(latents * factors, noise, step))
    assert noised.target is noise


# ---------------------------------------------------------------------------------------------------- the loop


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of ours, and a data set of latents with captions."""
    tiny_pipelines.diffusers_and_transformers()
    root = tmp_path_factory.mktemp("tuning")
    save_checkpoint(root / "vae.safetensors", small_model(scaling_factor=0.18215), statistics=None, card={})
    model = load_model(root / "vae.safetensors")
    folder = root / "latents"
    folder.mkdir()
    lines = []
    for clip, caption in enumerate(CAPTIONS):
        plain = drawn(1, 4, 1, 1, 1, seed=clip) + 0.2 * drawn(1, 4, LATENTS, SIDE, SIDE, seed=9 + clip)
        np.save(root / "one.npy", plain.numpy())
        path = folder / f"{clip}.cvl"
        import_latents(root / "one.npy", path, model=model, options=ImportOptions(target="videocrafter2"))
        lines.append(dump_line({**describe(path, folder), "columns": {"caption": caption}}))
    (folder / INDEX_NAME).write_bytes(b"".join(lines))
    export_shards(folder, root / "shards", target="videocrafter2")
    return root


@pytest.fixture(scope="module")
def vae(place: Path) -> DiffusersVAE:
    return DiffusersVAE.from_pretrained(place / "vae.safetensors").requires_grad_(False)


def states(pipeline: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of every model in a pipeline."""
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            yield from ((f"{name}.{key}", value.clone()) for key, value in part.state_dict().items())


def tune(monkeypatch: pytest.MonkeyPatch, pipeline: Any, data: Path, output: Path, *words: object) -> int:
    """The program, with a pipeline that is there already."""
    monkeypatch.setattr(tune_output_layer, "load_pipeline", lambda arguments, takes: pipeline)
    given = ["--pipeline", "x", "--data", str(data), "--output", str(output), "--device", "cpu", "--rate", "0.02"]
    return tune_output_layer.main([*given, *map(str, words)])


def mean_loss(pipeline: Any, latents: int) -> float:
    """Of the same noise, texts and pictures for whatever weights."""
    objective = denoising.objective_of(pipeline, drop=0.0, scale=None, fps=7, motion=127, mean=0.7, std=1.6)
    clips = torch.stack([drawn(4, 1, 1, 1, seed=clip).expand(4, latents, SIDE, SIDE) for clip in range(CLIPS)])
    with torch.no_grad():
        losses = [objective.loss(clips, CAPTIONS, torch.Generator().manual_seed(seed)) for seed in range(4)]
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize(
    ("make", "latents", "dtype"),
    [
        (tiny_pipelines.stable_diffusion, 1, torch.float32),
        (tiny_pipelines.stable_diffusion, 1, torch.bfloat16),
        (tiny_pipelines.text_to_video, 2, torch.float32),
        (tiny_pipelines.stable_video_diffusion, 2, torch.float32),
    ],
)
def test_the_output_layer_learns_and_every_other_number_stays_as_it_was(
    make: Callable[..., Any],
    latents: int,
    dtype: torch.dtype,
    place: Path,
    vae: DiffusersVAE,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = make(vae)
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module) and name != "vae":
            part.to(dtype)
    before, loss = dict(states(pipeline)), mean_loss(pipeline, latents)
    words = ["--latents", latents, "--steps", 24, "--batch", 2, "--every", 12, "--drop", 0]
    words += ["--caption", "caption"] if make is not tiny_pipelines.stable_video_diffusion else []
    assert tune(monkeypatch, pipeline, place / "latents", tmp_path / "run", *words) == 0
    after = dict(states(pipeline))
    changed = {name for name in before if not torch.equal(before[name].to(after[name].dtype), after[name])}
    assert changed == {f"unet.{name}" for name in OUTPUT_LAYER}
    assert mean_loss(pipeline, latents) < 0.95 * loss
    layer = load_file(tmp_path / "run" / "conv_out.safetensors")
    assert all(torch.equal(layer[name], after[f"unet.{name}"]) for name in OUTPUT_LAYER)
    assert all(tensor.dtype == torch.float32 for tensor in layer.values())
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [12, 24]


def test_a_run_that_goes_on_ends_with_the_layer_of_one_that_did_not_stop(
    place: Path, vae: DiffusersVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tiny_pipelines.stable_diffusion(vae, prediction_type="epsilon")

    def run(output: str, steps: int, *words: object) -> int:
        asked = ["--steps", steps, "--every", 3, "--batch", 3, "--seed", 4, *words]  # 4 clips: batches of 3 and 1
        return tune(monkeypatch, copy.deepcopy(made), place / "latents", tmp_path / output, *asked)

    assert run("whole", 7) == 0
    assert run("halves", 3) == 0
    assert run("halves", 7) == 4
    assert "halves holds a run; go on with --resume" in capsys.readouterr().err
    assert run("halves", 7, "--resume") == 0
    assert run("none", 7, "--resume") == 3
    files = [tmp_path / name / "conv_out.safetensors" for name in ("whole", "halves")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert run("whole", 7, "-y", "--seed", 5) == 0
    assert files[0].read_bytes() != files[1].read_bytes()


def test_shards_are_read_that_were_exported_for_the_model_and_others_refused(
    place: Path, vae: DiffusersVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--latents", 2, "--steps", 3, "--batch", 2)
    pipeline = tiny_pipelines.text_to_video(vae)
    assert tune(monkeypatch, pipeline, place / "shards", tmp_path / "a", *words, "--caption", "caption") == 0
    pictures = tiny_pipelines.stable_diffusion(vae)
    assert tune(monkeypatch, pictures, place / "shards", tmp_path / "b", "--steps", 3) == 2
    assert "was exported for videocrafter2; wanted `cvcodec export --for sd21`" in capsys.readouterr().err
    assert tune(monkeypatch, pictures, place / "latents", tmp_path / "b", *words) == 2
    assert "--latents 2: a U-Net for pictures learns from single latents" in capsys.readouterr().err


def test_texts_and_pictures_are_told_unless_they_are_dropped(vae: DiffusersVAE) -> None:
    def loss(pipeline: Any, clips: Tensor, captions: list[str], drop: float) -> float:
        objective = denoising.objective_of(pipeline, drop=drop, scale=None, fps=7, motion=127, mean=0.7, std=1.6)
        return float(objective.loss(clips, captions, torch.Generator().manual_seed(3)).detach())

    clips = drawn(2, 4, 2, SIDE, SIDE)
    pipeline = tiny_pipelines.text_to_video(vae)
    told, dropped = (loss(pipeline, clips, ["a fox", "snow"], drop) for drop in (0.0, 1.0))
    assert told != dropped == loss(pipeline, clips, ["", ""], 0.0)

    pipeline = tiny_pipelines.stable_video_diffusion(vae)
    seen: list[Any] = []
    pipeline.unet.register_forward_pre_hook(lambda _, args, kwargs: seen.append((*args, kwargs)), with_kwargs=True)
    loss(pipeline, clips, ["", ""], 0.0)
    loss(pipeline, clips, ["", ""], 1.0)
    (sample, _, told_it), (same, _, told_nothing) = seen
    assert sample.shape == (2, 2, 8, SIDE, SIDE)
    assert torch.equal(sample[:, :, :4], same[:, :, :4])
    assert torch.equal(sample[:, 0, 4:], sample[:, 1, 4:]) and sample[:, :, 4:].abs().amin() > 0
    assert not same[:, :, 4:].any() and not told_nothing["encoder_hidden_states"].any()
    assert told_it["encoder_hidden_states"].shape == (2, 1, tiny_pipelines.WIDTH)
    fps, motion, noise = told_it["added_time_ids"].T
    assert (fps.tolist(), motion.tolist()) == ([6, 6], [127, 127])
    assert ((noise > 0.005) & (noise < 0.5)).all()
    picture = vae.decode(clips[:, :, 0] / 0.18215).sample.clamp(-1, 1)
    clean = vae.encode(picture).latent_dist.mode()
    error = (sample[:, 0, 4:] - clean).abs().mean() / clean.abs().mean()
    assert 0 < error < 0.5, "the picture's own latents, unscaled, with a little noise"
