"""Masks by hand and by mmsegmentation's own reader; folders in the documented layouts; files that do not fit."""

import dataclasses
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regvit_lightning import settings
from regvit_lightning.data import ade20k, layout, mmsegmentation
from regvit_lightning.data.image_sets import Segmentation
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.masks import open_mask
from regvit_lightning.errors import Notice
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks import segmentation
from tests.data.one_line import complaint

mmsegmentation.prepare()

from mmseg.datasets.transforms import LoadAnnotations  # noqa: E402


def write_pair(root, split, number, mask=None, size=(40, 30), name=None):
    """An image and its mask, made here and not by the renderer, where ADEChallengeData2016 has them."""
    width, height = size
    rng = np.random.default_rng(number)
    name = name or f"ADE_{split[:5] if split == 'training' else 'val'}_{number:08d}"
    mask = rng.integers(0, 151, (height, width)) if mask is None else mask
    image, labels = (root / "ADEChallengeData2016" / kind / split for kind in ("images", "annotations"))
    for folder in (image, labels):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(image / f"{name}.jpg")
    Image.fromarray(np.asarray(mask, np.uint8)).save(labels / f"{name}.png")
    return image / f"{name}.jpg", labels / f"{name}.png"


@pytest.fixture
def folder(tmp_path):
    """Three train and two test images in ADE20k's layout."""
    for number in (1, 2, 3):
        write_pair(tmp_path, "training", number)
    for number in (1, 2):
        write_pair(tmp_path, "validation", number, size=(50, 30))
    return DataSettings(name="own", root=str(tmp_path))


# ------------------------------------------------------------------------------------------------ class numbers


def test_the_zero_label_rule_by_hand():
    mask = np.array([[0, 1, 2], [150, 149, 255]], np.uint8)
    assert ade20k.class_numbers(mask, Segmentation()).tolist() == [[255, 0, 1], [149, 148, 255]]
    voc = Segmentation(vocabulary="voc", classes=21, zero_is_unlabelled=False)
    assert ade20k.class_numbers(np.array([[0, 20, 255]], np.uint8), voc).tolist() == [[0, 20, 255]]
    ignores_seven = Segmentation(vocabulary="", classes=9, zero_is_unlabelled=False, ignored=7)
    assert ade20k.class_numbers(np.array([[6, 7, 8]], np.uint8), ignores_seven).tolist() == [[6, 255, 8]]


@pytest.mark.parametrize(("number", "zero"), [(151, True), (254, True), (21, False), (300, True)])
def test_a_number_out_of_range_is_named(number, zero):
    classes = 150 if zero else 21
    with pytest.raises(ValueError, match=f"class number {number} in 2 pixels; expected {int(zero)}\\.\\."):
        ade20k.class_numbers(
            np.array([[1, number], [number, 2]]), Segmentation(vocabulary="", classes=classes, zero_is_unlabelled=zero)
        )


@given(st.integers(0, 2**32 - 1))
def test_class_numbers_are_those_of_mmsegmentation(seed):
    mask = np.random.default_rng(seed).choice([*range(151), 255], (6, 5)).astype(np.uint8)
    reader = LoadAnnotations()
    _, png = cv2.imencode(".png", mask)
    results = {"seg_map_path": "", "reduce_zero_label": True, "seg_fields": [], "label_map": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmseg.datasets.transforms.loading.fileio.get", lambda *_, **__: png.tobytes())
        reader._load_seg_map(results)
    assert (ade20k.class_numbers(mask, Segmentation()) == results["gt_seg_map"]).all()


def test_names_come_from_the_vocabulary():
    assert ade20k.class_names(Segmentation())[:3] == ["wall", "building", "sky"]
    assert ade20k.class_names(Segmentation(vocabulary="", classes=3)) == ["class 0", "class 1", "class 2"]
    rendered = ade20k.class_names(Segmentation(vocabulary="rendered"))
    assert len(rendered) == 150
    assert any(not name.startswith("class ") for name in rendered)
    with pytest.raises(SettingsError, match="vocabulary 'voc' has 21"):
        ade20k.class_names(Segmentation(vocabulary="voc", classes=20))
    with pytest.raises(SettingsError, match="not a data set of mmsegmentation"):
        ade20k.class_names(Segmentation(vocabulary="klingon"))


def test_classes_of_ones_own_are_named_in_the_yaml(tmp_path):
    own = Segmentation(class_names=["road", "verge", "sky"], classes=3, zero_is_unlabelled=False)
    assert ade20k.class_names(own) == ["road", "verge", "sky"]
    assert segmentation.palette(own).shape == (3, 3)
    data = DataSettings(name="own", root=str(tmp_path), segmentation=own)
    assert data.section("segmentation")["class_names"] == ["road", "verge", "sky"]
    assert "class_names" not in DataSettings(name="own", root=str(tmp_path)).section("segmentation")
    for names in (["a", "b"], ["a", "b", "b"]):
        with pytest.raises(SettingsError, match=r"segmentation\.class_names: .*: expected classes=3"):
            Segmentation(class_names=names, classes=3)


# --------------------------------------------------------------------------------------------------- layouts


def test_ade20ks_layout_file_by_file(folder):
    found = ade20k.train_images(folder, ()), ade20k.test_images(folder, ())
    assert [len(images) for images in found] == [3, 2]
    first = found[0].get_data_info(0)
    assert first["img_path"].endswith("ADEChallengeData2016/images/training/ADE_train_00000001.jpg")
    assert first["seg_map_path"].endswith("ADEChallengeData2016/annotations/training/ADE_train_00000001.png")


def test_vocs_layout_with_lists_palettes_and_borders(tmp_path):
    data = settings.build(DataSettings, settings.find("data", "voc2012"), [f"root={tmp_path}", "counts={}"])
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / name).mkdir(parents=True)
    mask = Image.fromarray(np.array([[0, 20], [255, 15]], np.uint8), mode="P")
    mask.putpalette(list(range(256)) * 3)
    for name in ("2007_000032", "2007_000033", "2007_000039"):
        Image.new("RGB", (2, 2)).save(base / "JPEGImages" / f"{name}.jpg")
        mask.save(base / "SegmentationClass" / f"{name}.png")
    (base / "ImageSets/Segmentation/train.txt").write_text("2007_000032\n2007_000039\n")
    (base / "ImageSets/Segmentation/val.txt").write_text("2007_000033\n")
    pipeline = ade20k.test_pipeline(data.segmentation, 2, [1.0], False)
    assert [len(ade20k.train_images(data, ())), len(ade20k.test_images(data, ()))] == [2, 1]
    sample = ade20k.test_images(data, pipeline)[0]
    assert sample["data_samples"][0].gt_sem_seg.data.tolist() == [[[0, 20], [255, 15]]]


def test_cityscapes_layout_with_city_folders(tmp_path):
    data = settings.build(DataSettings, settings.find("data", "cityscapes"), [f"root={tmp_path}", "counts={}"])
    for split, city in (("train", "aachen"), ("val", "lindau")):
        image = tmp_path / "cityscapes/leftImg8bit" / split / city / f"{city}_000000_000019_leftImg8bit.png"
        mask = tmp_path / "cityscapes/gtFine" / split / city / f"{city}_000000_000019_gtFine_labelTrainIds.png"
        for path, mode in ((image, "RGB"), (mask, "L")):
            path.parent.mkdir(parents=True)
            Image.new(mode, (4, 2), 18 if mode == "L" else 0).save(path)
        (mask.parent / f"{city}_000000_000019_gtFine_color.png").write_bytes(mask.read_bytes())
    assert [len(ade20k.train_images(data, ())), len(ade20k.test_images(data, ()))] == [1, 1]
    pipeline = ade20k.test_pipeline(data.segmentation, 2, [1.0], False)
    assert ade20k.test_images(data, pipeline)[0]["data_samples"][0].gt_sem_seg.data.unique().tolist() == [18]


def test_the_yaml_of_the_real_data_has_the_published_counts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_ROOT", "/nowhere")
        data = layout.resolve("full")
    assert data.counts["segmentation"] == [20210, 2000]
    assert data.segmentation == Segmentation()


# ------------------------------------------------------------------------------------------------- pipelines


def test_train_crops_keep_to_the_protocol(folder):
    pipeline = ade20k.train_pipeline(folder.segmentation, 60, [1.0, 1.0], 48)
    sample = ade20k.train_images(folder, pipeline)[0]
    assert sample["inputs"].shape == (3, 48, 48)
    assert sample["inputs"].dtype == torch.uint8
    assert sample["data_samples"].gt_sem_seg.data.shape == (1, 48, 48)


def test_the_short_side_is_resized_and_views_are_mirrored(folder):
    pipeline = ade20k.test_pipeline(folder.segmentation, 60, [1.0, 2.0], True)
    sample = ade20k.test_images(folder, pipeline)[0]
    assert [tuple(view.shape[1:]) for view in sample["inputs"]] == [(60, 100), (60, 100), (120, 200), (120, 200)]
    assert all(view.gt_sem_seg.data.shape == (1, 30, 50) for view in sample["data_samples"])
    assert [view.metainfo["flip"] for view in sample["data_samples"]] == [False, True, False, True]
    for straight, mirrored in ((0, 1), (2, 3)):
        assert (sample["inputs"][mirrored] == sample["inputs"][straight].flip(2)).all()
        assert (sample["inputs"][mirrored] != sample["inputs"][straight]).any()


@pytest.mark.parametrize(("size", "resized"), [((240, 40), (60, 360)), ((40, 240), (360, 60)), ((40, 1), (60, 2400))])
def test_the_long_side_is_not_bounded(tmp_path, size, resized):
    """As published, scale (99999999, 512): an image six times as long as it is high keeps its ratio."""
    for split in ("training", "validation"):
        write_pair(tmp_path, split, 1, size=size)
    data = DataSettings(name="own", root=str(tmp_path))
    test = ade20k.test_images(data, ade20k.test_pipeline(data.segmentation, 60, [1.0, 2.0], False))[0]
    twice = tuple(2 * side for side in resized)
    assert [tuple(view.shape[1:]) for view in test["inputs"]] == [resized, twice]
    assert test["data_samples"][0].gt_sem_seg.data.shape == (1, *size[::-1])
    train = ade20k.train_images(data, ade20k.train_pipeline(data.segmentation, 60, [1.0, 1.0], 3000))[0]
    assert train["inputs"].shape[1:] == train["data_samples"].gt_sem_seg.data.shape[1:] == resized


def test_the_factor_of_the_short_side_is_drawn_from_the_ratio(folder):
    images = ade20k.train_images(folder, ade20k.train_pipeline(folder.segmentation, 60, [0.5, 2.0], 1000))
    crops = ade20k.Augmented(images, 0)
    drawn = [min(crops[(position, 0)]["inputs"].shape[1:]) for position in range(60)]
    assert 30 <= min(drawn) < 40
    assert 110 < max(drawn) <= 120
    assert sum(side > 75 for side in drawn) / 60 == pytest.approx(0.5, abs=0.2)  # uniform


@pytest.fixture
def halves(tmp_path):
    """One image of 48 × 40 pixels as it is read, class 0 left, class 1 right; the short side is 40 as it stands."""
    mask = np.ones((40, 48), np.uint8)
    mask[:, 24:] = 2
    path, _ = write_pair(tmp_path, "training", 1, mask=mask, size=(48, 40))
    data = DataSettings(name="own", root=str(tmp_path))
    rgb = np.asarray(Image.open(path)).transpose(2, 0, 1)
    return data, torch.from_numpy(rgb[::-1].copy()), torch.from_numpy(mask)[None] - 1


def _draws(data, crop, number, seed=0):
    pipeline = ade20k.train_pipeline(data.segmentation, 40, [1.0, 1.0], crop)
    crops = ade20k.Augmented(ade20k.train_images(data, pipeline), seed)
    return [crops[(position, 0)] for position in range(number)]


def test_half_of_the_crops_are_mirrored_with_their_masks(halves):
    data, _, labels = halves
    masks = [sample["data_samples"].gt_sem_seg.data for sample in _draws(data, 48, 200)]
    turned = [bool((mask == labels.flip(2)).all()) for mask in masks]
    assert all(turn or (mask == labels).all() for mask, turn in zip(masks, turned, strict=True))
    assert np.mean(turned) == pytest.approx(0.5, abs=0.13)  # 3.7 standard deviations


def test_the_photometric_distortion_changes_images_and_never_masks(halves):
    data, image, labels = halves
    changes = []
    for sample in _draws(data, 48, 60):
        mask = sample["data_samples"].gt_sem_seg.data
        mirrored = bool((mask == labels.flip(2)).all())
        assert (mask == (labels.flip(2) if mirrored else labels)).all()
        shown = sample["inputs"].flip(2) if mirrored else sample["inputs"]
        assert shown.dtype == torch.uint8
        changes.append((shown.float() - image.float()).abs().mean().item())
    # Four distortions, each half of the time: 1 of 16 images stays as it is, none becomes another picture.
    assert sum(change > 1 for change in changes) / 60 == pytest.approx(15 / 16, abs=0.12)
    assert len({round(change, 3) for change in changes}) > 45
    assert np.mean(changes) > 10


def _largest_shares(data):
    masks = [sample["data_samples"].gt_sem_seg.data for sample in _draws(data, 24, 80)]
    assert {tuple(mask.shape) for mask in masks} == {(1, 24, 24)}
    counts = np.array([mask[mask != 255].bincount(minlength=2).tolist() for mask in masks])
    return (counts.max(axis=1) / counts.sum(axis=1)).tolist()


def test_crops_keep_to_three_quarters_of_a_class(halves):
    """Of the 25 crops of 24 columns 11 have both classes in more than a quarter; it is drawn again up to ten times."""
    shares = _largest_shares(halves[0])
    assert np.mean([share < 0.75 for share in shares]) > 0.95  # 1 - (14 / 25)^11 = 0.998, against 11 / 25
    assert max(share for share in shares if share < 0.75) > 0.65  # and not to less than three quarters


def test_pixels_without_a_label_are_left_out_of_the_three_quarters(tmp_path):
    mask = np.zeros((40, 48), np.uint8)  # 15 of 16 pixels
    mask[::4, :24:4], mask[::4, 24::4] = 1, 2
    write_pair(tmp_path, "training", 1, mask=mask, size=(48, 40))
    shares = _largest_shares(DataSettings(name="own", root=str(tmp_path)))
    assert np.mean([share < 0.75 for share in shares]) > 0.95  # 1 - (13 / 25)^11, against 12 / 25


def test_an_image_of_one_class_still_gives_crops(tmp_path):
    write_pair(tmp_path, "training", 1, mask=np.ones((40, 48)), size=(48, 40))
    for sample in _draws(DataSettings(name="own", root=str(tmp_path)), 24, 3):
        assert (sample["data_samples"].gt_sem_seg.data == 0).all()


def test_an_augmented_sample_depends_on_seed_and_position_alone(folder):
    images = ade20k.train_images(folder, ade20k.train_pipeline(folder.segmentation, 60, [0.5, 2.0], 32))
    one, other = ade20k.Augmented(images, seed=0), ade20k.Augmented(images, seed=1)
    first = one[(5, 2)]["inputs"]
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    one[(6, 1)]
    assert (one[(5, 2)]["inputs"] == first).all()
    assert (one[(6, 2)]["inputs"] != first).any()
    assert (other[(5, 2)]["inputs"] != first).any()


def test_image_and_mask_stay_together(tmp_path):
    """A picture that is its own mask: grey value 10 n is class n."""
    numbers = np.random.default_rng(0).integers(1, 20, (6, 8)).repeat(10, 0).repeat(10, 1)
    _, labels = write_pair(tmp_path, "training", 1, mask=numbers, size=(80, 60))
    grey = Image.fromarray((10 * numbers).astype(np.uint8)).convert("RGB")
    grey.save(str(labels).replace("annotations", "images").replace(".png", ".jpg"), quality=95)
    data = DataSettings(name="own", root=str(tmp_path))
    pipeline = ade20k.train_pipeline(data.segmentation, 120, [0.8, 1.5], 64)
    crops = ade20k.Augmented(ade20k.train_images(data, [p for p in pipeline if "Photo" not in type(p).__name__]), 0)
    for position in range(10):
        sample = crops[(position, 0)]
        shown, truth = sample["inputs"].float().mean(0) / 10, sample["data_samples"].gt_sem_seg.data[0] + 1
        assert ((shown - truth).abs() < 0.6).float().mean() > 0.7  # but for the soft edges


@pytest.mark.parametrize(
    "names", [("a.JPG", "a.png"), ("a.jpeg", "a.PNG"), ("a.png", "a.tif"), ("é.gif", "e\u0301.png")]
)
def test_images_of_every_suffix_are_taken_with_their_masks(folder, tmp_path, names):
    image, mask = write_pair(tmp_path, "training", 9)
    Image.open(image).save(image.parent / names[0])
    mask.rename(mask.parent / names[1])
    image.unlink()
    assert len(_reading(folder)) == 4


def test_what_has_no_mask_or_another_suffix_is_left_out_and_named_once(folder, tmp_path):
    image, _ = write_pair(tmp_path, "training", 9)
    for name in ("ADE_train_00000009.png", "alone.png", "._x.jpg", "notes.txt"):
        Image.open(image).save(image.parent / name, "PNG")
    (image.parent / "x.jpg").mkdir()
    with pytest.warns(Notice) as caught:
        assert len(ade20k.train_images(folder, ())) == 4
    assert len(caught) == 1
    line = str(caught[0].message)
    for part in ("2 of another kind than '.jpg' or without a mask", "1 hidden", "1 folder named", "1 not an image"):
        assert part in line


def test_images_and_masks_may_share_a_folder(tmp_path):
    for number in (1, 2):
        image, mask = write_pair(tmp_path, "training", number)
        mask.rename(image.with_suffix(".png"))
    both = ["ADEChallengeData2016/images/training"] * 2
    data = DataSettings(name="own", root=str(tmp_path), segmentation=Segmentation(images=both, masks=both))
    assert len(_reading(data)) == 2


# -------------------------------------------------------------------------------------------- files that do not fit


def _reading(data, split=0):
    pipeline = ade20k.train_pipeline(data.segmentation, 60, [1.0, 1.0], 32)
    images = (ade20k.train_images, ade20k.test_images)[split](data, pipeline)
    return [images[place] for place in range(len(images))]


def _line(error, *parts):
    text = str(error.value)
    assert "\n" not in text
    assert all(part in text for part in parts), text


def test_a_class_out_of_range_names_the_mask(folder, tmp_path):
    _, mask = write_pair(tmp_path, "training", 2, mask=np.full((30, 40), 200))
    with pytest.raises(DataError) as error:
        _reading(folder)
    _line(error, str(mask), "class number 200 in 1200 pixels", "1..150, 0 for unlabelled or 255 for ignored")


def test_a_mask_of_another_size_names_both_files(folder, tmp_path):
    image, mask = write_pair(tmp_path, "training", 2)
    Image.new("L", (40, 29), 1).save(mask)
    with pytest.raises(DataError) as error:
        _reading(folder)
    _line(error, str(image), str(mask), "40 × 29", "40 × 30")


def test_a_coloured_mask_is_refused(folder, tmp_path):
    _, mask = write_pair(tmp_path, "training", 2)
    Image.new("RGB", (40, 30)).save(mask)
    with pytest.raises(DataError) as error:
        _reading(folder)
    _line(error, str(mask), "3 channels")


@pytest.mark.parametrize("kind", [0, 1])
def test_a_broken_file_is_named(folder, tmp_path, kind):
    path = write_pair(tmp_path, "training", 2)[kind]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError) as error:
        _reading(folder)
    _line(error, str(path), "unreadable", "restore or remove")


def test_a_mask_of_floats_is_refused(folder, tmp_path):
    _, mask = write_pair(tmp_path, "training", 2)
    Image.fromarray(np.full((30, 40), 2.5, np.float32)).save(mask, format="TIFF")
    with pytest.raises(DataError) as error:
        _reading(folder)
    _line(error, str(mask), "float32", "class numbers")


@pytest.mark.parametrize("mode", ["1", "I;16"])
def test_masks_of_1_and_of_16_bits_are_read(tmp_path, mode):
    numbers = np.random.default_rng(0).integers(0, 2, (30, 40))
    for split in ("training", "validation"):
        _, mask = write_pair(tmp_path, split, 1)
        stored = numbers.astype(bool) if mode == "1" else numbers.astype(np.uint16)
        Image.fromarray(stored).save(mask)
        with Image.open(mask) as image:
            assert image.mode == mode
    layout_of_two = Segmentation(vocabulary="", classes=2, zero_is_unlabelled=False)
    data = DataSettings(name="own", root=str(tmp_path), segmentation=layout_of_two)
    pipeline = ade20k.test_pipeline(layout_of_two, 30, [1.0], False)
    found = ade20k.test_images(data, pipeline)[0]["data_samples"][0].gt_sem_seg.data
    assert (found[0].numpy() == numbers).all()
    assert {label for one in _reading(data) for label in one["data_samples"].gt_sem_seg.data.unique().tolist()} <= {
        0,
        1,
    }


@pytest.mark.parametrize(
    ("bits", "numbers"), [(4, [0, 1, 7, 15, 2, 3]), (2, [0, 1, 2, 3, 1, 0]), (1, [0, 1, 1, 0, 1, 1])]
)
def test_grey_masks_of_few_bits_keep_their_class_numbers(tmp_path, bits, numbers):
    """A PNG written by hand: one row of six grey values, which viewers stretch to 0..255."""
    row = int("".join(f"{number:0{bits}b}" for number in numbers).ljust(24, "0"), 2).to_bytes(3, "big")
    header = (6).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([bits, 0, 0, 0, 0])
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + row[: -(-6 * bits // 8)])), (b"IEND", b""))
    parts = [len(c).to_bytes(4, "big") + k + c + zlib.crc32(k + c).to_bytes(4, "big") for k, c in chunks]
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert open_mask(str(tmp_path / "x.png")).tolist() == [numbers]


def test_bad_test_masks_are_found_before_the_training(folder, tmp_path):
    for spoil in (lambda p: Image.new("RGB", (50, 30)).save(p), lambda p: Image.new("L", (49, 30)).save(p)):
        spoil(write_pair(tmp_path, "validation", 2, size=(50, 30))[1])
        assert complaint(ade20k.test_images, folder, ())
    Image.new("L", (50, 30)).save(write_pair(tmp_path, "validation", 2, size=(50, 30))[1], "JPEG")
    assert "is a JPEG, which alters class numbers" in complaint(ade20k.test_images, folder, ())


def test_the_exif_orientation_is_not_applied_and_a_mask_of_the_turned_image_is_refused(folder, tmp_path):
    image, mask = write_pair(tmp_path, "training", 2)
    pixels, exif = np.asarray(Image.open(image)), Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(pixels).save(image, quality=95, exif=exif)
    stored = np.asarray(Image.open(image))
    assert stored.shape == pixels.shape
    with pytest.warns(Notice, match="1 images carry an EXIF orientation .* which is not applied"):
        images = ade20k.train_images(folder, [ade20k.LoadImage(), ade20k.LoadLabels(folder.segmentation)])
    assert (images[1]["img"][..., ::-1] == stored).all()
    assert images[1]["gt_seg_map"].shape == stored.shape[:2]
    Image.open(mask).transpose(Image.Transpose.ROTATE_90).save(mask)
    assert "made for the image turned by its EXIF orientation" in complaint(ade20k.train_images, folder, ())


def test_a_sliver_is_refused_before_it_takes_gigabytes(folder, tmp_path):
    write_pair(tmp_path, "training", 2, size=(2020, 20))
    assert "more than 100 times as long as wide" in complaint(ade20k.train_images, folder, ())


def test_linked_subfolders_are_followed(tmp_path):
    names = ("images", "annotations")
    paths = write_pair(tmp_path, "training", 1), write_pair(tmp_path, "training", 2)
    for kind, path in zip(names, paths[1], strict=True):
        elsewhere = tmp_path / "elsewhere" / kind
        elsewhere.mkdir(parents=True)
        path.rename(elsewhere / path.name)
        (tmp_path / "ADEChallengeData2016" / kind / "training" / "kitchens").symlink_to(elsewhere)
    found = _reading(DataSettings(name="own", root=str(tmp_path)))
    assert len(found) == 2
    assert sorted("kitchens" in sample["data_samples"].img_path for sample in found) == [False, True]


def test_missing_masks_are_counted_and_the_first_five_named(folder, tmp_path):
    for number in range(4, 11):
        write_pair(tmp_path, "training", number)[1].unlink()
    with pytest.raises(DataError) as error:
        ade20k.train_images(folder, ())
    _line(error, "7 of 20 files are missing", "ADE_train_00000008.png")
    assert "ADE_train_00000009" not in str(error.value)


def test_a_list_that_names_missing_images(folder, tmp_path):
    folder.segmentation.lists = ["train.txt", "val.txt"]
    with pytest.raises(DataError, match=r"no list .*train\.txt"):
        ade20k.train_images(folder, ())
    (tmp_path / "train.txt").write_text("ADE_train_00000001\nADE_train_00000099\n")
    with pytest.raises(DataError) as error:
        ade20k.train_images(folder, ())
    _line(error, "2 of 4 files are missing", "ADE_train_00000099.jpg", "ADE_train_00000099.png")


def test_an_empty_list_is_told(folder, tmp_path):
    folder.segmentation.lists = ["train.txt", "val.txt"]
    (tmp_path / "train.txt").write_text("")
    with pytest.raises(DataError) as error:
        ade20k.train_images(folder, ())
    _line(error, str(tmp_path / "train.txt"), "names no image")


def test_no_image_left(folder):
    folder.segmentation.image_suffix = "_photo.jpg"
    with pytest.raises(DataError) as error:
        ade20k.train_images(folder, ())
    _line(error, "no image left", "ends in '_photo.jpg'")


def test_a_missing_folder_and_a_wrong_count(folder, tmp_path):
    folder.counts = {"segmentation": [20210, 2000]}
    with pytest.raises(DataError, match="has 3 images, expected 20,210"):
        ade20k.train_images(folder, ())
    with pytest.raises(DataError, match=r"no folder .*ADEChallengeData2016/images/training"):
        ade20k.train_images(DataSettings(name="x", root=str(tmp_path / "nowhere")), ())


# ---------------------------------------------------------------------------------------------- generated bad input


@pytest.fixture(scope="module")
def one_pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("one")
    return DataSettings(name="own", root=str(root)), *write_pair(root, "training", 1, size=(12, 9))


@given(
    which=st.sampled_from([0, 1]),
    content=st.binary(max_size=40),
    start=st.floats(0, 1),
    length=st.integers(0, 60),
    end=st.floats(0.1, 2),
)
def test_damaged_images_and_masks_are_read_or_told_in_a_line(one_pair, which, content, start, length, end):
    data, *files = one_pair
    sound = [file.read_bytes() for file in files]
    place = int(start * len(sound[which]))
    damaged = sound[which][:place] + content + sound[which][place + length :]
    files[which].write_bytes(damaged[: int(end * len(damaged))])
    complaint(_pixels, data)
    for file, whole in zip(files, sound, strict=True):
        file.write_bytes(whole)


@given(mode=st.sampled_from(["1", "L", "P", "LA", "RGB", "RGBA", "I", "I;16", "F", "CMYK"]), value=st.integers(0, 255))
def test_masks_of_any_mode_are_read_or_told_in_a_line(one_pair, mode, value):
    data, _, mask = one_pair
    sound = mask.read_bytes()
    Image.new("L", (12, 9), value).convert(mode).save(mask, "TIFF")
    complaint(_pixels, data)
    mask.write_bytes(sound)


@given(st.one_of(st.binary(max_size=60), st.text("ADE_train01/.\n\0é ", max_size=60).map(str.encode)))
def test_any_list_of_names_is_read_or_told_in_a_line(one_pair, content):
    data = dataclasses.replace(one_pair[0], segmentation=Segmentation(lists=["train.txt", "val.txt"]))
    Path(data.root, "train.txt").write_bytes(content)
    complaint(_pixels, data)


def _pixels(data):
    images = ade20k.train_images(data, [ade20k.LoadImage(), ade20k.LoadLabels(data.segmentation)])
    return [images[place] for place in range(len(images))]
