"""Which arithmetic the hardware has."""

import torch

from regvit_lightning.settings import check


def resolve(precision: str, accelerator: str) -> str:
    """`auto` becomes bf16 autocast where the hardware multiplies in bf16, and full fp32 elsewhere.

    Args:
        precision: `auto`, `bf16-mixed` or `32-true` (Lightning's names).
        accelerator: `cpu` or `cuda`.

    Raises:
        SettingsError: another name.
    """
    known = ("auto", "bf16-mixed", "32-true")
    check(precision in known, f"precision={precision}: expected one of {', '.join(known)}")
    if precision != "auto":
        return precision
    if accelerator == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16-mixed" if fast else "32-true"


def accelerator() -> str:
    """`cuda` where there is a device, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"
