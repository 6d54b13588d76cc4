"""Forward and backward passes of register ViTs on random images: img/s, MFU and peak memory."""

import time
from collections.abc import Callable, Iterator

import torch

from benchmarks.gpu_check.check import Check, Trained, compiling
from benchmarks.gpu_check.lines import Line, guarded
from benchmarks.gpu_check.steps import Speed
from regvit_lightning.analysis import cost
from regvit_lightning.models import vit
from regvit_lightning.models.vit_backbone import ViTBackbone
from regvit_lightning.runtime import hardware


def trained(check: Check, compile_blocks: bool = False) -> Iterator[Line]:
    """A line for each model and size: forward and backward pass in bf16, without an optimiser."""
    for one in check.scale.trained:
        title = f"MFU, forward and backward, {one.model} {one.size} px{', compiled' if compile_blocks else ''}"
        work = lambda one=one, title=title: _trained(check, one, title, compile_blocks)  # noqa: E731
        yield from guarded(title, work)


def _trained(check: Check, one: Trained, title: str, compile_blocks: bool) -> Iterator[Line]:
    with torch.device(check.device):
        network = vit.build(one.model, image_size=one.size, layer_scale=1e-5).train()
        images = torch.randn(one.batch, 3, one.size, one.size)
    vit.fuse_attention(network, check.device == "cuda")
    with compiling(check):
        for block in network.blocks if compile_blocks else ():
            block.compile()

    def step() -> None:
        network.zero_grad()
        with torch.autocast(check.device, torch.bfloat16):
            loss = network(images).float().square().mean()
        loss.backward()

    seconds, peak = timed(step, check)
    shape = ViTBackbone(network, "shape", one.size, (0.0,) * 3, (1.0,) * 3)
    flops = 6.0 * cost.macs(shape, shape.num_registers, one.size)
    yield Speed(one.batch / seconds, flops, peak, one.batch).line(title, check)


def timed(step: Callable[[], None], check: Check) -> tuple[float, float]:
    """Mean seconds of a step after some to warm up, and peak memory in bytes."""
    for _ in range(check.scale.warm_up):
        step()
    _finish()
    hardware.forget_peak_memory()
    begun = time.perf_counter()
    for _ in range(check.scale.timed):
        step()
    _finish()
    return (time.perf_counter() - begun) / check.scale.timed, hardware.peak_memory_mib() * 2**20


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
