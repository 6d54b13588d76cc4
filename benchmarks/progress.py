"""Progress of long runs: a live bar on a terminal, a line every few seconds elsewhere."""

import logging
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.live import Live
from rich.text import Text

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
    """Shows how far a piece of work has come, its rate and the time left. Close it, or use it as a context manager.

    Args:
        title: what is being done.
        total: units of work.
        unit: name of a unit, for the rate (`img`).
        done: units done before this start (a resumed run).
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0) -> None:
        self.title, self.total, self.unit, self.done, self.note = title, total, unit, done, ""
        self.begun, self.begun_at, self.printed = time.monotonic(), done, time.monotonic()
        self.live: Live | None = None
        console = Console(file=sys.stderr)
        if sys.stderr.isatty() and console.is_interactive:
            shown: dict[str, Any] = {"console": console, "transient": True, "redirect_stdout": sys.stdout.isatty()}
            self.live = Live(get_renderable=lambda: self._bar(console), refresh_per_second=5, **shown)
            self.live.start()

    def __enter__(self) -> "Counter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, done: int, note: str = "") -> None:
        """Set the units done, with a short note such as the loss."""
        self.done, self.note = done, note
        if self.live is None and time.monotonic() - self.printed > SECONDS_BETWEEN_LINES:
            self.printed = time.monotonic()
            print(f"{self.title}: {'  '.join(filter(None, self._parts()))} left", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar and print a last line."""
        if self.live is not None:
            self.live.stop()
        spent = clock(time.monotonic() - self.begun)
        line = f"{self.title}: {self.done:,}/{self.total:,} in {spent}  {self._rate()}"
        print(line, file=sys.stderr, flush=True)

    def _parts(self) -> list[str]:
        """How much is done, the note, the rate, and the time left."""
        per_second = self._per_second()
        left = (self.total - self.done) / per_second if per_second > 0 else float("inf")
        return [f"{self.done:,}/{self.total:,}", self.note, self._rate(), clock(left)]

    def _per_second(self) -> float:
        return (self.done - self.begun_at) / max(time.monotonic() - self.begun, 1e-9)

    def _rate(self) -> str:
        rate = self._per_second()
        return f"{rate:,.{0 if rate >= 10 else 1}f} {self.unit}/s"

    def _bar(self, console: Console) -> Text:
        share = self.done / self.total if self.total else 1.0
        line = Text(bar_line(self.title, share, self._parts(), console.width), no_wrap=True, overflow="crop")
        line.highlight_regex("━+", "bar.complete")
        return line


BAR = 12  # characters


def bar_line(title: str, share: float, parts: Sequence[str], width: int) -> str:
    """The line of a bar that fits into `width` characters.

    What does not fit is left out in this order: the bar, the note, the rate; then the counts become a percentage, the
    time is left out, and at last the title loses its end.

    Args:
        title: what is being done.
        share: of the work that is done, in [0, 1].
        parts: counts, note, rate and time left; empty ones are not shown.
        width: of the terminal, in characters.
    """
    counts, note, rate, left = parts
    full = round(BAR * min(share, 1.0))
    bar, percent = "━" * full + "─" * (BAR - full), f"{share:.0%}"
    every = [bar, counts, note, rate, left]
    for kept in (every, every[1:], [counts, rate, left], [counts, left], [percent, left], [percent]):
        line = "  ".join(filter(None, [title, *kept]))
        if len(line) <= width:
            return line
    return f"{title[: max(width - len(percent) - 3, 0)]}…  {percent}"


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
