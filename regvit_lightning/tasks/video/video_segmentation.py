"""Video object segmentation by label propagation: the masks of the first frame are carried to all others, no training.

Source: Caron et al. 2021 (DINO, arXiv 2104.14294, section 4.2.2 and eval_video_segmentation.py), Siméoni et al. 2025
(DINOv3, arXiv 2508.10104, and its notebook of segmentation tracking); scores as in DAVIS 2017 (Pont-Tuset et al. 2017,
arXiv 1704.00675). The algorithm is in label_propagation.py, J and F in mask_scores.py.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.analysis.outliers import at_log_mads
from regvit_lightning.data.images import open_image
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.data.transforms import normalise
from regvit_lightning.data.videos import Frames, FramesModule, Size, Video, classes_of, read_mask, videos
from regvit_lightning.figures import strips
from regvit_lightning.frozen import dense
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.last_patches import MADS, LastPatches
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.frozen.settings import TaskSettings
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.settings import MISSING, check, number
from regvit_lightning.statistics import bootstrap, pooled
from regvit_lightning.tasks.video.label_propagation import SHAPES, UPSAMPLING, Propagation, Rule, to_patches, to_pixels
from regvit_lightning.tasks.video.mask_scores import contour_f, jaccard
from regvit_lightning.work import ImageCounts, Pass, Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {"jf": Metric(), "j": Metric(), "f": Metric(), "outlier_keys": Metric(better=-1)}
READS = "videos"
FOOTNOTE = ("propagation", "view", "objects", "grid_ceiling")
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
ROUNDING = ("down", "up")
PANELS = 5  # frames of a strip
USUAL_SIZE, USUAL_PATCH = (480, 854), 16  # pixels, of DAVIS's frames and of a usual model

Scores = npt.NDArray[np.float64]


@dataclass
class VideoSettings(TaskSettings):
    """Settings of video object segmentation.

    Attributes:
        images: name of the set of videos, see `DataSettings.videos`.
        short_side: short side in pixels of the frames that the model sees, rounded to whole patches.
        long_multiple: the long side is a multiple of so many pixels where these are whole patches, else of the patch.
        rounding: of both sides: down, or up.
        resample: interpolation of that change of size, bilinear or bicubic.
        context, radius, shape, neighbours, temperature: see `label_propagation.Rule`.
        upsampling: from patches to pixels, see `label_propagation.to_pixels`.
    """

    images: str = MISSING
    short_side: int = number("[1, 1e4]")
    long_multiple: int = number("[1, 1e4]")
    rounding: str = MISSING
    resample: str = MISSING
    context: int = number("[0, 1e4]")
    radius: int = number("[0, 1e4]")
    shape: str = MISSING
    neighbours: int = number("[1, 1e4]")
    temperature: float = number("(0, 1e3]")
    upsampling: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (
            ("rounding", ROUNDING),
            ("resample", tuple(RESAMPLING)),
            ("shape", SHAPES),
            ("upsampling", UPSAMPLING),
        ):
            given = getattr(self, name)
            check(given in known, f"{name}={given}: expected {' or '.join(known)}")

    @property
    def named_set(self) -> str:
        """Name of the set of videos."""
        return self.images

    def rule(self) -> Rule:
        """Rule of the propagation."""
        return Rule(self.context, self.radius, self.shape, self.neighbours, self.temperature)

    def input_size(self, size: Size, patch_size: int) -> Size:
        """Height and width at which a frame of height and width `size` is read: whole patches, `short_side` high.

        DINO rounds down, to multiples of 64 px on the long side; DINOv3 rounds up, to whole patches.
        """
        unit = self.long_multiple if self.long_multiple % patch_size == 0 else patch_size
        whole = math.floor if self.rounding == "down" else math.ceil
        short = max(whole(self.short_side / patch_size), 1) * patch_size
        long = max(whole(short * max(size) / min(size) / unit), 1) * unit
        return (short, long) if size[0] <= size[1] else (long, short)


SETTINGS = VideoSettings


def work(settings: VideoSettings, images: ImageCounts) -> Work:
    """Work: every frame once, at the size of a usual one for a usual patch."""
    return Work([Pass(images[settings.images][0], *settings.input_size(USUAL_SIZE, USUAL_PATCH))])


# ------------------------------------------------------------------------------------------------------ one video


@dataclass
class Followed:
    """What is known of one video.

    Attributes:
        ids: ids of its objects, of the first frame.
        scores: for each scored frame (3, 2, objects): J and F of the prediction, of the mask of the first frame, and of
            the true mask at the resolution of the patches, each in 0..1.
        norms: for each frame (h, w), norms of its patches, before the final norm where the model gives them.
        uses: for each frame (h × w,), how often a patch is one of the keys of another.
        predictions: predicted class of each pixel (H, W) in the frames of the strip, compressed.
    """

    ids: list[int]
    scores: list[Scores] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    uses: list[Tensor] = field(default_factory=list)
    predictions: dict[int, bytes] = field(default_factory=dict)

    def end(self, shown: Sequence[int]) -> "Ended":
        """The numbers that remain of it, with the outliers of the frames `shown`."""
        norms, uses = torch.stack(self.norms), torch.stack(self.uses).view(len(self.norms), *self.norms[0].shape)
        outliers = norms > at_log_mads(norms, MADS)
        return Ended(
            objects=len(self.ids),
            frames=len(norms),
            scores=np.stack(self.scores),
            keys=(int(uses[outliers].sum()), int(uses.sum())),
            patches=(int(outliers.sum()), outliers.numel()),
            predictions=self.predictions,
            outliers={frame: outliers[frame].numpy() for frame in shown},
        )


@dataclass(frozen=True)
class Ended:
    """Results of one video.

    Attributes:
        objects, frames: their number.
        scores: (scored frames, 3, 2, objects), see `Followed`.
        keys: how many of all keys are outliers, and how many keys there are.
        patches: how many of all patches are outliers, and how many patches there are.
        predictions: see `Followed`.
        outliers: (h, w) bool, outliers in the frames of the strip.
    """

    objects: int
    frames: int
    scores: Scores
    keys: tuple[int, int]
    patches: tuple[int, int]
    predictions: dict[int, bytes]
    outliers: dict[int, npt.NDArray[np.bool_]]

    def of_objects(self, which: int) -> Scores:
        """J and F of each object (2, objects) in percent, means over frames, of one of the three of `scores`."""
        return 100 * self.scores[:, which].mean(axis=0)


def object_scores(predicted: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], ids: Sequence[int]) -> Scores:
    """J and F (2, objects) in 0..1 of one frame.

    Args:
        predicted: (H, W), 0 for the background and n for the n-th object.
        truth: (H, W), ids of the objects.
        ids: ids of the objects in their order.
    """
    masks = [(predicted == number, truth == own) for number, own in enumerate(ids, 1)]
    return np.array([[score(*pair) for pair in masks] for score in (jaccard, contour_f)], np.float64)


class Follower(FrozenModule):
    """Follows the objects of all videos, frame by frame.

    Args:
        backbone, settings: source of the features, and settings of the task.
        frames: the frames of all videos.

    Attributes:
        ended: results of each video, in the order of the data, available after test.
    """

    shares_passes = True

    def __init__(self, backbone: Backbone, settings: VideoSettings, frames: Frames) -> None:
        super().__init__(backbone, settings.precision)
        self.settings, self.frames = settings, frames
        self.ended: list[Ended] = []
        self._ended: dict[int, Ended] = {}
        self.last_patches = LastPatches(self.frozen)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """Results of the video that ends with the batch, by its index; empty for another batch."""
        features, norms = self.last_patches(normalise(batch["image"], self.mean, self.std))
        video, size = self.frames.videos[batch["video"]], tuple(batch["image"].shape[2:])
        for own, norm, frame, truth in zip(features, norms, batch["frame"], batch["truth"], strict=True):
            if frame == 0:
                self._start(own, truth, video)
            else:
                self._follow(own, frame, truth, size, video.scored())
            self._video.norms.append(norm)
            self._video.uses.append(torch.zeros(norm.numel(), dtype=torch.long))
        if batch["frame"][-1] < len(video.frames) - 1:
            return {}
        return {batch["video"]: self._video.end([0, *self._video.predictions])}

    def tested(self, measured: dict[int, Ended]) -> None:
        self._ended |= measured

    def on_test_epoch_end(self) -> None:
        self.ended = [self._ended[video] for video in sorted(self._ended)]

    def _start(self, features: Tensor, truth: Tensor, video: Video) -> None:
        classes = classes_of(truth)
        if len(classes) == 1:
            advice = "masks of 0 and 255 are those of one object: set one_object: true"
            raise DataError(f"mask {video.masks[0]}: no object to follow in video {video.name}; {advice}")
        of_ids = torch.zeros(256, dtype=torch.uint8, device=truth.device)
        of_ids[classes] = torch.arange(len(classes), dtype=torch.uint8, device=truth.device)
        self._classes, self._first = classes, of_ids[truth.long()]
        grid = features.shape[0], features.shape[1]
        labels = to_patches(self._first, len(classes), self.settings.upsampling, grid)
        self._propagation = Propagation(self.settings.rule(), features, labels)
        self._video = Followed(classes[1:])

    def _follow(self, features: Tensor, frame: int, truth: Tensor | None, size: Size, scored: list[int]) -> None:
        result = self._propagation(features)
        used = (result.weights > 0).cpu()
        frames, patches = result.frames.cpu()[used], result.patches.cpu()[used]
        for key in frames.unique().tolist():
            self._video.uses[key] += patches[frames == key].bincount(minlength=len(self._video.uses[key]))
        if frame not in scored:
            return
        assert truth is not None, "only frames with a mask are scored"
        three = self._pixels(result.labels, size), self._first, self._pixels(self._of_truth(features, truth), size)
        predicted, first, ceiling = (classes.cpu().numpy() for classes in three)
        own = truth.cpu().numpy()
        self._video.scores.append(
            np.stack([object_scores(one, own, self._video.ids) for one in (predicted, first, ceiling)])
        )
        if frame in spread(scored):
            self._video.predictions[frame] = zlib.compress(predicted.tobytes())

    def _of_truth(self, features: Tensor, truth: Tensor) -> Tensor:
        """Labels (h, w, C) of a true mask: the shares of the classes among the pixels of each patch."""
        masks = torch.stack([truth == own for own in self._classes[1:]]).float()
        shares = torch.cat([1 - masks.sum(dim=0, keepdim=True), masks])
        return F.interpolate(shares[None], tuple(features.shape[:2]), mode="area")[0].permute(1, 2, 0)

    def _pixels(self, labels: Tensor, size: Size) -> Tensor:
        return to_pixels(labels, self.settings.upsampling, size, (self._first.shape[0], self._first.shape[1]))


def spread(scored: Sequence[int]) -> list[int]:
    """Frames of the strip among those that are scored: evenly spread, the last one included."""
    count = min(PANELS - 1, len(scored))
    return [scored[(index + 1) * len(scored) // count - 1] for index in range(count)]


# ------------------------------------------------------------------------------------------------------ all videos


def run(backbone: Backbone, data: DataSettings, settings: VideoSettings, how: RunOptions = RunOptions()) -> Outcome:  # noqa: B008
    """J&F, J and F over the objects of all videos, with the share of keys that are outliers.

    Raises:
        SettingsError: the data has no such set.
        DataError: the set is missing, incomplete or unreadable; a first frame without an object.
        UserError: a size that the backbone does not support.
    """
    read, layout = videos(data, settings.images), data.video_set(settings.images)
    size = partial(settings.input_size, patch_size=backbone.patch_size)
    frames = Frames(read, layout, size, RESAMPLING[settings.resample])
    module = Follower(backbone, settings, frames)
    Tester(how).test(module, FramesModule(Loading(settings.workers, settings.device_batch), frames), verbose=False)
    return _outcome(module, how.seed)


def _outcome(module: Follower, seed: int) -> Outcome:
    settings, ended = module.settings, module.ended
    scores = {**_over_objects(ended, 0), "outlier_keys": _shares([one.keys for one in ended])}
    first, ceiling = (
        {name: pooled(values.mean(dim=0).numpy()) for name, values in _over_objects(ended, which).items()}
        for which in (1, 2)
    )
    metrics = {name: pooled(values.mean(dim=0).numpy()) for name, values in scores.items()}
    outliers = pooled(_shares([one.patches for one in ended]).mean(dim=0).numpy())
    names = [video.name for video in module.frames.videos]
    by_video = [float(one.of_objects(0).mean()) for one in ended]
    return Outcome(
        metrics={**metrics, "outlier_patches": outliers, "jf_grid_ceiling": ceiling["jf"]},
        images=len(ended),
        intervals={name: bootstrap(values, seed, pooled) for name, values in scores.items()},
        scores=scores,
        per_class=dict(zip(names, by_video, strict=True)),
        floors={"the first mask in every frame": first},
        protocol={
            "propagation": _in_words(settings),
            "view": _view(settings),
            "images": settings.images,
            "objects": f"{sum(one.objects for one in ended)} of {len(ended)} videos, those of the first frame",
            "scored": f"{sum(len(one.scores) for one in ended):,} frames; the first and the last of a video are not",
            "frames": sum(one.frames for one in ended),
            "intervals_over": "videos",
            "grid_ceiling": f"J&F {ceiling['jf']:.1f} with the true shares of the classes in each patch",
            "outliers": module.last_patches.outliers_in_words("a video"),
            "chosen_on": "nothing is chosen: the published constants",
        },
        picture=_picture(module, by_video),
    )


def _over_objects(ended: Sequence[Ended], which: int) -> dict[str, Tensor]:
    """Sum over objects and number of objects of each video (N, 2): J&F, J and F in percent."""
    j, f = (
        torch.tensor([[one.of_objects(which)[row].sum(), one.objects] for one in ended], dtype=torch.float64)
        for row in (0, 1)
    )
    return {"jf": (j + f) / 2, "j": j, "f": f}


def _shares(counts: Sequence[tuple[int, int]]) -> Tensor:
    """Part in percent and whole of each video (N, 2)."""
    return torch.tensor([[100 * part, whole] for part, whole in counts], dtype=torch.float64)


def _in_words(settings: VideoSettings) -> str:
    among = f"a {settings.shape} of radius {settings.radius} in the first frame and the last {settings.context}"
    how = f"temperature {settings.temperature:g}, {settings.upsampling} upsampling"
    return f"top {settings.neighbours} in {among}, {how}"


def _view(settings: VideoSettings) -> str:
    unit = (
        f"multiples of {settings.long_multiple} px or of the patch" if settings.long_multiple > 1 else "whole patches"
    )
    return f"short side {settings.short_side}, long side {settings.rounding} to {unit}, {settings.resample}"


def _picture(module: Follower, by_video: Sequence[float]) -> "Figure":
    """Strips of the videos with the worst, the median and the best J&F."""
    chosen = dense.by_score(by_video, better=1)
    names = {name: f"{name} of {len(by_video):,}" if len(by_video) > 1 else "" for name in chosen}
    return strips.strips([_strip(module, index, names[name], by_video[index]) for name, index in chosen.items()])


def _strip(module: Follower, index: int, rank: str, score: float) -> strips.Strip:
    video, ended, panels = module.frames.videos[index], module.ended[index], list[strips.Panel]()
    scored = video.scored()
    for frame, outliers in ended.outliers.items():
        image, mask = np.asarray(open_image(video.frames[frame])), video.masks[frame]
        assert mask is not None, "only frames with a mask are shown"
        truth = read_mask(mask, module.frames.layout.one_object)
        predicted = None
        text = f"frame {frame + 1}, given"
        if frame:
            predicted = np.frombuffer(zlib.decompress(ended.predictions[frame]), np.uint8).reshape(truth.shape)
            text = f"frame {frame + 1}, J&F {100 * ended.scores[scored.index(frame), 0].mean():.1f}"
        panels.append(strips.Panel(image, truth, predicted, outliers, text))
    return strips.Strip(f"{video.name}: J&F {score:.1f}{f', {rank}' if rank else ''}", panels)
