"""Images with masks of salient objects: pairs, what is foreground, the size of reading, and what is refused."""

import re

import numpy as np
import pytest
from PIL import Image

from regvit_lightning import settings
from regvit_lightning.data import layout
from regvit_lightning.data.digest import digests
from regvit_lightning.data.image_sets import SalientSet, VideoSet
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.mini.scenes import CLASSES, SEMANTIC_IDS
from regvit_lightning.data.salient import SalientDataset, grid_sizes, read_truth, salient_images
from regvit_lightning.settings import SettingsError

GREY = np.array([[0, 1, 127, 128, 255]], np.uint8)


def write(folder, name, values):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(folder / name)


def data_of(root, **facts):
    return DataSettings(name="own", root=str(root), salient={"own": SalientSet("images", "masks", **facts)})


def fill(root, names=("b", "a")):
    for name in names:
        write(root / "images", f"{name}.jpg", np.full((8, 12, 3), 9, np.uint8))
        write(root / "masks", f"{name}.png", np.full((8, 12), 255, np.uint8))
    return data_of(root)


def test_a_mask_belongs_to_the_image_of_its_name(tmp_path):
    images = salient_images(fill(tmp_path), "own")
    assert [path.rpartition("/")[2] for path in images.images] == ["a.jpg", "b.jpg"]
    assert [path.rpartition("/")[2] for path in images.masks] == ["a.png", "b.png"]
    assert images.sizes.tolist() == [[12, 8], [12, 8]]


def test_a_list_names_images_with_or_without_suffix(tmp_path):
    fill(tmp_path, ("a", "b", "c"))
    (tmp_path / "test.txt").write_text("c.jpg\na\n")
    images = salient_images(data_of(tmp_path, names="test.txt"), "own")
    assert [path.rpartition("/")[2] for path in images.images] == ["c.jpg", "a.jpg"]
    (tmp_path / "test.txt").write_text("d\n")
    with pytest.raises(DataError, match="names d, which is not among the images"):
        salient_images(data_of(tmp_path, names="test.txt"), "own")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [({}, [0, 0, 0, 1, 1]), ({"above": 0}, [0, 1, 1, 1, 1]), ({"foreground": [1, 128]}, [0, 1, 0, 1, 0])],
)
def test_foreground_is_by_grey_value_or_by_ids(tmp_path, facts, expected):
    write(tmp_path, "mask.png", GREY)
    assert read_truth(str(tmp_path / "mask.png"), SalientSet("i", "m", **facts)).astype(int).tolist() == [expected]


def test_masks_of_16_bits_are_scaled_to_8(tmp_path):
    write(tmp_path, "mask.png", np.array([[0, 1, 300, 127 * 257, 128 * 257, 65535]], np.uint16))
    assert read_truth(str(tmp_path / "mask.png"), SalientSet("i", "m")).tolist() == [[False] * 4 + [True] * 2]
    write(tmp_path, "ones.png", np.array([[0, 1]], np.uint16))
    with pytest.raises(DataError, match="largest grey value is 0, not above 127"):
        read_truth(str(tmp_path / "ones.png"), SalientSet("i", "m"))


def test_masks_of_zero_and_one_are_refused_where_grey_values_are_expected(tmp_path):
    write(tmp_path, "mask.png", np.array([[0, 1]], np.uint8))
    with pytest.raises(DataError, match="largest grey value is 1, not above 127; set above: 0"):
        read_truth(str(tmp_path / "mask.png"), SalientSet("i", "m"))
    write(tmp_path, "colour.png", np.full((1, 2, 3), 255, np.uint8))
    assert read_truth(str(tmp_path / "colour.png"), SalientSet("i", "m")).all()
    with pytest.raises(DataError, match="3 channels: expected one of ids"):
        read_truth(str(tmp_path / "colour.png"), SalientSet("i", "m", foreground=[1]))


def test_what_does_not_fit_is_named(tmp_path):
    data = fill(tmp_path)
    (tmp_path / "masks" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.jpg: no mask of that name"):
        salient_images(data, "own")
    write(tmp_path / "masks", "b.png", np.zeros((9, 12), np.uint8))
    with pytest.raises(DataError, match="12 × 9 px, its image"):
        salient_images(data, "own")
    write(tmp_path / "images", "b.png", np.zeros((8, 12, 3), np.uint8))
    with pytest.raises(DataError, match="several files called b"):
        salient_images(data, "own")
    with pytest.raises(DataError, match="cannot list"):
        salient_images(data_of(tmp_path / "nowhere"), "own")
    with pytest.raises(SettingsError, match="no set of salient objects called 'cats': expected one of"):
        salient_images(data, "cats")


def test_a_set_needs_both_folders_and_a_name_of_its_own():
    with pytest.raises(SettingsError, match=r"salient\.own: masks is not set"):
        DataSettings(name="own", root="r", salient={"own": SalientSet("images")})
    both = "voc07 names two sets of different kinds, under discovery and salient (published sets are there in any data)"
    with pytest.raises(SettingsError, match=re.escape(both)):
        DataSettings(name="own", root="r", salient={"voc07": SalientSet("images", "masks")})
    mine = "birds names two sets of different kinds, under videos and salient; rename one"
    with pytest.raises(SettingsError, match=mine):
        DataSettings(
            name="own", root="r", salient={"birds": SalientSet("images", "masks")}, videos={"birds": VideoSet()}
        )


def test_images_are_read_at_the_nearest_whole_patches():
    sizes = np.array([[400, 300], [7, 400], [23, 24]])
    assert grid_sizes(sizes, 16, 8192).tolist() == [[400, 304], [16, 400], [16, 32]]
    reduced = grid_sizes(np.array([[1600, 400]]), 16, 100)
    assert reduced.tolist() == [[320, 80]]


def test_a_sample_keeps_the_size_of_its_mask(tmp_path):
    images = salient_images(fill(tmp_path), "own")
    image, truth, index = SalientDataset(images, grid_sizes(images.sizes, 5, 100), [1])[0]
    assert (tuple(image.shape), tuple(truth.shape), index) == ((3, 10, 10), (8, 12), 1)


def test_the_digest_follows_masks(tmp_path):
    data = fill(tmp_path)
    before = digests(data, "own")
    write(tmp_path / "masks", "a.png", np.arange(96, dtype=np.uint8).reshape(8, 12))
    assert before.keys() == digests(data, "own").keys() == {"all"}
    assert before != digests(data, "own")


def test_published_sets_are_available_and_make_tasks():
    data = DataSettings(name="own", root="r")
    assert {"ecssd", "duts", "dut_omron"} <= data.salient.keys()
    assert {"saliency_ecssd", "saliency_duts", "saliency_dut_omron", "saliency_scenes"} <= set(settings.names("tasks"))
    assert settings.load_settings("tasks", "saliency_cats")[1].images == "cats"  # of a YAML elsewhere


def test_the_foreground_of_rendered_scenes_is_every_class_of_objects():
    rendered = layout.resolve("mini").salient_set("scenes").foreground
    assert rendered == [SEMANTIC_IDS[name] for name in CLASSES]
