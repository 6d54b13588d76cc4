"""The verdict on planted norms: a graded effect, single patches in every image, runs of blocks, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from regvit_lightning.analysis import verdict as verdicts
from regvit_lightning.analysis.norms import measure
from regvit_lightning.analysis.outliers import Rules, find
from regvit_lightning.analysis.summary import artifacts
from regvit_lightning.analysis.verdict import gap_above, high_norms, runs, verdict
from regvit_lightning.errors import UserError
from regvit_lightning.models import sources
from tests.analysis.planted import planted
from tests.analysis.test_outliers import with_norms

WEIGHTS = Path("../shared/data/weights/dinov2_vits14_saliency_fp16.safetensors")
PHOTOGRAPHS = Path("../shared/data/raccoon/VOCdevkit/VOC2007/JPEGImages")


def bulk(images=40, blocks=1, spread=0.22, seed=0):
    """Log-normal norms (N, blocks, 16, 16) around 50, as skewed as the bulk of DINOv2-g in fig. 3 of the paper."""
    generator = torch.Generator().manual_seed(seed)
    return 50 * (spread * torch.randn(images, blocks, 16, 16, generator=generator)).exp()


def judged(values, rules=None, embedded=None):
    """Norms after each block (N, blocks, h, w): high norms and the verdict."""
    rules = rules or Rules()
    norms = with_norms(torch.cat([values, values[:, :1]], dim=1))
    norms = norms if embedded is None else replace(norms, embedded=embedded)
    high = high_norms(norms, rules)
    return high, verdict("m", high, find(norms, rules), rules, len(values))


@pytest.mark.parametrize("times", [1.4, 1.7, 2.0])
def test_rules_of_spread_alone_make_no_artifacts(times):
    """Norms of little spread with 2 % slightly above them: three rules fire, although the effect is small."""
    values = bulk(spread=0.03)
    values[:, 0, 4, 3:8] = times * float(values.median())
    findings = find(with_norms(torch.cat([values, bulk(spread=0.03)], dim=1)), Rules())
    assert [name for name in ("sigmas", "mads", "log_mads") if 1 in findings[name].blocks] == [
        "sigmas",
        "mads",
        "log_mads",
    ]
    high, words = judged(values)
    assert (high[0].share, high[0].artifacts) == (0, False)
    assert words == (
        f"m has no high-norm artifacts after any of its 1 blocks: the largest norm is {times:.3g} × median, after "
        "block 1; these exceed 3 ×."
    )


def test_a_tail_without_a_gap_is_no_second_mode():
    for spread in (0.41, 0.5, 0.7):
        high, words = judged(bulk(spread=spread))
        assert high[0].share > 0.003
        assert high[0].images > 20
        assert high[0].gap < 1.1
        assert not high[0].artifacts
        assert "are not apart from the others (gap 1.0" in words


@pytest.mark.parametrize("per_image", [1, 5])
@pytest.mark.parametrize(
    ("times", "artifacts"),
    [(1.5, False), (2, False), (2.5, False), (2.9, False), (3.1, True), (4, True), (10, True), (30, True), (100, True)],
)
def test_the_verdict_turns_at_three_medians(times, artifacts, per_image):
    """Patches at `times` the median in every image: 0.39 % (below `least_share`) or 2 % of all."""
    values = bulk()
    values[:, 0, 4, 3 : 3 + per_image] = times * float(values.median())
    high, words = judged(values)
    assert high[0].artifacts is artifacts
    assert words.startswith(
        "m has high-norm artifacts after block 1 of 1: " if artifacts else "m has no high-norm artifacts"
    )
    assert "3 ×" in words
    turns = Path("docs/artifacts.md").read_text(encoding="utf-8")
    assert "turns at 3 × the median" in turns


@pytest.mark.parametrize("times", [2.2, 3.6, 6])
def test_so_it_does_for_patches_that_vary(times):
    values = bulk()
    values[:, 0, 4, 3:8] = times * 50 * (0.05 * torch.randn(40, 5, generator=torch.Generator().manual_seed(1))).exp()
    assert judged(values)[0][0].artifacts is (times > 3)


def test_one_patch_in_every_image_at_thirty_medians():
    values = bulk(images=60)
    values[:, 0, 7, 9] = 30 * float(values.median())
    high, words = judged(values)
    assert (high[0].images, high[0].share) == (60, pytest.approx(1 / 256))
    assert high[0].max_over_median == pytest.approx(30, rel=1e-2)
    assert words.startswith(
        "m has high-norm artifacts after block 1 of 1: patches with norms above 3 × median, a gap of "
    )
    assert words.endswith("after block 1 0.39% of patches, in 60 of 60 images, up to 30 × median.")


@pytest.mark.parametrize(("images", "artifacts"), [(3, False), (4, True)])
def test_a_tenth_of_the_images_is_enough(images, artifacts):
    values = bulk(images=40)
    values[:images, 0, 7, 9] = 1500
    high, words = judged(values)
    assert (high[0].images, high[0].artifacts) == (images, artifacts)
    if not artifacts:
        assert words == (
            "m has no high-norm artifacts after any of its 1 blocks: norms above 3 × median are few: after block 1 "
            "0.03% of patches, in 3 of 40 images."
        )


def test_blocks_are_told_in_runs():
    values = bulk(blocks=8)
    for block in (2, 3, 4, 7):
        values[:, block - 1, 2, 2:6] = 500
    values[:, 3, 2, 6] = 900
    high, words = judged(values)
    assert runs(high) == [(2, 4), (7, 7)]
    assert words.startswith(
        "m has high-norm artifacts after blocks 2–4 and 7 of 8: patches with norms above 3 × median, a gap of"
    )
    assert "; after block 4 1.95% of patches, in 40 of 40 images, up to 18 × median; none after the last" in words
    assert runs([]) == []
    assert runs(high[:1]) == []


def test_what_the_patch_embedding_has_is_taken_off():
    values = bulk()
    values[:, 0, 3, :5] = 500
    embedded = bulk(seed=1)[:, 0]
    embedded[:, 3, :5] = 500
    high, words = judged(values, embedded=embedded)
    assert (high[0].share, high[0].images, high[0].artifacts) == (0, 0, False)
    assert high[0].max_over_median < 3
    assert words.endswith("; 1.95% of patches lie above 3 × median already at the patch embedding and are left out.")
    values[:, 0, 9, 9] = 500
    high, words = judged(values, embedded=embedded)
    assert (high[0].share, high[0].artifacts) == (pytest.approx(1 / 256), True)


def test_low_norms_are_a_remark_and_no_artifacts():
    values = bulk()
    values[:, 0, 3, :5] = 5
    assert judged(values)[1].endswith("; norms below median / 3: 1.95% of patches after block 1.")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_norm_that_is_not_finite_is_refused(bad):
    values = bulk(images=4, blocks=2)
    values[2, 1, 5, 5] = bad
    with pytest.raises(UserError, match=r"^1 of 1,024 norms of patches after block 2 are not finite: ") as error:
        judged(values)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="not finite"):
        high_norms(with_norms(torch.cat([values, values[:, :1]], dim=1)), Rules())
    with pytest.raises(UserError, match="at the patch embedding are not finite"):
        judged(bulk(images=4), embedded=bulk(images=4)[:, 0].fill_(bad))
    with pytest.raises(UserError, match="the median norm of patches after block 1 is 0"):
        judged(torch.zeros(2, 1, 3, 3), embedded=torch.ones(2, 3, 3))


def test_weights_with_a_nan_get_no_verdict():
    made = planted(images=2)
    made.clean.model.blocks[1].mlp.fc2.bias.data[3] = float("nan")
    with pytest.raises(UserError, match="NaN or infinite"):
        artifacts(made.clean, made.normalised())


def test_the_gap_by_hand():
    # 100 ones, and ten norms of 8 and one of 4: between 8 and 1, one tenth may lie inside.
    norms = torch.cat([torch.ones(100), torch.tensor([4.0] + [8.0] * 10)])
    assert gap_above(norms, 10) == 8
    norms = torch.cat([torch.ones(100), torch.tensor([4.0, 4] + [8.0] * 10)])
    assert gap_above(norms, 10) == 4  # two in ten are too many inside; twelve above 1 are as good
    assert gap_above(torch.ones(5), 2) == 1
    assert gap_above(torch.tensor([3.0]), 1) == 1


def test_a_planted_neuron_is_told_and_its_absence_too():
    made = planted(3, 4, 8, 2)
    norms = measure(made.backbone, made.normalised())
    high = high_norms(norms, Rules())
    assert [one.artifacts for one in high] == [False, False, True, True]
    assert [one.images for one in high] == [0, 0, 8, 8]
    assert [one.share for one in high] == pytest.approx([0, 0, 2 / 64, 2 / 64])
    clean = high_norms(measure(made.clean, made.normalised()), Rules())
    assert not any(one.artifacts for one in clean)


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the shared weights are not here")
def test_a_trained_model_without_artifacts_has_none():
    """A trained ViT-S/14 whose largest norm is at most 2.2 × median after every block, on photographs."""
    from PIL import Image

    backbone = sources.load_backbone(WEIGHTS)
    files = sorted(PHOTOGRAPHS.glob("*.jpg"))[:4]
    size = 16 * backbone.patch_size
    pixels = [torch.from_numpy(_pixels(Image.open(file), size)).permute(2, 0, 1) / 255 for file in files]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    measured = artifacts(backbone, (torch.stack(pixels) - mean) / std)
    assert measured.verdict.startswith(f"{backbone.name} has no high-norm artifacts after any of its 12 blocks: ")


def _pixels(image, size):
    import numpy as np

    return np.array(image.convert("RGB").resize((size, size)))


def test_constants_are_those_of_the_page():
    page = Path("docs/artifacts.md").read_text(encoding="utf-8").replace("\n", " ").replace(" %", "%")
    rules = Rules()
    assert f"at least {rules.least_share:.1%} of the patches" in page
    assert f"in at least {rules.least_images:.0%} of the images" in page
    assert f"a factor of {verdicts.GAP:g}" in page


def test_a_gap_must_split_off_at_least_half_as_many():
    norms = torch.tensor([100.0, 9, 8, 1, 1, 1, 1, 1])
    assert gap_above(norms, 3) == 8.0  # that below the first alone is wider, but one is not about three
    assert gap_above(norms, 2) == pytest.approx(100 / 9)
