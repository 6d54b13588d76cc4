"""Norms of every stage against `Backbone.forward`, on every family; hidden statistics by hand; the planted neuron."""

import weakref

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from regvit_lightning.analysis import norms
from regvit_lightning.analysis.norms import NormPass, join, measure, neighbour_similarity
from regvit_lightning.errors import UserError
from regvit_lightning.frozen import trainer
from regvit_lightning.frozen.contract import RunOptions
from tests.analysis.planted import planted
from tests.models.test_backbones import MODELS, images, joined, tiny


@pytest.fixture(scope="module")
def case():
    return planted()


@pytest.mark.parametrize("family", MODELS)
@torch.inference_mode()
def test_one_pass_equals_a_forward_pass_for_each_block(family):
    backbone = tiny(family)
    x = images(backbone.image_size)
    found = measure(backbone, x)
    stages = [backbone(x, blocks=(block,), norm=False)[0] for block in range(3)] + backbone(x, blocks=(2,))
    assert found.patches.shape == (2, 4, 4, 4)
    assert found.registers.shape == (2, 4, backbone.num_registers)
    assert (found.cls is None) == (not backbone.has_cls)
    for place, tokens in enumerate(stages):
        torch.testing.assert_close(found.patches[:, place], tokens.patches.square().sum(-1).sqrt())
        torch.testing.assert_close(found.registers[:, place], tokens.registers.square().sum(-1).sqrt())
        if found.cls is not None:
            torch.testing.assert_close(found.cls[:, place], tokens.cls.square().sum(-1).sqrt())
        every = joined(tokens).abs().flatten(1).numpy()
        np.testing.assert_array_equal(found.median[:, place], np.sort(every)[:, (every.shape[1] - 1) // 2])
        np.testing.assert_array_equal(found.largest[:, place].amax(1), every.max(1))


@pytest.mark.parametrize("family", ["cls", "beit", "rope pooled"])
def test_the_embedding_is_taken_before_position_embeddings(family):
    backbone = tiny(family)
    x = images(backbone.image_size)
    found = measure(backbone, x)
    weight, bias = backbone.model.patch_embed.proj.weight, backbone.model.patch_embed.proj.bias
    embedded = F.conv2d(x, weight, bias, stride=weight.shape[-1])
    cosine = F.cosine_similarity(embedded[:, :, 1, 1], embedded[:, :, 1, 2])
    corner = F.cosine_similarity(
        embedded[:, :, 0, 0, None], torch.stack([embedded[:, :, 0, 1], embedded[:, :, 1, 0]], 2)
    )
    torch.testing.assert_close(found.neighbours[:, 0, 0], corner.mean(1))
    others = [F.cosine_similarity(embedded[:, :, 1, 1], embedded[:, :, i, j]) for i, j in ((0, 1), (2, 1), (1, 0))]
    torch.testing.assert_close(found.neighbours[:, 1, 1], (cosine + sum(others)) / 4)


def test_neighbours_by_hand():
    # Two columns of orthogonal vectors, two rows: every patch agrees with the one below or above, not beside.
    patches = torch.eye(2).expand(2, 2, 2)[None]
    assert neighbour_similarity(patches).flatten().tolist() == [0.5] * 4
    assert neighbour_similarity(torch.ones(1, 3, 3, 5)).flatten().tolist() == pytest.approx([1.0] * 9)
    assert neighbour_similarity(torch.ones(1, 1, 1, 5)).item() == 0
    lone = torch.ones(1, 3, 3, 1)
    lone[0, 1, 1] = -1  # against 4; an edge has 3 neighbours, a corner 2
    expected = [[1, 1 / 3, 1], [1 / 3, -1, 1 / 3], [1, 1 / 3, 1]]
    np.testing.assert_allclose(neighbour_similarity(lone)[0], expected, rtol=1e-6)


def test_kurtosis_is_that_of_scipy_and_its_largest_value_is_a_spike():
    values = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) ** 3
    np.testing.assert_allclose(norms.kurtosis(values), stats.kurtosis(values, axis=1, fisher=False), rtol=1e-4)
    spike = torch.zeros(1, 100)
    spike[0, 3] = 7
    assert norms.kurtosis(spike).item() == pytest.approx(100, rel=0.03)


def test_the_planted_norms_and_block(case):
    found, clean = measure(case.backbone, case.normalised()), measure(case.clean, case.normalised())
    assert torch.equal(found.patches[:, : case.block - 1], clean.patches[:, : case.block - 1])
    highest = found.raw[:, case.block - 1] > 100
    assert torch.equal(highest, case.flat)
    assert found.kurtosis[:, case.block - 1].mean() > clean.kurtosis[:, case.block - 1].mean() + 1
    assert measure(case.clean, case.normalised()).raw.max() < 10


def test_batches_joined_are_one_batch(case):
    x = case.normalised()
    whole, parts = measure(case.backbone, x), join([measure(case.backbone, part) for part in x.split(5)])
    assert len(parts) == len(whole) == 16
    for name in (
        "patches",
        "registers",
        "cls",
        "embedded",
        "neighbours",
        "largest",
        "median",
        "kurtosis",
    ):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-4, atol=1e-4)


def test_a_test_pass_measures_uint8_images(case):
    module = NormPass(case.backbone, "32-true")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(case.images, torch.zeros(16)), batch_size=6)
    trainer.Tester(RunOptions()).test(module, loader, verbose=False)
    torch.testing.assert_close(module.norms.patches, measure(case.backbone, case.normalised()).patches)
    assert not case.backbone.model.blocks[0]._forward_hooks


def test_norms_are_float32_under_bf16(case):
    module = NormPass(case.backbone, "bf16-mixed")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(case.images), batch_size=8)
    trainer.Tester(RunOptions()).test(module, loader, verbose=False)
    assert module.norms.patches.dtype == torch.float32
    assert torch.equal(module.norms.raw[:, -1] > 100, case.flat)


def test_images_of_two_sizes_and_no_images(case):
    parts = [measure(case.backbone, case.normalised()[:1, :, :size]) for size in (64, 32)]
    assert parts[1].patches.shape == (1, 5, 4, 8)
    with pytest.raises(ValueError, match="norms of one grid of patches expected"):
        join(parts)
    with pytest.raises(ValueError, match="no images"):
        join([])
    with pytest.raises(UserError, match="not a multiple of the patch size"):
        measure(case.backbone, case.normalised()[..., :60])


def test_only_one_stage_is_in_memory(case):
    alive = []

    def see(stage, tokens):
        alive.append(weakref.ref(tokens.patches))
        assert sum(reference() is not None for reference in alive) <= 2

    with torch.inference_mode():
        case.backbone.walk(case.normalised(), see)
    assert len(alive) == case.backbone.depth + 2


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives():
    gpu, cpu = planted(), planted()
    x = cpu.normalised()
    on_gpu, on_cpu = measure(gpu.backbone.cuda(), x.cuda()), measure(cpu.backbone, x)
    for name in ("patches", "registers", "cls", "neighbours", "median", "kurtosis"):
        torch.testing.assert_close(getattr(on_gpu, name), getattr(on_cpu, name), atol=1e-2, rtol=1e-3)
