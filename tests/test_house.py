"""The floors of the house: every import goes to the file's own unit or to a lower floor, so nothing goes round."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. A unit is a folder or a file; those of one line do not import each other. `__init__` is the door
# through which users come in, so it stands above what it opens. Recipes and tasks are found by the names in their YAML,
# which this test does not see; they lie below everything that runs them.
FLOORS = {
    "regvit_lightning": """
        errors invocation neighbours rank schedules values version work
        settings
        precision runtime
        data statistics
        models
        frozen records
        analysis
        figures
        pretrain tasks
        evaluation looking
        __init__
    """,
    "benchmarks": """
        __init__ counter terminal throughput
        launch make_words manual progress
        command
        data tables
        annotate checkpoints compare cost evaluate grid look neurons pretrain report speed
        demo gpu_check plan status study
        __main__ completion
    """,
}
LINES = [
    [f"{package}.{unit}" for unit in line.split()]
    for package, plan in FLOORS.items()
    for line in plan.strip().splitlines()
]
FLOOR = {unit: number for number, line in enumerate(LINES) for unit in line}


DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.AugAssign)


def sources() -> dict[str, str]:
    """Text of every Python file of both packages, by its path below the root."""
    files = [file for package in FLOORS for file in sorted((ROOT / package).rglob("*.py"))]
    return {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}


def unit_of(path: str) -> str:
    """`data/voc.py` of the library belongs to the unit `regvit_lightning.data`, `settings.py` is its own."""
    package, name = Path(path).with_suffix("").parts[:2]
    return f"{package}.{name}"


def imports(text: str, units: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    """Line and unit of every import of the two packages, in functions and under TYPE_CHECKING, too."""
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module if not node.level else '(relative)'}.{alias.name}" for alias in node.names]
        for name in names:
            package, unit = (*name.split("."), "__init__")[:2]
            if package in FLOORS:
                inside = f"{package}.{unit}"
                yield node.lineno, inside if inside in units else f"{package}.__init__"
            elif package == "(relative)":
                yield node.lineno, name


def offenders(files: Mapping[str, str]) -> list[str]:
    """A line for each import that goes to another unit which is not on a lower floor."""
    found = []
    for path, text in files.items():
        own = unit_of(path)
        for line, other in imports(text, FLOOR):
            if other != own and not FLOOR.get(other, len(LINES)) < FLOOR[own]:
                found.append(f"{path}:{line}: {own} must not import {other}")
    return found


def test_every_unit_has_a_floor_and_every_floor_its_units():
    assert sorted({unit_of(path) for path in sources()}) == sorted(FLOOR), "name new files and folders in FLOORS"


def test_imports_go_down_only():
    found = offenders(sources())
    assert not found, "\n".join(["", *found])


def test_the_drawing_of_the_floors_shows_these():
    """From the roof to the ground, as `docs/architecture.md` shows them."""
    text = (ROOT / "docs" / "images" / "floors.svg").read_text(encoding="utf-8")
    drawn = [line.replace(" (regvit)", "").split() for line in re.findall(r'"monospace">(.*?)</text>', text)]
    plans = [list(reversed(FLOORS[package].strip().splitlines())) for package in ("benchmarks", "regvit_lightning")]
    assert drawn == [line.split() for plan in plans for line in plan]


VOC = "regvit_lightning/data/voc.py"


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        (VOC, "x = 1\nimport benchmarks.grid.cells", ":2: regvit_lightning.data must not imp"),
        (VOC, "from regvit_lightning import records", "import regvit_lightning.records"),
        (VOC, "from regvit_lightning.models.vit import NAME", "import regvit_lightning.models"),
        (VOC, "def f():\n    from regvit_lightning.tasks import knn", "voc.py:2: "),
        (VOC, "if TYPE_CHECKING:\n    from regvit_lightning.records import Record", "2: "),
        (VOC, "from regvit_lightning import __version__", "import regvit_lightning.__init__"),
        (VOC, "import regvit_lightning", "import regvit_lightning.__init__"),
        (VOC, "from . import boxes", "import (relative).boxes"),
        ("benchmarks/tables/columns.py", "from benchmarks.status import table", "must not import benchmarks.status"),
        ("benchmarks/cost.py", "from benchmarks import compare", "benchmarks.cost must not import benchmarks.compare"),
    ],
)
def test_an_import_that_goes_up_sideways_or_round_is_named(path, text, told):
    (found,) = offenders({path: text})
    assert told in found


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (VOC, "from regvit_lightning.data.boxes import Boxes\nimport numpy as np"),
        ("regvit_lightning/data/mini/writer.py", "from regvit_lightning.errors import UserError"),
        ("benchmarks/status.py", "from benchmarks.grid import cells\nimport regvit_lightning"),
    ],
)
def test_an_import_of_a_lower_floor_is_fine(path, text):
    assert not offenders({path: text})


@pytest.mark.parametrize(("package", "most"), [("benchmarks", 16), ("regvit_lightning", 14)])
def test_few_files_lie_loose(package, most):
    loose = [path.name for path in (ROOT / package).glob("*.py")]
    assert len(loose) <= most, loose


def side_effects(files: Mapping[str, str]) -> list[str]:
    """A line for each statement that does more than define a name of its own file when that is imported."""
    found = []
    for path, text in files.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", ast.Name())]
            names = [part for target in targets for part in getattr(target, "elts", [target])]
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            defines = isinstance(node, DEFINITIONS) and all(isinstance(name, ast.Name) for name in names)
            if not (docstring or defines):
                found.append(f"{path}:{node.lineno}: {ast.unparse(node).splitlines()[0]}")
    return found


def test_importing_a_file_changes_nothing():
    found = side_effects(sources())
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    "text",
    [
        'sys.modules["mmcv._ext"] = None',
        "cv2.setNumThreads(0)",
        "torch.backends.cudnn.benchmark = True",
        "a, os.environ['B'] = 1, 2",
        "if find_spec('x') is None:\n    import y",
        "try:\n    import y\nexcept ImportError:\n    y = None",
        "os.environ['A'] |= 1",
    ],
)
def test_a_statement_that_changes_something_at_import_is_named(text):
    (found,) = side_effects({VOC: f"import os\n{text}"})
    assert found.startswith(f"{VOC}:2: ")


# The files with a step of the computation of a number, in the order in which a reader comes to them between `make eval`
# and the table. What only carries values (Tokens, BoxedImages, Outcome, Record) or serves (settings, loaders, trainers,
# files, progress) is not listed.
WALKS = {
    "top1 of imagenet_knn": """
        benchmarks/evaluate.py regvit_lightning/evaluation.py regvit_lightning/tasks/knn.py
        regvit_lightning/data/imagenet.py regvit_lightning/frozen/module.py regvit_lightning/models/vit_backbone.py
        regvit_lightning/neighbours.py regvit_lightning/statistics.py benchmarks/tables/__main__.py
        benchmarks/tables/scored_records.py benchmarks/tables/columns.py benchmarks/tables/formats.py
    """,
    "corloc of lost_voc07": """
        benchmarks/evaluate.py regvit_lightning/evaluation.py regvit_lightning/tasks/discovery/lost.py
        regvit_lightning/tasks/discovery/protocol.py regvit_lightning/data/discovery.py regvit_lightning/data/voc.py
        regvit_lightning/models/vit_backbone.py regvit_lightning/tasks/discovery/seed_expansion.py
        benchmarks/tables/__main__.py benchmarks/tables/scored_records.py benchmarks/tables/columns.py
        benchmarks/tables/formats.py
    """,
}


@pytest.mark.parametrize("walk", WALKS)
def test_a_number_passes_at_most_twelve_files_none_twice(walk):
    files = WALKS[walk].split()
    assert len(set(files)) == len(files) <= 12
    assert all((ROOT / file).is_file() for file in files)
