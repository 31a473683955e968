"""The recipes on very small pipelines, against what the pipelines themselves make of the same seed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

import cvcodec
import harness
from cvcodec.checkpoints.checkpoint import save_checkpoint
from cvcodec.video import VideoReader
from tests.checkpoints.test_foreign import PARITY, folder, weights
from tests.integrations import tiny_pipelines
from tests.model.test_mini import small_model

ROOT = Path(__file__).resolve().parents[2]
STEPS = 2


class Place:
    """Pipelines as they are published, in folders, and weights of ours."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.vae = root / "tiny-sd.safetensors"
        save_checkpoint(self.vae, small_model(scaling_factor=0.18215), statistics=None, card={"name": "tiny-sd"})

    def pipeline(self, make: Callable[[], Any]) -> Path:
        path = self.root / make.__name__
        if not path.exists():
            make().save_pretrained(path)
        return path

    def official(self) -> Path:
        """A folder of official CV-VAE weights, narrow and random."""
        path = self.root / "vae3d"
        if not path.exists():
            recorded = json.loads((PARITY / "cvvae_z4.json").read_text())
            folder(path, weights(recorded["shapes"]), recorded["config"])
        return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    tiny_pipelines.diffusers_and_transformers()
    return Place(tmp_path_factory.mktemp("pipelines"))


def run(recipe: str, pipeline: Path, *words: object, vae: Path | None = None) -> int:
    """A recipe's exit code."""
    module = __import__(recipe)
    given = ["--vae", str(vae)] if vae else []
    asked = ["--pipeline", str(pipeline), *given, "--precision", "fp32", "--device", "cpu", "--threads", "1"]
    code = module.main([*asked, "--steps", str(STEPS), *map(str, words)])
    assert isinstance(code, int)
    return code


def own_frames(pipeline: Path, vae: Path, seed: int, *arguments: Any, **options: Any) -> NDArray[np.float32]:
    """What the pipeline itself makes: (frames or pictures, H, W, 3), 0 to 255."""
    import diffusers

    from cvcodec.integrations.diffusers import DiffusersVAE

    made = diffusers.DiffusionPipeline.from_pretrained(pipeline, vae=DiffusersVAE.from_pretrained(vae))
    made.set_progress_bar_config(disable=True)
    with torch.no_grad():
        given = made(
            *arguments,
            generator=torch.Generator().manual_seed(seed),
            num_inference_steps=STEPS,
            output_type="np",
            **options,
        )
    frames = given.images if hasattr(given, "images") else given.frames[0]
    return np.asarray(frames) * 255


def frames_of(file: Path, vae: Path) -> NDArray[np.uint8]:
    with cvcodec.open(file, model=vae, precision="fp32", device="cpu") as opened:
        return opened.frames[:]


def close(got: NDArray[Any], wanted: NDArray[Any]) -> bool:
    """Rounded to the same level, or the one beside it."""
    return got.shape == wanted.shape and bool(np.abs(got - wanted).max() < 0.51)


def test_pictures_of_a_text_are_those_of_the_pipeline(place: Place, tmp_path: Path) -> None:
    pipeline = place.pipeline(tiny_pipelines.stable_diffusion)
    words = ("--prompt", "a fox", "--count", 2, "--seed", 5, "--guidance", 3)
    output = ("--output", tmp_path / "%02d.png", tmp_path / "foxes.cvl")
    assert run("text_to_image", pipeline, *words, *output, vae=place.vae) == 0
    wanted = own_frames(pipeline, place.vae, 5, "a fox", num_images_per_prompt=2, guidance_scale=3.0)
    written = np.stack([np.asarray(Image.open(tmp_path / name)) for name in ("01.png", "02.png")])
    assert close(written, wanted)
    assert close(frames_of(tmp_path / "foxes.cvl", place.vae), wanted)


def test_stable_video_diffusion_makes_97_frames_of_25_latents(place: Place, tmp_path: Path) -> None:
    pipeline = place.pipeline(tiny_pipelines.stable_video_diffusion)
    picture = next(harness.moving_frames(48, 40, 1))
    Image.fromarray(picture).save(tmp_path / "fox.png")
    words = ("--size", "32x32", "--image", tmp_path / "fox.png", "--output", tmp_path / "fox.mp4", tmp_path / "fox.cvl")
    assert run("image_to_video", pipeline, *words, vae=place.vae) == 0
    size = {"width": 32, "height": 32}
    wanted = own_frames(pipeline, place.vae, 0, Image.fromarray(picture), num_frames=25, decode_chunk_size=8, **size)
    assert len(wanted) == 97
    assert close(frames_of(tmp_path / "fox.cvl", place.vae), wanted)
    with VideoReader(tmp_path / "fox.mp4") as reader:
        assert (sum(1 for _ in reader), reader.info.average_rate) == (97, Fraction(28))


def test_in_image_mode_each_latent_is_one_frame(place: Place, tmp_path: Path) -> None:
    pipeline = place.pipeline(tiny_pipelines.stable_video_diffusion)
    harness.write_clip(tmp_path / "clip.mp4", 48, 40, 2)
    words = ("--size", "32x32", "--image", tmp_path / "clip.mp4", "--output", tmp_path / "fox.cvl", "--mode", "image")
    words += ("--latents", 3, "--precision", "bf16")
    assert run("image_to_video", pipeline, *words, vae=place.vae) == 0
    with cvcodec.open(tmp_path / "fox.cvl") as file:
        latents = torch.from_numpy(file.latents[:])
        assert file.header.average_rate == 7
    alone = cvcodec.load_model(place.vae).decode(latents.transpose(0, 1)[:, :, None])[:, :, 0]
    assert close(
        frames_of(tmp_path / "fox.cvl", place.vae),
        (alone.detach().clamp(-1, 1).permute(0, 2, 3, 1).numpy() + 1) * 127.5,
    )


def test_text_to_video_makes_61_frames_of_16_latents_with_official_weights(place: Place, tmp_path: Path) -> None:
    pipeline = place.pipeline(tiny_pipelines.text_to_video)
    words = ("--prompt", "a fox", "--output", tmp_path / "fox.cvl", tmp_path / "fox.mkv", "--rate", 24)
    assert run("text_to_video", pipeline, *words, vae=place.official()) == 0
    import diffusers

    made = diffusers.DiffusionPipeline.from_pretrained(pipeline)
    made.set_progress_bar_config(disable=True)
    with torch.no_grad():
        scaled = made(
            "a fox", num_inference_steps=STEPS, output_type="latent", generator=torch.Generator().manual_seed(0)
        ).frames
    assert scaled.shape == (1, 4, 16, 4, 4)
    with cvcodec.open(tmp_path / "fox.cvl") as file:
        np.testing.assert_allclose(file.latents[:], scaled[0].numpy() / 0.18215, rtol=1e-4, atol=1e-4)
        assert file.header.official is not None, "decoded in the official chunks"
    with VideoReader(tmp_path / "fox.mkv") as reader:
        assert (sum(1 for _ in reader), reader.info.average_rate) == (61, 24)


def test_a_saved_pipeline_has_the_vae_and_the_tuned_layer_in_it(place: Place, tmp_path: Path) -> None:
    pipeline = place.pipeline(tiny_pipelines.stable_diffusion)
    layer = {
        f"conv_out.{name}": torch.randn(shape, generator=torch.Generator().manual_seed(7)) / 10
        for name, shape in (("weight", (4, 32, 3, 3)), ("bias", (4,)))
    }
    save_file(layer, tmp_path / "conv_out.safetensors")
    words = ("--prompt", "a fox", "--output")
    tuned = ("--output-layer", tmp_path / "conv_out.safetensors", "--save", tmp_path / "saved")
    assert run("text_to_image", pipeline, *words, tmp_path / "1.cvl", *tuned, vae=place.vae) == 0
    assert run("text_to_image", tmp_path / "saved", *words, tmp_path / "2.cvl") == 0
    assert (tmp_path / "1.cvl").read_bytes() == (tmp_path / "2.cvl").read_bytes()
    assert run("text_to_image", pipeline, *words, tmp_path / "3.cvl", vae=place.vae) == 0
    assert frames_of(tmp_path / "3.cvl", place.vae).shape == frames_of(tmp_path / "1.cvl", place.vae).shape
    assert (frames_of(tmp_path / "3.cvl", place.vae) != frames_of(tmp_path / "1.cvl", place.vae)).any()
    assert run("text_to_image", pipeline, *words, tmp_path / "4.cvl", *tuned, vae=place.vae) == 4, "saved is not empty"


def test_what_cannot_be_meant_is_said_in_one_line(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = place.pipeline(tiny_pipelines.stable_diffusion)
    (tmp_path / "there.cvl").touch()

    def said(code: int, recipe: str, *words: object, **options: Any) -> str:
        assert run(recipe, *words, **options) == code  # type: ignore[arg-type]
        return [line for line in capsys.readouterr().err.splitlines() if "error: " in line][-1]

    words = ("--prompt", "a fox", "--output")
    assert "AutoencoderKL; name a CV-VAE with --vae" in said(2, "text_to_image", pipeline, *words, tmp_path / "a.cvl")
    assert "takes no num_frames" in said(2, "text_to_video", pipeline, *words, tmp_path / "a.cvl", vae=place.vae)
    assert "exists" in said(4, "text_to_image", tmp_path / "none", *words, tmp_path / "there.cvl")
    assert "known extensions" in said(4, "text_to_image", tmp_path / "none", *words, tmp_path / "a.txt")
    assert "number them: " in said(2, "text_to_image", pipeline, *words, tmp_path / "a.png", "--count", 2)
    assert "cannot be loaded" in said(3, "text_to_image", tmp_path / "none", *words, tmp_path / "a.png", vae=place.vae)
    save_file({"conv_out.bias": torch.zeros(4)}, tmp_path / "half.safetensors")
    half = ("--output-layer", tmp_path / "half.safetensors")
    message = said(3, "text_to_image", pipeline, *words, tmp_path / "a.png", *half, vae=place.vae)
    assert "half.safetensors holds {'conv_out.bias': (4,)}, the output layer of this U-Net is" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.safetensors", "there.cvl"]


def test_the_programs_find_what_they_share_when_they_are_called_as_written() -> None:
    names = "text_to_image, image_to_video, text_to_video, tune_output_layer"
    script = f"import sys; sys.path[0] = 'benchmarks/generators'; sys.modules['diffusers'] = None; import {names}"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
