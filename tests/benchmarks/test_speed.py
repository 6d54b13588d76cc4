"""The rows about pretraining run, and what they compare computes the same."""

from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from benchmarks.speed import arms as arm_speed
from benchmarks.speed import interventions, pieces, pretraining, startup
from benchmarks.speed.plain_dinov2 import PlainDinov2
from benchmarks.speed.timing import image_count, image_shapes
from regvit_lightning import settings
from regvit_lightning.models import sources, vit
from tests.pretrain.dinov2.test_recipe import crops, recipe, total


@pytest.mark.parametrize("device_batch", [4, 8])
def test_the_straightforward_step_finds_the_losses_of_the_recipe(device_batch):
    module, groups = recipe(f"device_batch={device_batch}"), [(0, 0), (0, 1)]
    generator = torch.Generator().manual_seed(7)
    for parameter in module.student.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    plain = PlainDinov2(module)
    found = total(plain.losses(crops(), module.masks_of(groups), module.teacher_temperature(100)))
    expected = total(module.losses(crops(), groups, 100))
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    found.backward()
    ours = plain.student.blocks[0].attn.qkv.weight.grad
    expected.backward()
    theirs = module.student["backbone"].blocks[0].attn.qkv.weight.grad
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_the_bare_loop_trains_the_model_of_the_recipe_and_averages_it(monkeypatch):
    words = ["image_size=16", "batch_size=2", "device_batch=2", "layer_scale=0.1", "drop_path=0.2"]
    recipe = settings.load_settings("recipes", "deit3", "mini", words)[1]
    built, build, timed = [], vit.build, []

    def kept(*args, **options):
        built.append((build(*args, **options), options))
        return built[-1][0]

    def clock(step):
        step()
        timed.append(step)
        return float(len(timed))  # 1, 2, 3 seconds: their mean counts, not their median

    monkeypatch.setattr(vit, "build", kept)
    monkeypatch.setattr(pretraining, "seconds_once", clock)
    updates = []
    monkeypatch.setattr(AveragedModel, "update_parameters", lambda self, model: updates.append(model))
    assert pretraining.bare_rate("vitn_reg4", recipe, steps=4) == 2 * 4 / (1 + 2 + 3 + 4)
    (network, options), *none = built
    assert not none
    assert (options["layer_scale"], options["drop_path"]) == (0.1, 0.2)
    assert updates == [network] * (pretraining.WARMUP + 4)
    assert network.training
    assert network.patch_embed.proj.weight.grad.abs().sum() > 0


def test_every_batch_of_images_is_counted_by_either_way_through_the_backbone():
    backbone = sources.load_backbone("random-vitn_reg4", Path("runs"))
    small, large = torch.zeros(3, 3, 64, 64), torch.zeros(1, 3, 96, 64)
    with torch.inference_mode(), image_shapes(backbone) as shapes:
        backbone(small)
        backbone.projections(small)
        backbone.projections(large)
    backbone(small)  # after the count has ended
    assert shapes == {(3, 3, 64, 64): 2, (1, 3, 96, 64): 1}
    assert image_count(shapes) == 7


def test_speed_of_an_arm_is_that_of_pairs_of_steps():
    # A machine that is three times as slow in the second half slows both sides, and changes no ratio.
    own, plain = [2.0, 2.0, 6.0, 6.0], [1.0, 1.0, 3.0, 3.0]
    pace = arm_speed.summary("vitn_gated_reg0", 48, own, plain)
    assert (pace.relative, pace.low, pace.high) == (0.5, 0.5, 0.5)
    assert pace.images_per_second == 48 / 4


def test_every_trained_model_of_the_grid_of_arms_takes_a_step():
    models = arm_speed.models()
    assert {"vitn_reg0", "vitn_global_reg0", "vitn_rats_reg6", "vitn_last7_reg0"} <= set(models)
    for model in ("vitn_global_reg0", "vitn_rats_reg6"):
        assert arm_speed.pace(model, steps=2, image_size=16, batch=1).images_per_second > 0


def test_cost_of_an_intervention_is_that_of_pairs_of_passes():
    # A machine that is three times as slow in the second half slows both sides, and changes no ratio.
    assert interventions.ratio([(1.02, 1.0), (1.02, 1.0), (3.06, 3.0), (9.0, 3.0)]) == pytest.approx(1.02)


def test_every_intervention_passes_images_and_has_a_row():
    rows = interventions.rows(2, "vitn_reg0", image_size=16, batch=1)
    assert [row.name.split()[3] for row in rows] == ["+ttr", "+ttr_per_block", "+bias"]
    assert all(row.value > 0 for row in rows)
    assert {row.target for row in rows} == {"≤ 1.03"}


def test_files_that_are_indexed_are_counted(monkeypatch):
    monkeypatch.setattr(startup.time, "sleep", lambda seconds: None)
    first, again = startup.index(2, 3)
    assert "6 files in 2 folders" in first.name
    assert first.value > 0 < again.value


def test_shards_that_are_indexed_are_counted(monkeypatch):
    monkeypatch.setattr(pieces, "SHARDED", 40)
    measured = pieces.shards()
    assert "40 images" in measured.parts
    assert measured.value > 0
    assert pieces.bank(4, 300, 8).value > 0
