"""Pairs of frames with depth and poses, whose points correspond by geometry: 7-Scenes', ScanNet's, NAVI's layouts."""

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from regvit_lightning.data import navi
from regvit_lightning.data.images import decode, open_image
from regvit_lightning.data.keypoint_pair import Pair, Points, Space, View, angle
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import one_line

GAPS = (1, 2, 4, 8)  # frames between source and target
GRID = (15, 20)  # rows and columns of the points of a source that are followed
AGREES = 0.02  # metres between the depth that a point should have in the target and the depth that is measured there
AGREES_OF_NAVI = 0.005  # metres; its depth is rendered from a scan of the object
LEAST_POINTS = 8
MOST_UNLIKE = 0.1  # of the determinant of a rotation and 1


@dataclass(frozen=True, eq=False)
class Frame:
    """Files of a frame, and its camera.

    Attributes:
        colour, depth: files.
        camera: (3, 3), in pixels of the depth map.
        pose: (4, 4), the camera in the world, in metres.
        metres: from stored values of the depth map to metres.
    """

    colour: Path
    depth: Path
    camera: Points
    pose: Points
    metres: Callable[[npt.NDArray[np.float64]], Points]

    def read(self) -> Points:
        """The depth map (H, W) in metres."""
        file = str(self.depth)
        return decode(file, f"depth map {file}", lambda image: self.metres(_one_channel(image)))


def _one_channel(image: Image.Image) -> npt.NDArray[np.float64]:
    channels = len(image.getbands())
    if channels != 1:
        raise ValueError(f"it has {channels} channels, where one holds the depth; save it as grey of 16 bits")
    return np.asarray(image, np.float64)


def from_millimetres(stored: npt.NDArray[np.float64]) -> Points:
    """Metres, of a depth map that stores millimetres."""
    return stored / 1000


def rgbd_pairs(folder: Path, layout: str, get: str) -> list[Pair]:
    """Pairs of frames below `folder`, in groups: of videos the number of frames between them, of NAVI the angle.

    A grid of points of the source with a measured depth is projected into the target; those whose depth there agrees
    are kept, and pairs with at least eight of them.

    Raises:
        DataError: no frame; a file that is missing or does not fit.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: expected one folder for each RGB-D video, or one video; {get}")
    if layout == "navi":
        pairs = list(_of_navi(folder, get))
    else:
        videos = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
        read = [frames for video in videos if (frames := _frames(video, layout))]
        if not read:
            raise DataError(f"no RGB-D video in {folder}: expected {layout}'s files; {get}")
        pairs = [pair for frames in read for pair in _of_video(frames)]
    if not pairs:
        raise DataError(f"{folder}: no two frames have {LEAST_POINTS} points in common whose depths agree")
    return pairs


# ----------------------------------------------------------------------------------------------------------- videos


def _frames(video: Path, layout: str) -> list[Frame]:
    colours = sorted(
        video.glob("frame-*.color.*" if layout == "7scenes" else "color/*"),
        key=lambda path: int((re.findall(r"\d+", path.name) or ["0"])[0]),
    )
    camera = _intrinsics(video, layout) if colours else np.eye(3)
    frames = []
    for colour in colours:
        stem = colour.name.split(".")[0]
        depth, pose = (
            (video / f"{stem}.depth.png", video / f"{stem}.pose.txt")
            if layout == "7scenes"
            else (video / "depth" / f"{stem}.png", video / "pose" / f"{stem}.txt")
        )
        matrix = _matrix(pose, (4, 4))
        if np.isfinite(matrix).all():  # ScanNet marks frames without a pose by infinities
            _check_turns(matrix, pose)
            frames.append(Frame(colour, depth, camera, matrix, from_millimetres))
    return frames


def _check_turns(pose: Points, file: Path) -> None:
    """Raise `DataError` unless a pose turns and moves, without a change of size."""
    volume = float(np.linalg.det(pose[:3, :3]))
    if abs(volume - 1) > MOST_UNLIKE:
        raise DataError(f"{file}: no pose of a camera: the determinant of its rotation is {volume:.3g}, not 1")


def _intrinsics(video: Path, layout: str) -> Points:
    """Camera matrix (3, 3) of the depth maps, in pixels."""
    name, side = ("intrinsic/intrinsic_depth.txt", 4) if layout == "scannet" else ("camera-intrinsics.txt", 3)
    matrix = _matrix(video / name, (side, side))[:3, :3]
    if not (np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0 and matrix[2, 2] == 1):
        expected = "expected focal lengths above 0 in the first two places of the diagonal and 1 in the third"
        raise DataError(f"{video / name}: no camera matrix in pixels: {expected}")
    return matrix


def _matrix(file: Path, shape: tuple[int, int]) -> Points:
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):  # of an empty file
            values = np.loadtxt(file, dtype=np.float64)
    except (OSError, ValueError, UserWarning) as error:
        raise DataError(f"{file}: not a matrix of numbers ({one_line(error)})") from None
    if values.shape != shape:
        raise DataError(f"{file}: a matrix of {values.shape}, expected {shape}")
    return values


def _of_video(frames: list[Frame]) -> Iterator[Pair]:
    @lru_cache(maxsize=max(GAPS) + 1)
    def metres(index: int) -> Points:
        return frames[index].read()

    for gap in GAPS:
        group = f"{gap} frame{'' if gap == 1 else 's'} later"
        for index in range(len(frames) - gap):
            depths = metres(index), metres(index + gap)
            pair = _pair(frames[index], frames[index + gap], depths, group, AGREES)
            if pair is not None:
                yield pair


# ------------------------------------------------------------------------------------------------------------- NAVI


def _of_navi(folder: Path, get: str) -> Iterator[Pair]:
    """One pair for each image of each scene, see `navi.partners`."""
    for images in navi.scenes(folder, get):
        frames = [Frame(one.colour, one.depth, one.camera, one.pose, navi.metres) for one in images]
        for source, target, group in navi.partners([one.pose for one in images]):
            depths = frames[source].read(), frames[target].read()
            pair = _pair(frames[source], frames[target], depths, group, AGREES_OF_NAVI, of_object=True)
            if pair is not None:
                yield pair


# --------------------------------------------------------------------------------------------------------- geometry


def corresponding(source: View, target: View, agrees: float = AGREES, of_object: bool = False) -> tuple[Points, Points]:
    """Points (2, N, 2) that correspond, x and y in pixels of the depth maps, and where they are for the target (N, 3).

    Args:
        source, target: the two views.
        agrees: metres that the depth of a point and that measured in the target may differ by.
        of_object: the grid of points spans what has a depth in the source, not its whole frame.
    """
    places = _grid(source.depth, of_object)
    there, measured = source.lifted(places, target.pose)
    ahead = measured & (there[:, 2] > 1e-6)
    projected = there[ahead] @ target.camera.T
    reached = projected[:, :2] / projected[:, 2:]
    height, width = target.depth.shape
    inside = (reached >= 0).all(axis=1) & (reached < [width, height]).all(axis=1)
    column, row = reached[inside].astype(int).T
    seen = np.abs(target.depth[row, column] - there[ahead][inside, 2]) <= agrees
    return np.stack([places[ahead][inside][seen], reached[inside][seen]]), there[ahead][inside][seen]


def _grid(depth: Points, of_object: bool) -> Points:
    """Middles of pixels (N, 2), x and y, evenly spread over a depth map, or over the extent of what it measures."""
    ends = [(0, side) for side in depth.shape]
    if of_object:
        known = [np.flatnonzero((depth > 0).any(axis=axis)) for axis in (1, 0)]
        ends = [(int(one[0]), int(one[-1]) + 1) for one in known] if all(map(len, known)) else ends
    rows, columns = (
        low + ((np.arange(n) + 0.5) * (high - low) / n).astype(int) for n, (low, high) in zip(GRID, ends, strict=True)
    )
    x, y = (part.ravel() for part in np.meshgrid(columns, rows))
    return np.stack([x + 0.5, y + 0.5], axis=1)


def _pair(
    source: Frame, target: Frame, depths: tuple[Points, Points], group: str, agrees: float, of_object: bool = False
) -> Pair | None:
    """The pair with points in pixels of the colour images; None with fewer than `LEAST_POINTS` of them."""
    first, second = (View(depth, one.camera, one.pose) for one, depth in zip((source, target), depths, strict=True))
    points, there = corresponding(first, second, agrees, of_object)
    if points.shape[1] < LEAST_POINTS:
        return None
    scales = [_scale(frame, depth) for frame, depth in zip((source, target), depths, strict=True)]
    box = _extent(depths[1], of_object) * np.tile(scales[1], 2)
    space = Space(there, partial(target.read), target.camera, angle(source.pose, target.pose))
    return Pair((str(source.colour), str(target.colour)), points * np.array(scales)[:, None], box, group, space)


def _scale(frame: Frame, depth: Points) -> Points:
    """Pixels (2,) of the colour image in one of the depth map, in x and y."""
    size = np.array(open_image(str(frame.colour)).size, np.float64)
    scale = size / depth.shape[::-1]
    if not 0.98 < scale[0] / scale[1] < 1.02:
        shapes = f"is {size[0]:.0f} × {size[1]:.0f} px, its depth map {depth.shape[1]} × {depth.shape[0]}"
        raise DataError(f"{frame.colour} {shapes}: not of one shape; turn its pixels for good or restore it")
    return scale


def _extent(depth: Points, of_object: bool) -> Points:
    """Left, top, right, bottom (4,) of the frame, or of what is measured in it."""
    if not of_object:
        return np.array([0, 0, *depth.shape[::-1]], np.float64)
    rows, columns = (np.flatnonzero((depth > 0).any(axis=axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
