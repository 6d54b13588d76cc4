"""Images whose patches are all equally similar: a stated answer, counted in the record, and a warning with a remedy."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse.linalg import ArpackError
from torch.nn import functional as F

from regvit_lightning.data.layout import DataSettings
from regvit_lightning.tasks.discovery import lost, normalised_cut, seed_expansion, tokencut
from regvit_lightning.tasks.discovery.lost import LOST, Choice
from regvit_lightning.tasks.discovery.protocol import Doubts
from tests.data.test_voc import write_voc
from tests.tasks.discovery.test_lost import PATCH, colour_backbone, mini_settings, plain_tokencut, planted_set

RAW = Choice("k", -1, False, False, 0.0)


def alike(*grid, channels=8, seed=0, scale=45.0):
    """Features (1, h, w, D) whose products are all near 2,000 and whose cosines are above 0.9."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.ones(channels) / channels**0.5
    return scale * (common + 0.05 * torch.randn(1, *grid, channels, generator=generator))


# --------------------------------------------------------------------------------------------------------------- LOST


def test_lost_counts_a_constant_degree_map_as_a_fallback():
    boxes = LOST([RAW], 100)([alike(6, 9)])
    assert boxes.boxes.tolist() == [[[0, 0, 9, 6]]]
    assert [flag.tolist() for flag in (boxes.uniform, boxes.fallback, boxes.tied)] == [[[True]]] * 3
    odd = alike(6, 9)
    odd[0, 2, 3] *= -1  # one patch that is similar to none
    boxes = LOST([RAW], 100)([odd])
    assert boxes.boxes.tolist() == [[[3, 2, 4, 3]]]
    assert [flag.tolist() for flag in (boxes.uniform, boxes.fallback, boxes.tied)] == [[[False]]] * 3


def test_the_upper_left_of_equal_degrees_is_the_seed_and_is_counted():
    features = alike(4, 5)
    features[0, 1, 3] *= -1
    features[0, 3, 0] *= -1  # similar to each other alone
    one = seed_expansion.expand(features, seed_expansion.degrees(features.flatten(1, 2)), [0.0], 100)
    assert one.seeds.tolist() == [[8]]  # row 1, column 3 comes before row 3, column 0
    assert (one.tied.tolist(), one.constant.tolist()) == ([[True]], [[False]])


@pytest.mark.parametrize("method", [LOST([RAW], 100), tokencut.TokenCut((-1, "k"), 0.2, 1e-5)])
def test_an_image_of_one_patch_is_that_patch(method):
    boxes = method([alike(1, 1)])
    assert boxes.boxes.tolist() == [[[0, 0, 1, 1]]]
    assert boxes.fallback.all()
    assert boxes.uniform.all()
    assert method.steps([alike(1, 1)]).seed == 0


# -------------------------------------------------------------------------------------------------------- scaled bias


def test_the_median_product_by_hand():
    # Products of different patches: 2, -12, 3, -6, 1.5, -9; their sizes in order: 1.5 2 3 6 9 12, lower median 3.
    features = torch.tensor([1.0, 2, -6, 1.5])[:, None].repeat(2, 1, 1)
    features[1] *= 10
    assert seed_expansion.median_product(features).tolist() == [3, 300]
    assert seed_expansion.median_product(torch.full((2, 1, 3), 7.0)).tolist() == [1, 1]
    assert seed_expansion.median_product(torch.zeros(1, 5, 3)).tolist() == [1]


def test_the_median_product_of_many_patches_is_near_that_of_all():
    features = torch.randn(1, 2 * seed_expansion.SAMPLE + 5, 16, generator=torch.Generator().manual_seed(0))
    products = features[0] @ features[0].T
    rows, columns = np.triu_indices(len(products), 1)
    assert seed_expansion.median_product(features).item() == pytest.approx(
        np.median(products.numpy()[rows, columns].__abs__()), rel=0.02
    )


def test_a_scaled_bias_tells_patches_apart_that_an_absolute_one_does_not():
    features = alike(8, 8)
    features[0, 2:5, 3:6] = features[0, 2:5, 3:6].roll(4, dims=-1) * torch.tensor([1.0, -1] * 4)  # another direction
    absolute = LOST([Choice("k", -1, False, False, bias) for bias in (-10.0, -3.0, -1.0, 0.0, 1.0)], 100)([features])
    assert len({tuple(box) for box in absolute.boxes[0].tolist()}) == 1
    scaled = LOST([Choice("k", -1, False, False, -0.5, scaled=True)], 100)
    for factor in (1e-3, 1.0, 1e3):  # the unit follows the scale of the features
        boxes = scaled([factor * features])
        assert boxes.boxes.tolist() == [[[3, 2, 6, 5]]]
        assert not boxes.fallback.any()


def test_a_scaled_bias_is_the_absolute_one_times_the_median_product():
    features = torch.randn(3, 7, 8, 12, generator=torch.Generator().manual_seed(1))
    scaled = LOST([Choice("k", -1, False, False, -0.7, scaled=True)], 100)([features])
    units = seed_expansion.median_product(features.flatten(1, 2)).tolist()
    for image, unit in enumerate(units):
        alone = LOST([Choice("k", -1, False, False, -0.7 * unit)], 100)([features[image : image + 1]])
        assert scaled.boxes[image].tolist() == alone.boxes[0].tolist()


# ----------------------------------------------------------------------------------------------------------- TokenCut


@pytest.mark.parametrize("features", [alike(5, 7), torch.eye(35).view(1, 5, 7, 35)], ids=["complete", "without edges"])
def test_a_graph_that_cannot_be_cut_gives_the_whole_image(features):
    for threshold in (0.2, 0.5):
        one = normalised_cut.cut(features, threshold, 1e-5)
        assert one.uniform.tolist() == [True]
        assert one.boxes.tolist() == [[0, 0, 7, 5]]
        assert one.seeds.tolist() == [0]
        assert one.eigenvectors.eq(0).all()
    boxes = tokencut.TokenCut((-1, "k"), 0.2, 1e-5)([features])
    assert (boxes.fallback.tolist(), boxes.uniform.tolist()) == ([[True]], [[True]])


def test_one_patch_apart_is_cut_off():
    features = alike(5, 7)
    features[0, 3, 2] *= -1
    one = normalised_cut.cut(features, 0.2, 1e-5)
    assert not one.uniform.any()
    assert one.boxes.tolist() == [[2, 3, 3, 4]]
    assert one.boxes[0].tolist() == plain_tokencut(features[0])[0]


@effort(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4), st.sampled_from([-0.5, 0.0, 0.2, 0.9]))
def test_every_small_graph_has_one_answer(seed, height, width, threshold):
    features = torch.from_numpy(np.random.default_rng(seed).integers(-1, 2, (1, height, width, 3))).float()
    one = normalised_cut.cut(features, threshold, 1e-5)
    again = normalised_cut.cut(features, threshold, 1e-5)
    assert torch.equal(one.boxes, again.boxes)
    assert one.eigenvectors.isfinite().all()
    assert one.objects.flatten()[one.seeds].all()
    cosines = F.normalize(features, dim=-1).flatten(1, 2)[0]
    joined = (cosines @ cosines.T > threshold)[~torch.eye(height * width, dtype=torch.bool)]
    assert one.uniform.item() == (joined.all() or not joined.any())


def test_without_convergence_the_dense_solver_answers(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 6, 7, 8, generator=generator)
    features[:, :3, 1:4] += 3 * torch.randn(8, generator=generator)
    before = normalised_cut.cut(features, 0.2, 1e-5)

    def fails(*_, **__):
        raise ArpackError(-9)

    monkeypatch.setattr(normalised_cut, "eigsh", fails)
    after = normalised_cut.cut(features, 0.2, 1e-5)
    assert torch.equal(before.objects, after.objects)
    flat = F.normalize(features[0].flatten(0, 1), dim=1)
    weights = np.where((flat @ flat.T > 0.2).numpy(), 1.0, 1e-5)
    degree = np.diag(weights.sum(axis=1))
    truth = scipy.linalg.eigh(degree - weights, degree)[1][:, 1]
    own = after.eigenvectors[0].flatten().numpy()
    assert abs(own @ truth) / np.linalg.norm(own) / np.linalg.norm(truth) == pytest.approx(1)


# ------------------------------------------------------------------------------------------------------ in the record


@pytest.fixture(scope="module")
def plain_blue(tmp_path_factory):
    """Four images of one colour: all patches are alike."""
    root = tmp_path_factory.mktemp("blue")
    folder = write_voc(root / "VOCdevkit" / "VOC2007", {str(n): ((40, 32), [(1, 1, 40, 32)]) for n in range(4)})
    for file in (folder / "JPEGImages").iterdir():
        Image.new("RGB", (40, 32), (10, 60, 220)).save(file, format="PNG")
    return DataSettings(name="blue", root=str(root))


@pytest.mark.parametrize(("module", "task"), [(lost, "lost_voc07"), (tokencut, "tokencut_voc07")])
def test_an_image_of_one_patch_passes_the_whole_cell(tmp_path, module, task):
    folder = write_voc(tmp_path / "VOCdevkit" / "VOC2007", {"1": ((PATCH, PATCH), [(1, 1, PATCH, PATCH)])})
    Image.new("RGB", (PATCH, PATCH), (10, 60, 220)).save(folder / "JPEGImages" / "1.jpg", format="PNG")
    data = DataSettings(name="one", root=str(tmp_path))
    outcome = module.run(colour_backbone(), data, mini_settings(task=task))
    assert (outcome.metrics["corloc"], outcome.protocol["fallbacks"]) == (100, 1)
    assert outcome.intervals["corloc"] == (pytest.approx(2.5), 100)  # one of one: 0.025^(1/1)


@pytest.mark.parametrize(
    ("module", "task", "share", "remedy"),
    [
        (lost, "lost_voc07", "constant_degree_share", "bias (if all products are positive: l2=true bias=-0.8"),
        (tokencut, "tokencut_voc07", "uniform_graph_share", "another threshold"),
    ],
)
def test_a_run_on_uniform_images_says_so_and_what_to_do(plain_blue, module, task, share, remedy):
    outcome = module.run(colour_backbone(), plain_blue, mini_settings(task=task))
    facts = outcome.protocol
    assert (facts[share], facts["fallbacks"]) == (1.0, 4)
    assert outcome.metrics["corloc"] == outcome.floors["whole image"]["corloc"] == 100
    (remark,) = outcome.remarks
    assert facts["warning"] == remark
    assert remark.startswith("in 4 of 4 images ")
    assert "another feature (feature=q, k or v)" in remark
    assert remedy in remark
    assert "\n" not in remark


def test_a_run_on_images_with_objects_says_nothing(tmp_path):
    outcome = lost.run(colour_backbone(), planted_set(tmp_path), mini_settings())
    assert outcome.remarks == []
    assert (outcome.protocol["fallbacks"], outcome.protocol["constant_degree_share"]) == (0, 0.0)
    assert outcome.protocol["tied_seed_share"] > 0.5  # patches of one colour have one degree
    assert "upper left" in outcome.protocol["ties"]


def test_one_uniform_image_in_twenty_is_no_warning():
    method = LOST([RAW], 100)
    assert Doubts(20, 1, 1, 3).remarks(method) == []
    assert len(Doubts(20, 2, 2, 3).remarks(method)) == 1
    assert Doubts(20, 2, 1, 3).facts(method) == {
        "fallbacks": 2,
        "constant_degree_share": 0.05,
        "tied_seed_share": 0.15,
    }
