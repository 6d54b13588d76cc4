"""Progress of long runs: a live bar on a terminal, a line every few seconds elsewhere."""

import logging
import sys
import time
import warnings
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 10.0
STEPS_BETWEEN_LOSSES = 10  # reading the loss makes the host wait for the device


def clock(seconds: float) -> str:
    """Seconds as people read them: 75 -> '1:15', hours where needed, '?' for infinity."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def quiet() -> None:
    """Silence Lightning's banners, and warnings about what the suite, mmsegmentation or open_clip does on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", module="torch.optim.swa_utils")
    warnings.filterwarnings("ignore", module="mmseg")
    warnings.filterwarnings("ignore", module="open_clip")


class Counter:
    """Shows how far a piece of work has come, its rate and the time left.

    Args:
        title: what is being done.
        total: units of work.
        unit: name of a unit, for the rate (`img`).
        done: units done before this start (a resumed run).
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self.begun, self.begun_at, self.printed = time.monotonic(), done, time.monotonic()
        self.console = Console(file=sys.stderr)
        self.bar: Bar | None = None
        if self.console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(12), MofNCompleteColumn()
            note, left = TextColumn("{task.fields[note]}"), TimeRemainingColumn(compact=True)
            self.bar = Bar(*columns, note, left, console=self.console, transient=True)
            self.task = self.bar.add_task(title, total=total, completed=done, note="")
            self.bar.start()

    def update(self, done: int, note: str = "") -> None:
        """Set the units done, with a short note such as the loss."""
        self.done = done
        elapsed = time.monotonic() - self.begun
        rate = (done - self.begun_at) / elapsed if elapsed > 0 else 0.0
        note = f"{note}  {rate:,.0f} {self.unit}/s".strip()
        if self.bar is not None:
            self.bar.update(self.task, completed=done, note=note)
        elif time.monotonic() - self.printed > SECONDS_BETWEEN_LINES:
            self.printed = time.monotonic()
            left = (self.total - done) / rate if rate > 0 else float("inf")
            print(f"{self.title}: {done:,}/{self.total:,}  {note}  {clock(left)} left", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar and print a last line."""
        if self.bar is not None:
            self.bar.stop()
        elapsed = time.monotonic() - self.begun
        rate = (self.done - self.begun_at) / max(elapsed, 1e-9)
        line = f"{self.title}: {self.done:,}/{self.total:,} in {clock(elapsed)}  {rate:,.0f} {self.unit}/s"
        print(line, file=sys.stderr, flush=True)


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
        self._open_pass(trainer.val_dataloaders, str(pl_module.validates_on))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._advance(trainer.val_dataloaders, batch_idx)

    def on_validation_end(self, *_: Any) -> None:
        self._close()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open_pass(trainer.test_dataloaders, "test images")

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._advance(trainer.test_dataloaders, batch_idx)

    def on_test_end(self, *_: Any) -> None:
        self._close()

    def _open_pass(self, loaders: Any, images: str) -> None:
        total = sum(len(loader.dataset) for loader in loaders)
        self.counter = Counter(f"{self.title}, {images}", total, "img")

    def _advance(self, loaders: Any, batch_idx: int) -> None:
        if self.counter is not None:  # only the last batch is shorter, unless all are listed
            size = loaders[0].batch_size or len(loaders[0].batch_sampler[batch_idx])
            self.counter.update(min(self.counter.done + size, self.counter.total))

    def on_exception(self, *_: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self.counter is not None:
            self.counter.close()
            self.counter = None
