"""Correspondence: points of one image are matched to the most similar patch of another one, by class or by geometry.

Source: Min et al. 2019 (SPair-71k, arXiv 1908.10543) for the data and PCK; the protocol without training is that of El
Banani et al. 2024 (Probe3D, arXiv 2404.08636, section 4.3), used by DINOv3's table 14: square images of 800 px.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.analysis.outliers import at_log_mads
from regvit_lightning.data.images import open_image
from regvit_lightning.data.keypoint_pair import Pair
from regvit_lightning.data.keypoints import Pairs, keypoint_pairs, spread
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.data.transforms import normalise
from regvit_lightning.figures import matches
from regvit_lightning.frozen import dense
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.last_patches import MADS, LastPatches
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.frozen.settings import TaskSettings
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.settings import MISSING, check, number
from regvit_lightning.statistics import bootstrap, pooled
from regvit_lightning.work import ImageCounts, Pass, Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {"pck": Metric(), "outlier_matches": Metric(better=-1)}
READS = "keypoints"
UNITS = ("box", "pixels")
DRAWN = 40  # points of a pair in the picture, evenly spread
FOOTNOTE = ("view", "near", "pairs_chosen", "grid_ceiling")


@dataclass
class CorrespondenceSettings(TaskSettings):
    """Settings of semantic correspondence.

    Attributes:
        images: name of the set of pairs, see `DataSettings.keypoints`.
        side: pixels of the square that every image is resized to, rounded up to whole patches.
        near: a match is right within this distance of the true point.
        also: further distances, for the record.
        unit: of these distances: `box`, the longer side of the target's box; or `pixels` of the target's file.
        pairs_per_class: at most so many pairs of a class, evenly spread; 0 takes all.
        centimetres: a match is right in space within these distances, for pairs with depth and poses.
        angles: bounds in degrees of the groups of such pairs by the angle that the camera turned.
    """

    images: str = MISSING
    side: int = number("[1, 1e4]")
    near: float = number("(0, 1e4]")
    also: list[float] = number("(0, 1e4]")
    unit: str = MISSING
    pairs_per_class: int = number("[0, 1e9]")
    centimetres: list[float] = number("(0, 1e4]", [])
    angles: list[float] = number("[0, 181]", [])

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.unit in UNITS, f"unit={self.unit}: expected {' or '.join(UNITS)}")
        check(self.angles == sorted(set(self.angles)), f"angles={self.angles}: expected ascending degrees")

    def reach(self, pair: Pair, near: float) -> float:
        """A distance in pixels of the target's file."""
        return near * (pair.side if self.unit == "box" else 1.0)

    @property
    def named_set(self) -> str:
        """Name of the set of pairs."""
        return self.images

    def input_size(self, patch_size: int) -> int:
        """Side of the square in whole patches."""
        return -(-self.side // patch_size) * patch_size


SETTINGS = CorrespondenceSettings


def work(settings: CorrespondenceSettings, images: ImageCounts) -> Work:
    """Work: both images of every pair that is matched: all, or `pairs_per_class` of each group."""
    pairs, groups = images[settings.images]
    matched = min(pairs, settings.pairs_per_class * groups) if settings.pairs_per_class else pairs
    return Work([Pass(2 * matched, settings.side, settings.side)])


# -------------------------------------------------------------------------------------------------------- one pair


@dataclass(frozen=True)
class Matched:
    """Matches of one pair, in pixels of the target's file.

    Attributes:
        points: (N, 2), middle of the patch that each keypoint is matched to.
        best: (N, 2), middle of the patch that is nearest to the true keypoint.
        outliers: how many of the patches are outliers by their norm.
        share: share of outliers among all patches of both images, in 0..1.
    """

    points: Tensor
    best: Tensor
    outliers: int
    share: float


def match(pair: Pair, features: Tensor, norms: Tensor, sizes: Tensor) -> Matched:
    """Match the keypoints of a pair.

    Args:
        pair: N keypoints.
        features: (2, h, w, D) of source and target.
        norms: (2, h, w) of their patches.
        sizes: (2, 2), width and height of the files in pixels.
    """
    source, target = torch.from_numpy(pair.points)
    queries = sampled(features[0], source / sizes[0])
    keys = F.normalize(features[1], dim=-1)
    index = (F.normalize(queries, dim=-1) @ keys.flatten(0, 1).T).argmax(dim=1).cpu()
    middles = centres(features.shape[1], features.shape[2]) * sizes[1]
    nearest = torch.cdist(target, middles).argmin(dim=1)
    outliers = norms > at_log_mads(norms, MADS)
    taken = outliers[1].flatten()[index]
    return Matched(middles[index], middles[nearest], int(taken.sum()), float(outliers.double().mean()))


def sampled(features: Tensor, places: Tensor) -> Tensor:
    """Features (N, D) at `places` (N, 2), x and y in 0..1 of the image, bilinear between the patches (h, w, D)."""
    grid = (2 * places - 1).to(features)[None, None]
    maps = features.permute(2, 0, 1)[None]
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0].T


def centres(rows: int, columns: int) -> Tensor:
    """Middles (rows × columns, 2) of the patches, x and y in 0..1 of the image, row-major."""
    y, x = ((torch.arange(count, dtype=torch.float64) + 0.5) / count for count in (rows, columns))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def right(pair: Pair, points: Tensor, reach: float) -> Tensor:
    """Which points (N, 2) are within `reach` pixels of their keypoints, bool (N,)."""
    distances = (points - torch.from_numpy(pair.points[1])).norm(dim=1)
    return distances <= reach


# ------------------------------------------------------------------------------------------------------- all pairs


class Matcher(FrozenModule):
    """Matches the keypoints of all pairs.

    Args:
        backbone, settings: source of the features, and settings of the task.

    Attributes:
        matched: matches of each pair, in the order of the data, available after test.
        sizes: (2, 2) of each pair, width and height of the files.
    """

    shares_passes = True

    def __init__(self, backbone: Backbone, settings: CorrespondenceSettings, pairs: Sequence[Pair]) -> None:
        super().__init__(backbone, settings.precision)
        self.settings, self.pairs = settings, pairs
        self.last_patches = LastPatches(self.frozen)
        self.matched: list[Matched] = []
        self.sizes: list[Tensor] = []

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        images = normalise(batch["images"].flatten(0, 1), self.mean, self.std)
        features, norms = (part.unflatten(0, (-1, 2)) for part in self.last_patches(images))
        every = zip(batch["index"].tolist(), features, norms, batch["sizes"].cpu(), strict=True)
        return [(match(self.pairs[index], own, norm, sizes), sizes) for index, own, norm, sizes in every]

    def tested(self, measured: list[tuple[Matched, Tensor]]) -> None:
        for matched, sizes in measured:
            self.matched.append(matched)
            self.sizes.append(sizes)


def run(
    backbone: Backbone,
    data: DataSettings,
    settings: CorrespondenceSettings,
    how: RunOptions = RunOptions(),  # noqa: B008
) -> Outcome:
    """PCK over the keypoints of all pairs, with the share of matches that are outliers.

    Raises:
        SettingsError: the data has no such set.
        DataError: the set is missing, incomplete or unreadable.
        UserError: a size that the backbone does not support.
    """
    check(settings.near not in settings.also, f"also={settings.also}: near={settings.near:g} is there already")
    every = keypoint_pairs(data, settings.images)
    pairs = spread(every, settings.pairs_per_class)
    in_space = "depth and poses, which centimetres and angles need; give centimetres=[] angles=[]"
    flat = not all(pair.space for pair in pairs) and bool(settings.centimetres or settings.angles)
    check(not flat, f"images={settings.images}: pairs without {in_space}")
    module = Matcher(backbone, settings, pairs)
    images = Pairs(pairs, settings.input_size(backbone.patch_size))
    Tester(how).test(module, Streamed(Loading(settings.workers, settings.device_batch), test=[images]), verbose=False)
    return _outcome(module, len(every), how.seed)


def _outcome(module: Matcher, pairs_there: int, seed: int) -> Outcome:
    settings, pairs = module.settings, module.pairs
    points = [one.points for one in module.matched]
    scores = {
        "pck": _scores(settings, pairs, points, settings.near),
        "outlier_matches": _pooled_counts([(one.outliers, len(one.points)) for one in module.matched]),
    }
    ceiling = _percent(_scores(settings, pairs, [one.best for one in module.matched], settings.near))
    patches = 100 * float(np.mean([one.share for one in module.matched]))
    also = {f"pck_{share:g}": _percent(_scores(settings, pairs, points, share)) for share in settings.also}
    by_pair = float((scores["pck"][:, 0] / scores["pck"][:, 1]).mean())
    return Outcome(
        metrics={
            **{name: _percent(values) for name, values in scores.items()},
            "outlier_patches": patches,
            "pck_grid_ceiling": ceiling,
            "pck_mean_of_pairs": by_pair,
            **also,
            **_in_space(module),
            **_by_angle(settings, pairs, {"pck": scores["pck"]}),
        },
        images=len(pairs),
        intervals={name: bootstrap(values, seed, pooled) for name, values in scores.items()},
        scores=scores,
        per_class=_by_class(pairs, scores["pck"]),
        floors=_floors(module),
        protocol={
            "view": f"squares of {settings.side} px, bicubic; features of the source bilinear at the keypoint",
            "near": _near(settings),
            "pairs_chosen": f"{len(pairs):,} of {pairs_there:,}, {sum(len(own) for own in points):,} keypoints",
            "intervals_over": "pairs",
            "grid_ceiling": f"PCK {ceiling:.1f} with the nearest patch",
            "images": settings.images,
            "outliers": module.last_patches.outliers_in_words("the two images"),
            "chosen_on": "nothing is chosen: the published constants",
        },
        picture=_picture(module, scores["pck"]),
    )


def _in_space(module: Matcher) -> dict[str, float]:
    """Recall in percent within each of `centimetres`, its ceiling, and by angle; a match without depth is not right."""
    settings, pairs = module.settings, module.pairs
    metrics: dict[str, float] = {}
    if not settings.centimetres:
        return metrics
    matched, best = (
        [_errors(pair, one, sizes) for pair, one, sizes in zip(pairs, places, module.sizes, strict=True)]
        for places in ([one.points for one in module.matched], [one.best for one in module.matched])
    )
    for centimetres in settings.centimetres:
        name = f"recall_{centimetres:g}cm"
        found, ceiling = (
            _pooled_counts([(int((one <= centimetres / 100).sum()), len(one)) for one in errors])
            for errors in (matched, best)
        )
        metrics |= {name: _percent(found), f"{name}_grid_ceiling": _percent(ceiling)}
        metrics |= _by_angle(settings, pairs, {name: found})
    return metrics


def _errors(pair: Pair, points: Tensor, sizes: Tensor) -> Any:
    assert pair.space is not None, "checked before matching"
    return pair.space.errors((points / sizes[1]).numpy())


def _by_angle(settings: CorrespondenceSettings, pairs: Sequence[Pair], scores: dict[str, Tensor]) -> dict[str, float]:
    """Each of the scores (N, 2) in percent, for the pairs in each bin of the angle that the camera turned by."""
    turned = np.array([pair.space.angle if pair.space else np.nan for pair in pairs])
    metrics: dict[str, float] = {}
    for low, high in pairwise(settings.angles):
        inside = (turned >= low) & (turned < high)
        if inside.any():
            rows = torch.from_numpy(inside)
            metrics |= {f"{name}_{low:g}_to_{high:g}_degrees": _percent(own[rows]) for name, own in scores.items()}
    return metrics


def _near(settings: CorrespondenceSettings) -> str:
    of_box = f"{settings.near:g} of the longer side of the target's box"
    return f"within {of_box if settings.unit == 'box' else f'{settings.near:g} px'}"


def _scores(settings: CorrespondenceSettings, pairs: Sequence[Pair], points: Sequence[Tensor], near: float) -> Tensor:
    """Right ones in percent and number of keypoints of each pair (N, 2)."""
    rights = [right(pair, own, settings.reach(pair, near)) for pair, own in zip(pairs, points, strict=True)]
    return _pooled_counts([(int(own.sum()), len(own)) for own in rights])


def _pooled_counts(counts: Sequence[tuple[int, int]]) -> Tensor:
    return torch.tensor([[100 * part, whole] for part, whole in counts], dtype=torch.float64)


def _percent(scores: Tensor) -> float:
    return pooled(scores.mean(dim=0).numpy())


def _by_class(pairs: Sequence[Pair], scores: Tensor) -> dict[str, float | None]:
    groups = sorted({pair.group for pair in pairs})
    own = {group: scores[[pair.group == group for pair in pairs]] for group in groups}
    return {group: _percent(values) for group, values in own.items()}


def _floors(module: Matcher) -> dict[str, dict[str, float]]:
    """PCK of two guesses that look at no image."""
    pairs, settings = module.pairs, module.settings
    same = [
        torch.from_numpy(pair.points[0]) / sizes[0] * sizes[1] for pair, sizes in zip(pairs, module.sizes, strict=True)
    ]
    middle = [torch.from_numpy((pair.box[:2] + pair.box[2:]) / 2).expand(pair.points.shape[1], 2) for pair in pairs]
    guesses = {"the same place in the image": same, "the middle of the box": middle}
    return {
        name: {"pck": _percent(_scores(settings, pairs, points, settings.near))} for name, points in guesses.items()
    }


def _picture(module: Matcher, scores: Tensor) -> "Figure":
    """The pairs with the worst, the median and the best PCK."""
    shares = (scores[:, 0] / scores[:, 1]).tolist()
    rows = []
    for name, index in dense.by_score(shares, better=1).items():
        pair, points = module.pairs[index], module.matched[index].points
        images: list[Any] = [np.asarray(open_image(file)) for file in pair.files]
        hits = right(pair, points, module.settings.reach(pair, module.settings.near)).numpy()
        title = f"{pair.group}: PCK {shares[index]:.0f}, {name} of {len(shares):,}"
        some = np.unique(np.linspace(0, len(hits) - 1, min(len(hits), DRAWN)).astype(int))
        title += f"; {len(some)} of {len(hits)} points" * (len(some) < len(hits))
        rows.append(matches.Row(title, images[0], images[1], pair.points[:, some], points.numpy()[some], hits[some]))
    return matches.matches(rows)
