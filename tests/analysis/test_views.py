"""Views: every aspect becomes multiples of the patch size, a model of one size sees the central square."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from regvit_lightning.analysis import views
from regvit_lightning.errors import Notice, UserError
from regvit_lightning.models.sources import load_backbone

NANO = load_backbone("random-vitn_reg4", image_size=64)  # patches of 8 px


def gradient(width, height):
    across = np.linspace(0, 255, width, dtype=np.uint8)[None].repeat(height, 0)
    return Image.fromarray(np.stack([across] * 3, axis=2))


@hypothesis_settings(max_examples=30)
@given(st.integers(40, 300), st.integers(40, 300), st.integers(16, 96))
def test_any_aspect_is_kept_to_half_a_patch(width, height, size):
    seen = views.view(NANO, gradient(width, height), size)
    rows, columns = (side / 8 for side in seen.pixels.shape[1:])
    assert (rows, columns) == (int(rows), int(columns))
    scale = size / min(width, height) / 8
    assert abs(rows - height * scale) <= 0.5 + 1e-9
    assert abs(columns - width * scale) <= 0.5 + 1e-9
    assert seen.region == (0, 0, width, height)


def test_the_models_own_size_is_the_default():
    assert views.view(NANO, gradient(128, 64), None).pixels.shape == (3, 64, 128)


def test_a_model_of_one_size_sees_the_central_square(monkeypatch):
    monkeypatch.setattr(NANO, "any_size", False)
    with pytest.warns(Notice, match="takes images of 64 px only: size=96 is not used"):
        seen = views.view(NANO, gradient(200, 100), 96)
    assert seen.pixels.shape == (3, 64, 64)
    assert seen.region == (50, 0, 150, 100)
    assert abs(int(seen.pixels[0, 32, 0]) - 255 / 4) < 3


@pytest.mark.parametrize(("shape", "size"), [((10, 10), 8), ((64, 64), 8 * 150), ((9000, 64), 64 * 8)])
def test_too_few_or_too_many_patches_are_one_line(shape, size):
    with pytest.raises(UserError, match="from 2 × 2 to 20,000 patches are shown; give another size="):
        views.view(NANO, gradient(*shape), size)


def test_normalised_images_have_their_pixels_back():
    pixels = torch.randint(0, 256, (3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (NANO.mean, NANO.std))
    seen = views.of_normalised(NANO, (pixels / 255 - mean) / std)
    assert torch.equal(seen.pixels, pixels)
    assert seen.region == (0, 0, 24, 16)
