"""Saliency on planted attention and planted features, what is chosen on what, and its outcome."""

import numpy as np
import pytest
import torch
from PIL import Image

from regvit_lightning import evaluation, settings
from regvit_lightning.data.image_sets import SalientSet
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import sources
from regvit_lightning.models.tokens import PrefixAttention
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks.discovery import lost_sweep, saliency
from regvit_lightning.tasks.discovery.saliency import choose, floors
from tests.tasks.discovery.test_lost import PATCH, nano

SIDE = 8  # patches
COUNT = 10


def write(root, boxes):
    """White rectangles (in patches) on black, and their masks."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(exist_ok=True)
    for number, (left, top, right, bottom) in enumerate(boxes):
        mask = np.zeros((SIDE * PATCH, SIDE * PATCH), np.uint8)
        mask[top * PATCH : bottom * PATCH, left * PATCH : right * PATCH] = 255
        for folder in ("images", "masks"):
            Image.fromarray(mask).convert("RGB").save(root / folder / f"{number}.png")
    return DataSettings(name="planted", root=str(root), salient={"planted": SalientSet("images", "masks")})


class Seeing:
    """Attention of a nano model: register 2 sees white patches in block 1, CLS does in block 2; all else is uniform."""

    def __init__(self, backbone):
        self.backbone, self.calls = backbone, []

    def __call__(self, images, blocks=(-1,)):
        self.calls.append((len(images), list(blocks)))
        mean, std = (torch.tensor(part)[:, None, None] for part in (self.backbone.mean, self.backbone.std))
        white = torch.nn.functional.avg_pool2d((images * std + mean)[:, :1], PATCH)[:, 0].round() + 1e-4
        uniform = torch.ones_like(white)
        rows = []
        for block in blocks:
            registers = torch.stack([white if (block, r) == (1, 2) else uniform for r in range(4)], dim=1)
            rows.append(PrefixAttention((white if block == 2 else uniform)[:, None], registers[:, None]))
        return rows


@pytest.fixture
def planted(tmp_path, monkeypatch):
    backbone = nano()
    seen = Seeing(backbone)
    monkeypatch.setattr(backbone, "prefix_attention", seen)
    rng = np.random.default_rng(0)
    corners = rng.integers(0, SIDE - 3, (COUNT, 2)).tolist()
    data = write(tmp_path, [(x, y, x + 2, y + 3) for x, y in corners])
    words = ("workers=0", "blocks=[0,1,2]", "mass=0.99")
    chosen = settings.load_settings("tasks", "saliency_planted", "mini", words)[1]
    return backbone, data, chosen, seen


def test_planted_attention_gives_the_planted_masks(planted):
    backbone, data, chosen, _ = planted
    outcome = saliency.run(backbone, data, chosen)
    for method in ("cls", "register"):
        assert [outcome.metrics[f"{score}_{method}"] for score in ("iou", "accuracy", "max_f")] == [100, 100, 100]
    assert (outcome.protocol["register_block"], outcome.protocol["register"]) == (1, 2)
    assert outcome.protocol["cls_block"] == 2
    assert set(outcome.metrics) == set(saliency.METRICS)
    assert outcome.images == COUNT
    assert outcome.protocol["grid_ceiling"].startswith("IoU 100.0")
    share = 6 / SIDE**2
    assert outcome.floors["whole image"]["iou_cls"] == pytest.approx(100 * share)
    assert outcome.floors["nothing"]["accuracy_lost"] == pytest.approx(100 - 100 * share)
    assert outcome.picture is not None


def test_maps_are_chosen_on_held_out_images_and_scored_on_the_others(planted):
    backbone, data, chosen, seen = planted
    outcome = saliency.run(backbone, data, chosen)
    held, rest = lost_sweep.split(COUNT, chosen.held_out, 0)
    assert sum(images for images, blocks in seen.calls if blocks == [0, 1, 2]) == len(held)
    for name, values in outcome.scores.items():
        scored = torch.isfinite(values.reshape(COUNT, -1)).all(dim=1).nonzero().flatten().tolist()
        assert scored == (list(range(COUNT)) if name.endswith(("tokencut", "lost")) else rest)
    curves = outcome.scores["max_f_register"][rest]
    assert outcome.metrics["max_f_register"] == pytest.approx(float(curves.mean(dim=0).max()))


def test_scores_of_masks_agree_with_their_mean(planted):
    outcome = saliency.run(*planted[:3])
    for method in ("tokencut", "lost"):
        for score in ("iou", "accuracy", "max_f"):
            values = outcome.scores[f"{score}_{method}"]
            assert outcome.metrics[f"{score}_{method}"] == pytest.approx(float(values.mean()))


def test_planted_features_give_the_planted_mask(planted, monkeypatch):
    backbone, data, chosen, _ = planted

    def projections(images, blocks):
        white = torch.nn.functional.avg_pool2d(images[:, :1], PATCH)[:, 0]
        white = (white > white.mean(dim=(1, 2), keepdim=True)).float()
        patches = torch.stack([white, 1 - white], dim=-1)
        tokens = type("Tokens", (), {"patches": patches})
        return [type("Projections", (), dict.fromkeys("qkv", tokens))]

    monkeypatch.setattr(backbone, "projections", projections)
    outcome = saliency.run(backbone, data, chosen)
    for method in ("tokencut", "lost"):
        assert [outcome.metrics[f"{score}_{method}"] for score in ("iou", "accuracy", "max_f")] == [100, 100, 100]


def test_the_first_of_the_best_maps_is_chosen():
    ious = torch.tensor([[[10.0, 50.0, 20.0], [50.0, 0.0, 40.0]], [[10.0, 50.0, 20.0], [50.0, 0.0, 40.0]]])
    chosen = choose(ious, [3, 7], registers=2)
    assert (chosen.register, chosen.cls, chosen.candidates) == ((3, 1), 7, (2, 4))
    without = choose(ious[..., :2], [3, 7], registers=2)
    assert (without.cls, without.register) == (None, (3, 1))
    assert choose(ious[..., 2:], [3, 7], registers=0).register is None


def test_floors_are_those_of_the_images_that_are_scored():
    scored = {"iou_cls": [1], "max_f_lost": [0, 1], "accuracy_lost": [0, 1]}
    both = floors({0: 0.5, 1: 0.2}, scored)
    assert both["whole image"]["iou_cls"] == pytest.approx(20)
    assert both["whole image"]["max_f_lost"] == pytest.approx(50 * (1.3 * 0.5 / 1.15 + 1.3 * 0.2 / 1.06))
    assert both["nothing"] == {"iou_cls": 0, "max_f_lost": 0, "accuracy_lost": pytest.approx(65)}


@pytest.mark.parametrize(
    ("registers", "absent"), [(0, ["iou_register", "accuracy_register", "max_f_register"]), (1, [])]
)
def test_a_model_is_recorded_with_the_maps_that_it_has(tmp_path, registers, absent):
    data = write(tmp_path, [(x, x, x + 2, x + 3) for x in range(5)])
    cell = evaluation.prepare("saliency_planted", data, "mini", words=["workers=0"])
    backbone = sources.load_backbone(f"random-vitn_reg{registers}", tmp_path)
    outcome = cell.run(backbone, RunOptions(folder=tmp_path))
    record = cell.record(backbone, outcome, 1.0, {})
    assert [name for name in saliency.METRICS if name not in record.columns] == absent
    assert record.columns.keys() == record.metrics.keys()
    assert ("iou_register" in cell.summary(outcome)) == (not absent)
    assert record.columns["iou_cls"] == {"better": 1, "unit": "%", "decimals": 1}


def test_a_block_that_the_model_lacks_is_refused(planted):
    backbone, data, chosen, _ = planted
    chosen.blocks = [99]
    with pytest.raises(SettingsError, match="block=99"):
        saliency.run(backbone, data, chosen)
