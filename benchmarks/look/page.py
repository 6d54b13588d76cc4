"""The page of a look: every map, larger, and similarities to any patch that is clicked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.look.files import SPRITE, Saved
from regvit_lightning.analysis.token_maps import ModelMaps
from regvit_lightning.looking import Look

TEMPLATE = Path(__file__).with_name("page.html")


def render(
    looked: Look, saved: Sequence[Saved], formats: Sequence[str], answers: Sequence[Sequence[str]] | None = None
) -> str:
    """The page, in the folder of the files; without JavaScript its maps are links to the files.

    Args:
        looked: what was looked at.
        saved: the files of each image in each model.
        formats: of the figure and the maps, `png` among them.
        answers: lines on high norms, sinks and locality of each model, see `artifacts.lines`; none by default.
    """
    from jinja2 import Environment, StrictUndefined

    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    images = [
        {
            "title": title,
            "index": index,
            "cards": [_card(looked.models[one.model], one) for one in saved if one.image == index],
        }
        for index, title in enumerate(looked.titles)
    ]
    title = " and ".join(model.model for model in looked.models)
    asked = list(zip((model.model for model in looked.models), answers, strict=True)) if answers else []
    return made.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title, images=images, formats=formats, asked=asked
    )


def _card(model: ModelMaps, saved: Saved) -> dict[str, Any]:
    maps, folder = saved.maps, quote(saved.folder.as_posix())
    (rows, columns), cutoff = maps.norms.shape, f"{model.rule} = {model.cutoff:.3g}"
    files = [
        {"name": name, "title": title, "file": f"{folder}/{quote(name)}.png", "head": name.startswith("head_")}
        for name, title in saved.titles.items()
    ]
    return {
        "model": model.model,
        "facts": f"{rows} × {columns} patches; {model.blocks_in_words}; outliers beyond {cutoff}",
        "maps": files,
        "missing": saved.missing,
        "sprite": f"{folder}/{SPRITE}" if maps.similarities is not None else "",
        "rows": rows,
        "columns": columns,
        "region": " ".join(map(str, maps.region)),
        "patch": " ".join(map(str, maps.patch)),
    }
