"""Points that correspond by geometry: closed forms, rendered scans, a real video, and files that do not fit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regvit_lightning.data.keypoints import keypoint_pairs
from regvit_lightning.data.layout import DataError, KeypointSet
from regvit_lightning.data.rgbd_pairs import GAPS, corresponding, rgbd_pairs
from regvit_lightning.settings import SettingsError

CAMERA = np.array([[100.0, 0, 80], [0, 100, 60], [0, 0, 1]])
KITCHEN = Path(__file__).resolve().parents[3] / "shared" / "data" / "rgbd_kitchen"


def at(x=0.0, y=0.0, z=0.0):
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return pose


def test_a_wall_moves_against_the_camera_by_focal_length_over_distance():
    wall = np.full((120, 160), 2.0)
    source, target = corresponding(wall, wall, CAMERA, at(), at(x=0.3))
    np.testing.assert_allclose(target - source, np.broadcast_to([-15, 0], source.shape), atol=1e-9)
    assert (source[:, 0] >= 15).all()  # what leaves the frame is left out
    assert len(source) < 300


def test_a_wall_that_comes_nearer_grows_about_the_principal_point():
    source, target = corresponding(np.full((120, 160), 2.0), np.full((120, 160), 1.6), CAMERA, at(), at(z=0.4))
    np.testing.assert_allclose(target - [80, 60], (source - [80, 60]) * 2 / 1.6, atol=1e-9)


def test_a_camera_that_turns_sees_the_points_turned():
    wall, quarter = np.full((120, 160), 2.0), np.eye(4)
    quarter[:2, :2] = [[0, -1], [1, 0]]  # about the optical axis
    source, target = corresponding(wall, wall, CAMERA, at(), quarter)
    x, y = (source - [80, 60]).T
    np.testing.assert_allclose(target - [80, 60], np.stack([y, -x], axis=1), atol=1e-9)


def test_points_that_are_hidden_or_without_a_depth_are_left_out():
    wall = np.full((120, 160), 2.0)
    hidden, unmeasured = wall.copy(), wall.copy()
    hidden[:, :80], unmeasured[:60] = 1.0, 0.0
    assert (corresponding(wall, hidden, CAMERA, at(), at())[0][:, 0] > 80).all()
    assert (corresponding(unmeasured, wall, CAMERA, at(), at())[0][:, 1] > 60).all()
    assert corresponding(wall, wall + 0.03, CAMERA, at(), at()).shape == (2, 0, 2)
    assert corresponding(wall, wall + 0.01, CAMERA, at(), at()).shape == (2, 300, 2)
    assert corresponding(wall, wall, CAMERA, at(), at(z=3.0)).shape == (2, 0, 2)  # behind the camera


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


def test_a_set_is_of_one_kind():
    with pytest.raises(SettingsError, match="frames: video: expected 7scenes or scannet"):
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

    frames, camera = module._frames(KITCHEN, "7scenes"), module._intrinsics(KITCHEN, "7scenes")
    assert len(frames) == 160
    pairs = list(module._of_video(frames[:3], camera))
    assert len(pairs) == 3
    assert all(pair.points.shape[1] > 60 for pair in pairs)
