"""Progress display of a running grid: a few live lines on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from benchmarks import terminal
from benchmarks.counter import SPARE

SECONDS_BETWEEN_LOOKS = 0.5


class Board:
    """Permanent lines and, on a terminal, live lines below them.

    Args:
        title: title of the grid.
        echo: print the children's output; for one child at a time.
    """

    def __init__(self, title: str, echo: bool) -> None:
        self.title, self.echo = title, echo
        self.console = Console(highlight=False, soft_wrap=True)
        self.live: Live | None = None
        self.shown = 0.0

    def __enter__(self) -> "Board":
        if self.console.is_terminal:
            # Drawn by `show` alone, without a thread: children are forked from this process.
            self.live = Live(console=self.console, auto_refresh=False, transient=True, redirect_stderr=False)
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.live is not None:
            self.live.stop()

    def say(self, line: str) -> None:
        """Print a permanent line, on a terminal wrapped between words."""
        shown = terminal.fitted(line, self.console.width - SPARE) if self.live is not None else line
        self.console.print(Text(shown))

    def note(self, line: str) -> None:
        """Print a permanent line where there are no live lines, which would show the same."""
        if self.live is None:
            self.say(line)

    def heard(self, lines: Sequence[str]) -> None:
        """Print lines of a child's output if `echo` is set."""
        if self.echo:
            for line in lines:
                self.say(line)

    def show(self, lines: Sequence[str]) -> None:
        """Rewrite the live lines, cut to the width of the terminal; twice a second at most."""
        if self.live is not None and time.monotonic() - self.shown > SECONDS_BETWEEN_LOOKS:
            self.shown = time.monotonic()
            texts = [Text(line) for line in (self.title, *lines)]
            for text in texts:
                text.truncate(self.console.width - SPARE, overflow="ellipsis")
            self.live.update(Text("\n").join(texts), refresh=True)
