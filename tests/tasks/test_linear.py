"""The linear probe: the batched heads against 52 plain probes, the inputs by hand, the protocol around them."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn import functional as F

from benchmarks.speed.memory import peak_memory
from regvit_lightning import settings
from regvit_lightning.frozen import head_grid, shared
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import sources
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.settings import SettingsError
from regvit_lightning.statistics import accuracy, bootstrap
from regvit_lightning.tasks import linear
from tests.tasks import planted_features


def mini_settings(*words):
    options = ["workers=0", "precision=32-true", "steps=6", "batch_size=32", "device_batch=32"]
    words = [*[o for o in options if o.partition("=")[0] not in {w.partition("=")[0] for w in words}], *words]
    return settings.load_settings("tasks", "imagenet_linear", "mini", words)[1]


def nano():
    return sources.load_backbone("random-vitn_reg4", "runs", image_size=64)


def test_the_grid_has_dinov2s_52_heads():
    module = linear.LinearProbe(nano(), settings.load_settings("tasks", "imagenet_linear")[1], 10)
    assert len(module.grid) == 52
    assert len(set(module.grid)) == 52
    assert [heads.linear.in_features for heads in module.heads] == [96, 2 * 96, 4 * 96, 5 * 96]
    # Rates for a batch of 1024 are four times the grid, whatever the number of devices.
    torch.testing.assert_close(module.rates[[0, -1]], torch.tensor([4e-5, 0.4]))
    assert module.heads[0].linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not module.heads[0].linear.bias.any()


def test_inputs_by_hand():
    blocks = [
        Tokens(torch.full((1, 2), float(n)), torch.full((1, 3, 2), 99.0), torch.full((1, 2, 2, 2), 10.0 * n))
        for n in (1, 2, 3, 4)
    ]
    assert linear.inputs(blocks, 1, False).tolist() == [[4, 4]]
    assert linear.inputs(blocks, 1, True).tolist() == [[4, 4, 40, 40]]
    assert linear.inputs(blocks, 4, False).tolist() == [[1, 1, 2, 2, 3, 3, 4, 4]]
    assert linear.inputs(blocks, 4, True).tolist() == [[1, 1, 2, 2, 3, 3, 4, 4, 40, 40]]


def test_batched_heads_are_separate_probes_with_their_own_learning_rates():
    torch.manual_seed(0)
    rates, steps = torch.tensor([1e-3, 0.1, 1.0]), 20
    together = linear.Heads(5, 3, 4)
    singles = [nn.Linear(5, 4) for _ in rates]
    for number, single in enumerate(singles):
        single.weight.data = together.linear.weight.data.view(3, 4, 5)[number].clone()
        single.bias.data.zero_()
    one = torch.optim.SGD(together.parameters(), lr=1.0, momentum=0.9)
    many = [
        torch.optim.SGD(s.parameters(), lr=rate.item(), momentum=0.9) for s, rate in zip(singles, rates, strict=True)
    ]
    for step in range(steps):
        features, labels, factor = torch.randn(8, 5), torch.randint(4, (8,)), 1 - step / steps
        for optimiser, rate in ((one, 1.0), *zip(many, rates.tolist(), strict=True)):
            optimiser.param_groups[0]["lr"] = rate * factor
            optimiser.zero_grad()
        together.loss(features, labels, rates).backward()
        for single in singles:
            F.cross_entropy(single(features), labels).backward()
        for optimiser in (one, *many):
            optimiser.step()
    found = together.linear.weight.view(3, 4, 5)
    for number, single in enumerate(singles):
        torch.testing.assert_close(found[number], single.weight, rtol=1e-4, atol=1e-6)


def test_backbone_gets_no_gradient_and_keeps_no_graph():
    module = linear.LinearProbe(nano(), mini_settings(), 16)
    features = module.features(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert all(not part.requires_grad and part.dtype == torch.float32 for part in features)


def test_accumulation_changes_nothing(tiny):
    whole, parts = (linear.run(nano(), tiny, mini_settings(f"device_batch={n}"), RunOptions(seed=2)) for n in (32, 8))
    assert whole.metrics == parts.metrics
    assert whole.protocol == parts.protocol


def test_outcome_states_its_protocol(tiny):
    outcome = linear.run(nano(), tiny, mini_settings())
    assert outcome.images == 32
    assert outcome.protocol["heads"] == 52
    assert set(outcome.protocol["head"]) == {"blocks", "avgpool", "lr"}
    assert outcome.metrics["top1"] <= outcome.metrics["top1_best_on_test"]
    assert set(outcome.scores) == set(linear.METRICS)
    for name, right in outcome.scores.items():
        assert right.shape == (32,)
        assert right.mean().item() == pytest.approx(outcome.metrics[name])
    low, high = outcome.intervals["top1"]
    assert low <= outcome.metrics["top1"] <= high


def test_without_cls_the_mean_patch_takes_its_place(tiny):
    backbone = sources.load_backbone("random-timm/vit_wee_patch16_reg1_gap_256", "runs")
    module = linear.LinearProbe(backbone, mini_settings(), 16)
    assert len(module.grid) == 26
    features = module.features(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
    assert [part.shape[1] for part in features] == [256, 4 * 256, 2 * 256]  # the last with its register


def test_a_model_with_too_few_blocks_is_told(tiny):
    with pytest.raises(SettingsError, match=r"blocks=\[1, 9\]: random-vitn_reg4 has 4"):
        linear.run(nano(), tiny, mini_settings("blocks=[1,9]"))


def test_separable_features_are_learnt():
    # Planted truth: features that are the class itself must give 100 %.
    module = linear.LinearProbe(nano(), mini_settings(), 4)
    torch.manual_seed(0)
    labels = torch.randint(4, (64,))
    features = F.one_hot(labels, 4).float() @ torch.randn(4, 96)
    heads = module.heads[0]
    optimiser = torch.optim.SGD(heads.parameters(), lr=1.0, momentum=0.9)
    for _ in range(60):
        optimiser.zero_grad()
        heads.loss(features, labels, module.rates).backward()
        optimiser.step()
    right = (heads(features).argmax(dim=2) == labels.unsqueeze(1)).float().mean(dim=0)
    assert right[-1] == 1.0


def test_bootstrap_interval_is_the_binomial_one():
    # 400 images, 30 % right: standard error sqrt(0.3 * 0.7 / 400) = 2.29 points.
    scores = 100.0 * (torch.arange(400) < 120)
    low, high = bootstrap(scores)
    assert low == pytest.approx(30 - 1.96 * 2.29, abs=0.6)
    assert high == pytest.approx(30 + 1.96 * 2.29, abs=0.6)
    assert bootstrap(scores) == (low, high)
    assert bootstrap(torch.full((10,), 100.0)) == (100.0, 100.0)


# --------------------------------------------------------------------------------------- what is chosen, and on what


def solid(tmp_path, *words):
    """Dark and bright images of one colour; in test, dark is labelled as bright and bright as dark."""
    shades = torch.tensor([0.2, 0.8]).repeat_interleave(30)[:, None].expand(-1, planted_features.WIDTH)
    labels = torch.arange(2).repeat_interleave(30)
    planted_features.write(tmp_path, "train", shades, labels)
    data = planted_features.write(tmp_path, "val", shades[::3], 1 - labels[::3])
    side = planted_features.SIDE
    words = ["blocks=[1]", "learning_rates=[1e-12,1.0]", f"resize={side}", f"crop={side}", *words]
    return linear.run(planted_features.pixels(), data, mini_settings(*words))


def test_the_head_is_chosen_on_held_out_train_even_where_test_says_otherwise(tmp_path):
    # A head that learns is right on held-out train and wrong on every swapped test image; one with a learning rate of
    # nothing gives all images one class, half of them right.
    outcome = solid(tmp_path, "steps=60")
    assert outcome.protocol["head"]["lr"] == 1.0
    assert outcome.metrics["top1_held_out"] == 100
    assert outcome.metrics["top1"] == outcome.scores["top1"].mean() == 0
    assert outcome.metrics["top1_best_on_test"] == outcome.scores["top1_best_on_test"].mean() == 50
    assert outcome.protocol["head_best_on_test"]["lr"] == 1e-12
    assert outcome.floors["most frequent class"] == dict.fromkeys(outcome.scores, 50.0)


def test_no_head_is_trained_on_an_image_on_which_it_is_chosen(tiny, monkeypatch):
    parts = {}

    class Watched(head_grid.ImageNet):
        def __init__(self, *options, **more):
            super().__init__(*options, **more)
            parts.update(more)

    for module in (shared, head_grid):
        monkeypatch.setattr(module, "ImageNet", Watched)
    outcome = linear.run(nano(), tiny, mini_settings("steps=1"))
    trained, ((chosen_on, _),) = parts["train"][0], parts["validation"]
    assert not set(trained.paths) & set(chosen_on.paths)
    assert (len(trained), len(chosen_on)) == (80, 16)  # one of the six images of each class
    assert (outcome.protocol["train_images"], outcome.protocol["held_out_images"]) == (80, 16)
    assert parts["test"][0][0].root.endswith("val")


def test_the_record_says_on_how_few_images_the_head_was_chosen(tmp_path):
    outcome = solid(tmp_path, "steps=1", "held_out=0.2")
    assert outcome.protocol["held_out_images"] == 12
    assert outcome.protocol["head_chosen_on"] == "20% of train, held out: 12 images, ±28.3 points"
    known = "where an accuracy is known to ±28.3 points only"
    assert outcome.protocol["caveat"] == f"one of 4 heads is chosen on 12 held-out images, {known}"


def test_the_learning_rate_of_every_step_is_a_cosine(tiny):
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, *_):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    linear.run(nano(), tiny, mini_settings("steps=5"), RunOptions(callbacks=[Watch()]))
    assert seen == pytest.approx([(1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)])


def test_accuracy_at_the_size_of_imagenet():
    """52 heads on 128,117 held-out images: 9 bytes for each, whatever the number of classes."""
    images, heads = 128_117, 52
    labels = torch.arange(images) % 1000
    predictions = labels[:, None].repeat(1, heads)
    wrong = torch.arange(heads) * 1000
    for head, count in enumerate(wrong.tolist()):
        predictions[:count, head] += 1
    with peak_memory() as peak:
        found = accuracy(predictions, labels)
    torch.testing.assert_close(found, 100 * (1 - wrong.double() / images))
    assert peak.bytes < 9 * images * heads + (32 << 20)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_gradients_of_the_heads_on_any_device_are_those_of_single_layers(device):
    torch.manual_seed(0)
    features, labels, rates = torch.randn(12, 8), torch.randint(5, (12,)), torch.tensor([0.1, 0.5, 2.0])
    heads = linear.Heads(8, 3, 5)
    weights = heads.linear.weight.detach().clone().unflatten(0, (3, 5))
    heads.to(device).loss(features.to(device), labels.to(device), rates.to(device)).backward()
    found = heads.linear.weight.grad.cpu().unflatten(0, (3, 5))
    for weight, rate, gradient in zip(weights, rates, found, strict=True):
        single = weight.requires_grad_()
        F.cross_entropy(features @ single.T, labels).mul(rate).backward()
        torch.testing.assert_close(gradient, single.grad, rtol=1e-4, atol=1e-6)
