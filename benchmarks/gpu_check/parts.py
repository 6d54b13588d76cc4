"""The parts in the order of their value, each with the seconds that are planned for it on an H100."""

from functools import partial

from benchmarks.gpu_check import cells, frozen, machine, marked_tests, models, reading, recipes, steps
from benchmarks.gpu_check.schedule import Part


def parts() -> list[Part]:
    """All parts in their order."""
    return [
        Part("machine", 25, machine.machine, needed=True),
        Part("data", 15, machine.small_data, needed=True),
        Part("recipes-cpu", 30, recipes.on_the_cpu, on_cpu=True),
        *(Part(f"recipes-{name}", 22, partial(recipes.variants, name)) for name in ("deit3", "dinov2")),
        Part("step-deit3", 20, partial(steps.step, "deit3", False)),
        Part("step-dinov2", 30, partial(steps.step, "dinov2", False)),
        Part("step-deit3-compiled", 45, partial(steps.step, "deit3", True)),
        Part("models", 35, models.trained),
        Part("reading", 24, reading.reading),
        Part("frozen", 18, frozen.frozen),
        Part("recipes-openclip", 22, partial(recipes.variants, "openclip")),
        Part("recipes-deit3-compiled", 30, partial(recipes.compiled, "deit3")),
        *(Part(f"cell-{task}", 15, partial(cells.cell, task)) for task in list(cells.TASKS)[:3]),
        Part("tests", 25, marked_tests.marked_tests),
        Part("step-openclip", 25, partial(steps.step, "openclip", False)),
        Part("step-dinov2-compiled", 90, partial(steps.step, "dinov2", True)),
        Part("recipes-dinov2-compiled", 60, partial(recipes.compiled, "dinov2")),
        Part("recipes-openclip-compiled", 50, partial(recipes.compiled, "openclip")),
        *(Part(f"cell-{task}", 20, partial(cells.cell, task)) for task in list(cells.TASKS)[3:]),
        Part("models-compiled", 90, partial(models.trained, compile_blocks=True)),
    ]
