"""Programs on terminals of any width, in pipes, with closed output and with encodings that know no `×`."""

import importlib
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import command, terminal
from benchmarks.counter import bar_line
from benchmarks.tables import markdown
from tests.benchmarks.in_terminal import HIDE, SHOW, OnTerminal, widest_line

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ["data", "pretrain", "evaluate", "grid", "status", "plan", "tables", "compare", "report", "cost", "look"]
PROGRAMS += ["speed", "neurons"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
C_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def run(script, environment=None, **options):
    """A program in a process of its own: (status, output, errors)."""
    command = [sys.executable, *script]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    done = subprocess.run(command, cwd=ROOT, env={**ENVIRONMENT, **(environment or {})}, timeout=120, **pipes)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_runs_through_command_run(monkeypatch, name):
    """So that what holds for one program here holds for all of them."""
    seen = []
    monkeypatch.setattr(command, "run", lambda name, *rest, **more: seen.append(name))
    module = importlib.import_module(f"benchmarks.{name}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"benchmarks.{name}.__main__")
    module.cli()
    assert len(seen) == 1


# ------------------------------------------------------------------------------------------------- pipes and encodings

PROGRAM = """
import os
import sys
from dataclasses import dataclass
from benchmarks import command

@dataclass
class Nothing:
    pass

def body(options, words):
    for number in range(20_000):
        print(f"line {number}: 3 × 4 – 1 ± 0.5 … ä")
    print("errors: 3 × 4", file=sys.stderr)
    with open(end, "w") as file:
        if "closed" in end:
            os.write(2, b"of a library in C")
        file.write("done")

end = sys.argv.pop()
command.run("program", "Does 3 × 4.", Nothing, body)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The program as a file, as its text is in UTF-8 whatever the locale."""
    file = tmp_path_factory.mktemp("program") / "program.py"
    file.write_text(PROGRAM, encoding="utf-8")
    return str(file)


def test_a_reader_that_leaves_does_not_end_the_work(script, tmp_path):
    line = f'"{sys.executable}" "$1" "$2" | head -1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", line, "bash", script, tmp_path / "end"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "line 0: 3 × 4 – 1 ± 0.5 … ä\n0\n"
    assert done.stderr == "errors: 3 × 4\n"
    assert (tmp_path / "end").read_text() == "done"


def test_the_reader_of_help_may_leave():
    line = f'"{sys.executable}" -m benchmarks.pretrain --help | head -1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[1:] == ["0"]
    assert done.stderr == ""


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_streams(script, tmp_path, closed):
    def close():
        for number in closed:
            os.close(number)

    found, shown, errors = run([script, str(tmp_path / "closed")], preexec_fn=close)
    assert found == 0
    assert (tmp_path / "closed").read_text() == "done"  # and nothing of what was printed
    assert (b"line 19999" in shown) == (1 not in closed)
    assert (b"errors: 3" in errors) == (2 not in closed)


def test_a_full_disk_behind_standard_output_is_told_at_the_end(script, tmp_path):
    with open("/dev/full", "w") as full:
        found, _, errors = run([script, str(tmp_path / "end")], stdout=full)
    assert found == 2
    assert errors.decode().splitlines()[-1] == (
        "program: not all that was printed could be written: No space left on device"
    )
    assert (tmp_path / "end").read_text() == "done"


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, C_LOCALE, {"LC_ALL": "C"}])
def test_encodings(script, tmp_path, environment):
    found, shown, errors = run([script, str(tmp_path / "end")], environment)
    assert found == 0
    utf8 = environment == {"LC_ALL": "C"}  # which Python reads as UTF-8
    assert shown.decode().startswith("line 0: 3 × 4 – 1 ± 0.5 … ä\n" if utf8 else "line 0: 3 x 4 - 1 +- 0.5 ... a\n")
    assert errors.decode() == ("errors: 3 × 4\n" if utf8 else "errors: 3 x 4\n")


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, C_LOCALE])
def test_help_of_a_program_that_reads_yaml(environment):
    found, shown, errors = run(["-m", "benchmarks.pretrain", "--help"], environment)
    assert (found, errors) == (0, b"")
    assert "Touvron" in shown.decode("ascii")


def test_what_cannot_be_encoded_reads_like_it():
    terminal.prepare()
    assert "3×4 – é … → ≥ ² 猫 ━─".encode("ascii", "readable") == b"3x4 - e ... -> >= 2 ? #-"
    assert "naïve ×".encode("latin-1", "readable") == "naïve ×".encode("latin-1")
    assert os.fsdecode(b"a\xff").encode("utf-8", "readable") == b"a\\xff"
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("utf-8", "readable")


def test_streams_of_others_are_left_alone(monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    terminal.prepare()
    assert sys.stdout is text
    terminal.finish()


# ------------------------------------------------------------------------------------------------------------ terminals


def test_ctrl_c_while_rendering_erases_the_bar_and_shows_the_cursor(tmp_path):
    """At once, while the rendering processes are still starting, and on a narrow terminal."""
    one = OnTerminal([sys.executable, "-m", "benchmarks.data", "workers=2"], 40, ENVIRONMENT, tmp_path)
    one.wait_for("rendering data/mini")
    one.press("\x03")
    assert one.end() == 130
    shown = one.text()
    assert HIDE in shown
    assert shown.rindex(SHOW) > shown.rindex(HIDE)
    assert "Traceback" not in shown
    assert "data: interrupted; give the command again to continue" in shown


HIDDEN = """
import os, signal, sys
from dataclasses import dataclass
from benchmarks import command

@dataclass
class Nothing:
    pass

def body(options, words):
    print("\x1b[?25l", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGINT)

command.run("hidden", "", Nothing, body)
"""


def test_the_cursor_comes_back_whoever_has_hidden_it():
    one = OnTerminal([sys.executable, "-c", HIDDEN], 80, ENVIRONMENT, ROOT)
    assert one.end() == 130
    assert HIDE in one.text()
    assert one.text().endswith(SHOW)


BOARD = """
import time
from benchmarks.grid.board import SECONDS_BETWEEN_LOOKS, Board

with Board("grid paper", echo=True) as board:
    for number in range(3):
        time.sleep(SECONDS_BETWEEN_LOOKS * 1.1)
        board.show([f"  CPU  0:0{number}  deit3-vitb_reg16 imagenet_linear seed 0: 123/4,567"])
    board.say("a line that stays")
"""


def test_the_lines_of_a_grid_are_cut_to_the_terminal():
    one = OnTerminal([sys.executable, "-c", BOARD], 30, ENVIRONMENT, ROOT)
    assert one.end() == 0
    live, _, rest = one.text().partition("a line that stays")
    assert "  CPU  0:02  deit3-vitb_reg…" in live
    assert widest_line(live) == 30 - len("^C")
    assert SHOW in rest


BARS = """
import time
from dataclasses import dataclass
from benchmarks import command
from benchmarks.counter import Counter

@dataclass
class Nothing:
    pass

def body(options, words):
    with Counter("pretrain deit3-vitb_reg16", 2000, "img") as counter:
        for done in range(0, 2001, 500):
            counter.update(done, "loss 6.931")
            time.sleep(0.3)

command.run("bars", "", Nothing, body)
"""


@pytest.mark.parametrize(("columns", "encoding"), [(80, "utf-8"), (40, "ascii"), (20, "ascii")])
def test_a_bar_keeps_its_name_and_its_line(columns, encoding):
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": encoding}
    one = OnTerminal([sys.executable, "-c", BARS], columns, environment, ROOT)
    assert one.end() == 0
    shown = one.text()
    assert "Traceback" not in shown
    bars = [line for line in re.split(r"[\r\n]|\x1b\[[0-9;?]*[a-zA-Z]", shown) if line.startswith("pretrain d")]
    assert len(bars) > 3
    spare = 2 if columns >= 40 else 0  # for ^C, or for an ellipsis that is printed as three dots
    assert widest_line(shown.rpartition(SHOW)[0].rpartition("pretrain d")[0]) <= columns - spare
    if columns >= 40:
        assert all("pretrain deit3-vitb_reg16" in bar for bar in bars)
    assert ("━" in shown) == (encoding == "utf-8" and columns == 80)


FULL = ["1,234/38,400", "loss 6.931", "123 img/s", "2:10"]


def test_what_a_bar_leaves_out():
    widths = (90, 80, 72, 60, 47, 37, 30, 15)
    assert {width: bar_line("pretrain deit3-vitb_reg16", 0.5, FULL, width) for width in widths} == {
        90: "pretrain deit3-vitb_reg16  ━━━━━━──────  1,234/38,400  loss 6.931  123 img/s  2:10",
        80: "pretrain deit3-vitb_reg16  ━━━━━─────  1,234/38,400  loss 6.931  123 img/s  2:10",
        72: "pretrain deit3-vitb_reg16  1,234/38,400  loss 6.931  123 img/s  2:10",
        60: "pretrain deit3-vitb_reg16  1,234/38,400  123 img/s  2:10",
        47: "pretrain deit3-vitb_reg16  1,234/38,400  2:10",
        37: "pretrain deit3-vitb_reg16  50%  2:10",
        30: "pretrain deit3-vitb_reg16  50%",
        15: "pretrain …  50%",
    }


@given(st.text("abc ", min_size=1, max_size=60), st.floats(0, 1), st.integers(6, 120))
def test_a_bar_never_breaks_its_line(title, share, width):
    assert len(bar_line(title, share, FULL, width)) <= width


# --------------------------------------------------------------------------------------------------- text and tables


def test_lines_are_broken_between_words():
    text = "  model=<str>           <recipe>-<name> (trained here), timm/<name>\n# one two three four five"
    assert terminal.fitted(text, 60) == (
        "  model=<str>           <recipe>-<name> (trained here),\n"
        "                        timm/<name>\n"
        "# one two three four five"
    )
    assert terminal.fitted(text.split("\n")[0], 40) == (
        "  model=<str>  <recipe>-<name> (trained\n    here), timm/<name>"
    )
    assert terminal.fitted("# one two three four five", 16) == "# one two three\n# four five"
    assert terminal.fitted("a/very/long/path/that/no/line/holds x", 12) == "a/very/long/path/that/no/line/holds\n  x"


@given(st.lists(st.text("abcdef", min_size=1, max_size=9), min_size=1, max_size=30), st.integers(24, 60))
def test_broken_lines_lose_no_word(words, columns):
    text = "  " + " ".join(words)
    found = terminal.fitted(text, columns)
    assert found.split() == words
    assert max(map(len, found.split("\n"))) <= columns


TABLE = "\n".join(
    [
        "| model           |       top1 |  miou | rmse |",
        "| --------------- | ---------: | ----: | ---: |",
        "| deit3-vitn_reg4 | 12.5 (1.1) |   3.2 |    – |",
        "| mean depth      |          – |     – |  2.1 |",
    ]
)


def test_a_table_that_is_too_wide_becomes_several_with_the_first_column():
    assert markdown.narrowed(f"x\n\n{TABLE}\n", 48) == f"x\n\n{TABLE}\n"
    assert markdown.narrowed(TABLE, 40).split("\n") == [
        "| model           |       top1 | miou |",
        "| --------------- | ---------: | ---: |",
        "| deit3-vitn_reg4 | 12.5 (1.1) |  3.2 |",
        "",
        "| model      | rmse |",
        "| ---------- | ---: |",
        "| mean depth |  2.1 |",
    ]
    assert markdown.narrowed(TABLE, 24).split("\n") == [
        "deit3-vitn_reg4",
        "  top1: 12.5 (1.1)",
        "  miou: 3.2",
        "mean depth",
        "  rmse: 2.1",
    ]


@pytest.mark.parametrize("columns", [80, 40])
def test_a_program_sees_how_wide_its_terminal_is(columns):
    script = "import sys; from benchmarks.tables.markdown import for_terminal; print(for_terminal(sys.argv[1]))"
    one = OnTerminal([sys.executable, "-c", script, TABLE], columns, ENVIRONMENT, ROOT)
    assert one.end() == 0
    assert one.text().replace("\r\n", "\n") == markdown.narrowed(TABLE, columns) + "\n"
    assert widest_line(one.text()) <= columns
    assert run(["-c", script, TABLE])[1].decode() == TABLE + "\n"  # a pipe has no width


def test_nohup_keeps_a_program_from_stopping_with_its_terminal(monkeypatch):
    """Who ignores SIGHUP goes on ignoring it; else it ends the program like SIGTERM."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with command._stopping():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with pytest.raises(BaseException, match="give the command again to continue") as stop, command._stopping():
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.value.status == 128 + signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interval_is_not_broken_between_two_lines():
    shown = terminal.fitted("a difference of +1.6 [-0.8, 3.9] is shown", 28).splitlines()
    assert shown == ["a difference of +1.6", "  [-0.8, 3.9] is shown"]
