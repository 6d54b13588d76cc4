"""Check of a backbone's outputs: a feature that is NaN or infinite would pass silently through every score."""

from collections.abc import Sequence

import torch
from torch import Tensor

from regvit_lightning.errors import UserError
from regvit_lightning.models.tokens import Tokens

PROBLEM = (
    "are NaN or infinite: try precision=32-true; if they stay so, the weights are damaged, or read with wrong settings"
)


def parts(tokens: Tokens, where: str) -> list[tuple[str, Tensor]]:
    """The tensors of `tokens`, each with its name for `require_finite`; `where` is such as `after block 11`."""
    named = (("CLS", tokens.cls), ("registers", tokens.registers), ("patches", tokens.patches))
    return [(f"{kind} {where}", tensor) for kind, tensor in named if tensor is not None]


def is_finite(tensor: Tensor) -> Tensor:
    """Whether all values are finite, as one boolean on the tensor's device; one pass without a copy."""
    if not tensor.numel():
        return torch.ones((), dtype=torch.bool, device=tensor.device)
    return torch.stack(tensor.aminmax()).isfinite().all()


def require_finite(name: str, outputs: Sequence[tuple[str, Tensor]]) -> None:
    """Raise unless all values are finite; one transfer from the device for all of `outputs`.

    Args:
        name: of the model, for the message.
        outputs: what each tensor is, and the tensor (B, …).

    Raises:
        UserError: the first tensor with a NaN or infinite value, and the image of the batch that it belongs to.
    """
    outputs = [(what, tensor) for what, tensor in outputs if not tensor.is_meta]  # those have shapes, but no values
    flags = torch.stack([is_finite(tensor) for _, tensor in outputs]).tolist() if outputs else []
    for (what, tensor), fine in zip(outputs, flags, strict=True):
        if not fine:
            image = int((~tensor.isfinite()).flatten(1).any(dim=1).int().argmax())
            raise UserError(f"{name}: the {what} of image {image} of a batch of {len(tensor)} {PROBLEM}")


def require_flags(name: str, flags: Sequence[tuple[str, Tensor]]) -> None:
    """Raise `UserError` at the first of `flags`, from `is_finite`, that is False."""
    flags = [(what, flag) for what, flag in flags if not flag.is_meta]
    values = torch.stack([flag for _, flag in flags]).tolist() if flags else []
    for (what, _), fine in zip(flags, values, strict=True):
        if not fine:
            raise UserError(f"{name}: the {what} of a batch of images {PROBLEM}")
