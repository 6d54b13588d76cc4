"""The table of robustness: a row for each head, a column for each set, its own scores and intervals, timm's numbers."""

from benchmarks.tables import published, robustness_table
from regvit_lightning import settings
from tests.by_hand import cell, record

TIMM = "timm-deit3_base_patch16_224.fb_in1k"


def of(task, model, top1, **more):
    chosen = settings.resolved(settings.load_settings("tasks", task)[1])
    protocol = {"head": "x", "view": "y", "candidates": "z"}
    return cell(model, task, settings=chosen, protocol=protocol, footnote=[], top1=top1, data="full", **more)


def test_heads_are_rows_and_sets_are_columns():
    both = {"metrics": {"top1": 40.0, "top1_registers": 43.0}, "floors": {"chance": {"top1": 0.5}}}
    ends = {"intervals": {"top1": [39.0, 41.0], "top1_registers": [42.0, 44.5]}}
    cells = [
        of("robustness_imagenet_a", "deit3-vitb_reg4", 40.0, images=7500, **both, **ends),
        of("own_head_imagenet_a", TIMM, 38.9, images=7500),
        of("robustness_imagenet_val", "deit3-vitb_reg4", 83.0, images=50000),
        cell("deit3-vitb_reg4", "imagenet_knn"),
    ]
    (table,) = robustness_table.build(cells, published.read_published())
    assert table.titles() == ["ImageNet", "A"]
    assert [(row.model, row.part) for row in table.rows] == [
        ("chance", ""),
        ("deit3-vitb_reg4", "linear"),
        ("deit3-vitb_reg4", "CLS + registers"),
        (TIMM, "own head"),
    ]
    on_a = {row.part: table.scores[row, table.columns[1]] for row in table.rows}
    assert {part: score.values for part, score in on_a.items()} == {
        "": (0.5,),
        "linear": (40.0,),
        "CLS + registers": (43.0,),
        "own head": (38.9,),
    }
    assert (on_a["linear"].interval, on_a["CLS + registers"].interval) == ((39.0, 41.0), (42.0, 44.5))
    assert on_a["own head"].published.value == 38.92
    assert on_a["linear"].published is None


def test_no_record_no_table():
    assert not list(robustness_table.build([cell("deit3-vitb_reg4", "imagenet_knn")]))


def test_timms_numbers_stand_beside_its_own_view_of_all_images_alone():
    entries = [one for one in published.read_published() if one.protocol.task.startswith("own_head_")]
    assert len(entries) == 9 * 6
    chosen = settings.resolved(settings.load_settings("tasks", "own_head_imagenet_real")[1])
    measured = record(TIMM, "own_head_imagenet_real", data="full", images=46837, settings=chosen)
    found = published.beside(entries, TIMM, "own head", "top1", measured)
    assert (found.value, found.protocol.name) == (88.26, "own_real")
    fewer = record(TIMM, "own_head_imagenet_real", data="full", images=400, settings=chosen)
    assert published.beside(entries, TIMM, "own head", "top1", fewer) is None
