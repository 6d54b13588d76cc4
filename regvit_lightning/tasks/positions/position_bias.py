"""Position bias: how much of the features of patches their place explains, and what remains without its embedding.

Sources: the share of variance by location, as for positional bias of self-supervised ViTs in arXiv 2603.16840; a linear
probe of row and column as in RADIO's examples; the same content at another place, the motive of training-free matching.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from regvit_lightning.analysis import positions, sinks
from regvit_lightning.analysis.outliers import Rules, beyond
from regvit_lightning.analysis.positions import Placement
from regvit_lightning.data.imagenet import ImageFiles, Ordered, test_files, train_files
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.data.transforms import wide_crop
from regvit_lightning.figures import position_bias as figures
from regvit_lightning.frozen import dense
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.settings import ClassificationSettings
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.positions import why_not_zeroed, zeroed
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import MISSING, check, number
from regvit_lightning.statistics import bootstrap
from regvit_lightning.tasks.positions.passes import GROUPS, PositionPass
from regvit_lightning.work import ImageCounts, Pass, Work

METRICS = {
    "position_variance": Metric(better=0),
    "position_r2": Metric(better=0, unit="", decimals=2),
    "position_matches": Metric(better=0),
}
READS = "imagenet"
FOOTNOTE = ("view", "shift", "control")
QUANTILE = 2.262  # 97.5 % of Student's t with 9 degrees of freedom
LEVEL = 0.05  # of the test whether outliers have fixed places


@dataclass
class PositionBiasSettings(ClassificationSettings):
    """Settings of position bias.

    Attributes:
        images: number of test images, evenly spread over the classes.
        train_images: number of train images for the probes, of which `held_out` choose the penalty.
        detailed: number of the test images for attention sinks and for the shifted crops.
        shifts: patches by which a crop lies further to the right, ascending; the metric is of the last one.
        rule: rule of the outliers, see `Rules.words`.
        rules: its constants.
    """

    images: int = number("[10, 1e9]")
    train_images: int = number("[10, 1e9]")
    detailed: int = number("[1, 1e6]")
    shifts: list[int] = number("[1, 1e4]")
    rule: str = MISSING
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        super().__post_init__()
        rising = len(self.shifts) > 0 and self.shifts == sorted(set(self.shifts))
        check(rising, f"shifts={self.shifts}: expected different numbers that rise, such as [1,4]")
        check(self.rule in self.rules.words(), f"rule={self.rule}: expected one of {', '.join(self.rules.words())}")


SETTINGS = PositionBiasSettings


def work(settings: PositionBiasSettings, images: ImageCounts) -> Work:
    """Work: train and test images once, and some for sinks and for each crop, all of it again without the embedding."""
    train, test = (
        min(*pair) for pair in zip(images["imagenet"], (settings.train_images, settings.images), strict=True)
    )
    some = min(test, settings.detailed)
    once = train + test + some * (2 + len(settings.shifts))
    return Work([Pass(2 * once, settings.crop, settings.crop)])


@dataclass(frozen=True)
class Measured:
    """What was measured of a model, as it is or without its position embedding.

    Attributes:
        shares: (S,) share of the variance by position in percent, after each block and after the final norm.
        without: the last of them without each tenth of the images.
        r2: by stage, (N,) R² of the probe on each test image.
        matches: by shift, see `content_shift.Matches`.
        mask: (N, h, w) outliers after the last block.
        placement: of these outliers.
        sinks: (n,) attention sinks of some images, empty where they are not measured.
    """

    shares: Tensor
    without: Sequence[float]
    r2: dict[int, Tensor]
    matches: dict[int, Any]
    mask: Tensor
    placement: Placement
    sinks: Tensor

    @property
    def share(self) -> float:
        """Share of the variance by position after the final norm, in percent."""
        return float(self.shares[-1])

    def interval(self) -> tuple[float, float]:
        """95 % interval of `share`, by a jackknife over tenths of the images."""
        left = torch.tensor(self.without, dtype=torch.float64)
        error = QUANTILE * float(((GROUPS - 1) / GROUPS * (left - left.mean()).square().sum()).sqrt())
        return self.share - error, self.share + error

    def facts(self) -> dict[str, Any]:
        """Plain values for the record."""
        place = self.placement
        return {
            "share_by_stage": self.shares.tolist(),
            "r2_by_stage": {str(stage): float(values.mean()) for stage, values in self.r2.items()},
            "by_shift": {
                str(shift): {name: float(getattr(own, name).mean()) for name in own.__dataclass_fields__}
                for shift, own in self.matches.items()
            },
            "outliers": 100 * float(self.mask.double().mean()),
            "outliers_gini": {"gini": place.gini, "shuffled": place.null_gini, "p": place.p_gini},
            "sinks": float(self.sinks.mean()) if len(self.sinks) else None,
        }


def run(
    backbone: Backbone,
    data: DataSettings,
    settings: PositionBiasSettings,
    how: RunOptions = RunOptions(),  # noqa: B008
) -> Outcome:
    """Share of variance by position, R² of the probe, matches of shifted content, outliers, with and without positions.

    Raises:
        DataError: the data is missing, incomplete or unreadable.
        SettingsError: a shift that leaves no patch, or too few images.
    """
    columns = settings.crop // backbone.patch_size
    largest = f"shifts={settings.shifts}: crops of {columns} patches have no patch in common with the last"
    check(settings.shifts[-1] < columns, largest)
    train, held_out = _split(_spread(train_files(data), settings.train_images), settings.held_out, how.seed)
    test = _spread(test_files(data), settings.images)
    check(len(test) > GROUPS, f"position_bias needs more than {GROUPS} test images, there are {len(test)}")
    files = train, held_out, test
    found = {"": _measure(backbone, files, settings, how)}
    reason = why_not_zeroed(backbone.model)
    if not reason:
        with zeroed(backbone.model):
            found["_zeroed"] = _measure(backbone, files, settings, how)
    remarks = [fixed_in_words(found[""], found.get("_zeroed")), *_of_one_class(test)]
    return _outcome(backbone, settings, found, reason, len(train), remarks, how.seed)


def _of_one_class(files: ImageFiles) -> list[str]:
    if len(files.classes) > 1:
        return []
    return [
        f"All test images are of one class folder, {files.classes[0]}: the layout that they share counts as position, "
        "and the control (position embedding at 0) says how much that is."
    ]


def _spread(files: ImageFiles, wanted: int) -> ImageFiles:
    return files.subset(dense.examples(len(files), wanted))


def _split(files: ImageFiles, share: float, seed: int) -> tuple[ImageFiles, ImageFiles]:
    """Images to fit and, drawn from `seed` whatever their classes, those to choose with; at least one of each."""
    order = torch.randperm(len(files), generator=seeds.generator(seed, "held out")).tolist()
    count = min(max(round(share * len(files)), 1), len(files) - 1)
    return files.subset(sorted(order[count:])), files.subset(sorted(order[:count]))


def _measure(
    backbone: Backbone,
    files: tuple[ImageFiles, ImageFiles, ImageFiles],
    settings: PositionBiasSettings,
    how: RunOptions,
) -> Measured:
    view, some = settings.view(), _spread(files[2], settings.detailed)
    margin = settings.shifts[-1] * backbone.patch_size
    wide = wide_crop(settings.resize, settings.crop, margin)
    loading = Loading(settings.workers, settings.device_batch)
    module = PositionPass(backbone, settings.precision, settings.crop, settings.shifts)
    passes = [*(Ordered(own, view) for own in files), Ordered(some, wide)]
    Tester(how).test(module, Streamed(loading, test=passes), verbose=False)
    seen = sinks.SinkPass(backbone)
    if backbone.is_plain_vit:
        Tester(how).test(seen, Streamed(loading, test=[Ordered(some, view)]), verbose=False)
    cutoff = settings.rules.cutoffs(module.norms)[settings.rule]
    mask = beyond(settings.rule, cutoff, module.norms)
    return Measured(
        shares=100 * module.locality.shares()["position"],
        without=module.share_without(),
        r2={stage: probe.r2() for stage, probe in module.probes.items()},
        matches=module.matches,
        mask=mask,
        placement=positions.placement(mask, how.seed),
        sinks=seen.per_image().get("sinks", torch.zeros(0)),
    )


def _outcome(
    backbone: Backbone,
    settings: PositionBiasSettings,
    found: dict[str, Measured],
    reason: str,
    train: int,
    remarks: Sequence[str],
    seed: int,
) -> Outcome:
    last, shift = backbone.depth + 1, settings.shifts[-1]
    metrics: dict[str, float] = {}
    for end, own in found.items():
        matches = own.matches[shift]
        metrics |= {
            f"position_variance{end}": own.share,
            f"position_r2{end}": float(own.r2[last].mean()),
            f"position_matches{end}": float(matches.position.mean()),
            f"content_matches{end}": float(matches.content.mean()),
            f"outlier_share{end}": 100 * float(own.mask.double().mean()),
            **({f"sinks{end}": float(own.sinks.mean())} if len(own.sinks) else {}),
        }
    intact = found[""]
    scores = {"position_r2": intact.r2[last], "position_matches": intact.matches[shift].position}
    cells, images = intact.mask[0].numel(), len(intact.mask)
    return Outcome(
        metrics=metrics,
        images=images,
        intervals={
            "position_variance": intact.interval(),
            **{name: bootstrap(values, seed) for name, values in scores.items()},
        },
        scores={"position_r2": intact.r2[last]},
        floors={
            "no position": {"position_variance": 100 / images, "position_r2": 0.0, "position_matches": 100 / cells}
        },
        protocol={
            "view": settings.view_in_words(),
            "shift": f"matches of crops {shift} patches apart, {len(intact.matches[shift].position):,} images",
            "control": f"none: {reason}"
            if reason
            else "the same model with the position embedding of its patches at 0",
            "rule": f"{settings.rules.words()[settings.rule]}, last block before the final norm",
            "train_images": train,
            "chosen_on": f"the probe's penalty, on {settings.held_out:.0%} of the train images, held out",
            **{f"measured{end}": own.facts() for end, own in found.items()},
        },
        picture=figures.page({_named(end): own for end, own in found.items()}),
        remarks=remarks,
    )


def _named(end: str) -> str:
    return "position embedding at 0" if end else "as it is"


def fixed_in_words(intact: Measured, without: Measured | None) -> str:
    """Whether outliers sit at fixed places, and whether the position embedding is what fixes them, in a sentence."""
    if not intact.mask.any():
        return "There are no outliers, so that none have fixed places."
    share = f"{100 * float(intact.mask.double().mean()):.2g} % of the patches are outliers"
    spread = (
        f"Gini {intact.placement.gini:.2f}, shuffled {intact.placement.null_gini:.2f}, p {intact.placement.p_gini:.3f}"
    )
    if intact.placement.p_gini >= LEVEL:
        return f"Outliers have no fixed places: {share}, spread as if at random over the grid ({spread})."
    fixed = f"Outliers prefer some places: {share}, unequally over the grid ({spread})."
    if without is None:
        return f"{fixed} Without a position embedding of its own there is no control."
    if not without.mask.any():
        return f"{fixed} With the position embedding at 0 there are none left."
    place = without.placement
    left = f"Gini {place.gini:.2f}, shuffled {place.null_gini:.2f}, p {place.p_gini:.3f}"
    if place.p_gini >= LEVEL:
        return f"{fixed} With the position embedding at 0 they do not ({left}): it is what fixes them."
    return f"{fixed} They do so with the position embedding at 0, too ({left}): it is not what fixes them."
