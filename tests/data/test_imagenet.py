"""Class folders: index, splits, decoding, and what happens to broken files."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from regvit_lightning.data import imagenet
from regvit_lightning.data.imagenet import Drawn, ImageFiles, Ordered, collate, index, train_files
from regvit_lightning.data.images import open_image, open_readable
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.module import accumulation
from regvit_lightning.data.stream import Stream, StreamSampler
from regvit_lightning.data.transforms import centre_crop, normalise, not_elongated, random_resized_crop, three_augment
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import SettingsError


@pytest.fixture
def folder(tmp_path):
    """Two classes with 6 and 4 images."""
    generator = np.random.default_rng(0)
    for name, count in (("cat", 6), ("dog", 4)):
        (tmp_path / name).mkdir()
        for number in range(count):
            picture = Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8))
            picture.save(tmp_path / name / f"{number}.png")
    return tmp_path


def truncate(path):
    path.write_bytes(path.read_bytes()[:200])


def test_the_index_agrees_with_torchvisions(folder):
    ours, theirs = index(folder), ImageFolder(str(folder))
    assert list(ours.classes) == theirs.classes
    assert [(ours.path(place), ours.labels[place]) for place in range(len(ours))] == theirs.samples


def test_the_index_agrees_with_torchvisions_on_photographs(hands):
    theirs = ImageFolder(f"{hands.root}/train")
    ours = train_files(hands)
    assert [ours.path(place) for place in range(len(ours))] == [path for path, _ in theirs.samples]
    assert len(imagenet.test_files(hands).classes) == 10


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: None, "no folder .*missing.*; get it so"),
        (lambda f: (f / "missing").mkdir(), "holds no class folder"),
        (lambda f: (f / "missing" / "empty").mkdir(parents=True), "class folder .*empty holds no image"),
    ],
)
def test_a_missing_data_set_is_named_with_how_to_get_it(folder, spoil, message):
    spoil(folder)
    with pytest.raises(DataError, match=message) as error:
        index(folder / "missing", "get it so")
    assert "\n" not in str(error.value)


def test_train_and_test_must_have_the_same_classes(tiny, tmp_path):
    import shutil

    root = tmp_path / "odd"
    shutil.copytree(tiny.root, root)
    shutil.rmtree(root / "imagenet" / "val" / "plain_box")
    with pytest.raises(DataError, match="different classes: plain_box"):
        imagenet.test_files(DataSettings(name="odd", root=str(root)))


def test_counts_are_checked_where_they_are_known(tiny):
    known = DataSettings(name="known", root=tiny.root, counts={"imagenet": [97, 32]}, get="fetch it")
    assert len(imagenet.test_files(known)) == 32
    with pytest.raises(DataError, match=r"holds 96 images, expected 97; fetch it"):
        train_files(known)


def test_half_written_mini_data_is_refused(tiny, tmp_path):
    with pytest.raises(DataError, match="half-written; make data"):
        train_files(DataSettings(name="mini", root=str(tmp_path), rendered=True, get="make data"))
    assert len(train_files(DataSettings(name="mini", root=tiny.root, rendered=True))) == 96


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 5),
)
def test_held_out_split_is_a_stratified_partition(counts, share, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    paths = np.array([str(place).encode() for place in range(len(labels))])
    files = ImageFiles(tuple(map(str, range(len(counts)))), paths, labels)
    kept, held = files.split(share, seed)
    assert sorted([*kept.paths, *held.paths]) == sorted(paths)
    for label, count in enumerate(counts):
        assert (held.labels == label).sum() == min(max(round(share * count), 1), count - 1)
    assert [part.paths.tolist() for part in files.split(share, seed)] == [kept.paths.tolist(), held.paths.tolist()]


def test_evaluation_stops_at_a_broken_file_and_names_it(folder):
    truncate(folder / "cat" / "3.png")
    ordered = Ordered(index(folder), centre_crop(36, 32))
    with pytest.raises(DataError, match=r"unreadable image .*3\.png"):
        ordered[3]
    (folder / "cat" / "3.png").write_text("no image")
    with pytest.raises(DataError, match=r"3\.png: not an image"):
        open_image(str(folder / "cat" / "3.png"))


def test_training_replaces_a_broken_file_and_reports_it(folder):
    truncate(folder / "cat" / "3.png")
    truncate(folder / "cat" / "4.png")
    drawn = Drawn(index(folder), centre_crop(36, 32), seed=0, replace=True)
    batch = collate([drawn[0, 2], drawn[1, 3], drawn[2, 5]])
    assert batch["unreadable"].tolist() == [3, 4]
    torch.testing.assert_close(batch["image"][1], batch["image"][2])
    assert batch["image"].dtype == torch.uint8
    with pytest.raises(DataError, match=r"unreadable image .*3\.png"):
        Drawn(index(folder), centre_crop(36, 32), seed=0, replace=False)[0, 3]


def test_after_the_last_image_comes_the_first(folder):
    for path in sorted(folder.rglob("*.png"))[-3:]:
        truncate(path)
    files = index(folder)
    _, number, unreadable = open_readable(files, files.open, 8)
    assert (number, unreadable) == (0, [8, 9])
    for path in folder.rglob("*.png"):
        truncate(path)
    with pytest.raises(DataError, match=r"unreadable image .*dog/1\.png"):  # the last one that was tried
        open_readable(index(folder), index(folder).open, 8)


def test_a_worker_process_hands_the_line_on(folder):
    truncate(folder / "cat" / "3.png")
    loader = DataLoader(Ordered(index(folder), centre_crop(36, 32)), batch_size=2, num_workers=1)
    with pytest.raises(DataError) as error:
        list(loader)
    assert str(error.value).startswith(f"unreadable image {folder}/cat/3.png: ")
    assert "\n" not in str(error.value)


def test_augmentation_depends_on_seed_and_position_only(folder):
    transform = three_augment(32, "simple", 0.3)
    first, again, other = (Drawn(index(folder), transform, seed, replace=True) for seed in (0, 0, 1))
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    a = first[7, 2]["image"]
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(6)
    assert torch.equal(a, again[7, 2]["image"])
    assert not torch.equal(a, again[8, 2]["image"])
    assert not torch.equal(a, other[7, 2]["image"])


def test_each_pass_shows_every_image_once():
    stream = Stream(size=10, batch_size=4, steps=5, seed=3)
    drawn = torch.cat([stream.indices(step) for step in range(5)]).view(2, 10)
    assert torch.equal(drawn.sort(dim=1).values, torch.arange(10).expand(2, 10))
    assert not torch.equal(drawn[0], drawn[1])


def test_repeated_augmentation_repeats_a_third_of_the_images():
    stream = Stream(size=12, batch_size=6, steps=2, seed=0, repeats=3)
    drawn = torch.cat([stream.indices(step) for step in range(2)])
    assert drawn.unique(return_counts=True)[1].tolist() == [3, 3, 3, 3]
    for batch in drawn.view(2, 6):  # mixing pairs each image with its neighbour: never with itself
        assert not (batch == batch.roll(1)).any()


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 50),
    share=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    world=st.integers(1, 3),
    start=st.integers(0, 3),
)
def test_a_step_has_the_same_images_on_any_number_of_devices(size, share, accumulate, world, start):
    stream = Stream(size, share * accumulate * world, steps=4, seed=1)
    alone = [draws for step in StreamSampler(stream, start=start) for draws in step]
    together = [list(StreamSampler(stream, accumulate, rank, world, start)) for rank in range(world)]
    parts = [draw for step in zip(*together, strict=True) for part in step for draw in part]
    assert sorted(parts) == sorted(alone)
    assert all(len(batch) == share for rank in together for batch in rank)
    assert len(StreamSampler(stream, accumulate, 0, world, start)) == 4 * accumulate
    assert [position for position, _ in alone] == list(range(start * stream.batch_size, 4 * stream.batch_size))


@pytest.mark.parametrize(
    ("batch", "world", "device", "pieces"), [(1024, 8, 128, 1), (1024, 1, 128, 8), (256, 2, 1000, 1), (96, 1, 50, 2)]
)
def test_accumulation_keeps_the_global_batch(batch, world, device, pieces):
    assert accumulation(batch, world, device) == pieces


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(SettingsError, match="batch_size=10 is not a multiple of the 4 devices"):
        accumulation(10, 4, 8)


def test_evaluation_view_is_the_centre_of_the_resized_image():
    picture = Image.fromarray(np.arange(64 * 128 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 128, 3))
    seen = centre_crop(64, 32)(picture)
    assert torch.equal(seen, torch.from_numpy(np.array(picture)[16:48, 48:80]).permute(2, 0, 1))


def test_normalise():
    images = torch.tensor([0, 255]).to(torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    seen = normalise(images, torch.tensor([0.5, 0.25, 0.0]), torch.tensor([0.5, 0.25, 1.0]))
    assert seen[:, :, 0, 0].tolist() == [[-1, -1, 0], [1, 3, 1]]


def test_three_augment_always_takes_one_of_the_three():
    red = Image.new("RGB", (48, 48), (200, 10, 10))
    transform = three_augment(32, "simple", 0.0)
    kinds = {"grey": 0, "solarised": 0, "blurred": 0}
    for number in range(90):
        with seeds.drawn_from(number):
            pixel = transform(red)[:, 16, 16].tolist()
        kinds["grey" if pixel[0] == pixel[1] else "solarised" if pixel[0] == 55 else "blurred"] += 1
        assert pixel[0] in (55, 200) or pixel[0] == pixel[1] == pixel[2]
    assert min(kinds.values()) > 15


def test_simple_crop_keeps_the_scale_and_resized_crop_does_not():
    buffer = io.BytesIO()
    Image.new("RGB", (96, 64)).save(buffer, format="PNG")
    picture = Image.open(buffer)
    for transform in (three_augment(32, "simple", 0.3), three_augment(32, "resized", 0.3), random_resized_crop(32)):
        assert transform(picture).shape == (3, 32, 32)
    with pytest.raises(SettingsError, match="crop=odd"):
        three_augment(32, "odd", 0.3)


@pytest.mark.parametrize("size", [(20_000, 2), (2, 20_000)])
def test_a_sliver_does_not_take_gigabytes(size):
    """Its middle is resized alone: 200 × 2 pixels become 25,600 × 256."""
    rows = np.arange(size[1] * size[0]).reshape(size[1], size[0]) % 251
    image = Image.fromarray(np.repeat(rows[..., None], 3, 2).astype(np.uint8))
    for view in (centre_crop(256, 224), three_augment(224, "simple", 0.3)):
        assert view(image).shape == (3, 224, 224)
    assert max(not_elongated(image).size) == 200


def test_an_image_of_a_usual_shape_is_left_as_it_is():
    image = Image.new("RGB", (2000, 20))
    assert not_elongated(image) is image
