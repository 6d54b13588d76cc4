"""Lists of register neurons: the few MLP neurons of a model that write its artifacts (Jiang et al. 2025, 2506.08010).

A list is a YAML file: found by `make neurons` below the folder of the trained models, or published, in
`configs/neurons`. Beside a found one lie the mean keys and values of the register that takes the neurons over.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from torch import Tensor

from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.invocation import invocation
from regvit_lightning.models import file_words, names, origins, tensor_files
from regvit_lightning.runtime import atomic

FOLDER = "neurons"  # below the folder of the trained models, and in `configs`
MEANS = ".safetensors"  # suffix of the mean keys and values beside a list
DIGITS = 8  # of the hash of a file's path

Blocks = Mapping[int, Sequence[int]]


@dataclass(frozen=True)
class RegisterNeurons:
    """Register neurons of one model.

    Attributes:
        blocks: indices of the neurons in the hidden layer of the MLP, by index of the block from 0; may be empty.
        weights: fingerprint of the model that they were found in; empty where it is not known.
        source: how they were found, for records.
        file: the file that they were read from; None for a list made in memory.
    """

    blocks: Blocks
    weights: str = ""
    source: str = "a list"
    file: Path | None = None

    def __len__(self) -> int:
        return sum(map(len, self.blocks.values()))

    @property
    def digest(self) -> str:
        """16 hex digits that identify the list, whatever its order."""
        ordered = {str(block): sorted(self.blocks[block]) for block in sorted(self.blocks)}
        return hashlib.sha256(json.dumps(ordered).encode()).hexdigest()[:16]

    @property
    def means_file(self) -> Path | None:
        """Path of the mean keys and values that belong to a file."""
        return None if self.file is None else self.file.with_suffix(MEANS)


@dataclass(frozen=True)
class MeanRegister:
    """Mean over images of the key and value of a test-time register in every block, as its attention uses them.

    Attributes:
        keys, values: (depth, heads, d) with d the width of a head.
    """

    keys: Tensor
    values: Tensor


def path(model: str, runs: Path, seed: int) -> Path:
    """Path at which `make neurons` keeps the list of a model.

    Args:
        model: name as for `sources.load_backbone`, without an intervention.
        runs: folder of the trained models.
        seed: of a model whose weights depend on it; unused for all others.
    """
    if origins.is_file(model):
        text = file_words.split(model)[0]
        digest = hashlib.sha256(origins.origin(model).encode()).hexdigest()[:DIGITS]
        name = f"{origins.record_id(PurePath(text).stem)}-{digest}"
    else:
        seeded = names.parse_id(model) is not None or model.startswith(origins.RANDOM)
        name = origins.record_id(model) + (f".seed{seed}" if seeded else "")
    return runs / FOLDER / f"{name}.yaml"


def file_of(model: str, runs: Path, seed: int) -> Path:
    """File with the register neurons of a model: found here, else published.

    Raises:
        UserError: there is none; the message gives the command that looks for them.
    """
    own = path(model, runs, seed)
    if own.is_file():
        return own
    known = PurePath(file_words.split(model)[0]).stem if origins.is_file(model) else origins.record_id(model)
    for file in published().values():
        if known in settings.read_yaml(file).get("models", ()):
            return file
    variables = {"MODEL": model, **({"SEED": seed} if seed else {})}
    command = invocation("neurons", variables)
    raise UserError(f"no register neurons of {model} are known ({own} is missing): {command}, with DATA= of its images")


def published() -> dict[str, Path]:
    """Published lists by name: the files of `configs/neurons`."""
    return {file.stem: file for file in sorted((settings.CONFIGS / FOLDER).glob("*.yaml"))}


def read(file: Path) -> RegisterNeurons:
    """Read a list.

    Raises:
        UserError: the file is unreadable, or its `neurons` are not lists of whole numbers by block.
    """
    content = settings.read_yaml(file)
    given = content["neurons"] or {} if "neurons" in content else None
    if not isinstance(given, Mapping) or not all(_is_entry(block, neurons) for block, neurons in given.items()):
        raise UserError(f"{file}: expected neurons: as lists of whole numbers by block, `3: [17, 5]`, none twice")
    blocks = {int(block): tuple(neurons) for block, neurons in given.items()}
    return RegisterNeurons(blocks, str(content.get("weights") or ""), str(content.get("source") or file.name), file)


def _is_entry(block: Any, neurons: Any) -> bool:
    whole = isinstance(neurons, list) and all(type(neuron) is int and neuron >= 0 for neuron in neurons)
    return str(block).isdecimal() and whole and len(set(neurons)) == len(neurons)


def write(file: Path, neurons: RegisterNeurons, model: str, facts: Mapping[str, Any]) -> None:
    """Write a list with the `facts` of its search, atomically.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    lines = [
        "# Register neurons, found by make neurons; blocks and neurons are counted from 0.",
        f"model: {_flow(model)}",
    ]
    lines += [f"weights: {_flow(neurons.weights)}", f"source: {_flow(neurons.source)}", "neurons:"]
    lines += [f"  {block}: {_flow(list(neurons.blocks[block]))}" for block in sorted(neurons.blocks)]
    lines += ["search:", *(f"  {key}: {_flow(value)}" for key, value in facts.items())]
    atomic.write_text(file, "\n".join(lines) + "\n")


def _flow(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def write_means(file: Path, neurons: RegisterNeurons, means: Mapping[str, MeanRegister]) -> None:
    """Write the mean keys and values beside a list, by the register's value (`names.PER_NEURON`, `PER_BLOCK`).

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    tensors = {f"{value}.keys": mean.keys for value, mean in means.items()}
    tensors |= {f"{value}.values": mean.values for value, mean in means.items()}
    tensor_files.write(file, tensors, {"neurons": neurons.digest, "weights": neurons.weights})


def read_means(neurons: RegisterNeurons, value: str, model: str) -> MeanRegister:
    """Read the mean key and value that belong to a list.

    Args:
        value: what the register holds, see `names.Intervention`.
        model: name of the model, for messages.

    Raises:
        UserError: there are none, or they belong to another list.
    """
    file = neurons.means_file
    if file is None or not file.is_file():
        known = "" if neurons.file is None or neurons.weights else f"known={neurons.file.stem}"
        command = invocation("neurons", {"MODEL": model}, known)
        raise UserError(f"{model}: the mean key and value of its register are not measured: {command}")
    content = tensor_files.read(file)
    metadata = content.metadata if isinstance(content.metadata, Mapping) else {}
    if metadata.get("neurons") != neurons.digest or not {f"{value}.keys", f"{value}.values"} <= content.state.keys():
        raise UserError(f"{file}: does not belong to {neurons.file}: make both anew by `make neurons`")
    return MeanRegister(content.state[f"{value}.keys"], content.state[f"{value}.values"])
