"""Tensor files: safetensors, and pickles read by `torch.load(weights_only=True)`, so that no code is executed."""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from regvit_lightning.errors import Notice, UserError, one_line
from regvit_lightning.models import harmless, prefixes
from regvit_lightning.models.clip_naming import State
from regvit_lightning.runtime import atomic

HEADER = "regvit_lightning"  # key of our metadata in a safetensors header

# Dtypes of weights, and of constants beside them; not 8-bit floats, whose scales are elsewhere, nor complex numbers.
DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
DTYPES |= {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}

PREFERRED = ("teacher", "ema")  # of several state dicts in one file: DINO's teacher, a moving average

WRAPPED = re.compile(r"((module|_orig_mod|backbone)\.)+")  # in our checkpoints: the recipe, torch.compile


def write(path: Path, state: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write tensors as safetensors with JSON-serialisable `values` in the header, atomically.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content = safetensors.torch.save(tensors, {HEADER: json.dumps(values, sort_keys=True)})
    atomic.write(path, lambda temporary: temporary.write_bytes(content))


class Content(NamedTuple):
    """Content of a tensor file.

    Attributes:
        state: tensors by name.
        metadata: metadata of a file of ours, else None.
        part: key of the state dict that was taken, where the file holds several; else empty.
        architecture: name of the model that a training program wrote beside its weights; empty where there is none.
    """

    state: State
    metadata: Any = None
    part: str = ""
    architecture: str = ""


def read(path: Path, part: str = "") -> Content:
    """Read tensors by name, and the metadata of a file of ours; wrappers around the state dict are removed.

    Of several state dicts in one file the teacher's or the moving average is taken, with a `Notice` that names all.

    Args:
        path: path of the file.
        part: key of the state dict to take, or empty.

    Raises:
        UserError: no such file; truncated, unsafe or not a checkpoint; or several state dicts and no rule that
            selects one.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, part)
    for name, tensor in content.state.items():
        _check_tensor(name, tensor, path)
    return content


def _read_safetensors(path: Path) -> Content:
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            header = (file.metadata() or {}).get(HEADER)
        return Content(state, None if header is None else json.loads(header))
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: truncated, or not a safetensors file ({one_line(error)})") from None
    except Exception as error:  # a dtype that this torch lacks
        raise UserError(f"{path}: not readable as safetensors ({type(error).__name__}: {one_line(error)})") from None


def _read_pickle(path: Path, part: str) -> Content:
    try:
        with torch.serialization.safe_globals(harmless.CLASSES), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol, just before the file is rejected
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the unpickler raise nearly anything
        raise UserError(f"{path}: {_unreadable(error, path)}") from None
    content = content if isinstance(content, Mapping) else {}
    hyper_parameters = content.get("hyper_parameters")
    ours = hyper_parameters.get("backbone") if isinstance(hyper_parameters, Mapping) else None
    if ours is not None:
        state = _tensors(content.get("state_dict"))
        return Content({WRAPPED.sub("", name): state[name] for name in state if name.startswith("backbone.")}, ours)
    taken, state = _taken(content, part, path)
    if not state:
        raise UserError(f"{path}: not a checkpoint: holds no tensors by name")
    return Content(state, None, taken, _architecture(content))


def _taken(content: Mapping[Any, Any], part: str, path: Path) -> tuple[str, State]:
    """Key and tensors of the state dict that is read; the key is empty where there is no choice."""
    parts = _parts(content)
    if not parts:
        return "", _tensors(content) or _first_tensors(content)
    if len(parts) == 1:
        return "", next(iter(parts.values()))
    listed = ", ".join(key or "(the file itself)" for key in parts)
    if part in parts:
        return part, parts[part]
    for word in () if part else PREFERRED:
        chosen = [key for key in parts if word in re.split(r"[._]", key.lower())]
        if len(chosen) == 1:
            warnings.warn(
                f"{path}: holds {listed}; {chosen[0]} is read; to choose: {path}:part=<one of them>",
                Notice,
                stacklevel=2,
            )
            return chosen[0], parts[chosen[0]]
    raise UserError(f"{path}: holds several models ({listed}); choose one: {path}:part=<one of them>")


def _parts(content: Mapping[Any, Any], start: str = "", depth: int = 3) -> dict[str, State]:
    """All state dicts of a backbone inside `content`, by their dotted keys."""
    state = _tensors(content)
    own = {start: state} if any(prefixes.ANCHOR.fullmatch(name) for name in state) else {}
    inner = content.items() if depth else ()
    nested = [(key, value) for key, value in inner if isinstance(key, str) and isinstance(value, Mapping)]
    for key, value in nested:
        own |= _parts(value, f"{start}.{key}" if start else key, depth - 1)
    return own


def _first_tensors(content: Mapping[Any, Any]) -> State:
    """Tensors of a file without a backbone, for the message that says what it holds instead."""
    inside = (_tensors(content.get(key)) for key in ("teacher", "model", "state_dict"))
    return next((state for state in inside if state), {})


def _tensors(content: Any) -> State:
    items = content.items() if isinstance(content, Mapping) else ()
    return {name: tensor for name, tensor in items if isinstance(name, str) and isinstance(tensor, Tensor)}


def _architecture(content: Mapping[Any, Any]) -> str:
    """Name of the model in a checkpoint of timm (`arch`) or DeiT (`args.model`)."""
    arguments = content.get("args")
    named = content.get("arch"), getattr(arguments, "model", None)
    return next((name for name in named if isinstance(name, str)), "")


def _check_tensor(name: str, tensor: Tensor, path: Path) -> None:
    """Raise `UserError` unless `tensor` is an ordinary one, each of whose values is in the file."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.dtype not in DTYPES or tensor.is_quantized:
        raise UserError(f"{path}: {name} is of {kind}; save the weights as float32, float16 or bfloat16")
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise UserError(f"{path}: {name} is a {tensor.layout} tensor of device {tensor.device}, without plain values")
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise UserError(f"{path}: {name} {list(tensor.shape)} has fewer values in the file than its shape says")


def _unreadable(error: Exception, path: Path) -> str:
    text = str(error)
    named = re.search(r"(?:GLOBAL|Unsupported class|reduce for unrecognized function|instance of type) (\S+)", text)
    if isinstance(error, UnpicklingError) and named and re.search(r"[Uu]nsupported|unrecognized|can only", text):
        return (
            f"refused: an unsafe pickle that calls {named[1].rstrip('.')}; nothing in it was executed. If you trust "
            f"its source, save its tensors alone: python -c \"import torch; c = torch.load('{path.name}', 'cpu', "
            "weights_only=False); torch.save(c.get('state_dict', c.get('model', c)), 'weights.pth')\""
        )
    return "truncated, or not a checkpoint that torch.load(weights_only=True) can read; nothing in it was executed"
