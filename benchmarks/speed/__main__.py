"""Speed of the suite relative to the hardware's limits: `python -m benchmarks.speed`; ratios measured in one run."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import command, terminal
from benchmarks.data.rendering import render
from benchmarks.speed.timing import (
    Measurement,
    autocast,
    forward_seconds,
    image_count,
    image_shapes,
    matrix_peak,
    seconds,
    timed_cell,
)
from benchmarks.tables import markdown
from regvit_lightning import settings
from regvit_lightning.data import layout
from regvit_lightning.settings import setting
from regvit_lightning.values import texts

DESCRIPTION = """Measures, in one run: (a) a whole kNN cell over its forward passes; (b) the step of the 52-head probe
over its matrix products; (c) pretraining against a bare loop; (d) FLOP/s over those of a large matrix product; (e) a
whole segmentation and a whole depth cell over their forward passes; (f) LOST over its Gram matrices, and a whole cell
of it over its forward passes; (g) DINOv2's step against a straightforward one; (h) FLOP/s of each recipe over those of
a large matrix product; (i) cores that read, decode and augment images for a GPU, and crops of large
JPEGs that are decoded at a part of their size;
(j) the peak memory of every task at the shapes of the real data over its estimate in make plan; (k) training of the
models of the grid arms over that of the plain model, also in arms-<cpu|cuda>.json for the table of arms; (l) the
forward pass of a ViT-B with a test-time register, and with a bias, over that without; (m) seconds to label an image
from 100,000 train patches; (n) seconds until a cell has seen its first images, of --help, and to index a million
files; (o) what grows with images and devices: order of a pass, shards, checkpoint, kNN bank, Sinkhorn-Knopp;
(p) cells of a grid that share features and imports over the same cells that do not; (q) whole cells of a ViT-B at the
protocols' sizes over their forward passes. With only=peers it times instead the code bases that are checked out below
PEERS beside ours. Writes
<results>/bench/speed-<cpu|cuda>.md and .json, again after every letter. Run it on a machine that does nothing else."""

ARM_STEPS = 30  # pairs of steps for each model
PASSES = 30  # pairs of passes for each intervention


LETTERS, ALL_PEERS = "abcdefghijklmnopq", "peers"


def known_letters(text: str) -> str:
    """Check the letters of measurements.

    Raises:
        ValueError: a letter that no measurement has.
    """
    unknown = sorted(set(text) - set(LETTERS))
    if unknown and text != ALL_PEERS:
        raise ValueError(f"no measurement {', '.join(unknown)}; expected letters of {LETTERS}, or {ALL_PEERS}")
    return text


@dataclass
class Bench:
    """Settings of the program."""

    data: str = setting("data whose images are read", "mini")
    evaluated: str = setting("model of the cells, at the protocols' sizes", "vitt_reg4")
    pretrained: str = setting("model of the pretraining step, at 224 px", "vits_reg4")
    batch: int = setting("images per pretraining step", 32, within="[1, 1e5]")
    workers: int = setting("decoding processes", 1, within="[0, 256]")
    steps: int = setting("pretraining steps that are timed", 12, within="[1, 1e6]")
    only: str = setting(
        "letters of the measurements, such as 'ce', or peers; empty takes all letters", "", known_letters
    )
    peers: str = setting(
        "folder with checkouts of the peers, such as <peers>/dinov2, for only=peers", "peers", texts.folder
    )
    results: str = setting("folder of the results", "results", texts.folder)


def main(options: Bench, words: list[str]) -> None:
    """Run the program."""
    from benchmarks import progress
    from regvit_lightning import records

    render(layout.resolve(options.data))
    progress.quiet()
    begun, peak, rows = time.perf_counter(), matrix_peak(), list[Measurement]()
    wanted = [options.only] if options.only == ALL_PEERS else list(options.only or LETTERS)
    for letters, measure in measurements(options, peak).items():
        if not set(wanted) & ({letters} if letters == ALL_PEERS else set(letters)):
            continue
        for row in measure():
            rows.append(row)
            terminal.show(f"bench: {row.name}: {shown_ratio(row)}; {row.parts}")
        left = [letter for letter in wanted if letter > letters[-1]]
        place = write(rows, peak, options, records.provenance(time.perf_counter() - begun), left)
    print(f"{markdown.for_terminal(place.with_suffix('.md').read_text(encoding='utf-8'))}\nbench: {place}.md, .json")


def measurements(options: Bench, peak: float) -> dict[str, Callable[[], Iterable[Measurement]]]:
    """What measures the rows of each letter, or of letters that are measured together; in the order of the table.

    Args:
        options: of the program.
        peak: FLOP/s of a large matrix product.
    """
    from benchmarks.speed import (
        arms,
        cells,
        footprints,
        heads,
        interventions,
        patches,
        pieces,
        pretraining,
        sharing,
        startup,
    )
    from benchmarks.speed.peers import runner

    data = layout.resolve(options.data)

    def timed(steps: int) -> pretraining.Timed:
        return pretraining.Timed(data, options.workers, steps)

    def trained() -> Iterator[Measurement]:
        run = timed(options.steps)
        yield from pretraining.deit3_step(options.pretrained, 224, options.batch, run, peak)
        yield from pretraining.deit3_step("vitn_reg4", 64, 128, run, peak)

    def lost() -> Iterator[Measurement]:
        yield from lost_algorithm(30, 40, 384)
        yield from lost_algorithm(37, 37, 1024)
        yield from lost_cell(options)

    def recipes() -> Iterator[Measurement]:
        run = timed(min(options.steps, 4))
        return (pretraining.recipe_step(name, options.evaluated, run, peak) for name in pretraining.RECIPES)

    return {
        "a": lambda: [knn_cell(options, peak)],
        "b": heads.probe_step,
        "cd": trained,
        "e": lambda: (dense_cell(task, sizes, options) for task, sizes in HALF_SIZE.items()),
        "f": lost,
        "g": lambda: [pretraining.dinov2_step(options.evaluated)],
        "h": recipes,
        "i": lambda: pretraining.reading(data),
        "j": footprints.rows,
        "k": lambda: arms.rows(Path(options.results), ARM_STEPS),
        "l": lambda: interventions.rows(PASSES),
        "m": patches.times,
        "n": lambda: startup.rows(options.data, options.evaluated),
        "o": pieces.rows,
        "p": lambda: [sharing.row(options.data)],
        "q": lambda: cells.rows(data),
        ALL_PEERS: lambda: runner.rows(Path(options.peers)),
    }


def write(rows: list[Measurement], peak: float, options: Bench, facts: dict[str, Any], left: Sequence[str]) -> Path:
    """Write the table and the JSON of the rows so far; returns their path without suffix.

    Args:
        rows: what was measured.
        peak: FLOP/s of a large matrix product.
        options: of the program.
        facts: provenance.
        left: letters that are not measured yet, which the table names.
    """
    from regvit_lightning.runtime import atomic, hardware

    name = f"speed-{hardware.accelerator()}" + (f"-{options.only}" if options.only else "")
    place = Path(options.results) / "bench" / name
    unfinished = f"\nNot measured yet: {', '.join(left)}.\n" if left else ""
    atomic.write_text(Path(f"{place}.md"), table(rows, peak, facts) + unfinished)
    measured = {"peak_flops": peak, "rows": [stored(row) for row in rows], "settings": vars(options), **facts}
    atomic.write_text(Path(f"{place}.json"), json.dumps(measured, indent=1) + "\n")
    return place


def stored(row: Measurement) -> dict[str, Any]:
    """A row as JSON, which knows no NaN."""
    return {**asdict(row), "value": None if math.isnan(row.value) else row.value}


def shown_ratio(row: Measurement) -> str:
    """Ratio with two decimals; a dash for a row without one."""
    return "–" if math.isnan(row.value) else f"{row.value:.2f}"


def table(rows: list[Measurement], peak: float, facts: dict[str, Any]) -> str:
    """Format the measurements as Markdown."""
    from regvit_lightning.runtime import hardware

    cells = [("measurement", "ratio", "target", "from")]
    cells += [(row.name, shown_ratio(row), row.target or "–", row.parts) for row in rows]
    note = (
        f"{facts['device']}; torch {facts['versions']['torch']}; matrix-product peak {peak / 1e9:,.0f} GFLOP/s "
        f"({hardware.precision('auto')}, 4096³); "
        f"commit {facts['commit'][:10]}{' (dirty)' if facts['dirty'] else ''}; {facts['date']}. "
        "Made by `make bench`."
    )
    return f"{markdown.table(cells)}\n\n{note}\n"


def knn_cell(options: Bench, peak: float) -> Measurement:
    """(a) Time of the whole kNN cell, from indexing to the bootstrap, over the forward passes of its images."""
    import torch

    from regvit_lightning.data import imagenet, transforms
    from regvit_lightning.data.imagenet import Ordered
    from regvit_lightning.models import sources
    from regvit_lightning.models.vit import block_macs, parse_name
    from regvit_lightning.runtime import hardware
    from regvit_lightning.tasks import knn

    data = layout.resolve(options.data)
    _, cell = settings.load_settings("tasks", "imagenet_knn", words=[f"workers={options.workers}", "device_batch=64"])
    backbone = sources.load_backbone(f"random-{options.evaluated}", Path("runs"))
    files = [imagenet.train_files(data), imagenet.test_files(data)]
    count = sum(len(part) for part in files)
    sample = Ordered(files[1], transforms.centre_crop(cell.resize, cell.crop))
    device = hardware.accelerator()
    module = knn.KNN(backbone, cell, len(files[0].classes), len(files[0])).to(device)
    batch = torch.stack([sample[i][0] for i in range(cell.device_batch)]).to(device)

    def forward() -> float:
        with autocast(), torch.inference_mode():
            return seconds(lambda: module.features(batch), 9) * count / cell.device_batch

    before = forward()
    begun = time.perf_counter()
    knn.run(backbone, data, cell)
    whole = time.perf_counter() - begun
    alone = (before + forward()) / 2  # the speed of a shared machine drifts
    flops = 2 * block_macs(*parse_name(options.evaluated), cell.crop) * count / whole
    parts = f"{whole:.1f} s whole, {alone:.1f} s forward, {count:,} images; {flops / peak:.0%} of peak"
    return Measurement(f"(a) kNN cell / forward, {options.evaluated} 224 px", whole / alone, "≤ 1.25", parts)


# Half the protocols' sizes: on two CPU cores the logits of 150 classes at full size take many minutes.
HALF_SIZE = {
    "ade20k_linear": ["short_side=256", "crop=256", "stride=171"],
    "nyud_linear1": ["short_side=240", "crop=[208,272]"],
}


def dense_cell(task: str, sizes: list[str], options: Bench, steps: int = 4) -> Measurement:
    """(e) Time of the whole cell, `steps` training steps and all test images, over the forward passes that it makes."""
    from regvit_lightning.models import sources

    words = [f"workers={options.workers}", f"steps={steps}", "warmup_steps=1", *sizes]
    module, cell = settings.load_settings("tasks", task, words=words)
    backbone = sources.load_backbone(f"random-{options.evaluated}", Path("runs"), image_size=cell.untrained_size)
    found = timed_cell(module, backbone, layout.resolve(options.data), cell)
    forward = f"{found.alone:.1f} s forward of {found.images:,} crops, windows or images"
    parts = f"{found.whole:.1f} s whole with {steps} steps, {forward}"
    return Measurement(f"(e) {task} cell / forward, {options.evaluated}, half size", found.ratio, "", parts)


def lost_algorithm(height: int, width: int, channels: int, images: int = 32) -> list[Measurement]:
    """(f) Time of LOST on given features over the Gram matrices: the published setting, and the sweep of one block."""
    import torch

    from regvit_lightning.runtime import hardware
    from regvit_lightning.tasks.discovery.lost import LOST, Choice

    features = torch.randn(images, height, width, channels, device=hardware.accelerator())
    flat = features.flatten(1, 2)
    grid = [
        c for c in settings.load_settings("tasks", "lost_sweep_voc07")[1].choices() if (c.block, c.feature) == (-1, "k")
    ]
    single, sweep = LOST([Choice("k", -1, False, False, 0.0)], 100), LOST(grid, 100)
    grams = len({choice.centred for choice in grid})
    with torch.inference_mode():
        works = (lambda: flat @ flat.mT, lambda: single([features]), lambda: sweep([features]))
        alone, one, many = (seconds(work, 3) / images for work in works)
    name = f"{height} × {width}, D {channels}, batch {images}"
    parts = f"{1e3 * one:.1f} ms an image, {1e3 * alone:.1f} ms its Gram matrix"
    all_parts = f"{1e3 * many:.1f} ms an image, {len(grid)} settings of {grams} Gram matrices"
    return [
        Measurement(f"(f) LOST / its Gram matrices, {name}", one / alone, "≤ 1.3", parts),
        Measurement(f"(f) LOST sweep / its Gram matrices, {name}", many / grams / alone, "≤ 1.6", all_parts),
    ]


def lost_cell(options: Bench, model: str = "vitt8_reg4") -> list[Measurement]:
    """(f) Time of the cell without floors and figure over its forward passes, and of single images over batches.

    The figure takes as long for 5,000 images as for the few here. Patches are 8 px, so that the rendered images have
    some hundreds of them, as VOC's have of 16 px.
    """
    import torch

    from regvit_lightning.frozen.contract import RunOptions
    from regvit_lightning.models import sources
    from regvit_lightning.runtime import hardware
    from regvit_lightning.statistics import bootstrap
    from regvit_lightning.tasks.discovery import lost, protocol

    data = layout.resolve(options.data)
    backbone = sources.load_backbone(f"random-{model}", Path("runs"))
    passes: list[float] = []
    backbone.model.patch_embed.register_forward_pre_hook(lambda *_: passes.append(time.process_time()))
    starts: list[float] = []

    def whole(*words: str) -> float:
        cell = settings.load_settings("tasks", "lost_voc07", words=[f"workers={options.workers}", *words])[1]
        method = lost.LOST([lost.choice(backbone, cell)], cell.k)
        begun, busy, done = time.perf_counter(), time.process_time(), len(passes)
        bootstrap(100.0 * protocol.discover(backbone, data, cell, method, RunOptions()).right[:, 0])
        starts.append(passes[done] - busy)
        return time.perf_counter() - begun

    single = whole("device_batch=1")
    with image_shapes(backbone) as shapes:
        batched = whole()
    backbone.to(hardware.accelerator())
    with torch.inference_mode():
        alone, images = forward_seconds(backbone, shapes), image_count(shapes)
    start = f"{starts[-1]:.2f} s of a processor until the first"
    parts = f"{batched:.1f} s whole, {alone:.1f} s forward of {images:,} images, {start}"
    return [
        Measurement(f"(f) lost_voc07 cell / forward, {model}", batched / alone, "≤ 1.25", parts),
        Measurement(
            f"(f) lost_voc07 one image at a time / in batches, {model}",
            single / batched,
            "",
            f"{single:.1f} s",
        ),
    ]


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("speed", DESCRIPTION, Bench, main)


if __name__ == "__main__":
    cli()
