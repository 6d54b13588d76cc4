"""Sinks of text towers: the closed form without content, planted sinks of each kind, and attention made by hand."""

import pytest
import torch
from open_clip.transformer import TextTransformer

from regvit_lightning.analysis.sinks import stable_rank
from regvit_lightning.analysis.text_sinks import FIRST_QUERY, received, sink_events, text_sinks
from regvit_lightning.errors import UserError
from regvit_lightning.models.text_tower import EOT, PADDING, PUNCTUATION, SOT, WORDS
from tests.models import bert_like

WIDTH, LENGTH = 64, 20


def tower(**options):
    torch.manual_seed(0)
    size = {"context_length": LENGTH, "vocab_size": 100, "width": WIDTH, "heads": 2, "layers": 3, "output_dim": 8}
    return TextTransformer(**{**size, **options}).eval()


def texts(*lengths):
    """Token numbers 1..97 with 99, the end of the text, behind them, and padding."""
    tokens = torch.zeros(len(lengths), LENGTH, dtype=torch.long)
    drawn = torch.Generator().manual_seed(1)
    for row, length in zip(tokens, lengths, strict=True):
        row[: length - 1] = torch.randint(1, 98, (length - 1,), generator=drawn)
        row[length - 1] = 99
    return tokens


def without_content(model):
    """The same tower with queries and keys of zero: every query spreads its attention evenly over what it sees."""
    for block in model.transformer.resblocks:
        block.attn.in_proj_weight.data[: 2 * WIDTH] = 0
        block.attn.in_proj_bias.data[: 2 * WIDTH] = 0
    return model


def test_without_content_a_token_receives_one_over_t_plus_one():
    found = text_sinks(without_content(tower()), texts(14, 20))
    for row, length in enumerate((14, 20)):
        expected = sum(1 / (t + 1) for t in range(FIRST_QUERY, length)) / (length - FIRST_QUERY)
        torch.testing.assert_close(found.first[row], torch.full((3, 2), expected))
        eot = found.shares[row, :, EOT]
        torch.testing.assert_close(eot[:, [SOT, EOT]], torch.full((3, 2), 1 / length))
        torch.testing.assert_close(eot[:, WORDS], torch.full((3,), 1 - 2 / length))
    torch.testing.assert_close(found.shares[0, :, PADDING].sum(dim=-1), torch.ones(3))
    assert found.lengths.tolist() == [14, 20]
    assert found.sink_rate.tolist() == [0, 0]
    assert (found.sinks == -1).all()


def test_without_content_and_mask_every_token_receives_the_same():
    model = without_content(tower(no_causal_mask=True, pool_type="last"))
    found = text_sinks(model, texts(20))
    torch.testing.assert_close(found.first, torch.full((1, 3, 2), 1 / LENGTH))
    torch.testing.assert_close(found.shares[0, :, SOT, EOT], torch.full((3,), 1 / LENGTH))


def planted(write):
    """A tower in whose second block the first token, recognised by dimension 0, takes all attention in head 0.

    Args:
        write: of dimension 0 into the values: 0 leaves the first token nothing to write.
    """
    model = tower()
    model.token_embedding.weight.data.normal_()
    model.token_embedding.weight.data[:, 0] = 0
    model.positional_embedding.data.zero_()
    model.positional_embedding.data[0, 0] = 1000
    block = model.transformer.resblocks[1]
    model.transformer.resblocks[0].attn.out_proj.weight.data.zero_()
    model.transformer.resblocks[0].mlp.c_proj.weight.data.zero_()
    weight, bias = block.attn.in_proj_weight.data, block.attn.in_proj_bias.data
    weight[: 2 * WIDTH], bias[:] = 0, 0
    bias[0], weight[WIDTH, 0] = 30, 1
    weight[2 * WIDTH :] = torch.eye(WIDTH)
    weight[2 * WIDTH, 0] = write
    block.attn.out_proj.weight.data = torch.eye(WIDTH)
    return model


def test_a_planted_sink_without_content_is_a_nop():
    found = text_sinks(planted(0.0), texts(12, 20, 5))
    assert (found.first[:2, 1, 0] > 0.99).all()
    assert (found.sinks[:2, 1, 0] == 0).all()
    assert found.nop[:2, 1, 0].all()
    assert not found.broadcast[:, 1, 0].any()
    assert (found.norm_ratio[:, 0] > 50).all()
    assert found.sink_rate[:2].tolist() == [pytest.approx(1 / 6)] * 2
    # A text without a query from t = 8 on is not measured: its few queries attend to few tokens.
    assert found.sink_rate[2].isnan()
    assert (found.sinks[2] == -1).all()
    assert found.measured.tolist() == [True, True, False]


def test_a_planted_sink_that_writes_one_direction_is_a_broadcast():
    found = text_sinks(planted(5.0), texts(12, 20))
    assert found.broadcast[:, 1, 0].all()
    assert not found.nop[:, 1, 0].any()
    assert (found.ranks[:, 1, 0] < 1.01).all()
    assert (found.ratios[:, 1, 0] > 1).all()


def test_neither_batches_nor_the_padding_change_a_text():
    model, tokens = planted(5.0), texts(12, 20, 9)
    whole, parts = text_sinks(model, tokens), text_sinks(model, tokens, batch=1)
    other = tokens.clone()
    other[0, 12:] = 7
    repadded = text_sinks(model, other)
    for name in ("received", "norms", "values", "sinks", "ratios", "ranks"):
        for again in (parts, repadded):
            one, two = getattr(whole, name), getattr(again, name)
            without = slice(0, 4) if name in ("norms", "values") else slice(None)  # padding has norms of its own
            torch.testing.assert_close(one[..., without], two[..., without], equal_nan=True)


def uniform(length):
    """Causal attention (1, 1, T, T), even over the tokens that a query sees."""
    return torch.ones(1, 1, length, length).tril() / torch.arange(1, length + 1)[:, None]


def test_only_queries_behind_a_sink_decide_about_it():
    attention = uniform(20)
    attention[..., 4:, :] *= 0.2
    attention[..., 4:, 4] += 0.8
    updates = torch.ones(1, 1, 20, 3)
    updates[:, :, 4] = 0.1
    is_text = torch.ones(1, 20, dtype=torch.bool)
    found = sink_events(attention, updates, is_text)
    assert found["sinks"].item() == 4  # 16 of 20 queries, but all of those that see it
    assert found["ratios"].item() == pytest.approx(0.1)
    # Two of the 16 queries look elsewhere: 87.5 %, one: 93.75 %.
    for rows, expected in ((1, 4), (2, -1)):
        other = attention.clone()
        other[..., 20 - rows :, :] = uniform(20)[..., 20 - rows :, :]
        assert sink_events(other, updates, is_text)["sinks"].item() == expected


def test_a_query_in_the_padding_decides_nothing():
    attention = uniform(20)
    attention[..., 12:, :] = 0
    attention[..., 12:, 3] = 1
    is_text = torch.arange(20)[None] < 12
    assert sink_events(attention, torch.ones(1, 1, 20, 3), is_text)["sinks"].item() == -1
    expected = sum(1 / (t + 1) for t in range(8, 12)) / 4
    assert received(attention, is_text)[0, 0, 0].item() == pytest.approx(expected)


def test_the_stable_rank_of_parallel_and_of_orthogonal_rows():
    rows = torch.tensor([[1.0, 2.0], [3.0, 6.0], [0.0, 0.0]])
    assert stable_rank(rows[None]).item() == pytest.approx(1)
    assert stable_rank(torch.diag(torch.tensor([2.0, 2.0, 1.0]))[None]).item() == pytest.approx(9 / 4)


def test_no_texts_and_broken_weights_are_refused():
    with pytest.raises(UserError, match=r"tokens: expected \(N, T\) with N > 0, got \(0, 20\)"):
        text_sinks(tower(), torch.zeros(0, 20, dtype=torch.long))
    broken = tower()
    broken.transformer.resblocks[2].mlp.c_proj.bias.data[0] = torch.nan
    with pytest.raises(UserError, match="mine: tokens after text block 2 are not finite"):
        text_sinks(broken, texts(12), name="mine")


# ------------------------------------------------------------------------------------------------ without causal mask


def test_without_content_every_token_of_a_text_receives_the_same_and_padding_none():
    model = bert_like.Encoder()
    for layer in model.encoder.layer:
        for part in (layer.attention["self"].query, layer.attention["self"].key):
            part.weight.data.zero_()
            part.bias.data.zero_()
    found = text_sinks(model, bert_like.texts(12, 20))
    for row, length in enumerate((12, 20)):
        expected = torch.tensor([1 / length, 1 - 2 / length, 0, 1 / length, 0])
        torch.testing.assert_close(found.received[row], expected.expand(3, 2, 5))
    assert found.lengths.tolist() == [12, 20]
    assert (found.sinks == -1).all()


@pytest.mark.parametrize(("number", "kind"), [(1, SOT), (2, EOT)])
def test_a_planted_sink_of_a_bidirectional_tower(number, kind):
    lengths = (12, 20)
    found = text_sinks(bert_like.with_sink(1, 0, number, write=0.0), bert_like.texts(*lengths))
    assert (found.received[:, 1, 0, kind] > 0.99).all()
    assert found.sink_rates[:, kind].tolist() == [pytest.approx(1 / 6)] * 2
    where = torch.tensor([0, 0] if kind == SOT else [length - 1 for length in lengths])
    assert (found.sinks[:, 1, 0] == where).all()
    torch.testing.assert_close(found.ratios[:, 1, 0], torch.ones(2))  # it writes what all others would
    assert found.broadcast[:, 1, 0].all()


def test_all_queries_of_a_bidirectional_tower_decide_about_a_sink():
    attention = torch.full((1, 1, 20, 20), 1 / 20)
    attention[..., 15:, :] = 0
    attention[..., 15:, 15] = 1
    is_text, updates = torch.ones(1, 20, dtype=torch.bool), torch.ones(1, 1, 20, 3)
    assert sink_events(attention, updates, is_text, causal=True)["sinks"].item() == 15
    assert sink_events(attention, updates, is_text, causal=False)["sinks"].item() == -1
    # In a tower: the queries from position 10 on attend to the last token, which alone stands behind itself.
    model = bert_like.with_sink(0, 0, 2, write=0.0)
    model.embeddings.weight.data[:, 1] = 0
    model.positions.weight.data[:, 1] = (torch.arange(40) >= 10).float()
    query = model.encoder.layer[0].attention["self"].query
    query.bias.data[0], query.weight.data[0, 1] = 0, 100
    found = text_sinks(model, bert_like.texts(20))
    assert found.received[0, 0, 0, EOT] == pytest.approx((2 / 20 + 10) / 12, abs=0.01)
    assert found.sinks[0, 0, 0] == -1


def test_punctuation_of_a_bert_tower_receives_what_is_planted():
    tokens = bert_like.texts(12)
    tokens[0, 5] = 99
    model = bert_like.with_sink(1, 0, 99, write=0.0)
    found = text_sinks(model, tokens, vocabulary={".": 99, "cat": 98})
    assert found.received[0, 1, 0, PUNCTUATION] > 0.99
    assert text_sinks(model, tokens).received[0, 1, 0, WORDS] > 0.99
