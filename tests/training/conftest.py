"""A small data set made on the spot: moving textures as video, stills, and files that are no video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cvcodec.checkpoints.checkpoint import save_checkpoint
from cvcodec.model.mini import MiniAutoencoder, mini_config
from cvcodec.quantization import LatentStatistics
from cvcodec.training.pca import fit_pca, start_as_pca

WIDTHS = (8, 16, 24)

TINY = """
steps = 1
batches = ["1x5x32"]
encoder_temporal = [1, 0, 0]
precision = "fp32"
validation_lpips = false
validation_frames = 5
validation_side = 40
validation_qualities = [75]
statistics_clips = 1
curves = false
"""
"""Of a config file: a run of one small step."""


def moving_texture(frames: int, height: int, width: int, seed: int) -> np.ndarray:
    """(T, H, W, 3) uint8: smooth waves that drift, so that there is something to predict."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    clip = np.zeros((frames, height, width, 3))
    for _ in range(6):
        fy, fx, phase, speed = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), rng.uniform(0, 6.3), rng.uniform(-1, 1)
        color = rng.uniform(-1, 1, 3)
        for frame in range(frames):
            clip[frame] += np.sin(fy * y + fx * x + phase + speed * frame)[..., None] * color
    return np.clip(clip * 25 + 128, 0, 255).astype(np.uint8)


def write_video(path: Path, clip: np.ndarray) -> None:
    """FFV1 in Matroska, RGB, 25 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = clip.shape[2], clip.shape[1], "bgr0"
        for index, picture in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_picture(path: Path, picture: np.ndarray) -> None:
    """PNG."""
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = picture.shape[1], picture.shape[0], "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def write_audio(path: Path) -> None:
    """A second of silence, no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos and two pictures to train on, a video held out, a corrupt and an audio file, and their manifest."""
    folder = tmp_path_factory.mktemp("media")
    for index, (frames, height, width) in enumerate([(20, 40, 56), (12, 48, 40), (7, 40, 40), (14, 40, 48)]):
        write_video(folder / f"v{index}.mkv", moving_texture(frames, height, width, index))
    for index in range(2):
        write_picture(folder / f"p{index}.png", moving_texture(1, 64, 72, 10 + index)[0])
    (folder / "corrupt.mp4").write_bytes(b"this is no video" * 50)
    write_audio(folder / "silence.wav")
    lines = ["file\tsplit\tsource"]
    lines += [f"v{index}.mkv\t{'val' if index == 3 else 'train'}\tfilm {index}" for index in range(4)]
    lines += [f"p{index}.png\ttrain\tphotos" for index in range(2)]
    lines += ["corrupt.mp4\ttrain\tbad", "silence.wav\ttrain\tbad"]
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def image_vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a narrow 2D mini at the quality of a PCA."""
    import torch

    torch.manual_seed(0)
    model = MiniAutoencoder(mini_config(4, video=False, widths=WIDTHS))
    clip = torch.from_numpy(moving_texture(8, 64, 64, 1)).permute(3, 0, 1, 2).float() / 127.5 - 1
    start_as_pca(model, *fit_pca([clip], 1, 4))
    path = tmp_path_factory.mktemp("models") / "image.safetensors"
    statistics = LatentStatistics(mean=(0.0,) * 4, std=(1.0,) * 4, unit_step=(0.68,) * 4)
    save_checkpoint(path, model, statistics=statistics, card={"name": "test"})
    return path
