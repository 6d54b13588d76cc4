"""Fields of a settings dataclass with their lines of help, read from its source: importing it would load torch."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import regvit_lightning

ROOT = Path(regvit_lightning.__file__).resolve().parents[1]


@dataclass(frozen=True)
class Documented:
    """A field.

    Attributes:
        name: of the field.
        kind: its type, as the source has it: `list[float]`.
        help: what the docstring of the dataclass says of it, in one line.
        default: as the source has it; empty where there is none.
        nested: fields of the dataclass that it holds, where it is one.
    """

    name: str
    kind: str
    help: str
    default: str = ""
    nested: tuple["Documented", ...] = ()


def fields_of(module: str, name: str = "SETTINGS") -> list[Documented]:
    """Fields of the dataclass that a module calls `name`, those that it inherits first.

    Args:
        module: dotted name of a file or a folder of `regvit_lightning`.
        name: of the class, of an import of it, or of another name for it.

    Raises:
        LookupError: the module has no such class.
    """
    found: dict[str, Documented] = {}
    where, node = _class(module, name)
    for base in node.bases:
        for field in _inherited(where, base):
            found[field.name] = field
    inherited = {name: field.help for name, field in found.items()}  # also of a field that only changes its default
    help_of = {**inherited, **documented(ast.get_docstring(node) or "")}
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            found[line.target.id] = _field(where, line, help_of.get(line.target.id, ""))
    return list(found.values())


def documented(docstring: str) -> dict[str, str]:
    """What the section `Attributes:` of a docstring says, by name; names before one colon share their line."""
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    section = re.split(r"\n(?=\S)", section)[0]  # up to the next section
    documented = {}
    for entry in re.split(r"\n(?=    \S)", "\n" + section)[1:]:
        names, _, text = entry.partition(":")
        documented.update({name.strip(): " ".join(text.split()) for name in names.split(",")})
    return documented


def _field(module: str, line: ast.AnnAssign, help: str) -> Documented:
    default = "" if line.value is None or _is_missing(line.value) else ast.unparse(line.value)
    nested: list[Documented] = []
    if isinstance(line.annotation, ast.Name):
        try:
            nested = fields_of(module, line.annotation.id)
        except LookupError:  # a type of Python's
            nested = []
    assert isinstance(line.target, ast.Name)
    return Documented(line.target.id, ast.unparse(line.annotation), help, default, tuple(nested))


def _is_missing(value: ast.expr) -> bool:
    return ast.unparse(value).rpartition(".")[2] == "MISSING"


def _inherited(module: str, base: ast.expr) -> list[Documented]:
    if isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name):
        return fields_of(_imported(module, base.value.id), base.attr)
    return fields_of(module, ast.unparse(base))


def _class(module: str, name: str) -> tuple[str, ast.ClassDef]:
    """A class that a module has under a name, and the module that defines it."""
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        for target, value in _assigned(node):
            if target == name and isinstance(value, ast.Name):
                return _class(module, value.id)
        if isinstance(node, ast.ImportFrom) and _is_ours(node.module):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _class(str(node.module), alias.name)
    raise LookupError(f"{module} has no class {name}")


def _imported(module: str, name: str) -> str:
    """The module that another one has imported under a name."""
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and _is_ours(node.module):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return f"{node.module}.{alias.name}"
    raise LookupError(f"{module} does not import {name}")


def _is_ours(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] == regvit_lightning.__name__


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """Names and values of an assignment, of `A, B = a, b`, too."""
    if not isinstance(node, ast.Assign):
        return
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = zip(target.elts, node.value.elts, strict=True)
        else:
            pairs = zip([target], [node.value], strict=True)
        yield from ((name.id, value) for name, value in pairs if isinstance(name, ast.Name))


@cache
def _tree(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except OSError:
        raise LookupError(f"no module {module}") from None
