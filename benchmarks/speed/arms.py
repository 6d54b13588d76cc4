"""(k) Speed of training of the models of the grid `arms`, each beside the plain model with as many registers.

The steps of the two models alternate, so that a machine that is busy for a while slows both; the ratio is the median
over pairs of steps. Weights are random, images stand in memory: this is the speed of the model, not that of reading.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.timing import Measurement, seconds_once
from regvit_lightning import settings
from regvit_lightning.models import names

GRID = "arms"
IMAGE_SIZE, BATCH = 64, 48  # of DeiT-III on the rendered data
WARM_UP = 2  # pairs of steps


@dataclass(frozen=True)
class Pace:
    """Speed of training of one model.

    Attributes:
        model: name of the register ViT.
        images_per_second: of forward and backward passes, median over steps.
        relative: median ratio to the speed of the plain model with as many registers, over pairs of steps.
        low, high: quartiles of this ratio.
    """

    model: str
    images_per_second: float
    relative: float
    low: float
    high: float


def rows(results: Path, steps: int) -> list[Measurement]:
    """Measure all models, write `<results>/bench/arms-<cpu|cuda>.json`, and return a row for each.

    Args:
        results: folder of the results.
        steps: pairs of steps that are timed for each model, at least 2.
    """
    from regvit_lightning import records
    from regvit_lightning.runtime import atomic, hardware

    begun = time.perf_counter()
    paces = [pace(model, steps) for model in models()]
    facts = records.provenance(time.perf_counter() - begun)
    content = {
        "rows": [asdict(one) for one in paces],
        "image_size": IMAGE_SIZE,
        "batch": BATCH,
        "steps": steps,
        **facts,
    }
    text = json.dumps(content, indent=1) + "\n"
    atomic.write_text(results / "bench" / f"arms-{hardware.accelerator()}.json", text)
    return [_row(one) for one in paces]


def models() -> list[str]:
    """Register ViTs of the grid, without its untrained models."""
    parsed = (names.parse_id(model) for model in settings.read_yaml(settings.find("grids", GRID)[0])["models"])
    return [own.name for own in parsed if own is not None and own.recipe != "random"]


def _row(one: Pace) -> Measurement:
    parts = f"{one.images_per_second:,.0f} img/s; quartiles of the ratio {one.low:.2f} to {one.high:.2f}"
    return Measurement(f"(k) training img/s / plain model, {one.model} {IMAGE_SIZE} px", one.relative, "", parts)


def pace(model: str, steps: int, image_size: int = IMAGE_SIZE, batch: int = BATCH) -> Pace:
    """Measure the speed of training of one model beside that of its plain twin."""
    both = [step_of(name, image_size, batch) for name in (model, names.without_arm(model))]
    pairs = [[seconds_once(step) for step in both] for _ in range(WARM_UP + steps)][WARM_UP:]
    return summary(model, batch, [own for own, _ in pairs], [plain for _, plain in pairs])


def summary(model: str, batch: int, own: Sequence[float], plain: Sequence[float]) -> Pace:
    """Speed from the seconds of the steps of a model, and of those of the plain model that alternate with them."""
    ratios = [other / mine for mine, other in zip(own, plain, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Pace(model, batch / statistics.median(own), middle, low, high)


def step_of(model: str, image_size: int, batch: int) -> Callable[[], object]:
    """One step of training of a model on random images: forward pass in the recipes' precision, and backward pass."""
    import torch

    from regvit_lightning.models import vit
    from regvit_lightning.models.arms import global_pathway
    from regvit_lightning.runtime import hardware

    device, precision = hardware.accelerator(), hardware.precision("auto", trained=True)
    network: Any = vit.build(model, image_size=image_size).to(device).train()
    vit.fuse_attention(network, device != "cpu")  # as in recipes
    images = torch.randn(batch, 3, image_size, image_size, device=device)

    def step() -> None:
        network.zero_grad()
        with hardware.autocast(device, precision), global_pathway.collected(network.blocks) as shares:
            loss = network(images).float().square().mean()
        (loss + global_pathway.penalty(shares) if shares else loss).backward()

    return step
