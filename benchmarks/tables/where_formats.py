"""Where a model is better, as Markdown, CSV and LaTeX, with notes; page and terminal show the same texts."""

import csv as csv_module
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.tables import latex, where
from benchmarks.tables.escapes import in_line, in_markdown
from benchmarks.tables.formats import Origin, plain_lines
from benchmarks.tables.markdown import table as aligned
from benchmarks.tables.markdown import without_repeats
from benchmarks.tables.shown import change_parts
from benchmarks.tables.where import (
    BETTER_THERE,
    CLASS,
    LEAST_IMAGES,
    UNTESTED,
    WORSE_THERE,
    Line,
    Pair,
    Part,
)
from regvit_lightning.invocation import invocation

NAME = "where"
TITLE = "Where is it better?"
MOST_CLASSES = 20  # shown in full; of more, those that differ and the ends
ENDS = 5  # classes with the largest and with the smallest difference
MOST_PRINTED = 6  # differences of a pair on a terminal
BAR = 21  # characters of the chart of a line


@dataclass(frozen=True)
class Texts:
    """One line as text.

    Attributes:
        kind, group, images, first, second: as in `where.Line`.
        difference: with its interval, `+1.3 [0.2, 2.4]`.
        bar: chart of the difference and its interval, with 0 in the middle.
        verdict, because: verdict, and the corrected p-value behind it.
    """

    kind: str
    group: str
    images: str
    first: str
    second: str
    difference: str
    bar: str
    verdict: str
    because: str

    def cells(self) -> list[str]:
        """Cells in the order of `heads`, without the chart."""
        numbers = [self.images, self.first, self.second, self.difference]
        return [self.kind, self.group, *numbers, " ".join(filter(None, [self.verdict, self.because]))]


def heads(pair: Pair) -> list[str]:
    """Headings of `Texts.cells`."""
    return ["", "images with", "n", *pair.sides, "difference [95 %]", "verdict"]


def texts(line: Line, part: Part) -> Texts:
    """Format a line of a task."""
    decimals = part.column.decimals
    p = "" if line.p is None else f"(p {line.p:.3f})" if line.p >= 0.001 else "(p < 0.001)"
    return Texts(
        kind=in_line(line.kind),
        group=in_line(line.name),
        images=f"{line.images:,}",
        first=f"{line.first:.{decimals}f}",
        second=f"{line.second:.{decimals}f}",
        difference=" ".join(filter(None, change_parts(line.change, decimals))),
        bar=bar(line, reach(part)),
        verdict=line.verdict,
        because=p,
    )


def reach(part: Part) -> float:
    """Difference at either end of the charts of a task: 1.25 × the largest."""
    return 1.25 * max([abs(line.change.value) for line in (part.whole, *part.lines)], default=0.0) or 1.0


def bar(line: Line, end: float) -> str:
    """The difference (●, ○ where unclear) and its interval (─, beyond the chart ‹ ›) on a line with 0 in its middle."""
    middle = BAR // 2
    cells = [" "] * BAR
    low, high = (_place(value, end) for value in line.change.interval or (line.change.value, line.change.value))
    for place in range(max(low, 0), min(high, BAR - 1) + 1):
        cells[place] = "─"
    cells[middle] = "┼" if cells[middle] == "─" else "│"
    if low < 0:
        cells[0] = "‹"
    if high >= BAR:
        cells[-1] = "›"
    cells[min(max(_place(line.change.value, end), 0), BAR - 1)] = "●" if line.found else "○"
    return "".join(cells)


def _place(value: float, end: float) -> int:
    return BAR // 2 + round(value / end * (BAR // 2))


def chosen(part: Part) -> list[Line]:
    """Lines of a task to show: all bins; of many classes those that differ, and those with the largest differences."""
    classes = [line for line in part.lines if line.kind == CLASS and line.verdict != UNTESTED]
    if len(classes) <= MOST_CLASSES:
        return list(part.lines) if len(classes) == _classes(part) else [*classes, *_bins(part)]
    ordered = sorted(classes, key=lambda line: -line.change.value * part.column.better)
    ends = [*ordered[:ENDS], *ordered[-ENDS:]]
    return [*(line for line in ordered if line.found or line in ends), *_bins(part)]


def _classes(part: Part) -> int:
    return sum(line.kind == CLASS for line in part.lines)


def _bins(part: Part) -> list[Line]:
    return [line for line in part.lines if line.kind != CLASS]


def found(pair: Pair) -> list[tuple[Part, Line]]:
    """All differences beyond noise of a pair, better ones first, the largest first in each task."""
    every = [(part, line) for part in pair.parts for line in part.lines if line.found]
    return sorted(
        every, key=lambda one: (one[1].verdict in WORSE_THERE, pair.parts.index(one[0]), -abs(one[1].change.value))
    )


def headline(pair: Pair) -> str:
    """Counts of a pair: `Better on 3 and worse on 1 of 212 classes and kinds of images.`"""
    counts = [sum(line.verdict in verdicts for line in pair.lines) for verdicts in (BETTER_THERE, WORSE_THERE)]
    of = f"of {pair.tested:,} classes and kinds of images in {len(pair.parts)} task{'s' * (len(pair.parts) != 1)}"
    if not any(counts):
        return f"No difference beyond noise on any {of}."
    return f"Better on {counts[0]} and worse on {counts[1]} {of}."


def notes(pairs: Sequence[Pair], data: str) -> list[str]:
    """What is compared, when a verdict is given, and what is missing."""
    return list(_notes(pairs, data))


def _notes(pairs: Sequence[Pair], data: str) -> Iterator[str]:
    yield (
        "class: images of that class; of a segmentation its IoU on all images, n: those that show it; of sets with "
        "boxes the images with such an object, which may be in several classes; others: thirds of the images by a "
        "property, or its kinds, whatever the scores"
    )
    yield (
        "better, worse: beyond the noise of images, and of seeds where both sides have several, with a chance of 5 % "
        "of any false one among all classes and kinds of images of a pair of models (Holm's correction; p is "
        "corrected); "
        f"else unclear; not tested: fewer than {LEAST_IMAGES} images, or none that differs"
    )
    yield "difference: its 95 % interval is that of the line by itself, not corrected"
    if any("one seed" in line.verdict for pair in pairs for line in pair.lines):
        yield "beyond image noise, one seed: of these weights; another training of the same recipe may differ"
    yield "chart: ● a difference beyond noise, ○ unclear, ─ its interval (‹ › goes on), │ no difference"
    for reason in where.reasons(pairs):
        again = invocation("annotate", {"DATA": data})
        yield f"{reason}; with the images at hand: {again}"


def formats(pairs: Sequence[Pair], origin: Origin) -> dict[str, str]:
    """Format all pairs: their texts by suffix of the file."""
    return {"md": markdown(pairs, origin), "csv": csv(pairs), "tex": as_latex(pairs, origin)}


def markdown(pairs: Sequence[Pair], origin: Origin) -> str:
    """Format as Markdown: for each pair of models what differs, then every task."""
    text = [TITLE, "", origin.line(in_markdown)]
    for pair in pairs:
        text += ["", f"## {in_markdown(pair.name)}", "", headline(pair)]
        if rows := found(pair):
            text += ["", table(pair, rows, of_task=True)]
        for part in pair.parts:
            text += ["", f"### {in_markdown(part.title)}", "", in_markdown(whole(part)), ""]
            text += [table(pair, [(part, line) for line in chosen(part)], of_task=False)] * bool(part.lines)
            text += ["", left_out(part)] * bool(left_out(part))
    return "\n".join([*text, "", *plain_lines(notes(pairs, origin.data))]) + "\n"


def whole(part: Part) -> str:
    """The two models on all images, in a line."""
    line = texts(part.whole, part)
    return f"All {line.images} images: {line.first} → {line.second}, {line.difference}; seeds: {part.seeds}."


def left_out(part: Part) -> str:
    """How many classes are not shown, or empty."""
    missing = len(part.lines) - len(chosen(part))
    return f"{missing} further classes, unclear or not tested, are in the CSV." if missing else ""


def table(pair: Pair, rows: Sequence[tuple[Part, Line]], of_task: bool) -> str:
    """Format lines as a Markdown table with a chart; `of_task` puts task, kind and group of each into its first cell.

    A narrow terminal shows that table in parts, each with the first cell.
    """
    body = []
    for part, line in rows:
        kind, group, *cells, said = texts(line, part).cells()
        said = said.replace(line.verdict, f"**{line.verdict}**", 1) if line.found else said
        named = [f"{part.title}: {kind} {group}"] if of_task else [kind, group]
        body.append([*map(in_markdown, [*named, *cells]), f"`{texts(line, part).bar}`", said])
    *head, last = heads(pair)
    head = ["task, images with", *head[2:]] if of_task else head
    return aligned([[in_markdown(cell) for cell in [*head, "chart", last]], *without_repeats(body)])


def csv(pairs: Sequence[Pair]) -> str:
    """Format plain numbers of every line as CSV; missing values are empty."""
    first = ["pair", "first", "second", "task", "metric", "unit", "better", "kind", "images with", "images"]
    lines = [[*first, "seeds first", "seeds second", "mean first", "mean second", "difference", "low", "high"]]
    lines[0] += ["p", "p corrected", "verdict"]
    for pair in pairs:
        for part in pair.parts:
            lines += [_plain(pair, part, line) for line in (part.whole, *part.lines)]
    text = io.StringIO()
    csv_module.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _plain(pair: Pair, part: Part, line: Line) -> list[str]:
    column, models = part.column, [side[0].record.model for side in part.cells]
    facts = [pair.name, *models, part.task, column.metric, column.unit, "higher" if column.better > 0 else "lower"]
    facts += [line.kind or "all", line.name, str(line.images), *(str(len(side)) for side in part.cells)]
    low, high = line.change.interval or (None, None)
    numbers = [line.first, line.second, line.change.value, low, high]
    facts += ["" if number is None else f"{number:.4f}" for number in numbers]
    p = line.change.p
    return [
        *facts,
        "" if p is None else f"{p:.4g}",
        "" if line.p is None else f"{line.p:.4g}",
        line.verdict * bool(line.kind),
    ]


def as_latex(pairs: Sequence[Pair], origin: Origin) -> str:
    """Format as LaTeX: for each pair the differences, and of a task without any the two lines nearest to one."""
    grids = [_grid(pair, number, origin.data) for number, pair in enumerate(pairs, 1)]
    return latex.document(grids, [f"needs {latex.PACKAGES}", origin.line()])


def _grid(pair: Pair, number: int, data: str) -> latex.Grid:
    cells = []
    for part in pair.parts:
        for line in nearest(part):
            kind, group, *numbers, said = texts(line, part).cells()
            plain = said.removeprefix(line.verdict)
            named = rf"\textbf{{{line.verdict}}}" if line.found else latex.words(line.verdict)
            cells.append([latex.words(part.title), latex.words(kind), latex.words(group)])
            cells[-1] += [*map(latex.numbers, numbers), named + latex.numbers(plain)]
    head = heads(pair)
    heading = " & ".join(latex.words(one) for one in head) + r" \\"
    caption = f"{latex.words(f'{TITLE} {pair.name}. {headline(pair)} Data: {data}')}."
    said_below = [latex.words(note) for note in notes([pair], data) if not note.startswith("chart")]
    rows = list(without_repeats(cells))
    characters = latex.extent(list(zip(head, *(row[1:] for row in rows), strict=True)))
    return latex.Grid(
        [*"llrrrrl"], [heading], latex.under_titles(rows), caption, f"{NAME}-{number}", said_below, characters
    )


def nearest(part: Part) -> list[Line]:
    """The differences of a task, or the two tested lines with the lowest p where there is none."""
    if differing := [line for line in part.lines if line.found]:
        return differing
    return sorted((line for line in part.lines if line.p is not None), key=lambda line: line.change.p or 0.0)[:2]


def lines(pairs: Sequence[Pair], data: str) -> list[str]:
    """Lines for the terminal: a headline for each pair, its differences, and what is missing."""
    text = []
    for pair in pairs:
        text.append(f"{in_line(pair.name)}: {headline(pair)}")
        rows = found(pair)
        for part, line in rows[:MOST_PRINTED]:
            shown = texts(line, part)
            group = f"{in_line(part.title)} {shown.kind} {shown.group}"
            text.append(f"  {shown.verdict}: {group} {shown.difference} {shown.because}")
        text += [f"  and {len(rows) - MOST_PRINTED} more in {NAME}.md"] * (len(rows) > MOST_PRINTED)
    if reasons := where.reasons(pairs):
        text.append(f"  {'; '.join(reasons)}: {invocation('annotate', {'DATA': data})}")
    return text
