"""Create or update a virtual environment with cvcodec (editable) and the tested versions of everything it needs.

    python3 .ci/setup_env.py [--venv .venv] [--extras dev]

Standard library only. Where there is no NVIDIA card it takes torch's CPU build: 200 MB instead of several gigabytes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where PyTorch publishes its CPU builds for Linux; PyPI has the CUDA build under the same version."""
OLDEST_PYTHON = (3, 11)
HURRY = ("--retries", "1", "--timeout", "20")
"""Options of a pip call that may fail: do not wait long for a host that a firewall swallows."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where the environment is or goes")
    parser.add_argument("--extras", default="", help="comma-separated extras of cvcodec, such as dev or lpips,plot")
    arguments = parser.parse_args()
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        sys.exit(
            f"Python {wanted} or newer is needed, this is {sys.version.split()[0]}; try: make PYTHON=python3.12 ..."
        )
    started = time.monotonic()
    python = create(arguments.venv)
    install_torch(python)
    extras = f"[{arguments.extras}]" if arguments.extras else ""
    say(f"installing cvcodec{extras} and its dependencies")
    if not pip(python, "-e", f"{ROOT}{extras}"):
        sys.exit("installation failed; what pip said is above")
    say(f"ready after {time.monotonic() - started:.0f} s")


def create(folder: Path) -> Path:
    """Make the environment if there is none; gives its interpreter."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        say(f"creating {folder} with Python {sys.version.split()[0]}")
        try:
            venv.create(folder, with_pip=True, symlinks=os.name != "nt")
        except (subprocess.CalledProcessError, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            sys.exit(f"cannot create a virtual environment ({error}); on Debian and Ubuntu: apt install python3-venv")
    return python


def install_torch(python: Path) -> None:
    """The tested torch, unless it is there: the CPU build on Linux without an NVIDIA card, else what the index has."""
    match = re.search(r"^torch==(\S+)$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        sys.exit(f"{CONSTRAINTS} pins no torch")
    version = match[1]
    if installed(python, "torch").split("+")[0] == version:
        return
    if sys.platform == "linux" and not has_nvidia_card():
        say(f"installing torch {version}, CPU build (no NVIDIA card found)")
        build = f"torch=={version}+cpu"
        # First from what pip is set up with: a mirror or a local folder may have this build. Then from PyTorch.
        if pip(python, build, quiet=True) or pip(python, build, "--extra-index-url", CPU_INDEX, *HURRY, quiet=True):
            return
        say("no CPU build could be had; taking the index's own, which may bring CUDA libraries")
    else:
        say(f"installing torch {version}")
    if not pip(python, f"torch=={version}"):
        sys.exit("torch could not be installed; what pip said is above")


def has_nvidia_card() -> bool:
    """Whether nvidia-smi is there and lists a card."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        listing = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listing.returncode == 0 and "GPU" in listing.stdout


def installed(python: Path, distribution: str) -> str:
    """The version of a distribution in the environment, "" if it is not there."""
    code = (
        f"from importlib import metadata as m; print(*[d.version for d in m.distributions(name={distribution!r})][:1])"
    )
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def pip(python: Path, *arguments: str, quiet: bool = False) -> bool:
    """`pip install` under the constraints; whether it succeeded. quiet: a failure is expected and not shown."""
    # Python compiles what is imported when it is; compiling all of torch ahead takes longer than the tests need.
    options: tuple[str | Path, ...] = (
        "--disable-pip-version-check",
        "--quiet",
        "--no-compile",
        "--constraint",
        CONSTRAINTS,
    )
    command = [python, "-m", "pip", "install", *options, *arguments]
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, stdout=output, stderr=output, check=False).returncode == 0


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


if __name__ == "__main__":
    main()
