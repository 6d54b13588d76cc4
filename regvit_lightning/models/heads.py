"""Number of attention heads of foreign weights, which no tensor shows: from what lies beside them, else a guess."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import timm
import torch

from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.models import beside, clip_naming
from regvit_lightning.models.vit import Architecture

# Families whose code fixes the width of a head for every size: DINOv2, DeiT-III; DINOv3, but for its 7B model.
TRANSFORMERS = f"{beside.CONFIG} of transformers"
OF_64 = ("DINOv2", "DeiT-III", "DINOv3")
DINOV3_7B = {4096: 32}


class Heads(NamedTuple):
    """Number of heads per block.

    Attributes:
        number: attention heads per block.
        origin: where the number is from, as records state it.
        guessed: neither the user nor a file says it.
    """

    number: int
    origin: str
    guessed: bool = False


class Known(NamedTuple):
    """What is known of a model besides the shapes of its tensors.

    Attributes:
        path: file of the weights.
        word: the user's number, or None.
        config: number in the `config.json` of transformers, or None.
        family: `DINOv2`, `DeiT-III`, `DINOv3`, `open_clip` or empty, from the names of the tensors.
        architecture: name that the training program wrote beside the weights, or empty.
        prefix: prefix of the tensors' names.
    """

    path: Path
    word: int | None = None
    config: int | None = None
    family: str = ""
    architecture: str = ""
    prefix: str = ""


def of(width: int, known: Known) -> Heads:
    """Number of heads of a model of this width.

    Raises:
        UserError: a number that does not divide the width, a file beside the weights that describes another model, or
            a width for which there is no guess.
    """
    stated = _stated(width, known)
    if stated is None:
        number = by_width(width, known.path)
        return Heads(number, f"a guess from width {width}", guessed=True)
    if not 1 <= stated.number <= width or width % stated.number:
        raise UserError(f"{known.path}: {stated.number} heads ({stated.origin}) do not divide width {width}")
    return stated


def _stated(width: int, known: Known) -> Heads | None:
    if known.word is not None:
        return Heads(known.word, "heads= of the model's name")
    if known.config is not None:
        return Heads(known.config, TRANSFORMERS)
    if known.family == "open_clip":
        head_width = beside.open_clip_head_width(known.path)
        return None if head_width is None else Heads(width // head_width, beside.CLIP_CONFIG)
    config = beside.timm_config(known.path)
    if config is not None and (config.heads or config.architecture):
        number = config.heads or _of_timm(config.architecture, width, f"{known.path}: {beside.CONFIG} beside it")
        return None if number is None else Heads(number, beside.CONFIG)
    if known.architecture:
        number = _of_timm(known.architecture, width, f"{known.path}: its architecture")
        if number is None and known.architecture.startswith("vit_") and "_encoder." in known.prefix:
            number = 12  # MoCo-v3's code: every ViT has 12 heads, whatever its width
        if number is not None:
            return Heads(number, f"the file's architecture {known.architecture}")
    if known.family in OF_64 and width % 64 == 0:
        number = DINOV3_7B.get(width, width // 64) if known.family == "DINOv3" else width // 64
        return Heads(number, f"{known.family}, whose code fixes them")
    return None


def _of_timm(architecture: str, width: int, where: str) -> int | None:
    """Heads of timm's model of that name; None if timm does not have it."""
    name = architecture.partition(".")[0]
    if not timm.is_model(name):
        return None
    with torch.device("meta"):
        model = timm.create_model(name)
    shape: Mapping[str, object] = vars(model)
    number = getattr(getattr(getattr(model, "blocks", [None])[0], "attn", None), "num_heads", None)
    if shape.get("embed_dim") != width or not isinstance(number, int):
        raise UserError(f"{where}: says {architecture}, which is no ViT of width {width}, as the file holds")
    return number


def by_width(width: int, source: object) -> int:
    """Guess the number of heads: our widths and CLIP's imply it; else heads are 64 wide.

    Raises:
        UserError: a width for which there is no guess.
    """
    if width in clip_naming.HEADS:
        return clip_naming.HEADS[width]
    known = [settings.build(Architecture, settings.find("models", size)) for size in settings.names("models")]
    heads = {architecture.num_heads for architecture in known if architecture.embed_dim == width}
    if width % 64 == 0 and (not heads or width // 64 in heads):
        return width // 64
    if len(heads) != 1:
        which = f"is one of {sorted(heads)} in configs/models" if heads else "is unknown"
        raise UserError(f"{source}: the number of heads of width {width} {which}; give it: {source}:heads=<number>")
    return heads.pop()
