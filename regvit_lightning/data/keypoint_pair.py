"""A pair of images with points that correspond."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Space:
    """Where the points of a pair are in space, and how to find that of any other point of the target.

    Attributes:
        there: (N, 3) of the points of the source, seen from the target's camera: x to the right, y down, z forward, in
            metres.
        depth: reads the target's depth map (H, W) in metres, 0 where there is none.
        camera: (3, 3) of that map, in its pixels, a pixel's middle at half a pixel.
        angle: by which the camera turned from source to target, in degrees, 0..180.
    """

    there: Points
    depth: Callable[[], Points]
    camera: Points
    angle: float

    def errors(self, places: Points) -> Points:
        """Distances (N,) in metres of the points from where they should be; infinite where no depth is measured.

        Args:
            places: (N, 2), x and y in 0..1 of the target image.
        """
        depth = self.depth()
        reached = places * depth.shape[::-1]
        column, row = np.minimum(reached.astype(int), np.array(depth.shape[::-1]) - 1).T
        z = depth[row, column]
        found = _rays(reached, self.camera) * z[:, None]
        return np.where(z > 0, np.linalg.norm(found - self.there, axis=1), np.inf)


def _rays(places: Points, camera: Points) -> Points:
    """Points (N, 3) of depth 1 that are seen at `places` (N, 2)."""
    return np.concatenate([places, np.ones((len(places), 1))], axis=1) @ np.linalg.inv(camera).T


@dataclass(frozen=True, eq=False)
class View:
    """What a camera sees.

    Attributes:
        depth: (H, W) in metres, 0 where there is none.
        camera: (3, 3), in pixels of the depth map, a pixel's middle at half a pixel.
        pose: (4, 4), from the camera (x right, y down, z forward) to the world, in metres.
    """

    depth: Points
    camera: Points
    pose: Points

    def lifted(self, places: Points, world: Points) -> tuple[Points, npt.NDArray[np.bool_]]:
        """Places (N, 2) in pixels as points (N, 3) of a camera with the pose `world`, and which have a depth."""
        column, row = places.astype(int).T
        z = self.depth[row, column]
        moved = np.linalg.inv(world) @ self.pose
        return (_rays(places, self.camera) * z[:, None]) @ moved[:3, :3].T + moved[:3, 3], z > 0


def angle(first: Points, second: Points) -> float:
    """Angle in degrees, 0..180, between the orientations of two poses (4, 4)."""
    turned = first[:3, :3].T @ second[:3, :3]
    return float(np.degrees(np.arccos(np.clip((np.trace(turned) - 1) / 2, -1, 1))))


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images with N keypoints that correspond.

    Attributes:
        files: paths of the source and the target.
        points: (2, N, 2), x and y of the keypoints in pixels of the files.
        box: (4,), x1, y1, x2, y2 of the object in the target.
        group: name of the class.
        space: where the points are in space; None where that is not known.
    """

    files: tuple[str, str]
    points: Points
    box: Points
    group: str
    space: Space | None = None

    @property
    def side(self) -> float:
        """Longer side of the target's box, in pixels."""
        return float(max(self.box[2:] - self.box[:2]))
