"""Signals during a run are noted, whenever they come."""

from __future__ import annotations

import subprocess
import sys

# A SIGTERM before each line that notes a SIGINT in turn.
SCRIPT = """
import signal, sys
from cvcodec.training.stop import interruption

for at in range(40):
    lines = 0

    def trace(frame, event, argument):
        global lines
        if event == "line":
            lines += 1
            if lines == at:
                signal.raise_signal(signal.SIGTERM)
        return trace

    with interruption() as flag:
        sys.settrace(trace)
        signal.raise_signal(signal.SIGINT)
        sys.settrace(None)
        assert flag.is_set()
"""


def test_two_signals_at_once_do_not_wait_for_each_other() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)
