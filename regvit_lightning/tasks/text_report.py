"""Text report: attention sinks of a model's text tower, by block and head, on captions or texts of one's own.

Sources: `regvit_lightning/analysis/text_sinks.py`. Registers were proposed for images (Darcet et al. 2023, arXiv
2309.16588); in causal text towers the first token takes the same part without being asked.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from regvit_lightning.analysis import text_report, text_sinks
from regvit_lightning.analysis.text_report import Example, TextReport
from regvit_lightning.analysis.text_sinks import TextSinks
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.pairs import train_pairs
from regvit_lightning.errors import UserError, one_line
from regvit_lightning.figures import text as figures_text
from regvit_lightning.frozen import dense
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.settings import TaskSettings
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models import joint_space
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.joint_space import JointSpace
from regvit_lightning.models.text_tower import PADDING, TextTower
from regvit_lightning.settings import MISSING, check, number
from regvit_lightning.statistics import bootstrap
from regvit_lightning.work import ImageCounts, Work

METRICS = {
    "sink_rate": Metric(better=0),
    "nop_sinks": Metric(better=0, unit="per text", decimals=2),
    "broadcast_sinks": Metric(better=0, unit="per text", decimals=2),
}
READS = "pairs"
NEEDS_TEXT = True
FOOTNOTE = ("rule", "source", "without")


@dataclass
class TextReportSettings(TaskSettings):
    """Settings of the text report.

    Attributes:
        source: `captions`, those of the data's pairs of image and text; or the path of a UTF-8 file with a text in each
            line.
        texts: number of texts, evenly spread over all of them.
        figures: also save each figure of the page by itself.
    """

    source: str = MISSING
    texts: int = number("[1, 1e7]")
    figures: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        single = "the text report is computed in single precision: leave it out"
        check(self.precision == "32-true", f"precision={self.precision}: {single}")


SETTINGS = TextReportSettings


class TextPass(LightningModule):
    """Measures the texts of a test pass, batches (tokens,) of (B, T).

    Attributes:
        sinks: measurements of all texts, available after test.
    """

    sinks: TextSinks

    def __init__(self, space: JointSpace, name: str) -> None:
        super().__init__()
        self.space, self.tower = space, TextTower(space.text, name)
        self._parts: list[TextSinks] = []

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
        return text_sinks.measure(self.tower, batch[0])

    def tested(self, part: TextSinks) -> None:
        """Keep what a batch gave."""
        self._parts.append(part)

    def on_test_epoch_end(self) -> None:
        self.sinks, self._parts = text_sinks.join(self._parts), []


def work(settings: TextReportSettings, images: ImageCounts) -> Work:
    """Work: no image is read, and a thousand short texts cost less than a hundred images."""
    return Work([])


def run(
    backbone: Backbone,
    data: DataSettings,
    settings: TextReportSettings,
    how: RunOptions = RunOptions(),  # noqa: B008
) -> Outcome:
    """Measure sink rate, attention shares, norms and sink events of the text tower.

    Raises:
        UserError: the model has no text tower that can be looked into, activations are not finite, the file of texts
            cannot be read, or no text is long enough.
        DataError: the data has no pairs, or they are missing, incomplete or unreadable.
    """
    space = joint_space.of_backbone(backbone)
    tower = TextTower(space.text, backbone.name)
    texts, facts = _texts(data, settings)
    chosen = [texts[index] for index in dense.examples(len(texts), settings.texts)]
    tokens, words = _long_enough(tower, space.tokenize(chosen), settings.source)
    module = TextPass(space, backbone.name)
    Tester(how).test(module, [DataLoader(TensorDataset(tokens), settings.device_batch)], verbose=False)
    report = TextReport(backbone.name, module.sinks, _example(tower, space, tokens, module.sinks))
    return _outcome(report, space, settings, how.seed, {**facts, "left_out": len(chosen) - words})


def _outcome(
    report: TextReport, space: JointSpace, settings: TextReportSettings, seed: int, facts: dict[str, Any]
) -> Outcome:
    scores, architecture = report.scores(), vars(space.architecture)
    return Outcome(
        metrics=report.metrics(),
        images=len(report.sinks),
        intervals={name: bootstrap(score, seed) for name, score in scores.items()},
        scores=scores,
        protocol={**text_report.PROTOCOL, **facts, "text_tower": {**architecture}, **report.facts()},
        picture=figures_text.page(report),
        figures=(lambda: {name: panel.figure() for name, panel in figures_text.panels(report).items()})
        if settings.figures
        else dict,
        remarks=[report.verdict],
    )


def _texts(data: DataSettings, settings: TextReportSettings) -> tuple[Sequence[str], dict[str, Any]]:
    """All texts, and what the record says of their source."""
    if settings.source == "captions":
        if not data.pairs:
            raise DataError(f"data '{data.name}' has no captions; give ARGS=\"source=<file with a text in each line>\"")
        pairs = train_pairs(data)
        return _Captions(pairs), {"source": "captions of the training pairs"}
    file = Path(settings.source).expanduser()
    try:
        content = file.read_bytes()
        lines = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    except (OSError, UnicodeError) as error:
        raise UserError(f"source={settings.source}: not a UTF-8 file of texts: {one_line(error)}") from None
    texts = [line for line in lines if line]
    if not texts:
        raise UserError(f"source={settings.source}: holds no text; expected one in each line")
    return texts, {"source": f"{file.name}, SHA-256 {hashlib.sha256(content).hexdigest()[:16]}"}


class _Captions(Sequence[str]):
    """Captions of pairs, decoded when they are asked for: there may be millions."""

    def __init__(self, pairs: Any) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: Any) -> Any:
        return self.pairs.caption(index)


def _long_enough(tower: TextTower, tokens: Tensor, source: str) -> tuple[Tensor, int]:
    """Tokens of the texts that have a query at `FIRST_QUERY` or later, and their number."""
    long = (tower.kinds(tokens) != PADDING)[:, text_sinks.FIRST_QUERY :].any(dim=1)
    if not long.any():
        least = f"SOT and EOT included, one needs {text_sinks.FIRST_QUERY + 1}"
        raise UserError(f"source={source}: no text is long enough to measure: in tokens, {least}")
    return tokens[long], int(long.sum())


@torch.no_grad()
def _example(tower: TextTower, space: JointSpace, tokens: Tensor, sinks: TextSinks) -> Example:
    """Attention for the text whose sink rate is the median."""
    index = int(sinks.sink_rate.argsort()[len(sinks) // 2])
    text = tokens[index : index + 1].to(space.projection.device)
    attention: list[Tensor] = []
    tower.walk(text, lambda _, block: attention.append(block.attention[0].cpu()))
    numbers = tokens[index][tower.kinds(tokens[index : index + 1])[0] != PADDING].tolist()
    decoder = space.tokenizer.decoder
    return text_report.example_of([decoder[number].replace("</w>", "") for number in numbers], attention)
