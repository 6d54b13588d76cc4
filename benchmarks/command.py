"""Entry point shared by all programs: parses `key=value` arguments and reports user errors in one line.

Nothing heavy is imported here, so that `--help` answers at once.
"""

import atexit
import ctypes
import gc
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar, cast

from benchmarks import terminal
from benchmarks.manual.config import config_text
from benchmarks.manual.help import help_text, keys
from regvit_lightning import settings
from regvit_lightning.errors import CONTROL, Notice, Stopped, UserError, reading_failure

PRINT_CONFIG = "--print-config"  # print the resolved settings and their origins instead of running

T = TypeVar("T")


def run(name: str, description: str, schema: type[T], body: Callable[[T, list[str]], None], group: str = "") -> None:
    """Run a program: parse the arguments, call `body(settings, remaining words)`, print user errors as one line.

    Args:
        name: of the program, `python -m benchmarks.<name>`.
        description: first lines of its help.
        schema: dataclass of the program's own settings.
        body: the program itself; raises `UserError` for a user's mistake. The remaining words are settings of the YAML
            file selected by the key named like `group` (`recipe`, `task`).
        group: group of `configs/` whose files take the remaining words, or empty when there is none.
    """
    words = sys.argv[1:]
    terminal.prepare()
    try:
        check_words(words)
        if {"-h", "--help", "help"} & set(words):
            terminal.show(help_text(name, description, schema, [word for word in words if "=" in word], group))
            terminal.finish()
            return
        own, remaining = split([word for word in words if word != PRINT_CONFIG], schema)
        if remaining and not group:
            key = remaining[0].partition("=")[0]
            raise settings.SettingsError(f"unknown key '{key}'; {settings.nearest(key, keys(schema))}")
        if PRINT_CONFIG in words:
            print(config_text(name, schema, own, remaining, group))
            terminal.finish()
            return
        wait_passively()
        take_large_pages()
        keep_freed_memory()
        with _stopping(), _notices(name):
            body(settings.build(schema, words=own), remaining)
        terminal.finish()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except RuntimeError as error:
        failure = reading_failure(error)
        if failure is None:
            raise
        print(f"{name}: {failure}", file=sys.stderr)
        raise SystemExit(1) from None
    except Stopped as stopped:
        print(f"{name}: {stopped}", file=sys.stderr)
        raise SystemExit(stopped.status) from None
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning ends the process itself while it handles the interrupt.
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        after_echo = "\n" if sys.stderr.isatty() else ""  # the terminal has shown ^C
        print(f"{after_echo}{name}: interrupted; give the command again to continue", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        terminal.show_cursor()


def wait_passively() -> None:
    """Let waiting OpenMP threads sleep, unless the environment sets a wait policy; only works before torch is loaded.

    Spinning threads take cores from the processes that decode images: 1.3x on a short CPU run with one worker.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def take_large_pages() -> None:
    """Let tensors of 2 MiB and more lie in large pages, unless the environment says; only works before torch is loaded.

    Tensors above `LARGEST_KEPT` are given back to the kernel, and come back in pages of 4 KiB, each cleared by itself:
    a third of the processor time of a segmentation head on a CPU, whose logits are that large.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # options of glibc's mallopt(3)
KEPT_BYTES, LARGEST_KEPT = 2**28, 2**25  # freed memory that is kept; the largest threshold that glibc takes


def keep_freed_memory() -> None:
    """Let glibc keep freed memory, where there is glibc: on a CPU every activation is allocated anew.

    By default each large tensor is given back to the kernel, and its pages are cleared when they are asked for again:
    more than half of the system time of a cell on small images.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        for option, value in (
            (M_MMAP_THRESHOLD, LARGEST_KEPT),
            (M_TRIM_THRESHOLD, KEPT_BYTES),
            (M_TOP_PAD, LARGEST_KEPT),
        ):
            mallopt(option, value)


@contextmanager
def importing() -> Iterator[None]:
    """Context in which large packages are imported: the garbage collector pauses, and never looks at what they made.

    Imports make a million objects that stay to the end. Walking through them again and again takes a fifth of the
    processor time until the first image of a cell. At the end of the process they are collected as usual: bindings of
    compiled packages report what is not, in hundreds of lines.
    """
    atexit.register(gc.unfreeze)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _stopping() -> Iterator[None]:
    """Context in which SIGTERM and a closed terminal end the program as Ctrl-C does, so that no temporary file is left.

    A signal that already has a handler (submitit in its jobs, nohup) is left alone.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped("stopped; give the command again to continue", number)

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
    """Context in which the library's notices are printed as one line each; all other warnings are unchanged."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def line(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if issubclass(category, Notice):
                print(f"{name}: {message}", file=sys.stderr)
            else:
                show(message, category, *where)

        warnings.showwarning = cast(Any, line)
        yield


def check_words(words: Sequence[str]) -> None:
    """Raise `SettingsError` for a word with a line break or another control character."""
    for word in words:
        if re.search(CONTROL, word):
            raise settings.SettingsError(f"{word!a} holds a line break or another control character")


def split(words: Sequence[str], schema: type) -> tuple[list[str], list[str]]:
    """Split arguments into those for `schema` and the rest."""
    settings.read_words(words)
    own = [word for word in words if word.partition("=")[0] in keys(schema)]
    return own, [word for word in words if word not in own]
