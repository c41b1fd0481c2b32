"""The processes a training runs in: one, or several under torchrun or ``accelerate launch``."""

from __future__ import annotations

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast
from torch import Tensor

from podx.errors import ConfigError
from podx_train.training.options import TrainOptions, choose_device, uses_bf16


def is_first_process() -> bool:
    """Whether this process is the one that speaks."""
    return PartialState().is_main_process


def leave_processes() -> None:
    """End what this launch's processes have in common; the last thing a command does. Nothing with one process."""
    PartialState().destroy_process_group()


class Processes:
    """A thin layer over accelerate: everything here is a no-op with one process."""

    def __init__(self, options: TrainOptions) -> None:
        """Join the processes of this launch.

        Raises:
            DeviceError: the device or precision asked for is not there.
            ConfigError: an earlier training in this Python process used others, which accelerate cannot change.
        """
        device = choose_device(options.device)
        self.bf16 = uses_bf16(options.precision, device)
        self.accelerator = _join(device, "bf16" if self.bf16 else "no")
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


def _join(device: torch.device, precision: str) -> Accelerator:
    kept: str | None = None
    try:
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
        if accelerator.device.type != device.type:
            kept = f"it stays on {accelerator.device.type}"
    except ValueError as error:
        kept = str(error)
    if kept is not None:
        raise ConfigError(
            f"an earlier training in this Python process had another device or precision ({kept}): "
            f"train in a new process, or with the --device and --precision of the first"
        )
    return accelerator
