"""Hardware queries: device, arithmetic precision, memory use."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

from regvit_lightning.settings import check


def accelerator() -> str:
    """Accelerator in use: `cuda` if there is a device, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_devices(wanted: int) -> None:
    """Raise `SettingsError` unless this machine has enough devices; on a CPU, devices are processes."""
    check(wanted > 0, f"devices={wanted}: must be at least 1")
    if accelerator() == "cuda":
        there = torch.cuda.device_count()
        check(wanted <= there, f"devices={wanted}: this machine has {there}")


def choose_accelerator(wanted: str, devices: int) -> None:
    """Select the GPUs or the CPU of this machine; several processes on the CPU must be requested explicitly.

    Args:
        wanted: `auto`, GPUs if there are any; or `cpu`, which hides the GPUs from this process and its children.
        devices: number of devices.

    Raises:
        SettingsError: another name, or several devices on a machine without GPU.
    """
    check(wanted in ("auto", "cpu"), f"accelerator={wanted}: expected auto or cpu")
    if wanted == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    advice = "leave GPUS out, or give accelerator=cpu for so many processes on its processor"
    check(devices <= 1 or accelerator() == "cuda", f"devices={devices}: this machine has no GPU; {advice}")


def first_process() -> bool:
    """Whether this process has rank 0: only this process claims folders and prints.

    Lightning reads the rank from the environment set by torchrun, Slurm or its own launcher.
    """
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


def started_by_cluster() -> bool:
    """Whether torchrun or Slurm started this process, possibly along with others on further machines."""
    return SLURMEnvironment.detect() or TorchElasticEnvironment.detect()


def precision(wanted: str, trained: bool = False) -> str:
    """Resolve `auto` to bf16 autocast where the hardware multiplies in bf16.

    Elsewhere it is fp32; on a GPU without bf16, a backbone that is trained takes fp16 with a gradient scaler, as DINOv2
    did. Frozen features stay in fp32 there: norms of outliers and activations of MLPs may overflow fp16.

    Args:
        wanted: `auto`, `bf16-mixed`, `16-mixed` or `32-true` (Lightning's names).
        trained: the backbone is trained.

    Raises:
        SettingsError: another name.
    """
    known = ("auto", "bf16-mixed", "16-mixed", "32-true")
    check(wanted in known, f"precision={wanted}: expected one of {', '.join(known)}")
    if wanted != "auto":
        return wanted
    if accelerator() == "cuda":
        fast, slow = torch.cuda.is_bf16_supported(including_emulation=False), "16-mixed" if trained else "32-true"
    else:
        fast, slow = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(), "32-true"
    return "bf16-mixed" if fast else slow


def mixed_precision(precision: str) -> MixedPrecision | None:
    """Lightning's plugin for training in fp16 with a gradient scaler; None for the other precisions, which need none.

    Lightning's own choice for the name 16-mixed would be bf16 on a CPU.
    """
    if precision != "16-mixed":
        return None
    device = accelerator()
    return MixedPrecision("16-mixed", device, torch.amp.GradScaler(device))


def autocast(device: str, precision: str) -> torch.autocast:
    """Autocast on `device` (`cpu`, `cuda`) to bf16 or fp16 for bf16-mixed and 16-mixed; no effect for 32-true."""
    half = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device, half, enabled=precision != "32-true")


def round_products(rounded: bool) -> None:
    """Let float32 matrix products on a GPU round their factors to TF32, 11 bits as in fp16, or compute them in full.

    They then take the tensor cores. Products on a CPU stay as they are. Until this process has used a GPU, nothing
    happens: looking for one would ask the driver, in every step.
    """
    if torch.cuda.is_initialized():
        torch.set_float32_matmul_precision("high" if rounded else "highest")


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy of values of the host on `device`, for which the host does not wait.

    From memory that is not pinned, a copy of more than 64 KiB begins only when the GPU has done all that it was asked
    for before, and the host waits for that.
    """
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def device_name() -> str:
    """Name of the GPU, or of the CPU with its number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


@contextmanager
def threads(most: int) -> Iterator[None]:
    """Context in which an operation on the CPU has at most so many threads, and at least one.

    Where each has little to do, most of the processor time of many small operations goes into waiting for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(min(most, before), 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def forget_peak_memory() -> None:
    """Reset the measurement of `peak_memory_mib`."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:  # not Linux, or not permitted: the peak is then that of the process's lifetime
        return


def peak_memory_mib() -> float:
    """Peak memory since `forget_peak_memory`, MiB: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM")), 0.0)
