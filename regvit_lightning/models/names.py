"""Names of register ViTs and ids of trained models: one grammar for all code that reads or writes them.

A name is `vit{size}[patch][_d{depth}][_w{width}][_<arm>]_reg{N}`: `vitb_reg16`, `vitl14_reg4`, `vitn_d8_w128_reg0`,
`vitb_gated_reg4` (see `arms`). An id is `<recipe>[+<tag>]-<name>`: `deit3-vitb_reg4`, or `deit3+lr2e-3-vitb_reg4` for a
run with custom settings. A name contains no `-`, so it starts after the last one of an id; a recipe contains no `+`, so
the tag starts after the first one. Any name or id may end in an intervention at test time: `deit3-vitb_reg0+ttr`,
`timm/vit_large_patch14_dinov2+bias_per_block`. Nothing heavy is imported here.
"""

import re
from dataclasses import dataclass
from typing import Any

from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.models import arms
from regvit_lightning.settings import SettingsError, check

SHAPE = r"(_d(?P<depth>[0-9]{1,4}))?(_w(?P<width>[0-9]{1,5}))?"
ARM = r"[a-z][a-z0-9_]*?"
START = rf"vit(?P<size>[a-z]+)(?P<patch>[0-9]{{1,4}})?{SHAPE}"
NAME = re.compile(rf"(?P<start>{START})(_(?P<arm>{ARM}))?_reg(?P<registers>[0-9]{{1,4}})")
REGISTERS = re.compile(r"_reg[0-9]+")
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,150}")  # every id: it names a folder or a file
PER_NEURON, PER_BLOCK = "per_neuron", "per_block"
INTERVENED = re.compile(rf"(?P<model>.+)\+(?P<kind>ttr|bias)(_(?P<value>{PER_BLOCK}))?", re.DOTALL)
ID = re.compile(rf"(?P<recipe>[A-Za-z0-9][A-Za-z0-9_.-]*)(\+(?P<tag>{TAG.pattern}))?-(?P<name>{NAME.pattern})")


@dataclass(frozen=True)
class ModelId:
    """Id of a model trained with this suite.

    Attributes:
        recipe: name of a file of `configs/recipes`.
        tag: tag of a run with custom settings, or empty.
        name: name of the register ViT.
    """

    recipe: str
    tag: str
    name: str

    def __str__(self) -> str:
        return f"{self.label}-{self.name}"

    @property
    def label(self) -> str:
        """Recipe with its tag: `deit3+lr2e-3`."""
        return f"{self.recipe}+{self.tag}" if self.tag else self.recipe


@dataclass(frozen=True)
class Intervention:
    """What is done at test time to a model that was trained without it, see `interventions`.

    Attributes:
        kind: `ttr`, a test-time register, or `bias`, one more key and value in place of that register.
        value: what the register holds of a register neuron: `per_neuron`, that neuron's own extreme over the tokens, or
            `per_block`, the extreme over all register neurons of the block.
    """

    kind: str
    value: str = PER_NEURON

    def __str__(self) -> str:
        return f"+{self.kind}" + (f"_{self.value}" if self.value != PER_NEURON else "")


def intervention(model: str) -> tuple[str, Intervention | None]:
    """Split a name or an id into that of the plain model and its intervention at test time, None without one."""
    match = INTERVENED.fullmatch(model)
    return (
        (model, None) if match is None else (match["model"], Intervention(match["kind"], match["value"] or PER_NEURON))
    )


def check_id(text: Any, what: str) -> str:
    """Return `text` if it is safe as the name of a folder, wherever it was read.

    Args:
        text: id of a model, task, recipe or data set.
        what: where it was read and what it names, for the message.

    Raises:
        UserError: not a text, or not of ASCII letters, digits and `_.+-`, a letter or digit first, at most 151.
    """
    if not isinstance(text, str) or not SAFE.fullmatch(text):
        allowed = "ASCII letters, digits, '_', '.', '+' and '-', at most 151, a letter or a digit first"
        raise UserError(f"{what} {str(text)[:80]!r}: expected {allowed}")
    return text


def model_id(recipe: str, tag: str, name: str) -> ModelId:
    """The id of the model `name` trained with `recipe`.

    Raises:
        SettingsError: a tag that is not allowed in an id.
    """
    check("+" not in recipe, f"recipe '{recipe}': a recipe whose models have ids must not have a + in its name")
    letters = "letters, digits, '.', '_' and '-', at most 64, a letter or a digit first"
    check(not tag or TAG.fullmatch(tag) is not None, f"tag={tag}: expected {letters}")
    check(REGISTERS.search(tag) is None, f"tag={tag}: must not hold _reg<N>, which tells a model from its twins")
    return ModelId(recipe, tag, name)


def parse_id(model: str) -> ModelId | None:
    """Parse an id; None for any other name: `timm/…`, a path, a name without a recipe."""
    match = ID.fullmatch(model)
    if match is None or REGISTERS.search(match["tag"] or ""):
        return None
    return ModelId(match["recipe"], match["tag"] or "", match["name"])


def without_tag(model: str) -> str:
    """Remove the tag from an id, also with a suffix or without registers (`deit3+a-vitb_reg4-ema`, `deit3+a-vitb`).

    Any other name is returned unchanged.
    """
    match = re.match(rf"([^+/]+)\+{TAG.pattern}(?=-vit[a-z]+[0-9]*(_[dw][0-9]+)*(_{ARM})?(_reg[0-9]|$))", model)
    return f"{match[1]}{model[match.end() :]}" if match else model


def without_tag_first(model: str) -> tuple[str, bool, str]:
    """Sort key of ids: by name without tag, the run without a tag before those that have one."""
    return without_tag(model), without_tag(model) != model, model


def sizes() -> list[str]:
    """Model sizes in `configs/models`: `b`, `xs`."""
    return [name.removeprefix("vit") for name in settings.names("models")]


def grammar() -> str:
    """Grammar of names, with the available sizes: `vit{b,l,s}[patch][_d<depth>][_w<width>][_<arm>]_reg<N>`."""
    return f"vit{{{','.join(sizes())}}}[patch][_d<depth>][_w<width>][_<arm>]_reg<N>"


def parse_name(name: str) -> tuple[str, int | None, int]:
    """Parse a name: file of `configs/models`, patch size in pixels if the name gives one, and number of registers.

    Raises:
        SettingsError: the name does not fit the grammar, or its size has no file, or there is no such arm.
    """
    match = NAME.fullmatch(name)
    if match is None or match["size"] not in sizes():
        examples = [f"vit{size}_reg{n}" for size in sizes() for n in (0, 1, 2, 4, 8, 16)]
        raise SettingsError(f"unknown model '{name}': expected {grammar()}; {settings.nearest(name, examples)}")
    patch = int(match["patch"]) if match["patch"] else None
    check(patch != 0, f"model '{name}': the patch size must be at least 1")
    if match["arm"]:
        known = f"{_no_arm(match['arm'], arms.names())}; expected {grammar()}"
        check(match["arm"] in arms.names(), f"unknown model '{name}': {known}")
    return f"vit{match['size']}", patch, int(match["registers"])


def shape_of(name: str) -> dict[str, int]:
    """Depth and width that a name gives in place of those of its size: `{"depth": 8, "width": 128}`; {} for none."""
    match = NAME.fullmatch(name)
    given = match.groupdict() if match else {}
    return {key: int(given[key]) for key in ("depth", "width") if given.get(key)}


def reshaped(name: str, patch: int | None = None, depth: int | None = None, width: int | None = None) -> str:
    """The name of the same size, arm and registers with another patch size, depth or width; None keeps that of `name`.

    Raises:
        SettingsError: the name does not fit the grammar.
    """
    size, own_patch, registers = parse_name(name)
    shape = {**shape_of(name), **{key: value for key, value in (("depth", depth), ("width", width)) if value}}
    parts = [f"{size}{patch or own_patch or ''}", *(f"{key[0]}{value}" for key, value in shape.items())]
    parts += [arm_of(name)] if arm_of(name) != arms.NONE else []
    return "_".join([*parts, f"reg{registers}"])


def arm_of(name: str) -> str:
    """The arm in a name, `none` where there is none; it need not exist."""
    match = NAME.fullmatch(name)
    return match["arm"] if match is not None and match["arm"] else arms.NONE


def with_arm(name: str, arm: str) -> str:
    """Put an arm into a name: `vitb_reg4` and `gated` make `vitb_gated_reg4`; an empty one leaves the name as it is.

    Raises:
        SettingsError: there is no such arm, or the name has another one.
    """
    check_arm(arm or arms.NONE, "arm")
    match, own = NAME.fullmatch(name), arm_of(name)
    if match is None or arm in ("", own):
        return name
    check(own == arms.NONE, f"MODEL={name} and arm={arm} are two arms; give arm={arm} to MODEL={without_arm(name)}")
    return f"{match['start']}_{arm}_reg{match['registers']}"


def without_arm(name: str) -> str:
    """The name of the plain model with as many registers; a name outside the grammar is returned unchanged."""
    match = NAME.fullmatch(name)
    return f"{match['start']}_reg{match['registers']}" if match else name


def check_arm(arm: str, where: str) -> None:
    """Raise `SettingsError` unless there is an arm of this name, or it is `none`."""
    known = [arms.NONE, *arms.names()]
    check(arm in known, f"{where}: {_no_arm(arm, known)}")


def _no_arm(arm: str, known: list[str]) -> str:
    return f"there is no arm '{arm}'; {settings.nearest(arm, known)}"
