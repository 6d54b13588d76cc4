"""The command `regvit`, with the same arguments as make: `regvit eval model=deit3-vitb_reg16 task=imagenet_knn`.

Each subcommand replaces this process by its program, `python -m benchmarks.<program>`, so that both ways of starting it
are equivalent. Nothing heavy is imported here, so that `regvit --help` answers at once.
"""

import os
import sys
from collections.abc import Sequence

from benchmarks import COMMANDS, Command, terminal
from regvit_lightning.version import __version__


def main() -> None:
    """Parse the command line and run the subcommand."""
    terminal.prepare()
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        terminal.show(help_text())
    elif name in ("-V", "--version"):
        print(f"regvit {__version__}")
    elif name not in COMMANDS:
        from regvit_lightning.settings import nearest

        print(f"regvit: unknown command '{name}'; {nearest(name, COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    else:
        _become(COMMANDS[name], words)


def help_text() -> str:
    """List all subcommands and what they do."""
    lines = ["regvit <command> key=value …", "", "RegViT-Lightning: pretraining, frozen evaluations and result tables."]
    lines += ["", *(f"  {name:<12}{command.help}" for name, command in COMMANDS.items()), ""]
    lines += [
        "Settings of a command: regvit <command> --help",
        "The data sets: DATA_ROOT=<folder>, or the shell's DATA_ROOT",
    ]
    lines += ['Completion: eval "$(regvit completion bash)"']
    return "\n".join(lines)


def _become(command: Command, words: Sequence[str]) -> None:
    """Replace this process by the command's program."""
    arguments = _arguments(command, words)
    sys.stdout.flush()
    os.execv(arguments[0], arguments)


def _arguments(command: Command, words: Sequence[str]) -> list[str]:
    """Command line of a program that imports the same code as this process; `DATA_ROOT=` goes into the environment.

    `python -m` would look for `benchmarks` in the working directory first, which neither `regvit` nor the processes
    started by its programs may do.
    """
    if os.getcwd() not in sys.path:
        os.environ["PYTHONSAFEPATH"] = "1"
    roots = [word for word in words if word.startswith("DATA_ROOT=")]
    for word in roots:
        os.environ["DATA_ROOT"] = word.partition("=")[2]
    return [sys.executable, "-m", command.program, *command.words, *(word for word in words if word not in roots)]


if __name__ == "__main__":
    main()
