"""Sets by name in rendered data: those that are not rendered are refused with a way out that exists."""

import pytest

from benchmarks.data.image_counts import Counts, rendered_pairs
from regvit_lightning.data import layout
from regvit_lightning.data.keypoints import keypoint_pairs
from regvit_lightning.settings import SettingsError
from tests.conftest import TINY


@pytest.mark.parametrize(
    ("take", "name", "there"),
    [
        ("masked_set", "voc2012", "ade20k"),
        ("masked_set", "cityscapes", "ade20k"),
        ("salient_set", "ecssd", "scenes"),
        ("retrieval_set", "rparis6k", "roxford5k"),
    ],
)
def test_a_real_set_is_not_asked_of_rendered_data(take, name, there):
    data = layout.resolve("mini", root_needed=False)
    with pytest.raises(SettingsError) as error:
        getattr(data, take)(name)
    message = str(error.value)
    assert f"'{name}': expected one of {there}; {name} is not rendered: give DATA=full DATA_ROOT=<folder>" in message
    assert getattr(data, take)(there)


def test_rendered_sets_and_those_of_real_data_are_taken():
    mini, full = (layout.resolve(name, root_needed=False) for name in ("mini", "full"))
    for data in (mini, full):
        assert data.boxed_set("voc07").folder.endswith("VOC2007")
        assert data.keypoint_set("scannet").frames == "scannet"
        assert data.video_set("davis2017").names
    assert full.masked_set("voc2012").classes == 21
    with pytest.raises(SettingsError, match=r"no set with masks called 'coco': expected one of ade20k$"):
        mini.masked_set("coco")


@pytest.mark.parametrize("name", ["spair71k", "scannet"])
def test_pairs_and_groups_of_rendered_data_are_those_that_are_matched(tiny, name):
    pairs = keypoint_pairs(tiny, name)
    counted = [len(pairs), len({pair.group for pair in pairs})]
    assert rendered_pairs(name, TINY) == counted
    assert list(Counts(tiny, {})[name]) == counted, "of data that is not known to be rendered, as they are read"
