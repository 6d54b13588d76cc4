"""Every recipe for a few steps as a user starts it: its losses on the GPU beside those on the CPU.

The CPU runs the same steps in float32 and in bf16. The distance between the two is what rounding to bf16 does to these
losses, and three times that is what the GPU is allowed in bf16: plain, with recomputed activations, sharded by FSDP in
one process, and compiled. Nothing that is drawn on the device takes part: DeiT-III's stochastic depth is off; masks and
stochastic depth of DINOv2, mixing and crops are drawn on the host.
"""

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import ModelParallelStrategy

from benchmarks.gpu_check.check import Check, compiling
from benchmarks.gpu_check.lines import FAILED, Line, at_most, guarded
from regvit_lightning import settings
from regvit_lightning.pretrain import fit, parallel

RECIPES = ("deit3", "dinov2", "openclip")
MODEL = "vitn_reg4"
SLACK = 3.0  # times the distance between the CPU's own losses in float32 and bf16
LEAST = {"bf16-mixed": 0.01, "32-true": 0.005}  # that is allowed in any case, relative to the loss
COMMON = (
    *("epochs=null", "batch_size=32", "device_batch=32", "workers=0", "checkpoint_every=1000000", "norms_every=0"),
    *("logger=none", "monitor_every=0"),
)
WORDS = {
    "deit3": ("drop_path=0", "warmup_epochs=0"),
    "dinov2": ("local_crops=2", "ibot_weight=1", "drop_path=0.3", "group=16"),
    "openclip": ("warmup_steps=2",),
}
VARIANTS = {
    "bf16": (),
    "recomputed activations": ("grad_checkpointing=true",),
    "FSDP, one process": ("strategy=fsdp",),
}


class Losses(Callback):
    """Keeps the loss of every step on the device."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.values.append(outputs["loss"].detach())


def losses(check: Check, name: str, precision: str, words: tuple[str, ...] = ()) -> list[float]:
    """Losses of the first steps of a recipe on this part's device."""
    given = [*COMMON, *WORDS[name], f"steps={check.scale.recipe_steps}", f"precision={precision}", *words]
    chosen = settings.load_settings("recipes", name, "mini", given)[1]
    kept, folder = Losses(), Path(tempfile.mkdtemp(dir=check.folder)) / "run"
    with sharding() if "strategy=fsdp" in words else nullcontext(), compiling(check):
        fit.fit(fit.Run(MODEL, name, chosen, check.data(), 0, folder), [kept])
    return [float(value) for value in kept.values]


def sharding() -> AbstractContextManager[Any]:
    """Context in which one process shards like several do; `parallel.strategy` leaves a single one unsharded."""

    def alone(name: str, world: int) -> ModelParallelStrategy:
        return ModelParallelStrategy(
            data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False
        )

    return mock.patch.object(parallel, "strategy", alone)


def on_the_cpu(check: Check) -> Iterator[Line]:
    """Losses of every recipe on the CPU in float32, and how far those in bf16 are from them."""
    for name in RECIPES:
        yield from guarded(_of_cpu(name), lambda name=name: _on_the_cpu(check, name))  # type: ignore[misc]


def _of_cpu(name: str) -> str:
    return f"{name}, losses of the CPU: bf16 against float32"


def _on_the_cpu(check: Check, name: str) -> Iterator[Line]:
    exact, rounded = (losses(check, name, precision) for precision in ("32-true", "bf16-mixed"))
    facts = {"float32": exact, "bf16": rounded}
    yield Line(_of_cpu(name), distance(rounded, exact), source=_ends(exact), facts=facts)


def variants(name: str, check: Check) -> Iterator[Line]:
    """A recipe in float32 and in every variant in bf16 that needs no compiler, beside the CPU's losses."""
    yield from guarded(f"{name}, float32", lambda: _compared(check, name, "float32", "32-true", ()))
    for variant, words in VARIANTS.items():
        work = lambda variant=variant, words=words: _compared(check, name, variant, "bf16-mixed", words)  # noqa: E731
        yield from guarded(f"{name}, {variant}", work)


def compiled(name: str, check: Check) -> Iterator[Line]:
    """A recipe with compiled blocks in bf16, beside the CPU's losses."""
    yield from guarded(f"{name}, compiled", lambda: _compared(check, name, "compiled", "bf16-mixed", ("compile=true",)))


def _compared(check: Check, name: str, variant: str, precision: str, words: tuple[str, ...]) -> Iterator[Line]:
    found = losses(check, name, precision, words)
    exact, rounded = check.fact(_of_cpu(name), "float32"), check.fact(_of_cpu(name), "bf16")
    if exact is None:
        yield Line(f"{name}, {variant}", source=f"{_ends(found)}; nothing to compare with", facts={"losses": found})
        return
    own = distance(rounded, exact) if precision == "bf16-mixed" else 0.0
    allowed = max(SLACK * own, LEAST[precision])
    name = f"{name}, {variant}: distance to the CPU's losses"
    yield at_most(name, distance(found, exact), allowed, _ends(found), FAILED, facts={"losses": found})


def distance(ours: list[float], theirs: list[float]) -> float:
    """Largest relative difference of two series of losses; infinite if one is not finite or has another length."""
    if len(ours) != len(theirs):
        return float("inf")
    apart = [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]
    return max(apart) if all(value < float("inf") for value in apart) else float("inf")


def _ends(values: list[float]) -> str:
    return f"{len(values)} steps, loss {values[0]:.4f} to {values[-1]:.4f}"
