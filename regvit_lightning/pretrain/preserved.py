"""Looking at a model while it trains without leaving a trace."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Afterwards the modes of all modules and the gradient flags of all parameters are what they were before."""
    modes = {module: module.training for module in model.modules()}
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, flag in trained.items():
            parameter.requires_grad_(flag)
