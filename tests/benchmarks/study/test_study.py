"""The program: two grids of hand-made runs, a study that continues, and mistakes before anything runs."""

import pytest

from benchmarks.grid import cells as grids
from benchmarks.study import page
from regvit_lightning import settings
from tests.benchmarks.study.runs_by_hand import finish, rows
from tests.benchmarks.test_chain import mistake, program


@pytest.fixture
def study(configs, tmp_path):
    """Study `two` of two grids on two sets of data, and the words of the program."""
    (configs / "studies" / "two.yaml").write_text("parts: {first: mini, second: mini-plain}\n")
    for name, entries in (("first", "{}, {weight_decay: 0.3}"), ("second", "{}")):
        text = f"models: [deit3-vitn_reg0, deit3-vitn_reg4]\nsettings: [{entries}]\ntasks: []\nseeds: [0]\n"
        (configs / "grids" / f"{name}.yaml").write_text(text)
    return ["study=two", "train=false", f"runs={tmp_path}/runs", f"results={tmp_path}/results"]


def cells_of(tmp_path, grid, data):
    cells = grids.build(grids.Chosen(grid, data, runs=f"{tmp_path}/runs", results=f"{tmp_path}/results"))
    return {cell.model: cells.folder(cell) for cell in cells.cells}


def test_finished_runs_of_all_parts_are_shown_and_the_others_named(study, tmp_path):
    first, second = cells_of(tmp_path, "first", "mini"), cells_of(tmp_path, "second", "mini-plain")
    finish(first["deit3-vitn_reg0"], rows((0, [{}]), (50, [{}])))
    finish(second["deit3-vitn_reg4"], rows((0, [{}]), (50, [{"made_max_over_median": 1.8}])))
    markdown = tmp_path / "page.md"
    markdown.write_text(f"{page.BEGIN}\n{page.END}\n")
    shown = program("study", *study, f"page={markdown}")
    folder = tmp_path / "results" / "studies" / "two"
    names = {"norms.csv", "study.md", "curves.png", "curves.svg", "curves.pdf"}
    assert {file.name for file in folder.iterdir()} == names
    assert len((folder / "norms.csv").read_text().splitlines()) == 5
    for text in (shown, (folder / "study.md").read_text(), markdown.read_text()):
        assert "Not found up to this size and length" in text
        assert "1.8 × the median (data mini-plain, 4 registers, seed 0, step 50, after block 1)" in " ".join(
            text.split()
        )
        assert "Not run: deit3+weight_decay0.3-vitn_reg0 on mini seed 0, deit3-vitn_reg4 on mini seed 0" in " ".join(
            text.split()
        )


def test_without_any_finished_run_nothing_is_written(study, tmp_path):
    assert "study two: no run with norms has finished" in mistake("study", *study)
    assert not (tmp_path / "results").exists()


def test_a_mistake_in_any_part_is_told_before_anything_runs(study, configs, tmp_path):
    (configs / "grids" / "second.yaml").write_text(
        "models: [deit3-vitn_reg0]\nsettings: [{pool: max}]\ntasks: []\nseeds: [0]\n"
    )
    words = [word for word in study if word != "train=false"]
    assert "grid second: recipe deit3 with pool=max: unknown key 'pool'" in mistake("study", *words)
    assert not (tmp_path / "runs").exists()


def test_the_shipped_studies_are_grids_of_pretrainings_with_norms(tmp_path):
    for name in settings.names("studies"):
        for grid, data in settings.read_yaml(settings.find("studies", name)[-1])["parts"].items():
            cells = grids.build(grids.Chosen(grid, data, runs=str(tmp_path)), images_needed=False).cells
            assert {cell.task for cell in cells} == {grids.PRETRAINING}
            assert {cell.identity.name.partition("_reg")[2] for cell in cells} == {"0", "4"}
            for cell in cells:
                options, _ = grids.recipe_settings(cell.recipe, "mini", cell.words)
                assert 0 < options.norms_every <= 50
