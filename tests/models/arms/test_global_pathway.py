"""The global pathway against its formula in float64, its rank, and the closed forms of the common-mode penalty."""

from pathlib import Path

import pytest
import torch
from timm.layers import Attention
from torch import nn
from torch.utils.checkpoint import checkpoint

from regvit_lightning.analysis import sinks
from regvit_lightning.errors import UserError
from regvit_lightning.models import sources
from regvit_lightning.models.arms import global_pathway
from regvit_lightning.models.arms.global_pathway import GlobalAttention, GlobalPathway


def drawn(module: nn.Module, seed: int = 0, std: float = 0.5) -> nn.Module:
    """The module with every parameter drawn from a normal distribution, in float64."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return module


def tokens(batch: int = 2, count: int = 7, dim: int = 12) -> torch.Tensor:
    return torch.randn(batch, count, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_update_is_the_published_formula_token_by_token():
    pathway, x = drawn(GlobalPathway(12, state=5)), tokens()
    update = pathway(x)
    w_p, w_v, w_o = (getattr(pathway, name).weight for name in ("pool", "value", "output"))
    for image in range(2):
        weights = torch.exp(x[image] @ w_p[0]) / torch.exp(x[image] @ w_p[0]).sum()
        state = sum(weights[j] * (w_v @ x[image, j]) for j in range(7))
        for i in range(7):
            gate = 1 / (1 + torch.exp(-(pathway.gate.weight[0] @ x[image, i] + pathway.gate.bias[0])))
            # The softmax is computed in float32.
            torch.testing.assert_close(update[image, i], gate * (w_o @ state), rtol=1e-5, atol=1e-6)


def test_update_has_rank_one_over_the_tokens_of_an_image():
    update = drawn(GlobalPathway(12))(tokens())
    values = torch.linalg.svdvals(update)
    assert (values[:, 1] < 1e-12 * values[:, 0]).all()
    assert torch.linalg.matrix_rank(update.flatten(0, 1)) == 2  # another state for each image


def test_state_depends_on_no_position():
    pathway, x = drawn(GlobalPathway(12)), tokens()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(pathway(x[:, order]), pathway(x)[:, order])


@pytest.mark.parametrize("closed", ["output", "gate"])
def test_without_output_or_with_a_closed_gate_it_is_plain_attention(closed):
    attention = drawn(GlobalAttention(12, num_heads=3, qkv_bias=True)).eval()
    plain = Attention(12, num_heads=3, qkv_bias=True).double().eval()
    plain.load_state_dict({name: value for name, value in attention.state_dict().items() if "pathway" not in name})
    with torch.no_grad():
        if closed == "output":
            attention.pathway.output.weight.zero_()
        else:
            attention.pathway.gate.weight.zero_()
            attention.pathway.gate.bias.fill_(-torch.inf)
    torch.testing.assert_close(attention(tokens()), plain(tokens()), rtol=0, atol=0)


def test_pathway_is_added_to_the_attention_of_the_same_tokens():
    attention = drawn(GlobalAttention(12, num_heads=3)).eval()
    alone = attention(tokens())
    with torch.no_grad():
        attention.proj.weight.zero_(), attention.proj.bias.zero_()
    torch.testing.assert_close(attention(tokens()), attention.pathway(tokens()), rtol=0, atol=0)
    assert not torch.allclose(alone, attention.pathway(tokens()))


def test_common_mode_of_identical_opposite_and_half_common_updates():
    same = torch.randn(1, 1, 4).expand(3, 6, 4)
    torch.testing.assert_close(global_pathway.common_mode(same), torch.ones(3))
    opposite = torch.stack([torch.ones(4), -torch.ones(4)] * 3)[None]
    assert global_pathway.common_mode(opposite).item() == 0
    # Half of the tokens receive 2, half nothing: the mean 1 has half of the mean energy 2.
    half = torch.tensor([2.0, 0.0] * 3)[None, :, None].expand(1, 6, 4)
    torch.testing.assert_close(global_pathway.common_mode(half), torch.tensor([0.5]))
    assert global_pathway.common_mode(torch.zeros(2, 6, 4)).tolist() == [0, 0]


def test_common_mode_does_not_depend_on_scale_or_on_other_images():
    update = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(3))
    together = global_pathway.common_mode(update)
    torch.testing.assert_close(global_pathway.common_mode(1e-3 * update), together)
    alone = torch.cat([global_pathway.common_mode(one[None]) for one in update])
    torch.testing.assert_close(together, alone)


def blocks(depth: int = 3) -> nn.Sequential:
    from timm.models.vision_transformer import Block

    drawn_blocks = nn.Sequential(*(Block(12, 3, attn_layer=GlobalAttention) for _ in range(depth)))
    return drawn(drawn_blocks, std=0.2).train()


def test_penalty_is_a_tenth_of_the_mean_share_of_all_blocks_but_the_first():
    model, x = blocks(), tokens()
    updates = []
    for block in model:
        block.attn.proj.register_forward_hook(lambda _, __, output: updates.append(output))
    with global_pathway.collected(model) as shares:
        model(x)
    of_blocks = [update.mean(dim=1).norm(dim=1) ** 2 / update.norm(dim=2).square().mean(dim=1) for update in updates]
    expected = 0.1 * torch.stack(of_blocks[1:]).mean()
    torch.testing.assert_close(global_pathway.penalty(shares).double(), expected, rtol=1e-5, atol=0)


def test_shares_are_collected_in_training_passes_only_and_not_afterwards():
    model, x = blocks(), tokens()
    with global_pathway.collected(model) as shares:
        model.eval()(x)
        with torch.no_grad():
            model.train()(x)
        assert shares == []
        model(x)
    assert [share.shape for share in shares] == [(2,), (2,)]
    model(x)
    assert len(shares) == 2
    assert all(block.attn.shares is None for block in model)


def test_penalty_has_the_same_gradient_with_gradient_checkpointing():
    def gradients(pass_through):
        model = blocks()
        with global_pathway.collected(model) as shares:
            output = pass_through(model, tokens())
        (output.square().mean() + global_pathway.penalty(shares)).backward()
        return [parameter.grad for parameter in model.parameters()]

    def checkpointed(model, x):
        for block in model:
            x = checkpoint(block, x, use_reentrant=False)
        return x

    for plain, again in zip(gradients(lambda model, x: model(x)), gradients(checkpointed), strict=True):
        torch.testing.assert_close(again, plain)


def test_penalty_lowers_the_common_mode():
    model, x = blocks(), tokens()
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    penalties = []
    for _ in range(5):
        with global_pathway.collected(model) as shares:
            model(x)
        loss = global_pathway.penalty(shares)
        penalties.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert penalties[-1] < penalties[0]


def test_sinks_are_measured_beside_the_pathway_and_refused_for_split_registers():
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    with_pathway = sources.load_backbone("random-vitn_global_reg0", Path("runs"), image_size=64)
    assert sinks.measure(with_pathway, images).error < 1e-5
    split = sources.load_backbone("random-vitn_rats_reg6", Path("runs"), image_size=64)
    with pytest.raises(UserError, match="attend each other in several steps, not in one product"):
        sinks.measure(split, images)
