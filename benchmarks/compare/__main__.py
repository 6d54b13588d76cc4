"""Compare results with another version of them: `python -m benchmarks.compare base=origin/main data=mini`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from benchmarks.compare.comment import markdown
from benchmarks.compare.lines import Line, certainly_worse, compare_records
from benchmarks.compare.sides import of_models, of_states
from benchmarks.tables.by_task import metric_name
from benchmarks.tables.markdown import for_terminal
from benchmarks.tables.scored_records import ScoredRecords, data_name
from benchmarks.tables.verdicts import WORSE_ONE_SEED
from regvit_lightning.settings import check, setting
from regvit_lightning.values import texts

DESCRIPTION = """Prints what changed between two states of the results as Markdown fit for a pull request: old → new,
difference, its interval, and a verdict; on which classes and kinds of images (make annotate); and the settings and
versions that changed. Records of a revision are read from
git, without a checkout. MODELS=a,b compares two models in the same way. The exit status is 1 where strict=true and a
number got worse by more than noise, corrected for the number of comparisons, or is no
number any more; with a single seed it warns instead, as the interval does not cover the luck of a training."""

SHOWN = 5  # undecided values named in the warning


@dataclass
class Compare:
    """Settings of the program."""

    base: str = setting("revision of git, or a folder of results, to compare with; MODELS needs none", "")
    head: str = setting("the same, to be compared; empty for the results as they lie here", "")
    models: str = setting("two models, a,b: b against a in place of the new results against the old ones", "")
    data: str = setting("name of the data, a folder of <results>, or the folder of its images", "mini")
    results: str = setting("folder of the results", "results", texts.folder)
    strict: bool = setting("exit with 1 where something got worse beyond noise or became unreadable", False)


def main(options: Compare, words: list[str]) -> None:
    """Run the program."""
    wanted = "give a revision of git or a folder of results, BASE=…, or two models, MODELS=a,b"
    check(bool(options.base or options.models), f"base is empty: {wanted}")
    data = data_name(options.data)
    where = Path(options.results), data, options.base, options.head
    base, head = of_models(*where, options.models) if options.models else of_states(*where)
    lines = compare_records(base, head)
    first, second = options.models.split(",") if options.models else ("old", "new")
    print(for_terminal(markdown(base, head, data, lines, (first, second))), end="")
    if options.strict:
        _be_strict(lines, head)


def _be_strict(lines: Sequence[Line], head: ScoredRecords) -> None:
    """Exit with 1 if anything is certainly worse or unreadable; warn of what one seed cannot decide."""
    undecided = [line for line in lines if line.verdict == WORSE_ONE_SEED]
    if undecided:
        shown = [(line.row.model, line.column.task, metric_name(line.column.metric)) for line in undecided[:SHOWN]]
        named = ", ".join(" ".join(words) for words in shown)
        more = f" and {len(undecided) - SHOWN} more" if len(undecided) > SHOWN else ""
        print(f"warning: worse beyond image noise, but with one seed: {named}{more}", file=sys.stderr)
    if head.skipped:
        print(f"{len(head.skipped)} files of the new results cannot be used, see above", file=sys.stderr)
    if certainly_worse(lines) or head.skipped:
        raise SystemExit(1)


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("compare", DESCRIPTION, Compare, main)


if __name__ == "__main__":
    cli()
