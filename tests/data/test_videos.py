"""Videos on disk: the order of frames, masks of every kind, lists, and what is said of sets that do not fit."""

import numpy as np
import pytest
from PIL import Image

from regvit_lightning.data import digest
from regvit_lightning.data.image_sets import VideoSet
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.data.videos import Frames, FramesModule, read_mask, videos
from regvit_lightning.settings import SettingsError


def data_of(root, **more):
    return DataSettings(name="own", root=str(root), videos={"street": VideoSet("f", "m", **more)})


def write(root, name, frames=("0.png", "1.png", "2.png"), masks=("0.png", "1.png", "2.png"), size=(8, 6)):
    for folder, names in (("f", frames), ("m", masks)):
        (root / folder / name).mkdir(parents=True, exist_ok=True)
        for file in names:
            Image.new("RGB" if folder == "f" else "L", size, 1).save(root / folder / name / file)


def frames_of(root, **more):
    data = data_of(root, **more)
    return Frames(videos(data, "street"), data.video_set("street"), lambda size: size, Image.Resampling.BICUBIC)


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    write(tmp_path, "a", ("10.jpg", "9.jpg", "100.jpg", "1.jpg"), ("1.png", "9.png"))
    (video,) = videos(data_of(tmp_path), "street")
    assert [path.rsplit("/", 1)[1] for path in video.frames] == ["1.jpg", "9.jpg", "10.jpg", "100.jpg"]
    assert [mask is not None for mask in video.masks] == [True, True, False, False]
    assert video.scored() == [1]


def test_videos_are_those_of_the_list_in_its_order(tmp_path):
    for name in "abc":
        write(tmp_path, name)
    (tmp_path / "list.txt").write_text("c\na\n")
    assert [video.name for video in videos(data_of(tmp_path, names="list.txt"), "street")] == ["c", "a"]
    pairs = "/f/480p/b/00000.jpg /m/480p/b/00000.png\n/f/480p/b/00001.jpg /m/480p/b/00001.png\n"
    (tmp_path / "list.txt").write_text(pairs)  # as in DAVIS 2016
    assert [video.name for video in videos(data_of(tmp_path, names="list.txt"), "street")] == ["b"]
    assert [video.name for video in videos(data_of(tmp_path), "street")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("frames", "masks", "told"),
    [
        (("0.png", "1.png", "2.png"), ("1.png",), r"the first frame, 0\.png, has no mask in"),
        (("0.png", "1.png", "2.png"), ("0.png", "2.png"), "no mask between the first frame and the last"),
        ((), ("0.png",), "a frame has no mask in"),
    ],
)
def test_a_video_that_cannot_be_scored_is_told(tmp_path, frames, masks, told):
    write(tmp_path, "a", frames, masks)
    with pytest.raises(DataError, match=told):
        videos(data_of(tmp_path), "street")


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*f: expected one folder for each video"):
        videos(data_of(tmp_path), "street")
    for folder in "fm":
        (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match="no video in"):
        videos(data_of(tmp_path), "street")
    write(tmp_path, "a")
    with pytest.raises(DataError, match=r"no list .*list\.txt"):
        videos(data_of(tmp_path, names="list.txt"), "street")
    (tmp_path / "list.txt").write_text("b\n")
    with pytest.raises(DataError, match=r"cannot list .*b: "):
        videos(data_of(tmp_path, names="list.txt"), "street")
    counted = DataSettings(
        name="own", root=str(tmp_path), videos={"street": VideoSet("f", "m")}, counts={"street": [4]}
    )
    with pytest.raises(DataError, match=r"street in .* has 3 frames, expected 4"):
        videos(counted, "street")


def test_a_set_of_videos_has_a_name_of_its_own():
    with pytest.raises(SettingsError, match=r"voc07 names two sets of different kinds, under discovery and videos"):
        DataSettings(name="own", root="x", videos={"voc07": VideoSet()})
    with pytest.raises(SettingsError, match=r"videos\.depth: expected letters"):
        DataSettings(name="own", root="x", videos={"depth": VideoSet()})


def test_masks_of_every_kind(tmp_path):
    ids = np.array([[0, 1, 2], [255, 2, 0]], np.uint8)
    expected = np.where(ids == 255, 0, ids)
    file = tmp_path / "grey.png"
    Image.fromarray(ids).save(file)
    assert (read_mask(str(file), one_object=False) == expected).all()
    assert (read_mask(str(file), one_object=True) == (ids > 0)).all()
    palette = Image.fromarray(ids).convert("P")
    palette.putpalette([7, 7, 7] * 256)  # every id has one colour: the ids count
    palette.save(tmp_path / "palette.png")
    assert (read_mask(str(tmp_path / "palette.png"), one_object=False) == expected).all()
    coloured = np.zeros((2, 3, 3), np.uint8)
    coloured[0, 1] = 0, 0, 200
    Image.fromarray(coloured).save(tmp_path / "colour.png")
    assert read_mask(str(tmp_path / "colour.png"), one_object=True).tolist() == [[0, 1, 0], [0, 0, 0]]
    with pytest.raises(DataError, match=r"colour\.png: it has pixels of mode RGB; expected one channel of object ids"):
        read_mask(str(tmp_path / "colour.png"), one_object=False)


def test_batches_are_frames_of_one_video_in_order(tmp_path):
    for name, count in (("a", 5), ("b", 3)):
        files = [f"{number}.png" for number in range(count)]
        write(tmp_path, name, files, files[:2])
    (loader,) = FramesModule(Loading(0, 2), frames_of(tmp_path)).test_dataloader()
    seen = [(batch["video"], batch["frame"]) for batch in loader]
    assert seen == [(0, [0, 1]), (0, [2, 3]), (0, [4]), (1, [0, 1]), (1, [2])]
    first = next(iter(loader))
    assert first["image"].shape == (2, 3, 6, 8)
    assert [truth.shape for truth in first["truth"]] == [(6, 8)] * 2


def test_sizes_that_do_not_fit_are_told(tmp_path):
    write(tmp_path, "a")
    Image.new("RGB", (9, 6)).save(tmp_path / "f" / "a" / "1.png")
    Image.new("L", (9, 6)).save(tmp_path / "m" / "a" / "1.png")
    (loader,) = FramesModule(Loading(0, 3), frames_of(tmp_path)).test_dataloader()
    with pytest.raises(DataError, match="video a has frames of several sizes"):
        list(loader)
    Image.new("L", (8, 5)).save(tmp_path / "m" / "a" / "0.png")
    with pytest.raises(DataError, match=r"m/a/0\.png: 8 × 5 px, its frame 8 × 6"):
        frames_of(tmp_path)[0]


def test_the_digest_follows_frames_masks_and_list(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "b")
    (tmp_path / "list.txt").write_text("a\nb\n")
    data = data_of(tmp_path, names="list.txt")
    seen = [digest.digests(data, "street")]
    Image.new("L", (80, 60), 3).save(tmp_path / "m" / "b" / "2.png")
    seen.append(digest.digests(data, "street"))
    (tmp_path / "list.txt").write_text("a\n")
    seen.append(digest.digests(data, "street"))
    assert all(set(one) == {"all"} for one in seen)
    assert len({one["all"] for one in seen}) == 3
    assert data.section("street") == {"street": {"frames": "f", "masks": "m", "names": "list.txt", "one_object": False}}
