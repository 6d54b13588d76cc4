"""NAVI's layout: a planted plane seen by cameras of known pose, partners by angle, and files that do not fit."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from regvit_lightning.data import navi
from regvit_lightning.data.image_sets import KeypointSet
from regvit_lightning.data.keypoints import keypoint_pairs
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.rgbd_pairs import rgbd_pairs
from tests.data.one_line import complaint

WIDTH, HEIGHT, FOCAL = 160, 120, 200.0  # of the depth maps; the photographs are twice as large
AWAY = 0.5  # metres from the camera to the middle of the plate
PLATE = 0.06  # metres: half of a side


def camera(degrees, focal=FOCAL):
    """From a plate at z = 0 to a camera that looks at its middle, turned about y: orientation and matrix."""
    turn = Rotation.from_euler("y", degrees, degrees=True)
    matrix = np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
    return turn, matrix


def plate(degrees, focal=FOCAL):
    """Depth (H, W) in metres of the plate, by cutting each ray with it, and where each pixel lies on it (H, W, 2)."""
    turn, matrix = camera(degrees, focal)
    y, x = np.indices((HEIGHT, WIDTH)) + 0.5
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(matrix).T
    normal = turn.apply([0, 0, 1])  # in the camera, where the plate's middle is at (0, 0, AWAY)
    depth = AWAY * normal[2] / (rays @ normal)
    places = turn.inv().apply((rays * depth[..., None]).reshape(-1, 3) - [0, 0, AWAY]).reshape(HEIGHT, WIDTH, 3)
    assert np.abs(places[..., 2]).max() < 1e-9
    inside = (np.abs(places[..., :2]) <= PLATE).all(axis=-1)
    return np.where(inside, depth, 0), places[..., :2]


def write(root, views, scene="wild_set", focal=FOCAL):
    """A scene of the plate seen at so many degrees."""
    folder, known = root / "plate" / scene, []
    for number, degrees in enumerate(views):
        depth, _ = plate(degrees, focal)
        for part in ("images", "depth"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        stored = np.divide(655_350, 1000 * depth, out=np.zeros_like(depth), where=depth > 0)
        Image.fromarray(np.rint(stored).astype(np.uint16)).save(folder / "depth" / f"{number:03d}.png")
        Image.new("RGB", (2 * WIDTH, 2 * HEIGHT)).save(folder / "images" / f"{number:03d}.jpg")
        x, y, z, w = camera(degrees)[0].as_quat()
        own = {"q": [w, x, y, z], "t": [0, 0, 1000 * AWAY], "focal_length": 2 * focal}
        name = f"{number:03d}.jpg"
        known.append({"filename": name, "camera": own, "image_size": [2 * HEIGHT, 2 * WIDTH], "split": "val"})
    (folder / "annotations.json").write_text(json.dumps(known[::-1]))  # the order of the names counts
    return folder


def on_plate(points, degrees):
    """Where points of a photograph lie on the plate, by cutting their rays with it (N, 2)."""
    turn, matrix = camera(degrees)
    rays = np.concatenate([points / 2, np.ones((len(points), 1))], axis=1) @ np.linalg.inv(matrix).T
    normal = turn.apply([0, 0, 1])
    return turn.inv().apply(rays * (AWAY * normal[2] / (rays @ normal))[:, None] - [0, 0, AWAY])[:, :2]


def test_points_of_a_planted_plate_correspond(tmp_path):
    """Seen straight and turned by 20°: both points of a pair are one place of the plate, to a tenth of a millimetre."""
    write(tmp_path, [0, 20])
    first, second = rgbd_pairs(tmp_path, "navi", "")
    for pair, (source, target) in ((first, (0, 20)), (second, (20, 0))):
        assert pair.group == "0 to 30°"
        assert pair.space.angle == pytest.approx(20)
        assert pair.points.shape[1] > 100
        before, after = on_plate(pair.points[0], source), on_plate(pair.points[1], target)
        np.testing.assert_allclose(after, before, atol=1e-4)
        assert np.ptp(before, axis=0).min() > 1.6 * PLATE  # they cover it
    assert [name.rpartition("/")[2] for name in first.files] == ["000.jpg", "001.jpg"]


def test_the_box_is_that_of_the_object(tmp_path):
    """12 cm at 0.5 m and 200 px are 48 px of the depth map and 96 of the photograph, about its middle."""
    write(tmp_path, [20, 0])
    pair = rgbd_pairs(tmp_path, "navi", "")[0]
    np.testing.assert_allclose(pair.box, [160 - 48, 120 - 48, 160 + 48, 120 + 48], atol=2)


def test_errors_of_a_planted_plate_are_those_on_it(tmp_path):
    """A match a few pixels beside, on the plate seen at an angle: the distance between both places of the plate."""
    write(tmp_path, [0, 40])
    pair = rgbd_pairs(tmp_path, "navi", "")[0]
    inside = (np.abs(on_plate(pair.points[1], 40)) < 0.8 * PLATE).all(axis=1)
    beside = pair.points[1] + [4, -3]
    found = pair.space.errors(beside / [2 * WIDTH, 2 * HEIGHT])[inside]
    meant = np.linalg.norm(on_plate(beside, 40) - on_plate(pair.points[0], 0), axis=1)[inside]
    np.testing.assert_allclose(found, meant, atol=7e-4)  # of 7 mm; depth changes by that within a pixel
    off = pair.space.errors(np.full((pair.points.shape[1], 2), 0.01))
    assert np.isinf(off).all()  # beside the object there is no depth


def test_the_stored_values_are_ten_times_65535_over_millimetres():
    np.testing.assert_allclose(navi.metres(np.array([0.0, 1310.7, 655.35])), [0, 0.5, 1.0])


def at(*degrees):
    poses = []
    for one in degrees:
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_euler("y", one, degrees=True).as_matrix()
        poses.append(pose)
    return poses


def test_partners_take_turns_in_the_groups_and_are_nearest_to_the_middle():
    """Where a view has none in the group whose turn it is, the next group is tried, after the last one the first."""
    assert list(navi.partners(at(0, 8, 20, 75, 115))) == [
        (0, 2, "0 to 30°"),  # 20° is nearer to 15° than 8° is
        (1, 3, "60 to 90°"),  # none at 30 to 60°
        (2, 4, "90 to 120°"),  # none at 60 to 90°
        (3, 4, "30 to 60°"),  # none from 90° on, and none to 30°; 40° is nearer to 45° than 55° is
        (4, 3, "30 to 60°"),
    ]


def test_a_view_without_another_one_within_120_degrees_has_no_pair():
    assert list(navi.partners(at(0, 150))) == []
    assert list(navi.partners(at(0))) == []


def test_scenes_are_apart_and_a_video_is_none(tmp_path):
    write(tmp_path, [0, 20])
    write(tmp_path, [0, 10, 20], "multiview-00-pixel_5")
    write(tmp_path, [0, 20], "video-00-pixel_5-0001")
    pairs = rgbd_pairs(tmp_path, "navi", "")
    assert len(pairs) == 5
    assert all(
        first.rpartition("/images/")[0] == second.rpartition("/images/")[0]
        for first, second in (p.files for p in pairs)
    )


def test_a_set_of_ones_own_yaml_is_read(tmp_path):
    write(tmp_path / "navi_v1.5", [0, 20])
    sets = {"objects": KeypointSet("navi_v1.5", frames="navi")}
    assert len(keypoint_pairs(DataSettings(name="own", root=str(tmp_path), keypoints=sets), "objects")) == 2


CAMERA = {"q": [1, 0, 0, 0], "t": [0, 0, 1], "focal_length": 9}
GOOD = {"filename": "000.jpg", "camera": CAMERA, "image_size": [120, 160]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "not annotations of NAVI"),
        ("{}", "no two frames"),
        ([{"filename": "000.jpg"}], "not annotations of NAVI"),
        ([{**GOOD, "camera": {**CAMERA, "q": [0, 0, 0, 0]}}], "not annotations of NAVI"),
        ([{**GOOD, "camera": {**CAMERA, "focal_length": 0}}], "focal length 0"),
        ([{**GOOD, "image_size": [160, 120]}], "another shape"),
        ([{**GOOD, "image_size": [120, 0]}], "not annotations of NAVI"),
        ([{**GOOD, "filename": "999.jpg"}], "999.png"),
    ],
)
def test_annotations_that_do_not_fit_are_one_line(tmp_path, content, said):
    text = content if isinstance(content, str) else json.dumps(content)
    (write(tmp_path, [0, 20]) / "annotations.json").write_text(text)
    assert said in complaint(rgbd_pairs, tmp_path, "navi", "ask for it")


def test_a_folder_without_a_scene_says_how_to_get_it(tmp_path):
    line = complaint(rgbd_pairs, tmp_path, "navi", "ask for it")
    assert "expected <object>/wild_set/annotations.json; ask for it" in line
