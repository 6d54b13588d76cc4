"""The three answers on planted sinks, locality and norms, in words and numbers."""

from dataclasses import dataclass

import pytest
import torch

from regvit_lightning.analysis import questions
from regvit_lightning.analysis.locality import LocalitySums
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.analysis.sinks import Sinks
from regvit_lightning.analysis.verdict import HighNorms, low_norms
from regvit_lightning.models.tokens import Tokens
from tests.analysis.test_outliers import with_norms
from tests.analysis.test_verdict import bulk


@dataclass
class Measured:
    sinks: Sinks | None
    why_not: str = ""


def sinks(kinds, images=20, with_one=20):
    """One sink of each of `kinds` in block 2 of two, in some of the images, on token 2: the first patch."""
    shape = images, 2, 4
    routed, ratio, rank = torch.zeros(shape), torch.ones(shape), torch.full(shape, 1.1)
    for head, kind in enumerate(kinds):
        routed[:with_one, 1, head] = 1.0
        ratio[:, 1, head] = {"NOP": 0.1, "broadcast": 1.0, "other": 0.3}[kind]
    return Sinks(torch.full(shape, 2), routed, routed, ratio, ratio, rank)


@pytest.mark.parametrize(
    ("kinds", "with_one", "answer"),
    [
        ((), 20, "none"),
        (("NOP",), 20, "NOP"),
        (("NOP",), 2, "NOP"),
        (("NOP",), 1, "few"),
        (("broadcast", "NOP"), 20, "NOP and broadcast"),
        (("other",), 20, "other"),
    ],
)
def test_a_kind_is_named_where_a_tenth_of_the_images_has_one(kinds, with_one, answer):
    found = questions.sinks(Measured(sinks(kinds, with_one=with_one)), 1, True, Rules(), 0)
    assert found.answer == answer
    assert found.effect["nop_sinks"] == pytest.approx(("NOP" in kinds) * with_one / 20)
    assert found.words.startswith("Sinks per image (n = 20 images, 8 heads): NOP ")
    assert ("most in block 2 of 2; on patches 100%" in found.words) == bool(kinds)


def test_what_sinks_stand_on():
    found = sinks(("NOP",))
    assert found.on(1, True) == {"CLS": 0, "registers": 0, "patches": 1}
    assert found.on(2, True) == {"CLS": 0, "registers": 1, "patches": 0}
    assert sinks(()).on(2, True) == {"CLS": 0, "registers": 0, "patches": 0}


def test_sinks_that_are_not_measured_say_why():
    found = questions.sinks(Measured(None, "m: block 0 is another"), 0, True, Rules(), 0)
    assert (found.answer, found.words) == ("not measured", "Sinks are not measured: m: block 0 is another.")


@pytest.mark.parametrize(("own", "answer"), [(1.0, "yes"), (0.1, "no")])
def test_patches_are_local_where_most_of_their_variance_is_their_own(own, answer):
    generator = torch.Generator().manual_seed(0)
    patches = own * torch.randn(50, 6, 6, 8, generator=generator) + 0.5 * torch.randn(50, 1, 1, 8, generator=generator)
    sums = LocalitySums()
    sums.add(1, Tokens(None, torch.zeros(50, 0, 8), patches))
    found = questions.locality(sums.locality())
    assert found.answer == answer
    assert found.effect["image_share"] == pytest.approx(0.25 / (0.25 + own**2), abs=0.08)
    assert "cls_cosine" not in found.effect


@pytest.mark.parametrize(("images", "answer"), [(1, "not measured"), (9, "not measured"), (10, "yes")])
def test_a_few_images_do_not_tell_whether_patches_are_local(images, answer):
    """Patches of pure noise are their own: with one image all of their variance would be that of the position."""
    sums = LocalitySums()
    patches = torch.randn(images, 6, 6, 8, generator=torch.Generator().manual_seed(0))
    sums.add(1, Tokens(None, torch.zeros(images, 0, 8), patches))
    found = questions.locality(sums.locality())
    assert found.answer == answer
    if answer != "yes":
        assert found.words == f"Locality is not measured: shares of the variance need 10 images, here {images}."


@pytest.mark.parametrize(("scale", "answer"), [(1.01, "yes"), (0.99, "no")])
def test_half_of_the_variance_is_local(scale, answer):
    """Shares known by hand: ± `scale` by patch, with no mean of any image or position, and ±1 by image."""
    signs = torch.tensor([1.0, -1.0])
    board = signs.repeat(2)[:, None] * signs.repeat(2)
    patches = scale * signs.repeat_interleave(2).repeat(3)[:, None, None] * board + signs.repeat(6)[:, None, None]
    sums = LocalitySums()
    sums.add(1, Tokens(None, torch.zeros(12, 0, 1), patches[..., None]))
    found = questions.locality(sums.locality())
    assert found.effect["patch_share"] == pytest.approx(scale**2 / (scale**2 + 1))
    assert found.answer == answer
    assert found.words.startswith("Patches are " + ("local: " if answer == "yes" else "not local: "))


def test_equal_patches_have_no_locality():
    sums = LocalitySums()
    sums.add(1, Tokens(None, torch.zeros(3, 0, 8), torch.ones(3, 2, 2, 8)))
    assert questions.locality(sums.locality()).answer == "not measured"


def test_low_norms_are_found_as_high_ones_are():
    values = bulk()
    low = values.clone()
    low[:, 0, 3, 5] = float(values.median()) / 5  # one patch in each of 40 images
    for part, artifacts in ((values, False), (low, True)):
        (found,) = low_norms(with_norms(torch.cat([part, part], dim=1)), Rules())
        assert found.artifacts == artifacts
        assert found.images == (40 if artifacts else 0)
    # A hundredth of a standard deviation: 0.2 % of the patches moved from both sides of the median to below it.
    assert found.max_over_median == pytest.approx(5 * float(low.median() / values.median()), rel=1e-3)
    quiet = HighNorms(0.0, 0, 1.5, 1.0, False)
    answer = questions.norms([quiet], [found], "m has no high-norm artifacts.")
    assert answer.answer == "low"
    assert "Low norms lie apart: after block 1 0.39% of patches, in 40 images, down to median / 4.99." in answer.words
    assert (answer.effect["max_over_median"], answer.effect["share"]) == (1.5, 0)
    high = HighNorms(0.02, 40, 8.0, 2.0, True)
    both = questions.norms([quiet, high, quiet], [quiet, found, quiet], "m has both.")
    assert both.answer == "high and low"
    assert "m has both. Low norms lie apart, too: after block 2 0.39%" in both.words
    assert both.effect == {
        "max_over_median": 8.0,
        "share": 0.02,
        "median_over_min": found.max_over_median,
        "low_share": found.share,
    }
