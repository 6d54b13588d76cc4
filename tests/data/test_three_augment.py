"""Augmenting a batch at once: the bits of augmenting its images one by one."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

from regvit_lightning.data.imagenet import Drawn, index
from regvit_lightning.data.three_augment import BLURRED, GREY, SOLARISED, Drawing
from regvit_lightning.data.transforms import three_augment

SIZE, DRAWS = 16, 120


@pytest.fixture
def files(tmp_path):
    """Images of several shapes, among them as small as the crop, and one that cannot be read."""
    (tmp_path / "train" / "cat").mkdir(parents=True)
    for number, (height, width) in enumerate([(16, 16), (20, 31), (40, 18), (16, 24)]):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "train" / "cat" / f"{number}.png")
    (tmp_path / "train" / "cat" / "4.png").write_bytes(b"no image")
    return index(tmp_path / "train")


def test_a_batch_has_the_bits_of_its_images(files):
    draws = [(position, position % 5) for position in range(DRAWS)]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    samples = Drawn(files, three_augment(SIZE, "simple", 0.0), 7, True).__getitems__(draws)
    assert torch.equal(torch.get_rng_state(), state)
    # Without the fixed steps apart from the rest, as a plain callable: no image is stored, none is drawn with others.
    plain = three_augment(SIZE, "simple", 0.0)
    one_by_one = Drawn(files, lambda image: plain(image), 7, True)
    for sample, draw in zip(samples, draws, strict=True):
        expected = one_by_one[draw]
        assert torch.equal(sample["image"], expected["image"])
        assert (sample["label"], sample["unreadable"]) == (expected["label"], expected["unreadable"])
    assert sum(bool(sample["unreadable"]) for sample in samples) == DRAWS // 5


def test_every_image_of_a_batch_gets_one_of_three_changes(files):
    # A flat grey-blue image tells the three apart: grey has equal channels, solarised none from 128 on.
    flat = np.full((SIZE, SIZE, 3), (200, 130, 140), np.uint8)
    together = three_augment(SIZE, "simple", 0.0).together
    torch.manual_seed(0)
    draws = [together.draw(flat) for _ in range(DRAWS)]
    views = together([flat] * DRAWS, draws)
    grey = (views[:, 0] == views[:, 1]).flatten(1).all(dim=1)
    dark = (views < 128).flatten(1).all(dim=1)
    blurred = (views == torch.tensor([200, 130, 140], dtype=torch.uint8).view(3, 1, 1)).flatten(1).all(dim=1)
    assert torch.equal(grey.int() + dark.int() + blurred.int(), torch.ones(DRAWS, dtype=torch.int))
    for kind in (grey, dark, blurred):  # binomial with p = 1/3: four standard deviations around 40
        assert 19 <= int(kind.sum()) <= 61
    assert views[grey][0, 0, 0, 0] == Image.new("RGB", (1, 1), (200, 130, 140)).convert("L").getpixel((0, 0))


@pytest.mark.parametrize("change", [GREY, SOLARISED, BLURRED])
def test_a_batch_may_lack_any_change(change):
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    together = three_augment(SIZE, "simple", 0.0).together
    (view,) = together([noise], [Drawing(0, 0, False, change, 1.0)])
    image = Image.fromarray(noise)
    expected = {
        GREY: image.convert("L").convert("RGB"),
        SOLARISED: ImageOps.solarize(image, 128),
        BLURRED: image.filter(ImageFilter.GaussianBlur(1.0)),
    }
    assert np.array_equal(view.permute(1, 2, 0), expected[change])


def test_with_colour_jitter_images_are_augmented_one_by_one(files):
    assert three_augment(SIZE, "simple", 0.3).together is None
    draws = [(0, 1), (1, 2)]
    jittered = Drawn(files, three_augment(SIZE, "simple", 0.3), 7, True)
    assert torch.equal(jittered.__getitems__(draws)[1]["image"], jittered[draws[1]]["image"])
