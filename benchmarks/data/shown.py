"""Progress of work whose size becomes known with its first report, such as a download."""

from typing import TYPE_CHECKING

from benchmarks.data.download import Show

if TYPE_CHECKING:
    from benchmarks.counter import Counter


class Shown:
    """Shows one piece of work inside a `with`, which gives a function for reports (done, total).

    Args:
        title: what is being done.
        unit: name of a unit as it is shown.
        scale: reported units in one that is shown.
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
