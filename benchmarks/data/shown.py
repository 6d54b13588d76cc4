"""Progress of work whose size is known only from its first report, such as a download."""

from typing import TYPE_CHECKING

from benchmarks.data.download import Show

if TYPE_CHECKING:
    from benchmarks.counter import Counter


class Shown:
    """Context manager that shows progress; it yields a callback (done, total).

    Args:
        title: name of the work.
        unit: name of the displayed unit.
        scale: reported units per displayed unit.
    """

    def __init__(self, title: str, unit: str, scale: int = 1) -> None:
        self.title, self.unit, self.scale = title, unit, scale
        self.counter: Counter | None = None

    def __enter__(self) -> Show:
        return self._show

    def _show(self, done: int, total: int) -> None:
        from benchmarks.counter import Counter

        done, total = done // self.scale, total // self.scale
        if self.counter is None:
            self.counter = Counter(self.title, max(total, done), self.unit, done)
        self.counter.update(done)

    def __exit__(self, *_: object) -> None:
        if self.counter is not None:
            self.counter.close()
