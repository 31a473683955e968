"""Several processes that train one model (torchrun): who am I, averages over all, decisions made together.

Owns: the process group. Gradients are averaged in one flat tensor after the backward pass, so that any loss may use
`autograd.grad` and any submodule on the way; with one process everything here is the identity.
Does not know: models, losses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from cvcodec.errors import DeviceError


@dataclass(frozen=True)
class Processes:
    """This process's place among all."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this one writes files and speaks."""
        return self.rank == 0

    def average(self, tensor: Tensor) -> Tensor:
        """The mean over processes, a new tensor."""
        if self.count == 1:
            return tensor
        mean = tensor.detach().clone()
        dist.all_reduce(mean)
        return mean / self.count

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each gradient by its mean over processes; those without one stay so (the same everywhere)."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.count == 1 or not gradients:
            return
        flat = self.average(torch.cat([gradient.reshape(-1).float() for gradient in gradients]))
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def average_values(self, values: dict[str, float]) -> dict[str, float]:
        """The mean of each named number over processes, which all have the same names."""
        if self.count == 1:
            return dict(values)
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        means = self.average(torch.tensor(list(values.values()), dtype=torch.float64, device=device))
        return dict(zip(values, means.tolist(), strict=True))

    def agree(self, *, progress: float, stop: bool, report: bool) -> tuple[float, bool, bool]:
        """The main process's progress and wish to report (clocks differ), and whether anyone wants to stop."""
        if self.count == 1:
            return progress, stop, report
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        mine = [progress, float(stop), float(report)] if self.is_main else [0.0, float(stop), 0.0]
        values = torch.tensor(mine, dtype=torch.float64, device=device)
        dist.all_reduce(values)
        return float(values[0]), bool(values[1] > 0), bool(values[2] > 0)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give everyone the main process's values."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor.data, src=0)

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            dist.barrier()


@contextlib.contextmanager
def process_group(device_type: str) -> Iterator[Processes]:
    """The group that torchrun's environment names: nccl on CUDA, gloo elsewhere; alone without that environment.

    DeviceError where another process has gone, so that only that one's error stands out.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), count, int(os.environ.get("LOCAL_RANK", "0")))
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):  # gloo has no exceptions of its own
            raise
        raise DeviceError(
            "another process of this run ended, so this one does too; the other's message says why"
        ) from error
    finally:
        dist.destroy_process_group()
