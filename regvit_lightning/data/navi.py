"""NAVI: photographs of objects with the camera of each and a depth map of the object alone, rendered from a scan of it.

`<object>/<scene>/{images/<name>.jpg, depth/<name>.png, annotations.json}`; a scene is `wild_set`, an object at several
places, or `multiview-…`, at one. Depth maps store 655,350 / depth in millimetres, 0 beside the object.

Source: Jampani et al. 2023 (NAVI, arXiv 2306.09109) and the reader that is published with it, google/navi.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regvit_lightning.data.headers import header
from regvit_lightning.data.keypoint_pair import Points, angle
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import one_line

SCENES = ("wild_set", "multiview*")
STORED = 655_350.0  # stored value × millimetres: 65,535 × 10
ANGLES = (0, 30, 60, 90, 120)  # degrees between two views, bounds of the groups, as in Probe3D


@dataclass(frozen=True, eq=False)
class Photograph:
    """Files of a photograph and its depth map, with the camera of the latter (3, 3) and its pose (4, 4) in metres."""

    colour: Path
    depth: Path
    camera: Points
    pose: Points


def metres(stored: npt.NDArray[np.float64]) -> Points:
    """Metres, of the stored values of a depth map; 0 beside the object."""
    return np.divide(STORED / 1000, stored, out=np.zeros_like(stored), where=stored > 0)


def scenes(folder: Path, get: str) -> Iterator[list[Photograph]]:
    """The photographs of each scene, in the order of their names.

    Raises:
        DataError: no scene, or annotations that do not fit.
    """
    found = sorted(file for scene in SCENES for file in folder.glob(f"*/{scene}/annotations.json"))
    if not found:
        raise DataError(f"no scene in {folder}: expected <object>/wild_set/annotations.json; {get}")
    for file in found:
        try:
            known = json.loads(file.read_bytes())
            yield [_photograph(file.parent, one) for one in sorted(known, key=lambda one: one["filename"])]
        except (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise DataError(f"{file}: not annotations of NAVI ({one_line(error)})") from None


def _photograph(scene: Path, known: dict[str, Any]) -> Photograph:
    name = Path(known["filename"]).name
    depth = scene / "depth" / f"{Path(name).stem}.png"
    camera, (height, width) = known["camera"], known["image_size"]
    pose: Points = np.linalg.inv(_of_object(camera["q"], camera["t"])).astype(np.float64)
    shown_width, shown_height = header(str(depth)).size
    focal = float(camera["focal_length"]) * shown_width / float(width)
    if not abs(shown_width / shown_height - width / height) < 0.02 * width / height or not focal > 0:
        raise ValueError(f"{name}: {width} × {height} px and focal length {focal:g}, its depth map another shape")
    matrix = np.array([[focal, 0, shown_width / 2], [0, focal, shown_height / 2], [0, 0, 1]])
    return Photograph(scene / "images" / name, depth, matrix, pose)


def _of_object(quaternion: Sequence[float], millimetres: Sequence[float]) -> Points:
    """From the object to the camera (x right, y down, z forward), (4, 4) in metres, of (w, x, y, z) and (x, y, z)."""
    from scipy.spatial.transform import Rotation

    w, x, y, z = map(float, quaternion)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat([x, y, z, w]).as_matrix()
    matrix[:3, 3] = np.array([float(one) for one in millimetres]) / 1000
    return matrix


def partners(poses: Sequence[Points]) -> Iterator[tuple[int, int, str]]:
    """For each view another one of its scene, and their group by the angle between them, such as `30 to 60°`.

    The groups take turns; in its group the view is taken whose angle is nearest to the middle. Where a view has none in
    the group that it is the turn of, the next group is tried.
    """
    bins = list(pairwise(ANGLES))
    for index, pose in enumerate(poses):
        angles = np.array([angle(pose, other) for other in poses])
        angles[index] = np.inf
        for turn in range(len(bins)):
            low, high = bins[(index + turn) % len(bins)]
            within = np.flatnonzero((angles >= low) & (angles < high))
            if len(within):
                partner = int(within[np.abs(angles[within] - (low + high) / 2).argmin()])
                yield index, partner, f"{low} to {high}°"
                break
