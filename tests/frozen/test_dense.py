"""Padding at hand-computed places, features in parts and as a whole, and which images a picture shows."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from regvit_lightning.frozen import dense
from regvit_lightning.frozen.module import Frozen
from regvit_lightning.models import sources

NANO, WITHOUT_CLS = "random-vitn_reg4", "random-timm/vit_wee_patch16_reg1_gap_256"


def frozen(name=NANO):
    return Frozen(sources.load_backbone(name, Path("runs"), image_size=64), "32-true")


def pictures(number, height, width):
    """Normalised images without a 0, all different."""
    return 0.5 + torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize(
    ("size", "multiple", "rows", "columns"),  # rows above and below, columns left and right
    [
        ((512, 512), 14, (3, 3), (3, 3)),  # 518 × 518
        ((480, 640), 14, (5, 5), (2, 2)),  # 490 × 644
        ((427, 565), 14, (3, 4), (4, 5)),  # 434 × 574: odd numbers, one more below and right
        ((9, 7), 8, (3, 4), (0, 1)),
        ((8, 12), 8, (0, 0), (2, 2)),
        ((1, 1), 16, (7, 8), (7, 8)),
    ],
)
def test_zeros_stand_around_the_image(size, multiple, rows, columns):
    images = pictures(2, *size)
    padded = dense.centre_pad(images, multiple)
    (above, below), (left, right) = rows, columns
    assert padded.shape == (2, 3, above + size[0] + below, left + size[1] + right)
    assert padded.shape[2] % multiple == padded.shape[3] % multiple == 0
    assert (padded[:, :, above : above + size[0], left : left + size[1]] == images).all()
    assert (padded == 0).sum() == padded.numel() - images.numel()  # the images have no 0


@effort(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20))
def test_padding_is_the_least_there_is_and_centred(height, width, multiple):
    inside = dense.centre_pad(torch.ones(1, 1, height, width), multiple)[0, 0]
    for axis, side in ((1, height), (0, width)):
        covered = inside.amax(dim=axis).nonzero()[:, 0].tolist()
        before, after = covered[0], inside.shape[1 - axis] - 1 - covered[-1]
        assert len(covered) == side
        assert (before + side + after) % multiple == 0
        assert before + after < multiple
        assert after - before in (0, 1)


def test_what_needs_no_padding_comes_back_as_it_is():
    images = pictures(1, 28, 42)
    assert dense.centre_pad(images, 14) is images


# ------------------------------------------------------------------------------------------------------ features


@pytest.mark.parametrize("name", [NANO, WITHOUT_CLS])
@pytest.mark.parametrize("device_batch", [1, 2, 3])
@torch.no_grad()
def test_parts_of_a_batch_give_what_the_whole_gives_in_order(name, device_batch):
    encoder, images, seen = frozen(name), pictures(5, 32, 48), []
    encoder.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    blocks = [1, 3]
    whole = encoder.backbone(images, blocks, True)
    found = dense.features(encoder, images, blocks, True, device_batch)
    assert seen == {1: [1] * 5, 2: [2, 2, 1], 3: [3, 2]}[device_batch]
    assert len(found) == 2
    for ours, expected in zip(found, whole, strict=True):
        torch.testing.assert_close(ours.patches, expected.patches, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.registers, expected.registers, rtol=1e-4, atol=1e-5)
        assert (ours.cls is None) == (expected.cls is None) == (name == WITHOUT_CLS)
        if ours.cls is not None:
            torch.testing.assert_close(ours.cls, expected.cls, rtol=1e-4, atol=1e-5)
    apart = (found[0].patches[:, None] - found[0].patches[None]).abs().flatten(2).amax(dim=2)
    assert (apart + torch.eye(5) > 1e-3).all()  # images that cannot be told apart would have no order


@torch.no_grad()
def test_the_blocks_and_the_norm_are_those_asked_for():
    encoder, images = frozen(), pictures(2, 32, 48)
    for norm in (False, True):
        found = dense.features(encoder, images, [2, 0], norm, 16)
        for ours, block in zip(found, (2, 0), strict=True):
            torch.testing.assert_close(ours.patches, encoder.backbone(images, [block], norm)[0].patches)


def test_the_backbone_sees_images_in_the_middle_of_zeros():
    encoder, images, seen = frozen(), pictures(3, 20, 27), []
    encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    found = dense.features(encoder, images, [-1], True, 2)
    assert found[0].patches.shape == (3, 3, 4, 96)  # of 24 × 32 pixels in patches of 8
    given = torch.cat(seen)
    assert given.shape == (3, 3, 24, 32)
    assert (given[:, :, 2:22, 2:29] == images).all()
    assert (given == 0).sum() == given.numel() - images.numel()


# ------------------------------------------------------------------------------------------------------ examples


@pytest.mark.parametrize(
    ("images", "wanted", "places"),
    [(2000, 4, [0, 500, 1000, 1500]), (10, 4, [0, 2, 5, 7]), (4, 4, [0, 1, 2, 3]), (3, 4, [0, 1, 2]), (1, 4, [0])],
)
def test_the_pictures_show_images_from_all_over_the_split(images, wanted, places):
    assert dense.examples(images, wanted) == places


def test_a_picture_shows_four():
    assert len(dense.examples(654)) == 4


@pytest.mark.parametrize(
    ("scores", "better", "chosen"),
    [
        ([3.0, 1.0, 2.0, 5.0, 4.0], 1, {"worst": 1, "median": 0, "best": 3}),
        ([3.0, 1.0, 2.0, 5.0, 4.0], -1, {"worst": 3, "median": 0, "best": 1}),
        ([float("nan"), 7.0, float("nan"), 6.0], 1, {"worst": 3, "best": 1}),
        ([7.0], 1, {"worst": 0}),
        ([1.0, 1.0, 1.0], 1, {"worst": 0, "median": 1, "best": 2}),
    ],
)
def test_images_chosen_by_score(scores, better, chosen):
    assert dense.by_score(scores, better) == chosen
