"""Classifiers that an evaluation has trained and chosen, kept in its cell's folder for evaluations on other images."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from regvit_lightning.errors import UserError, one_line
from regvit_lightning.invocation import invocation
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.runtime import atomic

FILE = "chosen_heads.safetensors"


@dataclass(frozen=True)
class KeptHead:
    """A linear classifier of K classes.

    Attributes:
        weight: (K, D).
        bias: (K,).
        facts: what it reads and how it was trained, for records.
    """

    weight: Tensor
    bias: Tensor
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class KeptHeads:
    """The chosen heads of one evaluation.

    Attributes:
        weights: fingerprint of the backbone that they were trained on.
        classes: names of the classes, in the order of the rows of the heads.
        resize, crop: the evaluation view in pixels.
        chosen_on: what the heads were chosen on, for records.
        heads: the heads by name.
    """

    weights: str
    classes: tuple[str, ...]
    resize: int
    crop: int
    chosen_on: str
    heads: Mapping[str, KeptHead] = field(compare=False)

    def save(self, folder: Path) -> None:
        """Write them to `folder`."""
        facts = {one.name: getattr(self, one.name) for one in fields(self)}
        facts["heads"] = {name: dict(head.facts) for name, head in self.heads.items()}
        tensors = {f"{name}.weight": head.weight for name, head in self.heads.items()}
        tensors |= {f"{name}.bias": head.bias for name, head in self.heads.items()}
        kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        metadata = {"facts": json.dumps(facts)}
        atomic.write(folder / FILE, lambda temporary: save_file(kept, temporary, metadata))


def digest(folder: Path) -> str:
    """Digest of the heads kept in `folder`, as records of what was measured with them hold it; empty without any."""
    try:
        return hashlib.sha256((folder / FILE).read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def read(folder: Path | None, task: str, backbone: Backbone, seed: int) -> KeptHeads:
    """The heads that the cell of `task` kept in `folder`.

    Args:
        folder: folder of that cell; None where the evaluation runs without one.
        task: the task that trained them.
        backbone: the model to classify with, which must be theirs.
        seed: seed of the cell.

    Raises:
        UserError: there are none, they cannot be read, or they are of another model; with the command that makes them.
    """
    variables = {"MODEL": backbone.origin or backbone.name, "TASK": task, "SEED": seed, "FORCE": 1}
    command = f"{invocation('eval', variables)}, with the same data"
    if folder is None:
        raise UserError(
            f"the heads of {task} are read from the folder beside the cell's own: give folder=, or {command}"
        )
    file = folder / FILE
    if not file.is_file():
        missing = f"{backbone.name} has no kept head of {task} with seed {seed} ({file} is missing)"
        once = "FORCE=1 is needed once where its record is older than the keeping of heads: it trains the head again"
        raise UserError(f"{missing}: {command}; {once}")
    try:
        found = _read(file)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not readable as kept heads ({one_line(error)}): {command}") from None
    if found.weights != backbone.fingerprint:
        raise UserError(f"{file}: of a model with other weights ({found.weights}) than {backbone.name}: {command}")
    return found


def _read(file: Path) -> KeptHeads:
    with safe_open(file, "pt") as opened:
        facts = json.loads(opened.metadata()["facts"])
        heads = {
            name: KeptHead(opened.get_tensor(f"{name}.weight"), opened.get_tensor(f"{name}.bias"), of_head)
            for name, of_head in facts.pop("heads").items()
        }
    return KeptHeads(**{**facts, "classes": tuple(facts["classes"])}, heads=heads)
