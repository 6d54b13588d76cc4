"""DSE: planted clusters in closed form, numpy's nuclear norm, what it does not depend on, and collapse."""

import math

import numpy as np
import pytest
import torch

from regvit_lightning.errors import UserError
from regvit_lightning.tasks.unlabelled import dense_structure
from regvit_lightning.tasks.unlabelled.dense_structure import IMAGES, Clusters, Structure, StructureSums, clusters, size


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_three_points_of_a_triangle():
    # An equilateral triangle of side d: every point is d / √3 from the mean, so that inter is √3.
    corners = torch.tensor([[0.0, 0, 0], [4, 0, 0], [2, 2 * math.sqrt(3), 0]]) + 7
    found = clusters(corners.repeat(5, 1), 3, 0, "x")
    assert found.inter == pytest.approx(math.sqrt(3), rel=1e-5)
    assert found.intra == pytest.approx(0, abs=1e-5)


def test_the_nearest_other_centre_counts():
    points = torch.tensor([[0.0], [1.0], [10.0]]).repeat(20, 1)
    scale = float((points - points.mean()).abs().mean())
    assert clusters(points, 3, 0, "x").inter == pytest.approx((1 + 1 + 9) / 3 / scale, rel=1e-5)


@pytest.mark.parametrize("shape", [(5, 9), (30, 4), (1, 6)])
def test_the_size_is_numpys_nuclear_norm(shape):
    cluster = random(*shape).double()
    centred = (cluster - cluster.mean(dim=0)).numpy()
    expected = np.linalg.norm(centred, "nuc") / math.sqrt(max(shape[0] - 1, shape[1]))
    assert size(cluster) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def groups(seed=0, images=2 * IMAGES):
    """Patches (images, 30, 6) with some structure."""
    centres = 3 * random(5, 6, seed=seed + 50)
    picked = torch.randint(5, (images, 30), generator=torch.Generator().manual_seed(seed))
    return centres[picked] + 0.3 * random(images, 30, 6, seed=seed)


def structure(patches, seed=0):
    sums = StructureSums(seed)
    for group in patches.split(IMAGES):
        sums.add(group)
    return sums.structure()


def test_scale_place_and_rotation_do_not_matter():
    patches = groups()
    rotation, _ = torch.linalg.qr(random(6, 6, seed=4))
    base = structure(patches)
    for changed in (100 * patches, patches @ rotation):
        found = structure(changed)
        assert (found.inter, found.intra, found.dimension) == pytest.approx(
            (base.inter, base.intra, base.dimension), rel=1e-3
        )
    moved = structure(patches + 50)  # the dimension is of patches as they are, as RankMe's is
    assert (moved.inter, moved.intra) == pytest.approx((base.inter, base.intra), rel=1e-3)


def test_tight_clusters_score_higher_than_noise():
    blurred = groups() + 3 * random(2 * IMAGES, 30, 6, seed=9)
    assert structure(groups()).intra < structure(blurred).intra
    assert structure(groups()).dse() > structure(blurred).dse()


def test_equal_patches_are_refused():
    same = torch.full((IMAGES, 30, 6), 2.5)
    with pytest.raises(UserError, match="DSE is undefined: all patches of image 0 are equal"):
        StructureSums().add(same)
    one = groups(images=IMAGES)
    one[3] = one[3, :1]
    with pytest.raises(UserError, match="all patches of image 3 are equal"):
        StructureSums().add(one)


def test_the_dimension_is_a_share_of_the_largest_possible():
    sums = StructureSums()
    sums.of_images, sums.of_groups = [Clusters(9.0, 0.2)] * 7 + [Clusters(9.0, 1.0)], [Clusters(2.0, 0.5)]
    sums.single = list(torch.eye(16).double()[:4].repeat(2, 1))  # four directions of at most eight
    found = sums.structure()
    assert found.dimension == pytest.approx(0.5, rel=1e-6)
    assert found.inter == 2.0  # of the groups
    assert found.intra == pytest.approx((0.3 + 0.5) / 2)  # the mean of both kinds, whatever their number
    assert found.dse(2.0) == pytest.approx(2.0 - 0.4 + 2 * 0.5, rel=1e-6)


def test_groups_left_out_are_left_out():
    sums, patches = StructureSums(), groups()
    for group in patches.split(IMAGES):
        sums.add(group)
    assert sums.structure([0]) == structure(patches[:IMAGES])


def test_one_patch_is_drawn_of_each_image():
    sums, patches = StructureSums(3), groups(images=IMAGES)
    sums.add(patches)
    assert len(sums.single) == IMAGES
    assert all((patch == patches[index].double()).all(dim=1).any() for index, patch in enumerate(sums.single))


def test_more_clusters_than_different_patches():
    few = torch.tensor([[0.0, 0], [0, 1], [1, 0]]).repeat(20, 1)
    assert clusters(few, dense_structure.OF_GROUP, 0, "x").intra == pytest.approx(0, abs=1e-6)
    assert Structure(1.0, 0.5, 0.25).dse() == 0.75
