"""docs/python.md: its code runs as it stands, in order; and the arguments that the public functions add."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import cvcodec
from cvcodec.errors import UsageError
from tests.dataset.small import save_small_model, write_clip

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"


def test_the_pages_code_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A newer version of the default model, which is quicker than the bundled one.
    monkeypatch.setenv("CVCODEC_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "models").mkdir(parents=True)
    save_small_model(tmp_path / "home" / "models" / "cvvae-mini-z16-v999.safetensors", latent_channels=16)
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "in.mkv", frames=9, size=(48, 32))
    write_clip(tmp_path / "clips" / "a.mkv", frames=5)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(blocks) == 5
    assert capsys.readouterr().err == ""
    with cvcodec.open("out.cvl") as file, cvcodec.open("cached.cvl") as cached, cvcodec.open("again.cvl") as again:
        assert (file.header.quality, file.frame_count) == (60, 9)
        assert (cached.header.latents, cached.header.logvar, cached.frame_count) == ("fp16", True, 5)
        assert again.header.quality == 75
    with cvcodec.open("generated.cvl") as file:
        assert np.array_equal(file.latents[:], names["latents"][0])  # type: ignore[index]
    assert {path.name for path in Path("exported").iterdir()} == {"a.safetensors", "clips.jsonl", "README.md"}


def test_latents_and_quality_are_fields_of_the_options_and_exclude_each_other(tmp_path: Path) -> None:
    model = save_small_model(tmp_path / "small.safetensors")
    source = write_clip(tmp_path / "v" / "in.mkv", frames=5)
    for name, given in {"plain": {"latents": "fp32"}, "in options": {"options": {"latents": "fp32"}}}.items():
        options = cvcodec.EncodeOptions(**given.pop("options", {}))  # type: ignore[arg-type]
        cvcodec.encode_file(source, tmp_path / f"{name}.cvl", model=model, options=options, **given)  # type: ignore[arg-type]
    assert (tmp_path / "plain.cvl").read_bytes() == (tmp_path / "in options.cvl").read_bytes()
    with pytest.raises(UsageError, match="leave out quality = 50"):
        cvcodec.encode_file(source, tmp_path / "x.cvl", model=model, latents="fp16", quality=50)
    assert not (tmp_path / "x.cvl").exists()


def test_a_batch_tells_its_clips_and_how_each_ended(tmp_path: Path) -> None:
    model = save_small_model(tmp_path / "small.safetensors")
    write_clip(tmp_path / "v" / "in.mkv", frames=5)
    (tmp_path / "v" / "broken.mp4").write_bytes(b"no video")
    clips: list[str] = []
    ended: dict[str, str] = {}
    summary = cvcodec.batch(
        tmp_path / "v",
        tmp_path / "out",
        model=model,
        latents="fp16",
        retries=0,
        devices="cpu",
        on_clips=lambda found: clips.extend(clip.output for clip in found),
        on_outcome=lambda outcome: ended.update({outcome.clip.output: outcome.status}),
    )
    assert clips == ["broken.cvl", "in.cvl"]
    assert ended == {"broken.cvl": "failed", "in.cvl": "encoded"}
    assert [failure.clip.output for failure in summary.failures] == ["broken.cvl"]
    (line,) = (tmp_path / "out" / "index.jsonl").read_text().splitlines()
    assert json.loads(line)["latents_kind"] == "fp16"
