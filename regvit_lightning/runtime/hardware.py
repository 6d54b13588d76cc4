"""What the machine has: which device, which arithmetic, how much memory was used; and leaving its helper processes."""

import os
import platform
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

from regvit_lightning.settings import check


def accelerator() -> str:
    """`cuda` where there is a device, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_devices(wanted: int) -> None:
    """Raise `SettingsError` unless this machine has so many devices; on a CPU they are processes."""
    check(wanted > 0, f"devices={wanted}: must be at least 1")
    if accelerator() == "cuda":
        there = torch.cuda.device_count()
        check(wanted <= there, f"devices={wanted}: this machine has {there}")


def choose_accelerator(wanted: str, devices: int) -> None:
    """Take the GPUs of this machine, or its processor; several processes on the processor must be asked for.

    Args:
        wanted: `auto`, GPUs where there are any; or `cpu`, which hides them from this process and its children.
        devices: how many are wanted.

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
    """Whether this process is the first of a run: it alone claims folders and prints.

    Lightning reads it from the environment that torchrun, Slurm or its own launcher made.
    """
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


def started_by_cluster() -> bool:
    """Whether torchrun or Slurm has started this process, among others on further machines."""
    return SLURMEnvironment.detect() or TorchElasticEnvironment.detect()


def precision(wanted: str) -> str:
    """`auto` becomes bf16 autocast where the hardware multiplies in bf16, and full fp32 elsewhere.

    Args:
        wanted: `auto`, `bf16-mixed` or `32-true` (Lightning's names).

    Raises:
        SettingsError: another name.
    """
    known = ("auto", "bf16-mixed", "32-true")
    check(wanted in known, f"precision={wanted}: expected one of {', '.join(known)}")
    if wanted != "auto":
        return wanted
    if accelerator() == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"


def autocast(device: str, precision: str) -> torch.autocast:
    """bf16 autocast on `device` (`cpu`, `cuda`) for the precision bf16-mixed; for 32-true it changes nothing."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed")


def device_name() -> str:
    """The GPU's name, or the processor's with its number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


def forget_peak_memory() -> None:
    """Start measuring `peak_memory_mib` anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:  # not Linux, or not allowed: the peak is then that of the whole process
        return


def peak_memory_mib() -> float:
    """Most memory used since `forget_peak_memory`, MiB: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM")), 0.0)


def leave_helpers(trainer: Trainer) -> None:
    """After training on several devices: end the processes that Lightning started for the further ones.

    What follows (judging, exporting, recording) is done once, on one device, by the process that the user started.
    """
    if not trainer.is_global_zero:
        raise SystemExit(0)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
