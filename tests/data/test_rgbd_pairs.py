"""Points that correspond by geometry: closed forms, rendered scans, a real video, and files that do not fit."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from regvit_lightning.data.image_sets import KeypointSet
from regvit_lightning.data.keypoint_pair import Space, View, angle
from regvit_lightning.data.keypoints import keypoint_pairs
from regvit_lightning.data.layout import DataError
from regvit_lightning.data.rgbd_pairs import GAPS, corresponding, rgbd_pairs
from regvit_lightning.settings import SettingsError

CAMERA = np.array([[100.0, 0, 80], [0, 100, 60], [0, 0, 1]])
KITCHEN = Path(__file__).resolve().parents[3] / "shared" / "data" / "rgbd_kitchen"


def at(x=0.0, y=0.0, z=0.0):
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return pose


def follow(source, target, source_pose, target_pose):
    """Points of two depth maps of one camera that correspond."""
    return corresponding(View(source, CAMERA, source_pose), View(target, CAMERA, target_pose))[0]


def test_a_wall_moves_against_the_camera_by_focal_length_over_distance():
    wall = np.full((120, 160), 2.0)
    source, target = follow(wall, wall, at(), at(x=0.3))
    np.testing.assert_allclose(target - source, np.broadcast_to([-15, 0], source.shape), atol=1e-9)
    assert (source[:, 0] >= 15).all()  # what leaves the frame is left out
    assert len(source) < 300


def test_a_wall_that_comes_nearer_grows_about_the_principal_point():
    source, target = follow(np.full((120, 160), 2.0), np.full((120, 160), 1.6), at(), at(z=0.4))
    np.testing.assert_allclose(target - [80, 60], (source - [80, 60]) * 2 / 1.6, atol=1e-9)


def test_a_camera_that_turns_sees_the_points_turned():
    wall, quarter = np.full((120, 160), 2.0), np.eye(4)
    quarter[:2, :2] = [[0, -1], [1, 0]]  # about the optical axis
    source, target = follow(wall, wall, at(), quarter)
    x, y = (source - [80, 60]).T
    np.testing.assert_allclose(target - [80, 60], np.stack([y, -x], axis=1), atol=1e-9)


def test_points_that_are_hidden_or_without_a_depth_are_left_out():
    wall = np.full((120, 160), 2.0)
    hidden, unmeasured = wall.copy(), wall.copy()
    hidden[:, :80], unmeasured[:60] = 1.0, 0.0
    assert (follow(wall, hidden, at(), at())[0][:, 0] > 80).all()
    assert (follow(unmeasured, wall, at(), at())[0][:, 1] > 60).all()
    assert follow(wall, wall + 0.03, at(), at()).shape == (2, 0, 2)
    assert follow(wall, wall + 0.01, at(), at()).shape == (2, 300, 2)
    assert follow(wall, wall, at(), at(z=3.0)).shape == (2, 0, 2)  # behind the camera


# ---------------------------------------------------------------------------------------------------------- in space


def test_points_are_where_the_target_sees_them():
    """A wall 2 m away, from a camera 0.3 m to the right: x = 2 (u - 80) / 100 - 0.3, y = 2 (v - 60) / 100, z = 2."""
    wall = np.full((120, 160), 2.0)
    points, there = corresponding(View(wall, CAMERA, at()), View(wall, CAMERA, at(x=0.3)))
    u, v = points[0].T
    np.testing.assert_allclose(there, np.stack([2 * (u - 80) / 100 - 0.3, 2 * (v - 60) / 100, 2 + 0 * u], axis=1))


def test_two_cameras_need_not_be_one():
    """The target's focal length is twice the source's: points are twice as far from the middle."""
    wall, twice = np.full((120, 160), 2.0), CAMERA * [[2], [2], [1]] - [[0, 0, 80], [0, 0, 60], [0, 0, 0]]
    source, target = corresponding(View(wall, CAMERA, at()), View(wall, twice, at()))[0]
    np.testing.assert_allclose(target - [80, 60], 2 * (source - [80, 60]), atol=1e-9)


def test_points_of_an_object_lie_on_it():
    """A grid over the extent of what has a depth, whatever is around it."""
    small = np.zeros((120, 160))
    small[30:50, 100:120] = 1.0
    view = View(small, CAMERA, at())
    everywhere, of_object = (corresponding(view, view, of_object=one)[0][0] for one in (False, True))
    assert of_object.shape == (300, 2)
    assert len(everywhere) < 15
    assert of_object.min(axis=0).tolist() == [100.5, 30.5]
    assert (of_object.max(axis=0) < [120, 50]).all()


def space(depth, there, camera=CAMERA):
    return Space(np.array(there, float), lambda: depth, camera, 0.0)


def test_an_error_on_a_wall_is_pixels_times_distance_over_focal_length():
    """Points at the principal point, 2 m away, that were matched 0, 3 and 4 px beside: 0, 6 and 8 cm; both: 10 cm."""
    own = space(np.full((120, 160), 2.0), [[0, 0, 2]] * 4)
    places = np.array([[80, 60], [83, 60], [80, 64], [83, 64]]) / [160, 120]
    np.testing.assert_allclose(own.errors(places), [0, 0.06, 0.08, 0.10], atol=1e-12)


def test_an_error_on_a_ramp_counts_its_depth():
    """Depth grows by 1 cm a column from 2 m on: 5 columns beside, at x = 0.05 × 2.05 m, it is 5 cm further away."""
    ramp = np.broadcast_to(2.0 + 0.01 * (np.arange(160) - 80), (120, 160))
    found = space(ramp, [[0.005 * 2.0, 0.005 * 2.0, 2.0]]).errors(np.array([[85.5, 60.5]]) / [160, 120])
    meant = np.array([0.055, 0.005, 1]) * 2.05 - np.array([0.01, 0.01, 2.0])
    np.testing.assert_allclose(found, np.linalg.norm(meant), atol=1e-12)


def test_a_match_without_a_depth_is_infinitely_wrong():
    hole = np.full((120, 160), 2.0)
    hole[:, :80] = 0
    found = space(hole, [[0, 0, 2]] * 3).errors(np.array([[0.4, 0.5], [0.5, 0.5], [1.0, 1.0]]))
    assert found[0] == np.inf
    assert found[1] == 0
    assert np.isfinite(found[2])  # the last pixel, not one beyond it


@given(st.tuples(*[st.floats(-3, 3)] * 6))
def test_the_angle_between_two_poses_is_scipys(vectors):
    first, second = (Rotation.from_rotvec(vectors[start : start + 3]) for start in (0, 3))
    poses = [np.eye(4), np.eye(4)]
    for pose, one in zip(poses, (first, second), strict=True):
        pose[:3, :3], pose[:3, 3] = one.as_matrix(), [1, 2, 3]
    assert angle(*poses) == pytest.approx(np.degrees((first.inv() * second).magnitude()), abs=1e-4)


def test_a_pair_knows_its_points_in_space_and_how_far_the_camera_turned(tmp_path):
    write(tmp_path, 2)
    turned = at(x=0.1)
    turned[:3, :3] = Rotation.from_euler("z", 20, degrees=True).as_matrix()
    np.savetxt(tmp_path / "frame-000001.pose.txt", turned)
    (pair,) = rgbd_pairs(tmp_path, "7scenes", "")
    assert pair.space.angle == pytest.approx(20)
    np.testing.assert_allclose(pair.space.errors(pair.points[1] / [160, 120]), 0, atol=1e-9)
    beside = pair.space.errors((pair.points[1] + [1, 0]) / [160, 120])
    inside = pair.points[1][:, 0] < 158
    np.testing.assert_allclose(beside[inside], 0.02, atol=1e-9)  # 1 px × 2 m / 100 px


def test_a_picture_of_another_shape_than_its_depth_is_told(tmp_path):
    write(tmp_path, 2, colour=(120, 160))
    with pytest.raises(DataError, match=r"is 120 × 160 px, its depth map 160 × 120: not of one shape"):
        rgbd_pairs(tmp_path, "7scenes", "")


# ------------------------------------------------------------------------------------------------------------ videos


def write(root, frames=3, layout="7scenes", size=(160, 120), colour=(160, 120)):
    for number in range(frames):
        stem = f"frame-{number:06d}."
        names = [f"{stem}color.jpg", f"{stem}depth.png", f"{stem}pose.txt"]
        if layout == "scannet":
            names = [f"color/{number}.jpg", f"depth/{number}.png", f"pose/{number}.txt"]
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", colour).save(root / names[0])
        Image.fromarray(np.full(size[::-1], 2000, np.uint16)).save(root / names[1])
        np.savetxt(root / names[2], at(x=0.1 * number))
    if layout == "7scenes":
        np.savetxt(root / "camera-intrinsics.txt", CAMERA)
    else:
        (root / "intrinsic").mkdir(exist_ok=True)
        whole = np.eye(4)
        whole[:3, :3] = CAMERA
        np.savetxt(root / "intrinsic" / "intrinsic_depth.txt", whole)


def test_pairs_are_1_2_4_and_8_frames_apart(tmp_path):
    write(tmp_path, 5)
    pairs = rgbd_pairs(tmp_path, "7scenes", "")
    assert [pair.group for pair in pairs] == ["1 frame later"] * 4 + ["2 frames later"] * 3 + ["4 frames later"]
    np.testing.assert_allclose(
        pairs[-1].points[1] - pairs[-1].points[0], [[-20, 0]] * pairs[-1].points.shape[1], atol=1e-9
    )
    assert pairs[0].box.tolist() == [0, 0, 160, 120]


def test_scannet_has_a_folder_a_scene_and_colours_of_another_size(tmp_path):
    write(tmp_path / "scene0000_00", 2, "scannet", colour=(320, 240))
    write(tmp_path / "scene0001_00", 2, "scannet", colour=(320, 240))
    pairs = rgbd_pairs(tmp_path, "scannet", "")
    assert len(pairs) == 2
    np.testing.assert_allclose(
        pairs[0].points[1] - pairs[0].points[0], [[-10, 0]] * pairs[0].points.shape[1], atol=1e-9
    )
    assert pairs[0].box.tolist() == [0, 0, 320, 240]


def test_frames_without_a_pose_are_left_out(tmp_path):
    write(tmp_path / "s", 3, "scannet")
    (tmp_path / "s" / "pose" / "1.txt").write_text("-inf -inf -inf -inf\n" * 4)
    assert [pair.group for pair in rgbd_pairs(tmp_path, "scannet", "")] == ["1 frame later"]


def test_what_does_not_fit_is_told(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        rgbd_pairs(tmp_path / "nothing", "7scenes", "")
    with pytest.raises(DataError, match="no RGB-D video"):
        rgbd_pairs(tmp_path, "7scenes", "")
    write(tmp_path)
    (tmp_path / "frame-000001.pose.txt").write_text("1 2 3\n")
    with pytest.raises(DataError, match=r"pose\.txt: a matrix of \(3,\), expected \(4, 4\)"):
        rgbd_pairs(tmp_path, "7scenes", "")
    write(tmp_path)
    (tmp_path / "camera-intrinsics.txt").unlink()
    with pytest.raises(DataError, match=r"camera-intrinsics\.txt: not a matrix of numbers"):
        rgbd_pairs(tmp_path, "7scenes", "")
    write(tmp_path, 1)
    for number in (1, 2):
        (tmp_path / f"frame-{number:06d}.color.jpg").unlink()
    with pytest.raises(DataError, match="no two frames have 8 points in common"):
        rgbd_pairs(tmp_path, "7scenes", "")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("camera-intrinsics.txt", "0 0 0\n" * 3, "no camera matrix in pixels: expected focal lengths above 0"),
        ("camera-intrinsics.txt", "nan 0 80\n0 100 60\n0 0 1\n", "no camera matrix in pixels"),
        ("frame-000001.pose.txt", "0 0 0 0\n" * 4, "the determinant of its rotation is 0, not 1"),
        (
            "frame-000001.pose.txt",
            "2 0 0 0\n0 2 0 0\n0 0 2 0\n0 0 0 1\n",
            "the determinant of its rotation is 8, not 1",
        ),
        ("frame-000001.pose.txt", "", r"a matrix|no data"),
    ],
)
def test_numbers_that_are_no_camera_are_told_in_one_line(tmp_path, recwarn, name, content, told):
    write(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name}: .*({told})"):
        rgbd_pairs(tmp_path, "7scenes", "")
    assert not recwarn.list


def test_a_depth_map_of_three_channels_is_told(tmp_path):
    write(tmp_path)
    Image.new("RGB", (160, 120), (200, 200, 200)).save(tmp_path / "frame-000001.depth.png")
    with pytest.raises(DataError, match=r"unreadable depth map .*1\.depth\.png: it has 3 channels"):
        rgbd_pairs(tmp_path, "7scenes", "")


def test_a_set_is_of_one_kind():
    with pytest.raises(SettingsError, match="frames: video: expected 7scenes, scannet, navi"):
        KeypointSet(frames="video")
    with pytest.raises(SettingsError, match="give annotations or frames, not both"):
        KeypointSet(annotations="a.json", frames="scannet")


def test_points_of_rendered_scans_look_alike(tiny):
    pairs = keypoint_pairs(tiny, "scannet")
    assert {pair.group for pair in pairs} == {f"{gap} frame{'s' * (gap > 1)} later" for gap in GAPS}
    moved, differences, still = [], [], []
    for pair in pairs:
        images = [np.asarray(Image.open(file), int) for file in pair.files]
        assert pair.points.shape[1] > 100
        (x, y), (moved_x, moved_y) = pair.points.astype(int).transpose(0, 2, 1)
        before, after, unmoved = images[0][y, x], images[1][moved_y, moved_x], images[1][y, x]
        moved.append(np.abs(pair.points[1] - pair.points[0]).mean())
        differences.append(np.abs(before - after).mean())
        still.append(np.abs(before - unmoved).mean())
    assert np.mean(moved) > 0.5
    assert np.mean(differences) < np.mean(still)


def test_a_real_video_has_points_in_common():
    if not KITCHEN.is_dir():
        pytest.skip("the real video is not here")
    from regvit_lightning.data import rgbd_pairs as module

    frames = module._frames(KITCHEN, "7scenes")
    assert len(frames) == 160
    pairs = list(module._of_video(frames[:3]))
    assert len(pairs) == 3
    assert all(pair.points.shape[1] > 60 for pair in pairs)
