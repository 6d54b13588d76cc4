"""Backbones that are kept over a training: what changes in them is then measured like in any other file of weights."""

import re
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from regvit_lightning.models import weights
from regvit_lightning.models.metadata import Metadata
from regvit_lightning.runtime.checkpoints import check_finite

FOLDER = "steps"  # in the folder of a run
NAME = re.compile(r"backbone_(\d{8})\.safetensors")


class KeptBackbones(Callback):
    """Exports the backbone that evaluations use every `every` steps, and at the first and the last.

    The files are `<folder>/steps/backbone_<step of eight digits>.safetensors`. The backbone must not be sharded.

    Args:
        folder: folder of the run.
        every: steps between two files.
        metadata: of the backbone.
    """

    def __init__(self, folder: Path, every: int, metadata: Metadata) -> None:
        self.folder, self.every, self.metadata = folder / FOLDER, every, metadata
        self.kept = -1  # step of the last file

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._when_due(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._when_due(trainer, pl_module)

    def _when_due(self, trainer: Trainer, recipe: Any) -> None:
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps
        if not due or step == self.kept or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.kept = step
        check_finite(trainer, recipe)
        if trainer.is_global_zero:
            *_, (_, backbone) = recipe.exports()
            self.folder.mkdir(parents=True, exist_ok=True)
            weights.save(self.folder / f"backbone_{step:08d}.safetensors", backbone, self.metadata)


def files(run: Path) -> dict[int, Path]:
    """The files that the run in a folder has kept, by step, in order."""
    found = {path: NAME.fullmatch(path.name) for path in sorted((run / FOLDER).glob("*.safetensors"))}
    return {int(match[1]): path for path, match in found.items() if match is not None}
