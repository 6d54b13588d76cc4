"""The linear probe: the batched heads against 52 plain probes, the inputs by hand, the protocol around them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regvit_lightning import settings
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import sources
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.settings import SettingsError
from regvit_lightning.statistics import bootstrap
from regvit_lightning.tasks import linear


def mini_settings(*words):
    options = ["workers=0", "precision=32-true", "steps=6", "batch_size=32", "device_batch=32"]
    words = [*[o for o in options if o.partition("=")[0] not in {w.partition("=")[0] for w in words}], *words]
    return settings.load_settings("tasks", "imagenet_linear", "mini", words)[1]


def nano():
    return sources.load_backbone("random-vitn_reg4", None, image_size=64)


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
    backbone = sources.load_backbone("random-timm/vit_wee_patch16_reg1_gap_256", None)
    module = linear.LinearProbe(backbone, mini_settings(), 16)
    assert len(module.grid) == 26
    features = module.features(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
    assert [part.shape[1] for part in features] == [256, 4 * 256]


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
