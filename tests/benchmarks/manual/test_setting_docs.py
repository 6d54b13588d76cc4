"""Lines of help from the source of settings: the same fields as the dataclass has, and a line for each."""

import dataclasses
import sys
import textwrap
import typing

import pytest

from benchmarks.manual import setting_docs
from benchmarks.manual.setting_docs import documented, fields_of
from regvit_lightning import settings

BOTH = [(group, name) for group in ("recipes", "tasks") for name in settings.names(group)]


def flat(fields, above=""):
    for field in fields:
        yield f"{above}{field.name}", field
        yield from flat(field.nested, f"{above}{field.name}.")


def of_class(kind, above=""):
    """Names and types of a dataclass, from Python itself."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        yield f"{above}{field.name}", hints[field.name]
        if dataclasses.is_dataclass(hints[field.name]):
            yield from of_class(hints[field.name], f"{above}{field.name}.")


@pytest.mark.parametrize(("group", "name"), BOTH)
def test_the_source_tells_the_fields_that_the_dataclass_has(group, name):
    module, _ = settings.load_settings(group, name)
    found = dict(flat(fields_of(settings.module_of(group, name))))
    theirs = dict(of_class(module.SETTINGS))
    assert list(found) == list(theirs)
    for key, field in found.items():
        plain = isinstance(theirs[key], type) and not typing.get_args(theirs[key])
        assert field.kind == (theirs[key].__name__ if plain else str(theirs[key]).replace("typing.", ""))


@pytest.mark.parametrize(("group", "name"), BOTH)
def test_every_setting_of_every_recipe_and_task_has_a_line_of_help(group, name):
    found = dict(flat(fields_of(settings.module_of(group, name))))
    assert not [key for key, field in found.items() if not field.help]
    assert not [key for key, field in found.items() if "\n" in field.help or "  " in field.help]


def test_attributes_of_a_docstring():
    docstring = """What it is.

    Attributes:
        a: the first: with a colon, and
            a second line.
        b, c: share
            their line.
        d: last.

    Raises:
        e: is none.
    """
    assert documented(docstring) == {
        "a": "the first: with a colon, and a second line.",
        "b": "share their line.",
        "c": "share their line.",
        "d": "last.",
    }
    assert documented("None here.") == {}


SOURCE = '''
from regvit_lightning.one import below
from regvit_lightning.one.below import Inner as Nested
from elsewhere import Foreign

class Own(below.Base):
    """Own.

    Attributes:
        size: pixels.
        inner: nested.
        kept: overrides.
    """

    size: int = MISSING
    inner: Nested = field(default_factory=Nested)
    kept: float = 2.5
    changed: int = 3
    other: Foreign | None = None

    def method(self) -> None: ...

SETTINGS, RECIPE = Own, None
'''
BELOW = '''
class Inner:
    """Inner.

    Attributes:
        deep: down.
    """

    deep: bool = True

class Base:
    """Base.

    Attributes:
        first: comes first.
        kept: of the base.
        changed: has another default below.
    """

    first: str = settings.MISSING
    kept: int = 1
    changed: int = 2
'''


def test_bases_nested_dataclasses_and_other_names_are_followed(tmp_path, monkeypatch):
    folder = tmp_path / "regvit_lightning" / "one"
    folder.mkdir(parents=True)
    (folder / "below.py").write_text(textwrap.dedent(BELOW))
    (folder / "own.py").write_text(textwrap.dedent(SOURCE))
    (folder / "__init__.py").write_text("from regvit_lightning.one.own import SETTINGS as CHOSEN\nSETTINGS = CHOSEN\n")
    monkeypatch.setattr(setting_docs, "ROOT", tmp_path)
    setting_docs._tree.cache_clear()
    try:
        for module in ("regvit_lightning.one.own", "regvit_lightning.one"):
            found = fields_of(module)
            assert [(f.name, f.kind, f.help, f.default) for f in found] == [
                ("first", "str", "comes first.", ""),
                ("kept", "float", "overrides.", "2.5"),
                ("changed", "int", "has another default below.", "3"),
                ("size", "int", "pixels.", ""),
                ("inner", "Nested", "nested.", "field(default_factory=Nested)"),
                ("other", "Foreign | None", "", "None"),
            ]
            assert [(f.name, f.help, f.default) for f in found[4].nested] == [("deep", "down.", "True")]
        with pytest.raises(LookupError, match="has no class NOTHING"):
            fields_of("regvit_lightning.one", "NOTHING")
        with pytest.raises(LookupError, match="no module"):
            fields_of("regvit_lightning.two")
    finally:
        setting_docs._tree.cache_clear()


def test_nothing_large_is_imported():
    import subprocess

    code = "import sys\nfrom benchmarks.manual.setting_docs import fields_of\n"
    code += "fields_of('regvit_lightning.pretrain.dinov2'); fields_of('regvit_lightning.tasks.depth')\n"
    code += "assert not {'torch', 'lightning', 'timm', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
