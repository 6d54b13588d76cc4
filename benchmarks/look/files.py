"""Files of a look: the figure, each map alone, and the arrays behind them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from regvit_lightning.analysis.token_maps import ModelMaps, TokenMaps
from regvit_lightning.figures import look as figures
from regvit_lightning.figures import look_panels, style
from regvit_lightning.looking import Look
from regvit_lightning.runtime import atomic

FIGURE, SPRITE, ARRAYS = "figure", "similarities.png", "maps.npz"
LONGEST = 60  # characters of a name in a folder's name


@dataclass(frozen=True)
class Saved:
    """Maps of one image in one model, as files.

    Attributes:
        model, image: their indices.
        folder: where the files are, relative to that of the look.
        titles: title of each map, by the stem of its files.
        missing: titles of the maps that this model does not have.
        maps: the maps; with `similarities` there is also `SPRITE`, see `sprite`.
    """

    model: int
    image: int
    folder: Path
    titles: dict[str, str]
    missing: list[str]
    maps: TokenMaps


def folder_name(names: Sequence[str]) -> str:
    """Name of the folder of a look, from its models: `a+b`; the first two of many."""
    shown = [slug(name)[:LONGEST] for name in names[:2]]
    return "+".join(shown) + (f"+{len(names) - 2}" if len(names) > 2 else "")


def slug(text: str) -> str:
    """A file name of letters, digits and `_ . + -`, not hidden."""
    return re.sub(r"[^\w.+-]+", "_", text).lstrip(".-")[:100] or "_"


def save(looked: Look, folder: Path, formats: Sequence[str], alone: bool = True) -> Iterator[Saved]:
    """Write the figure, then, if `alone`, the maps of each image in each model; existing files are overwritten.

    Raises:
        UserError: the folder is not writable, or the disk is full.
    """
    if looked.figure is not None:
        style.save(looked.figure, folder / FIGURE, formats)
    if not alone:
        return
    scale = look_panels.norm_scale(looked.models)
    names = [f"{index:02}-{slug(Path(title).stem)}" for index, title in enumerate(looked.titles)]
    for image, name in enumerate(names):
        frame = look_panels.frame_of(looked.models, image)
        for number, model in enumerate(looked.models):
            maps, own = model.images[image], Path("maps", name, slug(model.model))
            panels = [*look_panels.main_panels(maps, frame, scale), *look_panels.register_panels(maps, frame)]
            panels += look_panels.head_panels(maps, frame)
            drawn = [panel for panel in panels if panel.draw]
            for panel in drawn:
                style.save(figures.alone(panel, frame), folder / own / panel.name, formats)
            _write_arrays(maps, model, folder / own / ARRAYS)
            if maps.similarities is not None:
                _write_picture(sprite(maps.similarities), folder / own / SPRITE)
            titles = {panel.name: panel.title for panel in drawn}
            missing = [panel.title for panel in panels if not panel.draw]
            yield Saved(number, image, own, titles, missing, maps)


def _write_picture(picture: Image.Image, file: Path) -> None:
    atomic.write(file, partial(picture.save, format="PNG"))


def _write_arrays(maps: TokenMaps, model: ModelMaps, file: Path) -> None:
    """Arrays of `TokenMaps` under their names, without the pairs of all patches."""
    values = {field.name: getattr(maps, field.name) for field in fields(maps) if field.name != "similarities"}
    discovered = values.pop("discovered")
    del values["added"]  # a number, which the model's name says
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in values.items() if value is not None}
    arrays |= {"cutoff": np.asarray(model.cutoff)}
    arrays |= {"seed": np.asarray(discovered.seed), "box": np.asarray(discovered.box)} if discovered else {}

    def fill(path: Path) -> None:
        with path.open("wb") as opened:
            np.savez_compressed(opened, **arrays)

    atomic.write(file, fill)


def sprite(similarities: npt.NDArray[np.floating]) -> Image.Image:
    """All similarities of an image in one picture: the tile at (row, column) is the map of that patch.

    Args:
        similarities: (h, w, h, w) cosines.

    Returns:
        h² pixels high and w² wide, of 256 colours.
    """
    import matplotlib

    rows, columns = similarities.shape[:2]
    tiles = similarities.transpose(0, 2, 1, 3).reshape(rows * rows, columns * columns)
    levels = np.round((tiles.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    colours = matplotlib.colormaps[look_panels.COSINE](np.arange(256), bytes=True)[:, :3]
    picture = Image.fromarray(levels, "P")
    picture.putpalette(colours.tobytes())
    return picture
