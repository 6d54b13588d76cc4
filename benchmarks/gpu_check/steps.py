"""The real step of a recipe under Lightning, on random images that lie on the GPU: img/s, MFU, memory, waits."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from benchmarks import throughput
from benchmarks.gpu_check import kernels, waits
from benchmarks.gpu_check.check import Check, Scale, compiling
from benchmarks.gpu_check.lines import BELOW, OK, Line, guarded
from benchmarks.gpu_check.machine import MACHINE
from regvit_lightning import settings
from regvit_lightning.models.vit_backbone import ViTBackbone
from regvit_lightning.runtime import hardware, seeds
from regvit_lightning.runtime.checkpoints import FiniteLoss

CLASSES = 21_841  # of ImageNet-22k
IMAGES = 14_197_122  # of ImageNet-22k, for the length of a run
STEPS = 1_000_000  # of the schedule: no measured step is its last


class Repeated:
    """A loader that gives the same batch `count` times."""

    def __init__(self, batch: Any, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.count):
            yield self.batch


class Clock(Callback):
    """Times some steps after others, then watches a few more; the device is waited for between these only.

    Attributes:
        seconds: of all timed steps.
        peak: peak memory in bytes while they ran.
        waits: places at which the host waited in the last steps.
        kernels: seconds of the kernels of the last steps, by kind.
    """

    def __init__(self, scale: Scale) -> None:
        self.first, self.last = scale.warm_up, scale.warm_up + scale.timed
        self.end = self.last + scale.watched
        self.begun, self.seconds, self.peak = 0.0, 0.0, 0.0
        self.waits: Counter[str] = Counter()
        self.kernels: Counter[str] = Counter()
        self.watching = ExitStack()

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.first:
            _finish()
            hardware.forget_peak_memory()
            self.begun = time.perf_counter()
        elif batch_idx == self.last:
            _finish()
            self.seconds = time.perf_counter() - self.begun
            self.peak = hardware.peak_memory_mib() * 2**20
            self.kernels = self.watching.enter_context(kernels.watched())
            self.waits = self.watching.enter_context(waits.counted())

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.end - 1:
            _finish()
            self.watching.close()


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def step(name: str, compile_blocks: bool, check: Check) -> Iterator[Line]:
    """Lines of a recipe's step: its MFU, and the waits of the host in it."""
    title = title_of(name, compile_blocks, check)
    yield from guarded(title, lambda: _step(name, compile_blocks, check, title))


def title_of(name: str, compile_blocks: bool, check: Check) -> str:
    """Name of the line of a recipe's step."""
    return f"MFU, step of {name}, {check.scale.steps[name].model}{', compiled' if compile_blocks else ''}"


def _step(name: str, compile_blocks: bool, check: Check, title: str) -> Iterator[Line]:
    chosen, batch = check.scale.steps[name], check.scale.steps[name].batch
    while True:
        try:
            recipe, clock = _timed(name, compile_blocks, check, batch)
            break
        except torch.OutOfMemoryError:
            batch //= 2
            torch.cuda.empty_cache()
            if batch < 8:
                raise
    rate = check.scale.timed * batch / clock.seconds
    flops = flops_per_image(recipe)
    speed = Speed(rate, flops, clock.peak, batch)
    aim = chosen.least if re.search("H[12]00", check.fact(MACHINE, "device") or "") else None
    line = speed.line(title, check, aim)
    if check.device == "cpu":
        yield line
        return
    watched, step = check.scale.watched, clock.seconds / check.scale.timed
    facts = {**line.facts, "step_seconds": step}
    facts["kernel_seconds"] = {one: seconds / watched for one, seconds in clock.kernels.items()}
    yield replace(line, source=f"{line.source}; {kernels.in_words(clock.kernels, watched, step)}", facts=facts)
    places, facts = waits.in_words(clock.waits, watched), {"places": dict(clock.waits), "steps": watched}
    count = sum(clock.waits.values()) / watched
    yield Line(title.replace("MFU", "waits of the host"), count, "a step", source=places, facts=facts)


def _timed(name: str, compile_blocks: bool, check: Check, batch: int) -> tuple[Any, Clock]:
    recipe, clock = build(name, compile_blocks, check, batch), Clock(check.scale)
    images = random_batch(name, recipe, batch, check.device)
    trainer = Trainer(
        accelerator=hardware.accelerator(),
        devices=1,
        precision=recipe.settings.precision,
        max_epochs=1,
        max_steps=clock.end,
        logger=False,
        log_every_n_steps=recipe.settings.log_every,
        enable_checkpointing=False,
        callbacks=[FiniteLoss(recipe.settings.log_every), clock],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with compiling(check):
        trainer.fit(recipe, Repeated(images, clock.end))
    return recipe, clock


def build(name: str, compile_blocks: bool, check: Check, batch: int) -> Any:
    """A recipe at its published settings, its weights drawn on the device."""
    chosen = check.scale.steps[name]
    own = [f"batch_size={batch}", f"device_batch={batch}", "monitor_every=0", "norms_every=0", "precision=bf16-mixed"]
    given = [*own, f"compile={str(compile_blocks).lower()}"]
    words = [*given, *(word for word in chosen.words if not word.startswith("device_batch"))]
    module, options = settings.load_settings("recipes", name, words=words)
    epochs = options.epochs_in_all(IMAGES)
    # ViT-L takes long on the host; what DeiT-III mixes images by belongs there.
    place = torch.device(check.device) if name == "dinov2" else nullcontext()
    with seeds.drawn_from(0, "initialise"), place:
        return module.RECIPE(options, chosen.model, CLASSES, STEPS, 0, epochs)


def random_batch(name: str, recipe: Any, batch: int, device: str) -> dict[str, Any]:
    """A batch as the recipe's loader gives it, on the device."""
    options = recipe.settings

    def images(*shape: int) -> torch.Tensor:
        return torch.randint(256, (*shape, 3, shape_of[-1], shape_of[-1]), dtype=torch.uint8, device=device)

    shape_of = [options.image_size]
    if name == "dinov2":
        wide = images(batch, 2)
        shape_of = [options.local_size]
        return {"image": {"global": wide, "local": images(batch, options.local_crops)}}
    if name == "openclip":
        texts = torch.randint(1, 49_000, (batch, options.context_length), device=device)
        texts[:, -1] = 49_407  # the end of a text has the highest number
        return {"image": images(batch), "text": texts}
    return {"image": images(batch), "label": torch.randint(recipe.num_classes, (batch,), device=device)}


def flops_per_image(recipe: Any) -> float:
    """FLOP of the blocks of all passes of an image by the suite's counter (`analysis/cost.py`), without recomputation.

    Heads and patch embedding are left out (2 % of DINOv2's ViT-L); of passes with stochastic depth in DINOv2, only the
    share of images that a block sees is counted.
    """
    options = recipe.settings
    passes = recipe.work(options, {options.images: (IMAGES, 0)}).passes
    images = options.images_in_all(IMAGES)
    shape = ViTBackbone(recipe.backbone, "shape", options.image_size, (0.0,) * 3, (1.0,) * 3)
    kept = 1 - options.drop_path if hasattr(options, "local_crops") else 1.0
    return sum(throughput.flops(shape, one) * (kept if one.trained else 1) for one in passes) / images


class Speed:
    """Speed of a step.

    Args:
        rate: images per second.
        flops: FLOP of an image.
        peak: peak memory in bytes.
        batch: images of a step.
    """

    def __init__(self, rate: float, flops: float, peak: float, batch: int) -> None:
        self.rate, self.flops, self.peak, self.batch = rate, flops, peak, batch

    def line(self, title: str, check: Check, least: float | None = None) -> Line:
        """Line with the MFU: FLOP/s over the peak of the data sheet, or over the measured product for unknown cards."""
        peak, product = check.fact(MACHINE, "peak"), check.fact(MACHINE, "product")
        speed = self.rate * self.flops
        facts: dict[str, Any] = {"images_per_second": self.rate, "flop_per_image": self.flops, "batch": self.batch}
        facts |= {"mfu": speed / peak if peak else None, "mfu_of_product": speed / product if product else None}
        facts["peak_memory_gib"] = self.peak / 2**30
        value = facts["mfu"] if peak else facts["mfu_of_product"]
        source = f"{self.rate:,.0f} img/s of {self.flops / 1e9:,.1f} GFLOP; {self.peak / 2**30:.1f} GiB; "
        source += f"batch {self.batch}"
        if product:
            source += f"; {speed / product:.0%} of the measured product"
        aim = "" if least is None else f"≥ {least:g} on an H100"
        state = BELOW if least is not None and value is not None and value < least else OK
        return Line(title, value, aim=aim, state=state, source=source, facts=facts)
