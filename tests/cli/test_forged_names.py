"""A file names its model; which files are opened is said by the user alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import cvcodec
from cvcodec.dataset import LatentDataset
from cvcodec.errors import InputError
from tests.cli.forged import with_header
from tests.cli.programs import cvcodec as run
from tests.cli.programs import one_line


@pytest.fixture(params=["absolute", "./tiny.safetensors", "tiny.safetensors", "../x/../tiny"])
def name(request: pytest.FixtureRequest, here: Path) -> str:
    """What a file calls its model, where weights that fit it lie at that very path."""
    (here / "tiny").write_bytes((here / "tiny.safetensors").read_bytes())
    chosen = str(here / "tiny.safetensors") if request.param == "absolute" else str(request.param)
    with_header(here / "a.cvl", here / "forged.cvl", model=chosen)
    return chosen


@pytest.mark.parametrize(
    "arguments",
    [
        ["decode", "forged.cvl", "out.mkv"],
        ["decode", "forged.cvl", "out.mkv", "--salvage"],
        ["decode", "--preview", "forged.cvl", "out.png"],
        ["eval", "forged.cvl", "--reference", "in.mkv", "-m", "psnr"],
    ],
    ids=" ".join,
)
def test_a_path_in_a_file_is_no_model_though_weights_that_fit_lie_there(
    here: Path, name: str, arguments: list[str]
) -> None:
    before = {path.name for path in here.iterdir()}
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (3, "")
    line = one_line(outcome.err)
    assert f"the file wants model {name[:80]!r}, which is not installed" in line
    assert "--weights" in line
    assert {path.name for path in here.iterdir()} == before
    # By the user's own word they are opened.
    given = run(*arguments, "-w", "tiny.safetensors")
    assert given.code == 0, given.err


def test_so_it_is_in_python(here: Path, name: str) -> None:
    with pytest.raises(InputError, match="which is not installed"):
        cvcodec.decode_file("forged.cvl", "out.mkv")
    with cvcodec.open("forged.cvl") as file, pytest.raises(InputError, match="which is not installed"):
        file.frames[:4]
    data = LatentDataset(["forged.cvl"], pixels="decoded")
    with pytest.raises(InputError, match="which is not installed"):
        data[0]
    with cvcodec.open("forged.cvl", model="./tiny.safetensors") as file:
        assert len(file.frames[:4]) == 4
