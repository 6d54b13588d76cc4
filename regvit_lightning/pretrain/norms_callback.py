"""Token norms and outliers per block during pretraining (Darcet et al. 2023, arXiv 2309.16588, fig. 4b).

A fixed batch is passed through the backbone at regular intervals, without random draws or any effect on training. The
backbone must not be sharded: this works on one device and with DDP, where the process of rank 0 measures.
"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from regvit_lightning.analysis import sinks
from regvit_lightning.analysis.locality import Locality, LocalitySums
from regvit_lightning.analysis.norms import Norms, measure
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.analysis.verdict import high_norms
from regvit_lightning.data.images import Files
from regvit_lightning.data.layout import DataError
from regvit_lightning.data.transforms import centre_crop
from regvit_lightning.errors import UserError, one_line
from regvit_lightning.figures import style, tokens_in_training, training
from regvit_lightning.frozen import dense
from regvit_lightning.models.vit_backbone import ViTBackbone
from regvit_lightning.pretrain.preserved import preserved
from regvit_lightning.pretrain.recipe import Recipe
from regvit_lightning.runtime import atomic, loggers
from regvit_lightning.runtime.checkpoints import check_finite
from regvit_lightning.settings import check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "norms.csv"
IMAGES = 32  # number of images measured
QUANTILES = {"min": 0.0, "q01": 0.01, "q25": 0.25, "median": 0.5, "q75": 0.75, "q99": 0.99, "max": 1.0}

WITHOUT_BINS = ["step", "block", *QUANTILES, *Rules().words()]  # quantiles of patch norms, outlier shares
NORMS_ALONE = [*WITHOUT_BINS, *training.BINS]  # and the share of patches in each bin of norms
SINKS = ["sinks", "nop_sinks", "broadcast_sinks"]  # per image in this block, see `analysis/sinks.py`
WITHOUT_MADE = [*NORMS_ALONE, "mean_cosine", "cls_cosine", *SINKS]  # cosines of patches, see `analysis/locality.py`
# Without the patches that are outliers at the patch embedding already: share of outliers by two rules, largest norm
# over the median, and whether they are artifacts by the verdict (1 or 0).
MADE = ["made_factor", "made_log_mads", "made_max_over_median", "artifacts"]
COLUMNS = [*WITHOUT_MADE, *MADE]
FORMATS = (COLUMNS, WITHOUT_MADE, NORMS_ALONE, WITHOUT_BINS)  # of files, the newest first

Row = dict[str, float]  # value by column name

FIGURES: dict[str, Callable[[Sequence[Row]], "Figure"]] = {  # by the name of their files
    "norms": training.norms_during_training,
    "sinks": tokens_in_training.sinks_during_training,
    "locality": tokens_in_training.locality_during_training,
}


class NormsDuringTraining(Callback):
    """Writes norms, outliers, locality and sinks per step and block to `norms.csv`, and logs a figure of each.

    The file has exactly one row for each measured step and block 1..depth, in order: a run that resumes from a
    checkpoint drops the rows of later steps. It is rewritten atomically, so it is never truncated. At the end of the
    run it is plotted to `norms`, `sinks` and `locality`, each as `.pdf`, `.svg` and `.png`.

    Args:
        images: (B, 3, H, W) uint8, the same at every step.
        folder: folder of the run.
        every: steps between measurements; step 0 is measured too.
        rules: outlier rules.

    Raises:
        SettingsError: `every` is below 1.
        UserError: the file cannot be written, or was not written by this callback (while training).
    """

    def __init__(self, images: Tensor, folder: Path, every: int, rules: Rules) -> None:
        check(every > 0, f"every={every}: must be at least 1")
        self.images, self.path, self.every, self.rules = images, folder / FILE, every, rules
        self.rows: list[Row] = []
        self.measured = -1  # step of the last measurement

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.every = trainer.max_steps + 1  # a trial run writes nothing
            return
        self.rows = [row for row in read(self.path) if row["step"] <= trainer.global_step]
        self.measured = int(self.rows[-1]["step"]) if self.rows else -1
        self._when_due(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._when_due(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Also where the last step was made before, by a process that was killed while it drew.
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            draw(self.path.parent)

    def _when_due(self, trainer: Trainer, recipe: Any) -> None:
        step = trainer.global_step
        if step % self.every:
            return
        check_finite(trainer, recipe)  # by all devices: only that of rank 0 knows what was measured
        # With gradient accumulation, a step has several batches.
        if step <= self.measured or not trainer.is_global_zero:
            return
        self.measured = step
        rows = self._measure(recipe, step)
        self.rows += rows
        atomic.write_text(self.path, _text(self.rows))
        for name, figure in FIGURES.items():
            loggers.show(trainer.logger, name, _pixels(figure(self.rows)), step)

    def _measure(self, recipe: Recipe, step: int) -> list[Row]:
        images = recipe.normalise(self.images.to(recipe.device))
        with preserved(recipe.backbone), torch.compiler.set_stance("force_eager"):  # compiled blocks ignore hooks
            facts = recipe.settings.image_size, recipe.mean.tolist(), recipe.std.tolist()
            backbone = ViTBackbone(recipe.backbone, recipe.model, *facts)
            locality = LocalitySums()
            rows = describe(measure(backbone, images, locality.add), self.rules, step)
            return _beside(rows, locality.locality(), _sinks_by_block(backbone, images))


def _beside(rows: list[Row], locality: Locality, sinks: list[Row]) -> list[Row]:
    """Rows of the blocks with the cosines of their patches and their sinks per image."""
    means = locality.mean_cosine.mean(dim=0).tolist()
    to_cls = [math.nan] * len(means) if locality.cls_cosine is None else locality.cls_cosine.mean(dim=0).tolist()
    cosines = [{"mean_cosine": one, "cls_cosine": other} for one, other in zip(means, to_cls, strict=True)]
    return [{**row, **cosine, **sink} for row, cosine, sink in zip(rows, cosines, sinks, strict=False)]


def _sinks_by_block(backbone: ViTBackbone, images: Tensor) -> list[Row]:
    """Sinks per image in each block; NaN in a model whose blocks are not made of heads alone."""
    try:
        found = sinks.measure(backbone, images)
    except UserError:
        return [dict.fromkeys(SINKS, math.nan)] * backbone.depth
    masks = (mask.double().sum(dim=2).mean(dim=0) for mask in (found.events, found.nop, found.broadcast))
    counts = torch.stack(list(masks), dim=1).tolist()
    return [dict(zip(SINKS, row, strict=True)) for row in counts]


def draw(folder: Path) -> None:
    """Plot the `norms.csv` of a run to `FIGURES`, each as `.pdf`, `.svg` and `.png`, if there is one.

    Raises:
        UserError: the file is not a table of norms, or a picture cannot be written.
    """
    rows = read(folder / FILE)
    if rows:
        for name, figure in FIGURES.items():
            style.save(figure(rows), folder / name)


def is_drawn(folder: Path) -> bool:
    """Whether every figure of a run is there, or it has no `norms.csv`."""
    return not (folder / FILE).exists() or all((folder / f"{name}.png").exists() for name in FIGURES)


def fixed_images(files: Files, size: int) -> Tensor:
    """Images to measure, uint8 (32, 3, size, size) or fewer: evenly spaced over `files`, skipping unreadable ones.

    Raises:
        DataError: none of the selected images can be read.
    """
    view, views = centre_crop(size, size), list[Tensor]()
    for index in dense.examples(len(files), IMAGES):
        try:
            views.append(view(files.open(index)))
        except DataError as error:
            unreadable = error
    if not views:
        raise unreadable
    return torch.stack(views)


def describe(norms: Norms, rules: Rules, step: int) -> list[Row]:
    """One row for each block 1..depth: quantiles and histogram of patch norms, outliers by each rule, `MADE`."""
    levels = torch.tensor(list(QUANTILES.values()), dtype=torch.float64)
    rows: list[Row] = []
    for block, made in enumerate(_made(norms, rules)):
        patches = norms.raw[:, block]
        quantiles = torch.quantile(patches.double().flatten(), levels).tolist()
        shares = {name: float(mask.double().mean()) for name, mask in rules.masks(patches).items()}
        bins = training.histogram(patches.numpy())
        facts = {"step": step, "block": block + 1, **dict(zip(QUANTILES, quantiles, strict=True))}
        rows.append({**facts, **shares, **bins, **dict(zip(MADE, made, strict=True))})
    return rows


def _made(norms: Norms, rules: Rules) -> list[list[float]]:
    """Values of `MADE` after each block; NaN where norms are not finite or their median is 0."""
    try:
        high = high_norms(norms, rules)
    except UserError:
        return [[float("nan")] * len(MADE)] * norms.depth
    embedded = rules.masks(norms.embedded)["log_mads"]
    by_spread = [rules.masks(norms.raw[:, block])["log_mads"] & ~embedded for block in range(norms.depth)]
    return [
        [one.share, float(mask.double().mean()), one.max_over_median, float(one.artifacts)]
        for one, mask in zip(high, by_spread, strict=True)
    ]


def read(path: Path) -> list[Row]:
    """Rows of a `norms.csv`; empty if the file does not exist. One of an older version has NaN for what it lacks.

    Raises:
        UserError: the file is not a valid `norms.csv`.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames not in FORMATS:
                raise ValueError("its columns are others")
            rows = [{name: float(row.get(name, "nan")) for name in COLUMNS} for row in reader]
        return [{**row, "step": int(row["step"]), "block": int(row["block"])} for row in rows]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a table of norms ({one_line(error)}); move it away") from None


def _pixels(figure: "Figure") -> npt.NDArray[np.uint8]:
    """Render a figure to an RGB image (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _text(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.8g}" for name, value in row.items()} for row in rows)
    return text.getvalue()
