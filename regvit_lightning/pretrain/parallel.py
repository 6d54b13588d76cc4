"""Distributed training of a recipe: DDP, or FSDP for models that do not fit on one device."""

from collections.abc import Iterable

from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

STRATEGIES = ("ddp", "fsdp")


def strategy(name: str, world: int) -> str | Strategy:
    """Lightning's strategy for `world` devices over all nodes; `auto` for a single device.

    FSDP is PyTorch's FSDP2 (`fully_shard`), which Lightning calls model parallel: its parameters keep their shape, so
    LAMB's per-tensor norms are those of the whole tensor. Checkpoints hold the full state in one file, as with DDP.
    """
    if world == 1:
        return "auto"
    if name == "ddp":
        return "ddp"
    return ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False)


def shard(module: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Shard parameters, gradients and optimiser state over `mesh`.

    Each of `blocks` is gathered when it runs and freed afterwards; all other parameters of `module` are gathered for
    the whole of its `training_step`, whichever submodules that calls.
    """
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(module, "training_step")
