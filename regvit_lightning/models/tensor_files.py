"""Tensor files: safetensors, and pickles read by `torch.load(weights_only=True)`, so that no code is executed."""

import argparse
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from regvit_lightning.errors import UserError
from regvit_lightning.models.clip_naming import State
from regvit_lightning.runtime import atomic

HEADER = "regvit_lightning"  # key of our metadata in a safetensors header

WRAPPED = re.compile(r"((module|_orig_mod|backbone)\.)+")  # in our checkpoints: the recipe, torch.compile


def write(path: Path, state: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write tensors as safetensors with JSON-serialisable `values` in the header, atomically.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content = safetensors.torch.save(tensors, {HEADER: json.dumps(values, sort_keys=True)})
    atomic.write(path, lambda temporary: temporary.write_bytes(content))


def read(path: Path) -> tuple[State, Mapping[str, Any] | None]:
    """Read tensors by name, and the metadata of a file of ours; wrappers around the state dict are removed.

    Raises:
        UserError: no such file; truncated, unsafe or not a checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_safetensors(path: Path) -> tuple[State, Mapping[str, Any] | None]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            header = (file.metadata() or {}).get(HEADER)
        return state, None if header is None else json.loads(header)
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: truncated, or not a safetensors file ({error})") from None


def _read_pickle(path: Path) -> tuple[State, Mapping[str, Any] | None]:
    try:
        # DeiT's training checkpoints contain their command-line arguments, a class of plain attributes.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol, just before the file is rejected
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the unpickler raise nearly anything
        raise UserError(f"{path}: {_unreadable(error)}") from None
    content = content if isinstance(content, Mapping) else {}
    hyper_parameters = content.get("hyper_parameters")
    ours = hyper_parameters.get("backbone") if isinstance(hyper_parameters, Mapping) else None
    for wrapper in ("teacher", "model", "state_dict"):
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    state = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    if not state:
        raise UserError(f"{path}: not a checkpoint: holds no tensors by name")
    if ours is None:
        return state, None
    return {WRAPPED.sub("", name): tensor for name, tensor in state.items() if name.startswith("backbone.")}, ours


def _unreadable(error: Exception) -> str:
    objects = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error))
    if isinstance(error, UnpicklingError) and objects:
        return f"refused: an unsafe pickle that calls {objects[1]}; save the state dict alone, best as .safetensors"
    return "truncated, or not a checkpoint that torch.load(weights_only=True) can read; nothing in it was executed"
