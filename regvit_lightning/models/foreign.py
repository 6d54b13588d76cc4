"""Any `nn.Module` as a backbone: `python:package.module:function` or `python:path/to/file.py:function`.

The function takes no arguments and returns a module that maps normalised images (B, 3, H, W) to `Tokens` or to a
mapping with `patches` (B, h, w, D) and, where the model has them, `cls` (B, D) and `registers` (B, R, D). The module
defines `image_size` (side in pixels), `mean` and `std` (three values each, for images in 0..1), and optionally
`any_size` (True: it accepts every size in multiples of its patch size). A convolutional or hierarchical network
returns its final feature map as `patches`.
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from regvit_lightning.errors import UserError, one_line
from regvit_lightning.models import origins, weights
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.runtime import seeds

FORMS = "python:package.module:function or python:path/to/file.py:function"


class ForeignBackbone(Backbone):
    """A module that returns tokens without access to its inside: one block, and no norm that could be left out.

    Args:
        model: maps images to `Tokens` or a mapping, with `image_size`, `mean` and `std`; see this file's docstring.
        name: id in records.
        code: source that defines the model besides its weights, for the fingerprint.

    Raises:
        UserError: an attribute is missing, or the output is not tokens of a square grid.
    """

    def __init__(self, model: nn.Module, name: str, code: bytes = b"") -> None:
        size, mean, std = _facts_of(model, name)
        super().__init__(model, name, size, mean, std)
        self.code, self.depth, self.any_size = code, 1, True
        self.patch_size = 1
        tokens = self._tried(size)
        rows, columns = tokens.patches.shape[1:3]
        if rows != columns or size % rows:
            raise UserError(f"{name}: {rows} x {columns} patches of {size} px images: no square grid that divides them")
        self.patch_size, self.embed_dim = size // rows, tokens.patches.shape[-1]
        self.num_registers, self.has_cls = tokens.registers.shape[1], tokens.cls is not None
        self.any_size = bool(getattr(model, "any_size", False))

    @cached_property
    def weights_fingerprint(self) -> str:
        """Hash of all tensors of the model and of its code: the same weights may define another model."""
        state = {f"model.{name}": value for name, value in self.model.state_dict().items() if _is_tensor(value)}
        return hashlib.sha256(weights.fingerprint(state).encode() + self.code).hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        tokens = "the module's output; a final norm is neither added nor left out"
        return {**super().facts(), "positions": "the module's own", "tokens": tokens}

    @torch.no_grad()
    def _tried(self, size: int) -> Tokens:
        some = next(self.model.parameters(), torch.zeros(1))
        return self._tokens(torch.zeros(1, 3, size, size, device=some.device, dtype=some.dtype), (-1,), True)[0]

    def _tokens(self, images: Tensor, blocks: Sequence[int], norm: bool) -> list[Tokens]:
        self._check(images)
        for index in blocks:
            self._check_block(index)
        return [as_tokens(self.model(images), self.name, len(images))] * len(blocks)


def load_foreign(name: str, seed: int = 0) -> Backbone:
    """Load the backbone called `python:<module or file>:<function>`.

    A returned `Backbone`, such as a `ViTBackbone` around a timm model, is used as is, with all its capabilities.

    Args:
        name: name in one of the two forms.
        seed: seed of the random state in which the function is called.

    Raises:
        UserError: no such file, module or function; it fails; or it returns an unsuitable model.
    """
    target, _, function = name.removeprefix(origins.PYTHON).rpartition(":")
    if not target or not function:
        raise UserError(f"{name}: expected {FORMS}")
    with _importable_from(Path(target).parent if target.endswith(".py") else Path.cwd()):
        module = _imported(target, name)
        build = getattr(module, function, None)
        if not callable(build):
            own = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("__")}
            known = [key for key, value in own.items() if getattr(value, "__module__", "") == module.__name__]
            raise UserError(f"{name}: no function {function} in {target}; it has {', '.join(known[:10]) or 'none'}")
        with seeds.drawn_from(seed, "initialise"), _failures(name):
            model = build()
    if isinstance(model, Backbone):
        model.name = origins.record_id(name)
        return model
    if not isinstance(model, nn.Module):
        raise UserError(f"{name}: returned a {type(model).__name__}, not an nn.Module")
    with _failures(name):
        return ForeignBackbone(model, origins.record_id(name), Path(inspect.getfile(module)).read_bytes())


def as_tokens(output: Any, name: str, images: int) -> Tokens:
    """Convert the output of a foreign model for a batch of `images` images to `Tokens`.

    Raises:
        UserError: neither `Tokens` nor a mapping with `patches`; unknown keys; or a wrong shape.
    """
    if isinstance(output, Mapping):
        wrong = set(output) - {"cls", "registers", "patches"}
        if wrong or not isinstance(output.get("patches"), Tensor):
            raise UserError(f"{name}: its output has the keys {', '.join(map(str, output))}; expected {_EXPECTED}")
        parts = output.get("cls"), output.get("registers"), output["patches"]
    elif isinstance(output, Tokens):
        parts = output.cls, output.registers, output.patches
    else:
        raise UserError(f"{name}: its output is a {type(output).__name__}; expected {_EXPECTED}")
    cls, registers, patches = parts
    width = patches.shape[-1]
    registers = patches.new_zeros(images, 0, width) if registers is None else registers
    shapes = patches.ndim == 4 and registers.ndim == 3 and (cls is None or cls.ndim == 2)
    there = [part for part in (cls, registers, patches) if part is not None]
    if not shapes or any((len(part), part.shape[-1]) != (images, width) for part in there):
        sizes = " and ".join(str(tuple(part.shape)) for part in there)
        raise UserError(f"{name}: its output has the shapes {sizes} for {images} image(s); expected {_EXPECTED}")
    return Tokens(cls, registers, patches)


_EXPECTED = "Tokens, or a mapping with patches (B, h, w, D) and, if there are any, cls (B, D) and registers (B, R, D)"


def _facts_of(model: nn.Module, name: str) -> tuple[int, list[float], list[float]]:
    missing = [key for key in ("image_size", "mean", "std") if not hasattr(model, key)]
    if missing:
        raise UserError(f"{name}: the {type(model).__name__} lacks the attributes {', '.join(missing)}; {_MEANING}")
    facts: Any = model
    try:
        size, mean, std = int(facts.image_size), *([float(value) for value in part] for part in (facts.mean, facts.std))
    except (TypeError, ValueError):
        size, mean, std = 0, [], []
    if size <= 0 or len(mean) != 3 or len(std) != 3:
        raise UserError(f"{name}: image_size, mean or std of the {type(model).__name__} are not numbers; {_MEANING}")
    return size, mean, std


_MEANING = "image_size is the side of its images in pixels, mean and std are three values each, of images in 0..1"


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _imported(target: str, name: str) -> ModuleType:
    if not target.endswith(".py"):
        with _failures(name):
            return importlib.import_module(target)
    path = Path(target).expanduser()
    if not path.is_file():
        raise UserError(f"{name}: no such file: {path}")
    spec = importlib.util.spec_from_file_location(f"python_file_{path.stem}", path)
    assert spec is not None, "a file that ends in .py has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickle look for it
    with _failures(name):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _importable_from(folder: Path) -> Iterator[None]:
    """Context manager that makes modules in `folder` importable, like those beside a script."""
    before = list(sys.path)
    sys.path.insert(0, os.fspath(folder.expanduser().resolve()))
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _failures(name: str) -> Iterator[None]:
    """Context manager that reports exceptions of the user's own code in one line with their location."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = ([frame for frame in frames if "site-packages" not in frame.filename] or frames)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        raise UserError(f"{name}: {type(error).__name__}: {one_line(error)} ({where})") from error
