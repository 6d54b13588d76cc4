"""The report's page as HTML: what it shows is what the records say, and nothing that they say becomes markup."""

import dataclasses
import json
import math
import re
import shlex
import statistics
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.report import __main__ as report
from benchmarks.report import cells as kept
from benchmarks.report import chart, commands, curves, norms, pictures, results
from benchmarks.report.cells import Cell
from benchmarks.report.markup import Html, script_data, tag
from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.records import Record

KEPT = Path(__file__).resolve().parents[3] / "results"
EVIL = "<script>hacked=1</script>\"'><img src=x onerror=hacked=2>&amp;</script><!--{{$x}}"


def record(model="deit3-vitn_reg4", task="imagenet_knn", seed=0, **metrics):
    """A record with a percentage `top1`, unless other metrics are given."""
    metrics = metrics or {"top1": 50.0}
    return Record(
        model=model,
        task=task,
        data="mini",
        data_root="",
        seed=seed,
        metrics=metrics,
        columns={name: {"better": 1, "unit": "%", "decimals": 1} for name in metrics},
        intervals={},
        per_class={},
        floors={},
        images=10,
        protocol={"view": "whole"},
        footnote=["view"],
        settings={},
        layout={},
        backbone={"num_registers": int((re.findall(r"_reg(\d+)", model) or [0])[0])},
        weights="00",
        provenance={
            "commit": "c" * 40,
            "dirty": False,
            "date": "2026-11-21T01:37:25Z",
            "device": "a CPU",
            "seconds": 1.5,
        },
    )


def placed(folder, *found):
    """Records as files, as cells."""
    return [Cell(one, one.save(folder / "results")) for one in found]


def artifacts(model="deit3-vitn_reg4", depth=3):
    """An artifact report: patches have norm 1, but for one in ten, which has 10; CLS 2, registers 3."""
    levels = [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0]
    blocks = {"patches": [1.0] * 5 + [10.0] * 2, "CLS": [2.0] * 7, "reg_0": [3.0] * 7}
    norms_by_block = {"levels": levels, **{kind: [values] * (depth + 1) for kind, values in blocks.items()}}
    finding = {"rule": "norm > 5", "shares": [0.0, 0.05, 0.1], "first": 2}
    protocol = {
        "verdict": "it has artifacts",
        "norms_by_block": norms_by_block,
        "norms_of_last_block": [1.0] * 90 + [10.0] * 10,
        "findings": {"cutoff": finding},
        "view": "whole",
    }
    return dataclasses.replace(record(model, "artifact_report", outlier_share=10.0), protocol=protocol)


class Read(HTMLParser):
    """Elements of a page with their attributes and texts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.scripts = [], [], []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        if name == "script":
            self.scripts.append((dict(attributes), ""))

    def handle_data(self, text):
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + text)
        else:
            self.texts.append(text)


# ---------------------------------------------------------------------------------------------------------- markup


@given(st.text(), st.text())
def test_texts_and_attributes_come_back_as_they_were(text, attribute):
    text, attribute = (one.replace("\r", "").replace("\0", "") for one in (text, attribute))  # HTML has none of them
    read = Read(tag("p", text, [tag("b", "x")], data_word=attribute, hidden=True, title=None))
    assert read.tags == [("p", {"data-word": attribute, "hidden": None}), ("b", {})]
    assert "".join(read.texts) == text + "x"


PLAIN = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_data_in_a_script_comes_back_and_cannot_end_it(value):
    text = script_data("cells", value)
    assert not set("<>&\u2028\u2029") & set(text.removeprefix('<script type="application/json" id="cells">')[:-9])
    ((attributes, content),) = Read(text).scripts
    assert attributes == {"type": "application/json", "id": "cells"}
    assert json.loads(content) == value


def test_what_json_has_not_becomes_null():
    content = Read(script_data("cells", [math.nan, {"a": math.inf}, (1.5,)])).scripts[0][1]
    assert json.loads(content) == [None, {"a": None}, [1.5]]


# ---------------------------------------------------------------------------------------------------------- charts


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_even_and_inside(low, span):
    found = chart.ticks(low, low + span)
    places = [place for place, _ in found]
    assert 2 <= len(found) <= 6
    assert all(low - 1e-6 * span <= place <= low + span * (1 + 1e-6) for place in places)
    assert all(float(label) == pytest.approx(place, abs=1e-3 * span) for place, label in found)
    steps = {round((b - a) / span, 6) for a, b in pairwise(places)}
    assert len(steps) == 1
    assert f"{places[1] - places[0]:.0e}"[0] in "125"


def test_logarithmic_ticks():
    assert chart.log_ticks(0.3, 30) == [(0.5, "0.5"), (1, "1"), (2, "2"), (5, "5"), (10, "10"), (20, "20")]
    assert [label for _, label in chart.log_ticks(0.9, 20000)] == ["1", "10", "100", "1000", "10000"]


def test_equal_ratios_are_equal_distances_on_a_logarithmic_axis():
    drawn = chart.Chart("", "", "", [(0.0, "0"), (1.0, "1")], (1.0, 100.0), log=True)
    assert drawn.y(1) - drawn.y(10) == pytest.approx(drawn.y(10) - drawn.y(100))
    assert drawn.y(1) > drawn.y(100)


def test_a_single_value_is_drawn_in_the_middle():
    drawn = chart.Chart("", "", "", [(4.0, "4")], (7.0, 7.0))
    assert drawn.y(7) == pytest.approx((chart.TOP + chart.HEIGHT - chart.BOTTOM) / 2)
    assert drawn.x(4) == pytest.approx((chart.LEFT + chart.WIDTH - chart.RIGHT) / 2)


def circles(svg):
    return [
        (float(c.get("cx")), float(c.get("cy")), c.find("title").text)
        for c in ElementTree.fromstring(svg).iter("circle")
    ]


def test_curves_put_every_mean_in_its_place(tmp_path):
    values = {0: 40.0, 1: 44.0, 4: 52.0}
    found = [
        record(f"deit3-vitn_reg{n}", seed=seed, top1=v + d) for n, v in values.items() for seed, d in ((0, -1), (1, 1))
    ]
    lonely = record("openclip-vitn_reg4", top1=10.0)
    cells = placed(tmp_path, *found, lonely)
    (figure,) = curves.curves(results.arrange(cells), cells)
    svg = re.search(r"<svg.*</svg>", figure)[0]
    points = circles(svg)
    assert [text for *_, text in points] == [f"deit3-vitn, {n} registers: {v}" for n, v in values.items()]
    (x0, y0, _), (x1, y1, _), (x4, y4, _) = points
    assert (y0 - y4) / (y0 - y1) == pytest.approx(12 / 4, rel=1e-3)  # means 40, 44, 52
    assert (x4 - x0) / (x1 - x0) == pytest.approx(math.log2(5), rel=1e-3)
    whiskers = [one for one in ElementTree.fromstring(svg).iter("line") if "c0" in one.get("class")]
    lengths = {round(float(one.get("y1")) - float(one.get("y2")), 1) for one in whiskers}
    expected = 2 * math.sqrt(2) * (y0 - y4) / 12  # two seeds, ±1: deviation √2
    assert lengths
    assert all(length == pytest.approx(expected, abs=0.1) for length in lengths)


def test_norms_are_drawn_at_their_quantiles(tmp_path):
    (cell,) = placed(tmp_path, artifacts())
    (row,), skipped = norms.pairs([cell])
    assert not skipped
    blocks, last = (ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", row))
    lines = {one.get("class"): one.get("points").split() for one in blocks.iter("polyline")}
    height = {style: float(points[0].split(",")[1]) for style, points in lines.items()}
    assert {len(points) for points in lines.values()} == {3}  # three blocks; what is after the final norm is left out
    # one above the other: median 1, CLS 2, registers 3, largest 10; logarithmic
    assert height["line c0"] > height["line c1"] > height["line c2"] > height["line c0 dashed"]
    ratio = (height["line c0"] - height["line c1"]) / (height["line c0"] - height["line c0 dashed"])
    assert ratio == pytest.approx(math.log10(2), abs=0.01)
    (bars,) = (one.get("points").split() for one in last.iter("polygon"))
    across, heights = zip(*(map(float, point.split(",")) for point in bars), strict=True)
    bottom = heights[0]  # half a quantile, 0.5 %
    many, few = sorted({height for height in heights if height < bottom})
    assert (bottom - many) / (bottom - few) == pytest.approx(math.log10(90 / 0.5) / math.log10(10 / 0.5), rel=0.01)
    humps = [statistics.fmean(x for x, y in zip(across, heights, strict=True) if y == top) for top in (many, few)]
    width = (chart.WIDTH - chart.LEFT - chart.RIGHT) / norms.BINS
    decade = (across[-1] - across[0]) / math.log10(10 * 1.1 / (1 * 0.9))
    assert humps[1] - humps[0] == pytest.approx(decade, abs=width)  # norms 1 and 10
    assert "10.00 %" in row
    assert "it has artifacts" in row


def test_a_report_that_cannot_be_drawn_is_named(tmp_path):
    broken = dataclasses.replace(artifacts(), protocol={**artifacts().protocol, "norms_by_block": {"levels": "many"}})
    cells = placed(tmp_path, broken, artifacts("deit3-vitn_reg0"))
    rows, skipped = norms.pairs(cells)
    assert len(rows) == 1
    assert re.fullmatch(r".*deit3-vitn_reg4/artifact_report\.seed0\.json: its norms cannot be drawn .*", *skipped)


# --------------------------------------------------------------------------------------------------------- results


def test_means_spreads_and_changes(tmp_path):
    runs = {("deit3-vitn_reg0", 0): 50.0, ("deit3-vitn_reg4", 0): 53.0, ("deit3-vitn_reg4", 1): 55.0}
    cells = placed(tmp_path, *(record(model, seed=seed, top1=value) for (model, seed), value in runs.items()))
    found = results.arrange(cells)
    (column,) = found.columns
    score = found.scores["deit3-vitn_reg4", column]
    assert (score.mean, score.deviation, score.twin) == (54.0, pytest.approx(math.sqrt(2)), 50.0)
    assert [cells[place].record.seed for place in score.cells] == [0, 1]
    shown = Read(results.overview(found, cells)).texts
    assert shown[-3:] == ["54.0", "± 1.4", "+4.0"]
    assert "± 1.4" not in shown[:-3]


def test_a_number_from_changed_code_is_marked(tmp_path):
    clean, changed = record("deit3-vitn_reg0"), record("deit3-vitn_reg4")
    changed = dataclasses.replace(changed, provenance={**changed.provenance, "dirty": True})
    cells = placed(tmp_path, clean, changed)
    marks = [facts.get("class") for name, facts in Read(results.overview(results.arrange(cells), cells)).tags
             if name == "button" and "data-cells" in facts]  # fmt: skip
    assert marks == [None, "dirty"]


def test_other_settings_are_another_column(tmp_path):
    other = dataclasses.replace(record("deit3-vitn_reg0"), settings={"k": 20})
    cells = placed(tmp_path, record("deit3-vitn_reg4"), other)
    found = results.arrange(cells)
    assert len(found.columns) == 2
    assert len(found.scores) == 2
    heads = [text for text in Read(results.overview(found, cells)).texts if text.startswith("imagenet_knn")]
    assert all(re.fullmatch(r"imagenet_knn @[0-9a-f]{6}", head) for head in heads)
    assert len(set(heads)) == 2


def test_models_stand_floors_first_then_by_registers(tmp_path):
    names = ["deit3-vitn_reg16", "deit3-vitn_reg4", "random-vitn_reg4", "deit3-vitb_reg0"]
    cells = placed(tmp_path, *map(record, names))
    floor = dataclasses.replace(record("deit3-vitn_reg8"), floors={"chance": {"top1": 6.25}})
    found = results.arrange(kept.load(tmp_path / "results", "mini")[0])
    assert found.models == ["random-vitn_reg4", "deit3-vitb_reg0", "deit3-vitn_reg4", "deit3-vitn_reg16"]
    assert len(cells) == 4
    assert results.arrange(placed(tmp_path, floor)).floors == ["chance (floor)"]


# -------------------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize("task", settings.names("tasks"))
@pytest.mark.parametrize("words", [[], ["device_batch=7", "precision=32-true"]])
def test_a_command_gives_the_settings_of_its_record(task, words):
    if task == "ade20k_ms":
        words = [*words, "decode_head={type: UPerHead, channels: 512, norm_cfg: {type: BN}}"]
    _, chosen = settings.load_settings("tasks", task, "mini", words)
    made = dataclasses.replace(record(task=task), settings=settings.resolved(chosen))
    make, evaluate, *given = shlex.split(commands.command(made))
    assert (make, evaluate) == ("make", "eval")
    values = dict(word.partition("=")[::2] for word in given)
    assert values["MODEL"] == "deit3-vitn_reg4"
    _, again = settings.load_settings(
        "tasks", values["TASK"], values.get("VARIANT", "mini"), shlex.split(values.get("ARGS", ""))
    )
    ours, theirs = (settings.resolved(one) for one in (again, chosen))
    assert {**ours, "device_batch": 0} == {**theirs, "device_batch": 0}  # it may be run with another


@pytest.mark.parametrize("name", [EVIL, "a b", "$(touch /tmp/x)", "`x`", "a;b", "a'b", "é"])
def test_a_name_that_a_shell_would_read_makes_no_command(name):
    for changed in ({"model": name}, {"data": "other", "data_root": name}, {"task": name}):
        made = commands.command(dataclasses.replace(record(), **changed))
        assert made.startswith("# no command: ")
        assert name not in made or changed.get("task") == name
    for evil in ({"view": name}, {name: 1}, {"view": {name: 1}}, {"view": [name]}):
        made = commands.command(dataclasses.replace(record(), settings=evil))
        assert made == "# no command: settings of this record cannot be given as words"


ODD = st.text(st.sampled_from("a0_-.@+/ \n\t;&|<>$`'\"\\(){}[]*?!#~^=:,%…"), max_size=12)


@given(
    ODD,
    ODD,
    st.recursive(ODD | st.integers() | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(ODD, inner)),
)
def test_whatever_a_record_says_its_command_is_one_line_without_a_shells_signs(name, key, value):
    for changed in ({"model": name}, {"weights": name}, {"data_root": name}, {"settings": {key: value}}):
        made = commands.command(dataclasses.replace(record(), **changed))
        assert "\n" not in made
        if not made.startswith("# no command: "):
            outside = re.sub(r'ARGS="[^"]*"', "", made)
            assert re.fullmatch(r"make eval [\w.@+/= …-]+ RESULTS=again", outside)
            for inside in re.findall(r'ARGS="([^"]*)"', made):
                assert re.fullmatch(r"[\w.@+/=' :,{}\[\]-]*", inside)
                assert all(word.count("=") for word in shlex.split(inside))


def test_commands_of_other_models():
    timm = record("vit_large_patch14_reg4_dinov2.lvd142m")
    assert " MODEL=timm/vit_large_patch14_reg4_dinov2.lvd142m " in commands.command(timm)
    assert commands.command(record("somebodys-weights")) == (
        "# no command: MODEL is the path of the weights' file, of which only the name is known"
    )
    assert " MODEL=random-vitn_reg4 " in commands.command(record("random-vitn_reg4"))


# -------------------------------------------------------------------------------------------------------- pictures


def test_a_picture_becomes_small_and_stays_itself(tmp_path):
    Image.new("RGB", (400, 200), (200, 30, 60)).save(tmp_path / "a.png")
    source, size = pictures.small(tmp_path / "a.png", 100)
    assert size == (100, 50)
    assert source.startswith("data:image/webp;base64,")


def test_pictures_of_a_family_stand_side_by_side(tmp_path):
    cells = placed(tmp_path, record("deit3-vitb_reg0"), record("deit3-vitn_reg0"), record("deit3-vitn_reg4"))
    for cell in cells:
        Image.new("RGB", (8, 8)).save(cell.file.with_suffix(".png"))
    (section,), skipped = pictures.gallery(cells, 100)
    rows = section.split('class="twins"')[1:]
    assert [re.findall(r'data-filter="([^"]*)"', row) for row in rows] == [
        ["deit3-vitb_reg0"],
        ["deit3-vitn_reg0", "deit3-vitn_reg4"],
    ]
    assert not skipped


@pytest.mark.parametrize("content", [b"", b"no picture", "torn"])
def test_an_unreadable_picture_is_named(tmp_path, content):
    (cell,) = placed(tmp_path, record())
    file = cell.file.with_suffix(".png")
    if content == "torn":
        Image.effect_noise((64, 64), 90).save(file)
        content = file.read_bytes()[:2000]
    file.write_bytes(content)
    sections, (line,) = pictures.gallery([cell], 100)
    assert not sections
    assert line.startswith(f"{file}: unreadable picture")


# ------------------------------------------------------------------------------------------------------ whole pages


def written(folder, **options):
    report.main(report.ReportOptions("mini", results=str(folder / "results"), runs=str(folder / "runs"), **options), [])
    return (folder / "results" / "mini" / "report.html").read_text(encoding="utf-8")


def test_a_page_is_the_same_when_it_is_made_again_and_asks_nobody(tmp_path):
    placed(tmp_path, record("deit3-vitn_reg0"), record(), artifacts())
    text = written(tmp_path)
    assert text == written(tmp_path)
    for name, attributes in Read(text).tags:
        assert name not in ("link", "iframe", "object", "embed", "base", "form")
        assert not {"srcset", "action", "style"} & attributes.keys()
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:").startswith("data:")
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp|innerHTML|eval\(|\bimport\b", text.partition("<main>")[0])
    script = Read(text).scripts[-1][1]
    assert not re.search(r"fetch\(|XMLHttp|innerHTML|outerHTML|insertAdjacent|eval\(|document\.write", script)


def test_a_page_of_the_kept_results_shows_their_numbers(tmp_path):
    cells, skipped = kept.load(KEPT, "mini")
    text, skipped = report.page(cells, skipped, "mini", tmp_path, width=60)
    assert not skipped
    shown = Read(text)
    for cell in cells:
        for name, facts in cell.record.columns.items():
            assert f"{cell.record.metrics[name]:.{facts['decimals']}f}" in shown.texts
    facts = json.loads(shown.scripts[0][1])
    assert [one["record"] for one in facts] == [json.loads(cell.file.read_text(encoding="utf-8")) for cell in cells]


def hostile(long=1):
    """Records in which every text is hostile, names included."""
    name = EVIL.replace("/", "∕") * long  # a slash would make folders
    values = {EVIL: EVIL, "nested": [{EVIL: [EVIL]}], "__proto__": EVIL}
    evil = record(name, task=name, **{EVIL: 1.0})
    return dataclasses.replace(
        evil,
        columns={EVIL: {"better": -1, "unit": EVIL, "decimals": 1}},
        intervals={EVIL: [EVIL, EVIL]},
        per_class=values,
        floors={EVIL: {EVIL: 0.5}},
        images=EVIL,
        protocol=values,
        footnote=[EVIL],
        settings=values,
        layout=values,
        backbone=values,
        weights=EVIL,
        data_root=EVIL,
        provenance=dict.fromkeys(("commit", "date", "device", "seconds", "versions", EVIL), EVIL) | {"dirty": EVIL},
    )


def hostile_artifacts():
    report = artifacts(hostile().model)
    finding = {"rule": EVIL, "shares": [0.1, 0.1], "first": EVIL}
    protocol = {**report.protocol, "verdict": EVIL, "findings": {EVIL: finding}}
    return dataclasses.replace(report, protocol=protocol)


@pytest.mark.parametrize("long", [1, 100])
def test_nothing_that_a_record_says_becomes_markup(tmp_path, long):
    cells = [
        Cell(one, tmp_path / "x.json") for one in (hostile(long), hostile_artifacts(), record(EVIL), artifacts(EVIL))
    ]
    text, _ = report.page(cells, [EVIL], EVIL, tmp_path)
    read = Read(text)
    assert [attributes.get("type") for attributes, _ in read.scripts] == ["application/json", None]
    assert read.scripts[1][1] == (report.PARTS / "page.js").read_text(encoding="utf-8")
    assert not [name for name, attributes in read.tags for key in attributes if key.startswith("on")]
    assert "img" not in {name for name, _ in read.tags}
    assert read.texts.count(EVIL) > 10
    assert json.loads(read.scripts[0][1])[2]["record"]["model"] == EVIL


def test_files_that_are_no_records_are_named_and_left(tmp_path, capsys):
    (cell,) = placed(tmp_path, record())
    folder = cell.file.parent
    values = json.loads(cell.file.read_text())
    wrong = {
        "torn": '{"model": "de',
        "foreign": '{"hello": 1}',
        "words": json.dumps({**values, "metrics": {"top1": "<b>best</b>"}}),
        "nan": json.dumps({**values, "metrics": {"top1": math.nan}}),
        "huge": json.dumps({**values, "metrics": {"top1": 10**400}}),
        "lists": json.dumps({**values, "settings": []}),
        "columns": json.dumps({**values, "columns": {"top1": {"better": 1}}}),
        "other": json.dumps({**values, "data": "full"}),
        "moved": json.dumps({**values, "seed": 7}),
    }
    for name, text in wrong.items():
        (folder / f"{name}.json").write_text(text)
    text = written(tmp_path)
    printed = capsys.readouterr().out
    for name, content in wrong.items():
        assert f"left out: {folder / name}.json: " in printed
        assert f"{folder / name}.json: " in "".join(Read(text).texts)
        assert (folder / f"{name}.json").read_text() == content
    assert "belongs to" in printed
    assert "9 files are left out" in text
    assert len(json.loads(Read(text).scripts[0][1])) == 1


def test_nothing_to_show_is_told(tmp_path):
    with pytest.raises(UserError, match=r"no record in .*results/mini/cells; make some with: make eval DATA=mini"):
        written(tmp_path)
    with pytest.raises(UserError, match="width=0: must be at least 1"):
        report.ReportOptions(width=0)


def test_a_full_disk_leaves_the_old_page(tmp_path, monkeypatch):
    placed(tmp_path, record())
    before = written(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"cannot write .*report\.html: No space left on device"):
        written(tmp_path)
    assert (tmp_path / "results/mini/report.html").read_text() == before


def test_logs_that_are_here_are_named(tmp_path):
    head = tmp_path / "mini" / "deit3-vitn_reg4" / "seed0" / "imagenet_knn" / "log"
    assert kept.logs(record(), tmp_path) == f"{head} (not here)"
    head.mkdir(parents=True)
    assert kept.logs(record(), tmp_path) == str(head)
    assert isinstance(tag("p"), Html)
