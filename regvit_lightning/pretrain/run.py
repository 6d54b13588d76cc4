"""A pretraining run: what is trained and where it is kept, and whether a folder holds this very run."""

import json
import shutil
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from regvit_lightning import settings
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.errors import UserError, one_line
from regvit_lightning.models import EXPORT
from regvit_lightning.pretrain import trainer_options
from regvit_lightning.pretrain.recipe import RecipeSettings
from regvit_lightning.runtime import atomic

# Settings that may differ when a run is continued: they change how it runs, not what it computes. The device batch is
# not among them: mixing and stochastic depth are drawn per batch, and Lightning counts micro-batches.
LOOKS = ("log_every", "norms_every", "monitor_every", "monitor_images", "logger")
FREE_TO_CHANGE = ("workers", "checkpoint_every", "grad_checkpointing", *LOOKS)


@dataclass(frozen=True)
class Run:
    """What is trained, and where it is kept.

    Attributes:
        model: name of the register ViT.
        recipe: name of the recipe, as in `configs/recipes/`, with the tag of a run with settings of its own.
        settings: resolved settings of the recipe.
        data: where the images are.
        seed: of everything drawn.
        folder: of checkpoint, logs and exported weights.
        devices: number of devices of each machine.
        nodes: number of machines.
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
        """Number of devices in all."""
        return self.devices * self.nodes


def finished(run: Run) -> bool:
    """Whether the run with these settings has been carried to its end."""
    return (run.folder / EXPORT).exists() and changes(run) == []


def _description(run: Run) -> dict[str, Any]:
    """What of a run must stay the same when it is continued."""
    kept = {key: value for key, value in described(run).items() if key not in FREE_TO_CHANGE}
    words = {name: value for name, value in run.settings.trainer.items() if name not in trainer_options.FREE}
    return {**kept, "trainer": words}


def described(run: Run) -> dict[str, Any]:
    """Everything that was chosen for a run, by name, JSON-ready."""
    data = str(Path(run.data.root).resolve())
    about = {"model": run.model, "recipe": run.recipe, "data": data, "seed": run.seed, "devices": run.world}
    return {**about, **settings.resolved(run.settings)}


def changes(run: Run) -> list[str] | None:
    """Differences between the run in the folder and this one, as text; None where the folder holds no run."""
    try:
        kept = dict(json.loads((run.folder / "run.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        return [f"run.json is not readable: {one_line(error)}"]
    wanted = _description(run)
    kept = {**_defaults(run.settings), **kept}  # a run of before a setting was there had its default
    keys = [key for key in {**wanted, **kept} if key not in FREE_TO_CHANGE and kept.get(key) != wanted.get(key)]
    return [f"{key}: {kept.get(key)} -> {wanted.get(key)}" for key in keys]


def _defaults(options: RecipeSettings) -> dict[str, Any]:
    """Of the settings that have one, by name."""
    values = {field.name: field.default for field in fields(options) if field.default is not MISSING}
    values |= {field.name: field.default_factory() for field in fields(options) if field.default_factory is not MISSING}
    return {name: value for name, value in values.items() if value != settings.MISSING}


def claim(run: Run, force: bool) -> None:
    """Write what is about to be trained into the folder, or refuse to mix it with another run."""
    if force and run.folder.exists():
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
