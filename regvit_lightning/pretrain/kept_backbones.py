"""Backbones that are kept over a training: what changes in them is then measured like in any other file of weights."""

import re
from pathlib import Path
from typing import Any

from lightning import Trainer

from regvit_lightning.models import weights
from regvit_lightning.models.metadata import Metadata
from regvit_lightning.pretrain.periodic import Periodic

FOLDER = "steps"  # in the folder of a run
NAME = re.compile(r"backbone_(\d{8})\.safetensors")


class KeptBackbones(Periodic):
    """Exports the backbone that evaluations use every `every` steps, and at the first and the last.

    The files are `<folder>/steps/backbone_<step of eight digits>.safetensors`. The backbone must not be sharded.

    Args:
        folder: folder of the run.
        every: steps between two files.
        metadata: of the backbone.
    """

    def __init__(self, folder: Path, every: int, metadata: Metadata) -> None:
        super().__init__(every)
        self.folder, self.metadata = folder / FOLDER, metadata

    def applies(self, trainer: Trainer) -> bool:
        return not trainer.fast_dev_run  # type: ignore[attr-defined]

    def at_step(self, trainer: Trainer, recipe: Any, step: int) -> None:
        if trainer.is_global_zero:
            *_, (_, backbone) = recipe.exports()
            self.folder.mkdir(parents=True, exist_ok=True)
            weights.save(self.folder / f"backbone_{step:08d}.safetensors", backbone, self.metadata)


def files(run: Path) -> dict[int, Path]:
    """The files that the run in a folder has kept, by step, in order."""
    found = {path: NAME.fullmatch(path.name) for path in sorted((run / FOLDER).glob("*.safetensors"))}
    return {int(match[1]): path for path, match in found.items() if match is not None}
