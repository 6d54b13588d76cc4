"""DeiT-III: losses by hand, schedule at its documented points, and a short run pinned to golden losses."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy
from torch.nn import functional as F

from regvit_lightning import settings
from regvit_lightning.pretrain import deit3
from regvit_lightning.schedules import warmup_cosine
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


def test_schedule_at_its_documented_points():
    points = {0: 1e-6, 5: (1e-3 + 1e-6) / 2, 10: 1e-3, 55: (1e-3 + 1e-5) / 2, 100: 1e-5}
    for step, lr in points.items():
        assert warmup_cosine(step, 100, 10, 1e-3, 1e-6, 1e-5) == pytest.approx(lr)
    assert warmup_cosine(0, 100, 0, 1e-3, 0.0, 0.0) == 1e-3


@given(steps=st.integers(1, 500), share=st.floats(0, 1), step=st.integers(0, 500))
def test_schedule_stays_within_its_ends(steps, share, step):
    value = warmup_cosine(min(step, steps), steps, round(share * steps), 1.0, 0.1, 0.01)
    assert 0.01 - 1e-12 <= value <= 1.0 + 1e-12


def recipe(*words, registers=4):
    torch.manual_seed(0)
    return deit3.DeiT3(load_recipe("deit3", "mini", list(words)), f"vitn_reg{registers}", 16, 100, 0)


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


def test_moving_average_has_its_closed_form():
    module = recipe("ema_decay=0.9")
    weight = module.backbone.head.weight
    values = []
    for value in (1.0, 2.0, 3.0):
        weight.data.fill_(value)
        module.ema.update_parameters(module.backbone)
        values.append(value)
    # torch's AveragedModel copies at its first update; then 0.9 old + 0.1 new.
    expected = 0.9 * (0.9 * values[0] + 0.1 * values[1]) + 0.1 * values[2]
    torch.testing.assert_close(module.ema.module.head.weight, torch.full_like(weight, expected))
    assert not any(parameter.requires_grad for parameter in module.ema.parameters())


@pytest.mark.parametrize("word", ["loss=odd", "drop_path=1.5", "epochs=0", "lr=0", "warmup_epochs=99", "batch_size=-1"])
def test_values_out_of_range_are_refused(word):
    with pytest.raises(SettingsError, match=word.partition("=")[0]):
        load_recipe("deit3", "mini", [word])
