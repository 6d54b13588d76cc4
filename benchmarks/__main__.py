"""The command `regvit`: `regvit eval model=deit3-vitb_reg16 task=imagenet_knn data=full`; the same words as after make.

A word names a program; the process then becomes that program, `python -m benchmarks.<program>`, so that it is the same
whichever way it was started. Nothing heavy is imported here: `regvit --help` answers at once.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from regvit_lightning import __version__


@dataclass(frozen=True)
class Command:
    """A word after `regvit`.

    Attributes:
        help: what it does, one line.
        program: module that is run.
        words: `key=value` words that it always gets.
    """

    help: str
    program: str
    words: tuple[str, ...] = ()


GRID = "benchmarks.grid"
COMMANDS = {
    "demo": Command(
        "render data, pretrain two nano models, evaluate, print the table", GRID, ("data=mini", "pretrain=true")
    ),
    "data": Command("make, download or check data", "benchmarks.data"),
    "pretrain": Command("pretrain a register ViT", "benchmarks.pretrain"),
    "eval": Command("evaluate a frozen backbone on one task", "benchmarks.evaluate"),
    "artifacts": Command("the artifact report of a model", "benchmarks.evaluate", ("task=artifact_report",)),
    "cost": Command("parameters and multiply-adds with 0 to 16 registers", "benchmarks.cost"),
    "grid": Command("run what is missing or stale of a grid of models, tasks and seeds", GRID),
    "eval-all": Command("the same as grid", GRID),
    "all": Command("the same, after pretraining the models that are not trained yet", GRID, ("pretrain=true",)),
    "status": Command("the grid as a table: done, running, failed, stale, missing", "benchmarks.status"),
    "plan": Command("FLOPs, memory and hours of a grid; runs nothing", "benchmarks.plan"),
    "tables": Command("result tables from the records", "benchmarks.tables"),
    "compare": Command("what changed between two states of the results, for a review", "benchmarks.compare"),
    "report": Command("one HTML page of all results", "benchmarks.report"),
    "bench": Command("speed, as ratios measured in one run", "benchmarks.speed"),
    "completion": Command("print the script that completes words in bash or zsh", "benchmarks.completion"),
}


def main() -> None:
    """Run the command with the words of the command line."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(help_text())
    elif name in ("-V", "--version"):
        print(f"regvit {__version__}")
    elif name not in COMMANDS:
        from regvit_lightning.settings import nearest

        print(f"regvit: unknown command '{name}'; {nearest(name, COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    elif name == "demo" and not {"-h", "--help", "help"} & set(words):
        _demo(words)
    else:
        _become(COMMANDS[name], words)


def help_text() -> str:
    """All commands with what they do."""
    lines = ["regvit <command> key=value …", "", "RegViT-Lightning: pretraining, frozen evaluations and result tables."]
    lines += ["", *(f"  {name:<11}{command.help}" for name, command in COMMANDS.items()), ""]
    lines += ["Settings of a command: regvit <command> --help", 'Completion: eval "$(regvit completion bash)"']
    return "\n".join(lines)


def word_of(program: str) -> str:
    """The word that runs `benchmarks.<program>` without further words: `eval` for `evaluate`."""
    return next(name for name, command in COMMANDS.items() if command == Command(command.help, f"benchmarks.{program}"))


def _become(command: Command, words: Sequence[str]) -> None:
    """Replace this process by the command's program."""
    arguments = _arguments(command.program, [*command.words, *words])
    sys.stdout.flush()
    os.execv(arguments[0], arguments)


def _demo(words: Sequence[str]) -> None:
    """The grid, then its tables in the same folder of results."""
    command = COMMANDS["demo"]
    done = subprocess.run(_arguments(command.program, [*command.words, *words]))
    if done.returncode:
        raise SystemExit(done.returncode)
    results = [word for word in words if word.startswith("results=")]
    _become(Command("", "benchmarks.tables", ("data=mini",)), results)


def _arguments(program: str, words: Sequence[str]) -> list[str]:
    """Command line of a program, which reads the code that this process reads.

    `python -m` would look for `benchmarks` in the working directory first; the command `regvit` must not, nor may the
    processes that its programs start.
    """
    if os.getcwd() not in sys.path:
        os.environ["PYTHONSAFEPATH"] = "1"
    return [sys.executable, "-m", program, *words]


if __name__ == "__main__":
    main()
