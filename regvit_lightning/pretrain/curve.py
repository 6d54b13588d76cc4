"""Training curves of a run as a small CSV, stored beside the results."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from regvit_lightning.runtime import atomic

PREFIX = "train/"
ROWS = 200  # at most, plus one for the last step


class Curve(Callback):
    """Writes the logged training scalars as CSV columns: `step`, then `loss`, `lr` and whatever else the recipe logs.

    Each value is the mean over the steps since the previous row and over all devices; with gradient accumulation, a
    step is represented by its last micro-batch. The rows are part of the checkpoint, so a resumed run writes the same
    file as an uninterrupted one.

    Args:
        path: path of the CSV; the whole file is rewritten at each row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:  # between the micro-batches of one step
            return
        self.step = trainer.global_step
        for name, value in trainer.callback_metrics.items():
            if name.startswith(PREFIX):
                self.sums[name] = self.sums.get(name, 0) + value.detach().double()
                self.counts[name] = self.counts.get(name, 0) + 1
        every = math.ceil(int(trainer.max_steps) / ROWS)
        if self.step % every == 0 or self.step == trainer.max_steps:
            self._end_row(trainer)

    def state_dict(self) -> dict[str, Any]:
        sums = {name: float(value) for name, value in self.sums.items()}
        return {"rows": self.rows, "sums": sums, "counts": self.counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.counts = state_dict["rows"], state_dict["counts"]
        self.sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in state_dict["sums"].items()}

    def _end_row(self, trainer: Trainer) -> None:
        names = sorted(self.sums)
        here = torch.stack([self.sums[name] / self.counts[name] for name in names])
        means = trainer.strategy.reduce(here, reduce_op="mean").tolist()
        self.rows.append({"step": self.step, **dict(zip(names, means, strict=True))})
        self.sums, self.counts = {}, {}
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            atomic.write_text(self.path, table(self.rows))


def table(rows: list[dict[str, float]]) -> str:
    """Rows as CSV text: `step` and `loss` first, other columns in alphabetical order; missing values are empty."""
    names = {name for row in rows for name in row}
    columns = sorted(names, key=lambda name: (name != "step", name != f"{PREFIX}loss", name))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([name.removeprefix(PREFIX) for name in columns])
    writer.writerows([f"{row[name]:.6g}" if name in row else "" for name in columns] for row in rows)
    return text.getvalue()
