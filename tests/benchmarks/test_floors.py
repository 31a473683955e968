"""`python benchmarks/floors.py`, the PCA it compares with, and the short clips it takes."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import floors
import harness
import shorts
from cvcodec.errors import InputError, UsageError
from cvcodec.video import VideoReader
from floors import Score, Verdict
from patch_pca import COMPONENTS, PatchPca

SMALL = ["--device", "cpu", "--precision", "fp32", "--side", "48", "--frames", "6"]


def clip(frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.stack(list(harness.moving_frames(width, height, frames, seed=seed)))


def coefficients_and_picture(pixels: np.ndarray, fitted: PatchPca, components: int) -> np.ndarray:
    """The same reconstruction patch by patch in numpy, float64, for 4k+1 frames and multiples of 8."""
    mean, basis = fitted.mean.double().numpy(), fitted.basis.double().numpy()[:, :components]
    x = np.concatenate([np.repeat(pixels[:1], 3, axis=0), pixels]).astype(np.float64) / 127.5 - 1
    out = np.empty_like(x)
    for t in range(0, len(x), 4):
        for top in range(0, x.shape[1], 8):
            for left in range(0, x.shape[2], 8):
                patch = x[t : t + 4, top : top + 8, left : left + 8].transpose(0, 3, 1, 2).ravel()  # (t, rgb, y, x)
                seen = mean + basis @ (basis.T @ (patch - mean))
                out[t : t + 4, top : top + 8, left : left + 8] = seen.reshape(4, 3, 8, 8).transpose(0, 2, 3, 1)
    return np.rint((np.clip(out[3:], -1, 1) + 1) * 127.5)


def test_a_pca_reconstruction_is_numpys_patch_by_patch() -> None:
    pixels = clip(9, 24, 32)
    fitted = PatchPca.fit([pixels, clip(5, 24, 32, seed=1)], components=5)
    ours = fitted.reconstruct(pixels, 3).astype(float)
    wanted = coefficients_and_picture(pixels, fitted, 3)
    assert np.abs(ours - wanted).max() <= 1  # a rounding that tips
    assert (ours != wanted).mean() < 1e-3


def test_components_are_orthonormal_and_the_strongest_come_first() -> None:
    pixels = clip(9, 48, 48)
    fitted = PatchPca.fit([pixels], components=6)
    np.testing.assert_allclose((fitted.basis.T @ fitted.basis).numpy(), np.eye(6), atol=1e-5)
    errors = [np.mean((fitted.reconstruct(pixels, n).astype(float) - pixels) ** 2) for n in range(1, 7)]
    gains = -np.diff(errors)
    assert (gains > 0).all()
    assert (np.diff(gains) < 0).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 17, 23), (6, 40, 9)])
def test_any_frame_count_and_size_comes_back(shape: tuple[int, int, int]) -> None:
    pixels = clip(*shape)
    assert PatchPca.load().reconstruct(pixels, 4).shape == pixels.shape


def test_the_stored_factors_are_those_of_sixteen_components_and_describe_natural_colours(tmp_path: Path) -> None:
    stored = PatchPca.load()
    assert stored.basis.shape == (768, COMPONENTS)
    np.testing.assert_allclose((stored.basis.T @ stored.basis).numpy(), np.eye(COMPONENTS), atol=2e-3)
    grey = np.full((5, 16, 16, 3), 120, np.uint8)
    assert np.abs(stored.reconstruct(grey, 16).astype(int) - 120).max() <= 2
    stored.save(tmp_path / "again.safetensors")
    assert PatchPca.load(tmp_path / "again.safetensors").basis.equal(stored.basis)
    with pytest.raises(UsageError, match="fitted with 16"):
        stored.reconstruct(grey, 17)
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(InputError, match="no fitted PCA"):
        PatchPca.load(tmp_path / "junk")


def test_a_short_clip_is_scaled_either_way_and_its_file_holds_it_exactly(tmp_path: Path) -> None:
    harness.write_clip(tmp_path / "wide.mp4", 64, 32, 7)
    for side, wanted in ((16, (5, 16, 32, 3)), (48, (5, 48, 96, 3)), (32, (5, 32, 64, 3))):
        short = shorts.read_short(tmp_path / "wide.mp4", side=side, frames=5)
        assert short.pixels.shape == wanted
    short.write(tmp_path / "exact.mkv")
    with VideoReader(tmp_path / "exact.mkv") as reader:
        np.testing.assert_array_equal(np.stack([frame.pixels for frame in reader]), short.pixels)
    later = shorts.read_short(tmp_path / "wide.mp4", side=32, start=Fraction(2, harness.RATE))
    np.testing.assert_array_equal(later.pixels[:3], short.pixels[2:])


def test_a_manifest_gives_the_videos_of_its_split_and_a_file_itself(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        harness.write_clip(tmp_path / name, 32, 32, 2)
    (tmp_path / "m.tsv").write_text("file\tsplit\na.mp4\ttrain\nb.mp4\tval\np.png\tval\n")
    assert [path.name for path in shorts.video_paths([tmp_path / "m.tsv"])] == ["b.mp4"]
    assert [path.name for path in shorts.video_paths([tmp_path / "m.tsv"], "all")] == ["a.mp4", "b.mp4"]
    assert [path.name for path in shorts.video_paths([tmp_path / "a.mp4"])] == ["a.mp4"]
    (tmp_path / "n.tsv").write_text("file\tsplit\na.mp4\ttrain\n")
    with pytest.raises(InputError, match="no videos of split val"):
        shorts.video_paths([tmp_path / "n.tsv"])


def test_the_program_scores_clips_by_real_files_and_names_the_floors_that_are_missed(
    tiny_weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.write_clip(tmp_path / "a.mp4", 64, 48, 6)
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench: floors -->\nold\n<!-- /bench: floors -->\nafter\n")
    data = [str(tmp_path / "a.mp4"), str(tmp_path / "bad.mp4")]
    assert floors.main([*data, "-w", tiny_weights, "--no-lpips", "--update", str(readme), *SMALL]) == 0
    shown = capsys.readouterr()
    assert "left out" in shown.err and "bad.mp4" in shown.err
    assert "tiny: PSNR is not 3 dB above the PCA's" in shown.err
    table = readme.read_text().split("-->")[1].split("<!--")[0].strip()
    assert "| mean by position in the group of 4 | 1 | 2 | 3 | 4 | max − min |" in table
    assert "| `tiny`, PSNR (RGB) |" in table and "`tiny`, LPIPS" not in table
    assert table == shown.out.strip()
    assert "mean over 1 clips" in table and "4 components" in table and "old" not in table
    assert floors.main([*data, "-w", tiny_weights, "--no-lpips", "--json", *SMALL]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["clip"], line["method"]) for line in lines] == [
        ("a", "tiny"), ("a", "PCA 4"), ("mean", "tiny"), ("mean", "PCA 4"),
    ]  # fmt: skip
    for line in lines:
        assert all(value > 0 for value in line["psnr_db_by_position"])
        assert [len(line["psnr_db_by_position"]), line["lpips_by_position"]] == [4, [None] * 4]
    assert lines[0]["bpp"] > 0 and lines[1]["bpp"] is None
    assert floors.main([data[1], "-w", tiny_weights, "--no-lpips", *SMALL]) == InputError.exit_code


def test_floors_are_judged_by_their_numbers() -> None:
    pca = Score(clip="mean", method="PCA 4", psnr_db=21.0, ssim=0.5, lpips=0.4, bpp=None)

    def missed(psnr_db: float, lpips: float, bpp: float) -> list[str]:
        mean = Score(clip="mean", method="m", psnr_db=psnr_db, ssim=0.5, lpips=lpips, bpp=bpp)
        return Verdict(model="m", channels=4, clips=1, mean=mean, pca=pca).missed

    assert missed(24.0, 0.34, 0.06) == []
    assert [text.split()[0] for text in missed(23.99, 0.341, 0.0601)] == ["PSNR", "LPIPS", "more"]
    assert len(missed(24.0, float("nan"), 0.06)) == 1, "what was not measured is not reached"
