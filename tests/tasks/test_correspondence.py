"""Keypoints that are matched on features whose matches are known: PCK, its ceiling, floors, outliers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from regvit_lightning import settings
from regvit_lightning.data.image_sets import KeypointSet
from regvit_lightning.data.keypoint_pair import Pair, Space
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models.foreign import ForeignBackbone
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks import correspondence
from regvit_lightning.tasks.correspondence import centres, match, right, sampled
from tests.data.test_keypoints import write_own

PATCH, SIDE = 4, 32
GRID = SIDE // PATCH
SIZES = torch.tensor([[80.0, 40.0], [40.0, 80.0]], dtype=torch.float64)


class Pixels(nn.Module):
    """Patches are the pixels of the image, from -0.5 to 0.5."""

    image_size, mean, std, any_size = SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), True

    def forward(self, images):
        height, width = images.shape[-2:]
        cells = nn.functional.unfold(images - 0.5, PATCH, stride=PATCH).transpose(1, 2)
        patches = cells.unflatten(1, (height // PATCH, width // PATCH))
        return {"cls": patches.mean(dim=(1, 2)), "patches": patches}


def pair(source, target, box=(0, 0, 40, 20)):
    return Pair(("a", "b"), np.array([source, target], np.float64), np.array(box, np.float64), "g")


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def middle(row, column, size):
    return ((column + 0.5) * float(size[0]) / GRID, (row + 0.5) * float(size[1]) / GRID)


@pytest.mark.parametrize("shift", [(0, 0), (2, 3), (-1, 4)])
def test_features_that_are_shifted_by_whole_patches_are_matched_exactly(shift):
    features = unit(GRID, GRID, 64)
    both = torch.stack([features, features.roll(shift, dims=(0, 1))])
    cells = [(2, 3), (5, 1), (3, 3)]
    moved = [((row + shift[0]) % GRID, (column + shift[1]) % GRID) for row, column in cells]
    own = pair([middle(*cell, SIZES[0]) for cell in cells], [middle(*cell, SIZES[1]) for cell in moved])
    found = match(own, both, torch.ones(2, GRID, GRID), SIZES)
    torch.testing.assert_close(found.points, torch.from_numpy(own.points[1]))
    torch.testing.assert_close(found.best, found.points)
    assert right(own, found.points, 0.001).all()


def test_the_ceiling_is_the_nearest_patch():
    own = pair([(1, 1)], [(12.4, 33.0)])  # patches of 5 × 10 px: middles at x 12.5 and y 35
    found = match(own, unit(2, GRID, GRID, 8), torch.ones(2, GRID, GRID), SIZES)
    assert found.best.tolist() == [[12.5, 35.0]]


def test_features_are_sampled_between_the_middles_of_patches():
    features = torch.arange(4.0).view(2, 2, 1)
    places = torch.tensor([[0.25, 0.25], [0.5, 0.25], [0.5, 0.5], [0.75, 0.5], [0.0, 0.0], [1.0, 1.0]])
    assert sampled(features, places.double())[:, 0].tolist() == [0, 0.5, 1.5, 2, 0, 3]


def test_middles_are_row_major():
    assert centres(2, 4)[[0, 1, 4]].tolist() == [[0.125, 0.25], [0.375, 0.25], [0.125, 0.75]]


def test_a_match_is_right_within_a_share_of_the_longer_side():
    own = pair([(0, 0)] * 3, [(10, 10)] * 3, box=(5, 5, 45, 15))
    points = torch.tensor([[14.0, 10.0], [10.0, 14.1], [13.0, 12.0]], dtype=torch.float64)
    assert right(own, points, chosen().reach(own, 0.1)).tolist() == [True, False, True]  # 4 px


def test_matches_that_are_outliers_are_counted():
    features = unit(2, GRID, GRID, 64)
    features[1] = features[0]
    norms = torch.linspace(0.9, 1.1, 2 * GRID * GRID).view(2, GRID, GRID).clone()
    norms[1, 2, 3], norms[0, 0, 0] = 50.0, 60.0
    cells = [(2, 3), (2, 3), (5, 5)]
    own = pair([middle(*cell, SIZES[0]) for cell in cells], [(1, 1)] * 3)
    found = match(own, features, norms, SIZES)
    assert (found.outliers, found.share) == (2, 2 / 128)


def chosen(*words):
    return settings.load_settings("tasks", "spair71k", "mini", words)[1]


def noise(root, name, seed, shift=0):
    values = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(np.roll(values, shift, axis=1)).save(root / "cups" / name)


def run(data, *words):
    given = (f"side={SIDE}", "workers=0", "images=cups", *words)
    chosen = settings.load_settings("tasks", "spair71k", "mini", given)[1]
    return correspondence.run(ForeignBackbone(Pixels(), "pixels"), data, chosen, RunOptions())


def write_shifted(root):
    """Two cups, the second shifted by two patches, and two pots of unrelated noise."""
    (root / "cups").mkdir()
    for name, seed, shift in (("a.png", 0, 0), ("b.png", 0, 2 * PATCH), ("c.png", 1, 0), ("d.png", 2, 0)):
        noise(root, name, seed, shift)
    at = {"rim": [6, 10], "foot": [14, 26]}
    images = [
        {"file": "a.png", "group": "cup", "keypoints": at, "box": [0, 0, 20, 10]},
        {
            "file": "b.png",
            "group": "cup",
            "keypoints": {n: [x + 8, y] for n, (x, y) in at.items()},
            "box": [0, 0, 20, 10],
        },
        {"file": "c.png", "group": "pot", "keypoints": at, "box": [0, 0, 0.1, 0.1]},
        {"file": "d.png", "group": "pot", "keypoints": at, "box": [0, 0, 0.1, 0.1]},
    ]
    return write_own(root, images)


def test_the_whole_task_on_images_that_are_shifted(tmp_path):
    outcome = run(write_shifted(tmp_path))
    assert outcome.per_class["cup"] == 100
    assert outcome.metrics["pck"] == pytest.approx((100 * 4 + outcome.per_class["pot"] * 4) / 8)
    assert outcome.metrics["pck_grid_ceiling"] == 100  # the keypoints are the middles of patches
    assert outcome.floors["the same place in the image"]["pck"] == 50  # 8 px beside for cups, exact for pots
    assert outcome.scores["pck"].shape == (4, 2)
    assert outcome.images == 4
    assert outcome.protocol["pairs_chosen"] == "4 of 4, 8 keypoints"
    assert "of the output" in outcome.protocol["outliers"]
    assert len(outcome.picture.axes) == 6


def test_fewer_pairs_of_a_class_are_said(tmp_path):
    outcome = run(write_shifted(tmp_path), "pairs_per_class=1")
    assert (outcome.images, outcome.protocol["pairs_chosen"]) == (2, "2 of 4, 4 keypoints")


def test_the_same_share_twice_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"also=\[0\.1\]: near=0\.1 is there already"):
        run(write_shifted(tmp_path), "also=[0.1]")


def test_sides_are_whole_patches():
    chosen = settings.load_settings("tasks", "spair71k")[1]
    assert [chosen.input_size(patch) for patch in (8, 14, 16)] == [800, 812, 800]


def test_ones_own_set_makes_its_task(tmp_path):
    chosen = settings.load_settings("tasks", "keypoints_cups")[1]
    assert (chosen.images, chosen.named_set, chosen.side) == ("cups", "cups", 800)
    data = DataSettings(name="own", root=str(tmp_path), keypoints={"cups": KeypointSet("cups", "points.json")})
    assert set(data.keypoints) == {"spair71k", "scannet", "cups"}


def test_rendered_objects_are_matched_below_the_ceiling(tiny):
    from pathlib import Path

    from regvit_lightning.models import sources

    backbone = sources.load_backbone("random-vitn_reg4", Path("runs"), image_size=64)
    words = ["workers=0", "side=96"]
    outcome = correspondence.run(backbone, tiny, settings.load_settings("tasks", "spair71k", "mini", words)[1])
    assert outcome.images == 32
    assert 0 <= outcome.metrics["pck"] < outcome.metrics["pck_grid_ceiling"] <= 100
    assert outcome.metrics["pck_0.05"] <= outcome.metrics["pck"] <= outcome.metrics["pck_0.15"]


def test_distances_are_pixels_where_the_setting_says_so():
    own = pair([(0, 0)] * 2, [(10, 10)] * 2)
    pixels = chosen("unit=pixels", "near=5", "also=[]")
    points = torch.tensor([[14.9, 10.0], [15.1, 10.0]], dtype=torch.float64)
    assert right(own, points, pixels.reach(own, pixels.near)).tolist() == [True, False]
    with pytest.raises(SettingsError, match="unit=metres: expected box or pixels"):
        chosen("unit=metres")


# ---------------------------------------------------------------------------------------------------------- in space

CAMERA = np.array([[100.0, 0, 40], [0, 100, 20], [0, 0, 1]])  # of 80 × 40 px
WALL = np.full((20, 40), 2.0)  # depth map at half of that size, 2 m away: a pixel of the file is 2 cm


def seen(shifts, angle, matched=None):
    """A pair of a wall whose points were matched so many pixels of the file beside, and what is known of the match."""
    there = [[0.0, 0.0, 2.0]] * len(shifts)
    half = CAMERA * [[0.5], [0.5], [1.0]]
    space = Space(np.array(there), lambda: WALL, half, angle)
    own = Pair(("a", "b"), np.array([[(40.0, 20.0)] * len(shifts)] * 2), np.array([0, 0, 80, 40.0]), "g", space)
    points = torch.tensor([(40.0 + shift, 20.0) for shift in shifts], dtype=torch.float64)
    best = torch.full_like(points, 20.0) + torch.tensor([21.0, 0.0])  # the nearest patch is 1 px beside
    return own, correspondence.Matched(points, best, 0, 0.0)


def in_space(centimetres, angles, *seen_pairs):
    pairs, matched = zip(*seen_pairs, strict=True)
    own = replace(chosen(), centimetres=centimetres, angles=angles)
    sizes = [torch.tensor([[80.0, 40.0]] * 2, dtype=torch.float64)] * len(pairs)
    return correspondence._in_space(SimpleNamespace(settings=own, pairs=pairs, matched=matched, sizes=sizes))


def test_recall_in_centimetres_by_hand():
    """Errors of 0, 2, 4 and 8 cm; the nearest patch is 2 cm beside."""
    found = in_space([1, 2.01, 5], [], seen([0, 1], 3.0), seen([2, 4], 20.0))
    assert found == pytest.approx(
        {
            "recall_1cm": 25,
            "recall_1cm_grid_ceiling": 0,
            "recall_2.01cm": 50,
            "recall_2.01cm_grid_ceiling": 100,
            "recall_5cm": 75,
            "recall_5cm_grid_ceiling": 100,
        }
    )


def test_pairs_are_told_apart_by_the_angle_of_the_cameras():
    """A bin has its lower end and not its upper one; points count the same, not pairs; empty bins are left out."""
    pairs = seen([0, 1], 0.0), seen([0] * 4, 14.9), seen([4], 15.0), seen([0], 90.0)
    found = in_space([1], [0, 15, 30, 60], *pairs)
    by_angle = {name: value for name, value in found.items() if "degrees" in name}
    assert by_angle == pytest.approx({"recall_1cm_0_to_15_degrees": 500 / 6, "recall_1cm_15_to_30_degrees": 0})
    own = replace(chosen(), angles=[0, 15, 30, 60])
    scores = {"pck": torch.tensor([[100.0, 2], [200, 4], [0, 1], [100, 1]], dtype=torch.float64)}
    of_pixels = correspondence._by_angle(own, [pair for pair, _ in pairs], scores)
    assert of_pixels == pytest.approx({"pck_0_to_15_degrees": 50, "pck_15_to_30_degrees": 0})


def write_wall(root, angles=(0, 0)):
    """Two frames of a wall 1 m away with noise on it, 32 px at a focal length of 32: 0.25 m to the side are 8 px."""
    folder = root / "cups"
    folder.mkdir()
    for number, shift in enumerate((0, -2 * PATCH)):
        noise(root, f"frame-{number:06d}.color.png", 0, shift)
        Image.fromarray(np.full((SIDE, SIDE), 1000, np.uint16)).save(folder / f"frame-{number:06d}.depth.png")
        pose = np.eye(4)
        pose[0, 3] = 0.25 * number
        np.savetxt(folder / f"frame-{number:06d}.pose.txt", pose)
    np.savetxt(folder / "camera-intrinsics.txt", [[SIDE, 0, SIDE / 2], [0, SIDE, SIDE / 2], [0, 0, 1]])
    return DataSettings(name="own", root=str(root), keypoints={"cups": KeypointSet("cups", frames="7scenes")})


def test_the_whole_task_on_a_planted_wall(tmp_path):
    """Patches of 4 px are 12.5 cm: the middle of the right one is at most 6.25 cm beside in x and y."""
    words = ("unit=pixels", "near=3", "also=[]", "centimetres=[1,9]", "angles=[0,15,30]")
    outcome = run(write_wall(tmp_path), *words)
    assert list(outcome.per_class) == ["1 frame later"]
    found = outcome.metrics
    assert found["pck"] == found["recall_9cm"] == found["recall_9cm_grid_ceiling"] == 100
    assert found["recall_1cm"] == found["recall_1cm_grid_ceiling"] < 50
    assert found["recall_9cm_0_to_15_degrees"] == found["pck_0_to_15_degrees"] == 100
    assert not [name for name in found if name.endswith("15_to_30_degrees")]
    titles = [text.get_text() for axes in outcome.picture.axes for text in (axes.title, axes._left_title, *axes.texts)]
    (title,) = {text for text in [*titles, *(one.get_text() for one in outcome.picture.texts)] if "PCK" in text}
    assert "; 40 of " in title


def test_centimetres_need_depth(tmp_path):
    with pytest.raises(SettingsError, match="images=cups: pairs without depth and poses, which centimetres and angles"):
        run(write_shifted(tmp_path), "centimetres=[1]")
    with pytest.raises(SettingsError, match=r"angles=\[30.0, 0.0\]: expected ascending degrees"):
        chosen("angles=[30,0]")


def test_rendered_scans_are_matched_by_geometry(tiny):
    own = settings.load_settings("tasks", "scannet_pairs", "mini", ["workers=0", "side=96", "pairs_per_class=2"])[1]
    outcome = correspondence.run(ForeignBackbone(Pixels(), "pixels"), tiny, own)
    assert list(outcome.per_class) == ["1 frame later", "2 frames later", "4 frames later", "8 frames later"]
    assert outcome.protocol["near"] == "within 6 px"
    assert outcome.metrics["pck_3"] <= outcome.metrics["pck"] <= outcome.metrics["pck_12"]
    assert outcome.metrics["pck"] < outcome.metrics["pck_grid_ceiling"]
    assert outcome.metrics["pck_grid_ceiling"] == pytest.approx(100)
