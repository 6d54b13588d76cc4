"""Dense bf16 peaks of GPUs by their data sheets, without sparsity, and a short name for the files of results."""

import re

# FLOP/s by a part of the name that the driver gives; the first that fits counts.
PEAKS = {
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,  # SXM, "H100 80GB HBM3"
    "H800": 989e12,
    "H20": 148e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "A10G": 70e12,
    "A40": 150e12,
    "A30": 165e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "4090": 165e12,
    "3090": 71e12,
}


def peak(name: str) -> float | None:
    """Peak of the card called `name` in FLOP/s; None for an unknown one."""
    return next((value for part, value in PEAKS.items() if part in name), None)


def short(name: str) -> str:
    """Name for files: `h100` for NVIDIA H100 80GB HBM3; of an unknown card, its own name in small letters."""
    known = next((part for part in PEAKS if part in name), name.removeprefix("NVIDIA "))
    return re.sub(r"[^a-z0-9]+", "-", known.lower()).strip("-")
