"""The programs: `python -m benchmarks.<name> key=value …`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A subcommand of `regvit`.

    Attributes:
        help: one line about what it does.
        program: the module to run.
        words: `key=value` arguments that are always passed.
    """

    help: str
    program: str
    words: tuple[str, ...] = ()


GRID = "benchmarks.grid"
COMMANDS = {
    "demo": Command("render data, pretrain two nano models, evaluate, print and compare the tables", "benchmarks.demo"),
    "data": Command("make, download or check data", "benchmarks.data"),
    "annotate": Command("classes and properties of test images, for where a model is better", "benchmarks.annotate"),
    "pretrain": Command("pretrain a register ViT", "benchmarks.pretrain"),
    "eval": Command("evaluate a frozen backbone on one task", "benchmarks.evaluate"),
    "artifacts": Command("the artifact report of a model", "benchmarks.evaluate", ("task=artifact_report",)),
    "look": Command("what models see in images: attention, norms, components, LOST's box", "benchmarks.look"),
    "neurons": Command("find the register neurons of a model, for a test-time register", "benchmarks.neurons"),
    "cost": Command("parameters and multiply-adds with 0 to 16 registers", "benchmarks.cost"),
    "grid": Command("run what is missing or stale of a grid of models, tasks and seeds", GRID),
    "eval-all": Command("the same as grid", GRID),
    "all": Command("the same, after pretraining the models that are not trained yet", GRID, ("pretrain=true",)),
    "status": Command("the grid as a table: done, running, failed, stale, missing", "benchmarks.status"),
    "plan": Command("FLOPs, memory and hours of a grid; runs nothing", "benchmarks.plan"),
    "checkpoints": Command("scores over a training that kept its backbones", "benchmarks.checkpoints"),
    "study": Command("train the models of a study and show their norms over training", "benchmarks.study"),
    "tables": Command("result tables from the records", "benchmarks.tables"),
    "compare": Command("what changed between two states of the results, for a review", "benchmarks.compare"),
    "report": Command("one HTML page of all results", "benchmarks.report"),
    "bench": Command("speed, as ratios measured in one run", "benchmarks.speed"),
    "gpu-check": Command("what a CUDA GPU does with the suite, in minutes: losses, MFU", "benchmarks.gpu_check"),
    "completion": Command("print the script that completes words in bash or zsh", "benchmarks.completion"),
}


def word_of(program: str) -> str:
    """Name of the subcommand that runs `benchmarks.<program>` without further arguments: `eval` for `evaluate`."""
    return next(name for name, command in COMMANDS.items() if command == Command(command.help, f"benchmarks.{program}"))
