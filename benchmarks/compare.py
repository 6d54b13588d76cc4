"""Compare results with another version of them: `python -m benchmarks.compare base=origin/main data=mini`."""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from benchmarks.tables import columns
from benchmarks.tables.columns import MARKS, BySeed, Column, Difference, Measured, TableRow, difference, key
from benchmarks.tables.formats import INTERVAL, RAISED, change_shown, made, row_name
from benchmarks.tables.markdown import for_terminal
from benchmarks.tables.markdown import table as aligned
from benchmarks.tables.scored_records import ScoredRecords, data_name, read_scored_records
from regvit_lightning.settings import check, setting

DESCRIPTION = """Prints what changed between two states of the results as Markdown fit for a pull request: old → new,
difference, its interval, and a verdict. Records of a revision are read from git, without a checkout. The exit status
is 1 where strict=true and a number got worse by more than noise."""

BETTER, WORSE, NOISE, NEW, GONE = "better", "worse", "within noise", "new", "gone"
PROTOCOL, UNKNOWN = "protocol changed", "no interval"
VERDICTS = (WORSE, BETTER, NOISE, UNKNOWN, PROTOCOL, NEW, GONE)


@dataclass
class Compare:
    """Settings of the program."""

    base: str = setting("revision of git, or a folder of results, to compare with")
    head: str = setting("the same, to be compared; empty for the results as they lie here", "")
    data: str = setting("name of the data, a folder of <results>, or the folder of its images", "mini")
    results: str = setting("folder of the results", "results")
    strict: bool = setting("exit with 1 where something got worse beyond noise", False)


@dataclass(frozen=True)
class Line:
    """One metric value in both versions of the results.

    Attributes:
        row, column: where the value stands in the overview table.
        old, new: values by seed; empty where that version has none.
        verdict: one of `VERDICTS`, empty where nothing changed.
        change: new minus old, where the two are comparable.
    """

    row: TableRow
    column: Column
    old: BySeed
    new: BySeed
    verdict: str
    change: Difference | None = None


Grouped = dict[tuple[TableRow, str, str], dict[str, dict[int, Measured]]]


def compare_records(base: ScoredRecords, head: ScoredRecords) -> list[Line]:
    """Compare every value of either version; lines are sorted by task, model and metric."""
    sides = [_grouped(side) for side in (base, head)]
    lines = [line for number in sides[0] | sides[1] for line in _lines(*(side.get(number, {}) for side in sides))]
    return sorted(lines, key=lambda line: (line.column.rank, line.row.order(), line.column.protocol))


def _grouped(side: ScoredRecords) -> Grouped:
    """Group values by row, task and metric; then by protocol; then by seed."""
    grouped: Grouped = {}
    for number in columns.overview_numbers(side.cells):
        column, seed = number.column, number.cell.record.seed
        by_protocol = grouped.setdefault((number.row, column.task, column.metric), {})
        by_protocol.setdefault(column.protocol, {})[seed] = number
    return grouped


def _lines(old: Mapping[str, BySeed], new: Mapping[str, BySeed]) -> Iterator[Line]:
    """Compare the values of one metric under each protocol of either version."""
    if old and new and not old.keys() & new.keys():
        yield _line(_together(old), _together(new), PROTOCOL)
        return
    for protocol in sorted(old.keys() | new.keys()):
        before, after = old.get(protocol, {}), new.get(protocol, {})
        if before and after:
            yield _compared(before, after)
        else:
            yield _line(before, after, GONE if before else NEW)


def _together(side: Mapping[str, BySeed]) -> BySeed:
    return {seed: number for group in side.values() for seed, number in group.items()}


def _line(old: BySeed, new: BySeed, verdict: str, change: Difference | None = None) -> Line:
    some = next(iter((new or old).values()))
    return Line(some.row, some.column, dict(sorted(old.items())), dict(sorted(new.items())), verdict, change)


def _compared(old: BySeed, new: BySeed) -> Line:
    """Compare two versions of a value under one protocol."""
    if {seed: n.value for seed, n in old.items()} == {seed: n.value for seed, n in new.items()}:
        return _line(old, new, "")
    column = next(iter(new.values())).column
    change = difference(column, old, new)
    verdict = UNKNOWN if change.interval is None else NOISE
    if change.beyond_noise:
        verdict = BETTER if change.value * column.better > 0 else WORSE
    return _line(old, new, verdict, change)


# ------------------------------------------------------------------------------------------------------------ output


def markdown(base: ScoredRecords, head: ScoredRecords, data: str, lines: Sequence[Line]) -> str:
    """Format a pull-request comment: the counts, then a table for each task in which anything changed."""
    changed = [line for line in lines if line.verdict]
    counts = Counter(line.verdict for line in changed)
    tallies = [f"**{counts[WORSE]} worse**" if counts[WORSE] else "0 worse", f"{counts[BETTER]} better"]
    tallies += [f"{counts[verdict]} {verdict}" for verdict in VERDICTS[2:] if counts[verdict]]
    text = [f"### Results on {data}: {', '.join(tallies)}, {len(lines) - len(changed)} the same", ""]
    text += [f"- {name} `{side.name}`: {made(side)}" for name, side in (("old", base), ("new", head))]
    text += [
        f"- {name} skipped: {skipped}" for name, side in (("old", base), ("new", head)) for skipped in side.skipped
    ]
    marks = columns.marks(base.cells), columns.marks(head.cells)
    for task in dict.fromkeys(line.column.task for line in changed):
        rows = [_row(line, marks) for line in changed if line.column.task == task]
        heads = [["model", "metric", "old → new", "difference", "verdict"]]
        text += ["", f"#### {task}", "", aligned([[cell.replace("|", r"\|") for cell in row] for row in heads + rows])]
    if changed:
        raised = {RAISED[mark]: words for mark, words in MARKS.items() if RAISED[mark] in "".join(text)}
        legend = [f"difference: new minus old, {INTERVAL}; noise is what has 0 inside it"]
        text += ["", *(f"- {line}" for line in legend + [f"{mark}: {words}" for mark, words in raised.items()])]
    return "\n".join(text) + "\n"


def _row(line: Line, marks: tuple[Mapping[str, str], Mapping[str, str]]) -> list[str]:
    column = line.column
    sides = zip((line.old, line.new), marks, strict=True)
    numbers = " → ".join(_mean(side, column.decimals, doubts) for side, doubts in sides)
    change = ""
    if line.change is not None:
        unpaired = RAISED["u"] if line.change.interval and not line.change.paired else ""
        change = change_shown(line.change, column.decimals) + unpaired
    metric = f"{column.metric} in {column.unit}{' ↓' if column.better < 0 else ''}"
    verdict = f"**{line.verdict}**" if line.verdict in (BETTER, WORSE) else line.verdict
    return [row_name(line.row), metric, numbers, change, verdict]


def _mean(side: BySeed, decimals: int, marks: Mapping[str, str]) -> str:
    """Format the mean over seeds, with the number of seeds if there are several; a dash for none."""
    if not side:
        return "–"
    doubts = sorted({mark for number in side.values() for mark in marks[key(number.cell.record)]})
    seeds = f" ({len(side)} seeds)" if len(side) > 1 else ""
    mean = statistics.fmean(number.value for number in side.values())
    return f"{mean:.{decimals}f}{''.join(RAISED[mark] for mark in doubts)}{seeds}"


def main(options: Compare, words: list[str]) -> None:
    """Run the program."""
    check(bool(options.base), "base is empty: give a revision of git or a folder of results, BASE=…")
    data = data_name(options.data)
    base, head = (read_scored_records(Path(options.results), data, side) for side in (options.base, options.head))
    lines = compare_records(base, head)
    print(for_terminal(markdown(base, head, data, lines)), end="")
    if options.strict and any(line.verdict == WORSE for line in lines):
        raise SystemExit(1)


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("compare", DESCRIPTION, Compare, main)


if __name__ == "__main__":
    cli()
