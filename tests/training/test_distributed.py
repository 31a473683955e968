"""What a process of several says when another one is gone."""

from __future__ import annotations

import re

import pytest
import torch.distributed as dist

from cvcodec.errors import DeviceError
from cvcodec.training.distributed import Processes, process_group

GONE = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:916: Connection reset by peer"


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    ended: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(dist, "init_process_group", lambda backend: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: ended.append("destroyed"))
    return ended


def test_a_lost_process_is_not_a_defect_of_those_that_wait_for_it(second_of_two: list[str]) -> None:
    with pytest.raises(DeviceError, match="another process of this run ended"), process_group("cpu") as processes:
        assert processes == Processes(rank=1, count=2, local_rank=1) and not processes.is_main
        raise RuntimeError(GONE)
    assert second_of_two == ["destroyed"]


def test_other_errors_stay_what_they_are(second_of_two: list[str]) -> None:
    with pytest.raises(RuntimeError, match=re.escape("shapes (2, 3) and (4, 5)")), process_group("cpu"):
        raise RuntimeError("shapes (2, 3) and (4, 5) cannot be multiplied")
    assert second_of_two == ["destroyed"]
