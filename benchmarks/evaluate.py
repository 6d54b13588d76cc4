"""Evaluate a model on a task: `python -m benchmarks.evaluate model=deit3-vitb_reg16 task=imagenet_knn data=full`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import command, terminal
from benchmarks.data.rendering import render
from regvit_lightning.data import layout
from regvit_lightning.models import origins
from regvit_lightning.settings import SEEDS, check, setting
from regvit_lightning.values import texts

if TYPE_CHECKING:
    from regvit_lightning.runtime.store import Store

DESCRIPTION = """Evaluates a frozen backbone on one task and writes its record,
<results>/<data>/cells/<model>/<task>.seed<k>.json, with a picture beside it where the task has one. A cell whose record
still holds is not run again; one that was interrupted while a head was trained continues."""


@dataclass
class Evaluate:
    """Settings of the program; further arguments are settings of the task."""

    model: str = setting(
        "<recipe>[+<tag>]-<name> (trained here), timm/<name>, hf/<org>/<name>, a checkpoint's path, "
        "python:<module or file>:<function>, or random-<name>"
    )
    task: str = setting("a file of configs/tasks")
    name: str = setting("id of the model in records; empty for the one that MODEL or its file's name gives", "")
    data: str = setting("a file of configs/data or a path of one, or a folder with train/ and val/ classes", "mini")
    variant: str = setting("overlay of the task; 'auto' takes the data's own", "auto")
    seed: int = setting("of the trained model and of the evaluation", 0, within=SEEDS)
    devices: int = setting("GPUs of this machine, which share the images", 1, within="[1, 1024]")
    accelerator: str = setting("auto: GPUs where there are any; cpu: so many processes on the processor", "auto")
    runs: str = setting("folder of the runs", "runs", texts.folder)
    results: str = setting("folder of the results", "results", texts.folder)
    force: bool = setting("run the cell although its record holds", False)
    cache: bool = setting("read and keep features that tasks share, in <runs>/.features; false computes all", True)
    cache_gb: float = setting(
        "size of that folder; the features not used for longest leave it", 20.0, within="[0, 1e6]"
    )


def main(options: Evaluate, words: list[str]) -> None:
    """Run the program."""
    with command.importing():
        from benchmarks import progress
        from regvit_lightning import evaluation, records
        from regvit_lightning.frozen.contract import RunOptions
        from regvit_lightning.models.sources import load_backbone
        from regvit_lightning.runtime import atomic, hardware

    if options.name:
        check(bool(records.NAME.fullmatch(options.name)), f"name={options.name}: {records.NAME_RULE}")
    hardware.choose_accelerator(options.accelerator, options.devices)
    data = layout.resolve(options.data)
    with command.importing():  # the task, and what it needs
        cell = evaluation.prepare(options.task, data, options.variant, options.seed, words, command.keys(Evaluate))
    runs, results = Path(options.runs), Path(options.results)
    trained = runs / (data.trained_on or data.name)
    backbone = load_backbone(options.model, trained, options.seed, image_size=cell.settings.untrained_size)
    if options.name:
        backbone.name = options.name
    name = f"{backbone.name} {options.task} seed {options.seed}"
    file = cell.file(results, backbone.name)
    folder = runs / data.name / backbone.name / f"seed{options.seed}" / options.task
    if file.exists() and not options.force:
        cell.check_same_origin(file, backbone)
        reason = cell.stale(file, lambda: backbone.fingerprint, folder=folder)
        if not reason:
            terminal.say_once(f"evaluate: {name} is done: {file}")
            return
        terminal.say_once(f"evaluate: {name} runs again: {reason}")

    atomic.check_writable(file)
    render(data)
    progress.quiet()
    how = RunOptions(options.seed, options.devices, [progress.Progress(name)], folder, store_of(options))
    outcome, saved = evaluation.run_and_record(cell, backbone, results, how, options.force)
    for remark in outcome.remarks:
        print(f"evaluate: {name}: {remark}")
    if outcome.protocol.get("caveat"):
        print(f"evaluate: caution: {outcome.protocol['caveat']}")
    print(f"evaluate: {name}: {cell.summary(outcome)}; record in {saved}")


def store_of(options: Evaluate) -> "Store | None":
    """Store of shared features; None without one, and for a model of a user's function, whose code is not known."""
    from regvit_lightning.runtime.store import Store

    if not options.cache or options.model.startswith(origins.PYTHON):
        return None
    return Store(Path(options.runs) / ".features", int(options.cache_gb * 1e9))


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("evaluate", DESCRIPTION, Evaluate, main, group="tasks")


if __name__ == "__main__":
    cli()
