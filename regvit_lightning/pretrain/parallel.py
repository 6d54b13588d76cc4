"""How a recipe is spread over devices: DDP, or FSDP for what does not fit on one of them."""

from collections.abc import Iterable

from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

STRATEGIES = ("ddp", "fsdp")


def strategy(name: str, world: int) -> str | Strategy:
    """Lightning's strategy for `world` devices over all nodes; with one there is nothing to spread.

    FSDP is PyTorch's second (`fully_shard`), which Lightning calls model parallel: its parameters keep their shape, so
    that LAMB's norms per tensor are those of the whole tensor. Checkpoints hold the whole state in one file, as
    those of DDP do.
    """
    if world == 1:
        return "auto"
    if name == "ddp":
        return "ddp"
    return ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False)


def shard(module: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Shard parameters, gradients and optimiser state over `mesh`.

    Each of `blocks` is gathered when it runs and let go after it; everything else of `module` is gathered for the
    whole of its `training_step`, whichever of its parts that calls.
    """
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(module, "training_step")
