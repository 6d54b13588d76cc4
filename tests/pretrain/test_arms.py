"""Arms in the recipes: weight decay, dropped samples and masks of DINOv2, fp16, EMA, FSDP, compiled blocks."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.models import arms
from regvit_lightning.models.arms import global_pathway
from regvit_lightning.pretrain.deit3 import DeiT3
from regvit_lightning.pretrain.dinov2.recipe import DINOv2
from regvit_lightning.pretrain.openclip import OpenClip
from regvit_lightning.settings import SettingsError
from tests.models.arms.test_registry import build, named
from tests.pretrain.dinov2.test_recipe import SMALL, crops

ADDED = ("gate", "norm_pre", "bias_k", "lambda", "_norm", "attn.norm")  # in names of what only arms have


def made(kind, recipe, arm, *words):
    torch.manual_seed(0)
    chosen = settings.load_settings("recipes", recipe, "mini", list(words))[1]
    return kind(chosen, named(arm), 16, 100, 0)


def decayed(recipe):
    """Names of parameters with weight decay."""
    called = {id(value): name for name, value in recipe.named_parameters()}
    groups = recipe.configure_optimizers().param_groups
    return {called[id(value)] for group in groups if group["weight_decay"] for value in group["params"]}


@pytest.mark.parametrize("arm", arms.names())
def test_matrices_of_an_arm_decay_and_its_vectors_do_not(arm):
    if arm != "norm_embed":
        assert_decay(made(OpenClip, "openclip", arm))
    assert_decay(made(DeiT3, "deit3", arm, "weight_decay=0.1"))
    dinov2 = made(DINOv2, "dinov2", arm, *SMALL)
    dinov2.set_options(dinov2.configure_optimizers(), 0)
    factors = {}
    called = {id(value): name for name, value in dinov2.student["backbone"].named_parameters()}
    for group in dinov2.configure_optimizers().param_groups:
        factors |= {called[id(value)]: group["decay_factor"] for value in group["params"] if id(value) in called}
    for name in [name for name in factors if any(part in name for part in ADDED)]:
        assert factors[name] == (1.0 if name.endswith("gate.weight") else 0.0), name


def assert_decay(recipe):
    found = decayed(recipe)
    for name, value in recipe.backbone.named_parameters():
        if any(part in name for part in (*ADDED, "bias_v")):
            assert (f"backbone.{name}" in found) is (value.ndim == 2), name


@pytest.mark.parametrize("arm", arms.names())
def test_dinov2_trains_it_with_masks_and_dropped_samples(arm):
    recipe = made(DINOv2, "dinov2", arm, *[word for word in SMALL if "drop_path" not in word], "drop_path=0.4")
    losses = recipe.losses(crops(), recipe.groups_of(8), 0)
    torch.stack(list(losses.values())).sum().backward()
    silent = [name for name, value in recipe.student["backbone"].named_parameters() if value.grad is None]
    assert not silent
    recipe.update_teacher(0.5)
    assert recipe.metadata("dinov2").name == named(arm)
    assert recipe.backbone.arm == arm


@pytest.mark.parametrize("arm", arms.names())
def test_fp16_is_finite_and_the_ema_follows(arm):
    recipe = made(DeiT3, "deit3", arm)
    with torch.autocast("cpu", torch.float16), torch.no_grad():
        assert recipe.backbone(torch.zeros(1, 3, 64, 64)).isfinite().all()
    with torch.no_grad():
        for value in recipe.backbone.parameters():
            value.add_(1.0)
    recipe.ema.update_parameters(recipe.backbone)
    pairs = zip(recipe.ema.module.parameters(), recipe.backbone.parameters(), strict=True)
    assert all((own - leader).abs().max() < 1 for own, leader in pairs)


def test_openclip_refuses_a_second_norm_of_its_embeddings():
    with pytest.raises(SettingsError, match="arm norm_embed: this recipe's model has a norm"):
        made(OpenClip, "openclip", "norm_embed")


@pytest.mark.parametrize(("before", "now"), [("softmax1", "none"), ("none", "clipped"), ("softmax1", "clipped")])
def test_a_phase_before_of_another_arm_is_refused_though_all_tensors_fit(tmp_path, before, now):
    first = made(DINOv2, "dinov2", before, *SMALL)
    content = {"state_dict": first.state_dict(), "hyper_parameters": {"model": first.model}}
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"of vitn.*_reg2, which has another arm than vitn.*_reg2$"):
        made(DINOv2, "dinov2", now, *SMALL, f"start_from={tmp_path / 'last.ckpt'}")
    made(DINOv2, "dinov2", before, *SMALL, f"start_from={tmp_path / 'last.ckpt'}")


@pytest.mark.parametrize("arm", arms.names())
def test_blocks_compile_without_a_break_in_the_graph(arm):
    model: nn.Module = build(arm).eval()
    block = model.blocks[1]
    x = torch.randn(1, 5, 96)
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), block(x))


@pytest.mark.parametrize(("kind", "name"), [(DeiT3, "deit3"), (OpenClip, "openclip")])
def test_the_common_mode_penalty_is_a_term_of_the_loss_of_the_arm_global_alone(kind, name, monkeypatch):
    def step(arm, weight):
        monkeypatch.setattr(global_pathway, "PENALTY", weight)
        recipe = made(kind, name, arm, "batch_size=4", "device_batch=2" if name == "openclip" else "device_batch=4")
        monkeypatch.setattr(recipe, "log_dict", lambda *_, **__: None)
        monkeypatch.setattr(recipe, "log", lambda *_, **__: None)
        recipe._trainer = SimpleNamespace(world_size=1, global_rank=0, strategy=SimpleNamespace(root_device="cpu"))
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=generator)
        batch = {"image": images, "label": torch.arange(4)}
        if name == "openclip":
            batch["text"] = recipe.space.tokenize(["a", "b", "c", "d"])
        torch.manual_seed(0)
        return recipe.train().training_step(batch, 0).item()

    none, some, more = (step("global", weight) for weight in (0.0, 1.0, 2.0))
    assert 0 < some - none <= 1 + 1e-6
    assert more - some == pytest.approx(some - none, abs=1e-5)
    assert step("gated", 0.0) == step("gated", 1.0)


def test_the_common_mode_penalty_is_added_to_the_losses_of_dinov2(monkeypatch):
    def step(arm, weight):
        monkeypatch.setattr(global_pathway, "PENALTY", weight)
        recipe = made(DINOv2, "dinov2", arm, *SMALL)
        logged = {}
        keep = lambda values: logged.update({name: value.item() for name, value in values.items()})  # noqa: E731
        monkeypatch.setattr(recipe, "log_dict", keep)
        recipe._trainer = SimpleNamespace(global_rank=0, global_step=0)
        loss = recipe.train().training_step({"image": crops()}, 0)
        return loss.item(), logged.get("train/common_mode")

    (none, _), (some, logged) = step("global", 0.0), step("global", 1.0)
    assert some - none == pytest.approx(logged, abs=1e-4)
    assert 0 < logged <= 1
    assert step("none", 1.0)[1] is None
