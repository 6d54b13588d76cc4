"""Where a model is better: planted differences are found where they are planted, and nothing is found by chance."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.tables import columns, summary, where, where_formats
from benchmarks.tables.formats import Origin
from benchmarks.tables.scored_records import ScoredRecords
from regvit_lightning import statistics
from regvit_lightning.data.annotated import Annotated, Property
from tests.by_hand import cell

CLASSES = [f"class_{index}" for index in range(8)]
EACH = 40  # images of a class
IMAGES = EACH * len(CLASSES)
LABELS = np.repeat(np.arange(len(CLASSES)), EACH)
SIZES = np.tile(np.arange(EACH), len(CLASSES)).astype(float)  # of the object, the same in every class


def known(**more):
    size = Property("object size", "%", "by hand", SIZES.tolist())
    facts = {"digests": {"rendered": "aa"}, "properties": [size], **more}
    return {"imagenet": Annotated("imagenet", labels=[[int(label)] for label in LABELS], classes=CLASSES, **facts)}


def right(share, seed, generator=None):
    """Per-image scores, right with probability `share` (N,)."""
    generator = generator or np.random.default_rng(seed)
    return 100.0 * (generator.random(IMAGES) < share)


def cells(model, share, seeds=(0, 1, 2, 3), **more):
    facts = {"images": IMAGES, "digests": {"rendered": "aa"}, **more}
    return [cell(model, seed=seed, per_image=right(share, 100 * int(model[-1]) + seed), **facts) for seed in seeds]


def pairs_of(first, second, about=None):
    answers = summary.answers(columns.overview([*first, *second]))
    return where.pairs(answers, known() if about is None else about)


def planted(mask, seeds=(0, 1, 2, 3)):
    """A model that is right half of the time, and its twin that is nearly always right on the images of a mask."""
    share = np.where(mask, 0.98, 0.5)
    return pairs_of(cells("a-vitn_reg0", 0.5, seeds), cells("a-vitn_reg4", share, seeds))


def test_a_class_that_is_better_is_found_and_no_other():
    (pair,) = planted(LABELS == 3)
    assert [(line.kind, line.name, line.verdict) for line in pair.lines if line.found] == [
        ("class", "class_3", "better")
    ]
    (line,) = (line for line in pair.lines if line.found)
    assert line.images == EACH
    assert line.change.value == pytest.approx(48, abs=8)
    assert line.change.interval[0] > 0
    assert line.p < 0.05
    assert where_formats.headline(pair).startswith(f"Better on 1 and worse on 0 of {pair.tested} ")


def test_a_size_that_is_better_is_found_in_its_bin_and_no_other():
    (pair,) = planted(SIZES >= 26)
    sizes = {line.name: line.verdict for line in pair.lines if line.kind == "object size"}
    assert sizes == {"below 13 %": "unclear", "13 to 26 %": "unclear", "from 26 %": "better"}


def test_a_worse_side_is_worse_and_lower_metrics_turn_the_verdict():
    share = np.where(LABELS == 3, 0.02, 0.5)
    lower = {"columns": {"top1": {"better": -1, "unit": "%", "decimals": 1}}}
    for more, verdict in (({}, "worse"), (lower, "better")):
        (pair,) = pairs_of(cells("a-vitn_reg0", 0.5, **more), cells("a-vitn_reg4", share, **more))
        assert [line.verdict for line in pair.lines if line.found] == [verdict]


def test_one_seed_says_so():
    (pair,) = planted(LABELS == 3, seeds=(0,))
    assert {line.verdict for line in pair.lines if line.found} == {"better beyond image noise, one seed"}
    assert any("one seed" in note for note in where_formats.notes([pair], "mini"))


def test_equal_models_differ_nowhere_in_95_percent_of_the_cases():
    """Seeds differ by training as a whole, class by class and by image: three levels of noise, no difference."""
    alarms, draws, about = 0, 60, known()
    for draw in range(draws):
        generator = np.random.default_rng(draw)
        sides = [
            [cell("a", seed=seed, per_image=_training(generator), digests={"rendered": "aa"}) for seed in range(3)]
            for _ in range(2)
        ]
        column = columns.column_of(sides[0][0].record, "top1")
        pair = where.pair("a", ("first", "second"), [where.Side("knn", column, *sides)], about)
        assert pair.tested == len(CLASSES) + 3
        alarms += any(line.found for line in pair.lines)
    assert alarms / draws <= 0.1  # 5 % ± 2 standard errors of a share of 60


def _training(generator):
    share = 0.6 + 0.03 * generator.standard_normal() + 0.06 * generator.standard_normal(len(CLASSES))[LABELS]
    return 100.0 * (generator.random(IMAGES) < share)


def test_all_classes_and_bins_of_a_pair_are_corrected_together():
    (pair,) = planted(LABELS == 3)
    tested = [line for line in pair.lines if line.p is not None]
    assert len(tested) == len(CLASSES) + 3
    smallest = min(tested, key=lambda line: line.change.p)
    assert smallest.p == pytest.approx(len(tested) * smallest.change.p)


def test_the_interval_is_that_of_a_paired_bootstrap_over_images():
    """One seed a side: resampling images together on both sides gives the same interval."""
    (pair,) = planted(LABELS == 3, seeds=(0,))
    line = next(line for line in pair.lines if line.name == "from 26 %")
    first, second = right(0.5, 0), right(np.where(LABELS == 3, 0.98, 0.5), 400)
    images = np.flatnonzero(SIZES >= 26)
    generator = np.random.default_rng(0)
    drawn = [(second - first)[generator.choice(images, len(images))].mean() for _ in range(4000)]
    assert line.change.interval == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=1.0)


def test_a_class_of_a_segmentation_is_compared_by_its_iou():
    """Two classes; on the second the twin's intersection is twice as large. IoU by hand: 10/30 and 20/20."""

    def areas(both, seed):
        noise = np.random.default_rng(seed).integers(-1, 2, (20, 2))
        first = np.stack([10 + noise[:, 0], 20 + 0 * noise[:, 0], 20 + 0 * noise[:, 0]], axis=1)
        second = np.stack([both + noise[:, 1], 20 + 0 * noise[:, 1], 20 + 0 * noise[:, 1]], axis=1)
        return np.stack([first, second], axis=2).astype(float)

    def record(model, both, seed):
        facts = {"task": "ade20k_linear", "columns": {"miou": {"better": 1, "unit": "%", "decimals": 1}}}
        facts |= {
            "metrics": {"miou": 50.0},
            "per_class": {"sky": 1.0, "sea": 1.0},
            "layout": {"images": [], "masks": []},
        }
        made = cell(model, seed=seed, images=20, intervals={}, **facts)
        return replace(made, scores={"miou": areas(both, 10 * both + seed)})

    sides = [[record(f"a-vitn_reg{n}", both, seed) for seed in range(4)] for n, both in ((0, 10), (4, 19))]
    (pair,) = pairs_of(*sides, about={})
    sky, sea = pair.lines
    assert (sky.name, sky.verdict, sea.name, sea.verdict, sea.images) == ("sky", "unclear", "sea", "better", 20)
    assert (sea.first, sea.second) == (pytest.approx(100 / 3, abs=1), pytest.approx(1900 / 21, abs=2))
    assert sea.change.value == pytest.approx(sea.second - sea.first)
    assert pair.parts[0].why_not == "nothing is known of the images of segmentation"
    other = replace(pair.parts[0], why_not="nothing is known of the images of depth")
    whole = replace(pair, parts=[*pair.parts, other, replace(other, why_not="its scores are not of images")])
    told = ["nothing is known of the images of segmentation, depth", "its scores are not of images"]
    assert where.reasons([whole, pair]) == told


def test_a_class_of_a_clustering_has_the_mean_iou_of_its_runs():
    """Intersections of 10 and, in the twin, of 10 in one run and 20 in the other, of 20 pixels each."""

    def record(model, intersections):
        noise = np.random.default_rng(len(model)).integers(-1, 1, 20)
        runs = [np.stack([one + noise, np.full(20, 20), np.full(20, 20)], axis=1) for one in intersections]
        columns = {"miou": {"better": 1, "unit": "%", "decimals": 1}}
        facts = {
            "task": "overclustering_ade20k",
            "columns": columns,
            "metrics": {"miou": 50.0},
            "per_class": {"sky": 1.0},
        }
        made = cell(model, images=20, intervals={}, layout={"images": [], "masks": []}, **facts)
        return replace(made, scores={"miou": np.stack(runs, axis=1)[..., None].astype(float)})

    (pair,) = pairs_of([record("a-vitn_reg0", (10, 10))], [record("a-vitn_reg4", (10, 20))], about={})
    (sky,) = pair.lines
    assert (sky.name, sky.images, sky.verdict) == ("sky", 20, "better beyond image noise, one seed")
    assert (sky.first, sky.second) == (pytest.approx(100 / 3, abs=4), pytest.approx((100 / 3 + 100) / 2, abs=4))
    low, high = sky.change.interval
    assert low < sky.second - sky.first < high


def test_pseudo_values_of_an_iou_are_those_of_the_jackknife():
    areas = np.random.default_rng(0).integers(1, 50, (12, 3)).astype(float)
    areas[:, 0] = np.minimum(areas[:, 0], areas[:, 1:].min(axis=1))

    def iou(some):
        both, predicted, labelled = some.sum(axis=0)
        return 100 * both / (predicted + labelled - both)

    by_hand = [12 * iou(areas) - 11 * iou(np.delete(areas, index, axis=0)) for index in range(12)]
    assert where.pseudo_ious(areas) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("values", "unit", "groups"),
    [
        ([1, 2, 2, 3, None], "", {"1": [0], "2": [1, 2], "3": [3]}),
        (["b", "a", None, "b"], "", {"a": [1], "b": [0, 3]}),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], " m", {"below 3 m": [0, 1], "3 to 5 m": [2, 3], "from 5 m": [4, 5, 6]}),
        ([1.0, 2.0, 3.0, 4.0, 5.0, *[7.0] * 20], "", {"below 7": [0, 1, 2, 3, 4], "from 7": list(range(5, 25))}),
        ([None, None], "", {}),
    ],
)  # fmt: skip
def test_bins_are_kinds_few_values_or_thirds(values, unit, groups):
    found = list(where.bins(Property("x", unit.strip(), "", values)))
    assert {group.name: group.images.tolist() for group in found} == groups


def test_few_images_are_not_tested():
    labels = [[int(label)] for label in np.where(np.arange(IMAGES) < 9, 0, 1)]
    about = {"imagenet": Annotated("imagenet", {"rendered": "aa"}, labels, ["rare", "common"])}
    share = np.where(np.arange(IMAGES) < 9, 1.0, 0.5)
    (pair,) = pairs_of(cells("a-vitn_reg0", 0.5), cells("a-vitn_reg4", share), about)
    rare, _ = pair.lines
    assert (rare.name, rare.images, rare.verdict) == ("rare", 9, "not tested")


def test_annotations_of_other_images_are_not_used():
    sides = cells("a-vitn_reg0", 0.5), cells("a-vitn_reg4", 0.5)
    (other,) = pairs_of(*sides, about=known(digests={"rendered": "bb"}))
    fewer = known()["imagenet"]
    fewer = replace(fewer, labels=fewer.labels[1:], properties=[])
    (short,) = pairs_of(*sides, about={"imagenet": fewer})
    for pair, why in ((other, "of other images than these records"), (short, "of another number of images")):
        assert not pair.lines
        assert why in pair.parts[0].why_not
        assert "make annotate DATA=mini" in where_formats.notes([pair], "mini")[-1]


def formatted(pairs):
    return where_formats.formats(pairs, Origin("mini", ScoredRecords("results", [], []), "make tables"))


def test_every_format_says_the_same():
    pairs = planted(LABELS == 3)
    texts = formatted(pairs)
    (line,) = (line for line in pairs[0].lines if line.found)
    shown = f"{line.change.value:+.1f}"
    assert "top-1 % ↑: class class_3" in texts["md"]
    assert "**better**" in texts["md"]
    assert shown in texts["md"]
    assert r"\textbf{better}" in texts["tex"]
    assert shown in texts["tex"]
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    (found,) = (row for row in rows if row["verdict"] == "better")
    assert (found["kind"], found["images with"], found["images"], found["seeds first"]) == (
        "class",
        "class_3",
        "40",
        "4",
    )
    assert float(found["difference"]) == pytest.approx(line.change.value, abs=1e-4)
    printed = where_formats.lines(pairs, "mini")
    assert printed[0].startswith("a-vitn: 4 registers against none: Better on 1 ")
    assert "class class_3" in printed[1]


def test_a_chart_shows_sign_and_interval():
    (pair,) = planted(LABELS == 3)
    part = pair.parts[0]
    line = next(line for line in part.lines if line.found)
    drawn = where_formats.bar(line, where_formats.reach(part))
    assert len(drawn) == where_formats.BAR
    assert drawn[where_formats.BAR // 2] == "│"
    assert drawn.index("●") == 18
    cut = where_formats.bar(replace(line, change=statistics.Comparison(-5.0, (-90.0, 80.0))), 10.0)
    assert cut[0] == "‹"
    assert cut[-1] == "›"


def test_of_many_classes_the_ends_and_the_differences_are_shown():
    many = [f"class_{index}" for index in range(32)]
    labels = np.arange(IMAGES) % 32
    about = {"imagenet": Annotated("imagenet", {"rendered": "aa"}, [[int(label)] for label in labels], many)}
    (pair,) = pairs_of(cells("a-vitn_reg0", 0.5), cells("a-vitn_reg4", np.where(labels == 3, 1.0, 0.5)), about)
    part = pair.parts[0]
    kept = where_formats.chosen(part)
    assert len(kept) == 10
    assert "class_3" in [line.name for line in kept]
    assert where_formats.left_out(part) == "22 further classes, unclear or not tested, are in the CSV."
    assert "class_9," in formatted([pair])["csv"]
