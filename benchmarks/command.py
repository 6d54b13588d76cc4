"""What every program shares: reading `key=value` words, `--help`, and one line for a user's mistake.

Nothing heavy is imported here, so that `--help` answers at once.
"""

import dataclasses
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar, cast

from benchmarks import terminal, word_of
from regvit_lightning import settings
from regvit_lightning.errors import Notice, Stopped, UserError

T = TypeVar("T")


def run(name: str, description: str, schema: type[T], body: Callable[[T, list[str]], None], group: str = "") -> None:
    """Run a program: parse the words, call `body(settings, remaining words)`, turn a user's mistake into a line.

    Args:
        name: of the program, `python -m benchmarks.<name>`.
        description: first lines of its help.
        schema: dataclass of the program's own settings.
        body: what it does; raises `UserError` for a mistake. The remaining words are settings of the YAML file that
            the program's key named like `group` (`recipe`, `task`) chooses.
        group: group of `configs/` whose files take the remaining words, or empty when there are none.
    """
    words = sys.argv[1:]
    terminal.prepare()
    try:
        if {"-h", "--help", "help"} & set(words):
            terminal.show(help_text(name, description, schema, [word for word in words if "=" in word], group))
            terminal.finish()
            return
        own, remaining = split(words, schema)
        if remaining and not group:
            key = remaining[0].partition("=")[0]
            raise settings.SettingsError(f"unknown key '{key}'; {settings.nearest(key, keys(schema))}")
        wait_passively()
        with _stopping(), _notices(name):
            body(settings.build(schema, words=own), remaining)
        terminal.finish()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Stopped as stopped:
        print(f"{name}: {stopped}", file=sys.stderr)
        raise SystemExit(stopped.status) from None
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning ends the process itself while it handles the interrupt.
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        after_echo = "\n" if sys.stderr.isatty() else ""  # the terminal has shown ^C
        print(f"{after_echo}{name}: interrupted; give the command again to go on", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        terminal.show_cursor()


def wait_passively() -> None:
    """Let waiting OpenMP threads sleep, unless the environment says otherwise; works only before torch is loaded.

    A thread that spins keeps the core from the processes that decode images: 1.3x on a short CPU run with one worker.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextmanager
def _stopping() -> Iterator[None]:
    """Inside, SIGTERM and a closed terminal end the program as Ctrl-C does, so that no temporary file is left.

    A signal that somebody handles already, submitit in its jobs or nohup, is left to them.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped("stopped; give the command again to go on", number)

    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _notices(name: str) -> Iterator[None]:
    """Inside, what the library decides for the user is a line of the program, and all other warnings are as ever."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def line(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if issubclass(category, Notice):
                print(f"{name}: {message}", file=sys.stderr)
            else:
                show(message, category, *where)

        warnings.showwarning = cast(Any, line)
        yield


def keys(schema: type) -> list[str]:
    """Names of the settings of a dataclass."""
    return [field.name for field in dataclasses.fields(schema)]


def split(words: Sequence[str], schema: type) -> tuple[list[str], list[str]]:
    """Words for `schema`, and the rest."""
    settings.read_words(words)
    own = [word for word in words if re.split(r"[.=]", word)[0] in keys(schema)]
    return own, [word for word in words if word not in own]


def help_text(name: str, description: str, schema: type, words: Sequence[str], group: str) -> str:
    """The program's settings with their defaults and choices, and the YAML file of the chosen recipe or task."""
    title = f"regvit {word_of(name)} key=value …  (python -m benchmarks.{name})"
    lines = [title, "", terminal.paragraph(description), "", "Settings"]
    for field in dataclasses.fields(schema):
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        shown = "(must be given)" if default == settings.MISSING else "" if default == "" else f"[{default}]"
        reader = field.metadata.get("reader", field.type)
        kind = getattr(reader, "__name__", str(reader))
        lines.append(f"  {field.name + '=<' + kind + '>':<24}{field.metadata.get('help', '')} {shown}".rstrip())
    if not group:
        return "\n".join(lines)
    key = group.rstrip("s")
    chosen = settings.read_words(words).get(key) or next(
        (cast(Any, field.default) for field in dataclasses.fields(schema) if field.name == key), ""
    )
    lines += ["", f"Choices of {key}: {', '.join(settings.names(group))}"]
    if chosen and chosen != settings.MISSING:
        for path in settings.find(group, chosen):
            text = path.read_text(encoding="utf-8").rstrip()
            lines += ["", f"Settings of {key}={chosen} (configs/{group}/{path.name})", "", text]
    else:
        lines.append(f"For its settings: regvit {word_of(name)} {key}=<name> --help")
    return "\n".join(lines)
