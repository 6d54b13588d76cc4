"""`look`: what it accepts, LOST on features whose object is known, and its mistakes."""

import numpy as np
import pytest
import torch
from PIL import Image

import regvit_lightning
from regvit_lightning import looking
from regvit_lightning.errors import UserError
from regvit_lightning.models.sources import load_backbone
from regvit_lightning.models.tokens import Inside, PrefixAttention, Projections, Tokens

NANO = load_backbone("random-vitn_reg4", image_size=64)


def photograph(width=96, height=64):
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_paths_pictures_and_arrays_give_the_same_maps(tmp_path):
    picture = photograph()
    picture.save(tmp_path / "a.png")
    looked = regvit_lightning.look(NANO, [tmp_path / "a.png", picture, np.asarray(picture)], size=32)
    assert looked.titles == ["a.png", "image 1", "image 2"]
    first, *others = looked.models[0].images
    assert first.norms.shape == (4, 6)
    for other in others:
        np.testing.assert_array_equal(other.norms, first.norms)
    assert looked.figure is not None


def test_normalised_images_are_looked_at_as_they_are():
    images = NANO.transform(photograph(64, 64))[None]
    (model,) = looking.look(NANO, images, figure=False).models
    expected = NANO(images, norm=False).patches.norm(dim=-1)[0]
    np.testing.assert_allclose(model.images[0].norms, expected, rtol=1e-3)


def test_several_backbones_are_used_one_after_the_other_and_named_apart():
    begun = []

    def loaded():
        for number in range(2):
            begun.append(number)
            yield NANO

    looked = looking.look(loaded(), [photograph()], size=32, figure=False)
    assert begun == [0, 1]
    assert [model.model for model in looked.models] == ["random-vitn_reg4", "random-vitn_reg4 (2)"]
    assert looked.figure is None


def inside(keys):
    """A last block with these keys (h, w, D) and nothing else."""
    patches = keys[None].float()
    tokens = Tokens(None, patches.new_zeros(1, 0, patches.shape[-1]), patches)
    return Inside(tokens, tokens, Projections(tokens, tokens, tokens), PrefixAttention(None, patches))


def planted_object():
    """Keys +1 on a rectangle of rows 1 to 3 and columns 2 to 6 and -1 elsewhere."""
    keys = -torch.ones(6, 9, 1)
    keys[1:4, 2:7] = 1
    return keys


def test_lost_finds_the_planted_object():
    found = looking.discover(NANO, inside(planted_object()))
    assert (found.seed, found.box, found.method) == ((1, 2), (2, 1, 7, 4), "LOST, keys")


def test_lost_centres_features_that_are_all_alike_in_sign():
    found = looking.discover(NANO, inside(torch.cat([planted_object(), torch.full((6, 9, 1), 5.0)], dim=2)))
    assert (found.seed, found.box, found.method) == ((1, 2), (2, 1, 7, 4), "LOST, keys, centred")


def test_lost_finds_nothing_where_all_patches_are_equal():
    assert looking.discover(NANO, inside(torch.ones(4, 4, 3))) is None


@pytest.mark.parametrize(
    ("images", "options", "line"),
    [
        ([], {}, "images: there are none"),
        (["no.jpg"], {}, "image no.jpg"),
        ([3.5], {}, "expected paths, PIL images or uint8 arrays"),
        (photograph(), {}, r"expected several, as \[image\] is for one"),
        (torch.zeros(3, 64, 64), {}, r"expected normalised floats \(N, 3, H, W\)"),
        ([photograph()], {"block": 4}, "no block 4"),
        ([photograph()], {"patch": (0, 99)}, "no patch 0,99"),
        ([photograph()], {"patch": (0, 0), "pixel": (0, 0)}, "patch and pixel: give one"),
    ],
)
def test_mistakes_are_one_line(images, options, line):
    with pytest.raises(UserError, match=line) as error:
        looking.look(NANO, images, **options)
    assert "\n" not in str(error.value)


def test_no_backbone_is_one_line():
    with pytest.raises(UserError, match="no backbone"):
        looking.look([], [photograph()])
