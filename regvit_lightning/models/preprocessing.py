"""Mean, std and crop of a foreign model: from the user, from a file beside the weights, or from its family."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from regvit_lightning.models import beside, hugging_face
from regvit_lightning.models.beside import Preprocessing
from regvit_lightning.models.file_words import FileWords
from regvit_lightning.models.transform import SHARE

OPEN_CLIP = "open_clip"
IMAGENET = Preprocessing(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, SHARE)
OPENAI = Preprocessing(OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, 1.0)

# Families whose releases all have the usual mean and std.
FAMILIES = ("DINOv2", "DeiT-III", hugging_face.DINOV2, hugging_face.CLIP)


class Seen(NamedTuple):
    """How a model's images are prepared.

    Attributes:
        mean, std: per channel, for images in 0..1.
        share: fraction of the resized short side that the crop keeps.
        origin: where mean and std are from, as records state it.
        guessed: neither the user nor a file says them, and the family does not imply them.
        choices: mean and std, where they differ from the family's.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    share: float
    origin: str
    guessed: bool
    choices: Mapping[str, Any]


def of(path: Path, naming: str, words: FileWords) -> Seen:
    """Preprocessing of the model in `path`.

    Args:
        path: file of the weights.
        naming: see `weights.Loaded`.
        words: what the user says.

    Raises:
        UserError: an invalid file beside the weights.
    """
    usual = OPENAI if naming in (OPEN_CLIP, hugging_face.CLIP) else IMAGENET
    whose = "OpenAI's" if usual is OPENAI else "ImageNet's"
    stated, origin = _in_a_file(path, naming, usual)
    mean, std = words.mean or stated.mean, words.std or stated.std
    if words.mean or words.std:
        origin = "mean= and std= of the model's name" if words.mean and words.std else f"a word, and {origin or whose}"
    family = naming in FAMILIES
    known = origin or (f"{whose}, as in {naming}" if family else whose)
    choices = {"mean": list(mean), "std": list(std)} if (mean, std) != (usual.mean, usual.std) else {}
    return Seen(mean, std, stated.share, known, not origin and not family, choices)


def _in_a_file(path: Path, naming: str, usual: Preprocessing) -> tuple[Preprocessing, str]:
    """Preprocessing that a file beside the weights states, with the file's name; the usual one and '' without."""
    if naming == OPEN_CLIP:
        stated = beside.open_clip_statistics(path)
        return (Preprocessing(*stated, usual.share), beside.CLIP_CONFIG) if stated else (usual, "")
    processor = beside.processor(path)
    if processor is not None:
        return processor, beside.PROCESSOR
    config = beside.timm_config(path)
    if config is not None and config.preprocessing is not None:
        return config.preprocessing, beside.CONFIG
    return usual, ""
