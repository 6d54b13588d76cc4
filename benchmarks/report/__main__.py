"""One HTML page of all results of a data set: `python -m benchmarks.report data=mini`."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

from benchmarks import command
from benchmarks.report import cells as kept
from benchmarks.report import commands, curves, norms, pictures, results
from benchmarks.report.cells import Cell
from benchmarks.report.markup import Child, Html, join, script_data, tag
from regvit_lightning.errors import UserError
from regvit_lightning.runtime import atomic
from regvit_lightning.settings import check, setting

DESCRIPTION = """Writes <results>/<data>/report.html from the records and the pictures beside them: tables that can be
sorted and filtered, metrics against the number of registers, norms, pictures side by side, and every record with the
command that makes it again. One file without any reference to the network."""

PARTS = Path(__file__).parent  # the template, its style and its script
COMMITS_SHOWN = 4
LONGEST_WARNING = 500  # characters: names in a foreign file may be of any length
ABOUT_CURVES = """Metrics against the number of registers (Fig. 8 of the paper); whiskers are one standard deviation
over seeds, or the 95 % interval over images of a single seed. A point opens its record."""
ABOUT_NORMS = """From the artifact reports, seed 0 first: norms before the final norm. Models of a family share the
scale of their blocks."""
ABOUT_PICTURES = "What was written beside the record of the first seed. A picture opens in full."


@dataclass
class ReportOptions:
    """Settings of the program."""

    data: str = setting("name of the data, a folder of <results>, or the folder of its images", "mini")
    results: str = setting("folder of the results", "results")
    runs: str = setting("folder of the runs, where logs lie", "runs")
    width: int = setting("largest width of a picture in pixels", 1200)

    def __post_init__(self) -> None:
        check(self.width > 0, f"width={self.width}: must be at least 1")


def main(options: ReportOptions, words: list[str]) -> None:
    """Run the program."""
    folder = Path(options.results)
    data = Path(options.data).resolve().name if "/" in options.data else options.data
    cells, skipped = kept.load(folder, data)
    if not cells:
        where = f"no record in {folder / data / 'cells'}"
        raise UserError("; ".join([where, *skipped, f"make some with: make eval DATA={options.data} …"]))
    text, skipped = page(cells, skipped, data, Path(options.runs), options.width)
    file = folder / data / "report.html"
    atomic.write_text(file, text)
    for line in skipped:
        print(f"report: left out: {line}")
    print(f"report: {len(cells)} records in {file}, {len(text.encode()) / 1e6:.1f} MB")


def page(
    cells: Sequence[Cell], skipped: Sequence[str], data: str, runs: Path, width: int = 1200
) -> tuple[str, list[str]]:
    """The whole page.

    Args:
        cells: at least one.
        skipped: lines about files that are left out.
        data: its name.
        runs: folder of the runs.
        width: largest width of a picture in pixels.

    Returns:
        HTML, and `skipped` with what turned out to be unusable; the page names them.
    """
    found = results.arrange(cells)
    panels, undrawn = norms.pairs(cells)
    shown, unread = pictures.gallery(cells, width)
    charts = curves.curves(found, cells)
    skipped = [*skipped, *undrawn, *unread]
    script, style = ((PARTS / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    parts = {
        "data": join([data]),
        "summary": tag("p", _summary(cells), class_="summary"),
        "warning": _warning(skipped),
        "chips": _chips(found),
        "overview": results.overview(found, cells),
        "footnotes": results.footnotes(cells),
        "curves": _section("registers", "Registers", ABOUT_CURVES, charts and tag("div", charts, class_="grid")),
        "norms": _section("norms", "Norms", ABOUT_NORMS, panels),
        "pictures": _section("pictures", "Pictures", ABOUT_PICTURES, shown),
        "records": results.record_list(cells),
        "json": script_data("cells", [_facts(cell, runs) for cell in cells]),
        "style": style,
        "script": script,
        "script_hash": _digest(script),
        "style_hash": _digest(style),
    }
    return Template((PARTS / "page.html").read_text(encoding="utf-8")).substitute(parts), skipped


def _summary(cells: Sequence[Cell]) -> str:
    origins = [cell.record.provenance for cell in cells]
    newest = max(str(origin.get("date", "")) for origin in origins)
    commits = sorted({str(origin.get("commit", ""))[:10] or "unknown" for origin in origins})
    further = f" and {len(commits) - COMMITS_SHOWN} more" if len(commits) > COMMITS_SHOWN else ""
    models, tasks = ({getattr(cell.record, name) for cell in cells} for name in ("model", "task"))
    counts = f"{len(cells)} records of {len(models)} models and {len(tasks)} tasks"
    made = f"made by commit {', '.join(commits[:COMMITS_SHOWN])}{further}"
    return f"{counts}; newest {newest[:16].replace('T', ' ')} UTC; {made}. Made from the records by make report."


def _warning(skipped: Sequence[str]) -> Html:
    if not skipped:
        return Html("")
    count = "1 file is" if len(skipped) == 1 else f"{len(skipped)} files are"
    lines = tag("ul", [tag("li", line[:LONGEST_WARNING]) for line in skipped])
    return tag("details", tag("summary", f"{count} left out"), lines, class_="warning")


def _chips(found: results.Results) -> Html:
    tasks = sorted({column.task for column in found.columns})
    return join(
        tag("button", task, type="button", class_="chip", aria_pressed="true", data_chip=task) for task in tasks
    )


def _section(identifier: str, title: str, about: str, content: Child) -> Html:
    """A section, or nothing where there is nothing to show."""
    return (
        tag("section", tag("h2", title), tag("p", about, class_="about"), content, id=identifier) if content else Html()
    )


def _facts(cell: Cell, runs: Path) -> dict[str, Any]:
    """What the page shows of a record when it is opened."""
    return {
        "key": cell.key,
        "file": str(cell.file),
        "log": kept.logs(cell.record, runs),
        "command": commands.command(cell.record),
        "record": asdict(cell.record),
    }


def _digest(text: str) -> str:
    """For the page's content security policy: no other script and no other style is obeyed."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def cli() -> None:
    """Run the program with the words of the command line."""
    command.run("report", DESCRIPTION, ReportOptions, main)


if __name__ == "__main__":
    cli()
