"""Parse make's command line for the Makefile before an environment exists: needs Python 3.8 and no packages."""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence


def split(text: str) -> str:
    """Split `text` into words as a shell does, without expansion, and quote each for a shell.

    Raises:
        ValueError: a quotation mark is not closed.
    """
    return " ".join(map(shlex.quote, shlex.split(text)))


def mistake(goals: Sequence[str], given: Sequence[str], takes: Mapping[str, Sequence[str]]) -> str:
    """First mistake on make's command line as one line of text, or '' if there is none.

    Args:
        goals: the requested targets.
        given: names of the variables set on the command line.
        takes: accepted variables of every target.
    """
    known = sorted({name for names in takes.values() for name in names})
    taken = sorted({name for goal in goals for name in takes.get(goal, ())})
    for goal in goals:
        if goal not in takes:
            return f"no target {goal}; {_nearest(goal, takes)}; make help explains them"
    for name in given:
        if name not in known:
            settings = f'; settings of a program are given as ARGS="{name.lower()}=..."' if "ARGS" in taken else ""
            return f"no target takes a variable {name}; {_nearest(name.upper(), known) + settings}"
        if name not in taken:
            return f"make {' '.join(goals)} does not take {name}; it takes {', '.join(taken)}"
    return ""


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"known: {', '.join(known)}"


def main(action: str, *texts: str) -> None:
    """Run `split <text>`, or `mistake <goals> <given> '<target> <its variables>' …` and print the result."""
    if action == "split":
        print(split(texts[0]))
        return
    goals, given, *table = (text.split() for text in texts)
    print(mistake(goals, given, {target: names for target, *names in table}))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ValueError as error:  # raised by split
        raise SystemExit(f"ARGS: {error}") from None
