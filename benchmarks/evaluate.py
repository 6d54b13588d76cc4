"""Evaluate one cell: `python -m benchmarks.evaluate model=deit3-vitb_reg16 task=imagenet_knn data=full`."""

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import command
from benchmarks.data.rendering import render
from regvit_lightning.data import layout
from regvit_lightning.settings import setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DESCRIPTION = """Evaluates a frozen backbone on one task and writes its record,
<results>/<data>/cells/<model>/<task>.seed<k>.json, with a picture beside it where the task has one. A cell whose record
still holds is not run again; one that was interrupted while a head was trained goes on."""


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
    from regvit_lightning import records, settings, statistics
    from regvit_lightning.frozen import freshness
    from regvit_lightning.frozen.contract import RunOptions, Task
    from regvit_lightning.frozen.trainer import LAST
    from regvit_lightning.models import sources
    from regvit_lightning.runtime import atomic, hardware

    data = layout.resolve(options.data)
    variant = data.variant if options.variant == "auto" else options.variant
    task: Task
    task, chosen = settings.load_settings("tasks", options.task, variant, words, command.keys(Evaluate))
    runs, results = Path(options.runs), Path(options.results)
    trained = runs / (data.trained_on or data.name)
    backbone = sources.load_backbone(options.model, trained, options.seed, image_size=chosen.untrained_size)
    name = f"{backbone.name} {options.task} seed {options.seed}"
    file = records.path(results, data.name, backbone.name, options.task, options.seed)
    free = freshness.any_precision("tasks", options.task, variant, words)
    now = freshness.expected(task, chosen, data, free)
    if file.exists() and not options.force:
        reason = freshness.stale(file, now, lambda: backbone.fingerprint)
        if not reason:
            print(f"evaluate: {name} is done: {file}")
            return
        print(f"evaluate: {name} runs again: {reason}")

    atomic.check_writable(file)
    render(data)
    progress.quiet()
    hardware.forget_peak_memory()
    begun = time.monotonic()
    folder = runs / data.name / backbone.name / f"seed{options.seed}" / options.task
    kept = {key: value for key, value in now.settings.items() if key not in records.FREE_TO_CHANGE}
    place = {"weights": backbone.fingerprint, "data": str(Path(data.root).resolve()), "layout": now.layout}
    _claim(folder, {**place, **kept}, options.force)
    how = RunOptions(options.seed, options.devices, [progress.Progress(name)], folder)
    outcome = task.run(backbone, data, chosen, how)
    beside = records.scores_path(file)
    packed = statistics.pack({key: values.cpu() for key, values in outcome.scores.items()})
    record = records.Record(
        model=backbone.name,
        task=options.task,
        data=data.name,
        data_root=now.data_root,
        seed=options.seed,
        metrics={key: round(value, 4) for key, value in outcome.metrics.items()},
        columns={key: asdict(metric) for key, metric in task.METRICS.items()},
        intervals={key: [round(end, 4) for end in ends] for key, ends in outcome.intervals.items()},
        per_class={key: value if value is None else round(value, 2) for key, value in outcome.per_class.items()},
        floors={name: {key: round(value, 4) for key, value in found.items()} for name, found in outcome.floors.items()},
        images=outcome.images,
        protocol=outcome.protocol,
        footnote=list(task.FOOTNOTE),
        settings=now.settings,
        layout=now.layout,
        backbone=backbone.facts(),
        weights=backbone.fingerprint,
        provenance=records.provenance(time.monotonic() - begun),
        scores={"file": beside.name, "digest": statistics.digest(packed)} if outcome.scores else {},
    )
    if outcome.picture is not None:
        _show(outcome.picture, file.with_suffix(".png"), folder)
    if outcome.scores:
        atomic.write(beside, lambda temporary: temporary.write_bytes(packed))
    saved = record.save(results)
    atomic.remove(folder / LAST)
    found = ", ".join(f"{key} {outcome.metrics[key]:.{metric.decimals + 1}f}" for key, metric in task.METRICS.items())
    print(f"evaluate: {name}: {found}; record in {saved}")


def _claim(folder: Path, description: dict[str, Any], force: bool) -> None:
    """Empty the cell's folder unless what lies in it, such as the checkpoint of a head, is of this very cell."""
    from regvit_lightning.runtime import atomic, hardware

    if not hardware.first_process():
        return
    file, text = folder / "cell.json", json.dumps(description, indent=1) + "\n"
    if force or not file.exists() or file.read_text(encoding="utf-8") != text:
        shutil.rmtree(folder, ignore_errors=True)
        atomic.write_text(file, text)


def _show(picture: "Figure", file: Path, folder: Path) -> None:
    """Keep the picture beside the record and show it in TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    from regvit_lightning.runtime import atomic

    atomic.write(file, lambda temporary: picture.savefig(temporary, format="png"))
    with SummaryWriter(str(folder / "log")) as writer:
        writer.add_figure("test/examples", picture)


def cli() -> None:
    """Run the program with the words of the command line."""
    command.run("evaluate", DESCRIPTION, Evaluate, main, group="tasks")


if __name__ == "__main__":
    cli()
