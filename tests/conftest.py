"""What every test runs under: few threads, no model folder but an empty one, no colours."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports torch, and inherited by the programs that tests start: workers share the processors instead
# of each starting a thread for every one of them.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ["OMP_NUM_THREADS"] = str(max(1, min(2, (os.cpu_count() or 1) // _WORKERS)))
os.environ["COLUMNS"] = "120"
for _variable in ("FORCE_COLOR", "CVCODEC_DEBUG", "TTY_COMPATIBLE"):
    os.environ.pop(_variable, None)

# Shells start background jobs with interrupts ignored, nohup with hang-ups, and programs that tests start inherit it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import hypothesis  # noqa: E402

# Shared machines are slow at times; a deadline would make tests fail by the weather.
hypothesis.settings.register_profile("cvcodec", deadline=None, print_blob=True)
hypothesis.settings.load_profile("cvcodec")


@pytest.fixture(autouse=True, scope="session")
def _empty_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models that the person running the tests has added are not seen, and none are added to theirs."""
    folder = tmp_path_factory.mktemp("cvcodec-home")
    before = os.environ.get("CVCODEC_HOME")
    os.environ["CVCODEC_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["CVCODEC_HOME"]
    else:
        os.environ["CVCODEC_HOME"] = before


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A weights file so small that a measurement of it takes no time."""
    from cvcodec.checkpoints.checkpoint import save_checkpoint
    from cvcodec.model.mini import mini_config
    from harness import random_model

    config = mini_config(4, widths=(8, 8, 8), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), window_latents=4)
    model = random_model(config, "tiny")
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, model, statistics=model.statistics, card={})
    return str(path)
