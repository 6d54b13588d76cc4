"""Test-time registers and biases against models in which the neurons are deleted, and against values by hand."""

import copy
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from regvit_lightning.errors import UserError
from regvit_lightning.models import interventions, vit, weights
from regvit_lightning.models.interventions import WithBias, WithRegister, per_block, per_neuron
from regvit_lightning.models.metadata import Metadata
from regvit_lightning.models.names import PER_BLOCK, Intervention
from regvit_lightning.models.register_neurons import MeanRegister, RegisterNeurons
from regvit_lightning.models.vit_backbone import ViTBackbone
from tests.analysis.planted import planted
from tests.models.test_backbones import images, joined, nano, randomised, tiny

CHOSEN = RegisterNeurons({0: (3, 17), 2: (5,)})
NOBODY = RegisterNeurons({})
FAMILIES = ("cls", "registers", "pooled", "dinov3", "eva02", "eva separate qkv", "q/k norm", "post norm", "clip")


def backbone_of(family: str) -> ViTBackbone:
    if family == "swiglu":
        return nano(0, swiglu=True)
    model = tiny(family)
    assert isinstance(model, ViTBackbone)
    return model


def without(plain: ViTBackbone, neurons: RegisterNeurons) -> ViTBackbone:
    """The model in which these neurons write nothing."""
    other = copy.deepcopy(plain)
    for block, chosen in neurons.blocks.items():
        other.model.blocks[block].mlp.fc2.weight.data[:, list(chosen)] = 0
    return other


def test_values_of_a_register_by_hand():
    activations = torch.tensor([[[1.0, 2.0], [-3.0, 0.5]], [[0.0, -7.0], [4.0, 6.0]]])
    assert per_neuron(activations).tolist() == [[-3.0, 2.0], [4.0, -7.0]]
    assert per_block(activations).tolist() == [[-3.0, -3.0], [-7.0, -7.0]]


@pytest.mark.parametrize("family", [*FAMILIES, "swiglu"])
@torch.inference_mode()
def test_patches_are_those_of_the_model_without_the_neurons(family):
    """In the last block, so that no later attention sees the register."""
    plain = backbone_of(family)
    neurons = RegisterNeurons({plain.depth - 1: (5, 1)})
    x = images(plain.image_size)
    deleted = WithRegister(without(plain, neurons), NOBODY)(x, (-1,), norm=False)[0]
    repaired = WithRegister(copy.deepcopy(plain), neurons)(x, (-1,), norm=False)[0]
    inert = WithRegister(plain, NOBODY)(x, (-1,), norm=False)[0]
    torch.testing.assert_close(repaired.patches, deleted.patches, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(repaired.patches, inert.patches, rtol=1e-3, atol=1e-3)
    others = joined(replace(repaired, registers=repaired.registers[:, :-1], patches=repaired.patches[:, :0]))
    torch.testing.assert_close(
        others, joined(replace(inert, registers=inert.registers[:, :-1], patches=inert.patches[:, :0]))
    )


@pytest.mark.parametrize("swiglu", [False, True])
@torch.inference_mode()
def test_the_register_gets_the_extreme_of_each_neuron_before_the_second_layer(swiglu):
    plain = nano(0, swiglu=swiglu)
    last, (j, k) = plain.depth - 1, (5, 1)
    x, neurons = images(32), RegisterNeurons({last: (j, k)})
    hidden = []
    inert = WithRegister(copy.deepcopy(plain), NOBODY)
    block = inert.model.blocks[last]
    block.norm2.register_forward_hook(lambda _, __, output: hidden.append(block.mlp.fc1(output)))
    base = inert(x, (-1,), norm=False)[0].registers[:, 0]
    first, second = hidden[0].chunk(2, dim=-1) if swiglu else (hidden[0], None)
    acts = nn.functional.silu(first) * second if swiglu else nn.functional.gelu(first)
    for value, extreme in (("per_neuron", None), (PER_BLOCK, (j, k))):
        register = WithRegister(copy.deepcopy(plain), neurons, value)(x, (-1,), norm=False)[0].registers[:, 0]
        expected = base.clone()
        for neuron in (j, k):
            seen = acts[:, :, [neuron] if extreme is None else list(extreme)].flatten(1)
            most = torch.stack([row[row.abs().argmax()] for row in seen])
            expected += (most - acts[:, 1, neuron])[:, None] * block.mlp.fc2.weight[:, neuron]
        torch.testing.assert_close(register, expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_outlier_of_a_planted_neuron_moves_to_the_register():
    truth = planted(registers=0, per_image=1)
    neurons = RegisterNeurons({truth.block - 1: (0,)})
    for block in truth.backbone.model.blocks:
        nn.init.zeros_(block.attn.proj.weight)  # tokens do not meet, so that the equalities hold after all blocks
        nn.init.zeros_(block.attn.proj.bias)
    x, blocks = truth.normalised(), range(truth.block - 1, truth.backbone.depth)
    deleted = without(truth.backbone, neurons)(x, blocks, norm=False)
    plain = truth.backbone(x, blocks, norm=False)
    inert = WithRegister(copy.deepcopy(truth.backbone), NOBODY)(x, blocks, norm=False)
    repaired = WithRegister(truth.backbone, neurons)(x, blocks, norm=False)
    for one, other, gone in zip(repaired, deleted, plain, strict=True):
        norms = one.patches.norm(dim=-1)
        torch.testing.assert_close(norms, other.patches.norm(dim=-1))
        assert (gone.patches.norm(dim=-1)[truth.flat] > 10 * norms[truth.flat]).all()
    written = (plain[0].patches - deleted[0].patches)[truth.flat]  # one patch an image
    torch.testing.assert_close(repaired[0].registers[:, 0] - inert[0].registers[:, 0], written, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        repaired[0].registers[:, 0].norm(dim=-1), plain[0].patches.norm(dim=-1)[truth.flat], rtol=0.05, atol=0
    )


@pytest.mark.parametrize("value", ["per_neuron", PER_BLOCK])
@torch.inference_mode()
def test_every_image_of_a_batch_is_edited_by_itself(value):
    model = WithRegister(nano(0), CHOSEN, value)
    x = images(32, batch=4)
    together = joined(model(x))
    alone = torch.cat([joined(model(image[None])) for image in x])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together[0], together[1])


@torch.inference_mode()
def test_without_neurons_it_is_the_model_with_one_register_of_zeros():
    plain = nano(0)
    state = {**plain.model.state_dict(), "reg_token": torch.zeros(1, 1, 96)}
    model = vit.build("vitn_reg1", image_size=32)
    model.load_state_dict(state)
    expected = ViTBackbone(model, "zero", 32, plain.mean, plain.std)(images(32))
    tokens = WithRegister(copy.deepcopy(plain), NOBODY)(images(32))
    torch.testing.assert_close(joined(tokens), joined(expected))
    assert not torch.allclose(tokens.patches, plain(images(32)).patches, atol=1e-3)


@torch.inference_mode()
def test_with_rotary_positions_the_register_is_not_rotated():
    plain = tiny("dinov3")
    shape = {"embed_dim": 96, "depth": 3, "num_heads": 3, "img_size": 64, "num_classes": 0, "dynamic_img_size": True}
    model = timm.create_model("vit_small_patch16_dinov3", **shape, num_reg_tokens=5)
    state = plain.model.state_dict()
    state["reg_token"] = torch.cat([state["reg_token"], torch.zeros(1, 1, 96)], dim=1)
    model.load_state_dict(state)
    expected = ViTBackbone(model, "five", 64, plain.mean, plain.std)(images(64))
    tokens = WithRegister(plain, NOBODY)(images(64))
    assert (tokens.registers.shape[1], plain.num_registers) == (5, 4)
    torch.testing.assert_close(joined(tokens), joined(expected))


@torch.inference_mode()
def test_the_zero_token_passes_clips_first_norm():
    plain = tiny("clip")
    state = {**plain.model.state_dict()}
    model = timm.create_model(
        "vit_base_patch16_clip_224",
        embed_dim=96,
        depth=3,
        num_heads=3,
        img_size=64,
        num_classes=0,
        dynamic_img_size=True,
        reg_tokens=1,
        no_embed_class=True,
    )
    state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
    state["pos_embed"], state["reg_token"] = state["pos_embed"][:, 1:], torch.zeros(1, 1, 96)
    model.load_state_dict(state)
    expected = ViTBackbone(model, "one", 64, plain.mean, plain.std)(images(64))
    torch.testing.assert_close(joined(WithRegister(plain, NOBODY)(images(64))), joined(expected))


@pytest.mark.parametrize("family", ["cls", "registers", "dinov3", "eva02", "q/k norm", "clip", "swiglu"])
@torch.inference_mode()
def test_a_bias_of_one_image_stands_for_its_register(family):
    """The other tokens of that image see the same keys and values, whether the last is a token's or a constant."""
    plain = backbone_of(family)
    neurons, x = RegisterNeurons({0: (3, 17), 1: (5,)}), images(plain.image_size, batch=1)
    register = WithRegister(copy.deepcopy(plain), neurons)
    keys, values = {}, {}
    with register.watching_register(lambda block, k, v: (keys.update({block: k[0]}), values.update({block: v[0]}))):
        expected = register(x, range(plain.depth), norm=False)
    means = MeanRegister(*(torch.stack([kept[block] for block in sorted(kept)]) for kept in (keys, values)))
    bias = WithBias(copy.deepcopy(plain), neurons, means)
    assert bias.num_registers == plain.num_registers
    for one, other in zip(bias(x, range(plain.depth), norm=False), expected, strict=True):
        torch.testing.assert_close(one.patches, other.patches, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one.registers, other.registers[:, :-1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(bias(x).patches, without(plain, neurons)(x).patches, atol=1e-3)
    last, with_register = bias.last_block(x), register.last_block(x)
    torch.testing.assert_close(last.attention.patches, with_register.attention.patches)
    (inside,), (other,) = bias.inside(x), register.inside(x)
    torch.testing.assert_close(inside.attention.registers, other.attention.registers[:, :, :-1])
    if inside.attention.cls is not None:
        torch.testing.assert_close(inside.attention.cls, last.attention.cls)
    updates = []
    bias.walk_heads(x, updates.append)  # every block is rebuilt from these, or it is refused
    assert updates[0].attention.shape[3] == updates[0].attention.shape[2] + 1
    torch.testing.assert_close(updates[-1].attention[..., :-1], last.attention.full, rtol=1e-4, atol=1e-5)
    assert float(last.attention.full.sum(dim=-1).max()) < 1


@torch.inference_mode()
def test_all_ways_into_the_model_see_the_register():
    plain = nano(0)
    register = WithRegister(copy.deepcopy(plain), CHOSEN)
    x, stages = images(32), {}
    register.walk(x, lambda stage, tokens: stages.update({stage: tokens}))
    torch.testing.assert_close(stages[register.depth].registers, register(x, (-1,), norm=False)[0].registers)
    assert register.last_block(x).attention.registers.shape == (2, 3, 1, 4, 4)
    assert register.projections(x)[0].k.registers.shape == (2, 1, 96)
    with register.rewriting_registers(lambda _, registers: registers * 0):
        assert not register(x, (-1,), norm=False)[0].registers.any()


def test_facts_name_and_fingerprint():
    plain = nano(0)
    made = {
        "ttr": WithRegister(copy.deepcopy(plain), CHOSEN),
        "block": WithRegister(copy.deepcopy(plain), CHOSEN, PER_BLOCK),
        "none": WithRegister(copy.deepcopy(plain), NOBODY),
    }
    means = MeanRegister(torch.zeros(4, 3, 32), torch.zeros(4, 3, 32))
    made["bias"] = WithBias(copy.deepcopy(plain), CHOSEN, means)
    made["other bias"] = WithBias(copy.deepcopy(plain), CHOSEN, replace(means, values=torch.ones(4, 3, 32)))
    assert len({plain.fingerprint, *(model.fingerprint for model in made.values())}) == 6
    assert {model.weights_fingerprint for model in made.values()} == {plain.fingerprint}
    names = [made[name].name for name in ("ttr", "block", "bias")]
    assert names == ["nano+ttr", "nano+ttr_per_block", "nano+bias"]
    facts = made["block"].facts()
    assert facts["num_registers"] == 1
    assert facts["intervention"]["value"] == "per_block"
    assert facts["intervention"]["neurons_by_block"] == {"0": [3, 17], "2": [5]}


def test_a_copy_is_a_model_of_its_own():
    register = WithRegister(nano(0), CHOSEN)
    copied, expected = copy.deepcopy(register), joined(register(images(32)))
    for edit in register.edits:
        edit.neurons.fill_(0)
    torch.testing.assert_close(joined(copied(images(32))), expected)
    assert not torch.allclose(joined(register(images(32))), expected)


@pytest.mark.parametrize("make", ["ttr", "bias"])
def test_its_weights_are_not_saved_as_if_it_were_the_plain_model(make, tmp_path):
    means = MeanRegister(torch.zeros(4, 3, 32), torch.zeros(4, 3, 32))
    model = WithRegister(nano(0), CHOSEN) if make == "ttr" else WithBias(nano(0), CHOSEN, means)
    metadata = Metadata("vitn_reg0", "deit3", 32, (0.5,) * 3, (0.5,) * 3, None, 0)
    file = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match=rf"x.safetensors: a model with \+{make} is its plain weights and hooks"):
        weights.save(file, model.model, metadata)
    assert not file.exists()
    weights.save(file, nano(0).model, metadata)


@pytest.mark.parametrize("make", ["ttr", "bias"])
@torch.inference_mode()
def test_a_pickle_of_it_is_the_same_model(make, tmp_path):
    means = MeanRegister(torch.rand(4, 3, 32), torch.rand(4, 3, 32))
    model = WithRegister(nano(0), CHOSEN) if make == "ttr" else WithBias(nano(0), CHOSEN, means)
    torch.save(model, tmp_path / "whole.pt")
    again = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert (again.name, again.fingerprint) == (model.name, model.fingerprint)
    torch.testing.assert_close(joined(again(images(32))), joined(model(images(32))), rtol=0, atol=0)


@pytest.mark.parametrize("make", ["ttr", PER_BLOCK, "bias"])
@torch.inference_mode()
def test_in_half_precision_and_at_other_sizes_it_is_the_same_model(make):
    means = MeanRegister(torch.rand(4, 3, 32), torch.rand(4, 3, 32))
    value = PER_BLOCK if make == PER_BLOCK else "per_neuron"
    model = WithBias(nano(0), CHOSEN, means) if make == "bias" else WithRegister(nano(0), CHOSEN, value)
    x = torch.randn(2, 3, 48, 40)
    exact = model(x)
    assert exact.patches.shape[1:3] == (6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x)
    torch.testing.assert_close(half.patches.float(), exact.patches, rtol=0.1, atol=0.1)
    for kind in (torch.float64, torch.bfloat16):
        other = copy.deepcopy(model).to(kind)(x.to(kind))
        assert other.patches.dtype == kind
        torch.testing.assert_close(other.patches.float(), exact.patches, rtol=0.1, atol=0.15)


@pytest.mark.parametrize(
    ("neurons", "problem"),
    [({4: (0,)}, "no block 4: it has 4"), ({1: (384,)}, "block 1 has 384 neurons, none is 384")],
)
def test_neurons_that_are_not_there(neurons, problem):
    with pytest.raises(UserError, match=problem):
        WithRegister(nano(0), RegisterNeurons(neurons))


def test_what_cannot_have_one():
    with pytest.raises(UserError, match="BEiT has a bias for every pair"):
        WithRegister(tiny("beit"), NOBODY)
    twice = WithRegister(nano(0), CHOSEN)
    with pytest.raises(UserError, match="without another intervention"):
        interventions.apply(twice, Intervention("ttr"), CHOSEN)
    with pytest.raises(UserError, match="belongs to weights abc"):
        interventions.apply(nano(0), Intervention("ttr"), replace(CHOSEN, weights="abc"))
    model = timm.create_model("vit_tiny_patch16_224", block_fn=timm.models.vision_transformer.ParallelScalingBlock)
    parallel = ViTBackbone(randomised(model), "parallel", 224, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UserError, match="its blocks are ParallelScalingBlock, without an MLP"):
        WithRegister(parallel, NOBODY)
    with pytest.raises(UserError, match="a key of"):
        WithBias(nano(0), CHOSEN, MeanRegister(torch.zeros(3, 3, 32), torch.zeros(3, 3, 32)))
