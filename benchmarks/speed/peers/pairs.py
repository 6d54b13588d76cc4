"""Time of our code beside a peer's: runs that alternate, so that a machine that is busy for a while slows both."""

import importlib.util
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import accumulate
from types import ModuleType
from typing import Any

from benchmarks.speed.timing import Measurement, seconds_once


def beside(
    name: str, ours: Callable[[], object], theirs: Callable[[], object], target: str, more: str = "", pairs: int = 3
) -> Measurement:
    """Row: median of the peer's seconds over ours, of runs that alternate, after one of each to warm up."""
    times = [(seconds_once(ours), seconds_once(theirs)) for _ in range(1 + pairs)][1:]
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    parts = f"{mine:.3g} s ours, {other:.3g} s theirs{'; ' if more else ''}{more}"
    return Measurement(f"(peers) {name}", ratio(times), target, parts)


def ratio(times: Sequence[tuple[float, float]]) -> float:
    """Median over pairs of the second time over the first."""
    return statistics.median(other / mine for mine, other in times)


def one_process() -> None:
    """Let code that reduces over processes run in this one alone."""
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def without(*names: str) -> None:
    """Let packages that are not installed, and whose functions are not called here, be imported: stubs."""
    for name in names:
        top = name.split(".")[0]
        known = sys.modules[top] if top in sys.modules else importlib.util.find_spec(top)
        if known is not None and not isinstance(known, _Stub):
            continue
        above: ModuleType | None = None
        for path in accumulate(name.split("."), "{}.{}".format):
            stub = sys.modules.setdefault(path, _Stub(path))
            if above is not None:
                setattr(above, path.rsplit(".", 1)[1], stub)
            above = stub


class _Stub(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = list[str]()  # a package, as far as imports can see

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})
