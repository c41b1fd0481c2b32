"""The processes a training runs in: one, or several under torchrun or ``accelerate launch``."""

from __future__ import annotations

import platform
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor

import podx
from podx.errors import ConfigError, DeviceError
from podx_train.options import TrainOptions


def choose_device(asked: str) -> torch.device:
    """The device to train on.

    Raises:
        DeviceError: a GPU was asked for and torch finds none.
    """
    if asked == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if asked == "cuda":
        raise DeviceError("--device cuda: torch finds no GPU here; use --device cpu, or install torch's CUDA wheel")
    return torch.device("cpu")


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether to train in bf16.

    Raises:
        DeviceError: bf16 was asked for on a device without it.
    """
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
    able = on_gpu or (device.type == "cpu" and cpu_multiplies_bf16())
    if precision == "bf16" and not able:
        raise DeviceError("--precision bf16 needs a GPU or a CPU that has bf16: use --precision fp32 or auto")
    return precision == "bf16" or (precision == "auto" and on_gpu)


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has instructions for matrix products in bf16 (AMX or AVX-512 BF16)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


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
    try:
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
        if accelerator.device.type != device.type:
            raise ValueError(f"it stays on {accelerator.device.type}")
    except ValueError as error:
        raise ConfigError(
            f"an earlier training in this Python process had another device or precision ({error}): "
            f"train in a new process, or with the --device and --precision of the first"
        ) from error
    return accelerator


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """What the figures were made with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "podx": podx.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "processes": processes,
    }
