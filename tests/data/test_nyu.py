"""NYU depth: both readers in the documented formats, samples, bad files."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from regvit_lightning import settings
from regvit_lightning.data import nyu
from regvit_lightning.data.depth_pairs import FRAME, Augmentation
from regvit_lightning.data.image_sets import Depth
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.settings import SettingsError
from tests.data.one_line import complaint

SMALL = (48, 64)


def scene(number, size=FRAME):
    """A ramp of its own as image and depth in millimetres; the upper left corner was not measured."""
    rows, columns = np.indices(size)
    depth = (800 + 10 * number + 8000 * rows // size[0] + columns).astype(np.uint16)
    depth[:10, :12] = 0
    image = np.stack([depth // 40, 200 - depth // 60, np.full(size, 30 + number)], axis=-1).astype(np.uint8)
    return image, depth


def write_bts(root, train, test, slash="/"):
    """Lists and files as BTS lays them out, of (image, depth in millimetres); lossless, to be compared exactly."""
    (root / "nyu").mkdir(exist_ok=True)
    for folder, name, scenes in (("sync", "nyu_train.txt", train), ("official_splits/test", "nyu_test.txt", test)):
        lines = []
        for number, (image, depth) in enumerate(scenes):
            room = root / "nyu" / folder / "kitchen_0001"
            room.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(room / f"rgb_{number:05d}.png", compress_level=1)
            Image.fromarray(depth).save(room / f"sync_depth_{number:05d}.png", compress_level=1)
            names = (f"{slash}kitchen_0001/{kind}_{number:05d}.png" for kind in ("rgb", "sync_depth"))
            lines.append(" ".join([*names, "518.8579"]))
        (root / "nyu" / name).write_text("\n".join(lines) + "\n")
    return DataSettings(name="own", root=str(root), get="README.md says how to get it")


def write_mat(root, scenes, train, test):
    """The two official files: MATLAB's column-major arrays as HDF5 holds them, splits numbered from 1."""
    folder = root / "nyu"
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as mat:
        mat["images"] = np.stack([image.transpose(2, 1, 0) for image, _ in scenes])
        mat["rawDepths"] = np.stack([(depth.T / 1000).astype(np.float32) for _, depth in scenes])
    splits = {"trainNdxs": np.array(train)[:, None], "testNdxs": np.array(test)[:, None]}
    scipy.io.savemat(folder / "splits.mat", splits)
    layout = Depth(mat="nyu/nyu_depth_v2_labeled.mat", splits="nyu/splits.mat")
    return DataSettings(name="own", root=str(root), depth=layout, get="README.md says how to get it")


# ------------------------------------------------------------------------------------------------------- readers


def test_lists_and_mat_give_the_same_pairs(tmp_path):
    scenes = [scene(number) for number in range(4)]
    framed = []  # BTS keeps rows 7:474 and columns 7:632 of the image and all of the depth
    for image, depth in scenes:
        kept = np.zeros_like(image)
        kept[7:474, 7:632] = image[7:474, 7:632]
        framed.append((kept, depth))
    lists = write_bts(tmp_path, [framed[2], framed[0]], [framed[3], framed[1]])
    mat = write_mat(tmp_path, scenes, train=[3, 1], test=[4, 2])
    for read in (nyu.train_pairs, nyu.test_pairs):
        one, other = read(lists), read(mat)
        assert len(one) == len(other) == 2
        for place in range(2):
            for array in ("image", "depth"):
                found, expected = getattr(one[place], array), getattr(other[place], array)
                assert found.dtype == expected.dtype
                np.testing.assert_array_equal(found, expected)
    first = nyu.test_pairs(lists)[0]
    assert first.depth.dtype == np.float32
    assert first.depth[0, 0] == 0
    assert first.depth[200, 100] == pytest.approx((800 + 30 + 8000 * 200 // 480 + 100) / 1000)


def test_a_list_may_do_without_the_leading_slash(tmp_path):
    data = write_bts(tmp_path, [scene(0, SMALL)], [scene(1, SMALL)], slash="")
    assert nyu.train_pairs(data)[0].depth.shape == SMALL


def test_the_rendered_data_is_read(tiny):
    pair = nyu.train_pairs(tiny)[0]
    assert pair.image.shape == (480, 640, 3)
    assert 0.3 < pair.depth.min() < pair.depth.max() < 10.1


def test_worker_processes_read_the_mat_that_this_one_has_read(tmp_path):
    pairs = nyu.train_pairs(write_mat(tmp_path, [scene(0), scene(1)], [1, 2], [1]))
    assert pairs[0].depth.max() > 0
    data = nyu.OrderedPairs(pairs, 48, (1e-3, 10.0), True)
    batches = [part for batch in DataLoader(data, 1, num_workers=2, collate_fn=nyu.by_size) for part in batch]
    assert [part["index"].item() for part in batches] == [0, 1]
    np.testing.assert_array_equal(batches[1]["depth"][0].numpy(), pairs[1].depth)


# ------------------------------------------------------------------------------------------------------- samples


def test_the_test_image_is_resized_and_its_depth_is_not(tmp_path):
    data = write_bts(tmp_path, [scene(0)], [scene(1), scene(2, (96, 48))])
    samples = nyu.OrderedPairs(nyu.test_pairs(data), 24, (1e-3, 10.0), False)
    assert [tuple(samples[place]["image"].shape) for place in (0, 1)] == [(3, 24, 32), (3, 48, 24)]
    assert [tuple(samples[place]["depth"].shape) for place in (0, 1)] == [(480, 640), (96, 48)]
    parts = nyu.by_size([samples[0], samples[1], samples[0]])
    assert [part["index"].tolist() for part in parts] == [[0, 0], [1]]
    assert parts[0]["image"].shape == (2, 3, 24, 32)


def test_a_view_depends_on_seed_and_position_alone(tmp_path):
    data = write_bts(tmp_path, [scene(0), scene(1)], [scene(2)])
    pairs, view = nyu.train_pairs(data), Augmentation((104, 136), 120, True, 2.5)
    one, same, other = (nyu.DrawnDepthPairs(pairs, view, seed) for seed in (1, 1, 2))
    samples = [one[(position, 0)] for position in range(8)]
    again = [same[(position, 0)] for position in reversed(range(8))][::-1]
    for first, second in zip(samples, again, strict=True):
        assert all((first[key] == second[key]).all() for key in ("image", "depth"))
    assert len({sample["depth"].numpy().tobytes() for sample in samples}) == 8
    assert not (other[(0, 0)]["depth"] == samples[0]["depth"]).all()
    assert samples[0]["image"].shape == (3, 104, 136)
    assert samples[0]["image"].dtype.itemsize == 1


# ---------------------------------------------------------------------------------------------------- bad input


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no list .*nyu_train\.txt: expected lines 'image depth focal'; README"):
        nyu.train_pairs(DataSettings(name="own", root=str(tmp_path), get="README.md says how to get it"))


def test_missing_files_are_counted_and_the_first_five_named(tmp_path):
    data = write_bts(tmp_path, [scene(number, SMALL) for number in range(8)], [scene(9, SMALL)])
    room = tmp_path / "nyu" / "sync" / "kitchen_0001"
    for number in range(7):
        (room / f"sync_depth_{number:05d}.png").unlink()
    with pytest.raises(DataError, match="7 of 16 files are missing") as error:
        nyu.train_pairs(data)
    assert str(error.value).count("sync_depth_") == 5
    assert len(nyu.test_pairs(data)) == 1


def test_a_malformed_line_is_numbered(tmp_path):
    data = write_bts(tmp_path, [scene(0, SMALL), scene(1, SMALL)], [scene(2, SMALL)])
    listed = tmp_path / "nyu" / "nyu_train.txt"
    listed.write_text(listed.read_text() + "\nkitchen_0001/rgb_00000.png 518.8579\n")
    with pytest.raises(DataError, match=r"nyu_train\.txt, line 4: expected 'image depth focal', not 'kitchen"):
        nyu.train_pairs(data)


def test_an_empty_list_is_told(tmp_path):
    with pytest.raises(DataError, match=r"nyu_train\.txt names no train image"):
        nyu.train_pairs(write_bts(tmp_path, [], []))


def test_counts_and_unfinished_rendering_are_told(tmp_path):
    data = write_bts(tmp_path, [scene(0, SMALL)], [scene(1, SMALL)])
    data.counts = {"depth": [1, 654]}
    assert len(nyu.train_pairs(data)) == 1
    with pytest.raises(DataError, match=r"nyu_test\.txt has 1 images, expected 654; README"):
        nyu.test_pairs(data)
    data.rendered = True
    with pytest.raises(DataError, match="missing or half-written"):
        nyu.train_pairs(data)


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (np.full(SMALL, 99, np.uint8), r"sync_depth_00000\.png is 8-bit \(L\): expected a 16-bit PNG in millimetres"),
        (
            np.full((48, 60), 900, np.uint16),
            r"sync_depth_00000\.png is 60 × 48 px, its image .*rgb_00000\.png 64 × 48: not a pair",
        ),
        (np.zeros(SMALL, np.uint16), r"sync_depth_00000\.png has no measured pixel"),
        (np.full((48, 64, 3), 99, np.uint8), r"sync_depth_00000\.png is .*\(RGB\): expected a 16-bit PNG"),
    ],
)
def test_a_depth_map_that_does_not_fit_is_told(tmp_path, depth, message):
    data = write_bts(tmp_path, [(scene(0, SMALL)[0], depth)], [scene(1, SMALL)])
    with pytest.raises(DataError, match=message):
        nyu.train_pairs(data)[0]


@pytest.mark.parametrize(
    ("depth", "mode"),
    [(np.full(SMALL, 2.5, np.float32), "F"), (np.full(SMALL, 70_000, np.int32), "I")],
)
def test_numbers_that_are_not_of_16_bits_are_not_called_8_bit(tmp_path, depth, mode):
    pairs = nyu.train_pairs(write_bts(tmp_path, [scene(0, SMALL)], [scene(1, SMALL)]))
    path = tmp_path / "nyu" / "sync" / "kitchen_0001" / "sync_depth_00000.png"
    Image.fromarray(depth).save(path, format="TIFF")
    with pytest.raises(DataError, match=rf"sync_depth_00000\.png is .*\({mode}\): expected a 16-bit PNG") as error:
        pairs[0]
    assert "8-bit" not in str(error.value)
    assert "\n" not in str(error.value)


def test_all_numbers_of_16_bits_are_read(tmp_path):
    pairs = nyu.train_pairs(write_bts(tmp_path, [scene(0, SMALL)], [scene(1, SMALL)]))
    path = tmp_path / "nyu" / "sync" / "kitchen_0001" / "sync_depth_00000.png"
    millimetres = np.linspace(0, 65534, 48 * 64).astype(np.uint16).reshape(SMALL)
    for stored in (millimetres, millimetres.astype(np.int32)):  # of modes I;16 and I
        Image.fromarray(stored).save(path, format="TIFF")
        np.testing.assert_allclose(pairs[0].depth, millimetres / 1000, rtol=1e-6)


def test_65535_and_depths_that_are_not_finite_are_not_measured(tmp_path):
    image, depth = scene(0)
    depth[100:110, 100:120] = 65535
    listed = nyu.train_pairs(write_bts(tmp_path, [(image, depth)], [scene(1)]))[0]
    assert (listed.depth[100:110, 100:120] == 0).all()
    assert listed.depth.max() < 10
    data = write_mat(tmp_path, [(image, depth)], [1], [1])
    with h5py.File(tmp_path / "nyu" / "nyu_depth_v2_labeled.mat", "a") as mat:
        mat["rawDepths"][0, 100:120, 100:105] = np.inf
        mat["rawDepths"][0, 100:120, 105:110] = np.nan
    official = nyu.train_pairs(data)[0]
    assert (official.depth[100:110, 100:120] == 0).all()
    assert np.isfinite(official.depth).all()


@pytest.mark.parametrize(("unit", "factor"), [(100, 0.1), (5000, 5.0)])
def test_another_unit_than_millimetres_is_noticed_and_can_be_stated(tmp_path, unit, factor):
    image, depth = scene(0, SMALL)
    data = write_bts(tmp_path, [(image, (depth * factor).astype(np.uint16))], [scene(1, SMALL)])
    line = complaint(nyu.train_pairs, data)
    assert "nyu_train.txt: 95 % of its depths lie below" in line
    assert "state the unit: depth.units_per_metre" in line
    data.depth.units_per_metre = unit
    np.testing.assert_allclose(nyu.train_pairs(data)[0].depth, depth / 1000, atol=0.01)


def test_real_depth_maps_are_plausible_millimetres():
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "rgbd_kitchen"
    if not folder.is_dir():
        pytest.skip("the real depth maps are not here")
    for file in sorted(folder.glob("*.depth.png"))[::40]:
        depth = nyu.open_depth(str(file))
        assert nyu.USUAL_DEPTH[0] < np.quantile(depth[depth > 0], 0.95) < nyu.USUAL_DEPTH[1]


def test_a_unit_must_be_a_number():
    for unit in (-1, math.inf, math.nan):
        with pytest.raises(SettingsError, match=r"units_per_metre: must lie in \[0, 1e9\]"):
            settings.from_resolved(DataSettings, {"name": "own", "root": ".", "depth": {"units_per_metre": unit}})


def test_bad_test_maps_are_found_before_the_training(tmp_path):
    image, depth = scene(1, SMALL)
    data = write_bts(tmp_path, [scene(0, SMALL)], [(image, depth), (image, (depth // 40).astype(np.uint8))])
    assert "sync_depth_00001.png is 8-bit" in complaint(nyu.test_pairs, data)


def test_unreadable_files_are_told(tmp_path):
    pairs = nyu.train_pairs(write_bts(tmp_path, [scene(0, SMALL)], [scene(1, SMALL)]))
    room = tmp_path / "nyu" / "sync" / "kitchen_0001"
    whole = (room / "sync_depth_00000.png").read_bytes()
    for content, reason in ((b"text", "not an image"), (whole[: len(whole) // 2], "truncated")):
        (room / "sync_depth_00000.png").write_bytes(content)
        with pytest.raises(DataError, match=rf"unreadable depth .*sync_depth_00000\.png: .*{reason}"):
            pairs[0]
    (room / "rgb_00000.png").write_bytes(b"text")
    with pytest.raises(DataError, match=r"unreadable image .*rgb_00000\.png: not an image"):
        pairs[0]


def test_nothing_to_score_and_frames_of_another_size_are_told(tmp_path):
    outside = np.zeros(FRAME, np.uint16)
    outside[:45] = 2000
    data = write_bts(tmp_path, [scene(0, SMALL)], [(scene(0)[0], outside), scene(1, SMALL)])
    samples = nyu.OrderedPairs(nyu.test_pairs(data), 0, (1e-3, 10.0), True)
    with pytest.raises(DataError, match=r"sync_depth_00000\.png has no pixel to score"):
        samples[0]
    with pytest.raises(DataError, match=r"sync_depth_00001\.png is 64 × 48 px, not NYU's 640 × 480: give eigen_crop=f"):
        samples[1]
    pair, rng = nyu.train_pairs(data)[0], np.random.default_rng(0)
    with pytest.raises(DataError, match="give border_crop=false"):
        Augmentation((32, 32), 0, True, 2.5)(pair, rng)
    with pytest.raises(DataError, match=r"has 48 × 64 rows and columns: below crop=\[416, 544\]"):
        Augmentation((416, 544), 0, False, 2.5)(pair, rng)


def test_official_files_that_do_not_fit_are_told(tmp_path):
    data = write_mat(tmp_path, [scene(0), scene(1)], train=[1, 3], test=[0, 2])
    splits = tmp_path / "nyu" / "splits.mat"
    with pytest.raises(DataError, match=r"splits\.mat: trainNdxs names images 1 to 3, but .* has 2"):
        nyu.train_pairs(data)
    with pytest.raises(DataError, match="testNdxs names images 0 to 2"):
        nyu.test_pairs(data)
    scipy.io.savemat(splits, {"trainNdxs": [[1]]})
    with pytest.raises(DataError, match=r"splits\.mat has no array testNdxs"):
        nyu.test_pairs(data)
    splits.write_bytes(b"text")
    with pytest.raises(DataError, match=r"unreadable .*splits\.mat"):
        nyu.train_pairs(data)
    splits.unlink()
    with pytest.raises(DataError, match=r"no file .*splits\.mat.*README"):
        nyu.train_pairs(data)


def test_a_mat_of_another_kind_is_told(tmp_path):
    data = write_mat(tmp_path, [scene(0)], train=[1], test=[1])
    mat = tmp_path / "nyu" / "nyu_depth_v2_labeled.mat"
    with h5py.File(mat, "a") as file:
        del file["rawDepths"]
    with pytest.raises(DataError, match="has no array rawDepths"):
        nyu.train_pairs(data)
    with h5py.File(mat, "a") as file:
        file["rawDepths"] = np.zeros((1, 480, 640), np.float32)
    with pytest.raises(DataError, match=r"expected \(N, 3, 640, 480\) and \(N, 640, 480\)"):
        nyu.train_pairs(data)
    mat.write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(DataError, match=r"unreadable .*labeled\.mat"):
        nyu.train_pairs(data)


def test_a_worker_process_tells_in_one_line(tmp_path):
    data = write_bts(tmp_path, [scene(0, SMALL)], [(scene(0, SMALL)[0], np.zeros(SMALL, np.uint16))])
    samples = nyu.OrderedPairs(nyu.test_pairs(data), 0, (1e-3, 10.0), False)
    with pytest.raises(DataError) as error:
        list(DataLoader(samples, 1, num_workers=1, collate_fn=nyu.by_size))
    assert "has no measured pixel" in str(error.value)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------- generated bad input


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    return write_bts(tmp_path_factory.mktemp("listed"), [scene(0, SMALL)], [scene(1, SMALL)])


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return write_mat(tmp_path_factory.mktemp("official"), [scene(0)], [1], [1])


def _all_pairs(data):
    pairs = nyu.train_pairs(data)
    return [pairs[index] for index in range(len(pairs))]


@given(content=st.one_of(st.binary(max_size=80), st.text("/._0rgb \n\0\u2028é", max_size=80).map(str.encode)))
def test_any_list_is_read_or_told_in_a_line(listed, content):
    Path(listed.root, "nyu", "nyu_train.txt").write_bytes(content)
    complaint(_all_pairs, listed)


@effort(max_examples=40)
@given(content=st.binary(max_size=40), start=st.floats(0, 1), length=st.integers(0, 60), end=st.floats(0.1, 2))
def test_damaged_depth_maps_are_read_or_told_in_a_line(listed, content, start, length, end):
    line = "/kitchen_0001/rgb_00000.png /kitchen_0001/sync_depth_00000.png 518"
    Path(listed.root, "nyu", "nyu_train.txt").write_text(line)
    file = Path(listed.root, "nyu/sync/kitchen_0001/sync_depth_00000.png")
    Image.fromarray(scene(0, SMALL)[1]).save(file)
    sound = file.read_bytes()
    place = int(start * len(sound))
    damaged = sound[:place] + content + sound[place + length :]
    file.write_bytes(damaged[: int(end * len(damaged))])
    complaint(_all_pairs, listed)


@pytest.mark.parametrize("kind", ["S5", "f4", "u1", "bool", "c8"])
@pytest.mark.parametrize("name", ["images", "rawDepths"])
def test_arrays_of_any_kind_in_the_mat_are_read_or_told_in_a_line(official, kind, name):
    with h5py.File(Path(official.root, official.depth.mat), "a") as mat:
        old = mat[name][()]
        del mat[name]
        mat[name] = np.zeros(old.shape, kind)
    assert complaint(_all_pairs, official) or (name, kind) == ("images", "u1")
    with h5py.File(Path(official.root, official.depth.mat), "a") as mat:
        del mat[name]
        mat[name] = old


@pytest.mark.parametrize(
    "numbers", [[[]], [["one"]], [[np.inf]], [[np.nan]], [[1.5]], [[0]], [[1e30]], [[1j]], [[True]]]
)
def test_split_numbers_of_any_kind_are_read_or_told_in_a_line(official, numbers):
    scipy.io.savemat(Path(official.root, official.depth.splits), {"trainNdxs": np.array(numbers)})
    complaint(_all_pairs, official)


@given(start=st.floats(0, 1), content=st.binary(min_size=1, max_size=20))
@effort(max_examples=40)
def test_a_damaged_splits_file_is_read_or_told_in_a_line(official, start, content):
    file = Path(official.root, official.depth.splits)
    scipy.io.savemat(file, {"trainNdxs": np.array([[1]]), "testNdxs": np.array([[1]])})
    sound = file.read_bytes()
    place = int(start * len(sound))
    file.write_bytes(sound[:place] + content + sound[place + len(content) :])
    complaint(_all_pairs, official)
