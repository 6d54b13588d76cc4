"""Progress display: a live bar on a terminal, a line every few seconds elsewhere."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
LONGEST_BAR, SHORTEST_BAR = 12, 4  # characters
SPARE = 2  # columns that live lines leave free: for the `^C` of a terminal, and for … as three dots in ASCII


def clock(seconds: float) -> str:
    """Format seconds as a clock: 75 -> '1:15', with hours where needed, '?' for infinity."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def rate_in_words(per_second: float, unit: str) -> str:
    """Format a rate: `1,234 img/s`, `2.5 img/s`, below one a second `40 s/img`; `? img/s` before the first is done."""
    if per_second <= 0:
        return f"? {unit}/s"
    slow = per_second < 1
    value = 1 / per_second if slow else per_second
    return f"{value:,.{0 if value >= 9.95 else 1}f} {f's/{unit}' if slow else f'{unit}/s'}"


class Counter:
    """Shows progress, rate and time left. Close it, or use it as a context manager.

    Args:
        title: name of the work.
        total: units of work.
        unit: name of the unit, for the rate (`img`).
        done: units already done at the start (a resumed run).
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
        """Set the number of units done, with a short note such as the loss."""
        self.done, self.note = done, note
        if self.live is None and time.monotonic() - self.printed > SECONDS_BETWEEN_LINES:
            self.printed = time.monotonic()
            print(f"{self.title}: {'  '.join(filter(None, self._parts()))} left", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the bar and print a final line."""
        if self.live is not None:
            self.live.stop()
        spent = clock(time.monotonic() - self.begun)
        line = f"{self.title}: {self.done:,}/{self.total:,} in {spent}  {self._rate()}"
        print(line, file=sys.stderr, flush=True)

    def _parts(self) -> list[str]:
        """Parts of the line: units done, the note, the rate, and the time left."""
        per_second = self._per_second()
        left = (self.total - self.done) / per_second if per_second > 0 else float("inf")
        return [f"{self.done:,}/{self.total:,}", self.note, self._rate(), clock(left)]

    def _per_second(self) -> float:
        return (self.done - self.begun_at) / max(time.monotonic() - self.begun, 1e-9)

    def _rate(self) -> str:
        return rate_in_words(self._per_second(), self.unit)

    def _bar(self, console: Console) -> Text:
        share = self.done / self.total if self.total else 1.0
        line = Text(bar_line(self.title, share, self._parts(), console.width - SPARE), no_wrap=True, overflow="crop")
        line.highlight_regex("━+", "bar.complete")
        return line


def bar_line(title: str, share: float, parts: Sequence[str], width: int) -> str:
    """Format a progress bar that fits into `width` characters.

    What does not fit is dropped in this order: the bar, the note, the rate; then the counts become a percentage, the
    time is dropped, and finally the title is truncated.

    Args:
        title: name of the work.
        share: fraction of the work done, in [0, 1].
        parts: counts, note, rate and time left; empty ones are omitted.
        width: width of the terminal in characters.
    """
    counts, note, rate, left = parts
    percent, every = f"{share:.0%}", [counts, note, rate, left]
    for kept in (every, [counts, rate, left], [counts, left], [percent, left], [percent]):
        shown = [part for part in kept if part]
        room = width - len("  ".join([title, *shown]))
        if kept is every and room >= SHORTEST_BAR + 2:
            return "  ".join([title, _drawn(share, min(room - 2, LONGEST_BAR)), *shown])
        if room >= 0:
            return "  ".join([title, *shown])
    return f"{title[: max(width - len(percent) - 3, 0)]}…  {percent}"


def _drawn(share: float, size: int) -> str:
    full = round(size * min(share, 1.0))
    return "━" * full + "─" * (size - full)
