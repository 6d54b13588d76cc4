"""Contract of a frozen evaluation: run options, metrics and outcome."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lightning.pytorch.callbacks import Callback
from torch import Tensor

from regvit_lightning.data.layout import DataSettings
from regvit_lightning.frozen.settings import TaskSettings
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.runtime.store import Store
from regvit_lightning.work import ImageCounts, Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RunOptions:
    """Run options of an evaluation; only the seed affects its results.

    Attributes:
        seed: seed of all random numbers.
        devices: number of devices of this machine: they train a head together, and share the ordered passes.
        callbacks: callbacks that show progress.
        folder: folder of the cell, for the log, the checkpoint and the weights of a head; None saves nothing.
            Training resumes from a checkpoint in it.
        store: vectors of images that tasks share, see `frozen/shared.py`; None computes all of them.
    """

    seed: int = 0
    devices: int = 1
    callbacks: Sequence[Callback] = ()
    folder: Path | None = None
    store: Store | None = None


@dataclass(frozen=True)
class Metric:
    """Display of a metric.

    Attributes:
        better: +1 where higher is better, -1 where lower is, 0 where neither is.
        unit: unit, such as percent or metres.
        decimals: number of decimals in tables.
        of_all: every model has it; False where it needs what a model (CLS, registers) or a set (grades) may lack.
    """

    better: int = 1
    unit: str = "%"
    decimals: int = 1
    of_all: bool = True

    def shown(self) -> dict[str, Any]:
        """How it is displayed, as a record keeps it."""
        return {"better": self.better, "unit": self.unit, "decimals": self.decimals}


@dataclass(frozen=True)
class Outcome:
    """Results of an evaluation.

    Attributes:
        metrics: metrics by name.
        intervals: 95 % bootstrap intervals over test images, for metrics with a score per image.
        images: number of test images.
        protocol: details of the protocol that affect comparability.
        per_class: a score for each class by name, None for a class that does not occur.
        floors: metrics of baselines without a backbone, by name.
        picture: figure of examples, if the task provides one.
        figures: returns the single figures by the name of their files, for the cell's folder; None for the picture
            itself as `examples`.
        scores: per-image scores in the order of the data, by metric of `METRICS`: (N,) whose mean is the metric,
            or (N, …) where `scores.STATISTICS` defines the metric from their mean. NaN for an excluded image.
        remarks: sentences that a user must read with the metrics, such as a warning with its remedy.
    """

    metrics: dict[str, float]
    images: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    per_class: dict[str, float | None] = field(default_factory=dict)
    floors: dict[str, dict[str, float]] = field(default_factory=dict)
    picture: "Figure | None" = None
    figures: "Callable[[], Mapping[str, Figure]] | None" = field(default=None, compare=False)
    scores: dict[str, Tensor] = field(default_factory=dict, compare=False)  # == on tensors is elementwise
    remarks: Sequence[str] = ()


class Task(Protocol):
    """Interface of a task module of `regvit_lightning/tasks/`.

    Attributes:
        SETTINGS: dataclass of the YAML settings.
        METRICS: metrics shown in tables.
        READS: section of the data settings that names the images or texts it reads, see `DataSettings.section`;
            `discovery` for a set with boxes, `videos`, `keypoints` and `retrieval` for sets of those. A name from
            `TaskSettings.named_set` goes before it.
        FOOTNOTE: keys of the outcome's `protocol` shown under the table.
        TRAINS_HEAD: True if defined: the task trains a head, in steps of a batch over all devices.
        NEEDS_TEXT: True if defined: a grid skips models without a text tower.
        NEEDS_REGISTERS: True if defined: a grid skips models whose name says that they have no registers.
        run: compute one cell.
        work: estimate the work of a cell, for `make plan`.
    """

    SETTINGS: type[TaskSettings]
    METRICS: dict[str, Metric]
    READS: str
    FOOTNOTE: tuple[str, ...]
    run: Callable[[Backbone, DataSettings, Any, RunOptions], Outcome]
    work: Callable[[Any, ImageCounts], Work]
