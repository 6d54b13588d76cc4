"""The contract of a frozen evaluation: how it is run, its metrics, its outcome."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lightning.pytorch.callbacks import Callback
from torch import Tensor

from regvit_lightning.data.layout import DataSettings
from regvit_lightning.frozen.settings import TaskSettings
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.work import ImageCounts, Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RunOptions:
    """How an evaluation is run: nothing of it changes what is computed, but for the seed.

    Attributes:
        seed: of everything drawn.
        devices: number of devices of this machine, for tasks that train; the others take one.
        callbacks: for showing progress.
        folder: of the cell, for the log, the checkpoint and the weights of a head; None keeps nothing. Training goes
            on from a checkpoint that lies there.
    """

    seed: int = 0
    devices: int = 1
    callbacks: Sequence[Callback] = ()
    folder: Path | None = None


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        better: +1 where higher is better, -1 where lower is.
        unit: percent, metres.
        decimals: in tables.
    """

    better: int = 1
    unit: str = "%"
    decimals: int = 1


@dataclass(frozen=True)
class Outcome:
    """What an evaluation measures.

    Attributes:
        metrics: by name.
        intervals: 95 % bootstrap interval over test images, for metrics with a score per image.
        images: number of test images.
        protocol: the facts that people argue about.
        per_class: a score for each class by name, None for a class that does not occur.
        floors: what is reached without a backbone: by name, metrics.
        picture: examples, where the task has some to show.
        scores: of single test images in the order of the data, by metric of `METRICS`: (N,) whose mean is the metric,
            or (N, …) where `scores.STATISTICS` says how it comes from their mean. NaN for an image that is left out.
    """

    metrics: dict[str, float]
    images: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    per_class: dict[str, float | None] = field(default_factory=dict)
    floors: dict[str, dict[str, float]] = field(default_factory=dict)
    picture: "Figure | None" = None
    scores: dict[str, Tensor] = field(default_factory=dict, compare=False)  # tensors have no plain equality


class Task(Protocol):
    """A file of `regvit_lightning/tasks/`.

    Attributes:
        SETTINGS: dataclass of its YAML.
        METRICS: those that go into tables.
        READS: the part of the data's settings that says which images it reads, see `DataSettings.section`; `discovery`
            where that is a set with boxes, which `TaskSettings.boxed_set` names.
        FOOTNOTE: keys of the outcome's `protocol` that stand under the table.
        TRAINS_HEAD: True, where it is there: the task uses all devices of `RunOptions`; the others take one.
        NEEDS_TEXT: True, where it is there: a grid leaves out models without a text tower.
        run: computes one cell.
        work: how much that is, for `make plan`.
    """

    SETTINGS: type[TaskSettings]
    METRICS: dict[str, Metric]
    READS: str
    FOOTNOTE: tuple[str, ...]
    run: Callable[[Backbone, DataSettings, Any, RunOptions], Outcome]
    work: Callable[[Any, ImageCounts], Work]
