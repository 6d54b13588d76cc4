"""High norms, sinks and locality of the models that `look` shows: of these images, and of the artifact report."""

from pathlib import Path

from benchmarks.tables import questions, questions_formats
from benchmarks.tables.scored_records import ScoredRecord
from regvit_lightning import records
from regvit_lightning.analysis.token_maps import ModelMaps
from regvit_lightning.errors import UserError
from regvit_lightning.invocation import invocation

TASK = "artifact_report"


def lines(model: ModelMaps, given: str, results: Path, data: str, seed: int) -> list[str]:
    """A line on the images that are shown and one on those of the model's artifact report, if it has one.

    Args:
        model: maps of a model; one that gives tokens only has no lines.
        given: the word that names it in a command.
        results: folder of the results.
        data: name of their data.
        seed: seed of the record.
    """
    if not model.answers:
        return []
    words = " ".join(answer.words for answer in model.answers)
    return [f"in the images shown: {words}", _of_report(model.model, given, results, data, seed)]


def _of_report(model: str, given: str, results: Path, data: str, seed: int) -> str:
    """The answers of the artifact report, or the command that makes it."""
    try:
        file = records.path(results, data, model, TASK, seed)
        made = questions.rows([ScoredRecord(records.read_record(file), {}, file)])
    except UserError:  # none yet, a damaged one, or a second model of the same name
        made = []
    if not made:
        return (
            f"on many images, and whether patches are local: {invocation('artifacts', {'MODEL': given, 'DATA': data})}"
        )
    return f"on {made[0].images} images of {data}: {questions_formats.line(made[0])}"
