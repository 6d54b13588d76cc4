"""Pairs of frames of RGB-D videos with poses, whose points correspond by geometry: 7-Scenes' and ScanNet's layouts."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from regvit_lightning.data.images import decode, open_image
from regvit_lightning.data.keypoint_pair import Pair, Points
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import one_line

GAPS = (1, 2, 4, 8)  # frames between source and target
GRID = (15, 20)  # rows and columns of the points of a source that are followed
AGREES = 0.02  # metres between the depth that a point should have in the target and the depth that is measured there
LEAST_POINTS = 8
LAYOUTS = ("7scenes", "scannet")


@dataclass(frozen=True)
class Frame:
    """Files of a frame, and its pose: colour, depth in millimetres, and the camera in the world (4, 4), in metres."""

    colour: Path
    depth: Path
    pose: Points


def rgbd_pairs(folder: Path, layout: str, get: str) -> list[Pair]:
    """Pairs of each video below `folder`, by the number of frames between them, which is their group.

    A grid of points of the source with a measured depth is projected into the target; those whose depth there agrees
    within 2 cm are kept, and pairs with at least eight of them.

    Raises:
        DataError: no video; a file that is missing or does not fit.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: expected one folder for each RGB-D video, or one video; {get}")
    videos = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    read = [(frames, _intrinsics(video, layout)) for video in videos if (frames := _frames(video, layout))]
    if not read:
        raise DataError(f"no RGB-D video in {folder}: expected {layout}'s files; {get}")
    pairs = [pair for frames, camera in read for pair in _of_video(frames, camera)]
    if not pairs:
        raise DataError(f"{folder}: no two frames have {LEAST_POINTS} points in common whose depths agree")
    return pairs


def _frames(video: Path, layout: str) -> list[Frame]:
    pattern = "frame-*.color.*" if layout == "7scenes" else "color/*"
    frames = []
    for colour in sorted(video.glob(pattern), key=lambda path: int((re.findall(r"\d+", path.name) or ["0"])[0])):
        stem = colour.name.split(".")[0]
        depth, pose = (
            (video / f"{stem}.depth.png", video / f"{stem}.pose.txt")
            if layout == "7scenes"
            else (video / "depth" / f"{stem}.png", video / "pose" / f"{stem}.txt")
        )
        matrix = _matrix(pose, (4, 4))
        if np.isfinite(matrix).all():  # ScanNet marks frames without a pose by infinities
            frames.append(Frame(colour, depth, matrix))
    return frames


def _intrinsics(video: Path, layout: str) -> Points:
    """Camera matrix (3, 3) of the depth maps, in pixels."""
    if layout == "scannet":
        return _matrix(video / "intrinsic" / "intrinsic_depth.txt", (4, 4))[:3, :3]
    return _matrix(video / "camera-intrinsics.txt", (3, 3))


def _matrix(file: Path, shape: tuple[int, int]) -> Points:
    try:
        values = np.loadtxt(file, dtype=np.float64)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not a matrix of numbers ({one_line(error)})") from None
    if values.shape != shape:
        raise DataError(f"{file}: a matrix of {values.shape}, expected {shape}")
    return values


def _of_video(frames: list[Frame], camera: Points) -> Iterator[Pair]:
    @lru_cache(maxsize=max(GAPS) + 1)
    def metres(index: int) -> npt.NDArray[np.float64]:
        file = str(frames[index].depth)
        return decode(file, f"depth map {file}", lambda image: np.asarray(image, np.float64) / 1000)

    for gap in GAPS:
        for index in range(len(frames) - gap):
            source, target = frames[index], frames[index + gap]
            points = corresponding(metres(index), metres(index + gap), camera, source.pose, target.pose)
            if points.shape[1] >= LEAST_POINTS:
                yield _in_colour(source, target, points, metres(index).shape, gap)


def corresponding(source: Points, target: Points, camera: Points, source_pose: Points, target_pose: Points) -> Points:
    """Points (2, N, 2) that correspond, x and y in pixels of the depth maps.

    Args:
        source, target: depth (H, W) in metres, 0 where there is none.
        camera: (3, 3), in pixels, a pixel's middle at half a pixel.
        source_pose, target_pose: (4, 4), from the camera (x right, y down, z forward) to the world.
    """
    height, width = source.shape
    rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(GRID, source.shape, strict=True))
    x, y = (part.ravel() for part in np.meshgrid(columns, rows))
    z = source[y, x]
    places = np.stack([x + 0.5, y + 0.5], axis=1)
    rays = np.concatenate([places, np.ones((len(places), 1))], axis=1) @ np.linalg.inv(camera).T
    moved = np.linalg.inv(target_pose) @ source_pose
    there = (rays * z[:, None]) @ moved[:3, :3].T + moved[:3, 3]
    ahead = (z > 0) & (there[:, 2] > 1e-6)
    projected = there[ahead] @ camera.T
    reached = projected[:, :2] / projected[:, 2:]
    inside = (reached >= 0).all(axis=1) & (reached < [width, height]).all(axis=1)
    column, row = reached[inside].astype(int).T
    seen = np.abs(target[row, column] - there[ahead][inside, 2]) <= AGREES
    return np.stack([places[ahead][inside][seen], reached[inside][seen]])


def _in_colour(source: Frame, target: Frame, points: Points, shape: tuple[int, ...], gap: int) -> Pair:
    """The pair with points in pixels of the colour images, which may be larger than the depth maps."""
    sizes = [np.array(open_image(str(frame.colour)).size, np.float64) for frame in (source, target)]
    scaled = points * np.array([size / [shape[1], shape[0]] for size in sizes])[:, None]
    box = np.array([0, 0, *sizes[1]], np.float64)
    plural = "" if gap == 1 else "s"
    return Pair((str(source.colour), str(target.colour)), scaled, box, f"{gap} frame{plural} later")
