"""The search against planted neurons, against means by hand, and its refusals."""

from dataclasses import replace

import pytest
import torch

from regvit_lightning.analysis import neuron_search, norms
from regvit_lightning.analysis.neuron_search import NeuronPass, RegisterPass, Scored, Search
from regvit_lightning.errors import UserError
from regvit_lightning.models.interventions import WithRegister
from regvit_lightning.models.register_neurons import RegisterNeurons
from tests.analysis.planted import planted
from tests.models.test_backbones import images
from tests.models.test_interventions import backbone_of


@pytest.fixture(scope="module")
def truth():
    return planted(block=3, registers=0)


@pytest.fixture(scope="module")
def measured(truth):
    return norms.measure(truth.backbone, truth.normalised())


def scores_of(truth, masks, parts=2):
    module = NeuronPass(truth.backbone, masks)
    for index, part in enumerate(truth.images.chunk(parts)):
        module.test_step((part,), index)
    return module


def test_a_planted_neuron_is_found(truth, measured):
    detected = neuron_search.detect("planted", measured, Search())
    assert torch.equal(detected.masks, truth.flat)
    assert (detected.top_block, detected.images) == (truth.block - 1, 16)
    module = scores_of(truth, detected.masks)
    for score in neuron_search.SCORES:
        first, second, *_ = neuron_search.ranked(module.activation, module.elsewhere, score, 0, detected.top_block)
        assert (first.block, first.neuron) == (truth.block - 1, 0)
        assert first.activation > 5 * second.activation
    chosen = neuron_search.ranked(module.activation, module.elsewhere, "contrast", 0, detected.top_block)[:1]
    neurons = neuron_search.listed(chosen, "w", "s")
    assert neurons == RegisterNeurons({truth.block - 1: (0,)}, "w", "s")


def test_only_the_contrast_leaves_out_a_neuron_that_is_always_active(truth, measured):
    other = planted(block=3, registers=0)
    mlp = other.backbone.model.blocks[0].mlp
    mlp.fc1.weight.data[7], mlp.fc1.bias.data[7], mlp.fc2.weight.data[:, 7] = 0, 50, 0
    module = scores_of(other, truth.flat)
    first = {
        score: neuron_search.ranked(module.activation, module.elsewhere, score, 0, 2)[0]
        for score in neuron_search.SCORES
    }
    assert (first["activation"].block, first["activation"].neuron) == (0, 7)
    assert (first["contrast"].block, first["contrast"].neuron) == (2, 0)
    excluded = neuron_search.ranked(module.activation, module.elsewhere, "activation", 1, 2)[0]
    assert (excluded.block, excluded.neuron) == (2, 0)


def test_scores_are_means_of_means_over_the_images_with_outliers(truth):
    masks = truth.flat.clone()
    masks[3:] = False
    masks[1] = torch.arange(64).view(8, 8) < 5
    module = scores_of(truth, masks, parts=4)
    hidden = {}
    with truth.backbone.watching_neurons(lambda block, neurons: hidden.update({block: neurons.abs()})):
        truth.backbone(truth.normalised())
    activations, flat = hidden[1].double(), masks.flatten(1)
    expected = torch.stack([activations[image][flat[image]].mean(dim=0) for image in range(3)]).mean(dim=0)
    elsewhere = torch.stack([activations[image][~flat[image]].mean(dim=0) for image in range(3)]).mean(dim=0)
    torch.testing.assert_close(module.activation[1], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(module.elsewhere[1], elsewhere, rtol=1e-5, atol=1e-6)


def test_ranks_by_hand():
    activation = torch.tensor([[1.0, 9.0], [4.0, 4.0], [8.0, 0.0]])
    elsewhere = torch.tensor([[0.0, 8.5], [0.0, 1.0], [0.0, 0.0]])
    order = [(one.block, one.neuron) for one in neuron_search.ranked(activation, elsewhere, "activation", 0, 1)]
    assert order == [(0, 1), (1, 0), (1, 1), (0, 0)]
    order = [(one.block, one.neuron) for one in neuron_search.ranked(activation, elsewhere, "contrast", 0, 2)]
    assert order == [(2, 0), (1, 0), (1, 1), (0, 0), (0, 1), (2, 1)]
    assert neuron_search.ranked(activation, elsewhere, "contrast", 1, 1)[0] == Scored(1, 0, 4.0, 0.0)


def test_a_model_without_artifacts_is_refused(truth):
    clean = norms.measure(truth.clean, truth.normalised())
    with pytest.raises(UserError, match=r"clean: nothing to repair: the largest norm .* × median, after block \d of 4"):
        neuron_search.detect("clean", clean, Search(threshold=0.1))


def test_high_norms_of_the_patch_embedding_are_no_artifacts(truth, measured):
    embedded = measured.embedded.clone()
    embedded[truth.flat] = 100 * embedded.median()
    with pytest.raises(UserError, match="nothing to repair"):
        neuron_search.detect("planted", replace(measured, embedded=embedded), Search())


@pytest.mark.parametrize(
    ("search", "problem"),
    [
        (Search(threshold=1e6), r"no norm above threshold=1e\+06 after block"),
        (Search(detect=4), "detect=4: it has 4 blocks, numbered 0 to 3"),
        (Search(top_block=-5), "top_block=-5: it has 4 blocks"),
        (Search(first_block=3), "first_block=3: the last block of the search is 2"),
    ],
)
def test_settings_that_do_not_fit(measured, search, problem):
    with pytest.raises(UserError, match=problem):
        neuron_search.detect("planted", measured, search)


def test_settings_are_taken(measured):
    detected = neuron_search.detect("planted", measured, Search(detect=-2, threshold=100, top_block=-1))
    assert (detected.block, detected.threshold, detected.top_block) == (2, 100, 3)
    assert [
        neuron_search.top_k(search, width)
        for search, width in ((Search(), 1024), (Search(), 768), (Search(top_k=3), 1024))
    ] == [50, 10, 3]


def test_the_effect_and_the_mean_register(truth, measured):
    detected = neuron_search.detect("planted", measured, Search())
    before = neuron_search.effect(measured, detected)
    assert before.register is None
    assert before.outliers == pytest.approx(100 * 2 / 64)
    module = RegisterPass(WithRegister(planted(block=3, registers=0).backbone, RegisterNeurons({2: (0,)})))
    keys = []
    for index, part in enumerate(truth.images.split(5)):
        module.test_step((part,), index)
    module.on_test_epoch_end()
    after = neuron_search.effect(module.norms, detected)
    assert after.outliers == 0
    assert after.max_over_median < 3 < before.max_over_median
    assert after.register > 100
    backbone = module.frozen.backbone
    with torch.no_grad(), backbone.watching_register(lambda block, key, value: keys.append((block, key, value))):
        backbone(truth.normalised())
    assert [block for block, _, _ in keys] == [0, 1, 2, 3]
    torch.testing.assert_close(module.mean_register.keys[3], keys[3][1].mean(dim=0))
    torch.testing.assert_close(module.mean_register.values[3], keys[3][2].mean(dim=0))


@pytest.mark.parametrize("family", ["clip", "swiglu", "pooled", "dinov3"])
@torch.inference_mode()
def test_neurons_of_every_kind_of_mlp_are_those_that_the_second_layer_reads(family):
    """GELU of a CLIP tower, the product of a SwiGLU, a model without CLS, one with registers of its own."""
    backbone = backbone_of(family)
    x = images(backbone.image_size)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (backbone.mean, backbone.std))
    pixels = ((x * std + mean) * 255).clamp(0, 255).to(torch.uint8)
    side = backbone.image_size // backbone.patch_size
    masks = torch.zeros(len(pixels), side, side, dtype=torch.bool)
    masks[:, 0, 1] = True
    module = NeuronPass(backbone, masks)
    module.test_step((pixels,), 0)
    read = {}
    layer = backbone.readers()[1]
    layer.register_forward_pre_hook(lambda _, inputs: read.update(last=inputs[0].abs().double()))
    backbone((pixels.float() / 255 - mean) / std)
    patches = read["last"][:, -side * side :]
    torch.testing.assert_close(module.activation[1], patches[:, 1].mean(dim=0), rtol=1e-4, atol=1e-5)
    others = torch.cat([patches[:, :1], patches[:, 2:]], dim=1)
    torch.testing.assert_close(module.elsewhere[1], others.mean(dim=(0, 1)), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------- norms written by hand


def by_hand(outliers, depth=4, registers=0, size=8):
    """Norms of an image: 1 everywhere but, after each block, at the first `outliers[block]` patches, which have 10."""
    patches = torch.ones(1, depth + 1, size * size)
    for block, count in enumerate(outliers):
        patches[:, block, :count] = 10.0
    some = torch.zeros(1, depth + 1)
    known = {"cls": None, "neighbours": torch.zeros(1, size, size), "largest": some, "median": some, "kurtosis": some}
    registers = torch.arange(1.0, registers + 1).expand(1, depth + 1, registers)
    embedded = torch.ones(1, size, size)
    return norms.Norms(patches=patches.view(1, -1, size, size), registers=registers, embedded=embedded, **known)


@pytest.mark.parametrize(
    ("outliers", "top"), [((0, 4, 6, 10), 2), ((0, 5, 10, 10), 1), ((0, 0, 4, 10), 3), ((1, 1, 4, 10), 3)]
)
def test_the_search_ends_where_half_of_the_outliers_have_their_norm(outliers, top):
    """Of the ten outliers after the last block so many had a high norm after each one."""
    assert neuron_search.detect("m", by_hand(outliers), Search(detect=3)).top_block == top


def test_a_search_in_one_block_is_one():
    assert neuron_search.detect("m", by_hand((0, 0, 4, 4)), Search(first_block=2)).top_block == 2


@pytest.mark.parametrize(("norm", "found"), [(2.9, False), (3.1, True)])
def test_artifacts_are_from_three_medians_on(norm, found):
    known = by_hand((0, 0, 4, 0))
    known.patches[known.patches > 5] = norm
    if found:
        assert neuron_search.detect("m", known, Search()).images == 1
        return
    with pytest.raises(UserError, match="nothing to repair"):
        neuron_search.detect("m", known, Search())


def test_a_patch_that_is_high_from_the_embedding_on_is_no_outlier():
    known = by_hand((0, 0, 4, 4))
    known.embedded[0, 0, 0] = 10.0
    masks = neuron_search.detect("m", known, Search()).masks
    assert masks.flatten().nonzero().flatten().tolist() == [1, 2, 3]


def test_the_effect_is_measured_where_the_outliers_were():
    """Four outliers of 64 after block 2, none after the last; the register that was added is the last of three."""
    known = by_hand((0, 0, 4, 0), registers=3)
    detected = neuron_search.detect("m", known, Search())
    assert detected.block == 2
    found = neuron_search.effect(known, detected)
    assert (found.outliers, found.max_over_median, found.register) == (pytest.approx(100 * 4 / 64), 10.0, 3.0)
