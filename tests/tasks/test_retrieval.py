"""Retrieval: scores against scikit-learn and cases by hand, and whole runs on features that are the pixels."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import auc, precision_recall_curve
from torch.nn import functional as F

from regvit_lightning import settings
from regvit_lightning.data.image_sets import RetrievalSet
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.retrieval import Query
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import sources
from regvit_lightning.models.foreign import ForeignBackbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks import retrieval, retrieval_scores
from regvit_lightning.tasks.retrieval_scores import average_precision, graded, precision_at, ranks_of
from tests.tasks.test_correspondence import Pixels


@given(st.lists(st.booleans(), min_size=1, max_size=40).filter(any))
def test_average_precision_is_the_area_of_scikit_learn(relevant):
    right = np.array(relevant)
    precision, recall, _ = precision_recall_curve(right, -np.arange(len(right)))
    assert average_precision(np.flatnonzero(right), right.sum()) == pytest.approx(auc(recall, precision))


def test_average_precision_by_hand():
    # Relevant at ranks 0 and 2 of three relevant ones, the third never found: (1 + 1)/2/3 + (1/2 + 2/3)/2/3.
    assert average_precision(np.array([0, 2]), 3) == pytest.approx((1 + 7 / 12) / 3)
    assert average_precision(np.array([1]), 1) == pytest.approx(1 / 4)  # (0/1 + 1/2) / 2


def test_precision_at_k_goes_no_farther_than_the_last_relevant_image():
    ranks = np.array([0, 3])
    assert [precision_at(ranks, k) for k in (1, 2, 3, 4, 10)] == pytest.approx([1, 1 / 2, 1 / 3, 2 / 4, 2 / 4])


def query(easy=(), hard=(), junk=()):
    return Query("", None, *(np.array(own, np.int64) for own in (easy, hard, junk)))


@given(st.integers(0, 10_000))
def test_junk_and_the_other_grade_are_taken_out_of_the_ranking(seed):
    random = np.random.default_rng(seed)
    ranking, drawn = random.permutation(30), random.permutation(30)
    easy, hard, junk = drawn[:3], drawn[3:7], drawn[7:12]
    scores = graded(ranking, query(easy, hard, junk))
    for level, wanted, out in (
        ("easy", easy, [*hard, *junk]),
        ("medium", [*easy, *hard], junk),
        ("hard", hard, [*easy, *junk]),
    ):
        left = [image for image in ranking.tolist() if image not in set(out)]
        right = [image in set(wanted) for image in left]
        precision, recall, _ = precision_recall_curve(right, -np.arange(len(right)))
        assert scores[f"map_{level}"] == pytest.approx(100 * auc(recall, precision))
        last = max(place for place, hit in enumerate(right) if hit) + 1
        for k in (1, 5, 10):
            k_used = min(k, last)
            assert scores[f"mp{k}_{level}"] == pytest.approx(100 * sum(right[:k_used]) / k_used)


def test_a_level_without_a_relevant_image_is_left_out_of_the_mean():
    ranking = np.arange(4)
    first, second = (graded(ranking, one) for one in (query(easy=[0]), query(easy=[3], hard=[1])))
    assert np.isnan(first["map_hard"])
    assert np.isnan(first["mp5_hard"])
    both = {name: np.array([first[name], second[name]]) for name in first}
    means = retrieval_scores.means(both)
    assert means["map_hard"] == second["map_hard"]
    assert means["map_easy"] == pytest.approx((100 + second["map_easy"]) / 2)
    assert "map_hard" not in retrieval_scores.means({name: np.array([first[name]]) for name in first})


def test_ranks_without_junk():
    assert ranks_of(np.array([5, 2, 7, 1, 0]), np.array([1, 7]), np.array([2])).tolist() == [1, 2]


def test_the_three_features_by_hand():
    patches = torch.tensor([[[[1.0, -2.0], [3.0, 2.0]]]])
    tokens = Tokens(torch.tensor([[7.0, 8.0]]), torch.zeros(1, 0, 2), patches)
    assert retrieval.FEATURES["cls"](tokens).tolist() == [[7, 8]]
    assert retrieval.FEATURES["mean"](tokens).tolist() == [[2, 0]]
    expected = [((1 + 27) / 2) ** (1 / 3), (8 / 2) ** (1 / 3)]  # negative values count as nothing
    assert retrieval.FEATURES["gem"](tokens)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_equal_images_stay_in_their_order():
    vectors = F.normalize(torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0], [0.6, 0.8]]), dim=1)
    assert retrieval.ranked(vectors, 1).tolist() == [[1, 2, 3, 0]]


# ----------------------------------------------------------------------------------------------------- whole runs

SIDE, WORDS = 32, ("workers=0", "precision=32-true", "side=32")


def write(root, images, queries):
    """Images of pixels by name, and queries in the JSON form."""
    for name, pixels in images.items():
        Image.fromarray(pixels).save(root / name)
    names = [name for name in images if not name.startswith("q")]
    (root / "queries.json").write_text(json.dumps({"images": names, "queries": queries}))
    return DataSettings(name="own", root=str(root), retrieval={"own": RetrievalSet("", "", "queries.json")})


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def planted(root):
    """A query whose crop is one image but for a little noise, which is another one; a second that shows nothing."""
    around = np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8)
    around[:SIDE, SIDE:] = noise(0)
    nearly = np.where(np.random.default_rng(9).random((SIDE, SIDE, 1)) < 0.2, noise(5), noise(0))
    images = {"q.png": around, "same.png": noise(0), "nearly.png": nearly, "x.png": noise(1), "y.png": noise(2)}
    first = {"file": "q.png", "box": [SIDE, 0, 2 * SIDE, SIDE], "easy": ["same.png"], "hard": ["nearly.png"]}
    return write(root, images, [first, {"file": "x.png", "junk": ["x.png"], "hard": ["y.png"]}])


def run(data, *words, backbone=None):
    chosen = settings.load_settings("tasks", "roxford5k", "mini", [*WORDS, "images=own", *words])[1]
    return retrieval.run(backbone or ForeignBackbone(Pixels(), "pixels"), data, chosen, RunOptions(seed=1))


def test_a_planted_query_finds_its_image_first_and_its_copy_next(tmp_path):
    # Without the crop the black frame would decide; Pixels' CLS is a mean, so the mean of patches is the same vector.
    outcome = run(planted(tmp_path))
    assert outcome.metrics["map_easy"] == 100
    assert outcome.scores["map_hard"][0] == 100
    assert outcome.scores["map_medium"][0] == 100
    assert outcome.metrics["map_medium_mean"] == outcome.metrics["map_medium"]
    assert outcome.images == 2
    assert outcome.protocol["queries_with_hard"] == 2
    assert outcome.metrics["map_hard"] == pytest.approx(float(outcome.scores["map_hard"].mean()))
    low, high = outcome.intervals["map_hard"]
    assert low <= outcome.metrics["map_hard"] <= high
    assert outcome.picture is not None


def test_scales_are_averaged_and_kept_in_whole_patches(tmp_path):
    outcome = run(planted(tmp_path), "scales=[1,0.5]")
    assert "at scales 1, 0.5" in outcome.protocol["view"]
    module = retrieval.Retrieval(ForeignBackbone(Pixels(), "pixels"), settings_with("scales=[1,0.6]"), 2)
    images = torch.rand(2, 3, 32, 16)
    assert module.scaled(images, 0.6).shape == (2, 3, 20, 8)  # 4.8 and 2.4 patches of 4 px
    assert module.scaled(images, 0.01).shape == (2, 3, 4, 4)
    assert module.scaled(images, 1.0) is images


def settings_with(*words):
    return settings.load_settings("tasks", "roxford5k", "mini", [*WORDS, *words])[1]


def test_a_random_order_is_the_floor(tmp_path):
    # One relevant image among two at a random place: AP (1 + 1/4) / 2 on average, that at rank 1 being (0 + 1/2) / 2.
    images = {"q.png": noise(0), "a.png": noise(1), "b.png": noise(2)}
    data = write(
        tmp_path,
        images,
        [{"file": "q.png", "easy": ["a.png"], "hard": []}] * 50 + [{"file": "q.png", "hard": ["b.png"]}],
    )
    floor = run(data).floors["random order"]
    assert floor["map_medium"] == pytest.approx(62.5, abs=2)


def test_a_set_without_hard_images_lacks_that_level_and_one_without_any_is_refused(tmp_path):
    data = write(tmp_path, {"q.png": noise(0), "a.png": noise(1)}, [{"file": "q.png", "easy": ["a.png"]}])
    found = run(data)  # easy alone is a set: groups of images without grades
    assert found.metrics["map_medium"] == found.metrics["map_easy"] == 100  # the one image there is, found first
    assert "map_hard" not in {*found.metrics, *found.intervals, *found.scores, *found.floors["random order"]}
    assert found.protocol["queries_with_hard"] == 0
    without = write(tmp_path, {"q.png": noise(0), "a.png": noise(1)}, [{"file": "q.png"}])
    with pytest.raises(SettingsError, match="own: no query has a relevant image, easy or hard"):
        run(without)


def test_a_feature_or_a_scale_that_there_is_not():
    with pytest.raises(SettingsError, match="feature=max: expected one of cls, mean, gem"):
        settings_with("feature=max")
    with pytest.raises(SettingsError, match="scales: expected a list"):
        settings_with("scales=[]")


def test_rendered_views_are_found_above_chance_whatever_the_batch(tiny):
    backbone = sources.load_backbone("random-vitn_reg4", "runs", image_size=64)
    outcomes = []
    for batch in (3, 32):
        words = ["workers=0", f"device_batch={batch}", "precision=32-true"]
        chosen = settings.load_settings("tasks", "roxford5k", "mini", words)[1]
        outcomes.append(retrieval.run(backbone, tiny, chosen, RunOptions()))
    assert outcomes[0].metrics == outcomes[1].metrics
    assert outcomes[0].metrics["map_medium"] > outcomes[0].floors["random order"]["map_medium"]
    assert outcomes[0].protocol["images_searched"] == 18


def test_work_counts_every_scale():
    chosen = settings_with("scales=[1,0.5]")
    found = retrieval.work(chosen, {"roxford5k": [20]})
    assert [(one.images, one.height, one.width) for one in found.passes] == [(20, 24, 32), (20, 12, 16)]
