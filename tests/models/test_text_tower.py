"""Blocks of a text tower: attention and values against PyTorch's own, kinds of tokens of CLIP, CoCa and SigLIP."""

import open_clip
import pytest
import torch
from open_clip.transformer import TextTransformer
from torch import nn

from regvit_lightning.errors import UserError
from regvit_lightning.models.text_tower import EOT, KINDS, PADDING, PUNCTUATION, SOT, WORDS, TextTower
from tests.models.test_joint_space import clip

SMALL = {"context_length": 12, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2, "output_dim": 8}


def transformer(**options):
    torch.manual_seed(0)
    model = TextTransformer(**{**SMALL, **options}).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


def walked(model, tokens):
    blocks = []
    TextTower(model).walk(tokens, lambda index, block: blocks.append(block))
    return blocks


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"no_causal_mask": True}, {"ls_init_value": 0.3}])
def test_attention_and_updates_are_those_of_pytorch(options):
    model, tokens = transformer(**options), torch.randint(1, 99, (3, 12))
    inputs = []
    block = model.transformer.resblocks[1]
    block.attn.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    found = walked(model, tokens)[1]
    normed, mask = inputs[0], model.attn_mask
    _, expected = block.attn(normed, normed, normed, attn_mask=mask, average_attn_weights=False)
    torch.testing.assert_close(found.attention, expected)
    # One key alone: its value, projected and scaled by LayerScale, is what it adds.
    values = normed @ block.attn.in_proj_weight[64:].T + block.attn.in_proj_bias[64:]
    gamma = getattr(block.ls_1, "gamma", torch.ones(32))
    for head, columns in enumerate((slice(0, 16), slice(16, 32))):
        updates = (values[..., columns] @ block.attn.out_proj.weight[:, columns].T) * gamma
        torch.testing.assert_close(found.updates[:, head].norm(dim=-1), updates.norm(dim=-1))
        products = found.updates[:, head] @ found.updates[:, head].mT
        torch.testing.assert_close(products, updates @ updates.mT, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_tokens_are_the_residual_stream():
    model, tokens = transformer(), torch.randint(1, 99, (2, 12))
    (expected,) = model.forward_intermediates(tokens, indices=[1], output_fmt="NLC")["text_intermediates"]
    torch.testing.assert_close(walked(model, tokens)[1].tokens, expected)


def test_normed_queries_and_scaled_heads_are_looked_into_and_a_norm_behind_the_heads_is_not():
    model = transformer(qk_norm=True, scale_heads=True)
    model.transformer.resblocks[0].attn.head_scale.data.mul_(3)
    assert len(walked(model, torch.randint(1, 99, (2, 12)))) == 2  # each is rebuilt from A and v
    with pytest.raises(UserError, match="without a plain softmax"):
        TextTower(transformer(scale_attn_inner=True), "mine")


def test_a_block_that_cannot_be_rebuilt_is_refused(monkeypatch):
    model = transformer()
    attention = model.transformer.resblocks[1].attn
    plain = attention.forward
    monkeypatch.setattr(attention, "forward", lambda *given, **options: (plain(*given, **options)[0] * 1.01, None))
    with pytest.raises(UserError, match="attention of text block 1 cannot be rebuilt from A and v"):
        walked(model, torch.randint(1, 99, (2, 12)))


def named(tower, tokens):
    return [[KINDS[kind] for kind in row] for row in tower.kinds(tokens).tolist()]


def test_kinds_of_clips_tokens():
    model = clip()
    tokens = open_clip.SimpleTokenizer(context_length=20)(["a cat, two!", "!!"])
    kinds = TextTower(model).kinds(tokens)
    assert kinds[0].tolist() == [SOT, WORDS, WORDS, PUNCTUATION, WORDS, PUNCTUATION, EOT] + [PADDING] * 13
    assert kinds[1, :3].tolist() == [SOT, PUNCTUATION, EOT]
    # A "!" within a word has the number of the padding, and is none.
    inside = torch.tensor([[49406, 0, 320, 49407, 0, 0]])
    assert TextTower(model).kinds(inside)[0].tolist() == [SOT, PUNCTUATION, WORDS, EOT, PADDING, PADDING]


def test_kinds_of_a_class_token_behind_the_text_and_of_a_padded_last_token():
    coca = TextTower(transformer(embed_cls=True))
    assert coca.kinds(torch.tensor([[90, 5, 99, 0, 0]]))[0].tolist() == [SOT, WORDS, WORDS, PADDING, PADDING, EOT]
    assert coca.causal
    siglip = TextTower(transformer(no_causal_mask=True, pool_type="last"))
    assert siglip.kinds(torch.tensor([[5, 6, 1, 1, 1], [5, 6, 7, 8, 9]])).tolist() == [
        [SOT, WORDS, WORDS, PADDING, EOT],
        [SOT, WORDS, WORDS, WORDS, EOT],
    ]
    assert not siglip.causal
    ends = TextTower(transformer(pool_type="eos", eos_id=2))
    assert ends.kinds(torch.tensor([[5, 6, 2, 0, 0]]))[0].tolist() == [SOT, WORDS, EOT, PADDING, PADDING]


def test_towers_of_others_are_refused():
    model = nn.Module()
    model.text = nn.Linear(3, 3)  # as a tower of transformers within CustomTextCLIP: no blocks of open_clip
    with pytest.raises(UserError, match="theirs: a Linear is not a text tower of open_clip's own"):
        TextTower(model, "theirs")
    with pytest.raises(UserError, match="a Linear is not a text tower"):
        TextTower(nn.Linear(3, 3))
