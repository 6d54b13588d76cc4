"""Register replacement controls: classifiers kept and made anew, on features whose answer is known."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from regvit_lightning.analysis import controls
from regvit_lightning.analysis.probes import Features, TokenSettings
from regvit_lightning.frozen import trainer
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import sources
from tests.tasks.test_artifact_report import photographs, report, truth  # noqa: F401

SETTINGS = TokenSettings(exponents=[0.0], iterations=100)


class Known:
    """Features of 4 classes under each replacement: as they are, of the next class, or of nothing."""

    labels = torch.arange(40) % 4

    def features(self, split, kind):
        codes = {"intact": self.labels, "zero": (self.labels + 1) % 4}.get(kind, torch.zeros_like(self.labels))
        return Features(3 * torch.eye(4)[codes][None], self.labels)

    def patch_change(self, kind):
        return 0.5


def test_a_kept_classifier_is_wrong_where_a_new_one_is_right():
    found = controls.effects(Known(), SETTINGS)
    assert list(found) == ["intact", "zero", "mean", "noise", "shuffle"]
    assert found["intact"] == controls.Effect(knn=100, linear=100, knn_kept=100, linear_kept=100, patch_change=0.5)
    assert (found["zero"].knn, found["zero"].linear) == (100, 100)
    assert (found["zero"].knn_kept, found["zero"].linear_kept) == (0, 0)
    assert found["mean"].linear_kept == found["mean"].linear == 25


def test_registers_that_nothing_hears_of_change_nothing(truth, photographs):  # noqa: F811
    backbone = sources.load_backbone("random-vitn_reg4", "runs", image_size=64)
    for block in backbone.model.blocks:
        nn.init.zeros_(block.attn.proj.weight)
    effects = report(backbone, photographs, "resize=64").protocol["register_replacement"]
    assert len(effects) == 5
    assert all(effect == effects["intact"] for effect in effects.values())


def test_registers_that_are_the_only_way_are_missed(truth):  # noqa: F811
    # CLS hears of the image through attention alone; with zeros in place of registers the features are others.
    backbone = sources.load_backbone("random-vitn_reg4", "runs", image_size=64)
    for block in backbone.model.blocks:
        block.attn.proj.weight.data *= 30
    passed = controls.ReplacedPass(backbone, "32-true", seed=0)
    images = DataLoader(TensorDataset(truth.images[:8], torch.arange(8) % 2), batch_size=8)
    trainer.Tester(RunOptions()).validate(passed, images, verbose=False)
    trainer.Tester(RunOptions()).test(passed, [images, images], verbose=False)
    assert passed.patch_change("intact") == pytest.approx(1)
    assert passed.patch_change("zero") < 1 - 1e-3
