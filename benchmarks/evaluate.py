"""Evaluate one cell: `python -m benchmarks.evaluate model=deit3-vitb_reg16 task=imagenet_knn data=full`."""

import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from benchmarks.data import render
from regvit_lightning.data import layout
from regvit_lightning.settings import setting

DESCRIPTION = """Evaluates a frozen backbone on one task and writes its record,
<results>/<data>/cells/<model>/<task>.seed<k>.json. A cell whose record still holds is not run again."""


@dataclass
class Evaluate:
    """Settings of the program; the task's own settings follow as further words."""

    model: str = setting("<recipe>-<name> (trained here), timm/<name>, a checkpoint's path, or random-<name>")
    task: str = setting("a file of configs/tasks")
    data: str = setting("a file of configs/data, or a folder with train/ and val/ class folders", "mini")
    variant: str = setting("overlay of the task; 'auto' takes the data's own", "auto")
    seed: int = setting("of the trained model and of the evaluation", 0)
    devices: int = setting("devices of this machine, for tasks that train", 1)
    runs: str = setting("folder of the runs", "runs")
    results: str = setting("folder of the results", "results")
    force: bool = setting("run the cell although its record holds", False)


def main(options: Evaluate, words: list[str]) -> None:
    """Run the program."""
    from benchmarks import progress
    from regvit_lightning import atomic, backbones, hardware, records, settings
    from regvit_lightning.tasks.frozen import How, Task

    data = layout.resolve(options.data)
    variant = data.variant if options.variant == "auto" else options.variant
    task: Task
    task, chosen = settings.load("tasks", options.task, variant, words, command.keys(Evaluate))
    runs, results = Path(options.runs) / data.name, Path(options.results)
    backbone = backbones.load(options.model, runs, options.seed, image_size=chosen.crop)
    name = f"{backbone.name} {options.task} seed {options.seed}"
    file = records.path(results, data.name, backbone.name, options.task, options.seed)
    data_root = "" if options.data in settings.names("data") else options.data
    if file.exists() and not options.force:
        reason = records.stale(records.load(file), settings.resolved(chosen), backbone.fingerprint, data_root)
        if not reason:
            print(f"evaluate: {name} is done: {file}")
            return
        print(f"evaluate: {name} runs again: {reason}")

    atomic.check_writable(file)
    render(data)
    progress.quiet()
    hardware.forget_peak_memory()
    begun = time.monotonic()
    how = How(options.seed, options.devices, [progress.Progress(name)])
    outcome = task.run(backbone, data, chosen, how)
    record = records.Record(
        model=backbone.name,
        task=options.task,
        data=data.name,
        data_root=data_root,
        seed=options.seed,
        metrics={key: round(value, 4) for key, value in outcome.metrics.items()},
        columns=task.METRICS,
        intervals={key: [round(end, 4) for end in ends] for key, ends in outcome.intervals.items()},
        images=outcome.images,
        protocol=outcome.protocol,
        settings=settings.resolved(chosen),
        backbone=backbone.facts(),
        weights=backbone.fingerprint,
        provenance=records.provenance(time.monotonic() - begun),
    )
    found = ", ".join(f"{key} {outcome.metrics[key]:.2f}" for key in task.METRICS)
    print(f"evaluate: {name}: {found}; record in {record.save(results)}")


def cli() -> None:
    """Run the program with the words of the command line."""
    command.run("evaluate", DESCRIPTION, Evaluate, main, group="tasks")


if __name__ == "__main__":
    cli()
