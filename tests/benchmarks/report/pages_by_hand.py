"""Records, hostile ones among them, from which the tests of the report make their pages, and readers of its markup."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.report import __main__ as report
from benchmarks.tables.columns import key
from benchmarks.tables.scored_records import ScoredRecord, ScoredRecords
from regvit_lightning.records import Record

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


def saved(folder, *records):
    """Records as files, as cells."""
    return [ScoredRecord(one, {}, one.save(folder / "results")) for one in records]


def page(cells, skipped=(), data="mini", runs=Path("runs"), **options):
    """The whole page of some cells, parsed, and its text."""
    text, _ = report.page(ScoredRecords("results", list(cells), list(skipped)), data, runs, **options)
    return Read(text), text


def numbered(cells):
    """Index of each record in a list."""
    return {key(cell.record): index for index, cell in enumerate(cells)}


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
        "single_tokens": {},
        "position": {},
        "pixels": {},
        "pixel_scale": "0..255",
        "cost": [],
    }
    whole = record(model, "artifact_report", outlier_share=10.0)
    return dataclasses.replace(whole, protocol=protocol, settings={"rule": "cutoff"})


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
        elif text.strip():  # not what lies between elements
            self.texts.append(text)


def hostile(long=1):
    """A record in which every text is hostile, names included, and which is still a record."""
    name = EVIL.replace("/", "∕") * long  # a slash would make folders
    values = {EVIL: EVIL, "nested": [{EVIL: [EVIL]}], "__proto__": EVIL}
    evil = record(name, task=name, **{EVIL: 1.0})
    return dataclasses.replace(
        evil,
        columns={EVIL: {"better": -1, "unit": EVIL, "decimals": 1}},
        intervals={EVIL: [0.5, 1.5]},
        per_class=values,
        floors={EVIL: {EVIL: 0.5}},
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


def svg(shapes):
    return ElementTree.fromstring(f"<svg>{shapes}</svg>")


def numbers(path):
    return [float(number) for number in re.findall(r"-?[\d.]+", path)]


def paths(shapes, style):
    """Coordinates of all paths of a class, x and y in turn."""
    return [numbers(path.get("d")) for path in svg(shapes).iter("path") if path.get("class") == style]
