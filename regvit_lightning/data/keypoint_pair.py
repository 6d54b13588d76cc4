"""A pair of images with points that correspond."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images with N keypoints that correspond.

    Attributes:
        files: paths of the source and the target.
        points: (2, N, 2), x and y of the keypoints in pixels of the files.
        box: (4,), x1, y1, x2, y2 of the object in the target.
        group: name of the class.
    """

    files: tuple[str, str]
    points: Points
    box: Points
    group: str

    @property
    def side(self) -> float:
        """Longer side of the target's box, in pixels."""
        return float(max(self.box[2:] - self.box[:2]))
