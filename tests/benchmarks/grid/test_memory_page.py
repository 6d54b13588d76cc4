"""The tables of `docs/memory.md` are what the code estimates."""

import re
from pathlib import Path

import pytest

from benchmarks.grid import cells as grids
from benchmarks.grid.cells import Cell
from benchmarks.grid.estimates import Estimates
from regvit_lightning.tasks.footprint import cells

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "memory.md").read_text(encoding="utf-8")
MODEL = "random-vitl14_reg4"
ROWS = re.findall(r"^\| `(\w+)` \| (\w+) \|.*\| ([0-9.]+) \| ([0-9.]+) \|$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def estimates(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DATA_ROOT", raising=False)
        runs = str(tmp_path_factory.mktemp("runs"))
        chosen = grids.Chosen(grid="paper", data="full", runs=runs)
        yield Estimates(grids.build(chosen, images_needed=False))


@pytest.mark.parametrize(("task", "part", "device", "host"), ROWS)
def test_a_row_is_what_make_plan_shows(task, part, device, host, estimates):
    memory = estimates.estimate(Cell(MODEL, task, 0)).memory
    assert (part, device, host) == (memory.largest, f"{memory.device / 2**30:.1f}", f"{memory.host / 2**30:.1f}")


def test_every_estimate_has_a_row(estimates):
    """One task for each function of `tasks/footprint/cells.py`."""
    modules = {grids.task_module(task, "")[0].__name__.rpartition(".")[2] for task, *_ in ROWS}
    assert modules == set(cells.OF_MODULE)
