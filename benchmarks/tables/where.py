"""Where is one model better than another: on which classes, and on images of which size, count, clutter or texture.

Scores of single images are kept with the records; what is known of the images lies beside them (`make annotate`). Each
class and each bin of a property is compared on its own images, as `statistics.compare` does it: paired over images, and
over seeds where both sides have several. All of them, of all tasks of a pair of models, are corrected together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from benchmarks.tables.by_task import metric_heading
from benchmarks.tables.columns import Column
from benchmarks.tables.scored_records import ScoredRecord
from benchmarks.tables.summary import ERROR_RATE, Answer
from benchmarks.tables.verdicts import BETTER, BETTER_ONE_SEED, WORSE, WORSE_ONE_SEED, verdict
from regvit_lightning import statistics
from regvit_lightning.data import digest
from regvit_lightning.data.annotated import Annotated, Property
from regvit_lightning.records import Record
from regvit_lightning.statistics import Comparison, Scores

CLASS = "class"  # kind of a group of images, or of pixels, that have one class
UNCLEAR, UNTESTED = "unclear", "not tested"
BETTER_THERE, WORSE_THERE = (BETTER, BETTER_ONE_SEED), (WORSE, WORSE_ONE_SEED)
LEAST_IMAGES = 10  # in a class or bin that is tested
FEW_VALUES = 5  # a property with at most so many different numbers has a bin for each
UNKNOWN = "nothing is known of the images of "  # before the name of a set
AREAS = "miou"  # metric whose scores are areas (N, 3, classes)

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Images that have something in common.

    Attributes:
        kind: `class`, or the name of a property.
        name: of the class, or the range of the property.
        images: indices of the images.
        index: of the class among the areas of a segmentation, whose pixels are compared; None for whole images.
    """

    kind: str
    name: str
    images: Indices
    index: int | None = None


@dataclass(frozen=True)
class Line:
    """Two models on one group of images.

    Attributes:
        kind, name: of the group.
        images: images with scores on both sides; of a class of a segmentation those that show it.
        first, second: means over seeds.
        change: second minus first.
        p: p-value of no difference, corrected for all groups of the pair of models; None for a group not tested.
        verdict: `better`, `worse` (`… beyond image noise, one seed`), `unclear` or `not tested`, of the second.
    """

    kind: str
    name: str
    images: int
    first: float
    second: float
    change: Comparison
    p: float | None = None
    verdict: str = UNTESTED

    @property
    def found(self) -> bool:
        """Whether the second is better or worse there, beyond chance for the whole pair."""
        return self.verdict in (*BETTER_THERE, *WORSE_THERE)


@dataclass(frozen=True)
class Part:
    """A task of a pair of models.

    Attributes:
        task: its title.
        column: its main metric.
        cells: records of the first and the second model.
        whole: the two on all images.
        lines: one for each class and bin.
        why_not: why classes or properties of the images are not known, or empty.
    """

    task: str
    column: Column
    cells: tuple[Sequence[ScoredRecord], Sequence[ScoredRecord]]
    whole: Line
    lines: list[Line]
    why_not: str = ""

    @property
    def title(self) -> str:
        """Task, metric, unit and direction: `nyud_linear1 RMSE m ↓`."""
        return f"{self.task} {metric_heading(self.column)}"

    @property
    def seeds(self) -> str:
        """Number of seeds on both sides, `3`, or `3, 2`."""
        return ", ".join(dict.fromkeys(str(len(side)) for side in self.cells))


@dataclass(frozen=True)
class Pair:
    """Two models that are compared group by group.

    Attributes:
        name: what is compared, `deit3-vitn: 4 registers against none`.
        sides: short names of the first and the second.
        parts: tasks.
    """

    name: str
    sides: tuple[str, str]
    parts: list[Part]

    @property
    def lines(self) -> list[Line]:
        """Those of all tasks."""
        return [line for part in self.parts for line in part.lines]

    @property
    def tested(self) -> int:
        """Number of classes and bins that were tested."""
        return sum(line.p is not None for line in self.lines)


@dataclass(frozen=True)
class Side:
    """What is compared in one task.

    Attributes:
        task: title of the task.
        column: main metric.
        first, second: records of the two models, by seed.
    """

    task: str
    column: Column
    first: Sequence[ScoredRecord]
    second: Sequence[ScoredRecord]


def pairs(answers: Sequence[Answer], known: Mapping[str, Annotated]) -> list[Pair]:
    """Every family of the summary, with registers against without.

    Args:
        answers: rows of the summary.
        known: what is known of the images, by name of the data set.
    """
    families: dict[str, list[Answer]] = {}
    for answer in answers:
        families.setdefault(answer.family, []).append(answer)
    made = []
    for family, rows in families.items():
        number = " or ".join(str(count) for count in sorted({row.registers for row in rows}))
        sides = [Side(row.task, row.column, row.without.cells, row.with_registers.cells) for row in rows]
        made.append(pair(f"{family}: {number} registers against none", ("without", "with"), sides, known))
    return [one for one in made if one.parts]


def pair(name: str, sides: tuple[str, str], tasks: Sequence[Side], known: Mapping[str, Annotated]) -> Pair:
    """Compare two models on every class and bin of every task whose scores of single images are kept.

    A group is better or worse if its difference is beyond noise at 5 % for all groups of the pair (Holm's correction).
    With one seed on a side the noise is that of the images alone, and the verdict says so.
    """
    parts = [part for side in tasks if (part := _part(side, known)) is not None]
    lines = [line for part in parts for line in part.lines]
    tested = [index for index, line in enumerate(lines) if _is_tested(line)]
    corrected = statistics.holm([lines[index].change.p or 0.0 for index in tested])
    better = [part.column.better for part in parts for _ in part.lines]
    for index, p in zip(tested, corrected, strict=True):
        line = lines[index]
        clear = p < ERROR_RATE and line.change.beyond_noise
        lines[index] = replace(line, p=p, verdict=verdict(line.change, better[index]) if clear else UNCLEAR)
    rest = iter(lines)
    return Pair(name, sides, [replace(part, lines=[next(rest) for _ in part.lines]) for part in parts])


def _is_tested(line: Line) -> bool:
    """Whether there are images enough; an interval of no width tells nothing about other images."""
    interval = line.change.interval
    return line.images >= LEAST_IMAGES and interval is not None and interval[0] < interval[1]


# ------------------------------------------------------------------------------------------------------- one task


def _part(side: Side, known: Mapping[str, Annotated]) -> Part | None:
    """Both models on every group of images; None where there are no scores of the same images on both sides."""
    metric, cells = side.column.metric, (side.first, side.second)
    scores = [[cell.scores[metric] for cell in one if metric in cell.scores] for one in cells]
    whole = {one.shape for of_side in scores for one in of_side}
    if not side.column.better or len(whole) != 1 or list(map(len, scores)) != list(map(len, cells)) or not all(scores):
        return None
    record, images = side.second[0].record, len(scores[0][0])
    annotated, why_not = _known(side, known, images)
    complete = np.all(
        [np.isfinite(one).reshape(images, -1).all(axis=1) for of_side in scores for one in of_side], axis=0
    )
    groups = list(_groups(record, metric, scores, annotated))
    every = _line(Group("", "all images", np.arange(images)), metric, scores, complete)
    lines = [_line(group, metric, scores, complete) for group in groups]
    return Part(side.task, side.column, cells, every, [line for line in lines if line.images], why_not)


def _known(side: Side, known: Mapping[str, Annotated], images: int) -> tuple[Annotated | None, str]:
    """What is known of the images of a task; and why nothing is."""
    records = [cell.record for cell in (*side.first, *side.second)]
    section = section_of(records[-1])
    if section not in known:
        return None, f"{UNKNOWN}{section}" if section else "its scores are not of images"
    annotated: Annotated | None = known[section]
    assert annotated is not None, "just looked up"
    if any(digest.changed(dict(annotated.digests), record.digests) for record in records):
        return None, f"the annotations of {section} are of other images than these records"
    if len(annotated) != images:
        annotated = _chosen(annotated, records[-1], images)
    return annotated, "" if annotated else f"the annotations of {section} are of another number of images"


def _chosen(annotated: Annotated, record: Record, images: int) -> Annotated | None:
    """Annotations of the test images that an artifact report draws, evenly spread; None for other tasks."""
    if record.settings.get("source") != "imagenet" or images > len(annotated):
        return None
    from regvit_lightning.frozen.dense import examples

    kept = examples(len(annotated), images)
    properties = [replace(one, values=[one.values[index] for index in kept]) for one in annotated.properties]
    return replace(annotated, labels=[annotated.labels[index] for index in kept], properties=properties)


def reasons(pairs: Sequence[Pair]) -> list[str]:
    """Why classes or properties of images are not known in some parts of the pairs, each reason once."""
    told = dict.fromkeys(part.why_not for one in pairs for part in one.parts if part.why_not)
    unknown = [reason.removeprefix(UNKNOWN) for reason in told if reason.startswith(UNKNOWN)]
    rest = [reason for reason in told if not reason.startswith(UNKNOWN)]
    return [f"{UNKNOWN}{', '.join(unknown)}"] * bool(unknown) + rest


def section_of(record: Record) -> str:
    """Name of the data set whose images a record has scores of, see `DataSettings.section`; empty for none."""
    named = record.settings.get("images")
    if isinstance(named, str) and named in record.layout:
        return named
    keys = record.layout.keys()
    sections = {"imagenet": {"imagenet"}, "segmentation": {"images", "masks"}, "depth": {"lists", "folders"}}
    return next((name for name, wanted in sections.items() if wanted <= keys), "")


# --------------------------------------------------------------------------------------------------------- groups


def _groups(
    record: Record, metric: str, scores: Sequence[Sequence[Scores]], annotated: Annotated | None
) -> Iterator[Group]:
    """Classes, then the bins of each property."""
    if metric == AREAS:
        yield from _classes_of_areas(record, scores[0][0])
    if annotated is None:
        return
    for index, name in enumerate(annotated.classes):
        images = [image for image, labels in enumerate(annotated.labels) if index in labels]
        yield Group(CLASS, name, np.array(images, np.int64))
    for one in annotated.properties:
        groups = list(bins(one))
        yield from groups if len(groups) > 1 else ()


def _classes_of_areas(record: Record, areas: Scores) -> Iterator[Group]:
    """Classes of a segmentation that occur, on all images: false positives count wherever they are."""
    classes = areas.shape[-1]
    names = list(record.per_class) if len(record.per_class) == classes else [f"class {n}" for n in range(classes)]
    for index, name in enumerate(names):
        if (areas[..., 2, index] > 0).any():
            yield Group(CLASS, name, np.arange(len(areas)), index)


def bins(one: Property) -> Iterator[Group]:
    """Bins of a property: its kinds, its values if these are few, or thirds of the images by rounded bounds.

    The bounds depend on the images alone, never on scores.
    """
    known = [index for index, value in enumerate(one.values) if value is not None]
    values = np.array([one.values[index] for index in known])
    indices, unit = np.array(known, np.int64), f" {one.unit}" if one.unit else ""
    if not len(values):
        return
    if not one.is_number or len(np.unique(values)) <= FEW_VALUES:
        for value in np.unique(values):
            text = f"{value:g}{unit}" if one.is_number else str(value)
            yield Group(one.name, text, indices[values == value])
        return
    bounds = sorted({float(f"{bound:.3g}") for bound in np.quantile(values, (1 / 3, 2 / 3))})
    where = np.digitize(values, bounds)
    names = [
        f"below {bounds[0]:g}{unit}",
        *(f"{low:g} to {high:g}{unit}" for low, high in pairwise(bounds)),
    ]
    for index, name in enumerate([*names, f"from {bounds[-1]:g}{unit}"]):
        if (where == index).any():
            yield Group(one.name, name, indices[where == index])


# ---------------------------------------------------------------------------------------------------------- lines


def _line(group: Group, metric: str, scores: Sequence[Sequence[Scores]], complete: npt.NDArray[np.bool_]) -> Line:
    """Compare the two sides on the images of a group that have scores."""
    images = group.images[complete[group.images]]
    if group.index is not None:
        return _class_line(group, [[_runs(one[images][..., group.index]) for one in side] for side in scores])
    sides = [[one[images] for one in side] for side in scores]
    if not len(images):
        return Line(group.kind, group.name, 0, np.nan, np.nan, Comparison(np.nan))
    first, second = (_mean(metric, side) for side in sides)
    return Line(group.kind, group.name, len(images), first, second, statistics.compare(metric, *sides))


def _mean(metric: str, side: Sequence[Scores]) -> float:
    """Mean over seeds of a metric."""
    return float(np.mean([statistics.STATISTICS.get(metric, float)(one.mean(axis=0)) for one in side]))


def _class_line(group: Group, sides: Sequence[Sequence[Scores]]) -> Line:
    """IoU of one class of a segmentation, compared by its jackknife pseudo-values.

    Args:
        sides: areas (R, N, 3) of that class, of each seed of the first and of the second model.
    """
    shown = int((sides[0][0][0, :, 2] > 0).sum())
    first, second = (float(np.mean([_iou(run.sum(axis=0)) for one in side for run in one])) for side in sides)
    values = [[np.mean([pseudo_ious(run) for run in one], axis=0) for one in side] for side in sides]
    change = statistics.compare(CLASS, *values)
    if change.interval is not None:  # about the IoU of all images, from which the mean pseudo-value differs a little
        shift = (second - first) - change.value
        change = replace(change, value=second - first, interval=tuple(end + shift for end in change.interval))  # type: ignore[arg-type]
    return Line(group.kind, group.name, shown, first, second, change)


def _runs(areas: Scores) -> Scores:
    """Areas (R, N, 3) of each run of a clustering, from (N, R, 3); of one run from (N, 3)."""
    return areas[None] if areas.ndim == 2 else areas.swapaxes(0, 1)


def _iou(areas: Scores) -> float:
    return float(statistics.ious(areas[:, None])[0])


def pseudo_ious(areas: Scores) -> Scores:
    """Jackknife pseudo-values (N,) of the IoU in percent of one class, from its areas (N, 3) in each image."""
    images, total = len(areas), areas.sum(axis=0)
    without = statistics.ious((total - areas).T)
    return images * _iou(total) - (images - 1) * without
