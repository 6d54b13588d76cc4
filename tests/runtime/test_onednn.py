"""Linear layers by oneDNN: which ones, and their values beside float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regvit_lightning.runtime import onednn


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the inputs of the layers that oneDNN computed."""
    shapes, plain = [], onednn._linear
    monkeypatch.setattr(onednn, "_linear", lambda *own: shapes.append(tuple(own[0].shape)) or plain(*own))
    return shapes


@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_values_are_those_of_float64(calls, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(300, 70, bias=bias), torch.randn(2, 9, 600)[..., ::2]
    expected = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    with onednn.FastLinear():
        found = layer(x)
    assert calls == [(2, 9, 300)]
    assert found.layout == torch.strided
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_all_else_is_left_to_torch(calls):
    layer, x = nn.Linear(4, 3), torch.randn(2, 4)
    with onednn.FastLinear():
        layer(x).sum().backward()  # oneDNN would need a gradient of its own
        with torch.inference_mode():
            layer.double()(x.double())
            layer.float()(x[:0])
            with torch.autocast("cpu", torch.bfloat16):
                assert layer(x).dtype == torch.bfloat16
            x @ layer.weight.T
    assert layer.weight.grad is not None
    assert not calls
