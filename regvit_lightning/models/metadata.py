"""Metadata of weights of ours: what a file says beside its tensors, so that the model can be built again."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from regvit_lightning.errors import UserError
from regvit_lightning.models import names, vit
from regvit_lightning.models.dinov3 import MOST_REGISTERS
from regvit_lightning.models.transform import statistics

LARGEST_IMAGE = 16384  # px; beyond, an image size is a mistake
LARGEST_SCALE = 1e6  # of LayerScale, for the same reason


@dataclass(frozen=True)
class Metadata:
    """Metadata of the weights in a file of ours.

    Attributes:
        name: model name by the grammar (`vitb_reg16`).
        recipe: recipe that trained it (`deit3`), with the tag of a run with custom settings (`deit3+lr2e-3`).
        image_size: side in pixels of the images that the position embedding corresponds to.
        mean, std: per channel, for images in 0..1.
        layer_scale: initial value of LayerScale, or None for a model without.
        registers: number N of registers, as in `name`.
        info: any further information (commit, steps, settings), JSON-serialisable.
        pre_norm: norm before the first block, as in CLIP's image tower, see `RegisterViT`.
        swiglu: SwiGLU instead of the MLP of the name's size, see `vit.with_swiglu`.
        class_token: whether the model has CLS; False for one trained on the mean of its patches.
    """

    name: str
    recipe: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layer_scale: float | None
    registers: int
    info: dict[str, Any] = field(default_factory=dict)
    pre_norm: bool = False
    swiglu: bool = False
    class_token: bool = True

    @property
    def id(self) -> str:
        """Id of the trained model: `deit3-vitb_reg16`."""
        return f"{self.recipe}-{self.name}"

    @classmethod
    def read(cls, values: Mapping[str, Any], source: object) -> "Metadata":
        """Read the metadata from a mapping as returned by `dataclasses.asdict` or JSON.

        Raises:
            UserError: keys are missing or unknown, a value is of another type or out of range, the recipe is not safe
                in an id, or the registers contradict the name.
        """
        if not isinstance(values, Mapping):
            raise UserError(f"{source}: its metadata is not a mapping")
        known = {entry.name for entry in fields(cls)}
        required = {entry.name for entry in fields(cls) if entry.default is MISSING is entry.default_factory}
        if not all(isinstance(key, str) for key in values):
            raise UserError(f"{source}: its metadata is damaged (a key is not text)")
        wrong = sorted((required - set(values)) | (set(values) - known))
        if wrong:
            raise UserError(f"{source}: its metadata lacks, or should not have: {', '.join(wrong)}")
        mean, std = _statistics(values, source)
        metadata = cls(**{**values, "mean": mean, "std": std})
        metadata._check(source)
        return metadata

    def _check(self, source: object) -> None:
        """Raise `UserError` unless every value is one that training writes."""
        names.check_id(self.recipe, f"{source}: the recipe in its metadata,")
        names.check_id(self.name, f"{source}: the model in its metadata,")
        scale = self.layer_scale
        right = {
            "image_size": _whole(self.image_size, 1, LARGEST_IMAGE),
            "registers": _whole(self.registers, 0, MOST_REGISTERS),
            "layer_scale": scale is None or (type(scale) in (int, float) and abs(scale) <= LARGEST_SCALE),
            "info": isinstance(self.info, Mapping),
            "pre_norm": isinstance(self.pre_norm, bool),
            "swiglu": isinstance(self.swiglu, bool),
            "class_token": isinstance(self.class_token, bool),
        }
        wrong = [f"{key}={str(getattr(self, key))[:40]}" for key, fits in right.items() if not fits]
        if wrong:
            raise UserError(f"{source}: its metadata is damaged ({', '.join(wrong)})")
        architecture, registers = vit.parse_name(self.name)
        if registers != self.registers:
            raise UserError(f"{source}: says {self.registers} registers but is named {self.name}")
        if self.image_size % architecture.patch_size:
            raise UserError(f"{source}: says images of {self.image_size} px, no multiple of {architecture.patch_size}")


def _statistics(values: Mapping[str, Any], source: object) -> tuple[Any, Any]:
    try:
        return statistics(values["mean"], values["std"])
    except ValueError as error:
        raise UserError(f"{source}: its metadata is damaged ({error})") from None


def _whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most
