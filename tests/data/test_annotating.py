"""Looking at test images once: every kind of data set by hand, in the order in which tasks score its images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regvit_lightning.data import ade20k, annotating, digest, imagenet, properties
from regvit_lightning.data.image_sets import BoxedSet
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.mini import properties as rendered
from regvit_lightning.settings import SettingsError
from tests.conftest import TINY
from tests.data.one_line import complaint
from tests.data.test_ade20k import write_pair
from tests.data.test_nyu import scene, write_bts

BOX = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def by_name(annotated):
    return {one.name: list(one.values) for one in annotated.properties}


def picture(file, seed, size=(50, 40)):
    """A picture whose texture differs from seed to seed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 20 * seed + 10, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    return properties.pixels(Image.open(file).convert("RGB"))


def annotation(file, *objects, size=""):
    """A VOC file of (name, corners from 1 on, both ends inside)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"<annotation>{size}{''.join(BOX.format(name, *box) for name, *box in objects)}</annotation>")


# ---------------------------------------------------------------------------------------------------------- classes


def test_rendered_images_are_described_by_the_renderer(tiny):
    data = replace(tiny, rendered=True, rendering=TINY)
    shown = []
    found = annotating.annotate(data, "imagenet", lambda done, total: shown.append((done, total)))
    files = imagenet.test_files(data)
    assert [found.classes[label] for (label,) in found.labels] == [
        Path(files.path(index)).parent.name for index in range(len(files))
    ]
    assert [one.name for one in found.properties] == [name for name, _, _ in rendered.NAMED.values()]
    values = by_name(found)
    assert [f"{t}_{s}" for t, s in zip(values["object texture"], values["object shape"], strict=True)] == [
        Path(files.path(index)).parent.name for index in range(len(files))
    ]
    grey = [np.asarray(files.open(index), float).mean() for index in range(len(files))]
    assert values["brightness"] == pytest.approx(grey, abs=0.3)
    assert shown == [(done, 32) for done in range(1, 33)]
    assert found.digests == digest.digests(data, "imagenet")
    assert list(found.digests) == ["rendered"]


@pytest.fixture
def photographs(tmp_path):
    """Cats 0 and 1, dog 2; their measured properties beside them."""
    measured = []
    for split in ("train", "val"):
        files = [tmp_path / "imagenet" / split / name for name in ("cat/0.png", "cat/1.png", "dog/2.png")]
        measured = [picture(file, number) for number, file in enumerate(files)]
    return DataSettings(name="own", root=str(tmp_path)), measured


def test_photographs_have_measured_properties_and_no_others(photographs):
    data, measured = photographs
    found = annotating.annotate(data, "imagenet")
    assert (found.section, list(found.classes), found.labels) == ("imagenet", ["cat", "dog"], [[0], [0], [1]])
    texture, clutter = zip(*measured, strict=True)
    assert by_name(found) == {"texture": list(texture), "clutter": list(clutter)}
    assert found.digests == {"test": digest.digests(data, "imagenet")["test"]}
    assert len(set(by_name(found)["texture"])) == 3


def test_boxes_beside_photographs_give_size_and_number(photographs):
    """Of 50 × 40 pixels 1..10 × 1..20 are a tenth; an image without a file of boxes is not known."""
    data, _ = photographs
    folder = Path(data.root, "imagenet", annotating.BOXES_OF_IMAGENET)
    annotation(folder / "0.xml", ("n01", 1, 1, 10, 20), ("n01", 3, 3, 4, 4))
    annotation(folder / "2.xml", ("n02", 1, 1, 50, 20), size="<size><width>100</width><height>80</height></size>")
    values = by_name(annotating.annotate(data, "imagenet"))
    assert values["object size"] == [pytest.approx(10.0), None, pytest.approx(12.5)]  # of the size that it states
    assert values["objects"] == [2, None, 1]


def test_an_unreadable_picture_or_annotation_is_one_line(photographs):
    data, _ = photographs
    annotation(Path(data.root, "imagenet", annotating.BOXES_OF_IMAGENET, "1.xml"))
    assert "1.xml has no object" in complaint(annotating.annotate, data, "imagenet")
    Path(data.root, "imagenet", "val", "cat", "0.png").write_bytes(b"no picture")
    assert "0.png" in complaint(annotating.annotate, data, "imagenet")


# ------------------------------------------------------------------------------------------------ masks and depth


def test_masks_give_segments(tmp_path):
    """ADE's 0 has no label: two quarters of one class that touch at a corner are a segment, the stripe another."""
    mask = np.zeros((30, 40), np.uint8)
    mask[:15, :20] = mask[15:, 20:] = 4
    striped = np.full((30, 40), 9, np.uint8)
    striped[10:20] = 12
    for split in ("training", "validation"):
        write_pair(tmp_path, split, 1, mask)
        write_pair(tmp_path, split, 2, striped)
    data = DataSettings(name="own", root=str(tmp_path))
    found = annotating.annotate(data, "segmentation")
    values = by_name(found)
    assert values["segments"] == [1, 3]
    assert values["segment size"] == [pytest.approx(50.0), pytest.approx(100 / 3)]
    images = [Image.open(bytes(image).decode()) for image, _ in ade20k.test_images(data, []).paths]
    assert values["texture"] == [properties.pixels(image)[0] for image in images]
    assert (found.labels, found.classes) == ([[], []], ())
    assert list(found.digests) == ["test"]


def test_a_mask_that_does_not_fit_is_one_line(tmp_path):
    for split in ("training", "validation"):
        write_pair(tmp_path, split, 1, np.full((30, 40), 200, np.uint8))
    line = complaint(annotating.annotate, DataSettings(name="own", root=str(tmp_path)), "segmentation")
    assert "ADE_val_00000001.png" in line
    assert "200" in line


def test_depth_is_the_median_of_what_was_measured(tmp_path):
    """Three quarters are not measured; of the rest two thirds are 2 m and a third is 5 m away."""
    image, depth = scene(0)
    far = np.zeros_like(depth)
    far[:40], far[40:120] = 5000, 2000
    data = write_bts(tmp_path, [(image, depth)], [(image, far), (image, np.full_like(depth, 1500))])
    found = annotating.annotate(data, "depth")
    assert by_name(found)["depth"] == pytest.approx([2.0, 1.5])
    assert (found.labels, list(found.digests)) == ([[], []], ["test"])


# ------------------------------------------------------------------------------------------------------------ boxes


def test_boxes_give_every_class_of_an_image_once(tmp_path):
    folder = tmp_path / "animals"
    for number in range(3):
        picture(folder / "JPEGImages" / f"{number}.jpg", number)
    annotation(folder / "Annotations" / "0.xml", ("dog", 1, 1, 10, 20), ("cat", 1, 1, 5, 5), ("dog", 2, 2, 4, 4))
    annotation(folder / "Annotations" / "1.xml", ("ant", 1, 1, 50, 40))
    annotation(folder / "Annotations" / "2.xml", ("", 1, 1, 25, 40))
    boxed = {"animals": BoxedSet("voc", "animals", names="all")}
    data = DataSettings(name="own", root=str(tmp_path), discovery=boxed)
    found = annotating.annotate(data, "animals")
    assert (found.classes, found.labels) == (["ant", "cat", "dog"], [[1, 2], [0], []])
    values = by_name(found)
    assert values["object size"] == pytest.approx([10.0, 100.0, 50.0])
    assert values["objects"] == [3, 1, 1]
    assert len(values["texture"]) == len(values["clutter"]) == 3
    assert list(found.digests) == ["all"]


def test_a_set_that_there_is_not_is_named(tmp_path):
    with pytest.raises(SettingsError, match="unicorns"):
        annotating.annotate(DataSettings(name="own", root=str(tmp_path)), "unicorns")
    assert "imagenet" in complaint(annotating.annotate, DataSettings(name="own", root=str(tmp_path)), "imagenet")
