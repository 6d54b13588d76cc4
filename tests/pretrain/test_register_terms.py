"""Terms of the registers: planted registers and maps, explicit formulas in float64, and training with and without."""

import csv
import itertools
import math

import pytest
import torch

from regvit_lightning.models import vit
from regvit_lightning.models.vit_backbone import ViTBackbone
from regvit_lightning.pretrain import fit, register_terms
from regvit_lightning.pretrain.koleo import koleo
from regvit_lightning.pretrain.register_terms import RegisterTerms
from regvit_lightning.settings import SettingsError
from tests.pretrain import test_fit, test_openclip
from tests.pretrain.dinov2 import test_recipe as dinov2

TERMS = ("register_gram", "register_koleo", "register_disjoint")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def terms(model="vitn_reg3", **given):
    settings = test_fit.prepare(None, "", *(f"{name}={value}" for name, value in given.items())).settings
    return RegisterTerms(settings, model)


def pairs(count):
    return list(itertools.combinations(range(count), 2))


# ------------------------------------------------------------------------------------------------- formulas


def test_gram_of_planted_registers():
    assert register_terms.gram(3 * torch.eye(4)[None]).item() == 0  # orthogonal, of any length
    assert register_terms.gram(torch.ones(2, 3, 5) * torch.tensor([1.0, -2.0, 3.0])[:, None]).item() == pytest.approx(1)
    angle = torch.tensor([[1.0, 0.0], [math.cos(0.7), math.sin(0.7)]])
    assert register_terms.gram(angle[None]).item() == pytest.approx(math.cos(0.7) ** 2)


def test_disjoint_of_planted_maps():
    assert register_terms.disjoint(torch.eye(4)[None, :3]).item() == 0
    same = torch.zeros(1, 4, 9)
    same[..., 2] = 1
    assert register_terms.disjoint(same).item() == pytest.approx(4 * 3 / 2)
    # Two images: registers that share half of their mass on one patch, and registers that share nothing.
    maps = torch.tensor([[[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]], [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]])
    assert register_terms.disjoint(maps).item() == pytest.approx((0.25 + 0) / 2)


def explicit_gram(registers):
    unit = registers / registers.norm(dim=2, keepdim=True)
    every = [(unit[:, a] * unit[:, b]).sum(1) ** 2 for a, b in pairs(registers.shape[1])]
    return torch.stack(every).mean()


def explicit_koleo(registers):
    unit = registers / registers.norm(dim=2, keepdim=True)
    count, values = registers.shape[1], []
    for image in unit:
        for a in range(count):
            values.append(-min((image[a] - image[b]).norm().log() for b in range(count) if b != a))
    return torch.stack(values).mean()


def explicit_disjoint(maps):
    return sum((maps[:, a] * maps[:, b]).sum(1) for a, b in pairs(maps.shape[1])).mean()


@pytest.mark.parametrize(
    ("found", "expected", "shape"),
    [
        (register_terms.gram, explicit_gram, (3, 4, 6)),
        (lambda x: koleo(x.flatten(0, 1), x.shape[1]), explicit_koleo, (2, 5, 7)),
        (lambda x: register_terms.disjoint(x.softmax(2)), lambda x: explicit_disjoint(x.softmax(2)), (2, 4, 6)),
    ],
    ids=TERMS,
)
def test_values_and_gradients_are_those_of_the_explicit_formula(found, expected, shape):
    values = [randn(*shape).requires_grad_(), randn(*shape).requires_grad_()]
    results = [found(values[0]), expected(values[1])]
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)
    torch.stack(results).sum().backward()
    torch.testing.assert_close(values[0].grad, values[1].grad, rtol=1e-6, atol=1e-7)


# ------------------------------------------------------------------------------------------- in a forward pass


def build(model="vitn_reg3", **options):
    torch.manual_seed(0)
    backbone = vit.build(model, image_size=32, **options)
    torch.nn.init.normal_(backbone.reg_token)
    return backbone.double()


def explicit_terms(backbone, images, registers=3):
    """The three terms from a plain forward pass and the whole attention matrix of the last block."""
    attention = backbone.blocks[-1].attn
    attention.fused_attn, rows = False, []
    hook = attention.attn_drop.register_forward_hook(lambda _, __, output: rows.append(output))
    tokens = backbone.forward_features(images)
    hook.remove()
    own = tokens[:, 1 : 1 + registers]
    maps = rows[0].mean(dim=1)[:, 1 : 1 + registers, 1 + registers :]
    maps = maps / maps.sum(dim=2, keepdim=True)
    return torch.stack([explicit_gram(own), explicit_koleo(own), explicit_disjoint(maps)])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_terms_of_a_pass_and_their_gradients(checkpointing):
    given, images = {"register_gram": 0.5, "register_koleo": 0.25, "register_disjoint": 2.0}, randn(2, 3, 32, 32)
    plain, watched = build(), build()
    watched.set_grad_checkpointing(checkpointing)
    with terms(**given).seen_in(watched.train()) as seen:
        tokens = watched.forward_features(images)
    expected = torch.tensor(list(given.values())) * explicit_terms(plain, images)
    torch.testing.assert_close(seen.terms, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(tokens, plain.forward_features(images))
    seen.terms.sum().backward()
    expected.sum().backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in watched.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-5, atol=1e-9)
    assert watched.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("arm", ["", "_gated", "_bias_kv", "_softmax1", "_clipped", "_qk_norm", "_global", "_last1"])
def test_the_maps_are_those_of_the_backbone_scaled_to_their_sum(arm):
    backbone, images = build(f"vitn{arm}_reg3").float().eval(), randn(2, 3, 32, 32).float()
    with torch.no_grad():
        contract = ViTBackbone(backbone, "vitn_reg3", 32, (0.5,) * 3, (0.5,) * 3)
        expected = contract.last_block(images).attention.registers.mean(dim=1).flatten(2)
        entering = []
        backbone.blocks[-1].register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
        backbone.forward_features(images)
        found = register_terms.attention_maps(backbone.blocks[-1], entering[0], slice(1, 4), slice(4, None))
    torch.testing.assert_close(found, expected / expected.sum(dim=2, keepdim=True))


def test_without_weights_nothing_is_touched():
    backbone, off = build(), terms()
    state = torch.get_rng_state()
    with off.seen_in(backbone, off.drawn(2)) as seen:
        assert not backbone.norm._forward_hooks
        assert not backbone.norm._forward_pre_hooks
        assert not backbone.norm_pre._forward_hooks
    assert seen.terms.shape == (0,)
    assert torch.equal(torch.get_rng_state(), state)
    assert off.names == ()


def test_hooks_are_gone_after_an_error():
    backbone = build()
    with pytest.raises(ZeroDivisionError), terms(register_gram=1).seen_in(backbone):
        1 / 0  # noqa: B018
    assert not backbone.norm._forward_hooks


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("registers", [0, 1])
def test_a_term_needs_two_registers(name, registers):
    with pytest.raises(SettingsError, match=rf"^{name}=0.1: needs at least 2 registers, vitn_reg{registers} has "):
        terms(f"vitn_reg{registers}", **{name: 0.1})


@pytest.mark.parametrize(
    ("model", "name"),
    [("vitn_diff_reg3", TERMS[2]), ("vitn_rats_reg3", TERMS[2]), ("vitn_rats_reg3", "register_dropout")],
)
def test_an_arm_without_such_maps_or_registers_is_named(model, name):
    with pytest.raises(
        SettingsError, match=rf"^{name}=0.1: {model} has the arm \w+, .*; give another model or {name}=0"
    ):
        terms(model, **{name: 0.1})
    terms(model, register_gram=0.1)


def test_dropout_needs_one_register():
    terms("vitn_reg1", register_dropout=0.1)
    with pytest.raises(SettingsError, match=r"^register_dropout=0.1: needs at least 1 register, vitn_reg0 has 0; "):
        terms("vitn_reg0", register_dropout=0.1)


def test_the_last_block_of_a_sharded_model_cannot_be_read():
    with pytest.raises(SettingsError, match=r"register_disjoint=0.1: .* strategy=fsdp"):
        test_fit.prepare(None, "", "register_disjoint=0.1", "strategy=fsdp", "norms_every=0")


# --------------------------------------------------------------------------------------------------- dropout


def test_registers_that_are_left_out_leave_the_tokens_of_a_smaller_model():
    whole = build()
    small = build("vitn_reg2")
    state = whole.state_dict()
    state["reg_token"] = state["reg_token"][:, [0, 2]]
    small.load_state_dict(state)
    images, kept = randn(2, 3, 32, 32), torch.tensor([[0, 2], [0, 2]])
    weights = {"register_gram": 1, "register_koleo": 1, "register_disjoint": 1}
    with terms(**weights).seen_in(whole, kept) as seen:
        tokens = whole.forward_features(images)
    expected = small.forward_features(images)
    torch.testing.assert_close(tokens[:, [0, 1, 3, *range(4, 20)]], expected)
    torch.testing.assert_close(tokens[:, 2], whole.norm.bias.expand(2, -1))  # zeros, after the norm
    torch.testing.assert_close(seen.terms, explicit_terms(small, images, registers=2))


def test_each_image_keeps_its_own_registers_and_none_may_be_left():
    whole, images = build(), randn(2, 3, 32, 32)
    one, none = terms(register_gram=1), torch.zeros(2, 0, dtype=torch.long)
    with one.seen_in(whole, torch.tensor([[0], [2]])) as seen:
        tokens = whole.forward_features(images)
    assert seen.terms.tolist() == [0]  # one register makes no pair
    for image, register in enumerate([0, 2]):
        with one.seen_in(whole, torch.tensor([[register]])):
            alone = whole.forward_features(images[[image]])
        torch.testing.assert_close(tokens[[image]], alone)
    with one.seen_in(whole, none):
        assert whole.forward_features(images).shape == tokens.shape


# ------------------------------------------------------------------------------------------------ in the recipes


def losses(recipe_losses):
    return {name: value.item() for name, value in recipe_losses.items()}


def test_dinov2_adds_the_terms_of_the_global_crops_and_does_not_depend_on_chunks():
    words = ["register_gram=0.5", "register_disjoint=2.0", "register_dropout=0.3"]
    found = {}
    for size in (4, 8):
        module = dinov2.recipe(*words, f"device_batch={size}")
        torch.nn.init.normal_(module._student().reg_token)
        found[size] = losses(module.losses(dinov2.crops(), [(3, 0), (3, 1)], 3))
    assert list(found[8])[4:] == ["register_gram", "register_disjoint"]
    assert found[8]["register_gram"] > 0
    for name, value in found[8].items():
        assert found[4][name] == pytest.approx(value, rel=1e-5)
    off = dinov2.recipe()
    assert list(off.losses(dinov2.crops(), [(3, 0), (3, 1)], 3)) == ["dino_local", "dino_global", "ibot", "koleo"]


def test_the_student_of_dinov2_learns_the_terms_alone():
    module = dinov2.recipe("register_gram=1.0")
    torch.nn.init.normal_(module._student().reg_token)
    value = module.losses(dinov2.crops(), [(3, 0), (3, 1)], 3)["register_gram"]
    value.backward()
    assert module._student().reg_token.grad.abs().sum() > 0
    assert module.backbone.reg_token.grad is None


def test_a_run_logs_the_terms_and_their_sum(tiny, tmp_path):
    words = ["register_gram=1.5", "register_koleo=0.5", "register_disjoint=1.0", "register_dropout=0.25"]
    run = test_fit.prepare(tiny, tmp_path / "run", *words, "epochs=1", "logger=csv", "log_every=1", model="vitn_reg4")
    fit.fit(run)
    (log,) = run.folder.rglob("metrics.csv")
    with log.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert len(rows) == 6
    grams, disjoint = ([float(row[f"train/register_{name}"]) for row in rows] for name in ("gram", "disjoint"))
    assert all(0 <= value <= 1.5 for value in grams)
    assert max(grams) > 0
    assert all(0 <= value <= 6 for value in disjoint)


def test_openclip_in_chunks_has_the_terms_of_the_whole_batch():
    found = {}
    for size in (2, 4):
        module = test_openclip.recipe("register_gram=1.0", "register_koleo=1.0", f"device_batch={size}")
        batch = {name: part[:4] for name, part in test_openclip.batch().items()}
        *_, terms_ = module.embed(batch["image"], batch["text"])
        terms_.sum().backward()
        found[size] = terms_, module.backbone.reg_token.grad
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert len(found[2][0]) == 2
