"""Reads make's command line for the Makefile, before there is an environment: needs Python 3.8 and no package."""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence


def split(text: str) -> str:
    """The words of `text`, each quoted for a shell: split as a shell does, but nothing is expanded or run.

    Raises:
        ValueError: a quotation mark is not closed.
    """
    return " ".join(map(shlex.quote, shlex.split(text)))


def mistake(goals: Sequence[str], given: Sequence[str], takes: Mapping[str, Sequence[str]]) -> str:
    """The first mistake on make's command line in a line of text, or '' where there is none.

    Args:
        goals: the targets that are to be made.
        given: names of the variables that are set.
        takes: for every target that there is, the variables that it takes.
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
    """Run `split <text>`, or `mistake <goals> <given> '<target> <its variables>' …`; prints what it finds."""
    if action == "split":
        print(split(texts[0]))
        return
    goals, given, *table = (text.split() for text in texts)
    print(mistake(goals, given, {target: names for target, *names in table}))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ValueError as error:  # of split
        raise SystemExit(f"ARGS: {error}") from None
