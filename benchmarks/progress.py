"""Progress display of Lightning runs."""

import logging
import warnings
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from benchmarks.counter import Counter
from regvit_lightning.data.device_batches import DeviceBatches

STEPS_BETWEEN_LOSSES = 10  # reading the loss synchronises host and device


def quiet() -> None:
    """Silence Lightning's banners, and warnings about intended behaviour of the suite, mmsegmentation or open_clip."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", module="torch.optim.swa_utils")
    warnings.filterwarnings("ignore", module="mmseg")
    warnings.filterwarnings("ignore", module="open_clip")


class Progress(Callback):
    """Shows a Lightning run on a `Streamed` data module: images seen, loss, img/s, time left."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.batch_size = 0
        self.note = ""
        self.counter: Counter | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.batch_size = trainer.datamodule.stream.batch_size  # type: ignore[attr-defined]
            done, total = trainer.global_step * self.batch_size, int(trainer.max_steps) * self.batch_size
            self.counter = Counter(self.title, total, "img", done)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.counter is None:
            return
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None and trainer.global_step % STEPS_BETWEEN_LOSSES == 0:
            self.note = f"loss {float(loss):.3f}"
        self.counter.update(trainer.global_step * self.batch_size, self.note)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.counter is not None:
            self.counter.update(trainer.global_step * self.batch_size)
        self._close()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open_pass(trainer, trainer.val_dataloaders, str(pl_module.validates_on))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._advance(trainer.val_dataloaders, batch_idx)

    def on_validation_end(self, *_: Any) -> None:
        self._close()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open_pass(trainer, trainer.test_dataloaders, "test images")

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._advance(trainer.test_dataloaders, batch_idx)

    def on_test_end(self, *_: Any) -> None:
        self._close()

    def _open_pass(self, trainer: Trainer, loaders: Any, images: str) -> None:
        if not trainer.is_global_zero:
            return
        total = sum(len(loader.dataset) for loader in loaders)
        self.counter = Counter(f"{self.title}, {images}", total, "img")

    def _advance(self, loaders: Any, batch_idx: int) -> None:
        if self.counter is not None:  # only the last batch is shorter, unless all are listed
            batches = loaders[0].batch_sampler
            if isinstance(batches, DeviceBatches):  # its part of the images of all devices
                size = -(-len(loaders[0].dataset) // len(batches))
            else:
                size = loaders[0].batch_size or len(batches[batch_idx])
            self.counter.update(min(self.counter.done + size, self.counter.total))

    def on_exception(self, *_: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self.counter is not None:
            self.counter.close()
            self.counter = None
