"""Whole runs, tiny: exact resume, interruption, several processes, frozen halves, what lies in the run folder."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cvcodec.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from cvcodec.checkpoints.registry import load_model
from cvcodec.errors import CheckpointError, UsageError
from cvcodec.model import ModelConfig, build_model
from cvcodec.quantization import ENHANCEMENT_STEP
from cvcodec.training import trainer
from cvcodec.training.config import Job, TrainConfig
from cvcodec.training.log import read_log
from cvcodec.training.run_folder import load_state, resumed_values, write_config
from cvcodec.training.trainer import Result, Trainer, train

TINY: dict[str, Any] = {
    "steps": 4,
    "batches": ("2x5x32",),
    "latent_channels": 4,
    "widths": (8, 16, 24),
    "encoder_blocks": (1, 1, 1),
    "decoder_blocks": (1, 1, 1),
    "pca": False,
    "precision": "fp32",
    "log_every": 1,
    "validation_lpips": False,
    "validation_frames": 5,
    "validation_side": 40,
    "validation_qualities": (75.0,),
    "statistics_clips": 2,
    "curves": False,
    "warmup_steps": 2,
}


def settings(media: Path, output: Path, **changes: Any) -> TrainConfig:
    return TrainConfig.of(**{**TINY, "data": (str(media / "manifest.tsv"),), "output": str(output), **changes})


def run(job: Job, config: TrainConfig) -> Result:
    torch.manual_seed(int(time.monotonic() * 1000) % 1000)  # nothing may depend on the global generator's state
    return train(job, config)


def events(folder: Path, event: str) -> list[dict[str, Any]]:
    return [line for line in read_log(folder) if line["event"] == event]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


class StopAfter(threading.Event):
    """Set once it was asked `steps` times."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("variant", ["codec", "paper with discriminator, in two parts", "muon, two shapes"])
def test_two_steps_and_two_resumed_ones_equal_four_bit_for_bit(
    media: Path, image_vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    changes: dict[str, Any] = {"image_vae": str(image_vae), "encoder_blocks": (), "decoder_blocks": ()}
    if variant.startswith("paper"):
        changes |= {"loss": "paper", "perceptual_weight": 0.0, "discriminator_width": 32, "adversarial_start": 2}
        changes |= {"accumulate": 2}
    if variant.startswith("muon"):
        changes = {"regularization": "none", "widths": (64, 64, 64), "batches": ("2x5x16", "1x9x16*0.5", "2x1x16@0.7")}
    whole = run("video-vae", settings(media, tmp_path / "whole", **changes))
    assert whole.finished

    loop = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self, event: loop(self, StopAfter(2)))
    stopped = run("video-vae", settings(media, tmp_path / "parts", **changes))
    assert (stopped.finished, stopped.step) == (False, 2)
    monkeypatch.setattr(Trainer, "run", loop)
    resumed = run("video-vae", settings(media, tmp_path / "parts", **changes, resume=True))
    assert (resumed.finished, resumed.step) == (True, 4)

    one, other = load_state(tmp_path / "whole"), load_state(tmp_path / "parts")
    for part in ("model", "average", "objective", "optimizers", "adversary", "unit_step", "step"):
        assert same(one[part], other[part]), part
    assert resumed.validation == whole.validation
    losses = [[line["loss"] for line in events(tmp_path / name, "train")] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_a_step_in_parts_is_the_step_of_all_its_clips_at_once(media: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"regularization": "none", "optimizer": "adamw", "epsilon": 1e-3, "batches": ("4x5x16",)}
    changes |= {"validate_first": False, "validation_clips": 1}
    for parts in (1, 4):
        run("video-vae", settings(media, tmp_path / str(parts), steps=1, accumulate=parts, **changes))
    for name in ("loss", "psnr_db", "bits_per_pixel", "kl_per_element_nats"):
        whole, in_parts = ([line[name] for line in events(tmp_path / parts, "train")] for parts in "14")
        assert whole == pytest.approx(in_parts, rel=1e-4), name
    moved, also = (load_state(tmp_path / parts)["optimizers"][0]["state"] for parts in "14")
    for number in moved:  # AdamW's first moment: the mean gradients of the steps
        mean = moved[number]["exp_avg"]
        assert torch.allclose(mean, also[number]["exp_avg"], rtol=1e-3, atol=1e-4 * float(mean.abs().max())), number


def test_clips_that_parts_cannot_share_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"batches of 2 clips cannot be shared by 1 processes in 3 parts"):
        run("video-vae", settings(tmp_path / "no data", tmp_path / "run", accumulate=3))


def test_the_rest_is_expected_to_go_as_what_this_process_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: 1000.0 + 60 * 6))
    state = SimpleNamespace(_began=1000.0, _begun_at=0.2, progress=0.5)  # six minutes for three tenths of the run
    assert trainer.minutes_left(state) == pytest.approx(10.0)  # type: ignore[arg-type]
    state.progress = 0.2
    assert trainer.minutes_left(state) is None  # type: ignore[arg-type]


def test_clips_kept_on_the_device_train_as_those_of_the_cpu(media: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"regularization": "none", "optimizer": "adamw", "epsilon": 1e-4, "photo_share": 0.3}
    for where in ("no", "yes"):
        run("video-vae", settings(media, tmp_path / where, data_on_device=where, **changes))
    for name in ("loss", "psnr_db", "bits_per_pixel"):
        on_cpu, on_device = ([line[name] for line in events(tmp_path / where, "train")] for where in ("no", "yes"))
        assert on_cpu == pytest.approx(on_device, rel=1e-4), name
    assert "GB of them on cpu" in events(tmp_path / "yes", "note")[-1]["text"]


def test_the_weights_of_a_run_get_an_enhancement_layer_and_a_run_from_them_makes_it_anew(
    media: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"regularization": "none", "steps": 1, "store": "fp32"}
    run("video-vae", settings(media, tmp_path / "a", enhancement_channels=6, quality_aware=True, **changes))
    path = tmp_path / "a" / "model.safetensors"
    checkpoint = load_checkpoint(path)
    assert checkpoint.config.enhancement_channels == 6
    basis = checkpoint.state_dict["decoder.enhancement.basis"]
    torch.testing.assert_close(basis @ basis.T, torch.eye(6), atol=1e-4, rtol=1e-4)
    assert checkpoint.statistics is not None
    assert checkpoint.statistics.unit_step == pytest.approx((0.68,) * 4 + (ENHANCEMENT_STEP,) * 6)
    deviations = checkpoint.statistics.std[4:]
    assert deviations[0] == max(deviations)  # the components come strongest first
    run("finetune", settings(media, tmp_path / "b", init=str(path), freeze="encoder", rate=0.1, **changes))
    again = load_checkpoint(tmp_path / "b" / "model.safetensors")
    assert again.config == checkpoint.config
    assert again.latent_space_id == checkpoint.latent_space_id
    assert again.statistics is not None
    assert again.statistics.base(4) == checkpoint.statistics.base(4)
    assert not torch.equal(again.state_dict["decoder.enhancement.basis"], basis)


def test_a_run_leaves_weights_with_statistics_a_card_a_log_and_a_grid(media: Path, tmp_path: Path) -> None:
    result = run(
        "image-vae",
        settings(media, tmp_path, batches=("2x1x32",), regularization="none", pca=True, name="twin", curves=True),
    )
    checkpoint = load_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.config.family == "image-vae-mini"
    assert checkpoint.statistics is not None
    assert checkpoint.statistics.unit_step == pytest.approx((0.68,) * 4)
    assert all(tensor.dtype == torch.float16 for tensor in checkpoint.state_dict.values())
    assert checkpoint.card["name"] == "twin"
    assert checkpoint.card["steps"] == 4
    assert checkpoint.card["quality"]["psnr_db"] == pytest.approx(result.validation["psnr_db"], abs=1e-3)
    assert len(events(tmp_path, "train")) == 4
    assert events(tmp_path, "train")[-1]["minutes_left"] == 0
    assert {"loss", "psnr_db", "bits_per_pixel", "mpixel_per_s", "seconds"} <= events(tmp_path, "train")[0].keys()
    assert [
        line["text"].split(": ")[0].rsplit("/")[-1] for line in events(tmp_path, "note") if "skipped" in line["text"]
    ] == [
        "corrupt.mp4",
        "silence.wav",
    ]
    assert (tmp_path / "grid-0000004.png").read_bytes().startswith(b"\x89PNG")
    if importlib.util.find_spec("matplotlib") is not None:
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".cvcodec-*"))


def test_minutes_can_be_processor_time_and_the_first_validation_left_out(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count(0.0, 30.0)  # each step asks twice: half a minute of processor time
    monkeypatch.setattr(time, "process_time", lambda: next(ticks))
    changes: dict[str, Any] = {"steps": 0, "minutes": 2.0, "clock": "cpu", "validate_first": False}
    result = run("video-vae", settings(media, tmp_path, regularization="none", **changes))
    assert (result.finished, result.step, result.minutes) == (True, 4, 2.0)
    assert [line["step"] for line in events(tmp_path, "validation")] == [4]


def test_a_profile_says_where_a_steps_time_goes(media: Path, image_vae: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"image_vae": str(image_vae), "steps": 6, "profile": 2, "encoder_blocks": ()}
    changes |= {"discriminator_width": 32, "adversarial_weight": 0.5, "adversarial_start": 0, "regularization": "both"}
    run("video-vae", settings(media, tmp_path, decoder_blocks=(), **changes))
    text = (tmp_path / "profile.txt").read_text()
    head, phases, operators = text.strip().split("\n\n")
    assert head.startswith("2 steps of 0.010 Mpixel")
    table = {line[:44].rstrip(): float(line[44:54]) for line in phases.splitlines()[1:]}
    parts = ["  encoder", "  decoder", "  rate model", "  2D decoder", "  2D encoder"]
    assert set(parts) < set(table)
    assert {"data", "forward", "adversarial term", "backward", "optimiser", "discriminator"} < set(table)
    assert sum(table[part] for part in parts) < table["forward"]
    assert table["everything else"] >= 0
    assert "conv" in operators
    assert any("a step" in line["text"] for line in events(tmp_path, "note"))


def test_a_profile_that_a_run_is_too_short_for_is_left_out(media: Path, tmp_path: Path) -> None:
    run("video-vae", settings(media, tmp_path, regularization="none", profile=2))
    assert not (tmp_path / "profile.txt").exists()


def test_an_inflated_model_starts_in_its_2d_models_space(media: Path, image_vae: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"image_vae": str(image_vae), "steps": 1}
    run("video-vae", settings(media, tmp_path, **changes))
    first = events(tmp_path, "validation")[0]
    assert first["step"] == 0
    assert first["psnr_db_image_encoder"] == pytest.approx(first["psnr_db_image_decoder"], abs=0.01)


def test_training_lowers_the_loss(media: Path, tmp_path: Path) -> None:
    run(
        "video-vae",
        settings(media, tmp_path, steps=40, regularization="none", rate=3e-3, distortion="l1", augment=False),
    )
    losses = [line["distortion"] for line in events(tmp_path, "train")]
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])


class Distance(torch.nn.Module):
    """Stands for LPIPS: the mean absolute difference of each picture; counts the pictures it saw."""

    name, minimum_side, seen = "distance", 16, 0

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        Distance.seen += len(x)
        return (x - y).abs().flatten(1).mean(1)


@pytest.mark.parametrize("loss", ["codec", "paper"])
def test_the_perceptual_loss_is_vggs_and_starts_when_asked(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    asked: list[str] = []

    def load(net: str, variant: str) -> Distance:
        asked.append(net)
        return Distance()

    monkeypatch.setattr("cvcodec.training.trainer.Lpips.load", load)
    monkeypatch.setattr(Distance, "seen", 0)
    changes: dict[str, Any] = {
        "loss": loss,
        "perceptual_weight": 0.5,
        "perceptual_start": 0.5,
        "adversarial_weight": 0.0,
    }
    run("video-vae", settings(media, tmp_path, regularization="none", perceptual_frames=2, **changes))
    assert asked == ["vgg"], "never the AlexNet one, which reports"
    per_step = 2 * (2 if loss == "codec" else 5)
    assert Distance.seen == 2 * per_step, "the last two of four steps"
    if loss == "codec":
        assert ["lpips_vgg" in line for line in events(tmp_path, "train")] == [False, False, True, True]
    with pytest.raises(UsageError, match="at least 16 pixels"):
        run("video-vae", settings(media, tmp_path / "b", regularization="none", batches=("1x1x8",), **changes))


def test_a_frozen_encoder_keeps_its_identity_and_statistics(media: Path, tmp_path: Path) -> None:
    run("image-vae", settings(media, tmp_path / "a", batches=("2x1x32",), regularization="none", store="fp32"))
    before = load_checkpoint(tmp_path / "a" / "model.safetensors")
    changes: dict[str, Any] = {"init": str(tmp_path / "a" / "model.safetensors"), "freeze": "encoder", "store": "fp16"}
    run("finetune", settings(media, tmp_path / "b", batches=("2x1x32",), regularization="none", **changes))
    after = load_checkpoint(tmp_path / "b" / "model.safetensors")
    assert after.latent_space_id == before.latent_space_id
    assert after.statistics == before.statistics
    assert after.decoder_hash != before.decoder_hash


def test_an_image_model_may_start_as_what_a_video_model_does_to_images(media: Path, tmp_path: Path) -> None:
    config = settings(media, tmp_path / "a", steps=1, regularization="none", store="fp32")
    run("video-vae", config)
    video = load_model(tmp_path / "a" / "model.safetensors")
    config = settings(
        media, tmp_path / "b", steps=1, regularization="none", batches=("2x1x32",), rate=0.0, muon_rate=0.0,
        shortcut_rate=0.0, init=str(tmp_path / "a" / "model.safetensors"), store="fp32",
    )  # fmt: skip
    run("image-vae", config)
    image = load_model(tmp_path / "b" / "model.safetensors")
    assert image.config.family == "image-vae-mini"
    assert image.statistics is not None
    assert video.statistics is not None
    assert image.statistics.unit_step == video.statistics.unit_step, "the quantiser's unit is kept"
    picture = torch.rand(1, 3, 1, 32, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(image.moments(picture), video.moments(picture), atol=1e-5, rtol=0)


def test_gradient_checkpointing_changes_nothing(media: Path, tmp_path: Path) -> None:
    for name, enabled in (("a", False), ("b", True)):
        run(
            "video-vae",
            settings(media, tmp_path / name, steps=2, regularization="none", gradient_checkpointing=enabled),
        )
    one, other = (load_state(tmp_path / name)["model"] for name in "ab")
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=1e-6, rtol=0)


@pytest.mark.parametrize("latent_channels", [4, 16])
def test_official_models_are_inflated_trained_with_checkpointing_and_fine_tuned(
    media: Path, tmp_path: Path, latent_channels: int
) -> None:
    torch.manual_seed(0)
    kind = ModelConfig(
        family="autoencoder-kl", latent_channels=latent_channels, widths=(32, 32, 32, 32), encoder_blocks=(1, 1, 1, 1),
        decoder_blocks=(2, 2, 2, 2), quant_conv=latent_channels == 4, norm_eps=1e-6, scaling_factor=0.5,
    )  # fmt: skip
    save_checkpoint(tmp_path / "image.safetensors", build_model(kind), statistics=None, card={})
    paper: dict[str, Any] = {"loss": "paper", "perceptual_weight": 0.0, "discriminator_width": 32, "steps": 1}
    common: dict[str, Any] = {**paper, "image_vae": str(tmp_path / "image.safetensors"), "gradient_checkpointing": True}
    first = run("video-vae", settings(media, tmp_path / "a", **common))
    trained = load_checkpoint(tmp_path / "a" / "model.safetensors")
    assert trained.config.family == ("cvvae" if latent_channels == 4 else "cvvae-sd3")
    assert trained.statistics is not None
    assert trained.statistics.unit_step == pytest.approx((2.0,) * latent_channels), "the published deviation"
    assert {"psnr_db_image_decoder", "psnr_db_image_encoder"} <= first.validation.keys()
    changes: dict[str, Any] = {"init": str(tmp_path / "a" / "model.safetensors"), "freeze": "encoder", "steps": 1}
    run("finetune", settings(media, tmp_path / "b", regularization="none", **changes))
    tuned = load_checkpoint(tmp_path / "b" / "model.safetensors")
    assert tuned.latent_space_id == trained.latent_space_id
    assert tuned.decoder_hash != trained.decoder_hash


def test_a_folder_with_a_run_is_not_overwritten_and_other_options_are_refused(media: Path, tmp_path: Path) -> None:
    config = settings(media, tmp_path, steps=1, regularization="none")
    run("video-vae", config)
    with pytest.raises(UsageError, match="already holds a run"):
        run("video-vae", config)
    with pytest.raises(UsageError, match="begun with other options"):
        run("video-vae", settings(media, tmp_path, steps=2, regularization="none", widths=(8, 8, 8), resume=True))
    with pytest.raises(UsageError, match="holds a run of video-vae"):
        run("image-vae", settings(media, tmp_path, steps=2, regularization="none", resume=True))
    with pytest.raises(CheckpointError, match="nothing to resume"):
        run("video-vae", settings(media, tmp_path / "new", regularization="none", resume=True))


def test_a_resumed_run_says_and_records_what_was_changed(media: Path, tmp_path: Path) -> None:
    run("video-vae", settings(media, tmp_path, steps=1, regularization="none"))
    recorded = (tmp_path / "config.toml").read_text()
    run("video-vae", settings(media, tmp_path, steps=1, regularization="none", resume=True))
    assert (tmp_path / "config.toml").read_text() == recorded
    assert not [line for line in events(tmp_path, "note") if "changed" in line["text"]]
    values = resumed_values({"output": str(tmp_path), "resume": True, "steps": 2, "strides": (1, 3)})
    assert run("video-vae", TrainConfig.of(**values)).step == 2
    (note,) = [line["text"] for line in events(tmp_path, "note") if "changed" in line["text"]]
    assert note == "settings changed since the run began: steps 1 -> 2, strides 1 1 1 2 3 -> 1 3"
    wanted = recorded.replace("steps = 1", "steps = 2").replace("[1, 1, 1, 2, 3]", "[1, 3]")
    assert (tmp_path / "config.toml").read_text() == wanted


def test_a_length_in_steps_takes_the_place_of_one_in_minutes(media: Path, tmp_path: Path) -> None:
    write_config(tmp_path, settings(media, tmp_path, steps=0, minutes=5.0))
    values = resumed_values({"output": str(tmp_path), "steps": 7})
    assert (values["steps"], values["minutes"]) == (7, 0)
    assert values["data"] == (str(media / "manifest.tsv"),)
    with pytest.raises(UsageError, match="no run to resume: give --output"):
        resumed_values({"resume": True})


def test_a_run_that_nothing_is_held_out_for_warns_and_says_what_to_do(media: Path, tmp_path: Path) -> None:
    config = settings(media, tmp_path, steps=1, regularization="none", data=(str(media / "v0.mkv"),))
    assert run("video-vae", config).validation == {}
    (warning,) = events(tmp_path, "warning")
    assert warning["text"].startswith("0 files are held out, so nothing is validated; raise --val-fraction")


@pytest.mark.parametrize(
    ("job", "changes", "message"),
    [
        ("video-vae", {}, "needs --image-vae"),
        ("finetune", {"regularization": "none"}, "give --init"),
        ("image-vae", {"regularization": "none", "encoder_temporal": (1, 0, 0)}, "no temporal blocks"),
        ("video-vae", {"regularization": "none", "encoder_temporal": (1, 1)}, "describe no model"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(
    media: Path, tmp_path: Path, job: Job, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(job, settings(media, tmp_path, **changes))


RANK = """
import sys, json
import torch
torch.set_num_threads(1)
from cvcodec.training.config import TrainConfig, check_values
from cvcodec.training.trainer import train
train("video-vae", TrainConfig.of(**check_values(json.loads(sys.argv[1]), where="test")))
"""


def as_json(config: TrainConfig) -> str:
    return json.dumps({key: value for key, value in config.values.items() if value is not None})


def test_two_processes_equal_one_with_the_same_samples(media: Path, image_vae: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "image_vae": str(image_vae), "regularization": "both", "steps": 2, "batches": ("4x5x32",), "loss": "paper",
        "perceptual_weight": 0.0, "discriminator_width": 32, "optimizer": "adamw", "epsilon": 1e-4,
    }  # fmt: skip
    run("video-vae", settings(media, tmp_path / "one", **changes))
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20000 + os.getpid() % 20000)}
    command = [sys.executable, "-c", RANK, as_json(settings(media, tmp_path / "two", **changes))]
    processes = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    one, two = load_state(tmp_path / "one"), load_state(tmp_path / "two")
    for part in ("model", "objective"):
        for name, tensor in one[part].items():
            torch.testing.assert_close(tensor, two[part][name], atol=1e-4, rtol=0, msg=f"{part} {name}")
    moved = max(
        (one["model"][name] - load_checkpoint(image_vae).state_dict[name]).abs().max().item()
        for name in ("encoder.conv_out.weight", "decoder.conv_in.weight")
    )
    assert moved > 1e-3, "the comparison means something only if the steps were far larger than its tolerance"
    losses = [[line["loss"] for line in events(tmp_path / name, "train")] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_terminated_run_saves_its_state_and_continues(media: Path, tmp_path: Path) -> None:
    config = settings(media, tmp_path, steps=100_000, regularization="none")
    process = subprocess.Popen([sys.executable, "-c", RANK, as_json(config)])
    while process.poll() is None and not ((tmp_path / "log.jsonl").exists() and events(tmp_path, "train")):
        time.sleep(0.1)  # however slow the machine is
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    state = load_state(tmp_path)
    assert state["step"] >= 1
    assert events(tmp_path, "end")[-1]["finished"] is False
    resumed = run("video-vae", settings(media, tmp_path, steps=state["step"] + 1, regularization="none", resume=True))
    assert resumed.step == state["step"] + 1
