"""Artifact report: presence, depth, position, content and attention of the high-norm tokens of a backbone.

Source: Darcet et al. 2023 (arXiv 2309.16588), sections 2 and 3; the rules, measures and probes are in
`regvit_lightning/analysis/` with their own sources. Norms are those of the residual stream before the final norm.
"""

import hashlib
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from regvit_lightning.analysis import (
    controls,
    cost,
    local_probes,
    outliers,
    positions,
    probes,
    replacement,
    verdict,
)
from regvit_lightning.analysis.contents import Contents, OutlierMask, ProbeSettings, TokenPass
from regvit_lightning.analysis.controls import Effect, ReplacedPass
from regvit_lightning.analysis.defects import DefectCosines
from regvit_lightning.analysis.last_block import LastBlockPass
from regvit_lightning.analysis.locality import LocalitySums
from regvit_lightning.analysis.norms import NormPass
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.analysis.report import ArtifactReport
from regvit_lightning.analysis.sinks import SinkPass
from regvit_lightning.data.discovery import boxed_images
from regvit_lightning.data.imagenet import ImageFiles, ImageNet, test_files, train_files
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.data.transforms import centre_crop
from regvit_lightning.errors import Notice
from regvit_lightning.figures import report as figures_report
from regvit_lightning.figures import stages as figures_stages
from regvit_lightning.frozen import dense
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.frozen.settings import TaskSettings
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.feature_maps import FeatureMaps
from regvit_lightning.settings import MISSING, boxed_sets, check, number
from regvit_lightning.statistics import binomial_interval, bootstrap
from regvit_lightning.tasks import stage_report
from regvit_lightning.work import ImageCounts, Pass, Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {
    "outlier_share": Metric(better=-1, decimals=2),
    "max_over_median": Metric(better=-1, unit="×", decimals=1),
}
READS = "imagenet"
FOOTNOTE = ("rule", "view")


@dataclass
class ArtifactReportSettings(TaskSettings):
    """Settings of the artifact report.

    Attributes:
        source: `imagenet`, its train and test images; or the name of a set with boxes (`voc07`): images without
            classes, every other one of which is used for training.
        resize: short side in pixels before the centre crop.
        crop: side of that crop in pixels.
        images: number of test images, evenly spread over the classes.
        detailed: number of those for attention, sinks and collapse, which need every token; also the number of train
            images whose registers replace those of others.
        shown: number of those in the pictures.
        figures: also save each figure of the page by itself, which takes about a second each.
        rule: rule whose outliers after the last block are analysed in detail.
        rules: constants of the outlier rules.
        register_means: file with the registers of the replacement `mean`, see `replacement.read_means`; empty for the
            mean over train images. Refused for images without classes, of which no replacement is measured.
        probes: settings of the probes.
    """

    source: str = MISSING
    resize: int = number("[1, 1e4]")
    crop: int = number("[1, 1e4]")
    images: int = number("[1, 1e9]")
    detailed: int = number("[1, 1e6]")
    shown: int = number("[1, 100]")
    figures: bool = True
    rule: str = MISSING
    rules: Rules = field(default_factory=Rules)
    register_means: str = ""
    probes: ProbeSettings = field(default_factory=ProbeSettings)

    @property
    def named_set(self) -> str:
        return "" if self.source == "imagenet" else self.source

    def __post_init__(self) -> None:
        super().__post_init__()
        sources, rules = ("imagenet", *boxed_sets()), self.rules.words()
        check(self.source in sources, f"source={self.source}: expected one of {', '.join(sources)}")
        check(self.rule in rules, f"rule={self.rule}: expected one of {', '.join(rules)}")
        check(self.resize >= self.crop, f"resize={self.resize}: must be at least crop={self.crop}")
        order = self.shown <= self.detailed <= self.images
        check(order, f"shown={self.shown}, detailed={self.detailed}, images={self.images}: expected them to rise")


SETTINGS = ArtifactReportSettings


class Passes:
    """Ordered passes of a backbone over the images of a report.

    Args:
        train, test: images of the report.
        settings, how: settings and run options of the report.
    """

    def __init__(self, train: ImageFiles, test: ImageFiles, settings: ArtifactReportSettings, how: RunOptions) -> None:
        self.train, self.test, self.how = train, test, how
        self.view = centre_crop(settings.resize, settings.crop)
        self.loading = Loading(settings.workers, settings.device_batch)

    def over(self, module: FrozenModule, *files: ImageFiles) -> None:
        """Run the test pass of `module` over each of `files`."""
        images = ImageNet(self.loading, test=[(part, self.view) for part in files])
        Tester(self.how).test(module, images, verbose=False)

    def first_over(self, module: FrozenModule, files: ImageFiles) -> None:
        """Run the validation pass of `module` over `files`."""
        Tester(self.how).validate(module, ImageNet(self.loading, validation=[(files, self.view)]), verbose=False)


def work(settings: ArtifactReportSettings, images: ImageCounts) -> Work:
    """Work: test images for the norms, some of them for the last block and for sinks, train and test for the probes.

    A model with registers processes train and test once more, and once per replacement: assumed here for every model.
    """
    if settings.source == "imagenet":
        all_train, all_test = images["imagenet"]
    else:
        boxed = images[settings.source][0]
        all_train, all_test = boxed - boxed // 2, boxed // 2
    train, test = min(all_train, settings.probes.train_images), min(all_test, settings.images)
    some = min(test, settings.detailed)
    replaced = (train + test) * (1 + len(replacement.KINDS)) + min(train, settings.detailed)
    return Work([Pass(test + 2 * some + train + test + replaced, settings.crop, settings.crop)])


def run(
    backbone: Backbone,
    data: DataSettings,
    settings: ArtifactReportSettings,
    how: RunOptions = RunOptions(),  # noqa: B008
) -> Outcome:
    """Compute norms, outliers and their positions, attention, collapse, probes, register replacements and cost.

    Raises:
        DataError: the data is missing, incomplete or unreadable.
        SettingsError: `register_means` for images without classes.
        UserError: the backbone has no plain attention in its last block, or norms that are not finite.
    """
    if isinstance(backbone, FeatureMaps):
        return _of_stages(backbone, data, settings, how)
    backbone.require_plain_vit()
    train, test = _files(data, settings)
    means = _read_means(backbone, train, settings.register_means)
    passes = Passes(train, test, settings, how)
    measured = _walk(backbone, passes, settings)
    report = _report(backbone, measured, means, passes, settings)
    share = 100 * report.masks.double().mean(dim=(1, 2))
    return Outcome(
        metrics=report.metrics(),
        images=len(test),
        intervals={
            "outlier_share": _share_interval(report.masks, share, how.seed),
            **{
                name: bootstrap(scores, how.seed)
                for name, scores in report.register_scores().items()
                if scores.isfinite().all()
            },
        },
        scores={"outlier_share": share},
        protocol={
            "images_of": settings.source,
            "rule": f"share of patches above {settings.rules.words()[settings.rule]}, last block before the final norm",
            "view": f"resize {settings.resize}, centre crop {settings.crop}, bicubic",
            "train_images": len(train),
            "without_outlier": probes.WITHOUT_OUTLIER[settings.probes.tokens.without_outlier],
            "position_tokens": f"at most {settings.probes.local.position_tokens:,}, drawn, as many of each train image",
            **_mean_of(settings.register_means),
            "pixel_scale": local_probes.PIXEL_SCALES[settings.probes.local.pixels],
            **report.facts(),
        },
        picture=figures_report.page(report),
        figures=partial(_figures, report) if settings.figures else dict,
        remarks=[report.verdict, *filter(None, [report.diversity.remark() if report.diversity else ""])],
    )


def _of_stages(backbone: FeatureMaps, data: DataSettings, settings: ArtifactReportSettings, how: RunOptions) -> Outcome:
    """The report of a convolutional or hierarchical model, by stage."""
    check(not settings.register_means, f"register_means={settings.register_means}: {backbone.name} has no registers")
    train, test = _files(data, settings)
    passes = Passes(train, test, settings, how)
    shown, detailed = stage_report.examples(len(test), settings.detailed, settings.shown)
    report = stage_report.build(
        backbone,
        settings.precision,
        stage_report.pictures(test, passes.view, shown),
        settings.crop,
        (train, test),
        settings.rules,
        settings.rule,
        settings.probes.tokens,
        shown,
        detailed,
        how.seed,
        passes.over,
    )
    share = 100 * report.masks[-1].double().mean(dim=(1, 2))
    return Outcome(
        metrics=report.metrics(),
        images=len(test),
        intervals={"outlier_share": _share_interval(report.masks[-1], share, how.seed)},
        scores={"outlier_share": share},
        protocol={
            "images_of": settings.source,
            "rule": f"share of cells above {settings.rules.words()[settings.rule]}, last stage before the final norm",
            "view": f"resize {settings.resize}, centre crop {settings.crop}, bicubic",
            "train_images": len(train),
            **report.facts(),
        },
        picture=figures_stages.page(report),
        figures=(lambda: {name: panel.figure() for name, panel in figures_stages.panels(report).items()})
        if settings.figures
        else None,
        remarks=[report.verdict],
    )


def _figures(report: ArtifactReport) -> dict[str, "Figure"]:
    """All panels of the page as figures of their own, by the name of their files."""
    return {name: panel.figure() for name, panel in figures_report.panels(report).items()}


def _share_interval(masks: Tensor, shares: Tensor, seed: int) -> tuple[float, float]:
    """95 % interval in percent of the share of outliers, from masks (N, h, w) and the share of each image (N,).

    Images are resampled; without any outlier that would be certain, so that patches are then counted as independent.
    """
    if masks.any():
        return bootstrap(shares, seed)
    return 0.0, 100 * binomial_interval(0, masks.numel())[1]


def _files(data: DataSettings, settings: ArtifactReportSettings) -> tuple[ImageFiles, ImageFiles]:
    """Train and test images of the report."""
    if settings.source == "imagenet":
        train, test = train_files(data), test_files(data)
    else:
        boxed = boxed_images(data, settings.source)
        every = ImageFiles((settings.source,), boxed.paths, np.zeros(len(boxed), np.int64))
        train, test = every.subset(range(0, len(every), 2)), every.subset(range(1, len(every), 2))
        check(len(test) > 0, f"source={settings.source}: needs two images, has {len(every)}")
    return _spread(train, settings.probes.train_images), _spread(test, settings.images)


def _spread(files: ImageFiles, wanted: int) -> ImageFiles:
    return files.subset(dense.examples(len(files), wanted))


def _read_means(backbone: Backbone, train: ImageFiles, file: str) -> Tensor | None:
    """Mean registers from the file of `register_means`; None where the setting is empty."""
    if not file:
        return None
    why = "replaced registers are measured by the top-1 of classifiers, and these images have no classes"
    advice = "leave it out, or give images with classes (source=imagenet)"
    check(_has_classes(train), f"register_means={file}: {why}; {advice}")
    return replacement.read_means(Path(file), backbone)


def _has_classes(train: ImageFiles) -> bool:
    return len(train.classes) > 1


def _mean_of(register_means: str) -> dict[str, str]:
    """Name and SHA-256 of the file with the mean registers for the record; empty where there is none."""
    if not register_means:
        return {}
    file = Path(register_means)
    return {"register_means": f"{file.name}, SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"}


@dataclass(frozen=True)
class Walk:
    """What one pass over the test images measures after every block."""

    norms: NormPass
    locality: LocalitySums
    defects: DefectCosines


def _walk(backbone: Backbone, passes: Passes, settings: ArtifactReportSettings) -> Walk:
    locality, defects = LocalitySums(), DefectCosines(backbone)
    norms = NormPass(backbone, settings.precision, [locality.add, defects.add])
    passes.over(norms, passes.test)
    return Walk(norms, locality, defects)


def _report(
    backbone: Backbone, walk: Walk, means: Tensor | None, passes: Passes, settings: ArtifactReportSettings
) -> ArtifactReport:
    seed, rule, norms = passes.how.seed, settings.rule, walk.norms.norms
    last = norms.raw[:, -1]
    cutoff = settings.rules.cutoffs(last)[rule]
    is_outlier = partial(outliers.beyond, rule, cutoff)
    masks = is_outlier(last)
    some = dense.examples(len(last), settings.detailed)
    return ArtifactReport(
        model=backbone.name,
        rules=settings.rules,
        rule=rule,
        seed=seed,
        norms=norms,
        mean_registers=walk.norms.mean_registers,
        diversity=walk.norms.diversity,
        findings=outliers.find(norms, settings.rules, seed),
        high=verdict.high_norms(norms, settings.rules),
        low=verdict.low_norms(norms, settings.rules),
        masks=masks,
        placement=positions.placement(masks, seed),
        neighbours=positions.compare_neighbours(norms.neighbours, masks, seed),
        shown=[some[index] for index in dense.examples(len(some), settings.shown)],
        inside=_inside(backbone, masks, some, passes, settings),
        sinks=_sinks(backbone, some, passes),
        locality=walk.locality.locality(),
        defects=walk.defects,
        contents=_contents(backbone, is_outlier, passes, settings),
        effects=_effects(backbone, means, passes, settings),
        costs=cost.table(backbone),
    )


def _inside(
    backbone: Backbone, masks: Tensor, some: list[int], passes: Passes, settings: ArtifactReportSettings
) -> LastBlockPass:
    module = LastBlockPass(backbone, settings.precision, masks[some], dense.examples(len(some), settings.shown))
    passes.over(module, passes.test.subset(some))
    if module.left_out:
        warnings.warn(f"{backbone.name}: {module.left_out}", Notice, stacklevel=2)
    return module


def _sinks(backbone: Backbone, some: list[int], passes: Passes) -> SinkPass:
    module = SinkPass(backbone)
    passes.over(module, passes.test.subset(some))
    return module


def _contents(
    backbone: Backbone, is_outlier: OutlierMask, passes: Passes, settings: ArtifactReportSettings
) -> Contents:
    files, wanted = (passes.train, passes.test), settings.probes.local_images
    local = tuple(dense.examples(len(part), wanted) for part in files)
    module = TokenPass(backbone, settings.precision, is_outlier, settings.probes, local, passes.how.seed)
    passes.over(module, *files)
    return module.contents()


def _effects(
    backbone: Backbone, means: Tensor | None, passes: Passes, settings: ArtifactReportSettings
) -> dict[str, Effect]:
    """Effects of replacing registers; empty for a model without registers or images without classes."""
    if not backbone.num_registers or not _has_classes(passes.train):
        return {}
    module = ReplacedPass(backbone, settings.precision, passes.how.seed, means)
    passes.first_over(module, _spread(passes.train, settings.detailed))
    passes.over(module, passes.train, passes.test)
    return controls.effects(module, settings.probes.tokens, passes.how.seed)
