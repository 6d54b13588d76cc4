"""Blocks of a BERT-like text encoder: attention and updates against PyTorch's and transformers', kinds of tokens."""

import pytest
import torch
from torch import nn

from regvit_lightning.errors import UserError
from regvit_lightning.models.bert_tower import BertTower, encoder_of
from regvit_lightning.models.text_tower import EOT, PADDING, PUNCTUATION, SOT, WORDS, without_letters
from tests.models.bert_like import HEADS, PAD, WIDTH, Encoder, TextEncoder, texts


def walked(model, tokens):
    blocks = []
    BertTower(model).walk(tokens, lambda index, block: blocks.append(block))
    return blocks


@torch.no_grad()
def test_attention_and_updates_are_those_of_pytorch():
    model, tokens = Encoder(), texts(12, 20)
    layer, inputs = model.encoder.layer[1], []
    layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    found = walked(model, tokens)[1]
    attention, projection = layer.attention["self"], layer.attention["output"].dense
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    parts = (attention.query, attention.key, attention.value)
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts])
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts])
    _, expected = theirs(*3 * inputs, key_padding_mask=tokens == PAD, average_attn_weights=False)
    torch.testing.assert_close(found.attention, expected)
    values = attention.value(inputs[0])
    for head, columns in enumerate((slice(0, 16), slice(16, 32))):
        updates = values[..., columns] @ projection.weight[:, columns].T
        torch.testing.assert_close(found.updates[:, head] @ found.updates[:, head].mT, updates @ updates.mT)


@torch.no_grad()
def test_the_tokens_are_those_behind_each_block():
    model, tokens = Encoder(), texts(12, 20)
    found = walked(model, tokens)
    assert len(found) == 3
    torch.testing.assert_close(found[-1].tokens, model(tokens, (tokens != PAD).long())[0])


def test_a_model_in_training_is_measured_without_dropout_and_left_as_it_is():
    model = Encoder(dropout=0.9).train()
    model.encoder.layer[1].eval()
    one, two = (walked(model, texts(12))[2].tokens for _ in range(2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert [layer.training for layer in model.encoder.layer] == [True, False, True]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_kinds_of_tokens_with_and_without_a_vocabulary():
    tokens = torch.tensor([[1, 5, 6, 7, 2, 0], [1, 6, 7, 8, 9, 2]])
    expected = [[SOT, WORDS, WORDS, WORDS, EOT, PADDING], [SOT, WORDS, WORDS, WORDS, WORDS, EOT]]
    assert BertTower(Encoder()).kinds(tokens).tolist() == expected
    expected[0][2] = expected[1][1] = PUNCTUATION
    assert BertTower(Encoder(), vocabulary={"cat": 5, "!": 6, "##s": 7}).kinds(tokens).tolist() == expected


def test_marks_of_tokenisers_are_no_letters_and_no_punctuation():
    # Of WordPiece, SentencePiece, byte-level tokenisers (a space is Ġ, a typographic quote âĢĻ) and CLIP's.
    words = ["[CLS]", "</s>", "##s", "▁cat", "Ġcat", "Ã©", "é", "cat</w>", "7", "<0x0A>"]
    signs = ["##,", "▁...", "Ġ,", "âĢĻ", "!</w>", "°", "-"]
    vocabulary = {text: number for number, text in enumerate(words + signs)}
    assert without_letters(vocabulary) == list(range(len(words), len(words + signs)))


def test_the_encoder_within_a_model_of_images_and_texts():
    both = nn.Module()
    both.text = TextEncoder()
    assert encoder_of(both) is both.text.transformer is encoder_of(both.text)
    assert encoder_of(nn.Linear(3, 3)) is None


def test_a_mask_that_is_not_known_and_padding_in_front_are_refused():
    model = Encoder()
    causal = torch.ones(20, 20).tril().bool()
    attention = model.encoder.layer[2].attention["self"]
    plain = attention.forward
    attention.forward = lambda tokens, attention_mask: plain(tokens, attention_mask & causal)
    with pytest.raises(UserError, match="attention of text block 2 cannot be rebuilt from A and v"):
        walked(model, texts(12, 20))
    with pytest.raises(UserError, match="mine: a text begins with padding; pad behind the text"):
        BertTower(Encoder(), "mine").kinds(torch.tensor([[0, 1, 5, 2]]))
    with pytest.raises(UserError, match="mine: a Linear is no encoder of transformers"):
        BertTower(nn.Linear(3, 3), "mine")
    model.encoder.layer[0].attention["self"].key = nn.Identity()
    with pytest.raises(UserError, match="mine: its text blocks are Layer without a plain softmax"):
        BertTower(model, "mine")


SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
M2M = {
    "vocab_size": 100,
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 64,
}


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "options"),
    [("BertConfig", SMALL), ("RobertaConfig", SMALL), ("XLMRobertaConfig", SMALL), ("M2M100Config", M2M)],
)
def test_attention_is_that_of_transformers(config, options):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(getattr(transformers, config)(**options, pad_token_id=PAD))
    model.eval().set_attn_implementation("eager")
    encoder, tokens = getattr(model, "encoder", model) if config == "M2M100Config" else model, texts(12, 20)
    found = walked(encoder, tokens)
    theirs = encoder(input_ids=tokens, attention_mask=(tokens != PAD).long(), output_attentions=True)
    assert len(found) == 2
    for block, expected in zip(found, theirs.attentions, strict=True):
        torch.testing.assert_close(block.attention, expected)
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(walked(encoder, tokens)[1].attention, theirs.attentions[1])
