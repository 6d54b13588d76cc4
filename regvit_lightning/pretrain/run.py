"""Description of a pretraining run, and the check that a folder holds this run and no other."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from regvit_lightning import settings
from regvit_lightning.data import digest
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.errors import UserError, one_line
from regvit_lightning.models import EXPORT
from regvit_lightning.pretrain import trainer_options
from regvit_lightning.pretrain.recipe import RecipeSettings
from regvit_lightning.runtime import atomic, locks

# Settings that may change when a run is resumed: they affect how it runs, not what it computes. device_batch is not
# among them: mixing and stochastic depth are drawn per batch, and Lightning counts micro-batches.
LOOKS = ("log_every", "norms_every", "keep_every", "monitor_every", "monitor_images", "logger")
FREE_TO_CHANGE = ("data", "workers", "checkpoint_every", "grad_checkpointing", *LOOKS)

DIGESTS = "images_digests"  # key of the digests of the images, beside the settings
INITIAL_WEIGHTS = "start_from"  # setting that is the path of a checkpoint
IN_RUNS = 4  # last parts of such a path: data, id, seed and file
LONGEST = 60  # characters of a value in a message


@dataclass(frozen=True)
class Run:
    """Everything that defines a pretraining run, and its folder.

    Attributes:
        model: name of the register ViT.
        recipe: name of the recipe in `configs/recipes/`, with the tag of a run with modified settings.
        settings: resolved settings of the recipe.
        data: location of the images.
        seed: seed of all randomness.
        folder: folder of the checkpoint, logs and exported weights.
        devices: number of devices per node.
        nodes: number of nodes.
    """

    model: str
    recipe: str
    settings: RecipeSettings
    data: DataSettings
    seed: int
    folder: Path
    devices: int = 1
    nodes: int = 1

    @property
    def world(self) -> int:
        """Total number of devices."""
        return self.devices * self.nodes


def finished(run: Run) -> bool:
    """True if a run with exactly these settings and images has been completed in its folder, wherever that stands."""
    return (run.folder / EXPORT).exists() and changes(run) == []


def _description(run: Run) -> dict[str, Any]:
    """Settings of a run that must stay the same when it is resumed."""
    kept = {key: value for key, value in described(run).items() if key not in FREE_TO_CHANGE}
    words = {name: value for name, value in run.settings.trainer.items() if name not in trainer_options.FREE}
    return {**kept, "trainer": words}


def described(run: Run) -> dict[str, Any]:
    """All settings of a run by name, JSON-serialisable."""
    data = str(Path(run.data.root).resolve())
    about = {"model": run.model, "recipe": run.recipe, "data": data, "seed": run.seed, "devices": run.world}
    return {**about, **settings.resolved(run.settings)}


def changes(run: Run, digests: Callable[[str], dict[str, str]] | None = None) -> list[str] | None:
    """Differences between the run in the folder and this one, as text; None if the folder holds no run.

    Folders are no part of a run: it is the same where its folder, its images or its initial weights were moved. Images
    that were added, removed or replaced make it another one; images that are not there are not compared.

    Args:
        run: this run.
        digests: returns the digests of a section of the run's data; read from the disk by default.
    """
    try:
        kept = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        return [f"run.json is not readable: {one_line(error)}"]
    if not isinstance(kept, dict):
        return [f"run.json is not readable: a {type(kept).__name__} in place of names and values"]
    wanted = _description(run)
    before = kept.pop(DIGESTS, None)
    kept = {**_defaults(run.settings), **kept}  # runs older than a setting used its default
    keys = [key for key in {**wanted, **kept} if key not in FREE_TO_CHANGE and not _same(key, kept, wanted)]
    changed = [f"{_shown(key)}: {_shown(kept.get(key))} -> {_shown(wanted.get(key))}" for key in keys]
    return changed + _changed_images(before, (digests or partial(digest.digests, run.data))(run.settings.images))


def _same(key: str, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    old, new = kept.get(key), wanted.get(key)
    if key == INITIAL_WEIGHTS and isinstance(old, str) and isinstance(new, str):
        return Path(old).parts[-IN_RUNS:] == Path(new).parts[-IN_RUNS:]
    return bool(old == new)


def _changed_images(before: Any, now: dict[str, str]) -> list[str]:
    """The train split, if its digest is another one; a run from before digests were kept has none."""
    if not isinstance(before, dict):
        return []
    return [f"images of {split}: {_shown(before[split])} -> {now[split]}" for split in digest.changed(before, now)]


def _shown(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _defaults(options: RecipeSettings) -> dict[str, Any]:
    """Default values by name, for the settings that have one."""
    values = {field.name: field.default for field in fields(options) if field.default is not MISSING}
    values |= {field.name: field.default_factory() for field in fields(options) if field.default_factory is not MISSING}
    return {name: value for name, value in values.items() if value != settings.MISSING}


@contextmanager
def claimed(run: Run, force: bool) -> Iterator[None]:
    """Hold the lock of the run's folder, and record the run there.

    Raises:
        UserError: another process works in the folder, it holds a different run, or it cannot be written.
    """
    with locks.held(run.folder):
        _claim(run, force)
        yield


def _claim(run: Run, force: bool) -> None:
    if force and run.folder.exists():
        with ExitStack() as evaluations:
            for cell in run.folder.glob("*.lock"):
                evaluations.enter_context(locks.held(cell.with_suffix("")))
            shutil.rmtree(run.folder)
    atomic.remove_leftovers(run.folder)
    changed = changes(run)
    if changed:
        raise UserError(
            f"{run.folder} holds a run with other settings ({'; '.join(changed[:4])}); "
            "give the old ones to continue it, TAG=<name> to keep both, or FORCE=1 to start again"
        )
    if changed is None:
        digests = digest.digests(run.data, run.settings.images)
        digests.pop("test", None)
        facts = {"data": described(run)["data"], **_description(run), DIGESTS: digests}
        atomic.write_text(run.folder / "run.json", json.dumps(facts, indent=1) + "\n")
