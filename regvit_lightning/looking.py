"""What backbones see in single images, from Python: `regvit_lightning.look(backbone, images)`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from regvit_lightning import settings
from regvit_lightning.analysis import token_maps, views
from regvit_lightning.analysis.token_maps import Choice, Discovered, ModelMaps, Point
from regvit_lightning.analysis.views import View
from regvit_lightning.data.images import open_image
from regvit_lightning.errors import UserError
from regvit_lightning.figures import look as figures_look
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Inside
from regvit_lightning.tasks.discovery import lost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOST_TASK = "lost_voc07"  # whose settings LOST has here, too
FEATURES = {"q": "queries", "k": "keys", "v": "values"}

Picture = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class Look:
    """Maps of images in one or several models.

    Attributes:
        models: maps of each model, see `ModelMaps`.
        titles: name of each image.
        figure: models side by side, a row for each image; None where it was not asked for.
    """

    models: Sequence[ModelMaps]
    titles: Sequence[str]
    figure: Figure | None


def look(
    backbones: Backbone | Iterable[Backbone],
    images: Tensor | Sequence[Picture],
    *,
    size: int | None = None,
    block: int = -1,
    attention_block: int = -1,
    patch: Point | None = None,
    pixel: Point | None = None,
    rule: str = "factor",
    all_similarities: bool = False,
    figure: bool = True,
) -> Look:
    """Maps of attention, norms, similarity, principal components and LOST's box, and a figure of them.

    Args:
        backbones: one, or several, which are used one after the other and may come from a generator.
        images: paths, PIL images, or uint8 arrays (H, W, 3), of any size and aspect; or normalised floats
            (N, 3, H, W) as `backbone.transform` gives them, for models with the same mean and std.
        size: short side in pixels, see `views.view`; normalised images keep theirs.
        block: block of the norms, 0..depth-1, or negative from the end.
        attention_block: block of the attention.
        patch: row and column of the patch that others are compared with; the central one by default.
        pixel: row and column of a pixel in that patch, instead, in pixels of the stored image.
        rule: name of the outlier rule, see `Rules.words`; the cutoff is that of all images of a model.
        all_similarities: give `TokenMaps.similarities`, too: (h w)² numbers for each image.
        figure: draw the figure.

    Raises:
        UserError: no images, an image that cannot be read, a block, patch or pixel outside, or no backbone.
    """
    if patch is not None and pixel is not None:
        raise UserError("patch and pixel: give one of them")
    choice = Choice(block, attention_block, patch, pixel, rule, all_similarities)
    pictures, titles = _pictures(images)
    measured: list[ModelMaps] = []
    for backbone in [backbones] if isinstance(backbones, Backbone) else backbones:
        seen = [_view(backbone, picture, size) for picture in pictures]
        maps = token_maps.measure(backbone, seen, choice, discover)
        measured.append(replace(maps, model=_distinct(maps.model, [other.model for other in measured])))
    if not measured:
        raise UserError("no backbone to look with")
    return Look(measured, titles, figures_look.overview(measured, titles) if figure else None)


def _distinct(name: str, names: Sequence[str]) -> str:
    """`name`, or `name (2)` and so on where it is taken."""
    numbered = (f"{name} ({number})" for number in range(2, len(names) + 2))
    return next(one for one in (name, *numbered) if one not in names)


def _pictures(images: Tensor | Sequence[Picture]) -> tuple[list[Image.Image | Tensor], list[str]]:
    """Images, opened, and their titles: names of files, else numbers."""
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise UserError(
                f"images: expected normalised floats (N, 3, H, W), got {images.dtype} {tuple(images.shape)}"
            )
        pictures: list[Image.Image | Tensor] = list(images)
    elif isinstance(images, str | Path | Image.Image):
        raise UserError("images: expected several, as [image] is for one")
    else:
        pictures = [_opened(image) for image in images]
    if not pictures:
        raise UserError("images: there are none")
    names = [Path(one).name if isinstance(one, str | Path) else f"image {index}" for index, one in enumerate(images)]
    return pictures, names


def _opened(image: Picture) -> Image.Image:
    if isinstance(image, str | Path):
        return open_image(str(image))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        return image
    raise UserError(f"images: expected paths, PIL images or uint8 arrays (H, W, 3), got {type(image).__name__}")


def _view(backbone: Backbone, picture: Image.Image | Tensor, size: int | None) -> View:
    return (
        views.of_normalised(backbone, picture) if isinstance(picture, Tensor) else views.view(backbone, picture, size)
    )


def discover(backbone: Backbone, last: Inside) -> Discovered | None:
    """LOST's object in one image, with the settings of `configs/tasks/lost.yaml`.

    Where all dot products of patches have one sign, every patch is similar to equally many others and the seed means
    nothing; then the features are centred over the patches of the image and L2-normalised.

    Args:
        backbone: the model, whose kind decides between keys and values.
        last: the last block of a batch of one image.

    Returns:
        None where all patches are similar to equally many others even so.
    """
    _, chosen = settings.load_settings("tasks", LOST_TASK)
    published = lost.choice(backbone, chosen)
    features: Tensor = getattr(last.projections, published.feature).patches.float()
    for choice in (published, replace(published, centred=True, l2=True, bias=0.0, scaled=False)):
        steps = lost.LOST([choice], chosen.k).steps([features])
        degrees = steps.maps["degree"]
        if degrees.min() < degrees.max():
            x1, y1, x2, y2 = (int(side) for side in steps.box)
            words = f"LOST, {FEATURES[choice.feature]}{', centred' if choice.centred else ''}"
            return Discovered(divmod(steps.seed, degrees.shape[1]), (x1, y1, x2, y2), words)
    return None
