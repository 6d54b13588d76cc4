"""Text of a study: one sentence of what was found, a table of all settings, and the block of a page that holds both."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.study.runs import RULES, StudyRun, by_setting, differences
from benchmarks.tables import markdown
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.errors import UserError, one_line
from regvit_lightning.runtime import atomic

BEGIN, END = "<!-- begin of the study -->", "<!-- end of the study -->"
NONE = "–"  # no such run


def finding(runs: Sequence[StudyRun]) -> str:
    """What was found, in words: where artifacts appear first, or how far the norms went where they do not."""
    shown = [run for run in runs if run.onset is not None]
    if not shown:
        most = max(runs, key=lambda run: run.peak.largest)
        where = f"{_label(most, runs)}, {most.registers} registers, seed {most.seed}, step {most.peak.step:,}"
        rules = Rules()
        return (
            f"**Not found up to this size and length**: in none of {len(runs)} runs does any block have artifacts at "
            f"any measured step. The largest norm is {most.peak.largest:.3g} × the median ({where}, after block "
            f"{most.peak.block}); artifacts exceed {rules.factor:g} × in {100 * rules.least_share:g} % of the "
            f"patches or {100 * rules.least_images:g} % of the images, with a gap below."
        )
    lines = [f"**Found in {len(shown)} of {len(runs)} runs**:"]
    for run in shown:
        assert run.onset is not None
        images = run.onset.step * run.batch
        lines.append(
            f"- {_label(run, runs)}, {run.registers} registers, seed {run.seed}: from step {run.onset.step:,} "
            f"({images:,} images) on, after block {run.onset.artifacts}; the largest norm of the run is "
            f"{run.peak.largest:.3g} × the median."
        )
    return "\n".join(lines)


def table(runs: Sequence[StudyRun]) -> str:
    """Markdown table: a row for each setting, values of each number of registers side by side.

    Values are means over seeds: the largest norm over the median at the last step, its peak over training, and the
    share of outliers at the last step by each rule, always in the block where it is largest.
    """
    registers = sorted({run.registers for run in runs})
    words = Rules().words()
    columns: list[tuple[str, Callable[[StudyRun], float], str]] = [
        ("largest ÷ median at the end", lambda run: run.steps[-1].largest, "{:.2f}"),
        ("its peak", lambda run: run.peak.largest, "{:.2f}"),
    ]
    for rule in RULES:
        columns.append((f"outliers: {words[rule]}", _share(rule), "{:.2%}"))
    columns.append(("sinks per image", lambda run: run.steps[-1].sinks, "{:.2f}"))
    heading = ["setting", "blocks", "width", "patches", "images seen", "seeds"]
    of = " / ".join(map(str, registers))
    heading += [f"{title} ({of} registers)" for title, _, _ in columns]
    rows = [heading]
    for group in by_setting(runs):
        first = group[0]
        row = [_label(first, runs), *(str(first.facts[key]) for key in ("blocks", "width", "patches"))]
        row += [f"{first.images:,}", str(len({run.seed for run in group}))]
        for _, value, form in columns:
            means = (_mean([value(run) for run in group if run.registers == count], form) for count in registers)
            row.append(" / ".join(means))
        rows.append(row)
    return markdown.table(rows)


def _share(rule: str) -> Callable[[StudyRun], float]:
    return lambda run: run.steps[-1].shares[rule]


def _mean(values: Sequence[float], form: str) -> str:
    return form.format(sum(values) / len(values)).replace("%", " %") if values else NONE


def _label(run: StudyRun, runs: Sequence[StudyRun]) -> str:
    return differences(run.facts, runs[0].facts)


def text(name: str, runs: Sequence[StudyRun], missing: Sequence[str]) -> str:
    """Finding, table and remarks as Markdown; the first setting of the study is the one that others vary."""
    base = runs[0].facts
    shape = (
        f"{base['blocks']} blocks of width {base['width']}, {base['patches']} patches per image, data {base['data']}"
    )
    parts = [
        finding(runs),
        f"The setting that others vary (`base`): {shape}, {runs[0].images:,} images seen.",
        table(runs),
    ]
    if missing:
        parts.append(f"Not run: {', '.join(missing)}.")
    return "\n\n".join(parts) + "\n"


def insert(page: Path, content: str) -> None:
    """Replace what stands between the two markers of a page.

    Raises:
        UserError: the page cannot be read or written, or does not have both markers once.
    """
    try:
        before = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"page={page}: not readable ({one_line(error)})") from None
    if before.count(BEGIN) != 1 or before.count(END) != 1 or before.index(BEGIN) > before.index(END):
        raise UserError(f"page={page}: expected one line {BEGIN} and below it one line {END}")
    block = f"{BEGIN}\n\n{content.strip()}\n\n{END}"
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    atomic.write_text(page, pattern.sub(lambda _: block, before))
