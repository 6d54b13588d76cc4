"""Singular defects: a planted direction is found, and the patches that point along it."""

import pytest
import torch

from regvit_lightning.analysis.defects import DefectCosines, Defects, directions
from regvit_lightning.models.tokens import Tokens
from tests.analysis.planted import planted
from tests.analysis.test_sinks import small


def unit(seed, size=16):
    vector = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def test_the_direction_of_a_product_is_that_of_its_largest_singular_value():
    """Rotations before and identities after a planted rank-one map do not change where it writes."""
    written, read = unit(0), unit(1)
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(2))).Q
    big = torch.eye(16) + 30 * torch.outer(written, read)
    found = directions([rotation, big, torch.eye(16)])
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    expected = torch.linalg.svd(big @ rotation).U[:, 0]
    for direction in found[1:]:
        assert abs(direction @ expected) == pytest.approx(1, abs=1e-5)
        assert abs(direction @ written) > 0.99


def test_products_of_many_blocks_stay_finite():
    found = directions([1e6 * torch.eye(4) + torch.diag(torch.tensor([1e6, 0.0, 0.0, 0.0]))] * 60)
    torch.testing.assert_close(found[-1].abs(), torch.tensor([1.0, 0.0, 0.0, 0.0]))


def test_patches_along_the_direction_are_detected_by_four_sigmas_of_their_image():
    """One of 64 cosines at 1 and the others at ±0.1: 7.9 σ; four of them: 3.9 σ."""
    for count, detected in ((1, 1), (3, 3), (4, 0)):
        cosines = 0.1 + 0.001 * torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        cosines[1, 0].view(-1)[:count] = 1.0
        found = Defects(cosines).masks
        assert found[1].sum() == detected
        assert not found[0].any()
        assert Defects(cosines).shares() == [detected / 128]


@pytest.mark.parametrize(("patches", "detected"), [(17, 0), (18, 1)])
def test_a_patch_alone_needs_seventeen_others(patches, detected):
    """The largest of P values lies at most (P - 1) / √P standard deviations above the mean: 3.88 and 4.007."""
    cosines = torch.zeros(1, 1, 1, patches)
    cosines[..., 5] = 1.0
    assert Defects(cosines).masks.sum() == detected


def test_cosines_by_kind_of_patch():
    cosines = torch.tensor([0.2, 0.4, 0.9, 0.1]).view(1, 1, 2, 2)
    high = torch.tensor([False, False, True, False]).view(1, 1, 2, 2)
    inside, outside = Defects(cosines).mean_cosines(high)
    assert inside == pytest.approx([0.9])
    assert outside == pytest.approx([0.7 / 3])


def test_a_direction_planted_in_a_model_is_found_and_its_patches_measured():
    """Hidden unit 0 of the second block, which every token drives, writes a long vector."""
    backbone, written = small("planted", reg_tokens=2), unit(5, 24)
    backbone.model.blocks[1].mlp.fc2.weight.data[:, 0] = 200 * written
    cosines = DefectCosines(backbone)
    assert [abs(float(one @ written)) > 0.99 for one in cosines._directions] == [False, True]
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        backbone.walk(images[:2], cosines.add)
        backbone.walk(images[2:], cosines.add)
        last = backbone(images, [1], norm=False)[0].patches
    found = cosines.defects()
    assert found.cosines.shape == (3, 2, 4, 4)
    expected = torch.nn.functional.cosine_similarity(last, cosines._directions[1], dim=-1).abs()
    torch.testing.assert_close(found.cosines[:, 1], expected)


def test_a_neuron_that_fires_rarely_is_not_seen():
    """The map is a mean over x ~ N(0, 1), where the planted neuron of high norms is silent: a limit of the method."""
    truth = planted(block=3)
    mlp = truth.backbone.model.blocks[2].mlp
    written = mlp.fc2.weight[:, 0] / mlp.fc2.weight[:, 0].norm()
    assert abs(float(DefectCosines(truth.backbone)._directions[2] @ written)) < 0.5


def test_a_model_that_is_not_linearised_says_why():
    cosines = DefectCosines(small("normed", scale_attn_norm=True))
    cosines.add(1, Tokens(None, torch.zeros(1, 0, 24), torch.zeros(1, 4, 4, 24)))
    assert cosines.defects() is None
    assert cosines.why_not.startswith("normed: block 0 has a norm or a gate inside a branch")
