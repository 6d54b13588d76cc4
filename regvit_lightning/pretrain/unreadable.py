"""Counting of training images that cannot be decoded; too many of them stop the run."""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from regvit_lightning.data.images import Files
from regvit_lightning.data.layout import DataError
from regvit_lightning.runtime import atomic, together
from regvit_lightning.runtime.agreement import Agreement


class Unreadable(Callback):
    """Counts the images that cannot be decoded; training stops when they exceed 1 % of the data set.

    With several devices it stops one batch later, see `Agreement`.

    Attributes:
        indices: indices into `files` of the unreadable images encountered so far.
    """

    LIMIT = 0.01

    def __init__(self, files: Files, report: Path) -> None:
        self.files, self.report = files, report
        self.indices: set[int] = set()
        self.agreement = Agreement()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, _: Any, batch: Any, *__: Any) -> None:
        new = set(batch["unreadable"].tolist()) - self.indices
        self.indices |= new
        if new and trainer.is_global_zero:  # every device eventually reads every file, so one report suffices
            lines = "".join(f"{self.files.path(index)}\n" for index in sorted(self.indices))
            atomic.write_text(self.report, lines)
        if self.agreement.any(trainer, self._too_many(trainer)):
            self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        together.stop_if_any(trainer, self._error() if self._too_many(trainer) else None)

    def _too_many(self, trainer: Trainer) -> bool:
        return trainer.is_global_zero and len(self.indices) > self.LIMIT * len(self.files)

    def _error(self) -> DataError:
        return DataError(
            f"{len(self.indices)} of {len(self.files)} images are unreadable, above {self.LIMIT:.0%}: "
            f"first {self.files.path(min(self.indices))}, all in {self.report}; restore or remove them"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"places": sorted(self.indices)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.indices = set(state_dict["places"])
