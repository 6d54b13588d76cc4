"""The view of one image against timm's own transform, and all kinds of input against each other."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from regvit_lightning.errors import UserError
from regvit_lightning.models.sources import load_backbone
from regvit_lightning.models.transform import Transform

MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch16_224", "vit_tiny_patch16_224.augreg_in21k"])
def test_it_is_that_of_timm(pixels, name):
    backbone = load_backbone(f"random-timm/{name}", image_size=64)
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    expected = timm.data.create_transform(**{**config, "interpolation": "bicubic"})(Image.fromarray(pixels))
    assert backbone.transform.resize > backbone.transform.crop == config["input_size"][-1]
    torch.testing.assert_close(backbone.transform(Image.fromarray(pixels)), expected)


def test_every_kind_of_input_gives_the_same_numbers(pixels):
    view = Transform(32, 24, MEAN, STD)
    expected = view(Image.fromarray(pixels))
    assert expected.shape == (3, 24, 24)
    assert expected.dtype == torch.float32
    first = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    for image in (pixels, torch.from_numpy(pixels), first, torch.from_numpy(first), pixels[:, ::-1][:, ::-1]):
        assert torch.equal(view(image), expected)
    assert not torch.equal(view(pixels[:, ::-1]), expected)


def test_mean_and_std_are_of_images_in_0_to_1():
    white, black = (torch.full((3, 40, 40), value, dtype=torch.uint8) for value in (255, 0))
    view = Transform(32, 24, MEAN, STD)
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        assert view(white)[channel].unique().item() == pytest.approx((1 - mean) / std)
        assert view(black)[channel].unique().item() == pytest.approx(-mean / std)


def test_the_short_side_is_resized_and_the_centre_kept():
    """A white square in the middle of a wide image: the crop of 16 of 32 px shows the middle half of the height."""
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[16:48, 48:80] = 255
    assert (Transform(32, 16, (0.0,) * 3, (1.0,) * 3)(pixels)[:, 1:-1, 1:-1] > 0.9).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_images_of_other_modes_are_read_as_rgb(pixels, mode):
    image = Image.fromarray(pixels).convert(mode)
    assert torch.equal(Transform(32, 24, MEAN, STD)(image), Transform(32, 24, MEAN, STD)(image.convert("RGB")))


@pytest.mark.parametrize(("shape", "channels_last"), [((3, 40, 3), True), ((3, 3, 40), False)])
def test_a_side_of_three_pixels_is_no_channel(shape, channels_last):
    """Arrays have their channels last and tensors first, where both could be."""
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    last = image if channels_last else image.transpose(1, 2, 0)
    view = Transform(8, 8, MEAN, STD)
    assert torch.equal(view(image), view(Image.fromarray(np.ascontiguousarray(last))))
    first = np.ascontiguousarray(image.transpose(1, 2, 0))
    assert torch.equal(view(torch.from_numpy(image)), view(Image.fromarray(first)))


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (torch.zeros(3, 8, 8), r"torch\.float32 \(3, 8, 8\)"),
        (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"torch\.uint8 \(2, 3, 8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \(8, 8, 4\)"),
        ("photo.jpg", "str"),
    ],
)
def test_what_is_no_image(image, kind):
    with pytest.raises(UserError, match=rf"expected a PIL image, or uint8 of \(H, W, 3\).* one image; got {kind}$"):
        Transform(32, 24, MEAN, STD)(image)
