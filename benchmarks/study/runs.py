"""Finished runs of a study: what was varied, and how the norms of the patches went over training."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from benchmarks.grid.cells import Cell, Cells, recipe_settings
from benchmarks.grid.states import DONE, States
from regvit_lightning import settings
from regvit_lightning.models import names, vit
from regvit_lightning.pretrain import norms_callback
from regvit_lightning.pretrain.run import FREE_TO_CHANGE

# Outlier rules that are shown, by the median and by the spread of log norms, with their columns of `norms.csv`.
RULES = {"factor": "made_factor", "log_mads": "made_log_mads"}
# Settings that are no part of what is varied: they say how a run is made, or what `Varied` says by itself.
NOT_SHOWN = {*FREE_TO_CHANGE, "device_batch", "image_size", "module", "precision", "steps"}
LARGEST = "made_max_over_median"
FACTS = ("blocks", "width", "patches", "data")

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """Norms of the patches at one step, without those that are outliers right after the patch embedding.

    Attributes:
        step: optimiser step.
        largest: largest norm over the median norm of a block, the largest of all blocks.
        block: that block, 1..depth.
        shares: largest share of outliers in any block, by each of `RULES`.
        artifacts: first block that has artifacts by the verdict of the artifact report; 0 for none.
        sinks: sinks per image, all blocks together; NaN where they are not measured.
    """

    step: int
    largest: float
    block: int
    shares: Mapping[str, float]
    artifacts: int
    sinks: float


@dataclass(frozen=True)
class StudyRun:
    """One finished run.

    Attributes:
        model: id of the model.
        data: name of the data.
        seed: seed of the run.
        registers: number of registers.
        facts: blocks, width, patches per image, data, and the settings of the recipe.
        batch: images of one step.
        steps: what was measured, by ascending step.
    """

    model: str
    data: str
    seed: int
    registers: int
    facts: Facts
    batch: int
    steps: Sequence[Measured]

    @property
    def setting(self) -> tuple[str, str]:
        """What all runs of one setting share, whatever their registers and seed."""
        return names.REGISTERS.sub("", self.model), self.data

    @property
    def images(self) -> int:
        """Images seen in the whole run."""
        return self.steps[-1].step * self.batch

    @property
    def peak(self) -> Measured:
        """The step at which the largest norm over the median was largest, the first of equal ones."""
        return max(self.steps, key=lambda one: one.largest)

    @property
    def onset(self) -> Measured | None:
        """First step at which a block has artifacts; None if there is none."""
        return next((one for one in self.steps if one.artifacts), None)


def measured(rows: Iterable[Mapping[str, float]]) -> list[Measured]:
    """One `Measured` for each step of the rows of `norms.csv`, which are in order of step and block."""
    steps = []
    for step, group in groupby(rows, key=lambda row: int(row["step"])):
        blocks = list(group)
        most = max(blocks, key=lambda row: row[LARGEST])
        shares = {rule: max(row[column] for row in blocks) for rule, column in RULES.items()}
        first = next((int(row["block"]) for row in blocks if row["artifacts"]), 0)
        steps.append(
            Measured(step, most[LARGEST], int(most["block"]), shares, first, sum(row["sinks"] for row in blocks))
        )
    return steps


def finished(cells: Cells) -> list[StudyRun]:
    """The finished pretrainings of a grid that measured norms, in the order of its file.

    One from before `norms_callback.MADE` was measured is left out.
    """
    known = States(cells)
    done = [cell for cell in cells.cells if cell.pretrains and known.kept(cell).kind == DONE]
    read = [(cell, norms_callback.read(cells.folder(cell) / norms_callback.FILE)) for cell in done]
    return [_run(cell, cells, rows) for cell, rows in read if rows and not math.isnan(rows[-1][LARGEST])]


def _run(cell: Cell, cells: Cells, rows: Sequence[Mapping[str, float]]) -> StudyRun:
    options, _ = recipe_settings(cell.recipe, cells.variant, cell.words)
    architecture, registers = vit.parse_name(cell.identity.name)
    shape = {"blocks": architecture.depth, "width": architecture.embed_dim}
    patches = (options.image_size // architecture.patch_size) ** 2
    recipe = {key: value for key, value in settings.resolved(options).items() if key not in NOT_SHOWN}
    facts = {**shape, "patches": patches, "data": cells.data.name, **recipe}
    return StudyRun(cell.model, cells.data.name, cell.seed, registers, facts, options.batch_size, measured(rows))


def differences(facts: Facts, base: Facts) -> str:
    """What is varied against `base`: `blocks 12, weight_decay 0.3`; `base` where nothing is."""
    keys = [key for key in {**base, **facts} if facts.get(key) != base.get(key)]
    return ", ".join(f"{key} {settings.word(facts.get(key))}" for key in keys) or "base"


def table(runs: Sequence[StudyRun]) -> str:
    """All that was measured as CSV text: one row for each run and step; `artifacts` is a block, or 0."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shares = [f"{rule}_share" for rule in RULES]
    writer.writerow(
        ["data", "model", "seed", "step", "images", "largest_over_median", "block", *shares, "artifacts", "sinks"]
    )
    for run in runs:
        for one in run.steps:
            values = [f"{one.largest:.4g}", one.block, *(f"{one.shares[rule]:.4g}" for rule in RULES)]
            values += [one.artifacts, f"{one.sinks:.4g}"]
            writer.writerow([run.data, run.model, run.seed, one.step, one.step * run.batch, *values])
    return text.getvalue()


def by_setting(runs: Sequence[StudyRun]) -> list[list[StudyRun]]:
    """Runs grouped by setting, in the order in which the settings come first."""
    groups: dict[tuple[str, str], list[StudyRun]] = {}
    for run in runs:
        groups.setdefault(run.setting, []).append(run)
    return list(groups.values())
