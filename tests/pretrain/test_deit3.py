"""DeiT-III: losses by hand, schedule at its documented points, and a short run pinned to golden losses."""

import math

import pytest
import torch
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEma
from torch.nn import functional as F

from regvit_lightning import settings
from regvit_lightning.models import weights
from regvit_lightning.pretrain import deit3
from regvit_lightning.runtime.scheduled import ScheduledModule
from regvit_lightning.settings import SettingsError


def load_recipe(*words):
    return settings.load_settings("recipes", *words)[1]


def test_the_22k_recipe_has_the_published_constants():
    found = load_recipe("deit3")
    assert (found.epochs, found.batch_size, found.lr, found.weight_decay) == (240, 2048, 1e-3, 0.02)
    assert (found.loss, found.label_smoothing, found.cutmix, found.mixup) == ("softmax", 0.1, 1.0, 0.0)
    assert (found.crop, found.drop_path, found.layer_scale, found.ema_decay) == ("simple", 0.1, 1e-4, 0.99996)


def test_the_1k_recipe_has_the_published_constants():
    found = load_recipe("deit3_in1k")
    assert (found.epochs, found.batch_size, found.lr, found.weight_decay) == (800, 2048, 3e-3, 0.05)
    assert (found.loss, found.label_smoothing, found.cutmix, found.mixup) == ("bce", 0.0, 1.0, 0.8)
    assert (found.crop, found.image_size, found.drop_path, found.repeats) == ("resized", 192, 0.2, 3)


def test_average_pooling_reads_the_mean_patch_of_a_model_without_cls(tmp_path):
    module = recipe("pooling=average", "image_size=32")
    backbone, images = module.backbone.eval(), torch.randn(2, 3, 32, 32)
    assert backbone.cls_token is None
    tokens = backbone.tokens(images)
    assert tokens.cls is None
    assert tokens.patches.shape == (2, 4, 4, 96)
    expected = backbone.head(tokens.patches.mean(dim=(1, 2)))
    torch.testing.assert_close(backbone(images), expected)
    # The exported file says that there is no CLS, and is rebuilt with the same weights.
    weights.save(tmp_path / "b.safetensors", backbone, module.metadata("deit3"))
    loaded = weights.load_weights(tmp_path / "b.safetensors").model
    torch.testing.assert_close(loaded.tokens(images).patches, tokens.patches, rtol=0, atol=0)


def test_an_arm_and_a_model_without_cls_are_refused_together():
    with pytest.raises(SettingsError, match="arm last7 in a model without CLS"):
        deit3.DeiT3(load_recipe("deit3", "mini", ["pooling=average"]), "vitn_last7_reg0", 16, 100, 0)


def test_a_pooling_that_does_not_exist_is_refused():
    with pytest.raises(SettingsError, match="pooling=max: expected cls or average"):
        load_recipe("deit3", "mini", ["pooling=max"])


def test_softmax_loss_by_hand():
    # Two classes, logits (ln 3, 0): p = (3/4, 1/4); target (1/2, 1/2) mixed, smoothing 0.2 leaves it.
    logits, targets = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.5, 0.5]])
    expected = -0.5 * math.log(0.75) - 0.5 * math.log(0.25)
    assert deit3.objective(logits, targets, "softmax", 0.2).item() == pytest.approx(expected)
    hard = -0.9 * math.log(0.75) - 0.1 * math.log(0.25)
    assert deit3.objective(logits, torch.tensor([[1.0, 0.0]]), "softmax", 0.2).item() == pytest.approx(hard)


def test_smoothing_agrees_with_timms_mixed_targets():
    # DeiT smooths the one-hot targets before mixing them; the loss smooths the mixed ones: the same numbers.
    logits, labels = torch.randn(6, 5), torch.randint(5, (6,))
    mixup = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=5)
    _, smoothed = mixup(torch.zeros(6, 3, 8, 8), labels)
    plain = (smoothed - 0.1 / 5) / 0.9
    ours = deit3.objective(logits, plain, "softmax", 0.1)
    torch.testing.assert_close(ours, torch.sum(-smoothed * F.log_softmax(logits, dim=1), dim=1).mean())


def test_bce_counts_every_class_that_is_present():
    logits, targets = torch.randn(4, 6), torch.zeros(4, 6)
    targets[:, 0], targets[:, 3] = 0.9, 0.1
    theirs = BinaryCrossEntropy(smoothing=0.0, target_threshold=0.0)(logits, targets)
    torch.testing.assert_close(deit3.objective(logits, targets, "bce", 0.0), theirs)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.0, 1.0), (0.8, 1.0), (0.8, 0.0), (0.0, 0.0)])
def test_mixing_keeps_the_mass_and_takes_the_share_of_pixels(mixup, cutmix):
    mix = deit3.mixing(mixup, cutmix, 8)
    labels = torch.arange(8)
    images = labels.view(8, 1, 1, 1).float().expand(8, 3, 32, 32)
    for seed in range(6):
        torch.manual_seed(seed)
        mixed, targets = mix(images.clone(), labels)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
        # Images are constant at their class number: the mean pixel is the expected class number.
        expected = (targets * torch.arange(8.0)).sum(dim=1)
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), expected, rtol=1e-4, atol=1e-4)


def test_with_both_each_batch_takes_one():
    mix, images = deit3.mixing(0.8, 1.0, 4), torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16)
    pasted = 0
    for seed in range(60):
        torch.manual_seed(seed)
        mixed, _ = mix(images.clone(), torch.arange(4))
        pasted += bool((mixed == mixed.round()).all())
    assert 15 < pasted < 45


@pytest.mark.parametrize("warmup", [0, 5, 20])
def test_the_schedule_is_timms(warmup):
    """DeiT's: 240 epochs, peak 1e-3, from 1e-6, to 1e-5. timm counts the cosine from the start of the warm-up."""
    module = recipe("epochs=240", f"warmup_epochs={warmup}", "lr=1e-3", steps=2400)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1e-3)
    theirs = CosineLRScheduler(optimizer, 240, lr_min=1e-5, warmup_t=warmup, warmup_lr_init=1e-6)
    for epoch in range(240):
        theirs.step(epoch)
        assert module.schedule(10 * epoch)["lr"] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), epoch
    theirs = CosineLRScheduler(optimizer, 2400, lr_min=1e-5, warmup_t=10 * warmup, warmup_lr_init=1e-6)
    for step in (*range(250), 999, 2399):
        theirs.step(step)
        assert module.schedule(step)["lr"] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
    assert module.schedule(2400)["lr"] == pytest.approx(1e-5)


def recipe(*words, registers=4, steps=100):
    torch.manual_seed(0)
    return deit3.DeiT3(load_recipe("deit3", "mini", list(words)), f"vitn_reg{registers}", 16, steps, 0)


def test_tokens_biases_norms_and_scales_do_not_decay():
    module = recipe()
    decay = {
        id(p): group["weight_decay"] for group in module.configure_optimizers().param_groups for p in group["params"]
    }
    for name, parameter in module.backbone.named_parameters():
        expected = 0.02 if parameter.ndim > 1 and name not in ("cls_token", "reg_token", "pos_embed") else 0.0
        assert decay[id(parameter)] == expected, name


def test_cls_is_drawn_like_deits_and_registers_like_the_papers():
    module = recipe(registers=16)
    assert module.backbone.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert module.backbone.reg_token.std().item() == pytest.approx(1e-6, rel=0.1)


class Update(torch.optim.SGD):
    """Writes the next of the given values into the classifier, as an update of the weights."""

    def __init__(self, weight, values):
        super().__init__([weight], lr=1.0)
        self.values = iter(values)

    def step(self, closure=None):
        self.param_groups[0]["params"][0].data.fill_(next(self.values))


def test_moving_average_is_timms_from_the_first_update_on(monkeypatch):
    """The recipe's own `optimizer_step` updates it, once for every update and after it."""
    module = recipe("ema_decay=0.9")
    weight = module.backbone.head.weight
    weight.data.fill_(0.5)
    module.ema.module.head.weight.data.fill_(0.5)
    theirs, values = ModelEma(module.backbone, decay=0.9), (1.0, 2.0, 3.0)
    monkeypatch.setattr(
        ScheduledModule, "optimizer_step", lambda self, epoch, batch, optimizer, closure: optimizer.step()
    )
    optimizer, expected = Update(weight, values), 0.5
    for number, value in enumerate(values):
        module.optimizer_step(0, number, optimizer, None)
        theirs.update(module.backbone)
        expected = 0.9 * expected + 0.1 * value
        torch.testing.assert_close(module.ema.module.head.weight, torch.full_like(weight, expected))
        torch.testing.assert_close(module.ema.module.head.weight, theirs.ema.head.weight)
    assert not any(parameter.requires_grad for parameter in module.ema.parameters())


@pytest.mark.parametrize("word", ["loss=odd", "drop_path=1.5", "epochs=0", "lr=0", "warmup_epochs=99", "batch_size=-1"])
def test_values_out_of_range_are_refused(word):
    with pytest.raises(SettingsError, match=word.partition("=")[0]):
        load_recipe("deit3", "mini", [word])


def test_draft_needs_a_crop_that_is_drawn_before_the_image_is_resized():
    with pytest.raises(SettingsError, match="draft=true: crop=simple"):
        settings.load_settings("recipes", "deit3", words=["draft=true"])
    assert settings.load_settings("recipes", "deit3_in1k", words=["draft=true"])[1].draft
