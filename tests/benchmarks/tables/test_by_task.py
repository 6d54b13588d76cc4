"""One table a task: its own rows, metrics, seeds and footnotes; what is chosen on test stands last."""

from dataclasses import replace

import pytest

from benchmarks.tables import __main__ as program
from benchmarks.tables import by_task, columns, formats
from benchmarks.tables.formats import Origin
from benchmarks.tables.scored_records import ScoredRecords
from tests.by_hand import cell

BEST = {name: {"better": 1, "unit": "%", "decimals": 1} for name in ("top1_best_on_test", "top1")}
CELLS = [
    cell("deit3-vitn_reg0", top1=60.0),
    cell("deit3-vitn_reg4", seed=0, top1=64.0),
    cell("deit3-vitn_reg4", seed=1, top1=66.0),
    cell("openclip-vitn_reg4", "imagenet_zeroshot", top1=58.0, images=40, floors={"chance": {"top1": 6.2}}),
    cell("openclip-vitn_reg0", "imagenet_zeroshot", top1=58.0, images=48),
    cell("deit3-vitn_reg0", "imagenet_linear", columns=BEST, metrics={"top1": 70.0, "top1_best_on_test": 71.0}),
]


def test_each_task_is_a_table_with_its_own_rows_and_seeds():
    knn, linear, zeroshot = by_task.split(columns.overview(CELLS))
    assert [row.model for row in knn.rows] == ["deit3-vitn_reg0", "deit3-vitn_reg4"]
    assert list(knn.seeds.values()) == [1, 2]
    assert (knn.title, zeroshot.title) == ("imagenet_knn: 960 test images", "imagenet_zeroshot: 40 to 48 test images")
    assert [row.model for row in zeroshot.rows] == ["chance", "openclip-vitn_reg0", "openclip-vitn_reg4"]
    assert all(note.startswith("imagenet_zeroshot") for note in zeroshot.footnotes)
    assert len(zeroshot.footnotes) == 2
    assert zeroshot.titles() == ["top-1 %"]
    assert linear.scores[linear.rows[0], linear.columns[0]].mean == 70.0


def test_two_protocols_of_a_task_are_two_tables():
    other = cell("deit3-vitn_reg0", top1=40.0, settings={"crop": 96, "workers": 1})
    titles = [table.title.partition(":")[0] for table in by_task.split(columns.overview([*CELLS[:2], other]))]
    assert sorted(titles) == ["imagenet_knn (crop 64)", "imagenet_knn (crop 96)"]


def test_best_on_test_comes_after_what_is_chosen_honestly_in_every_table():
    data = [
        cell(model, "imagenet_linear", columns=BEST, metrics={"top1": 70.0, "top1_best_on_test": 71.0})
        for model in ("deit3-vitn_reg0", "deit3-vitn_reg4")
    ]
    sweep = {name.replace("top1", "corloc"): facts for name, facts in BEST.items()}
    data += [cell("deit3-vitn_reg4", "lost_sweep_voc07", columns=sweep, metrics=dict.fromkeys(sweep, 30.0))]
    for table in program.tables(data):
        shown = [
            column.metric for part in (by_task.split(table) if table.by_task else [table]) for column in part.columns
        ]
        assert all(shown.index(name.removesuffix(by_task.BEST_ON_TEST)) <= shown.index(name) for name in shown), (
            table.name
        )


def test_the_markdown_of_the_overview_is_narrow():
    wide = [replace(kept, record=replace(kept.record, task=f"task_{n}")) for kept in CELLS for n in range(9)]
    text = formats.markdown(columns.overview(wide), Origin("mini", ScoredRecords("results", wide, []), "make tables"))
    assert max(len(line) for line in text.splitlines() if line.startswith("|")) <= 110


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("outlier_share", "outlier share"),
        ("a_best_on_test", "a, best on test"),
        ("top1_best_on_test", "top-1, best on test"),
        ("corloc_any_cls_head", "CorLoc any CLS head"),
        ("outlier_mass_ep_both", "outlier mass EP both"),
        ("max_over_median", "largest norm / median"),
    ],
)
def test_names_of_metrics(metric, words):
    assert by_task.metric_name(metric) == words
