"""The attentive probe: what each head reads, its options by step, the choice of heads, masses, and whole runs."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import nn
from torch.nn import functional as F

from regvit_lightning import settings
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import sources
from regvit_lightning.models.foreign import ForeignBackbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks.attentive import attentive_probe, probe
from tests.tasks import planted_features

SIDE, PATCH = 32, 4  # pixels: 64 patches of 48 numbers


def mini_settings(*words):
    options = ["workers=0", "precision=32-true", "steps=4", "warmup_steps=2", "batch_size=16", "device_batch=16"]
    options += ["learning_rates=[1e-3,1e-2]", "weight_decays=[0,0.1]"]
    words = [*[o for o in options if o.partition("=")[0] not in {w.partition("=")[0] for w in words}], *words]
    return settings.load_settings("tasks", "imagenet_attentive", "mini", words)[1]


def nano(registers=4):
    return sources.load_backbone(f"random-vitn_reg{registers}", "runs", image_size=64)


def test_the_grid_is_capis_for_both_kinds_and_every_input():
    chosen = settings.load_settings("tasks", "imagenet_attentive", words=["head_width=32"])[1]
    module = probe.AttentiveProbe(nano(), chosen, 3)
    counts = {
        variant.name: sum(head.kind == variant.kind and head.inputs == variant.inputs for head in module.grid)
        for variant in module.variants
    }
    names = ["capi", "ep", "capi_registers", "ep_registers", "capi_both", "ep_both", "mean"]
    assert counts == dict.fromkeys(names, 30)
    assert list(counts) == names
    rates = {group["base_lr"] for group in module.configure_optimizers().param_groups}
    assert (min(rates), max(rates)) == pytest.approx((4e-5, 4e-2))  # for 1,024 images, four times those for 256


def test_a_model_without_registers_has_heads_of_patches_alone():
    module = probe.AttentiveProbe(nano(0), mini_settings(), 3)
    assert [variant.name for variant in module.variants] == ["capi", "ep", "mean"]


def test_each_variant_reads_its_own_tokens():
    module = probe.AttentiveProbe(nano(), mini_settings(), 3)
    registers, patches = torch.arange(8.0).view(1, 4, 2), 10 + torch.arange(8.0).view(1, 2, 2, 2)
    tokens = probe.joined(Tokens(torch.full((1, 2), 99.0), registers, patches))
    read = {v.name: module.read_by(v, tokens)[0, :, 0].tolist() for v in module.variants}
    assert read["capi"] == read["mean"] == [10, 12, 14, 16]
    assert read["ep_registers"] == [0, 2, 4, 6]
    assert read["ep_both"] == [0, 2, 4, 6, 10, 12, 14, 16]


def test_all_but_biases_decay_and_every_parameter_is_trained_once():
    module = probe.AttentiveProbe(nano(), mini_settings(), 3)
    groups = module.configure_optimizers().param_groups
    heads = {name: p for name, p in module.named_parameters() if name.startswith("groups.")}
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in heads.values())
    biases = {id(p) for name, p in heads.items() if name.endswith("bias")}
    for group in groups:
        assert {id(p) in biases for p in group["params"]} <= ({True, False} if group["weight_decay"] == 0 else {False})
    decays = {group["weight_decay"] for group in groups if {id(p) for p in group["params"]} - biases}
    assert decays == {0, 0.1}


def test_the_learning_rate_of_every_point_warms_up_and_falls_as_a_cosine(tiny):
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, *_):
            seen.append([group["lr"] for group in trainer.optimizers[0].param_groups][::4])

    attentive_probe.run(nano(0), tiny, mini_settings("steps=6"), RunOptions(callbacks=[Watch()]))
    factors = [0, 1, *[(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]]
    scale = 16 / 256
    assert torch.tensor(seen).numpy() == pytest.approx(
        torch.tensor([[1e-3 * f * scale, 1e-2 * f * scale] for f in factors]).numpy()
    )


def trained_heads(data, seed=1, **options):
    """Weights of all heads of a run by kind, input, learning rate and weight decay."""
    kept = {}

    class Watch(Callback):
        def on_train_end(self, trainer, module):
            for variant, group in zip(module.variants, module.groups, strict=True):
                for point, head in zip(module.points, group.heads, strict=True):
                    kept[variant.name, *point] = {n: p.detach().clone() for n, p in head.named_parameters()}

    words = [f"{name}={value}" for name, value in options.items()]
    attentive_probe.run(nano(), data, mini_settings(*words), RunOptions(seed=seed, callbacks=[Watch()]))
    return kept


def test_a_head_trained_alone_is_the_same_head_in_the_grid(tiny):
    together = trained_heads(tiny)
    alone = trained_heads(tiny, learning_rates="[1e-2]", weight_decays="[0.1]")
    for key, weights in alone.items():
        for name, weight in weights.items():
            # Adam divides by the gradient's own size: rounding shows where a gradient is nearly 0; a step is 6e-4.
            torch.testing.assert_close(together[key][name], weight, rtol=1e-4, atol=1e-4)
    first, other = (together["capi", lr, 0.1]["linear.weight"] for lr in (1e-3, 1e-2))
    assert not torch.allclose(first, other, atol=1e-5)


@pytest.mark.parametrize(("augment", "trained"), [("true", 4 * 16), ("false", 90)])
def test_work_counts_the_images_that_the_backbone_sees(augment, trained):
    planned = attentive_probe.work(mini_settings(f"augment={augment}"), {"imagenet": (100, 7)})
    assert [one.images for one in planned.passes] == [trained + 10 + 7]


def test_masses_by_hand():
    shares = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    outliers = torch.tensor([[False, True]])
    assert probe.masses(shares, outliers, "both", 2).tolist() == [[pytest.approx(40), pytest.approx(30)]]
    assert probe.masses(shares[:, :2], outliers, "patches", 2).tolist() == [[pytest.approx(20), 0]]
    assert probe.masses(shares, outliers, "registers", 4).tolist() == [[0, pytest.approx(100)]]


def test_outcome_states_its_protocol(tiny):
    outcome = attentive_probe.run(nano(), tiny, mini_settings("learning_rates=[1e-12]"))
    assert outcome.images == 32
    assert outcome.protocol["heads"] == 12
    assert set(outcome.protocol["head"]) == {"kind", "inputs", "lr", "weight_decay"}
    assert outcome.metrics["top1"] <= outcome.metrics["top1_best_on_test"]
    assert set(outcome.scores) == set(attentive_probe.METRICS)
    for name, scores in outcome.scores.items():
        assert scores.shape == (32,)
        assert scores.mean().item() == pytest.approx(outcome.metrics[name])
    for name in ("top1", "top1_ep_both", "outlier_mass_capi", "register_mass_ep_both"):
        low, high = outcome.intervals[name]
        assert low <= outcome.metrics[name] <= high
    # Untrained queries hardly tell tokens apart: 4 of 68 tokens are registers.
    assert outcome.metrics["register_mass_ep_both"] == pytest.approx(400 / 68, abs=0.1)
    assert outcome.metrics["outlier_mass_ep"] == pytest.approx(outcome.metrics["outlier_share"], rel=0.05, abs=0.01)
    assert sum(outcome.per_class.values()) / 16 == pytest.approx(outcome.metrics["top1"])  # two images of each class
    assert outcome.floors["chance"]["top1"] == 100 / 16
    assert outcome.floors["uniform attention"]["outlier_mass_ep"] == outcome.metrics["outlier_share"]
    assert outcome.protocol["parameters"] == {
        "capi": 96 + 2 * 96 * 97 + 16 * 97, "ep": 8 * 96 + 96 * 96 + 16 * 97, "mean": 16 * 97,
    }  # fmt: skip


def test_augmented_images_train_the_heads_and_accumulation_changes_nothing(tiny):
    options = [mini_settings("augment=true", f"device_batch={n}") for n in (16, 4)]
    whole, parts = (attentive_probe.run(nano(0), tiny, chosen, RunOptions(seed=2)) for chosen in options)
    assert "random resized crop" in whole.protocol["train_view"]
    assert whole.metrics == pytest.approx(parts.metrics, abs=1e-3)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("inputs=[registers]", r"inputs=\['registers'\]: expected patches, and none or any of registers, both"),
        ("inputs=[patches,cls]", r"inputs=\['patches', 'cls'\]: expected"),
        ("warmup_steps=4", "warmup_steps=4: must be below steps=4"),
        ("betas=[0.9]", r"betas=\[0\.9\]: expected two numbers"),
        ("learning_rates=[]", "learning_rates: expected a list"),
        ("weight_decays=[]", "weight_decays: expected a list"),
    ],
)
def test_settings_that_cannot_be_are_told(word, message):
    with pytest.raises(SettingsError, match=message):
        mini_settings(word)


# ------------------------------------------------------------------------------------------------ whole runs, planted


class PixelPatches(nn.Module):
    """Patches are their own pixels; the marker patch is an outlier by its norm, as nothing else is bright."""

    image_size, mean, std = SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def forward(self, images):
        cut = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # B, 3, h, w, p, p
        return {"patches": cut.permute(0, 2, 3, 1, 4, 5).flatten(3)}


def write_planted(root, split, images, seed):
    """Images of dim patches with the code of a class drawn at random; the bright one has the code of the label."""
    generator = torch.Generator().manual_seed(seed)
    for number in range(images):
        label = number % 2
        codes = torch.randint(2, (64,), generator=generator)
        place = int(torch.randint(64, (1,), generator=generator))
        codes[place] = label
        patches = torch.zeros(64, 3, PATCH, PATCH)
        patches[:, 0] = 60.0 + torch.randint(8, (64, 1, 1), generator=generator)
        patches[torch.arange(64), 1, codes] = 60.0
        patches[place, :] *= 4
        pixels = F.fold(patches.flatten(1).T[None], SIDE, PATCH, stride=PATCH)[0].to(torch.uint8)
        folder = root / "imagenet" / split / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{number:04d}.png")
    return DataSettings(name="planted", root=str(root), imagenet="imagenet")


def test_the_patch_that_bears_the_label_is_attended_and_counted_as_an_outlier(tmp_path):
    write_planted(tmp_path, "train", 240, 0)
    data = write_planted(tmp_path, "val", 60, 1)
    words = ["steps=200", "warmup_steps=10", "batch_size=64", "learning_rates=[0.04]", "weight_decays=[0]"]
    words += [f"resize={SIDE}", f"crop={SIDE}", "head_width=16", "queries=8", "device_batch=64"]
    outcome = attentive_probe.run(ForeignBackbone(PixelPatches(), "patches"), data, mini_settings(*words))
    assert outcome.metrics["top1"] == 100
    assert outcome.floors[attentive_probe.MEAN_FLOOR]["top1"] < 80
    assert outcome.metrics["outlier_share"] == pytest.approx(100 / 64)
    kind = outcome.protocol["head"]["kind"]
    assert outcome.metrics[f"outlier_mass_{kind}"] > 20 * outcome.metrics["outlier_share"]


def test_heads_are_chosen_on_held_out_train_even_where_test_says_otherwise(tmp_path):
    # Test labels are swapped: the head that learnt is wrong on every test image, one that did not is right on half.
    shades = torch.tensor([0.2, 0.8]).repeat_interleave(30)[:, None].expand(-1, planted_features.WIDTH)
    labels = torch.arange(2).repeat_interleave(30)
    planted_features.write(tmp_path, "train", shades, labels)
    data = planted_features.write(tmp_path, "val", shades[::3], 1 - labels[::3])
    side = planted_features.SIDE
    words = ["steps=40", "learning_rates=[1e-12,0.1]", "weight_decays=[0]", f"resize={side}", f"crop={side}"]
    outcome = attentive_probe.run(planted_features.pixels(), data, mini_settings(*words, "batch_size=32"))
    assert outcome.protocol["heads_of_kinds"]["capi"]["lr"] == 0.1
    assert outcome.metrics["top1_held_out"] == 100
    assert outcome.metrics["top1"] == outcome.metrics["top1_capi"] == 0
    assert outcome.metrics["top1_best_on_test"] >= 50
