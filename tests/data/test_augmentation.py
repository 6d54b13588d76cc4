"""Training augmentation: torchvision's transforms make the same draws and give the same pixels, image by image."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from regvit_lightning.data.augmentation import (
    Blur,
    Jitter,
    ResizedCrop,
    ShiftedCrop,
    as_tensor,
    indices,
    one_of_three,
    shifted_hue,
)
from regvit_lightning.data.transforms import BICUBIC, Steps, random_resized_crop, three_augment
from regvit_lightning.pretrain.dinov2.multi_crop import Crops, MultiCrop
from regvit_lightning.runtime import seeds

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
SMOOTH = NOISE.resize((90, 70), Image.Resampling.BICUBIC)
DRAWS = 60


class PillowBlur(v2.Transform):
    """DeiT's: torchvision has no blur by Pillow."""

    _transformed_types = (Image.Image,)

    def make_params(self, flat_inputs):
        return {"radius": torch.empty(()).uniform_(0.1, 2.0).item()}

    def transform(self, inpt, params):
        return inpt.filter(ImageFilter.GaussianBlur(params["radius"]))


def drawn(transform, image=SMOOTH):
    for draw in range(DRAWS):
        with seeds.drawn_from(draw):
            yield transform(image)


def resized_crop(size, *scale):
    return v2.RandomResizedCrop(size, scale=scale, interpolation=BICUBIC, antialias=True)


def test_one_of_three_is_torchs_draw_and_leaves_its_generator_as_that_does():
    found, expected = [], []
    for seed in range(3000):
        torch.manual_seed(seed)
        found.append((one_of_three(), torch.rand(()).item()))
        torch.manual_seed(seed)
        expected.append((int(torch.multinomial(torch.ones(3), 1)), torch.rand(()).item()))
    assert found == expected
    assert {number for number, _ in found} == {0, 1, 2}


def test_indices_that_many_crops_share_cannot_be_changed():
    assert indices(-2, 5, 6).tolist() == [2, 1, 0, 1, 2, 3]
    assert indices(2, 5, 6).tolist() == [2, 3, 4, 3, 2, 1]
    with pytest.raises(ValueError, match="read-only"):
        indices(-2, 5, 6)[0] = 0


@pytest.mark.parametrize("crop", ["simple", "resized"])
def test_three_augment_is_torchvisions(crop):
    simple = [v2.Resize(24, BICUBIC, antialias=True), v2.RandomCrop(24, padding=4, padding_mode="reflect")]
    expected = v2.Compose(
        [
            *(simple if crop == "simple" else [resized_crop(24, 0.08, 1.0)]),
            v2.RandomHorizontalFlip(),
            v2.RandomChoice([v2.Grayscale(3), v2.RandomSolarize(128, p=1.0), PillowBlur()]),
            v2.ColorJitter(0.3, 0.3, 0.3),
            v2.PILToTensor(),
        ]
    )
    for found, wanted in zip(drawn(three_augment(24, crop, 0.3)), drawn(expected), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("size", [(96, 96), (90, 40), (30, 200), (1, 90)])
def test_crops_are_torchvisions(size):
    image = SMOOTH.resize(size)
    for flip, ours in (
        ([], Steps((ResizedCrop(16, (0.08, 1.0)),))),
        ([v2.RandomHorizontalFlip()], random_resized_crop(16)),
    ):
        expected = v2.Compose([resized_crop(16, 0.08, 1.0), *flip, v2.PILToTensor()])
        for found, wanted in zip(drawn(ours, image), drawn(expected, image), strict=True):
            assert torch.equal(found, wanted)


def test_multi_crop_is_torchvisions_but_for_the_rounding_of_halves_in_the_blur():
    """The blur sums in another order: now and then a value next to a half is rounded the other way."""

    def view(size, scale, blur, solarise):
        return v2.Compose(
            [
                resized_crop(size, *scale),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(9, (0.1, 2.0))], p=blur),
                v2.RandomSolarize(128, p=solarise),
                v2.PILToTensor(),
            ]
        )

    near, wide = (0.05, 0.32), (0.32, 1.0)
    local = [view(16, near, 0.5, 0.0)] * 2
    expected = [*local, view(32, wide, 1.0, 0.0), view(32, wide, 0.1, 0.2)]
    found = drawn(MultiCrop(Crops(32, wide, 2, 16, near, 0.2, False, (0.1, 2.0))))
    off = []
    for views, wanted in zip(found, drawn(lambda image: [view(image) for view in expected]), strict=True):
        for ours, theirs in zip([*views["local"], *views["global"]], wanted, strict=True):
            difference = (ours.int() - theirs.int()).abs()
            off.append((difference > 0).float().mean())
            assert int(difference.clamp(max=255 - difference).max()) <= 1  # 127 and 128 are both solarised to 127
    assert float(torch.stack(off).mean()) < 0.001


@pytest.mark.parametrize("share", [-0.5, -0.1, 0.0, 0.07, 0.5])
def test_a_shifted_hue_is_torchvisions(share):
    assert shifted_hue(NOISE, share).tobytes() == reference.adjust_hue(NOISE, share).tobytes()


@pytest.mark.parametrize("side", [(9, 16), (64, 40)])
def test_the_blur_is_torchvisions_at_any_size(side):
    image = as_tensor(NOISE.resize(side))
    expected = reference.gaussian_blur(image, [9, 9], [1.3])
    assert int((Blur((1.3, 1.3))(image).int() - expected.int()).abs().max()) <= 1


def test_without_strength_nothing_is_jittered():
    assert Jitter(0.0, 0.0, 0.0)(NOISE) is NOISE


def test_every_window_of_the_reflected_image_is_drawn():
    image = NOISE.crop((0, 0, 10, 8))
    padded = np.pad(np.asarray(image), ((2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = {padded[top : top + 8, left : left + 8].tobytes() for top in range(5) for left in range(7)}
    with seeds.drawn_from(0):
        assert {ShiftedCrop(8, 2)(image).tobytes() for _ in range(400)} == windows


def test_transforms_reach_worker_processes_that_are_not_forked():
    for transform in (three_augment(8, "simple", 0.3), three_augment(8, "resized", 0.3), random_resized_crop(8)):
        assert pickle.loads(pickle.dumps(transform))(NOISE).shape == (3, 8, 8)
