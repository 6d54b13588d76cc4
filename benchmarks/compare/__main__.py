"""Compare results with another version of them: `python -m benchmarks.compare base=origin/main data=mini`."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from benchmarks.compare.comment import markdown
from benchmarks.compare.lines import WORSE, compare_records
from benchmarks.tables.markdown import for_terminal
from benchmarks.tables.scored_records import data_name, read_scored_records
from regvit_lightning.settings import check, setting

DESCRIPTION = """Prints what changed between two states of the results as Markdown fit for a pull request: old → new,
difference, its interval, and a verdict. Records of a revision are read from git, without a checkout. The exit status
is 1 where strict=true and a number got worse by more than noise."""


@dataclass
class Compare:
    """Settings of the program."""

    base: str = setting("revision of git, or a folder of results, to compare with")
    head: str = setting("the same, to be compared; empty for the results as they lie here", "")
    data: str = setting("name of the data, a folder of <results>, or the folder of its images", "mini")
    results: str = setting("folder of the results", "results")
    strict: bool = setting("exit with 1 where something got worse beyond noise", False)


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
