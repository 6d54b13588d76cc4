"""Tables: golden ones from hand-made records, bytes that repeat, three formats with the same numbers."""

import csv
import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.tables import __main__ as program
from benchmarks.tables import __main__ as tables
from benchmarks.tables import columns, latex, scored_records
from benchmarks.tables import formats as table_formats
from benchmarks.tables.columns import TableRow
from benchmarks.tables.formats import Origin
from benchmarks.tables.published import Protocol, Published
from benchmarks.tables.scored_records import ScoredRecord, ScoredRecords
from regvit_lightning import records
from tests.by_hand import cell, record, report, save

GOLDEN = Path(__file__).parent / "golden"

CELLS = [
    cell("random-vitn_reg4", top1=10.0),
    cell("deit3-vitn_reg4", seed=0, top1=60.0),
    cell("deit3-vitn_reg4", seed=1, top1=64.0),
    cell("deit3-vitn_reg0", seed=0, top1=50.0),
    cell("deit3-vitn_reg0", seed=1, top1=56.0),
    cell("deit3-vitn_reg16", top1=61.0),
    cell("deit3-vitn_reg0", "imagenet_linear", top1=70.0),
]


def origin(cells):
    return Origin("mini", ScoredRecords("results", list(cells), []), "make tables DATA=mini")


def built(cells, name="overview", entries=()):
    return {table.name: table for table in program.tables(cells, entries)}[name]


def rows_of_csv(table):
    return {row["model"]: row for row in csv.DictReader(io.StringIO(table_formats.csv(table)))}


def test_a_table_by_hand():
    table = built(CELLS)
    shown = [(row.model, row.floor) for row in table.rows]
    names = ["random-vitn_reg4", "deit3-vitn_reg0", "deit3-vitn_reg4", "deit3-vitn_reg16"]
    assert shown == [(name, name.startswith("random")) for name in names]
    rows = rows_of_csv(table)
    assert float(rows["deit3-vitn_reg4"]["imagenet_knn top1"]) == 62.0
    assert float(rows["deit3-vitn_reg4"]["imagenet_knn top1 std"]) == pytest.approx(8**0.5, abs=1e-4)
    assert float(rows["deit3-vitn_reg4"]["imagenet_knn top1 change"]) == 9.0  # 62 - (50 + 56) / 2
    # As of independent images, each ± 1, and two seeds each: variances 2 * (1 / 1.96)^2 + 8 / 2 + 18 / 2 = 13.52 with
    # 13.52^2 / (4^2 + 9^2) = 1.885 degrees of freedom, whose t is 4.55.
    reach = stats.t.ppf(0.975, 13.52**2 / 97) * 13.52**0.5
    assert float(rows["deit3-vitn_reg4"]["imagenet_knn top1 change low"]) == pytest.approx(9 - reach, abs=0.01)
    assert float(rows["deit3-vitn_reg4"]["imagenet_knn top1 change high"]) == pytest.approx(9 + reach, abs=0.01)
    assert rows["deit3-vitn_reg4"]["imagenet_knn top1 verdict"] == "within noise"
    assert rows["deit3-vitn_reg16"]["imagenet_knn top1 low"] == "60.0000"
    assert rows["deit3-vitn_reg4"]["imagenet_knn top1 marks"] == "u"
    assert rows["random-vitn_reg4 (floor)"]["imagenet_knn top1 change"] == ""
    assert rows["deit3-vitn_reg4"]["imagenet_linear top1"] == ""
    assert "imagenet_knn top1_k10" not in rows["deit3-vitn_reg4"]


@pytest.mark.parametrize("suffix", ["md", "csv", "tex"])
def test_the_golden_overview(suffix):
    """Made by `python -m tests.benchmarks.tables.test_tables` and read through once."""
    assert formats(built(CELLS), CELLS)[suffix] == (GOLDEN / f"overview.{suffix}").read_text()


def formats(table, cells):
    markdown, tex = table_formats.markdown(table, origin(cells)), latex.latex(table, origin(cells))
    return {"md": markdown, "csv": table_formats.csv(table), "tex": tex}


def test_floors_come_first_and_a_metric_brings_its_own_direction_and_decimals():
    rmse = {"better": -1, "unit": "m", "decimals": 3}
    facts = {"columns": {"rmse": rmse}, "floors": {"mean depth": {"rmse": 1.25, "a1": 30.0}}, "intervals": {}}
    depth = [
        replace(c.record, task="nyud_linear1", metrics={"rmse": c.record.metrics["top1"] / 100}) for c in CELLS[:-1]
    ]
    cells = [ScoredRecord(replace(kept, **facts), {}) for kept in depth]
    table = built([*cells, *CELLS])
    assert [row.model for row in table.rows[:2]] == ["mean depth", "random-vitn_reg4"]
    shown = table_formats.markdown(table, origin(cells)).splitlines()
    start = shown.index("**nyud_linear1: 960 test images**")
    rows = [[text.strip() for text in line.split("|")[1:-1]] for line in shown[start + 2 :] if "|" in line]
    assert rows[0] == ["model", "seeds", "RMSE m ↓"]
    assert rows[2] == ["mean depth (floor)", "2", "1.250 ± 0.000"]
    assert "0.620 ± 0.028† (+0.090)" in "".join(shown)
    assert "- ↓: lower is better" in shown
    assert r"RMSE m $\downarrow$" in latex.latex(table, origin(cells))


def test_the_order_of_records_changes_no_byte():
    cells = [*CELLS, report("deit3-vitn_reg0"), report("deit3-vitn_reg4", 0.5), report("random-vitn_reg4")]
    one, other = ([formats(table, side) for table in program.tables(side)] for side in (cells, cells[::-1]))
    assert one == other


def test_two_protocols_never_share_a_column():
    other = cell("deit3-vitn_reg0", top1=40.0, settings={"crop": 96, "workers": 1})
    knn = {title for title in built([*CELLS, other]).titles() if title.startswith("imagenet_knn top1")}
    assert knn == {"imagenet_knn top1 (crop 64)", "imagenet_knn top1 (crop 96)"}
    labelled = cell("deit3-vitn_reg0", top1=40.0, layout={"zero_is_unlabelled": True})
    knn = {title for title in built([*CELLS, labelled]).titles() if title.startswith("imagenet_knn top1")}
    assert knn == {
        "imagenet_knn top1 (layout.imagenet imagenet, no layout.zero_is_unlabelled)",
        "imagenet_knn top1 (no layout.imagenet, layout.zero_is_unlabelled True)",
    }
    same = cell("deit3-vitn_reg16", top1=61.0, settings={"crop": 64, "workers": 9})
    assert len(built([*CELLS, same]).columns) == 2


@pytest.mark.parametrize(
    ("model", "twin"),
    [
        ("deit3-vitb_reg16", "deit3-vitb_reg0"),
        ("timm-vit_large_patch14_reg4_dinov2.lvd142m", "timm-vit_large_patch14_dinov2.lvd142m"),
    ],
)
def test_twins(model, twin):
    assert twin in columns.twins(model)


def test_a_model_with_a_test_time_register_is_compared_with_its_own_weights():
    """Also where these have registers; the model without any is the twin of those weights alone."""
    tops = {"deit3-vitn_reg0": 50.0, "deit3-vitn_reg4": 53.0, "deit3-vitn_reg4+ttr": 52.0, "deit3-vitn_reg0+ttr": 54.0}
    table = built([cell(model, top1=top) for model, top in tops.items()])
    assert [row.model for row in table.rows] == [
        "deit3-vitn_reg0",
        "deit3-vitn_reg0+ttr",
        "deit3-vitn_reg4",
        "deit3-vitn_reg4+ttr",
    ]
    changes = {row.model: score.change.value for (row, _), score in table.scores.items() if score.change}
    assert changes == {"deit3-vitn_reg0+ttr": 4.0, "deit3-vitn_reg4": 3.0, "deit3-vitn_reg4+ttr": -1.0}
    assert table.against == "the same model without registers; of +ttr, the same weights without it"
    assert any(table.against in line for line in table_formats.meanings(table))


# ---------------------------------------------------------------------------------------------- differences and bold


def pair(better_by, images=400, seeds=(0, 1), second="deit3-vitn_reg4"):
    """Two models on the same images; the second is better in `better_by` percent of the images. Their seeds agree."""
    right = np.arange(images) % 2 * 100.0
    more = right.copy()
    more[: 2 * round(better_by / 100 * images) : 2] = 100.0
    sides = {"deit3-vitn_reg0": right, second: more}
    return [cell(model, seed=seed, per_image=side) for model, side in sides.items() for seed in seeds]


def test_a_small_paired_difference_is_beyond_its_interval_where_an_unpaired_one_is_not():
    cells = pair(2.5)
    table = built(cells)
    score = table.scores[TableRow("deit3-vitn_reg4"), table.columns[0]]
    assert score.change.value == pytest.approx(2.5)
    assert score.change.paired
    # 10 of 400 images differ by 100: standard error sqrt(0.025 * 0.975 / 400) = 0.78 %.
    assert score.change.interval == pytest.approx((2.5 - 1.96 * 0.78, 2.5 + 1.96 * 0.78), abs=0.3)
    assert score.best
    assert "**52.5 ± 0.0** (+2.5 [0.8, 4.2] ▲)" in table_formats.markdown(table, origin(cells))
    assert score.change.over_seeds
    # The same without scores of images, each ± 4.9: nothing is bold.
    wide = [
        ScoredRecord(replace(c.record, intervals={"top1": [c.record.metrics["top1"] + d for d in (-4.9, 4.9)]}), {})
        for c in cells
    ]
    unpaired = built(wide)
    score = unpaired.scores[TableRow("deit3-vitn_reg4"), unpaired.columns[0]]
    assert score.change.interval == pytest.approx((2.5 - 4.9 * 2**0.5, 2.5 + 4.9 * 2**0.5))
    assert not any(score.best for score in unpaired.scores.values())
    assert "**5" not in table_formats.markdown(unpaired, origin(wide))
    assert r"\textbf" not in latex.latex(unpaired, origin(wide))


def test_nothing_is_bold_within_the_interval_alone_or_above_a_floor_only():
    assert not any(score.best for score in built(pair(0.25)).scores.values())  # 1 of 400 images
    one = [cell("deit3-vitn_reg0", per_image=[100.0] * 50), cell("random-vitn_reg0", per_image=[0.0] * 50)]
    assert not any(score.best for score in built(one).scores.values())


def test_bold_must_beat_every_other_model():
    best = built([*pair(2.5), *pair(2.0, second="deit3-vitn_reg16")[2:]])
    assert not any(score.best for score in best.scores.values())  # 52.5 against 52.0: two images apart
    clear = built([*pair(5.0), *pair(0.5, second="deit3-vitn_reg16")[2:]])
    assert [row.model for (row, _), score in clear.scores.items() if score.best] == ["deit3-vitn_reg4"]


def test_one_seed_makes_nothing_bold_and_its_sign_is_hollow():
    """What one seed shows may be a lucky training, however many images it has."""
    for better_by, sign in ((5.0, "△"), (0.25, "≈")):
        cells = pair(better_by, seeds=(0,))
        assert not any(score.best for score in built(cells).scores.values())
        found = formats(built(cells), cells)
        assert f" {sign})" in found["md"]
        assert latex.SIGNS[sign] in found["tex"]
    assert "- △ better, ▽ worse, by more than the noise of images alone: with one seed" in found["md"] or sign == "≈"
    worse = [
        replace(kept, record=replace(kept.record, model=name))
        for kept, name in zip(pair(5.0, seeds=(0,)), ("deit3-vitn_reg4", "deit3-vitn_reg0"), strict=True)
    ]
    assert " ▽)" in formats(built(worse), worse)["md"]


def test_where_less_is_better_the_lowest_is_bold():
    facts = {"columns": {"top1": {"better": -1, "unit": "m", "decimals": 1}}}
    cells = [ScoredRecord(replace(c.record, **facts), c.scores) for c in pair(5.0)]
    assert [row.model for (row, _), score in built(cells).scores.items() if score.best] == ["deit3-vitn_reg0"]


# ------------------------------------------------------------------------------------------------ marks and published


def test_doubtful_cells_are_marked(tmp_path):
    dirty = {**record().provenance, "dirty": True}
    later = {**record().provenance, "date": "2026-02-01T00:00:00Z"}
    cells = [
        cell("deit3-vitn_reg0", provenance=dirty),
        cell("deit3-vitn_reg4", weights="old"),
        cell("deit3-vitn_reg4", "imagenet_linear", weights="new", provenance=later),
        cell("deit3-vitn_reg4", "imagenet_linear", seed=1, settings={"version": 0}),
    ]
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(table_formats.csv(built(cells))))}
    assert rows["deit3-vitn_reg0"]["imagenet_knn top1 marks"] == "d"
    assert rows["deit3-vitn_reg4"]["imagenet_knn top1 marks"] == "su"
    marks = [rows["deit3-vitn_reg4"][name] for name in rows["deit3-vitn_reg4"] if "linear" in name and "marks" in name]
    assert sorted(marks) == ["", "v"]
    shown = table_formats.markdown(built(cells), origin(cells))
    assert "50.0 [49.0, 51.0]ᵈ" in shown
    assert all(f"- {sign}: " in shown for sign in "ᵈˢᵛ")


def test_a_value_not_above_its_floor_by_more_than_noise_is_marked():
    """Each value is ± 1, so a difference ± 1.4: 11.5 is above 10.0, and 11.3 is not."""
    floors = {"chance": {"top1": 6.2}}
    cells = [cell("random-vitn_reg4", top1=10.0, floors=floors)]
    cells += [cell(f"deit3-vitn_reg{n}", top1=top1) for n, top1 in ((0, 10.0), (4, 11.5), (8, 11.3))]
    rows = rows_of_csv(built(cells))
    marked = {model: "f" in row["imagenet_knn top1 marks"] for model, row in rows.items()}
    assert marked == {
        **dict.fromkeys(("chance (floor)", "random-vitn_reg4 (floor)", "deit3-vitn_reg4"), False),
        **dict.fromkeys(("deit3-vitn_reg0", "deit3-vitn_reg8"), True),
    }
    shown = formats(built(cells), cells)
    assert "10.0 [9.0, 11.0]† |" in shown["md"]
    assert "- †: does not beat every floor of its column by more than noise" in shown["md"]
    assert r"$\dagger$" in shown["tex"]
    lower = [
        replace(c, record=replace(c.record, columns={"top1": {"better": -1, "unit": "m", "decimals": 1}}))
        for c in cells
    ]
    assert "f" in rows_of_csv(built(lower))["deit3-vitn_reg4"]["imagenet_knn top1 marks"]


def test_a_published_number_stands_beside_the_model_and_protocol_it_is_of(monkeypatch):
    protocol = Protocol("knn", "kNN as published", "top1", task="imagenet_knn", images=960, differs="the weather")
    entry = Published("DeiT", ("deit3-vitn_reg4",), "", protocol, 84.8, None, "arXiv 0000.00000, table 2a")
    monkeypatch.setattr(
        "benchmarks.tables.published._protocol_here", lambda task: {"crop": 64, "version": 1, "precision": "auto"}
    )
    settings = {"crop": 64, "version": 1, "precision": "32-true", "workers": 3}

    cells = [cell("deit3-vitn_reg4", data="full", settings=settings), cell("deit3-vitn_reg0")]
    agreeing = formats(built(cells, entries=[entry]), cells)
    assert "84.8 (-34.8) [1] |" in agreeing["md"]
    assert "- [1] arXiv 0000.00000, table 2a: kNN as published; differs: the weather" in agreeing["md"].splitlines()
    assert '84.8,"arXiv 0000.00000, table 2a"' in agreeing["csv"]
    assert r"\num{84.8} (\num{-34.8}) [\num{1}]" in agreeing["tex"]
    for other in (
        {"data": "mini"},
        {"images": 959},
        {"task": "imagenet_linear"},
        {"settings": {**settings, "crop": 96}},
        {"settings": {**settings, "version": 2}},
        {"model": "deit3-vitn_reg8"},
    ):
        facts = {"model": "deit3-vitn_reg4", "data": "full", "settings": settings, **other}
        cells = [cell(**facts)]
        assert "published" not in formats(built(cells, entries=[entry]), cells)["md"]


# ------------------------------------------------------------------------------------------------------------ formats


def numbers(text):
    """All numbers of a cell, in their order."""
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", text)]


def test_all_formats_hold_the_same_numbers():
    cells = [*CELLS, *pair(2.5)]
    table = replace(built(cells), by_task=False)
    found = formats(table, cells)
    lines = [line for line in found["md"].splitlines() if line.startswith("|")][2:]
    markdown = [[part.strip() for part in line.strip("|").split(" | ")] for line in lines]
    plain = list(csv.reader(io.StringIO(found["csv"])))[1:]
    assert len(markdown) == len(plain) == 4
    for in_markdown, in_csv in zip(markdown, plain, strict=True):
        assert in_markdown[:2] == in_csv[:2]
        for place in range(len(table.columns)):
            *figures, _, _, images = in_csv[2 + len(table_formats.PARTS) * place :][: len(table_formats.PARTS)]
            kept = [text for text in figures if text]
            assert images == ("960" if kept else "")
            shown = numbers(in_markdown[2 + place])
            assert shown == pytest.approx([float(text) for text in kept], abs=0.0501)
    rows = [line for line in found["tex"].splitlines() if line.startswith(("random", "deit3"))]
    of_latex = [number for line in rows for number in numbers(line.partition("&")[2])]
    of_markdown = [number for line in markdown for cell in line[2:] for number in numbers(cell)]
    assert sorted(of_latex) == sorted(of_markdown)


def test_names_are_escaped():
    odd = r"a|b_c&d%e#f,g~h^i{j}\k"
    table = built([cell(odd)])
    found = formats(table, [cell(odd)])
    assert r"a\|b" in found["md"]
    assert next(iter(rows_of_csv(table))) == odd
    assert r"a|b\_c\&d\%e\#f,g\textasciitilde{}h\textasciicircum{}i\{j\}\textbackslash{}k & " in found["tex"]


def test_the_header_says_data_date_commits_and_command():
    newer = {"commit": "b" * 40, "date": "2026-03-01T00:00:00Z"}
    line = origin([*CELLS, cell("deit3-vitn_reg4", "imagenet_linear", provenance=newer)]).line()
    expected = "Data: mini. Newest record: 2026-03-01T00:00:00Z. Commits: bbbbbbbbbb, c0ffeec0ff. "
    assert line == expected + "Made by `make tables DATA=mini`."


# ---------------------------------------------------------------------------------------------------- the paper's own

REPORTS = [report("deit3-vitn_reg0"), report("deit3-vitn_reg4", 0.5)]


def paper(name):
    table = built([*CELLS, *REPORTS], name)
    shown = table_formats.csv(table)
    return list(csv.DictReader(io.StringIO(shown))), table


def test_single_tokens_are_tables_1_and_6():
    rows, _ = paper("table1")
    assert [(row["model"], row["token"], float(row["top-1"])) for row in rows] == [
        ("deit3-vitn_reg0", "CLS", 80.0),
        ("deit3-vitn_reg0", "normal", 40.0),
        ("deit3-vitn_reg0", "outlier", 70.0),
        ("deit3-vitn_reg4", "CLS", 80.0),
        ("deit3-vitn_reg4", "normal", 40.0),
    ]
    spread, _ = paper("table6")
    assert [row["std over draws"] for row in spread] == ["", "0.5000", "1.2500", "", "0.5000"]


def test_registers_hold_what_outliers_held_in_table_4():
    rows, _ = paper("table4")
    assert [row["registers"] for row in rows] == ["0", "4"]
    assert [row["outlier patch"] for row in rows] == ["70.0000", ""]
    assert [row["register (mean)"] for row in rows] == ["", "61.5000"]  # of 60, 61, 62, 63
    assert rows[1]["[CLS] change"] == "0.0000"


def with_outliers(model, images, top1=50.0, seed=0):
    """A report in which so many test images have an outlier."""
    made = report(model)
    tokens = {**made.record.protocol["single_tokens"]}
    tokens["outlier"] = {**tokens["CLS"], "top1": top1, "test_images": images}
    record = replace(made.record, seed=seed, protocol={**made.record.protocol, "single_tokens": tokens})
    return replace(made, record=record)


@pytest.mark.parametrize("name", ["table1", "table4", "table6"])
@pytest.mark.parametrize(("images", "shown"), [(2, False), (49, False), (50, True), (400, True)])
def test_a_token_of_few_images_has_a_dash_and_its_n(name, images, shown):
    table = built([with_outliers("deit3-vitn_reg0", images)], name)
    text = formats(table, CELLS)
    if name == "table4":
        row = rows_of_csv(table)["deit3-vitn_reg0"]
        top1, n = row["outlier patch"], row["n outlier patch"]
        assert (row["[CLS]"], row["n [CLS]"]) == ("80.0000", "80.0000")
    else:
        row = list(csv.DictReader(io.StringIO(text["csv"])))[2]
        top1, n = row["top-1"], row["n"]
        assert (row["std over draws"] != "") is shown if name == "table6" else True
    assert (top1, n) == ("50.0000" if shown else "", f"{images}.0000")
    (line,) = (line for line in text["md"].splitlines() if re.search(rf"\| +{images}ᵛ? +\|", line))
    assert ("50.0" in line) is shown
    assert "– |" in re.sub(" +", " ", line) or shown
    assert "– below 50" in text["md"]


def test_the_interval_of_a_token_is_exact():
    for images, top1 in ((60, 50.0), (400, 0.0), (80, 100.0)):
        rows = rows_of_csv(built([with_outliers("deit3-vitn_reg0", images, top1)], "table4"))
        row = rows["deit3-vitn_reg0"]
        truth = stats.binomtest(round(top1 / 100 * images), images).proportion_ci(0.95, "exact")
        ends = float(row["outlier patch low"]), float(row["outlier patch high"])
        assert ends == pytest.approx((100 * truth.low, 100 * truth.high), abs=1e-3)


def test_counts_have_no_change_and_no_deviation_of_zero():
    cells = [with_outliers(model, 90, seed=seed) for model in ("deit3-vitn_reg0", "deit3-vitn_reg4") for seed in (0, 1)]
    table = built(cells, "table4")
    row = rows_of_csv(table)["deit3-vitn_reg4"]
    assert (row["n outlier patch"], row["n outlier patch change"]) == ("90.0000", "")
    assert row["outlier patch change"] == "0.0000"
    assert "90 ±" not in formats(table, cells)["md"]


def test_local_percentages_have_the_number_of_patches_and_an_exact_interval():
    row = rows_of_csv(paper("table5")[1])["deit3-vitn_reg0"]
    truth = stats.binomtest(375, 900).proportion_ci(0.95, "exact")
    assert row["n"] == "900.0000"
    assert float(row["position top-1 low"]) == pytest.approx(100 * truth.low, abs=1e-3)
    assert row["reconstruction L2 error low"] == ""


def test_patches_of_one_image_count_as_one_in_the_interval():
    """900 patches of 90 images are as many independent trials as there are images, if the patches of each agree."""
    made = [replace(kept, record=replace(kept.record, images=90)) for kept in REPORTS]
    row = rows_of_csv(built(made, "table5"))["deit3-vitn_reg0"]
    truth = stats.binomtest(round(0.417 * 90), 90).proportion_ci(0.95, "exact")
    assert row["n"] == "900.0000"
    ends = float(row["position top-1 low"]), float(row["position top-1 high"])
    assert ends == pytest.approx((100 * truth.low, 100 * truth.high), abs=1e-3)


def test_footnotes_that_differ_name_their_models():
    """Keys for one model and values for another stand in one column: the footnotes say which is which."""
    facts = {"columns": {"corloc": {"better": 1, "unit": "%", "decimals": 1}}, "intervals": {}, "footnote": ["feature"]}
    found = [
        cell(model, "lost_voc07", metrics={"corloc": 30.0}, protocol={"feature": feature}, **facts)
        for model, feature in (("deit3-vitn_reg0", "v"), ("dinov2-vitn_reg0", "k"), ("deit3-vitn_reg4", "v"))
    ]
    table = built(found)
    assert len(table.columns) == 1
    assert table.footnotes == [
        "lost_voc07 (deit3-vitn_reg0, deit3-vitn_reg4): 960 test images; feature: v",
        "lost_voc07 (dinov2-vitn_reg0): 960 test images; feature: k",
    ]
    assert built(found[:1]).footnotes == ["lost_voc07: 960 test images; feature: v"]


def test_local_information_is_table_5():
    rows, table = paper("table5")
    assert [float(row["position top-1"]) for row in rows] == [41.7, 41.7]
    assert [float(row["reconstruction L2 error"]) for row in rows] == [18.38, 18.38]
    assert "in pixels of 0..255" in table_formats.markdown(table, origin(REPORTS))


def test_norms_of_registers_by_block():
    kept_cell = report("deit3-vitn_reg4", 0.5)
    kept_cell.record.protocol["norm_of_mean_register_by_block"] = [[1.0, 2.0], [3.0, 40.0]]
    table = built([*REPORTS[:1], kept_cell], "fig15")
    assert table.titles() == ["register 0", "register 1"]
    found = {(row.model, row.part): table.scores[row, table.columns[1]].mean for row in table.rows}
    assert found == {("deit3-vitn_reg4", "1"): 2.0, ("deit3-vitn_reg4", "2"): 40.0}


def test_diversity_of_registers_beside_accuracy_and_artifacts():
    several, one = report("deit3-vitn_reg4"), report("deit3-vitn_reg1")
    measured = {
        "register_cosine": 0.83,
        "register_effective_rank": 2.5,
        "register_divergence": 0.12,
        "register_coverage": 17,
    }
    several.record.metrics.update(measured)
    table = built([one, several, cell("deit3-vitn_reg4", top1=71.0), cell("deit3-vitn_reg1", top1=72.0)], "registers")
    assert [row.model for row in table.rows] == ["deit3-vitn_reg1", "deit3-vitn_reg4"]
    found = {(row.model[-4:], column.name): score.mean for (row, column), score in table.scores.items()}
    assert {name for model, name in found if model == "reg1"} == {"outliers", "mini kNN top-1"}  # one has no diversity
    assert found["reg1", "mini kNN top-1"] == 72.0
    assert {name: value for (model, name), value in found.items() if model == "reg4"} == {
        "cosine": 0.83,
        "effective rank": 2.5,
        "divergence of maps": 0.12,
        "coverage": 17,
        "outliers": 0.0,
        "mini kNN top-1": 71.0,
    }
    assert "registers" not in {table.name for table in tables.tables([one])}
    text = table_formats.markdown(table, origin([one, several]))
    assert "cosine, effective rank: no unit; divergence of maps in bits; coverage in % of patches" in text


def test_terms_of_the_registers_are_compared_with_the_same_model_without_them():
    models = ("deit3-vitn_reg0", "deit3-vitn_reg4", "deit3+gram-vitn_reg4")
    cells = [report(model) for model in models[1:]]
    for one, cosine in zip(cells, (0.8, 0.3), strict=True):
        one.record.metrics["register_cosine"] = cosine
    table = built([*cells, *(cell(name, top1=70.0 + 10 * index) for index, name in enumerate(models))], "registers")
    changes = {(row.model, column.name): score.change for (row, column), score in table.scores.items() if score.change}
    assert {name for name, _ in changes} == {"deit3+gram-vitn_reg4"}
    assert changes["deit3+gram-vitn_reg4", "cosine"].value == pytest.approx(-0.5)
    assert changes["deit3+gram-vitn_reg4", "mini kNN top-1"].value == pytest.approx(10)
    assert table.against == "the same model trained without the settings of its tag"


def test_figures_4_7_and_12_as_tables():
    rows, _ = paper("fig4")
    first = rows[1]
    assert (first["model"], first["block"]) == ("deit3-vitn_reg0", "2")
    assert [float(first[name]) for name in ("norm at 1 %", "median norm", "norm at 99 %", "largest norm")] == [
        2,
        4,
        6,
        8,
    ]
    assert float(first["outliers (factor)"]) == pytest.approx(2.37)
    rows, _ = paper("fig7")
    quantiles = {int(name[:-2]): float(rows[1][name]) for name in rows[1] if re.fullmatch(r"\d+ %", name)}
    assert quantiles == {percent: percent for percent in (0, 1, 5, 25, 50, 75, 95, 99, 100)}  # halved from 0 to 200
    rows, _ = paper("fig12")
    assert [(row["model"], row["registers"], float(row["multiply-adds"])) for row in rows] == [
        ("deit3-vitn", "0", 10.0),
        ("deit3-vitn", "4", 10.0),
    ]
    assert float(rows[1]["more multiply-adds"]) == 0.4


def test_table_2a_and_figure_8_are_of_the_same_numbers():
    best = {"top1_best_on_test": {"better": 1, "unit": "%", "decimals": 1}}
    facts = {"columns": best, "intervals": {}}
    found = [
        cell(f"deit3-vitn_reg{n}", "imagenet_linear", metrics={"top1_best_on_test": 80.0 + n}, **facts)
        for n in (0, 1, 16)
    ]
    alone = cell("openclip-vitn_reg4", "imagenet_linear", metrics={"top1_best_on_test": 70.0}, **facts)
    rows = rows_of_csv(built([*found, alone], "table2a"))
    assert float(rows["deit3-vitn_reg16"]["mini linear top-1, best on test change"]) == 16.0
    shown = list(csv.DictReader(io.StringIO(table_formats.csv(built([*found, alone], "fig8")))))
    top1 = "mini linear top-1, best on test"
    assert [(row["model"], row["registers"], float(row[top1])) for row in shown] == [
        ("deit3-vitn", "0", 80.0),
        ("deit3-vitn", "1", 81.0),
        ("deit3-vitn", "16", 96.0),
    ]
    assert [row[f"{top1} change"] for row in shown] == ["", "1.0000", "16.0000"]


def test_zero_shot_is_2b_and_lost_is_3():
    found = [cell("openclip-vitn_reg4", "imagenet_zeroshot", top1=59.9)]
    corloc = {"columns": {"corloc": {"better": 1, "unit": "%", "decimals": 1}}, "intervals": {}}
    found += [
        cell("openclip-vitn_reg4", f"lost_{s}", metrics={"corloc": v}, **corloc)
        for s, v in (("voc07", 1.0), ("coco20k", 3.0))
    ]
    assert float(rows_of_csv(built(found, "table2b"))["openclip-vitn_reg4"]["mini zero-shot top-1"]) == 59.9
    row = rows_of_csv(built(found, "table3"))["openclip-vitn_reg4"]
    assert (row["mini voc07 CorLoc"], row["mini coco20k CorLoc"]) == ("1.0000", "3.0000")
    assert not [heading for heading in row if "voc12" in heading or "VOC" in heading]


# -------------------------------------------------------------------------------------------------------- the program


def test_tables_are_rebuilt_byte_for_byte(tmp_path):
    for kept_cell in [*CELLS, *pair(2.5)]:
        save(tmp_path, kept_cell)
    command = [sys.executable, "-m", "benchmarks.tables", "data=mini", f"results={tmp_path}"]
    made = []
    for _ in range(2):
        done = subprocess.run(command, cwd=records.ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made.append({path.name: path.read_bytes() for path in (tmp_path / "mini" / "tables").iterdir()})
    assert made[0] == made[1]
    tables = ("summary", "overview", "table2a", "where", "leaderboard")
    rows = {"leaderboard_efficient_probing.csv", "leaderboard_visbench.csv"}
    assert set(made[0]) == {f"{name}.{suffix}" for name in tables for suffix in ("md", "csv", "tex")} | rows


def test_tables_without_a_record_are_not_written(tmp_path, capsys):
    for kept_cell in REPORTS:
        save(tmp_path, kept_cell)
    tables.main(tables.Tables("mini", str(tmp_path)), [])
    names = ["summary", "overview", "table1", "table4", "table5", "table6", "fig4", "fig7", "fig12"]
    written = {path.name for path in (tmp_path / "mini" / "tables").iterdir()}
    tables_written = {f"{name}.{suffix}" for name in names for suffix in ("md", "csv", "tex")}
    figures = {f"{name}.{suffix}" for name in ("fig7", "fig12") for suffix in ("pdf", "png")}
    assert written == tables_written | figures
    printed = [(tmp_path / "mini" / "tables" / f"{name}.md").read_text() for name in ("summary", "overview")]
    assert capsys.readouterr().out.startswith("\n".join(printed))


def test_torn_and_foreign_files_and_lost_scores_are_named_and_nothing_is_deleted(tmp_path):
    for kept_cell in pair(2.5, seeds=(0,)):
        save(tmp_path, kept_cell)
    cells = tmp_path / "mini" / "cells"
    (cells / "deit3-vitn_reg0" / "torn.seed0.json").write_text("{")
    (cells / "deit3-vitn_reg0" / "foreign.seed0.json").write_text('{"a": 1}')
    (cells / "deit3-vitn_reg4" / "imagenet_knn.seed0.scores.npz").write_bytes(b"torn")
    found = scored_records.read_scored_records(tmp_path, "mini")
    assert [len(c.scores) for c in found.cells] == [1, 0]
    assert len(found.skipped) == 3
    text = table_formats.markdown(built(found.cells), Origin("mini", found, "c"))
    for name in ("torn.seed0.json", "foreign.seed0.json", "imagenet_knn.seed0.scores.npz, are not those of the record"):
        assert sum(name in line for line in text.splitlines() if line.startswith("- skipped: ")) == 1
    assert (cells / "deit3-vitn_reg0" / "torn.seed0.json").read_text() == "{"


if __name__ == "__main__":
    for ending, content in formats(built(CELLS), CELLS).items():
        (GOLDEN / f"overview.{ending}").write_text(content)
