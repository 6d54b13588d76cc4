"""Videos with masks of their objects, in DAVIS's layout: a folder of frames and one of masks for each video."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from regvit_lightning.data.completeness import check_count, check_rendered, read_list
from regvit_lightning.data.device_batches import sequences_of_device
from regvit_lightning.data.image_sets import VideoSet
from regvit_lightning.data.images import decode, open_image
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.listing import is_hidden, is_image
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.errors import one_line

VOID = 255  # value of masks for pixels that belong to no object, as in DAVIS 2017

Size = tuple[int, int]
Fit = Callable[[Size], Size]  # from height and width of a frame to those at which it is read


@dataclass(frozen=True)
class Video:
    """One video.

    Attributes:
        name: name of its folder.
        frames: paths of the frames, in the order of time.
        masks: path of the mask of each frame, or None where there is none.
    """

    name: str
    frames: tuple[str, ...]
    masks: tuple[str | None, ...]

    def scored(self) -> list[int]:
        """Indices of the frames that are scored: those with a mask, but the first and the last frame of the video."""
        return [index for index, mask in enumerate(self.masks[:-1]) if index and mask is not None]


def videos(data: DataSettings, name: str) -> list[Video]:
    """The videos of the set called `name`, in the order of its list or of their names; see `DataSettings.videos`.

    Raises:
        SettingsError: not a set of this data.
        DataError: the set is missing or incomplete; a video has no mask of its first frame, or no other one to score.
    """
    layout = data.video_set(name)
    check_rendered(data)
    frames, masks, listed = (Path(data.root, part) if part else None for part in layout.paths())
    assert frames is not None and masks is not None, "only the list may be empty"  # noqa: PT018
    for folder in (frames, masks):
        if not folder.is_dir():
            raise DataError(f"no folder {folder}: expected one folder for each video in it; {data.get}")
    names = _listed(listed, data.get) if listed else _folders(frames)
    if not names:
        raise DataError(f"no video in {frames}: expected one folder of frames for each; {data.get}")
    read = [_video(frames / one, masks / one, data.get) for one in names]
    check_count(data, name, 0, sum(len(video.frames) for video in read), f"{name} in {data.root} has", "frames")
    return read


def _listed(listed: Path, get: str) -> list[str]:
    """Names of the videos in a list: a name a line, or as in DAVIS 2016 the path of a frame a line."""
    lines = read_list(listed, "the name of a video", get)
    return list(dict.fromkeys(line.split()[0].strip("/").split("/")[-2 if "/" in line else -1] for line in lines))


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name))


def _video(frames: Path, masks: Path, get: str) -> Video:
    images = _images(frames, get)
    by_stem = {Path(name).stem: str(masks / name) for name in _images(masks, get)}
    found = [by_stem.get(Path(name).stem) for name in images]
    video = Video(frames.name, tuple(str(frames / name) for name in images), tuple(found))
    if not found or found[0] is None:
        first = f"the first frame, {images[0]}," if images else "a frame"
        raise DataError(f"video {frames}: {first} has no mask in {masks}; its objects are those to follow")
    if not video.scored():
        raise DataError(f"video {frames}: no mask between the first frame and the last, so that nothing can be scored")
    return video


def _images(folder: Path, get: str) -> list[str]:
    """Names of the images of a folder in the order of their numbers: `9.jpg` is before `10.jpg`."""
    try:
        names = [name for name in os.listdir(folder) if is_image(name) and not is_hidden(name)]
    except OSError as error:
        raise DataError(f"cannot list {folder}: {one_line(error)}; {get}") from None
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def read_mask(path: str, one_object: bool) -> npt.NDArray[np.uint8]:
    """Mask (H, W) of object ids, 0 for the background.

    Args:
        path: image with one channel of ids, or with a palette; `VOID` is background.
        one_object: everything that is not 0 belongs to object 1, whatever its value or colour.

    Raises:
        DataError: the file cannot be read, or has several channels although there may be several objects.
    """

    def ids(image: Image.Image) -> npt.NDArray[np.uint8]:
        if image.mode not in ("1", "L", "P") and not one_object:
            raise ValueError(f"it has pixels of mode {image.mode}; expected one channel of object ids")
        values = np.asarray(image if image.mode in ("1", "L", "P") else image.convert("L"), np.uint8)
        return (values > 0).astype(np.uint8) if one_object else np.where(values == VOID, 0, values).astype(np.uint8)

    return decode(path, f"mask {path}", ids)


class Frames(Dataset[dict[str, Any]]):
    """Data set of all frames of some videos, one video after the other.

    Args:
        videos: the videos.
        layout: the set that they belong to.
        fit: size at which a frame is read.
        resample: of Pillow, for the change of size.
    """

    def __init__(self, videos: Sequence[Video], layout: VideoSet, fit: Fit, resample: Image.Resampling) -> None:
        self.videos, self.layout, self.fit, self.resample = videos, layout, fit, resample
        self.index = [(video, frame) for video, one in enumerate(videos) for frame in range(len(one.frames))]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Frame `image`, uint8 (3, h, w), its `truth`, uint8 (H, W) or None, and the indices of video and frame."""
        video, frame = self.index[index]
        image, mask = open_image(self.videos[video].frames[frame]), self.videos[video].masks[frame]
        height, width = self.fit((image.height, image.width))
        pixels = np.array(image.resize((width, height), self.resample))
        truth = None if mask is None else read_mask(mask, self.layout.one_object)
        if truth is not None and truth.shape != (image.height, image.width):
            raise DataError(
                f"mask {mask}: {truth.shape[1]} × {truth.shape[0]} px, its frame {image.width} × {image.height}"
            )
        return {
            "image": torch.from_numpy(pixels).permute(2, 0, 1),
            "truth": truth if truth is None else torch.from_numpy(truth),
            "video": video,
            "frame": frame,
        }


class FramesModule(Streamed):
    """The frames as a test pass, in batches of consecutive frames of one video."""

    def __init__(self, loading: Loading, frames: Frames) -> None:
        super().__init__(loading, test=[frames])
        size, starts = loading.device_batch, np.cumsum([0, *(len(video.frames) for video in frames.videos)]).tolist()
        self.frames = frames
        self.of_videos = [
            [list(range(start, min(start + size, end))) for start in range(begin, end, size)]
            for begin, end in pairwise(starts)
        ]

    def _ordered(self, images: Dataset[Any]) -> DataLoader[Any]:
        first = self.of_videos[0][0]
        options = self._workers(images, first[:1], len(first), self._collate)
        batches = sequences_of_device(self.of_videos, self.trainer)  # whole videos: a frame needs those before it
        return DataLoader(images, batch_sampler=batches, collate_fn=self._collate, **options)

    def _collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Batch with image uint8 (B, 3, h, w), truth (a list), frame (B,) and the index of the video."""
        video = self.frames.videos[samples[0]["video"]]
        sizes = {tuple(sample["image"].shape[1:]) for sample in samples}
        if len(sizes) > 1:
            raise DataError(
                f"video {video.name} has frames of several sizes: {video.frames[samples[0]['frame']]} and after"
            )
        return {
            "image": torch.stack([sample["image"] for sample in samples]),
            "truth": [sample["truth"] for sample in samples],
            "frame": [sample["frame"] for sample in samples],
            "video": samples[0]["video"],
        }


def classes_of(truth: Tensor) -> list[int]:
    """Ids of the objects in a mask (H, W), in order, after 0 for the background."""
    return [0, *(int(value) for value in truth.unique() if value)]
