"""Speed of training of models with an arm, as `make bench ARGS="only=k"` measured it; see `benchmarks.speed.arms`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regvit_lightning.errors import UserError, one_line
from regvit_lightning.values import patterns, strict_json

FILES = "arms-*.json"  # in the folder `bench` of the results, one for each kind of device
ROW = {"model": str, "images_per_second": float, "relative": float, "low": float, "high": float}
PATTERN = {"rows": [ROW], "image_size": int, "batch": int, "steps": int, "device": str, "date": str}


@dataclass(frozen=True)
class ArmSpeed:
    """Measured speed of training of one register ViT.

    Attributes:
        images_per_second: of the forward and backward pass, without reading images.
        relative: median ratio to the plain model with as many registers, in steps that alternate with its own.
        note: how and where it was measured.
    """

    images_per_second: float
    relative: float
    note: str


def read_speeds(results: Path) -> dict[str, ArmSpeed]:
    """Speeds by the name of the register ViT, from the newest measurement in `<results>/bench`; empty without any.

    Raises:
        UserError: a file there is not readable.
    """
    measured = [_read(file) for file in sorted((results / "bench").glob(FILES))]
    if not measured:
        return {}
    newest = max(measured, key=lambda content: content["date"])
    side, batch, steps = (newest[name] for name in ("image_size", "batch", "steps"))
    note = (
        f"training speed: forward and backward pass of {batch} images of {side} px, median of {steps} steps that "
        f"alternate with those of the plain model with as many registers; {newest['device']}, {newest['date'][:10]}"
    )
    return {row["model"]: ArmSpeed(row["images_per_second"], row["relative"], note) for row in newest["rows"]}


def _read(file: Path) -> dict[str, Any]:
    again = 'remove it, or measure again: make bench ARGS="only=k"'
    try:
        content = strict_json.parse(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable ({one_line(error)}); {again}") from None
    if wrong := patterns.mismatch(content, PATTERN):
        raise UserError(f"{file}: {wrong[:200]}; {again}")
    return dict(content)
