"""TorchScript networks whose features are known, in place of those that people bring, and a tiny CLIP model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn


class ClipMeans(nn.Module):
    """Of the signature of StyleGAN-V's I3D: refuses to be asked for anything but raw clips and features."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        assert not rescale and not resize and return_features
        assert x.size(1) == 3 and x.size(3) == 224 and x.size(4) == 224
        assert x.min() >= -1 and x.max() <= 1
        return torch.cat([x.mean(dim=[2, 3, 4]), x[:, :, -1].mean(dim=[2, 3]) - x[:, :, 0].mean(dim=[2, 3])], dim=1)


class PictureMeans(nn.Module):
    """Of the signature of StyleGAN's Inception."""

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        assert return_features and img.dtype == torch.uint8
        return img.float().mean(dim=[2, 3])


class FirstOfTwo(nn.Module):
    """As torch-fidelity's, which answers a tuple, (N, D, 1, 1) here."""

    def forward(self, img: Tensor) -> tuple[Tensor, Tensor]:
        means = img.float().mean(dim=[2, 3], keepdim=True)
        return means, means


class Differences(nn.Module):
    """A distance of two pictures in [0, 1]."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        assert x.shape == y.shape and x.size(2) == 224 and x.size(3) == 224
        assert y.min() >= 0 and y.max() <= 1
        return (x - y).abs().mean(dim=[1, 2, 3])


class MeanDifference(nn.Module):
    """No interpolator, but called like one."""

    def forward(self, first: Tensor, second: Tensor, time: Tensor) -> Tensor:
        return (first - second).mean(dim=[2, 3]) * time


class Maps(nn.Module):
    """No features: a map of them."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


class OneRow(nn.Module):
    """One answer for all pictures."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float().mean(dim=[0, 2, 3])[None]


class NotFinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float().mean(dim=[2, 3]) / 0.0


def save(network: nn.Module, path: Path) -> Path:
    torch.jit.script(network).save(str(path))
    return path


def save_clip(folder: Path) -> Path:
    """A CLIP model of random weights with a tokenizer that knows lower-case letters."""
    transformers = pytest.importorskip("transformers")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"unk_token": "<|endoftext|>", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **special}))
    side = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    config = transformers.CLIPConfig(
        text_config={**side, **ends, "vocab_size": len(words), "max_position_embeddings": 12},
        vision_config={**side, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder
