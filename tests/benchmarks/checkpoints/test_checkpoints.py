"""Scores over a training: ranks against scipy, the weight of DSE, what is kept, and the whole program."""

import csv
import io
import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.checkpoints import measured, page
from benchmarks.checkpoints.measured import LABELLED, PARTS, UNLABELLED, Row
from regvit_lightning.models import sources
from regvit_lightning.pretrain import fit, kept_backbones
from tests.benchmarks.test_chain import mistake, program
from tests.pretrain.test_fit import StopAt, die_at, prepare


def rows(count=9, seed=0):
    random = np.random.default_rng(seed)
    names = [*UNLABELLED, *LABELLED, *PARTS]
    return [Row(100 * step, dict(zip(names, random.random(len(names)), strict=True))) for step in range(count)]


def test_agreement_is_scipys_rank_correlation_of_all_and_of_the_second_half():
    made = rows()
    made[3].values["knn"] = made[5].values["knn"]  # a tie
    for one in page.agreements(made):
        for value, chosen in ((one.every, made), (one.later, made[4:])):
            first, second = ([row.values[name] for row in chosen] for name in (one.score, one.quality))
            assert value == pytest.approx(spearmanr(first, second).statistic)
    assert len(page.agreements(made)) == len(UNLABELLED) * len(LABELLED)


def test_ranks_that_say_nothing_are_a_dash():
    made = rows(6)
    for row in made:
        row.values["knn"] = 50.0
    assert math.isnan(page.agreements(made)[0].every)
    assert math.isnan(page.agreements(rows(6))[0].later)  # three checkpoints
    (first, *_) = [line for line in page.text("m", "d", made).splitlines() if line.startswith("| RankMe")]
    assert [cell.strip() for cell in first.strip("|").split("|")][1:3] == ["–", "–"]


def test_dse_is_weighed_by_the_spread_over_the_checkpoints():
    made = measured.with_dse(rows())
    rest = np.array([row.values["dse_inter"] - row.values["dse_intra"] for row in made])
    dimension = np.array([row.values["dse_dimension"] for row in made])
    found = np.array([row.values["dse"] for row in made])
    np.testing.assert_allclose((found - rest).std(), rest.std())
    assert np.corrcoef(found - rest, dimension)[0, 1] == pytest.approx(1)
    for row in made:
        row.values["dse_dimension"] = 0.5
    assert measured.with_dse(made)[0].values["dse"] == rest[0]  # what does not change tells nothing


def test_the_table_has_every_value():
    made = rows(4)
    read = list(csv.DictReader(io.StringIO(page.csv_text(made))))
    assert [int(line["step"]) for line in read] == [0, 100, 200, 300]
    assert float(read[2]["dse_inter"]) == pytest.approx(made[2].values["dse_inter"], rel=1e-5)
    assert "no p-value is given" in page.text("deit3-vitn_reg0", "mini", made)


# ---------------------------------------------------------------------------------------------- kept over a training


@pytest.fixture(scope="module")
def kept(tiny, tmp_path_factory):
    """A run of 12 steps that keeps its backbone every 4, stopped after the sixth and continued."""
    runs = tmp_path_factory.mktemp("runs")
    run = prepare(tiny, runs / "tiny" / "deit3-vitn_reg2" / "seed0", "keep_every=4", "norms_every=0", "monitor_every=0")
    die_at(run, 6)
    fit.fit(run, [StopAt(99)])
    return runs, run


def test_backbones_are_kept_from_the_first_step_to_the_last(kept):
    _, run = kept
    files = kept_backbones.files(run.folder)
    assert list(files) == [0, 4, 8, 12]
    names = [sources.load_backbone(str(file)).name for file in files.values()]
    assert names == [f"deit3-vitn_reg2-{step:08d}" for step in files]
    last, exported = (sources.load_backbone(str(file)) for file in (files[12], run.folder / "backbone.safetensors"))
    assert last.fingerprint == exported.fingerprint
    prints = {sources.load_backbone(str(file)).fingerprint for file in files.values()}
    assert len(prints) == 4


def test_the_first_one_is_untrained(kept, tiny, tmp_path):
    _, run = kept
    again = prepare(tiny, tmp_path / "run", "keep_every=1", "norms_every=0", "monitor_every=0")
    die_at(again, 1)
    first, other = (sources.load_backbone(str(kept_backbones.files(one.folder)[0])) for one in (run, again))
    assert first.fingerprint == other.fingerprint


def test_the_program_measures_once_and_says_what_is_kept(kept, tiny, tmp_path, monkeypatch):
    runs, _ = kept
    written = tmp_path / "tiny.yaml"
    written.write_text(
        f"base: mini\nname: tiny\nroot: {tiny.root}\nrendered: false\nvariant: ''\n"
        "segmentation: {vocabulary: rendered}\n"
    )
    calls = []

    def metrics(file, one, seed, callbacks):
        calls.append((file.name, one.name))
        step = int(file.stem[-8:])
        return {name: float(step + number) for number, name in enumerate([*UNLABELLED, *PARTS, "top1", "miou"])}

    monkeypatch.setattr(measured, "_metrics", metrics)
    words = [f"data={written}", "variant=mini", f"runs={runs}", f"results={tmp_path}/results"]
    shown = program("checkpoints", "model=deit3-vitn_reg2", *words)
    assert len(calls) == 4 * 3
    assert "checkpoints: step 12 of 12: RankMe 12.0" in shown
    place = tmp_path / "results" / "tiny" / "checkpoints"
    assert {path.name for path in place.iterdir()} == {
        f"deit3-vitn_reg2.seed0.{kind}" for kind in ("csv", "md", "png", "svg", "pdf")
    }
    assert "(deit3-vitn_reg2.seed0.png)" in (place / "deit3-vitn_reg2.seed0.md").read_text()
    told = mistake("checkpoints", "model=deit3-vitn_reg4", *words)
    assert "has kept 0 backbones, at least 4 are needed: make pretrain RECIPE=deit3 MODEL=vitn_reg4" in told
    assert "RECIPE=dinov2 MODEL=vitn_reg4" in mistake("checkpoints", "model=dinov2-vitn_reg4", *words)


def test_what_is_measured_is_not_measured_again(kept, tiny, monkeypatch):
    _, run = kept
    file = kept_backbones.files(run.folder)[4]
    counted = []

    class Task:
        name, layout, settings = (
            "some_task",
            {"imagenet": "imagenet"},
            measured.evaluation.prepare("imagenet_knn", tiny).settings,
        )

        def digests(self):
            return {"train": "abc"}

        def run(self, backbone, options):
            counted.append(backbone.name)
            return type("Outcome", (), {"metrics": {"top1": 5.0}})

    assert measured._metrics(file, Task(), 0) == measured._metrics(file, Task(), 0) == {"top1": 5.0}
    assert counted == ["deit3-vitn_reg2-00000004"]
    assert measured._metrics(file, Task(), 1) == {"top1": 5.0}
    assert len(counted) == 2  # another seed
    file.with_name(f"{file.stem}.some_task.json").write_text("{")
    measured._metrics(file, Task(), 1)
    assert len(counted) == 3  # a damaged file
