"""Memory rows of the artifact report and the position probe at real shapes, see `real_shapes`."""

from collections.abc import Iterator

import torch

from benchmarks.speed.footprints import measured
from benchmarks.speed.real_shapes import WIDTH
from benchmarks.speed.timing import Measurement
from regvit_lightning.analysis import local_probes, outliers, positions, probes
from regvit_lightning.analysis.local_probes import Patches
from regvit_lightning.analysis.norms import Norms
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.analysis.probes import Features, TokenSettings
from regvit_lightning.tasks.footprint import pieces


def shifted_content(images: int = 32, side: int = 16, width: int = WIDTH) -> Measurement:
    """A batch of position bias: two crops in float64, their cosines, and the normal equations of a probe."""
    from regvit_lightning.analysis import content_shift
    from regvit_lightning.analysis.position_probe import RidgeProbe

    @torch.inference_mode()
    def work() -> None:
        first, second = torch.randn(2, images, side, side, width)
        content_shift.match(first, second, 2)
        probe = RidgeProbe()
        for add in (probe.train, probe.held_out, probe.test):
            add(first)

    estimate = pieces.shifted_content(images, side**2, width)
    return measured(f"position bias, {images} × {side}² patches, D {width}", estimate, work)


def norms(images: int = 1000, depth: int = 40, side: int = 37) -> Measurement:
    """Outliers of the artifact report by all rules, after every block: norms, and a few masks of each rule."""
    grid, stages = (side, side), depth + 1

    def work() -> None:
        measured_ = Norms(
            patches=1 + torch.rand(images, stages, *grid),
            registers=torch.rand(images, stages, 4),
            cls=torch.rand(images, stages),
            embedded=1 + torch.rand(images, *grid),
            neighbours=torch.rand(images, *grid),
            largest=torch.rand(images, stages, 3),
            median=torch.rand(images, stages),
            kurtosis=torch.rand(images, stages),
        )
        outliers.find(measured_, Rules())

    estimate = pieces.outliers(images, stages, side**2)
    return measured(f"outliers, {images:,} × {depth} blocks × {side} × {side}", estimate, work)


def single_token(
    images: int = 10_000, width: int = WIDTH, classes: int = 1000, iterations: int = pieces.HISTORY
) -> Measurement:
    """Single-token probe of all classes for one C: features in float64, logits, and what L-BFGS remembers."""
    chosen = TokenSettings(draws=1, exponents=[0.0], iterations=iterations)
    labels = torch.arange(images) % classes

    def work() -> None:
        features = Features(torch.randn(1, images, width), labels)
        probes.classify(features, features, chosen)

    estimate = 4 * images * width + pieces.regression(images, width, classes, iterations)
    return measured(f"single-token probe, {images:,} × {width}, {classes} classes", estimate, work)


def several_classes(images: int = 5011, width: int = WIDTH, classes: int = 20) -> Measurement:
    """VOC's regressions of one token for two C, and the interval of the mAP: float64 features, resampled sets."""
    from regvit_lightning.analysis import class_measures
    from regvit_lightning.analysis.logistic import regressions

    features, targets = torch.randn(images, width), (torch.rand(images, classes) < 0.1).float()

    def work() -> None:
        model = regressions(features, targets, classes, [0.1, 1.0], iterations=5)[-1]
        class_measures.interval("map", model(features), targets)

    estimate = pieces.regression(images, width, classes, 5, 2)
    return measured(f"several classes, {images:,} × {width} features, {classes} classes", estimate, work)


def _patches(images: int, side: int, width: int) -> Iterator[Patches]:
    positions_ = torch.arange(side**2)
    for _ in range(images):
        pixels_ = 255 * torch.rand(side**2, 3 * 14 * 14)
        yield Patches(torch.randn(side**2, width), positions_, pixels_, torch.rand(side**2) < 0.02, (side, side))


def position(images: int = 400, side: int = 37, width: int = WIDTH, tokens: int = 100_000) -> Measurement:
    """Position probe at 518 px: the drawn tokens, joined and in float64 twice. One step of L-BFGS instead of 200."""
    probe = local_probes.PositionProbe(True, tokens, images)

    def work() -> None:
        for image in _patches(images, side, width):
            probe.train(image)
        kept, local_probes.POSITION_STEPS = local_probes.POSITION_STEPS, 1
        try:
            for image in _patches(2, side, width):
                probe.test(image)
        finally:
            local_probes.POSITION_STEPS = kept

    estimate = pieces.position_probe(min(tokens, images * side**2), width, side**2, 1)
    return measured(f"position probe, {images} images of {side} × {side}, D {width}", estimate, work)


def pixels(images: int = 20, side: int = 37, width: int = WIDTH) -> Measurement:
    """Pixel probe at 518 px: sums of products of features and pixels, whatever the number of images."""
    probe = local_probes.PixelProbe(True)

    def work() -> None:
        for number, image in enumerate(_patches(images, side, width)):
            (probe.held_out if number % 10 == 9 else probe.train)(image)
        for image in _patches(2, side, width):
            probe.test(image)

    estimate = pieces.pixel_probe(side**2, width, 3 * 14 * 14)
    return measured(f"pixel probe, {side} × {side}, D {width}", estimate, work)


def placement(images: int = 1000, side: int = 37) -> Measurement:
    """Positions of outliers of 1,000 images of 518 px against 999 permutations."""

    def work() -> None:
        positions.placement(torch.rand(images, side, side) < 0.02)

    estimate = pieces.placement(images, side**2)
    return measured(f"positions of outliers, {images:,} × {side} × {side}", estimate, work)
