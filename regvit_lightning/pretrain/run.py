"""Description of a pretraining run, and the check that a folder holds this run and no other."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from regvit_lightning import settings
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.errors import UserError, one_line
from regvit_lightning.models import EXPORT
from regvit_lightning.pretrain import trainer_options
from regvit_lightning.pretrain.recipe import RecipeSettings
from regvit_lightning.runtime import atomic, locks

# Settings that may change when a run is resumed: they affect how it runs, not what it computes. device_batch is not
# among them: mixing and stochastic depth are drawn per batch, and Lightning counts micro-batches.
LOOKS = ("log_every", "norms_every", "monitor_every", "monitor_images", "logger")
FREE_TO_CHANGE = ("workers", "checkpoint_every", "grad_checkpointing", *LOOKS)


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
    """True if a run with exactly these settings has been completed in its folder."""
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


def changes(run: Run) -> list[str] | None:
    """Differences between the run in the folder and this one, as text; None if the folder holds no run."""
    try:
        kept = dict(json.loads((run.folder / "run.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        return [f"run.json is not readable: {one_line(error)}"]
    wanted = _description(run)
    kept = {**_defaults(run.settings), **kept}  # runs older than a setting used its default
    keys = [key for key in {**wanted, **kept} if key not in FREE_TO_CHANGE and kept.get(key) != wanted.get(key)]
    return [f"{key}: {kept.get(key)} -> {wanted.get(key)}" for key in keys]


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
            "give the old ones to continue it, TAG=<name> to keep both, or FORCE=1 to begin anew"
        )
    if changed is None:
        atomic.write_text(run.folder / "run.json", json.dumps(_description(run), indent=1) + "\n")
