"""The processes a training runs in: one, or several under torchrun or ``accelerate launch``."""

from __future__ import annotations

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast
from torch import Tensor

from podx_train.options import TrainOptions, choose_device, uses_bf16


def is_first_process() -> bool:
    """Whether this process is the one that speaks."""
    return PartialState().is_main_process


class Processes:
    """A thin layer over accelerate: everything here is a no-op with one process."""

    def __init__(self, options: TrainOptions) -> None:
        """Join the processes of this launch.

        Raises:
            DeviceError: the device or precision asked for is not there.
        """
        device = choose_device(options.device)
        self.bf16 = uses_bf16(options.precision, device)
        self.accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if self.bf16 else "no")
        self.rank: int = self.accelerator.process_index
        self.world: int = self.accelerator.num_processes
        self.is_main: bool = self.accelerator.is_main_process
        self.device: torch.device = self.accelerator.device

    def wait(self) -> None:
        """Until every process is here."""
        self.accelerator.wait_for_everyone()

    def total(self, tensor: Tensor) -> Tensor:
        """Sum over processes."""
        return self.accelerator.reduce(tensor, reduction="sum") if self.world > 1 else tensor

    def agree(self, value: int) -> int:
        """The first process's value, on all: clocks differ, and all must stop at the same update."""
        if self.world == 1:
            return value
        return int(broadcast(torch.tensor([value], device=self.device)).item())

    def close(self) -> None:
        """Leave the process group, if this launch made one."""
        self.accelerator.end_training()
