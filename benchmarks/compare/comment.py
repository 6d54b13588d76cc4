"""Format a comparison as Markdown fit for a pull request."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from benchmarks.compare import groups
from benchmarks.compare.lines import VERDICTS, Line
from benchmarks.compare.reasons import changed_facts
from benchmarks.tables import columns
from benchmarks.tables.by_task import metric_name
from benchmarks.tables.columns import MARKS, BySeed, key
from benchmarks.tables.escapes import in_markdown
from benchmarks.tables.formats import INTERVAL, RAISED, made, plain_lines, row_name
from benchmarks.tables.markdown import table as aligned
from benchmarks.tables.scored_records import ScoredRecords
from benchmarks.tables.shown import change_parts
from benchmarks.tables.verdicts import BETTER, WORSE


def markdown(
    base: ScoredRecords, head: ScoredRecords, data: str, lines: Sequence[Line], sides: tuple[str, str] = ("old", "new")
) -> str:
    """Format a pull-request comment: the counts, a table for each task in which anything changed, and on which classes
    and kinds of images.

    Args:
        sides: names of the two sides in that last part.
    """
    changed = [line for line in lines if line.verdict]
    counts = Counter(line.verdict for line in changed)
    tallies = [f"**{counts[WORSE]} worse**" if counts[WORSE] else "0 worse", f"{counts[BETTER]} better"]
    tallies += [f"{counts[verdict]} {verdict}" for verdict in VERDICTS[2:] if counts[verdict]]
    text = [f"### Results on {in_markdown(data)}: {', '.join(tallies)}, {len(lines) - len(changed)} the same", ""]
    states = ("old", base), ("new", head)
    text += plain_lines([f"{name}, {side.name}: {made(side)}" for name, side in states])
    text += plain_lines([f"{name} skipped: {skipped}" for name, side in states for skipped in side.skipped])
    text += plain_lines([f"changed, {fact}" for fact in changed_facts(base, head)])
    marks = columns.marks(base.cells), columns.marks(head.cells)
    for task in dict.fromkeys(line.column.task for line in changed):
        rows = [_row(line, marks) for line in changed if line.column.task == task]
        heads = [["model", "metric", "old → new", "difference", "verdict"]]
        text += ["", f"#### {in_markdown(task)}", "", aligned(heads + rows)]
    if changed:
        raised = {RAISED[mark]: words for mark, words in MARKS.items() if RAISED[mark] in "".join(text)}
        legend = [f"difference: new minus old, and {INTERVAL}; noise is what has 0 inside it"]
        if any(line.change and line.change.interval and not line.change.over_seeds for line in changed):
            legend.append("one seed cannot tell a better recipe from a lucky training: compare several, SEED=0, 1, 2")
        text += ["", *(f"- {line}" for line in legend + [f"{mark}: {words}" for mark, words in raised.items()])]
    text += groups.markdown(groups.pairs(lines, head.known or base.known, sides), data)
    return "\n".join(text) + "\n"


def _row(line: Line, marks: tuple[Mapping[str, str], Mapping[str, str]]) -> list[str]:
    column = line.column
    sides = zip((line.old, line.new), marks, strict=True)
    numbers = " → ".join(_mean(side, column.decimals, doubts) for side, doubts in sides)
    change = ""
    if line.change is not None:
        unpaired = RAISED["u"] if line.change.interval and not line.change.paired else ""
        change = " ".join(filter(None, change_parts(line.change, column.decimals))) + unpaired
    metric = f"{metric_name(column.metric)} in {column.unit}"
    metric = in_markdown(metric) + (" ↓" if column.better < 0 else "")
    verdict = f"**{line.verdict}**" if line.verdict in (BETTER, WORSE) else line.verdict
    verdict += f": {in_markdown(line.reason)}" if line.reason else ""
    return [in_markdown(row_name(line.row)), metric, numbers, change, verdict]


def _mean(side: BySeed, decimals: int, marks: Mapping[str, str]) -> str:
    """Format the mean over seeds, with the number of seeds if there are several; a dash for none."""
    if not side:
        return "–"
    doubts = sorted({mark for number in side.values() for mark in marks[key(number.cell.record)]})
    seeds = f" ({len(side)} seeds)" if len(side) > 1 else ""
    mean = statistics.fmean(number.value for number in side.values())
    return f"{mean:.{decimals}f}{''.join(RAISED[mark] for mark in doubts)}{seeds}"
