"""Classes and properties of test images, kept beside the results: `python -m benchmarks.annotate data=mini`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from regvit_lightning.data import annotated, layout
from regvit_lightning.data.annotated import Annotated
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.errors import UserError
from regvit_lightning.settings import setting
from regvit_lightning.values import texts

DESCRIPTION = """Looks at every test image of a data set once and writes <results>/<data>/annotations/<set>.json: its
classes, and its properties (texture, clutter, size and number of objects, as far as the annotations tell). Tables,
report and compare take them from there to say on which classes and images one model is better than another, also
where the images are not. Sets that are not there are left out; a file that still fits its images is left as it is."""


@dataclass
class Annotate:
    """Settings of the program."""

    data: str = setting("a file of configs/data, or a folder with train/ and val/ class folders", "mini")
    sets: str = setting("sets, with commas: imagenet, segmentation, depth, voc07, …; empty: all that are there", "")
    results: str = setting("folder of the results", "results", texts.folder)
    force: bool = setting("look again, even if the file fits its images", False)


def main(options: Annotate, words: list[str]) -> None:
    """Run the program."""
    data = layout.resolve(options.data)
    if not data.rendered and not Path(data.root).is_dir():
        raise UserError(f"no folder {data.root}; {data.get}" if data.get else f"no folder {data.root}")
    chosen = [name.strip() for name in options.sets.split(",") if name.strip()]
    for line in annotate(data, Path(options.results), chosen, options.force):
        print(f"annotate: {line}")


def annotate(
    data: DataSettings,
    results: Path,
    chosen: Sequence[str] = (),
    force: bool = False,
    elsewhere: Path | None = None,
) -> Iterator[str]:
    """Write the files of the sets that are there, and yield a line about each.

    Args:
        data: location and layout of the images; rendered ones are rendered first.
        results: folder of the results.
        chosen: names of sets; all that are there if it is empty.
        force: look again, even if the file fits its images.
        elsewhere: another folder of results, whose files are taken if they fit.

    Raises:
        UserError: a chosen set is missing or unreadable, or none is there.
    """
    from benchmarks.data.rendering import render
    from benchmarks.data.shown import Shown
    from regvit_lightning.data import annotating

    render(data)
    sections = chosen or there(data)
    if not sections:
        raise UserError(f"no test images in {data.root} that a task of classes, masks, depth or boxes reads")
    folder = annotated.path(results, data.name, "").parent
    kept, others = (_fitting(one, data, sections) for one in (results, elsewhere or results))
    for section in sections:
        if not force and section in kept:
            yield f"{annotated.path(results, data.name, section)} fits its images (FORCE=1 looks again)"
            continue
        with Shown(f"looking at {section}", "img") as show:
            made = None if force else others.get(section)
            made = made or annotating.annotate(data, section, show)
        file = made.save(folder)
        named = ", ".join(one.name for one in made.properties)
        yield f"{file}: {len(made):,} images, {len(made.classes):,} classes; {named}"


def _fitting(results: Path, data: DataSettings, sections: Sequence[str]) -> dict[str, Annotated]:
    """Files of a folder of results that fit the images as they lie there now, by name of the set."""
    from regvit_lightning.data import digest

    known, _ = annotated.read_folder(annotated.path(results, data.name, "").parent)
    fitting = {}
    for section in known.keys() & set(sections):
        now, then = digest.digests(data, section), known[section].digests
        if then and all(now.get(split) == value for split, value in then.items()):
            fitting[section] = known[section]
    return fitting


def there(data: DataSettings) -> list[str]:
    """Names of the sets whose folders or lists lie below the root."""
    first = {
        "imagenet": f"{data.imagenet}/val",
        "segmentation": data.segmentation.masks[1],
        "depth": data.depth.splits or data.depth.lists[1],
        **{name: boxed_set.paths()[1] for name, boxed_set in data.discovery.items()},
    }
    return [name for name, path in first.items() if Path(data.root, path).exists()]


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("annotate", DESCRIPTION, Annotate, main)


if __name__ == "__main__":
    cli()
