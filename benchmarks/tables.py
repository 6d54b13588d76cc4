"""Result tables from records: `python -m benchmarks.tables data=mini`."""

import hashlib
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import command
from benchmarks.markdown import table as aligned
from regvit_lightning import atomic, records
from regvit_lightning.errors import UserError
from regvit_lightning.records import Record
from regvit_lightning.settings import setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DESCRIPTION = """Writes <results>/<data>/tables/overview.{md,csv,tex} from the records and prints the Markdown one:
models × metrics, the floors first (constant predictors, untrained models), with the change against the twin without
registers. Where there are artifact reports, norms.png shows the norms of their models beside each other."""


@dataclass
class Tables:
    """Settings of the program."""

    data: str = setting("name of the data, a folder of <results>, or the folder of its images", "mini")
    results: str = setting("folder of the results", "results")


@dataclass(frozen=True, order=True)
class Column:
    """One metric of one protocol; different protocols never share a column.

    Attributes:
        better: +1 where higher is better, -1 where lower is.
        unit: of the metric.
        decimals: shown.
    """

    task: str
    protocol: str
    metric: str
    better: int = field(compare=False)
    unit: str = field(compare=False)
    decimals: int = field(compare=False)

    def title(self, unique: bool) -> str:
        """`imagenet_knn top1`, with a mark of the protocol where a task has several."""
        return f"{self.task} {self.metric}" if unique else f"{self.task}@{self.protocol} {self.metric}"

    def shown(self, score: "Score | None") -> str:
        """Mean ± deviation (change), or a dash."""
        if score is None:
            return "–"
        spread = "" if score.deviation is None else f" ± {score.deviation:.{self.decimals}f}"
        change = "" if score.change is None else f" ({score.change:+.{self.decimals}f})"
        return f"{score.mean:.{self.decimals}f}{spread}{change}"


@dataclass(frozen=True)
class Score:
    """A metric of one model: mean and sample standard deviation over seeds, and the change against the twin."""

    values: tuple[float, ...]
    twin: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def change(self) -> float | None:
        return self.mean - statistics.fmean(self.twin) if self.twin else None


@dataclass(frozen=True)
class Table:
    """Scores by model and column, in the order they are shown; floors without a backbone are models, too."""

    models: list[str]
    columns: list[Column]
    scores: dict[tuple[str, Column], Score]
    seeds: dict[str, int]
    footnotes: list[str]

    def titles(self, arrow: str = "") -> list[str]:
        """Heading of each column, with `arrow` behind a metric of which less is better."""
        protocols = {(column.task, column.protocol) for column in self.columns}
        tasks = [task for task, _ in protocols]
        titles = [column.title(tasks.count(column.task) == 1) for column in self.columns]
        return [t + (arrow if c.better < 0 else "") for t, c in zip(titles, self.columns, strict=True)]


def build(found: Sequence[Record]) -> Table:
    """Arrange records into a table."""
    values: dict[tuple[str, Column], dict[int, float]] = {}
    for record in found:
        reached = {record.model: record.metrics, **{f"{name} (floor)": kept for name, kept in record.floors.items()}}
        for metric, facts in record.columns.items():
            column = Column(record.task, protocol_key(record), metric, **facts)
            for model, metrics in reached.items():
                if metric in metrics:
                    values.setdefault((model, column), {})[record.seed] = metrics[metric]
    models = sorted({model for model, _ in values}, key=order)
    columns = sorted({column for _, column in values}, key=lambda c: (c.task, c.protocol, _place(found, c)))
    scores = {}
    for (model, column), by_seed in values.items():
        twin = next((values[t, column] for t in twins(model) if t != model and (t, column) in values), {})
        scores[model, column] = Score(*(tuple(d[seed] for seed in sorted(d)) for d in (by_seed, twin)))
    seeds = {model: len({seed for (m, _), kept in values.items() if m == model for seed in kept}) for model in models}
    return Table(models, columns, scores, seeds, footnotes(found))


def footnotes(found: Sequence[Record]) -> list[str]:
    """A line for each task and protocol: how many test images, and the facts that people argue about."""
    lines = set()
    for record in found:
        facts = [f"{key.replace('_', ' ')}: {record.protocol[key]}" for key in record.footnote]
        lines.add(f"{record.task}: {record.images:,} test images; {'; '.join(facts)}")
    return sorted(lines)


def protocol_key(record: Record) -> str:
    """Six digits that tell one set of task settings, and of labels, from another."""
    kept = {key: value for key, value in record.settings.items() if key not in records.FREE_TO_CHANGE}
    kept["layout"] = record.layout
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:6]


def twins(model: str) -> list[str]:
    """Ids that the same model without registers may have: ours say `_reg0`, timm's say nothing."""
    return [re.sub(r"_reg\d+", "_reg0", model), re.sub(r"_reg\d+", "", model)]


def order(model: str) -> tuple[bool, bool, str, int]:
    """Floors first, those without a backbone before untrained models; then by name and number of registers."""
    registers = re.search(r"_reg(\d+)", model)
    kind = not model.endswith(" (floor)"), not model.startswith("random-")
    return *kind, re.sub(r"_reg\d+", "", model), int(registers[1]) if registers else 0


def _place(found: Sequence[Record], column: Column) -> int:
    return next(list(r.columns).index(column.metric) for r in found if r.task == column.task)


def markdown(table: Table, data: str) -> str:
    """The table with its source; the change against the twin without registers in brackets."""
    rows = [["model", "seeds", *table.titles(" ↓")]]
    for model in table.models:
        cells = [column.shown(table.scores.get((model, column))) for column in table.columns]
        rows.append([f"{model} (floor)" if model.startswith("random-") else model, str(table.seeds[model]), *cells])
    note = [
        f"Data: {data}. {_units(table)};",
        "mean ± standard deviation over seeds; in brackets the change against the same model without registers.",
        f"Made from the records in results/{data}/cells by `make tables DATA={data}`.",
        "",
        *(f"- {line}" for line in table.footnotes),
    ]
    return "\n".join([aligned(rows), "", *note]) + "\n"


def _units(table: Table) -> str:
    """`top1 in %; rmse in m, lower is better (↓)`."""
    kinds: dict[tuple[str, int], list[str]] = {}
    for column in table.columns:
        metrics = kinds.setdefault((column.unit, column.better), [])
        if column.metric not in metrics:
            metrics.append(column.metric)
    less = {1: "", -1: ", lower is better (↓)"}
    return "; ".join(f"{', '.join(metrics)} in {unit}{less[better]}" for (unit, better), metrics in kinds.items())


def csv(table: Table) -> str:
    """Plain numbers: mean, standard deviation and change of every column, empty where there is none."""
    head = ["model", "seeds"] + [f"{t}{part}" for t in table.titles() for part in ("", " std", " change")]
    lines = [",".join(head)]
    for model in table.models:
        cells = [model, str(table.seeds[model])]
        for column in table.columns:
            score = table.scores.get((model, column))
            numbers = (score.mean, score.deviation, score.change) if score else (None, None, None)
            cells += ["" if number is None else f"{number:.4f}" for number in numbers]
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    r"""A booktabs tabular; needs `\usepackage{booktabs}`."""
    rows = [["model", *table.titles(r" $\downarrow$")]]
    for model in table.models:
        cells = [column.shown(table.scores.get((model, column))) for column in table.columns]
        rows.append([model, *(cell.replace("±", r"$\pm$").replace("–", "--") for cell in cells)])
    escaped = [" & ".join(cell.replace("_", r"\_") for cell in row) + r" \\" for row in rows]
    body = [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule", escaped[0], r"\midrule", *escaped[1:]]
    return "\n".join([*body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def norm_strips(found: Sequence[Record]) -> "Figure | None":
    """Fig. 7: norms of patches after the last block by model, with and without registers side by side, seed 0 first.

    Returns:
        None where no record is of an artifact report.
    """
    reports = [record for record in found if "norms_of_last_block" in record.protocol]
    if not reports:
        return None
    import torch
    from matplotlib.figure import Figure

    from regvit_lightning import figures_artifacts

    of_model = {record.model: record for record in sorted(reports, key=lambda record: -record.seed)}
    groups = {m: torch.tensor(of_model[m].protocol["norms_of_last_block"]) for m in sorted(of_model, key=order)}
    figure = Figure(figsize=(2 + 1.8 * len(groups), 3.6), dpi=90, facecolor="white", layout="constrained")
    axes = figure.subplots()
    figures_artifacts.strips(axes, groups)
    axes.set_title("norms of patches after the last block: quantiles, the bar is the median", fontsize=9, loc="left")
    return figure


def main(options: Tables, words: list[str]) -> None:
    """Run the program."""
    results = Path(options.results)
    data = Path(options.data).resolve().name if "/" in options.data else options.data
    found = records.load_all(results, data)
    if not found:
        raise UserError(f"no record in {results / data / 'cells'}; make some with: make eval DATA={options.data} …")
    table = build(found)
    folder = results / data / "tables"
    shown = markdown(table, data)
    for suffix, text in (("md", shown), ("csv", csv(table)), ("tex", latex(table))):
        atomic.write_text(folder / f"overview.{suffix}", text)
    strips = norm_strips(found)
    if strips is not None:
        atomic.write(folder / "norms.png", lambda file: strips.savefig(file, format="png", metadata={"Software": None}))
    print(f"{shown}\ntables: {folder}/overview.md, .csv, .tex{', norms.png' if strips else ''}")


def cli() -> None:
    """Run the program with the words of the command line."""
    command.run("tables", DESCRIPTION, Tables, main)


if __name__ == "__main__":
    cli()
