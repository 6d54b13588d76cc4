"""Attentive heads against textbook attention, parameter counts by hand, and heads of a grid against heads alone."""

import math

import pytest
import torch
from torch.nn import functional as F

from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks.attentive.heads import CapiHead, EpHead, HeadGroup, MeanHead, attend


def shaken(head):
    """The head away from its initialisation, biases included."""
    for parameter in head.parameters():
        parameter.data.normal_(std=0.3)
    return head


def test_capis_head_is_attention_with_keys_and_values_of_every_token():
    torch.manual_seed(0)
    head, tokens = shaken(CapiHead(12, 5, head_width=4)), torch.randn(2, 7, 12)
    keys, values = (part.unflatten(2, (3, 4)).transpose(1, 2) for part in head.kv(tokens).chunk(2, dim=2))
    query = head.query.view(1, 3, 1, 4).expand(2, -1, -1, -1)
    expected = head.linear(F.scaled_dot_product_attention(query, keys, values).flatten(1))
    torch.testing.assert_close(HeadGroup(head, 1)(tokens)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_eps_queries_meet_the_tokens_themselves_and_read_channels_of_their_own():
    torch.manual_seed(0)
    head, tokens = shaken(EpHead(12, 5, queries=4)), torch.randn(2, 7, 12)
    values, read = head.value(tokens), []
    for number, query in enumerate(head.query):
        shares = (tokens @ query / 12**0.5).softmax(dim=1)
        read.append((shares[:, :, None] * values[:, :, 3 * number : 3 * number + 3]).sum(dim=1))
    expected = head.linear(torch.cat(read, dim=1))
    torch.testing.assert_close(HeadGroup(head, 1)(tokens)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_the_floor_classifies_the_mean():
    head, tokens = shaken(MeanHead(12, 5)), torch.randn(2, 7, 12)
    torch.testing.assert_close(HeadGroup(head, 2)(tokens)[:, 1], head.linear(tokens.mean(dim=1)))


@pytest.mark.parametrize(
    ("head", "expected"),
    [  # a ViT-B and the classes of ImageNet
        (lambda: CapiHead(768, 1000, 64), 768 + 2 * 768 * 768 + 2 * 768 + 769_000),
        (lambda: EpHead(768, 1000, 32), 1_383_400),  # "less than 1.4 M", arXiv 2506.10178
        (lambda: MeanHead(768, 1000), 769_000),
    ],
)
def test_parameters_are_as_many_as_published(head, expected):
    assert sum(parameter.numel() for parameter in head().parameters()) == expected


def test_initialisation_is_that_of_the_sources():
    torch.manual_seed(0)
    head, ep = CapiHead(192, 50, 64), EpHead(192, 50, 32)
    for weight in (head.query, head.kv.weight, head.linear.weight, ep.query):
        assert weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert not head.kv.bias.any()
    assert not head.linear.bias.any()


def test_attention_of_a_head_is_the_mean_over_its_queries():
    torch.manual_seed(0)
    tokens, group = torch.randn(2, 7, 12), HeadGroup(shaken(EpHead(12, 5, queries=4)), 2)
    shaken(group.heads[1])
    by_query = (tokens @ group.heads[1].query.T / 12**0.5).softmax(dim=1)
    torch.testing.assert_close(group.attention(tokens, 1), by_query.mean(dim=2))
    torch.testing.assert_close(group.attention(tokens, 0).sum(dim=1), torch.ones(2))


def test_heads_of_a_group_start_alike_and_share_no_parameter():
    group = HeadGroup(CapiHead(12, 5, 4), 3)
    first, *others = (dict(head.named_parameters()) for head in group.heads)
    for other in others:
        for name, parameter in other.items():
            assert torch.equal(parameter, first[name])
            assert parameter.data_ptr() != first[name].data_ptr()


@pytest.mark.parametrize("kind", [lambda: CapiHead(12, 5, 4), lambda: EpHead(12, 5, 4)])
def test_a_first_step_of_adamw_by_hand(kind):
    # After one step, the running means are the gradient and its square: w ← w (1 - lr wd) - lr g / (|g| + eps).
    torch.manual_seed(0)
    group, tokens, labels = HeadGroup(shaken(kind()), 1), torch.randn(8, 7, 12), torch.randint(5, (8,))
    optimiser = torch.optim.AdamW(group.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    weight = group.heads[0].linear.weight
    before, read = weight.detach().clone(), group._read(tokens)[:, 0].detach()
    # Gradient of a linear classifier in closed form: (softmax - one-hot)ᵀ x over the batch.
    errors = group(tokens)[:, 0].softmax(dim=1).detach() - F.one_hot(labels, 5)
    gradient = errors.T @ read / 8
    F.cross_entropy(group(tokens)[:, 0], labels).backward()
    optimiser.step()
    expected = before * (1 - 0.01 * 0.1) - 0.01 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(weight.data, expected, rtol=1e-4, atol=1e-5)


def planted(images, generator):
    """64 tokens of an image: one bears the marker and the class, all others the code of a class drawn at random."""
    labels = torch.randint(4, (images,), generator=generator)
    codes = F.one_hot(torch.randint(4, (images, 64), generator=generator), 4).float()
    place = torch.randint(64, (images,), generator=generator)
    codes[torch.arange(images), place] = F.one_hot(labels, 4).float()
    marker = F.one_hot(place, 64).float()
    return torch.cat([codes, marker[:, :, None], torch.zeros(images, 64, 3)], dim=2) * 3, labels, place


@pytest.mark.parametrize("kind", [lambda: CapiHead(8, 4, 4), lambda: EpHead(8, 4, 4), lambda: MeanHead(8, 4)])
def test_the_one_token_that_bears_the_class_is_found_and_attended(kind):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    group = HeadGroup(kind(), 1)
    optimiser = torch.optim.AdamW(group.parameters(), lr=0.02, betas=(0.9, 0.95))
    for _ in range(250):
        tokens, labels, _ = planted(64, generator)
        optimiser.zero_grad()
        F.cross_entropy(group(tokens)[:, 0], labels).backward()
        optimiser.step()
    tokens, labels, place = planted(1000, generator)
    right = (group(tokens)[:, 0].argmax(dim=1) == labels).float().mean()
    if isinstance(group.heads[0], MeanHead):
        assert right < 0.5  # one in 64 tokens tells; the others are noise
    else:
        assert right == 1
        assert group.attention(tokens, 0)[torch.arange(1000), place].mean() > 5 / 64  # five times the uniform share


def test_the_share_of_a_planted_token_in_closed_form():
    tokens, _, place = planted(20, torch.Generator().manual_seed(0))
    query = torch.zeros(1, 1, 8)
    query[..., 4] = 2  # the marker is 3, and 0 in the 63 other tokens
    shares = attend(tokens, query)[:, 0, 0]
    torch.testing.assert_close(shares[torch.arange(20), place], torch.full((20,), math.exp(6) / (math.exp(6) + 63)))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (lambda: CapiHead(96, 5, 64), "head_width=64: tokens of width 96 are no multiple; give head_width=48"),
        (lambda: EpHead(96, 5, 20), "queries=20: tokens of width 96 are no multiple; give queries=16"),
    ],
)
def test_a_width_that_is_not_divided_is_told(head, message):
    with pytest.raises(SettingsError, match=message):
        head()


def test_a_group_needs_no_key_of_a_single_token():
    # The bias of the keys shifts all scores alike: it has no gradient, as in the textbook's form.
    torch.manual_seed(0)
    group = HeadGroup(shaken(CapiHead(12, 5, 4)), 1)
    group(torch.randn(2, 7, 12)).square().sum().backward()
    bias = group.heads[0].kv.bias.grad
    assert not bias[:12].any()
    assert bias[12:].all()
