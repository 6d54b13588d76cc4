"""The demo's output and folders; the grid in it is replaced by records made by hand, and tested in its own tests."""

import pytest

from benchmarks.demo import __main__ as demo
from benchmarks.grid import cells as grids
from tests.benchmarks.in_terminal import widest_line
from tests.by_hand import cell, save

GRID = "models: [random-vitn_reg4, deit3-vitn_reg0, deit3-vitn_reg4]\ntasks: [imagenet_knn]\nseeds: [0, 1]\n"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the demo in an empty folder: `run(ran, **settings)`, where the grid runs `ran` cells."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(GRID)
    chosen = []

    def of(ran, values=(8.0, 50.0, 55.0), **settings):
        def instead(options, echo=True, elsewhere=None):
            chosen.append(options)
            assert not echo
            cells = grids.build(options, images_needed=False)
            for one, top1 in zip([one for one in cells.cells if not one.pretrains], values, strict=True):
                save(tmp_path / options.results, cell(one.model, one.task, one.seed, top1=top1))
            return cells, ran

        monkeypatch.setattr(demo.grid, "run", instead)
        demo.main(demo.Demo(grid="small.yaml", **settings), [])
        return chosen[-1]

    return of


def test_it_works_in_a_folder_of_its_own_with_one_seed(run, tmp_path, capsys):
    options = run(4)
    assert (options.results, options.seeds, options.pretrain, options.data) == ("runs/demo", "0", True, "mini")
    assert not (tmp_path / "results").exists()
    assert (tmp_path / "runs" / "demo" / "mini" / "tables" / "overview.csv").exists()
    shown = capsys.readouterr().out
    assert widest_line(shown) <= 100
    assert "4 of 5 cells took 0:" in shown
    assert "  deit3-vitn_reg4  55.0 [54.0, 56.0]ᵘ  +5.0 [3.6, 6.4] △" in shown
    assert "  floors: random-vitn_reg4 8.0 [7.0, 9.0]" in shown
    assert "compared with nothing: no results are kept in results/mini" in shown
    page = tmp_path / "runs" / "demo" / "mini" / "report.html"
    assert shown.splitlines()[-1] == f"demo: open {page.relative_to(tmp_path)}"
    assert page.exists()


def test_given_again_it_says_so_and_compares_with_what_is_kept(run, tmp_path, capsys):
    for model, top1 in (("random-vitn_reg4", 8.0), ("deit3-vitn_reg0", 50.0), ("deit3-vitn_reg4", 60.0)):
        save(tmp_path / "results", cell(model, top1=top1))
    run(0)
    shown = capsys.readouterr().out
    assert "all 5 cells were done before; to run them again remove runs/demo and runs/mini" in shown
    assert "compared with the kept results: 2 of 3 values are those of results/mini" in shown
    assert "deit3-vitn_reg4 imagenet_knn top-1 60.0 → 55.0, -5.0 [-6.4, -3.6]" in shown
    run(0, (8.0, 50.0, 60.0))
    assert "compared with the kept results: as kept: all 3 values are those of results/mini" in capsys.readouterr().out


def test_other_folders_and_other_records_in_them(run, tmp_path, capsys):
    save(tmp_path / "mine", cell("dinov2-vitn_reg0", top1=99.0))
    options = run(5, results="mine", runs="elsewhere", jobs=2)
    assert (options.results, options.runs, options.jobs) == ("mine", "elsewhere", 2)
    shown = capsys.readouterr().out
    assert "dinov2" not in shown
    assert "dinov2" in (tmp_path / "mine" / "mini" / "tables" / "overview.csv").read_text()


def test_data_that_can_be_downloaded_is_got_before_the_grid(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(demo.data_program, "main", lambda options, _: asked.append((options.data, options.get)))

    def stop(options, results):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_run", stop)
    for data in ("photos", "mini"):
        with pytest.raises(KeyboardInterrupt):
            demo.main(demo.Demo(data=data, results=str(tmp_path)), [])
    assert asked == [("photos", "photos")]
