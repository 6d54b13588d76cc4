"""A text encoder with the layers and the names of BERT in transformers, which the tests do not need."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, PAD = 32, 2, 0


class SelfAttention(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.num_attention_heads, self.dropout = HEADS, dropout

    def forward(self, hidden_states, attention_mask):
        q, k, v = (
            part(hidden_states).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask, dropout_p=dropout)
        return heads.transpose(1, 2).flatten(2), None


class Added(nn.Module):
    """Projection, sum and norm behind attention and behind the hidden layer."""

    def __init__(self, width):
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(width, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, hidden_states, input_tensor):
        return self.LayerNorm(self.dense(hidden_states) + input_tensor)


class Layer(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(dropout), "output": Added(WIDTH)})
        self.intermediate, self.output = nn.Linear(WIDTH, 2 * WIDTH), Added(2 * WIDTH)

    def forward(self, hidden_states, attention_mask):
        heads, _ = self.attention["self"](hidden_states, attention_mask=attention_mask)
        attended = self.attention["output"](heads, hidden_states)
        return self.output(F.gelu(self.intermediate(attended)), attended)


class Encoder(nn.Module):
    """Encoder of `depth` layers with a vocabulary of 100; padding has the number 0."""

    def __init__(self, depth=3, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(pad_token_id=PAD)
        self.embeddings, self.positions = nn.Embedding(100, WIDTH), nn.Embedding(40, WIDTH)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(Layer(dropout) for _ in range(depth))

    def forward(self, input_ids, attention_mask):
        tokens = self.embeddings(input_ids) + self.positions.weight[: input_ids.shape[1]]
        for layer in self.encoder.layer:
            tokens = layer(tokens, attention_mask[:, None, None].bool())
        return (tokens,)


class TextEncoder(nn.Module):
    """As open_clip's `HFTextEncoder`: the encoder with mean pooling."""

    def __init__(self):
        super().__init__()
        self.transformer = Encoder()
        self.config = self.transformer.config


def texts(*lengths, longest=20):
    """Token numbers: 1 at the start, 2 at the end, 3 to 99 between, and padding."""
    tokens = torch.full((len(lengths), longest), PAD)
    drawn = torch.Generator().manual_seed(1)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = torch.randint(3, 100, (length,), generator=drawn)
        row[0], row[length - 1] = 1, 2
    return tokens


def with_sink(depth, head, number, write):
    """An encoder with an ideal sink.

    In one head of block `depth` every query attends to the token `number`, which is recognised by the first entry of
    its embedding, and whose value is `write` times that of all others.
    """
    model, size = Encoder(), WIDTH // HEADS
    model.embeddings.weight.data[:, 0], model.positions.weight.data[:, 0] = -1, 0
    model.embeddings.weight.data[number, 0] = 6
    for layer in model.encoder.layer[:depth]:
        layer.attention["output"].dense.weight.data.zero_()
        layer.output.dense.weight.data.zero_()
    attention, rows = model.encoder.layer[depth].attention["self"], slice(head * size, (head + 1) * size)
    for part in (attention.query, attention.key, attention.value):
        part.weight.data[rows], part.bias.data[rows] = 0, 0
    attention.query.bias.data[head * size] = 100
    attention.key.weight.data[head * size, 0] = 4
    attention.value.bias.data[rows] = 1.0
    attention.value.weight.data[rows, 0] = write
    return model
