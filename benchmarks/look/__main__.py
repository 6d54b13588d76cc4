"""Look at what models see: `python -m benchmarks.look model=a,b images=photo.jpg size=518 block=-2`."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import command
from benchmarks.look import images as image_files
from regvit_lightning.data import layout
from regvit_lightning.settings import SEEDS, check, setting
from regvit_lightning.values import texts

if TYPE_CHECKING:
    from regvit_lightning.models.backbone import Backbone

DESCRIPTION = """Draws what models see in images, side by side, a row for each image: attention of CLS (mean and by
head) and of each register, similarity to a patch, norms with the outliers marked, principal components as colours, and
LOST's seed and box. Writes <results>/<data>/look/<models>/: figure.png, .pdf and .svg, each map alone with its arrays
in maps/, and index.html, where a patch can be clicked."""

FORMATS = ("png", "pdf", "svg")


@dataclass
class LookAt:
    """Settings of the program."""

    model: str = setting("one or several with commas, each as for make eval")
    images: str = setting("files or folders with commas; '' takes the two photographs that scikit-learn ships", "")
    size: int | None = setting(
        "short side in pixels, aspect kept; not given, each model's own", None, within="[1, 1e4]"
    )
    block: int = setting("block of the norms, from 0, or negative from the end", -1, within="[-1000, 1000]")
    attention_block: int = setting("block of the attention, likewise", -1, within="[-1000, 1000]")
    patch: str = setting("row,column of the patch compared, or of a pixel in it: 130px,200px; '' is the centre", "")
    rule: str = setting("outlier rule, as in the artifact report", "factor")
    most: int = setting("images taken of a folder, evenly spread", 4, within="[1, 100]")
    formats: str = setting("of the figure and the maps, with commas", ",".join(FORMATS))
    alone: bool = setting("write each map alone, and the page; false: the figure only", True)
    seed: int = setting("of trained and untrained models", 0, within=SEEDS)
    accelerator: str = setting("auto: a GPU where there is one; cpu", "auto")
    data: str = setting("data of the results, and of the runs where trained models lie", "mini")
    runs: str = setting("folder of the runs", "runs", texts.folder)
    results: str = setting("folder of the results", "results", texts.folder)


def main(options: LookAt, words: list[str]) -> None:
    """Run the program."""
    formats, patch, pixel = formats_of(options.formats), *patch_of(options.patch)
    names = models_of(options.model)
    files, left_out = image_files.chosen(options.images, options.most)
    data = layout.resolve(options.data, root_needed=False)

    from benchmarks.look import artifacts
    from benchmarks.look.files import folder_name, save
    from benchmarks.look.page import render
    from regvit_lightning.looking import look
    from regvit_lightning.runtime import atomic, hardware

    hardware.choose_accelerator(options.accelerator, 1)
    looks = Path(options.results, data.name, "look")
    atomic.check_writable(looks / "figure.png")
    backbones = _loaded(names, options, Path(options.runs) / (data.trained_on or data.name))
    looked = look(
        backbones,
        [str(file) for file in files],
        size=options.size,
        block=options.block,
        attention_block=options.attention_block,
        patch=patch,
        pixel=pixel,
        rule=options.rule,
        all_similarities=options.alone,
    )
    if left_out:
        print(f"look: {left_out:,} more images of the folders are left out: most={options.most}")
    folder = looks / folder_name([model.model for model in looked.models])
    saved = list(save(looked, folder, formats, options.alone))
    answers = [
        artifacts.lines(model, given, Path(options.results), data.name, options.seed)
        for model, given in zip(looked.models, names, strict=True)
    ]
    if options.alone:
        atomic.write_text(folder / "index.html", render(looked, saved, formats, answers))
    for model, asked in zip(looked.models, answers, strict=True):
        print(f"look: {model.model}: {model.outliers_in_words}")
        for line in asked:
            print(f"look: {model.model}: {line}")
    made = [f"figure.{kind}" for kind in formats] + ["index.html", "maps/"] * options.alone
    print(f"look: {', '.join(made)} in {folder}")


def _loaded(names: list[str], options: LookAt, runs: Path) -> "Iterator[Backbone]":
    """Load one model after the other, so that one is in memory at a time."""
    from regvit_lightning.models.sources import load_backbone
    from regvit_lightning.runtime import hardware

    for name in names:
        began = time.monotonic()
        backbone = load_backbone(name, runs, options.seed, image_size=options.size or 224)
        yield backbone.to(hardware.accelerator())
        print(f"look: {backbone.name}: {time.monotonic() - began:.1f} s", flush=True)


def models_of(text: str) -> list[str]:
    """Names of models in a list with commas; a comma before a number belongs to a file's word (`mean=0.5,0.4,0.3`).

    Raises:
        SettingsError: there is none.
    """
    names = [name.strip() for name in re.split(r",(?!\s*[0-9.]+(?:[,:+]|$))", text) if name.strip()]
    check(bool(names), "model=: expected the name of a model, or several with commas")
    return names


def formats_of(text: str) -> list[str]:
    """Formats in a list with commas; PNG first, which the page needs.

    Raises:
        SettingsError: another format.
    """
    formats = [part.strip().lower() for part in text.split(",") if part.strip()]
    unknown = [part for part in formats if part not in FORMATS]
    check(not unknown, f"formats={text}: expected some of {','.join(FORMATS)}")
    return list(dict.fromkeys(["png", *formats]))


def patch_of(text: str) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Row and column of a patch, or of a pixel; None for the one that is not given.

    Raises:
        SettingsError: neither `row,column` nor `<row>px,<column>px`.
    """
    if not text.strip():
        return None, None
    match = re.fullmatch(r"\s*(\d{1,6})(px)?\s*,\s*(\d{1,6})(px)?\s*", text)
    check(
        match is not None and match[2] == match[4],
        f"patch={text}: expected row,column of a patch, as 12,20, or of a pixel, as 130px,200px",
    )
    assert match is not None
    point = int(match[1]), int(match[3])
    return (None, point) if match[2] else (point, None)


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("look", DESCRIPTION, LookAt, main)


if __name__ == "__main__":
    cli()
