"""Registers as objects: planted attention gives the planted boxes, and the choice never sees the scored images."""

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.grid import cells
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.errors import UserError
from regvit_lightning.models.tokens import PrefixAttention
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks.discovery import attention_boxes, lost_sweep, register_discovery
from tests.data.test_voc import write_voc
from tests.models.test_backbones import MODELS, tiny
from tests.models.test_backbones import images as batch_of
from tests.tasks.discovery.test_lost import PATCH, mini_settings, nano

TASK = "register_discovery_voc07"
WIDE, HIGH = 10 * PATCH, 8 * PATCH
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
RED, GREEN, BLUE = (1, 1, 4, 4), (5, 1, 9, 3), (2, 5, 8, 8)  # boxes in patches


class Seeing:
    """Replaces the attention of a nano model: its registers attend to patches of a colour, by block.

    In block b register r attends to colour (r + b) modulo 4 of red, green, blue and none, which is a uniform map. The
    three heads of CLS attend to red, green and blue in every block.
    """

    def __init__(self, backbone):
        self.backbone, self.blocks = backbone, []

    def __call__(self, images, blocks=(-1,)):
        self.blocks.append(list(blocks))
        mean, std = (torch.tensor(part)[:, None, None] for part in (self.backbone.mean, self.backbone.std))
        pixels = images * std + mean
        patches = torch.nn.functional.avg_pool2d(pixels, PATCH).round()  # (B, 3, h, w) of 0 and 1
        colours = patches * (patches.sum(dim=1, keepdim=True) == 1) + 1e-6
        maps = torch.cat([colours, torch.ones_like(colours[:, :1])], dim=1)
        maps = maps / maps.sum(dim=(2, 3), keepdim=True)
        found = []
        for block in blocks:
            registers = maps[:, [(register + block) % 4 for register in range(4)]]
            found.append(PrefixAttention(maps[:, :3], registers[:, None].expand(-1, 3, -1, -1, -1)))
        return found


def seeing(monkeypatch):
    backbone = nano()
    seen = Seeing(backbone)
    monkeypatch.setattr(backbone, "prefix_attention", seen)
    return backbone, seen


def pixels(box):
    return tuple(PATCH * side for side in box)


def write(root, truths):
    """Images of three coloured rectangles; `truths` are the boxes in patches that are called objects."""
    boxes = [[(x1 + 1, y1 + 1, x2, y2) for x1, y1, x2, y2 in map(pixels, own)] for own in truths]
    named = {f"{n:02d}": ((WIDE, HIGH), own) for n, own in enumerate(boxes)}
    folder = write_voc(root / "VOCdevkit" / "VOC2007", named)
    picture = Image.new("RGB", (WIDE, HIGH), (255, 255, 255))
    for colour, box in zip(COLOURS.values(), (RED, GREEN, BLUE), strict=True):
        picture.paste(colour, pixels(box))
    for name in named:
        picture.save(folder / "JPEGImages" / f"{name}.jpg", format="PNG")
    return DataSettings(name="planted", root=str(root))


def run(backbone, data, *words):
    return register_discovery.run(backbone, data, mini_settings(*words, task=TASK))


def test_planted_maps_give_the_planted_boxes(tmp_path, monkeypatch):
    backbone, seen = seeing(monkeypatch)
    found = run(backbone, write(tmp_path, [[GREEN]] * 10), "blocks=[0]")
    assert (found.protocol["block"], found.protocol["register"]) == (0, 1)  # green
    assert found.metrics["corloc"] == 100
    assert found.metrics["pointing"] == 100
    assert found.metrics["recall_registers"] == 100
    assert found.metrics["corloc_any_register"] == 100
    assert found.images == 8
    assert found.intervals["corloc"][1] == 100
    # Of three heads one is right; R = 4 of three are all of them.
    assert found.metrics["corloc_any_cls_head"] == 100
    assert found.protocol["uniform_map_share"] == 0
    # The choice is made in the blocks given, and both passes are over images of their own.
    assert seen.blocks[0] == [0]


def test_the_choice_is_that_of_the_held_out_images_although_another_is_best_on_the_rest(tmp_path, monkeypatch):
    backbone, _ = seeing(monkeypatch)
    held, rest = lost_sweep.split(12, 0.34, seed=0)
    data = write(tmp_path, [[RED] if index in held else [BLUE] for index in range(12)])
    found = run(backbone, data, "held_out=0.34", "blocks=[0,1]")
    assert (found.protocol["block"], found.protocol["register"]) == (0, 0)
    assert found.protocol["equally_good"] == 2  # register 3 of block 1 attends to red as well
    assert found.protocol["corloc_held_out"] == [[100, 0, 0, 0], [0, 0, 0, 100]]
    assert found.metrics["corloc"] == 0
    assert found.metrics["pointing"] == 0
    assert found.metrics["corloc_any_register"] == 100  # any-of-R is a gain by itself
    assert found.scores["corloc"].isnan().nonzero().flatten().tolist() == held
    assert found.images == len(rest)
    assert "one of 8 is chosen on 4 held-out images" in found.protocol["caveat"]


def test_recall_counts_objects_and_any_of_counts_images(tmp_path, monkeypatch):
    backbone, _ = seeing(monkeypatch)
    corner = (9, 7, 10, 8)  # an object that no map shows
    found = run(backbone, write(tmp_path, [[RED, BLUE, corner]] * 10), "blocks=[1]")
    assert found.metrics["recall_registers"] == pytest.approx(100 * 2 / 3)
    assert found.metrics["recall_cls_heads"] == pytest.approx(100 * 2 / 3)
    assert found.metrics["corloc"] == 100
    low, high = found.intervals["recall_registers"]
    assert low == pytest.approx(high) == pytest.approx(100 * 2 / 3)


def test_random_boxes_by_counting(tmp_path, monkeypatch):
    backbone, _ = seeing(monkeypatch)
    whole, draws, draw = (0, 0, 10, 8), [], attention_boxes.random_boxes
    monkeypatch.setattr(attention_boxes, "random_boxes", lambda *how: draws.append(how) or draw(*how))
    found = run(backbone, write(tmp_path, [[whole]] * 10), "blocks=[0]", "random_boxes=20000")
    assert len(draws) == 1, "scores and floors are of the same boxes"
    # A box between two points has IoU w h with the whole image, w and h with density 2 (1 - x) each: P(w h >= 1/2).
    x = np.linspace(0.5, 1, 200_001)
    share = np.trapezoid(2 * (1 - x) * (1 - 0.5 / x) ** 2, x)
    assert found.floors["one random box"]["corloc"] == pytest.approx(100 * share, abs=0.4)
    assert found.metrics["corloc_any_random"] == pytest.approx(100 * (1 - (1 - share) ** 4), abs=1.5)
    assert found.metrics["recall_random"] == pytest.approx(found.metrics["corloc_any_random"])
    assert found.floors["whole image"]["corloc"] == 100


def test_uniform_maps_are_counted_and_warned_of(tmp_path, monkeypatch):
    backbone, _ = seeing(monkeypatch)
    found = run(backbone, write(tmp_path, [[(0, 0, 10, 8)]] * 10), "blocks=[0]")
    assert found.protocol["register"] == 3  # the whole image
    assert found.protocol["uniform_map_share"] == 1
    assert found.remarks[0].startswith("in 8 of 8 images the register attends to all patches alike")


def test_a_model_without_registers_is_refused_and_left_out_of_grids(tmp_path):
    data = write(tmp_path, [[RED]] * 10)
    with pytest.raises(UserError, match="random-vitn_reg0: has no registers, and this task scores their attention"):
        run(nano("random-vitn_reg0"), data)
    with pytest.raises(SettingsError, match="block=7: random-vitn_reg4 has 4"):
        run(nano(), data, "blocks=[7]")
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"models: [random-vitn_reg0, random-vitn_reg4]\ntasks: [{TASK}]\nseeds: [0]\n")
    (cell,) = cells.build(cells.Chosen(grid=str(grid)), images_needed=False).cells
    assert cell.model == "random-vitn_reg4"


def test_a_real_model_runs_with_all_blocks(tmp_path):
    found = run(nano(), write(tmp_path, [[RED], [GREEN, BLUE]] * 6))
    assert len(found.protocol["corloc_held_out"]) == 4
    assert list(found.metrics) == list(register_discovery.METRICS)
    assert found.metrics["corloc"] <= found.metrics["corloc_any_register"]
    assert found.picture is not None


@pytest.mark.parametrize("family", MODELS)
@torch.inference_mode()
def test_the_attention_of_the_prefix_is_that_of_the_whole_matrix(family):
    backbone = tiny(family)
    x = batch_of(backbone.image_size)
    whole = backbone.last_block(x).attention
    first, last, again = backbone.prefix_attention(x, [0, -1, -1])
    torch.testing.assert_close(last.registers, whole.registers)
    if whole.cls is not None:
        torch.testing.assert_close(last.cls, whole.cls)
    assert torch.equal(again.registers, last.registers)
    inside = backbone.inside(x, [0])[0].attention
    torch.testing.assert_close(first.registers, inside.registers)


def test_weights_that_may_be_negative_are_no_maps():
    backbone = nano("random-vitn_diff_reg4")
    with pytest.raises(UserError, match="may be negative"):
        backbone.prefix_attention(torch.randn(1, 3, 64, 64))


def test_a_point_in_no_box_is_not_inside():
    boxes = torch.tensor([[0.0, 0, 2, 2], [4, 4, 6, 6]])
    points = torch.tensor([[1.0, 1], [2, 1], [5, 4], [3, 3]])  # ends are excluded
    assert register_discovery._inside(points, boxes).tolist() == [True, False, True, False]
    assert not register_discovery._inside(points, boxes[:0]).any()
