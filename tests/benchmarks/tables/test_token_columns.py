"""Tables 1 and 6 with a column for each set: rows by token, n, deviations, intervals, the paper's numbers beside."""

import pytest

from benchmarks.tables import paper_tables, published
from benchmarks.tables.scored_records import ScoredRecord
from regvit_lightning import settings
from tests.by_hand import record

GIANT = "timm-vit_giant_patch14_dinov2.lvd142m"


def token(score, std=None, images=3333):
    return {"score": score, "std_over_draws": std, "C": 1.0, "train_images": 6667, "test_images": images}


def of(name, tokens, measure="top-1", model=GIANT, **more):
    chosen = settings.resolved(settings.load_settings("tasks", f"logistic_{name}", words=["rule=cutoff"])[1])
    protocol = {"single_tokens": tokens, "measure": measure}
    metrics = {"score": 87.0, "score_mean_patch": 60.0}
    intervals = {"score": [86.0, 88.0], "score_mean_patch": [58.0, 62.0]}
    columns = {name: {"better": 1, "unit": "%", "decimals": 1} for name in metrics}
    facts = {"protocol": protocol, "metrics": metrics, "intervals": intervals, "columns": columns, "footnote": []}
    return ScoredRecord(record(model, f"logistic_{name}", settings=chosen, data="full", **facts, **more), {})


AIRCRAFT = {
    "CLS": token(87.0),
    "normal": token(17.0, 0.5),
    "outlier": token(79.0, 0.4, 3000),
    "mean patch": token(60.0),
    "reg_0": token(70.0),
    "reg_1": token(72.0),
}


def tables(cells, entries=()):
    return {table.name: table for table in paper_tables.build(cells, entries)}


def test_every_token_is_a_row_and_every_set_a_column_with_its_n():
    mean = "mean over classes of the accuracy on the images of each"
    cells = [
        of("cub", {"CLS": token(91.0, images=5794), "outlier": None}, images=5794),
        of("aircraft", AIRCRAFT, mean, images=3333),
    ]
    found = tables(cells, published.read_published())
    first, sixth = found["table1"], found["table6"]
    assert first.titles() == ["Airc.", "n Airc.", "CUB", "n CUB"]  # in the paper's order
    assert [row.part for row in first.rows] == ["CLS", "normal", "outlier", "mean patch", "register (mean)"]
    scores = {row.part: first.scores[row, first.columns[0]] for row in first.rows}
    assert {part: score.values[0] for part, score in scores.items()} == {
        "CLS": 87.0,
        "normal": 17.0,
        "outlier": 79.0,
        "mean patch": 60.0,
        "register (mean)": 71.0,
    }
    assert scores["CLS"].interval == (86.0, 88.0)
    assert scores["mean patch"].interval == (58.0, 62.0)
    assert scores["outlier"].interval is None  # no share of images
    assert scores["outlier"].published.value == 79.1
    assert scores["CLS"].published.value == 87.3
    assert first.scores[first.rows[2], first.columns[1]].values == (3000.0,)
    assert sixth.titles()[:3] == ["Airc.", "Airc. std", "n Airc."]
    assert sixth.scores[sixth.rows[2], sixth.columns[1]].values == (0.4,)


def test_a_top1_of_one_token_has_the_exact_interval():
    found = tables([of("cub", {"CLS": token(91.0, images=100), "normal": token(20.0, 0.5, 100)}, images=100)])["table1"]
    low, high = found.scores[found.rows[1], found.columns[0]].interval
    assert (low, high) == (
        pytest.approx(12.67, abs=0.01),
        pytest.approx(29.18, abs=0.01),
    )  # Clopper and Pearson, 20 of 100


def test_few_images_are_a_dash():
    found = tables([of("cub", {"CLS": token(91.0, images=100), "outlier": token(50.0, 0.5, 49)}, images=100)])["table1"]
    assert (found.rows[1], found.columns[0]) not in found.scores


def test_dinov2s_own_numbers_stand_beside_cls_whatever_the_rule_of_outliers():
    cell = of("aircraft", AIRCRAFT, images=3333)
    cell.record.settings["rule"] = "factor"
    table = tables([cell], published.read_published())["table1"]
    beside = {row.part: table.scores[row, table.columns[0]].published for row in table.rows}
    assert (beside["CLS"].value, beside["CLS"].source) == (87.2, "arXiv 2304.07193, table 8")
    assert beside["outlier"] is None
