"""Fields of a settings dataclass with their help texts, parsed from its source: importing it would load torch."""

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
    """A field of a settings dataclass.

    Attributes:
        name: name of the field.
        kind: its type as written in the source: `list[float]`.
        help: its text in the dataclass's docstring, as one line.
        default: its default as written in the source; empty if there is none.
        range: range of a number, as in `settings.number`; empty if there is none.
        nested: fields of its type, if that is a dataclass.
    """

    name: str
    kind: str
    help: str
    default: str = ""
    range: str = ""
    nested: tuple["Documented", ...] = ()


def fields_of(module: str, name: str = "SETTINGS") -> list[Documented]:
    """Fields of the dataclass `name` of a module, inherited ones first.

    Args:
        module: dotted name of a file or a folder of `regvit_lightning`.
        name: name of the class, or of an import or alias of it.

    Raises:
        LookupError: the module has no such class.
    """
    found: dict[str, Documented] = {}
    where, node = _class(module, name)
    for base in node.bases:
        for field in _inherited(where, base):
            found[field.name] = field
    inherited = {name: field.help for name, field in found.items()}  # also for a field that only overrides its default
    help_of = {**inherited, **documented(ast.get_docstring(node) or "")}
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            found[line.target.id] = _field(where, line, help_of.get(line.target.id, ""))
    return list(found.values())


def documented(docstring: str) -> dict[str, str]:
    """Texts of the `Attributes:` section of a docstring, by name; names before one colon share their text."""
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    section = re.split(r"\n(?=\S)", section)[0]  # up to the next section
    documented = {}
    for entry in re.split(r"\n(?=    \S)", "\n" + section)[1:]:
        names, _, text = entry.partition(":")
        documented.update({name.strip(): " ".join(text.split()) for name in names.split(",")})
    return documented


def _field(module: str, line: ast.AnnAssign, help: str) -> Documented:
    value, within = _ranged(line.value)
    default = "" if value is None or _is_missing(value) else ast.unparse(value)
    nested: list[Documented] = []
    if isinstance(line.annotation, ast.Name):
        try:
            nested = fields_of(module, line.annotation.id)
        except LookupError:  # built-in type
            nested = []
    assert isinstance(line.target, ast.Name)
    return Documented(line.target.id, ast.unparse(line.annotation), help, default, within, tuple(nested))


def _ranged(value: ast.expr | None) -> tuple[ast.expr | None, str]:
    """Default and range of a field that is declared by `number(range, default)`; else the value itself and ''."""
    if not (isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] == "number"):
        return value, ""
    return value.args[1] if len(value.args) > 1 else None, str(ast.literal_eval(value.args[0]))


def _is_missing(value: ast.expr) -> bool:
    return ast.unparse(value).rpartition(".")[2] == "MISSING"


def _inherited(module: str, base: ast.expr) -> list[Documented]:
    if isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name):
        return fields_of(_imported(module, base.value.id), base.attr)
    return fields_of(module, ast.unparse(base))


def _class(module: str, name: str) -> tuple[str, ast.ClassDef]:
    """Resolve a name in a module to a class and the module that defines it."""
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
    """Module from which another one imports a name."""
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and _is_ours(node.module):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return f"{node.module}.{alias.name}"
    raise LookupError(f"{module} does not import {name}")


def _is_ours(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] == regvit_lightning.__name__


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """Names and values of an assignment, including `A, B = a, b`."""
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
