"""LaTeX compiles where a compiler is installed; everywhere its environments, braces and columns agree."""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from benchmarks.tables import __main__ as program
from benchmarks.tables import columns, latex
from benchmarks.tables.formats import Origin
from benchmarks.tables.scored_records import ScoredRecords
from tests.benchmarks.tables.test_summary import pair
from tests.by_hand import cell, report

EVIL = r"a|b_c&d%e#f,g~h^i{j}\k$é→日"
CELLS = [
    *pair(50, 70),
    *pair(30, 31, family="openclip-vitn", task="imagenet_linear", seeds=(0,)),
    cell(EVIL, "imagenet_linear", top1=3.0),
    cell("random-vitn_reg4", top1=10.0, floors={"chance & co": {"top1": 6.2}}),
    report("deit3-vitn_reg0"),
    report("deit3-vitn_reg4", 0.5),
]


def texts(cells=CELLS):
    origin = Origin("mini", ScoredRecords("results", list(cells), []), "make tables DATA=mini")
    made = program.files(program.tables(cells), origin)
    return {name: formatted["tex"] for name, formatted in made if "tex" in formatted}


def faults(text):
    """What a compiler would refuse: braces, environments, numbers of cells, special characters."""
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    body = "\n".join(lines)
    plain = re.sub(r"\\[\\{}%$&#_]", "", body)
    found = ["braces"] * (plain.count("{") != plain.count("}")) + ["$"] * (plain.count("$") % 2)
    found += [f"special {sign}" for sign in "#%" if sign in plain]
    found += ["not ASCII or Latin-1"] * any(ord(sign) > 255 for sign in body)
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", body) for word in ("begin", "end"))
    found += ["environments"] * (sorted(begun) != sorted(ended))
    for spec, inside in re.findall(r"\\begin{(?:tabular|longtable)}{@{}(.*?)@{}}\n(.*?)\\end{", body, re.DOTALL):
        count = len(re.sub(r"\[[^]]*\]", "", spec))
        for line in inside.splitlines():
            if line.endswith(r"\\") and not line.startswith(r"\caption"):
                wide = sum(int(n) - 1 for n in re.findall(r"\\multicolumn{(\d+)}", line))
                cells = len(re.findall(r"(?<!\\)&", line)) + 1 + wide
                found += [f"{cells} cells for {count} columns: {line}"] * (cells != count)
            found += [
                f"rule beyond: {line}" for end in re.findall(r"cmidrule\(lr\){\d+-(\d+)}", line) if int(end) > count
            ]
    return found


def test_groups_of_images_are_among_the_tables():
    assert "where" in texts()


def test_a_title_is_a_line_of_its_own_above_its_rows():
    rows = [["knn", "a", "1"], ["", "b", "2"], ["linear", "a", "3"]]
    title = r"\multicolumn{2}{@{}l}{\textit{%s}}"
    assert latex.under_titles(rows) == [[title % "knn"], ["a", "1"], ["b", "2"], [title % "linear"], ["a", "3"]]


@pytest.mark.parametrize("name", sorted(texts()))
def test_the_syntax_of_every_table(name):
    assert not faults(texts()[name])


@pytest.mark.parametrize(
    "wrong", [r"\begin{table}", "{", "a # b", "$x", "\\begin{tabular}{@{}lr@{}}\na & b & c \\\\\n\\end{tabular}"]
)
def test_the_check_of_the_syntax_sees_what_is_wrong(wrong):
    assert faults(wrong)


@pytest.mark.skipif(not shutil.which("pdflatex") and not shutil.which("tectonic"), reason="no LaTeX is installed")
def test_every_table_compiles(tmp_path):
    packages = r"\usepackage[T1]{fontenc}\usepackage[textwidth=5.5in]{geometry}" + latex.PACKAGES
    document = "\n".join(
        [r"\documentclass{article}", packages, r"\begin{document}", *texts().values(), r"\end{document}"]
    )
    (tmp_path / "all.tex").write_text(document, encoding="utf-8")
    program = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode"] if shutil.which("pdflatex") else ["tectonic"]
    done = subprocess.run([*program, "all.tex"], cwd=tmp_path, capture_output=True, text=True, errors="replace")
    if "! LaTeX Error: File `" in done.stdout:
        pytest.skip("a package of the preamble is not installed")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000


def test_heads_are_grouped_by_task_and_metric():
    found = [*pair(50, 70, task="imagenet_linear"), *pair(50, 60, task="imagenet_zeroshot")]
    table = columns.overview(found)
    text = latex.latex(replace(table, by_task=False), Origin("mini", ScoredRecords("r", found, []), "make tables"))
    assert r" & \multicolumn{4}{c}{imagenet\_linear} & \multicolumn{4}{c}{imagenet\_zeroshot} \\" in text
    assert r"\cmidrule(lr){2-5}\cmidrule(lr){6-9}" in text
    assert r"\caption{" in text
    assert r"\label{tab:overview}" in text
    assert r"S[table-format=2.1]lS[table-format=+2.1]l" in text


def test_numbers_are_for_siunitx_with_their_signs_and_the_best_is_bold():
    text = texts()["overview"]
    (line,) = (line for line in text.splitlines() if line.startswith(r"deit3-vitn\_reg4") and r"\bfseries" in line)
    mean, spread, change, interval = line.removesuffix(r" \\").split(" & ")[-4:]
    assert mean == r"\bfseries 70.0"
    assert re.fullmatch(r"\$\\pm\$ \\num{\d\.\d}", spread)
    assert re.fullmatch(r"\+20\.0", change)
    assert re.fullmatch(r"\[\\num{\d+\.\d}, \\num{\d+\.\d}\] \$\\blacktriangle\$", interval)
    assert "bold: better than every other model" in text


def test_long_tables_break_over_pages_and_wide_ones_into_parts():
    many = [kept for n in range(25) for kept in pair(50, 60, family=f"f{n:02}-vitn", seeds=(0,))]
    assert r"\begin{longtable}" in texts(many)["overview"]
    assert r"\endhead" in texts(many)["overview"]
    parts = texts()["table4"].count(r"\begin{tabular}")
    assert parts > 1
    assert f"(part {parts} of {parts})" in texts()["table4"]


def test_labels_differ_and_each_part_has_the_notes_of_its_own_tasks():
    two = {name: {"better": 1, "unit": "%", "decimals": 1} for name in ("top1", "top5")}
    wide = [kept for task in ("imagenet_linear", "nyud_linear1") for kept in pair(50, 70, task=task, seeds=(0,))]
    wide = [
        replace(kept, record=replace(kept.record, columns=two, metrics={"top1": 50.0, "top5": 90.0})) for kept in wide
    ]
    table = columns.overview(wide)
    origin = Origin("mini", ScoredRecords("r", wide, []), "make tables")
    for shown in (table, replace(table, by_task=False)):
        text = latex.latex(shown, origin)
        labels = re.findall(r"\\label{(.*?)}", text)
        assert len(set(labels)) == len(labels) > 1
        for part in text.split(r"\end{table}")[:-1]:
            tasks = re.findall(r"(imagenet\\_linear|nyud\\_linear1): 400", part.partition(r"\parbox")[2])
            assert len(tasks) == 1


def test_the_mark_of_a_change_stands_beside_its_interval():
    found = [cell("deit3-vitn_reg0", top1=50.0), cell("deit3-vitn_reg4", top1=60.0)]
    text = latex.latex(columns.overview(found), Origin("mini", ScoredRecords("r", found, []), "make tables"))
    (line,) = (line for line in text.splitlines() if line.startswith(r"deit3-vitn\_reg4"))
    assert line.endswith(r"$\vartriangle$\textsuperscript{u} \\")
    assert line.count("textsuperscript") == 1


def test_a_number_in_a_name_stays_a_name():
    assert latex.numbers("vitn_reg4 -0.5 [1, 2.5] p4.0x") == r"vitn\_reg4 \num{-0.5} [\num{1}, \num{2.5}] p4.0x"


def test_raised_digits_are_kept():
    assert latex.words("10⁹, 10⁻³") == r"10\textsuperscript{9}, 10\textsuperscript{-}\textsuperscript{3}"
