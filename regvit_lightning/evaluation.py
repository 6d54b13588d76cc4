"""One cell of the grid, from backbone and task to record; shared by the program, the grid and the Python API."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regvit_lightning import precision, records, settings, statistics
from regvit_lightning.data import digest, layout
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.errors import UserError
from regvit_lightning.records import Record
from regvit_lightning.runtime import atomic, locks
from regvit_lightning.settings import word

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
    from matplotlib.figure import Figure

    from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions, Task
    from regvit_lightning.models.backbone import Backbone


FIGURES = "figures"  # folder of single figures in the folder of a cell
EXAMPLES, EXAMPLE_FORMATS = "examples", ("pdf", "png")  # of them the picture; no SVG: it is mostly pixels
RGBA = 4  # channels of a PNG by matplotlib


@dataclass(frozen=True)
class Evaluation:
    """One task on one data set with one seed: what its record must contain, and how to compute it.

    Attributes:
        name: task name, a file of `configs/tasks`.
        task: module of the task.
        settings: resolved settings of the task.
        data: location and layout of the images.
        seed: seed of the trained model and of all random draws of the evaluation.
        any_precision: the precision is left to the hardware, so a record of either precision is valid on all machines.
    """

    name: str
    task: "Task"
    settings: Any
    data: DataSettings
    seed: int
    any_precision: bool

    @property
    def layout(self) -> dict[str, Any]:
        """The data settings that determine which images are read and what their labels mean."""
        return self.data.section(self.section)

    @property
    def data_root(self) -> str:
        """Folder of the data; empty where its name identifies it: it is rendered, or its number of images published."""
        return "" if self.data.rendered or self.data.counts else os.path.abspath(self.data.root)

    @property
    def section(self) -> str:
        """Name of the data set that is read: a part of the data settings, or a set of its own name.

        Raises:
            SettingsError: the data has no set of that name, of the kind that the task reads.
        """
        name = str(self.settings.named_set or self.task.READS)
        sets = {
            "discovery": self.data.boxed_set,
            "segmentation": self.data.masked_set,
            "salient": self.data.salient_set,
            "videos": self.data.video_set,
            "keypoints": self.data.keypoint_set,
            "retrieval": self.data.retrieval_set,
            "shifted": self.data.shifted_set,
            "classified": self.data.classified_set,
        }
        if self.task.READS in sets:
            sets[self.task.READS](name)  # a message that lists the sets of this kind, of no other
        return name

    def digests(self) -> dict[str, str]:
        """Digest of each split of the data set that is read, as it lies there now."""
        return digest.digests(self.data, self.section)

    def file(self, results: Path, model: str) -> Path:
        """Path below `results` of the record of the model with this id."""
        return records.path(results, self.data.name, model, self.name, self.seed)

    def stale(
        self,
        file: Path,
        weights: Callable[[], str],
        digests: Callable[[], dict[str, str]] | None = None,
        folder: Path | None = None,
    ) -> str:
        """Why the record in `file` is not valid for this evaluation, or '' when it is.

        Args:
            file: path of the record; a file that is not a record of this schema is never valid.
            weights: returns the fingerprint of the model; called only if all else matches, as it reads every weight.
            digests: returns what the method `digests` does; called only if the settings match.
            folder: folder of the cell, beside which a head that it reads is kept; None does not compare the head.

        Raises:
            UserError: raised by `weights`.
        """
        try:
            record = records.read_record(file)
        except UserError as error:
            return str(error)
        wanted = settings.resolved(self.settings)
        if self.any_precision:
            wanted["precision"] = record.settings.get("precision")
        kept = record.weights, self.layout
        reason = records.stale(record, wanted, *kept)
        return (
            reason
            or records.stale(record, wanted, *kept, (digests or self.digests)())
            or records.stale(record, wanted, weights(), self.layout)
            or (self._other_head(record, folder) if folder is not None else "")
        )

    def _other_head(self, record: Record, folder: Path) -> str:
        """Why a record is not of the head that is kept now, or '' where it is, or there is none of either."""
        trains, before = self.settings.reads_head_of, record.protocol.get("heads_digest")
        if not (trains and before):
            return ""
        from regvit_lightning.frozen import kept_heads

        now = kept_heads.digest(folder.parent / trains)
        return f"{trains} has kept another head since" if now not in ("", before) else ""

    def check_same_origin(self, file: Path, backbone: "Backbone") -> None:
        """Refuse to replace the record of another model or of other data that happens to have the same name.

        Args:
            file: path of the record; nothing is refused if there is none, or none of this schema.
            backbone: the model to be evaluated.

        Raises:
            UserError: the record was made from another file and other weights, or from another folder and other images.
        """
        try:
            record = records.read_record(file)
        except UserError:
            return
        if record.schema != records.SCHEMA:  # older ones do not say what they were made from
            return
        if record.source != backbone.origin and record.weights != backbone.fingerprint:
            theirs, ours = (origin or "a model that was trained here" for origin in (record.source, backbone.origin))
            advice = f"NAME=<another name> keeps both, such as {backbone.name}-{backbone.fingerprint[:8]}"
            raise UserError(f"{file} was made from {theirs}, not from {ours}: {advice}; FORCE=1 replaces it")
        if record.data_root != self.data_root and digest.changed(record.digests, self.digests()):
            advice = "DATA=<file>.yaml with another `name:` keeps both"
            other = f"{record.data_root}, not from {self.data_root}"
            raise UserError(f"{file} was made from the images of {other}: {advice}; FORCE=1 replaces it")

    def run(self, backbone: "Backbone", options: "RunOptions") -> "Outcome":
        """Compute the cell; writes only to `options.folder`.

        Raises:
            UserError: raised by the task, or a result is not finite.
        """
        from regvit_lightning.frozen.finiteness import require_finite
        from regvit_lightning.runtime import together

        with together.helped():
            outcome = self.task.run(backbone, self.data, self.settings, options)
        needed = [name for name, metric in self.task.METRICS.items() if metric.of_all]
        require_finite(self.name, needed, outcome)
        return outcome

    def record(self, backbone: "Backbone", outcome: "Outcome", seconds: float, digests: dict[str, str]) -> Record:
        """The record of an outcome, with rounded metrics; its file of per-image scores is not filled in yet."""
        return Record(
            model=backbone.name,
            task=self.name,
            data=self.data.name,
            data_root=self.data_root,
            seed=self.seed,
            metrics=_rounded(outcome.metrics),
            columns={key: metric.shown() for key, metric in self._measured(outcome).items()},
            intervals={key: [round(end, 4) for end in ends] for key, ends in outcome.intervals.items()},
            per_class={key: value if value is None else round(value, 2) for key, value in outcome.per_class.items()},
            floors={name: _rounded(floor) for name, floor in outcome.floors.items()},
            images=outcome.images,
            protocol=outcome.protocol,
            footnote=list(self.task.FOOTNOTE),
            settings=settings.resolved(self.settings),
            layout=self.layout,
            backbone=backbone.facts(),
            weights=backbone.fingerprint,
            provenance=records.provenance(seconds),
            source=backbone.origin,
            digests=digests,
        )

    def summary(self, outcome: "Outcome") -> str:
        """The metrics shown in tables and their floors: `corloc 34.21 (floors: whole image 30.02), …`."""
        measured = self._measured(outcome).items()
        return ", ".join(_with_floors(outcome, key, metric.decimals + 1) for key, metric in measured)

    def _measured(self, outcome: "Outcome") -> dict[str, "Metric"]:
        """The metrics shown in tables that the model has."""
        return {key: metric for key, metric in self.task.METRICS.items() if key in outcome.metrics}


def prepare(
    task: str,
    data: DataSettings,
    variant: str = "auto",
    seed: int = 0,
    words: Sequence[str] = (),
    known: Sequence[str] = (),
) -> Evaluation:
    """Prepare the evaluation of `task` on `data`, with its settings resolved for this hardware.

    Args:
        task: name of a file of `configs/tasks`.
        data: location and layout of the images.
        variant: overlay of the task; `auto` takes the one that the data names.
        seed: seed of the trained model and of the evaluation.
        words: `key=value` settings of the task.
        known: further keys that the same command accepts, for the hint on a misspelt one.

    Raises:
        SettingsError: unknown task, variant or key, or a value of the wrong type or range.
    """
    variant = data.variant if variant == "auto" else variant
    module, chosen = settings.load_settings("tasks", task, variant, words, known)
    return Evaluation(task, module, chosen, data, seed, precision.any_precision("tasks", task, variant, words))


def evaluate(
    backbone: "Backbone",
    task: str,
    data: str | DataSettings = "mini",
    *,
    variant: str = "auto",
    seed: int = 0,
    devices: int = 1,
    folder: Path | None = None,
    callbacks: Sequence["Callback"] = (),
    settings: Mapping[str, Any] | None = None,
) -> "Outcome":
    """Evaluate a frozen backbone on one task and return the outcome; no record is written.

    Args:
        backbone: a backbone from `regvit_lightning.load_backbone`.
        task: name of a file of `configs/tasks`, such as `imagenet_knn`.
        data: a name of `configs/data`, a folder with `train/<class>/` and `val/<class>/`, or `DataSettings`. Rendered
            data is rendered first if it is missing.
        variant: overlay of the task; `auto` takes the one that the data names.
        seed: seed of all random draws.
        devices: number of devices on this machine, which share the work.
        folder: stores the log, checkpoint and weights of a head; an interrupted training resumes from it.
        callbacks: Lightning callbacks, such as a progress bar.
        settings: settings of the task that override its YAML file, such as `{"workers": 0}`.

    Returns:
        Metrics by name, with 95 % intervals over the test images, floors, protocol and per-image scores.

    Raises:
        UserError: unknown task, setting or data, data that cannot be read, or a backbone that the task cannot use.
    """
    from regvit_lightning.data.mini import writer
    from regvit_lightning.frozen.contract import RunOptions

    where = layout.resolve(data) if isinstance(data, str) else data
    words = [f"{key}={word(value)}" for key, value in (settings or {}).items()]
    evaluation = prepare(task, where, variant, seed, words)
    if where.rendered:
        for _ in writer.write(Path(where.root), where.rendering, workers=1):
            pass
    with _alone_in(folder):
        return evaluation.run(backbone, RunOptions(seed, devices, callbacks, folder))


def run_and_record(
    evaluation: Evaluation, backbone: "Backbone", results: Path, options: "RunOptions", force: bool = False
) -> tuple["Outcome", Path]:
    """Compute a cell and write its record, with the per-image scores and the picture beside it.

    Single figures, or else the picture at the resolution of print, go to `figures/` in the folder of the cell.

    Args:
        evaluation: the cell to compute.
        backbone: the frozen backbone.
        results: folder of the results.
        options: devices, callbacks, and the folder of the cell, from which an interrupted training resumes.
        force: start from scratch, even if the folder of the cell holds a checkpoint, and replace any record.

    Returns:
        The outcome and the path of the record.

    Raises:
        UserError: raised by the task; another process works in the cell's folder; the record is of another model or of
            other data with the same name, see `Evaluation.check_same_origin`; or a file cannot be written.
    """
    from regvit_lightning.frozen.trainer import LAST
    from regvit_lightning.runtime import hardware

    assert options.folder is not None, "a cell that is recorded has a folder"
    with _alone_in(options.folder):
        hardware.forget_peak_memory()
        begun, digests = time.monotonic(), evaluation.digests()
        file = evaluation.file(results, backbone.name)
        if not force:
            evaluation.check_same_origin(file, backbone)
        atomic.remove_leftovers(evaluation.file(results, backbone.name).parent)
        with _claimed(options.folder, _description(evaluation, backbone, digests), force):
            outcome = evaluation.run(backbone, options)
        record = evaluation.record(backbone, outcome, time.monotonic() - begun, digests)
        if options.store is not None and options.store.read:
            record.provenance["vectors_read"] = options.store.read
        _save_pictures(outcome, file.with_suffix(".png"), options.folder)
        if outcome.scores:
            record.scores.update(_save_scores(outcome.scores, records.scores_path(file)))
        saved = record.save(results)
        atomic.remove(options.folder / LAST)
        return outcome, saved


def _alone_in(folder: Path | None) -> AbstractContextManager[None]:
    """Context that holds the lock of a cell's folder, if it has one; in the process that the user started."""
    from regvit_lightning.runtime import hardware

    return nullcontext() if folder is None or not hardware.first_process() else locks.held(folder)


def _description(evaluation: Evaluation, backbone: "Backbone", digests: dict[str, str]) -> dict[str, Any]:
    """Describe what a cell computes: a head trained under another description is not resumed."""
    resolved = settings.resolved(evaluation.settings)
    kept = {key: value for key, value in resolved.items() if key not in records.FREE_TO_CHANGE}
    images = {"data": digests, "layout": evaluation.layout}
    return {"weights": backbone.fingerprint, **images, **kept}


@contextmanager
def _claimed(folder: Path, description: dict[str, Any], force: bool) -> Iterator[None]:
    """Context in which the cell's folder holds its own work alone, such as the checkpoint of a head.

    What an earlier cell has left there, such as its heads, comes back if a user's error ends this one before it has
    written anything.
    """
    from regvit_lightning.runtime import hardware

    file, text = folder / "cell.json", json.dumps(description, indent=1) + "\n"
    if not hardware.first_process() or (not force and file.exists() and file.read_bytes() == text.encode()):
        yield
        return
    before = folder.with_name(f".{folder.name}.before")
    shutil.rmtree(before, ignore_errors=True)  # of a process that was killed
    try:
        os.replace(folder, before)
    except OSError:  # there is none, or it lies in a layer of a container that cannot be renamed
        shutil.rmtree(folder, ignore_errors=True)
    atomic.write_text(file, text)
    try:
        yield
    except UserError:
        if before.exists() and list(folder.iterdir()) == [file]:
            shutil.rmtree(folder)
            os.replace(before, folder)
        raise
    finally:
        shutil.rmtree(before, ignore_errors=True)


def _save_pictures(outcome: "Outcome", file: Path, folder: Path) -> None:
    """Save the picture of an outcome as `file`, and its single figures in `folder` below the folder of the cell."""
    from regvit_lightning.figures import style

    if outcome.picture is not None:
        _show(outcome.picture, file, folder)
    if outcome.figures is not None:
        for name, figure in outcome.figures().items():
            style.save(figure, folder / FIGURES / name)
    elif outcome.picture is not None:
        style.save(outcome.picture, folder / FIGURES / EXAMPLES, EXAMPLE_FORMATS)


def _save_scores(scores: Mapping[str, Any], file: Path) -> dict[str, str]:
    """Save the scores of single images, and return what the record says of the file: its name and digest."""
    packed = statistics.pack({key: values.cpu() for key, values in scores.items()})
    atomic.write(file, lambda temporary: temporary.write_bytes(packed))
    return {"file": file.name, "digest": statistics.digest(packed)}


RGBA = 4  # channels of a PNG of matplotlib's


def _show(picture: "Figure", file: Path, folder: Path) -> None:
    """Save the figure beside the record, and log the file to TensorBoard: a large page is drawn once."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard import SummaryWriter

    from regvit_lightning.data.headers import header

    atomic.write(file, lambda temporary: picture.savefig(temporary, format="png"))
    width, height = header(str(file)).size
    image = Summary.Image(encoded_image_string=file.read_bytes(), width=width, height=height, colorspace=RGBA)
    with SummaryWriter(str(folder / "log")) as writer:
        writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="test/examples", image=image)]))


def _with_floors(outcome: "Outcome", metric: str, decimals: int) -> str:
    """One metric with the floors that have it, as text."""
    floors = [f"{name} {floor[metric]:.{decimals}f}" for name, floor in outcome.floors.items() if metric in floor]
    shown = f"{metric} {outcome.metrics[metric]:.{decimals}f}"
    return f"{shown} (floor{'s' * (len(floors) > 1)}: {', '.join(floors)})" if floors else shown


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in metrics.items()}
