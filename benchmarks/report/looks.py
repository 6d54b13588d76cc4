"""Figures of `make look` on the page: the newest, across its width, each a link to the figure and to its own page."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import pictures

MOST = 2  # figures on the page, of about 200 kB each
FOLDER, FIGURE, PAGE = "look", "figure.png", "index.html"  # as `make look` names them


@dataclass(frozen=True)
class Shown:
    """One figure as shown on the page.

    Attributes:
        name: its folder's name, which has those of its models.
        source: the figure as a data URI.
        width, height: size in pixels.
        file, page: addresses of the figure at full size and of its own page, relative to the folder of the page; the
            latter is empty where there is none.
    """

    name: str
    source: str
    width: int
    height: int
    file: str
    page: str


def looks(folder: Path, width: int) -> tuple[list[Shown], list[str]]:
    """The newest figures in `folder`, newest first.

    Args:
        folder: results of a data set, where the page is written.
        width: maximum width of a figure in pixels.

    Returns:
        The figures, and one warning for each unreadable one.
    """
    shown: list[Shown] = []
    skipped: list[str] = []
    figures = sorted(folder.glob(f"{FOLDER}/*/{FIGURE}"), key=lambda file: (-file.stat().st_mtime, file))
    for file in figures[:MOST]:
        try:
            content, size = pictures.small(file, width)
        except pictures.UNREADABLE as error:
            skipped.append(f"{file}: unreadable figure ({error}); remove it and look again")
            continue
        page = pictures.address(file.with_name(PAGE)) if file.with_name(PAGE).is_file() else ""
        shown.append(Shown(file.parent.name, pictures.data_uri(content), *size, pictures.address(file), page))
    return shown, skipped
