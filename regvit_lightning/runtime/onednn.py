"""Linear layers in float32 on a CPU by oneDNN, which torch takes for bf16 only.

On AMD's processors the library that torch takes for float32 reaches about half of what oneDNN does; both add in
float32, in another order.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class FastLinear(TorchFunctionMode):
    """Context manager in which linear layers in float32 on a CPU, without gradients, are computed by oneDNN."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        by_onednn = function is F.linear and not options and all(map(_fits, arguments))
        return _linear(*arguments) if by_onednn else function(*arguments, **(options or {}))


def _fits(operand: Tensor | None) -> bool:
    if operand is None:
        return True
    plain = operand.dtype == torch.float32 and operand.device.type == "cpu" and operand.numel() > 0
    autocast = torch.is_autocast_enabled("cpu")
    return plain and not torch.is_grad_enabled() and not autocast and torch.backends.mkldnn.is_available()


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x, w = inputs.contiguous().to_mkldnn(), weight.contiguous().to_mkldnn()
    return F.linear(x, w, None if bias is None else bias.to_mkldnn()).to_dense()
