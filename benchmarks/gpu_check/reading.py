"""Reading: photographs that the processors decode and augment each second, beside what the recipe's step takes."""

import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from benchmarks.gpu_check.check import Check
from benchmarks.gpu_check.lines import Line, at_least, guarded
from benchmarks.gpu_check.steps import title_of
from regvit_lightning import settings
from regvit_lightning.data import layout
from regvit_lightning.data.stream import Stream, StreamSampler

RECIPES = ("deit3", "dinov2")
SMALL = {
    "dinov2": ("prototypes=8", "ibot_prototypes=8", "batch_size=64", "device_batch=64"),
    "deit3": ("batch_size=64",),
}


def reading(check: Check) -> Iterator[Line]:
    """A line for each recipe that reads photographs."""
    for name in RECIPES:
        yield from guarded(f"reading for {name}", lambda name=name: _reading(check, name))  # type: ignore[misc]


def _reading(check: Check, name: str) -> Iterator[Line]:
    rate, workers = read_rate(check, name), check.cores
    source = f"{rate:,.0f} img/s decoded and augmented by {workers or 1} processes"
    steps = [check.fact(title_of(name, compiled, check), "images_per_second") for compiled in (False, True)]
    fastest = max((step for step in steps if step), default=None)
    if fastest is None:
        yield Line(f"reading for {name}", rate, "img/s", source=f"{workers or 1} processes; no step to compare with")
        return
    source += f"; its step takes {fastest:,.0f} img/s"
    yield at_least(f"reading over the step of {name}", rate / fastest, 1.0, source, facts={"images_per_second": rate})


def read_rate(check: Check, name: str) -> float:
    """Photographs per second that the loader of a recipe gives at its published settings, after the first batches."""
    module, chosen = settings.load_settings("recipes", name, words=list(SMALL[name]))
    recipe = module.RECIPE(chosen, "vitn14_reg4", 2, 1_000_000, 0, 1000.0)
    files = module.RECIPE.files(chosen, layout.resolve(str(check.photographs)))
    batch = check.scale.read
    steps = StreamSampler(Stream(len(files), batch, 1_000_000, 0, recipe.repeats))
    options: dict[str, Any] = {"pin_memory": check.device == "cuda", "num_workers": check.cores}
    loader = DataLoader(recipe.dataset(files), batch_sampler=steps, collate_fn=recipe.collate, **options)
    batches, waiting = iter(loader), 3 * check.cores  # what was prefetched before the clock started
    for _ in range(waiting):
        next(batches)
    begun, images = time.perf_counter(), 0
    while (seconds := time.perf_counter() - begun) < check.scale.reading or not images:
        next(batches)
        images += batch
    return images / seconds
