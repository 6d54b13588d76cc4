"""Maps of a model with a planted neuron: outliers are the flat patches, attention is that of the unfused block."""

import numpy as np
import pytest
import torch
from torch import nn

from regvit_lightning.analysis import norms, token_maps
from regvit_lightning.analysis.token_maps import Choice
from regvit_lightning.analysis.views import View
from regvit_lightning.errors import UserError
from regvit_lightning.models.foreign import ForeignBackbone
from tests.analysis.planted import planted

MADE = planted(block=3, registers=2, images=3)
HEIGHT, WIDTH = 64, 64


def view(pixels):
    return View(pixels, (0, 0, pixels.shape[2], pixels.shape[1]))


def none(backbone, last):
    return None


def maps(choice=None, images=MADE.images, backbone=MADE.backbone):
    return token_maps.measure(backbone, [view(image) for image in images], choice or Choice(), none)


def test_outliers_are_the_planted_ones_and_norms_those_of_the_report():
    expected = norms.measure(MADE.backbone, MADE.normalised()).raw
    for block in (1, 2, -1):
        found = maps(Choice(block=block))
        assert found.norm_block == (4 if block < 0 else block + 1)
        for index, one in enumerate(found.images):
            np.testing.assert_allclose(one.norms, expected[index, block], rtol=1e-4)
            assert (one.outliers == (MADE.flat[index].numpy() if block != 1 else False)).all()
    assert found.rule == "3 × median"
    assert found.cutoff == pytest.approx(3 * float(expected[:, -1].median()), rel=1e-4)


def test_attention_is_that_of_the_unfused_block():
    whole = MADE.backbone.last_block(MADE.normalised()).attention
    for index, one in enumerate(maps().images):
        np.testing.assert_allclose(one.heads, whole.cls[index], atol=1e-6)
        np.testing.assert_allclose(one.cls, whole.cls[index].mean(0), atol=1e-6)
        np.testing.assert_allclose(one.registers, whole.registers[index].mean(0), atol=1e-6)
    first = maps(Choice(attention_block=0)).images[0]
    assert not np.allclose(first.heads, whole.cls[0], atol=1e-6)


def test_similarity_is_the_cosine_of_the_output():
    output = MADE.backbone(MADE.normalised()).patches
    one = maps(Choice(patch=(1, 6), all_similarities=True)).images[2]
    expected = torch.cosine_similarity(output[2], output[2, 1, 6], dim=-1)
    np.testing.assert_allclose(one.similarity, expected, atol=1e-5)
    np.testing.assert_allclose(one.similarities[1, 6], expected, atol=1e-5)
    assert one.patch == (1, 6)


def test_the_patch_is_central_or_that_of_a_pixel_of_the_stored_image():
    assert maps().images[0].patch == (4, 4)
    stored = View(MADE.images[0], (100, 0, 420, 320))  # the middle of a wide image, scaled to 64 px
    for pixel, patch in (((0, 100), (0, 0)), ((319, 419), (7, 7)), ((45, 185), (1, 2))):
        found = token_maps.measure(MADE.backbone, [stored], Choice(pixel=pixel), none)
        assert found.images[0].patch == patch
    with pytest.raises(UserError, match="no pixel 10,99: of this image it sees rows 0 to 319, columns 100 to 419"):
        token_maps.measure(MADE.backbone, [stored], Choice(pixel=(10, 99)), none)


@pytest.mark.parametrize("shape", [(40, 96), (96, 40)])
def test_any_aspect(shape):
    pixels = torch.randint(0, 256, (1, 3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (one,) = maps(images=pixels).images
    grid = (shape[0] // 8, shape[1] // 8)
    assert one.pixels.shape == (*shape, 3)
    assert {one.norms.shape, one.similarity.shape, one.foreground.shape, one.cls.shape} == {grid}
    assert (one.heads.shape[1:], one.registers.shape, one.colours.shape) == (grid, (2, *grid), (*grid, 3))


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="planted: no block 4: it has 4, 0 to 3"):
        maps(Choice(block=4))
    with pytest.raises(UserError, match="no block -5"):
        maps(Choice(attention_block=-5))
    with pytest.raises(UserError, match="no patch 8,0: this image has rows 0 to 7, columns 0 to 7"):
        maps(Choice(patch=(8, 0)))
    with pytest.raises(UserError, match="rule=sigma: expected one of"):
        maps(Choice(rule="sigma"))


class Convolution(nn.Module):
    image_size, mean, std, any_size = 64, (0.5,) * 3, (0.25,) * 3, True

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 16, 16)

    def forward(self, images):
        return {"patches": self.layer(images).permute(0, 2, 3, 1)}


def test_a_model_that_gives_tokens_only_has_norms_and_components_but_no_attention():
    foreign = ForeignBackbone(Convolution(), "convolution")
    found = maps(backbone=foreign)
    assert found.tokens_only
    one = found.images[0]
    assert (one.heads, one.cls, one.registers, one.discovered) == (None, None, None, None)
    np.testing.assert_allclose(one.norms, foreign(MADE.normalised()[:1]).patches[0].norm(dim=-1), rtol=1e-5)
    assert one.foreground.shape == (4, 4)
