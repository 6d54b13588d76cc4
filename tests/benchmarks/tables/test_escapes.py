"""Texts of records in Markdown and LaTeX: what a renderer makes of them is the text."""

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.tables import columns as columns_module
from benchmarks.tables import formats, latex
from benchmarks.tables.escapes import in_latex, in_line, in_markdown
from benchmarks.tables.formats import Origin
from benchmarks.tables.scored_records import ScoredRecords
from tests.by_hand import cell

LINE_ENDS = [character for character in map(chr, range(sys.maxunicode + 1)) if len(f"a{character}b".splitlines()) > 1]


def test_every_character_that_ends_a_line_is_a_space():
    """The list is Python's own, of `str.splitlines`."""
    assert len(LINE_ENDS) > 8
    for character in LINE_ENDS:
        for escape in (in_line, in_markdown, in_latex):
            assert len(f"a{escape(character)}b".splitlines()) == 1


@given(st.text(max_size=60))
def test_the_escapes_of_markdown_read_back_as_the_text(text):
    """CommonMark, section 2.4: a backslash before ASCII punctuation stands for that character."""
    read = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", in_markdown(text)).replace("@\u200b", "@")
    assert read.replace("\u200b", "") == in_line(text).replace("\u200b", "")


@pytest.mark.parametrize(
    "markup", ["<img src=x>", "</details>", "<!-- x", "`x`", "[a](http://x)", "![a](x)", "[a][b]", "[a]: b", "a|b"]
)
def test_nothing_begins_markup(markup):
    assert not re.search(r"(?<!\\)(<[a-zA-Z/!]|`|\||\][(\[:])", in_markdown(markup))


def test_nobody_is_notified():
    assert "@somebody" not in in_markdown("by @somebody")


@pytest.mark.parametrize("text", ["\\input{x}", "50%\n\\input{x}", "a_b^c~d#e$f&g"])
def test_latex_reads_no_command(text):
    plain = in_latex(text).replace(r"\textbackslash{}", "").replace(r"\textasciitilde{}", "")
    plain = plain.replace(r"\textasciicircum{}", "")
    assert "\n" not in plain
    assert not re.search(r"\\[a-zA-Z]", plain)
    assert not re.search(r"(?<!\\)[&%$#_{}~^]", plain)


@pytest.mark.parametrize("evil", ["\n\\input{x}", "\r\n## heading", "\u2028\\input{x}", "\x85# x"])
def test_a_text_with_a_newline_begins_no_line_of_any_format(evil):
    """Records with such texts are refused; should one come another way, its lines still begin with nothing of it."""
    columns = {f"top1{evil}": {"better": 1, "unit": f"%{evil}", "decimals": 1}}
    facts = {"columns": columns, "metrics": {f"top1{evil}": 1.0}, "intervals": {}, "protocol": {"k_chosen_on": evil}}
    facts |= {"provenance": {"date": f"2026{evil}", "commit": f"c{evil}"}}
    facts |= {"floors": {f"chance{evil}": {f"top1{evil}": 0.5}}}
    cells = [cell("deit3-vitn_reg4", **facts)]
    origin = Origin(f"mini{evil}", ScoredRecords("x", cells, [f"file{evil}"]), f"make{evil}")
    table = columns_module.overview(cells)
    markdown, tex = formats.markdown(table, origin), latex.latex(table, origin)
    assert not [line for line in markdown.splitlines() if re.match(r"(- )?\s*(#|\\input)", line)]
    body = [line for line in tex.splitlines() if not line.startswith("% ")]
    assert not [line for line in body if r"\input" in line.replace(r"\textbackslash{}input", "")]
    assert evil.strip() in re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", markdown)
