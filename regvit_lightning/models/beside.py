"""JSON files beside weights: configuration of timm, transformers' image processors and open_clip."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from regvit_lightning.errors import UserError, one_line
from regvit_lightning.models.transform import Statistics, statistics

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"  # of timm or transformers; of transformers
CLIP_CONFIG = "open_clip_config.json"  # beside the weights of a released open_clip model


class Preprocessing(NamedTuple):
    """Preprocessing that a file states.

    Attributes:
        mean, std: per channel, for images in 0..1.
        share: fraction of the resized short side that the crop keeps.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    share: float


class TimmConfig(NamedTuple):
    """What timm's `config.json` says about a model.

    Attributes:
        architecture: name of the model in timm, or empty.
        heads: attention heads per block where the file overrides the architecture's, else None.
        preprocessing: None where the file states no mean and std.
    """

    architecture: str
    heads: int | None
    preprocessing: Preprocessing | None


def timm_config(weights: Path) -> TimmConfig | None:
    """Read timm's `config.json` beside the weights; None without the file, or where it is not timm's.

    Raises:
        UserError: an invalid file.
    """
    file = weights.with_name(CONFIG)
    values = read_json(file, "timm or transformers") or {}
    inner = values.get("pretrained_cfg", values)
    if "architecture" not in values and "pretrained_cfg" not in values:
        return None
    try:
        arguments = values.get("model_args") or {}
        architecture, heads = values.get("architecture") or "", arguments.get("num_heads")
        if not isinstance(architecture, str) or not (heads is None or type(heads) is int):
            raise ValueError("architecture is a name, num_heads a whole number")
        given = "mean" in inner or "std" in inner
        share = _share(inner.get("crop_pct") or 1.0)
        shown = Preprocessing(*statistics(inner["mean"], inner["std"]), share) if given else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: not a configuration of timm ({_reason(error)})") from None
    return TimmConfig(architecture, heads, shown)


def processor(weights: Path) -> Preprocessing | None:
    """Read `preprocessor_config.json` of transformers; None without the file.

    Raises:
        UserError: an invalid file.
    """
    file = weights.with_name(PROCESSOR)
    values = read_json(file, "transformers")
    if values is None:
        return None
    try:
        mean, std = statistics(values["image_mean"], values["image_std"])
        resized, cropped = _side(values.get("size")), _side(values.get("crop_size"))
        share = cropped / resized if resized and cropped and values.get("do_center_crop", True) else 1.0
        return Preprocessing(mean, std, _share(min(share, 1.0)))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{file}: not the configuration of an image processor ({_reason(error)})") from None


def open_clip_statistics(weights: Path) -> Statistics | None:
    """Mean and std in `open_clip_config.json`; None where it does not state them.

    Raises:
        UserError: an invalid file, or a model with QuickGELU.
    """
    file = weights.with_name(CLIP_CONFIG)
    values = read_json(file, "open_clip")
    if values is None:
        return None
    try:
        quick, images = values["model_cfg"].get("quick_gelu", False), values["preprocess_cfg"]
        stated = statistics(images["mean"], images["std"]) if {"mean", "std"} <= set(images) else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: not a configuration of open_clip ({_reason(error)})") from None
    if quick:
        raise UserError(f"{weights}: {file.name} says QuickGELU, which our ViT does not have; take it as timm/<name>")
    return stated


def open_clip_head_width(weights: Path) -> int | None:
    """Width of a head of the image tower, from `open_clip_config.json`; None without the file.

    Raises:
        UserError: an invalid file.
    """
    file = weights.with_name(CLIP_CONFIG)
    values = read_json(file, "open_clip")
    if values is None:
        return None
    try:
        width = values["model_cfg"].get("vision_cfg", {}).get("head_width", 64)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not a configuration of open_clip ({_reason(error)})") from None
    if type(width) is not int or width < 1:
        raise UserError(f"{file}: head_width is {width}, expected a whole number above 0")
    return width


def read_json(file: Path, whose: str) -> dict[str, Any] | None:
    """Content of a JSON file; None if there is no such file.

    Args:
        file: path of the file.
        whose: program that writes such files, for the message.

    Raises:
        UserError: not JSON, or not a mapping.
    """
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON ({one_line(error)})") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: not a configuration of {whose}")
    return values


def _share(value: Any) -> float:
    if not 0 < float(value) <= 1:
        raise ValueError(f"a crop of {value} of the image")
    return float(value)


def _side(size: Any) -> int | None:
    """Side in pixels from the formats of image processors: 224, {"shortest_edge": 224}, {"height": 224, …}."""
    if isinstance(size, dict):
        size = size.get("shortest_edge", size.get("height"))
    return None if size is None else int(size)


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else one_line(error)
