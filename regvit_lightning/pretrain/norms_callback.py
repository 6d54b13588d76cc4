"""Norms and outliers of every block while a backbone is pretrained (Darcet et al. 2023, arXiv 2309.16588, fig. 4b).

A fixed batch goes through the backbone every so many steps; nothing is drawn and nothing of the training is changed.
The backbone must be whole on the device: on one device, or with DDP, where the first process measures.
"""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from regvit_lightning.analysis.norms import Norms, measure
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.data.images import Files
from regvit_lightning.data.layout import DataError
from regvit_lightning.data.transforms import centre_crop
from regvit_lightning.errors import UserError, one_line
from regvit_lightning.figures import artifacts as figures_artifacts
from regvit_lightning.frozen import dense
from regvit_lightning.models.vit_backbone import ViTBackbone
from regvit_lightning.pretrain.preserved import preserved
from regvit_lightning.pretrain.recipe import Recipe
from regvit_lightning.runtime import atomic, loggers
from regvit_lightning.settings import check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "norms.csv"
IMAGES = 32  # that are measured
QUANTILES = {"min": 0.0, "q01": 0.01, "q25": 0.25, "median": 0.5, "q75": 0.75, "q99": 0.99, "max": 1.0}

COLUMNS = ["step", "block", *QUANTILES, *Rules().words()]  # quantiles of the norms of patches, shares of outliers

Row = dict[str, float]  # by column


class NormsDuringTraining(Callback):
    """Writes norm quantiles and outlier shares per block against the step to `norms.csv`, and logs them as one picture.

    The file has one row for each measured step and block 1..depth, in order and once each: a run that goes on from a
    checkpoint drops the rows of later steps. It is rewritten as a whole, so it is never cut off. At the end of the run
    `norms.png` shows it.

    Args:
        images: (B, 3, H, W) uint8, the same at every step.
        folder: of the run.
        every: steps between measurements; step 0 is measured too.
        rules: for outliers.

    Raises:
        SettingsError: `every` is below 1.
        UserError: the file cannot be written, or is not one of this callback (while training).
    """

    def __init__(self, images: Tensor, folder: Path, every: int, rules: Rules) -> None:
        check(every > 0, f"every={every}: must be at least 1")
        self.images, self.path, self.every, self.rules = images, folder / FILE, every, rules
        self.rows: list[Row] = []
        self.measured = -1  # the last step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.every = trainer.max_steps + 1  # such a run keeps nothing
            return
        self.rows = [row for row in read(self.path) if row["step"] <= trainer.global_step]
        self.measured = int(self.rows[-1]["step"]) if self.rows else -1
        self._when_due(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._when_due(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.rows:
            picture = figures_artifacts.norms_during_training(self.rows)
            atomic.write(self.path.with_suffix(".png"), lambda temporary: picture.savefig(temporary, format="png"))

    def _when_due(self, trainer: Trainer, recipe: Any) -> None:
        step = trainer.global_step
        # A step has several batches where gradients are accumulated.
        if step % self.every or step <= self.measured or not trainer.is_global_zero:
            return
        self.measured = step
        rows = describe(self._measure(recipe), self.rules, step)
        self.rows += rows
        atomic.write_text(self.path, _text(self.rows))
        loggers.show(trainer.logger, "norms", _pixels(figures_artifacts.norms_during_training(self.rows)), step)

    def _measure(self, recipe: Recipe) -> Norms:
        images = recipe.normalise(self.images.to(recipe.device))
        with preserved(recipe.backbone), torch.compiler.set_stance("force_eager"):  # compiled blocks do not heed hooks
            facts = recipe.settings.image_size, recipe.mean.tolist(), recipe.std.tolist()
            backbone = ViTBackbone(recipe.backbone, recipe.model, *facts)
            return measure(backbone, images)


def fixed_images(files: Files, size: int) -> Tensor:
    """Images to measure, uint8 (32, 3, size, size) or fewer: evenly spread over `files`, unreadable ones left out.

    Raises:
        DataError: none of those looked at can be read.
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
    """One row for each block 1..depth: quantiles of the norms of patches, and the share of outliers by each rule."""
    levels = torch.tensor(list(QUANTILES.values()), dtype=torch.float64)
    rows: list[Row] = []
    for block in range(norms.depth):
        patches = norms.raw[:, block]
        quantiles = torch.quantile(patches.double().flatten(), levels).tolist()
        shares = {name: float(mask.double().mean()) for name, mask in rules.masks(patches).items()}
        rows.append({"step": step, "block": block + 1, **dict(zip(QUANTILES, quantiles, strict=True)), **shares})
    return rows


def read(path: Path) -> list[Row]:
    """The rows of a `norms.csv`; none where there is no file.

    Raises:
        UserError: the file is not readable as such.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != COLUMNS:
                raise ValueError("its columns are others")
            rows = [{name: float(value) for name, value in row.items()} for row in reader]
        return [{**row, "step": int(row["step"]), "block": int(row["block"])} for row in rows]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a table of norms ({one_line(error)}); move it away") from None


def _pixels(figure: "Figure") -> npt.NDArray[np.uint8]:
    """A figure as a picture (H, W, 3)."""
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
