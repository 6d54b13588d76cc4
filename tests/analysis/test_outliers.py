"""Each rule by hand and under scaling; bimodality and gap; findings on a planted neuron and on none."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from regvit_lightning.analysis import norms, outliers
from regvit_lightning.analysis.norms import measure
from regvit_lightning.analysis.outliers import Rules, find
from regvit_lightning.settings import SettingsError, load_settings
from tests.analysis.planted import planted

# 1..9 once each around the median 5 (MAD 2), and one far patch.
BIMODAL = 5 / 9  # Sarle's coefficient of a uniform distribution: above it, two modes are likely
HAND = torch.tensor([1.0, 2, 3, 4, 5, 5, 6, 7, 8, 16.0]).view(1, 2, 5)


def above(limit):
    return HAND[limit < HAND].tolist()


def below(limit):
    return HAND[limit > HAND].tolist()


@pytest.fixture(scope="module")
def case():
    return planted()


def with_norms(patches):
    """`Norms` of nothing but patches (N, S, h, w)."""
    images, stages = patches.shape[:2]
    ones = torch.ones(images, stages)
    plain = torch.ones_like(patches[:, 0])
    return norms.Norms(
        patches, ones[..., :0, None], None, plain, plain, torch.full((images, stages, 3), -1.0), ones, ones
    )


def test_rules_by_hand():
    # mean 5.7, σ = sqrt(16.01) = 4.001
    assert above(outliers.at_sigmas(HAND, 2.5)) == [16]
    assert above(outliers.at_sigmas(HAND, 2.6)) == []
    # median 5; deviations 0 0 1 1 2 2 3 3 4 11: lower median 2
    assert above(outliers.at_mads(HAND, 1)) == [8, 16]
    assert above(outliers.at_mads(HAND, 5)) == [16]
    assert below(outliers.at_mads(HAND, -1)) == [1, 2]
    # ratios to 5: 5, 2.5, 1.67, 1.25, 1, 1, 1.2, 1.4, 1.6, 3.2: lower median 1.4
    assert float(outliers.at_log_mads(HAND, 3)) == pytest.approx(5 * 1.4**3)
    assert above(outliers.at_log_mads(HAND, 3)) == [16]
    assert float(outliers.at_log_mads(torch.full((9,), 3.7), 5)) == float(torch.tensor(3.7))
    assert above(outliers.at_factor(HAND, 3)) == [16]
    assert above(outliers.at_factor(HAND, 3.2)) == []
    assert below(outliers.at_factor(HAND, 1 / 3)) == [1]


def test_masks_and_cutoffs_of_all_rules():
    rules = Rules(cutoff=7, sigmas=2.5, mads=1, factor=3)
    kept = {name: HAND[mask].tolist() for name, mask in rules.masks(HAND).items()}
    high = {"cutoff": [8, 16], "sigmas": [16], "mads": [8, 16], "log_mads": [8, 16], "factor": [16]}
    assert kept == {**high, "low_mads": [1, 2], "low_factor": [1]}
    assert rules.cutoffs(HAND) == pytest.approx(
        {"cutoff": 7, "sigmas": 15.703, "mads": 7, "log_mads": 7, "factor": 15, "low_mads": 3, "low_factor": 5 / 3},
        abs=1e-3,
    )
    assert list(rules.words()) == list(kept)


def test_skewed_norms_alone_are_no_artifacts_and_a_second_mode_is():
    generator = torch.Generator().manual_seed(0)
    values = 50 * (0.22 * torch.randn(64, 2, 16, 16, generator=generator)).exp()  # about DINOv2-g's main mode
    values[:, 1, 3, 5:10] *= 9  # 2 %
    findings = find(with_norms(torch.cat([values, values[:, :1]], 1)), Rules())
    assert [name for name, finding in findings.items() if 1 in finding.blocks] == ["sigmas", "mads"]
    assert [name for name, finding in findings.items() if 2 in finding.blocks] == [
        "cutoff",
        "sigmas",
        "mads",
        "log_mads",
        "factor",
    ]


def test_what_the_patch_embedding_gives_is_not_what_blocks_make():
    values = torch.ones(8, 4, 10, 10)
    values[:, :3, 0, :2] = 10  # 2 % of high contrast
    values[:, 2:3, 5, 5] = 12  # 1 % that appear at block 2
    found = find(replace(with_norms(values[:, 1:]), embedded=values[:, 0]), Rules())["factor"]
    assert found.embedded == pytest.approx(0.02)
    assert found.shares == pytest.approx([0.02, 0.03])
    assert found.made == pytest.approx([0, 0.01])
    assert found.blocks == [2]
    assert found.images == [0, 8]


@given(
    arrays.arrays("float64", (3, 4, 5), elements=st.floats(0.5, 100)),
    st.floats(-8, 8).map(lambda power: 2 ** round(power)),
)
def test_relative_rules_follow_the_scale_and_the_cutoff_scales_with_it(values, scale):
    values = torch.from_numpy(values)
    before, after = Rules(cutoff=50).masks(values), Rules(cutoff=50 * scale).masks(values * scale)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert before["sigmas"].double().mean() <= 1 / 10 + 1e-9
    for name in ("mads", "factor", "low_mads", "low_factor"):
        assert before[name].sum() <= 30


@given(arrays.arrays("float64", (2, 3, 4), elements=st.floats(0.5, 100)), st.randoms())
def test_rules_do_not_care_for_the_order(values, random):
    order = list(range(24))
    random.shuffle(order)
    values = torch.from_numpy(values).flatten()
    shuffled = values[order].view(2, 3, 4)
    for name, mask in Rules().masks(values.view(2, 3, 4)).items():
        assert torch.equal(mask.flatten()[order], Rules().masks(shuffled)[name].flatten())


def test_bimodality_of_known_distributions():
    uniform = torch.linspace(0, 1, 100_001).exp()
    normal = torch.distributions.Normal(0, 1).icdf(torch.linspace(1e-5, 1 - 1e-5, 100_001)).exp()
    two = torch.tensor([1.0] * 500 + [10.0] * 500)
    assert outliers.bimodality(uniform) == pytest.approx(BIMODAL, abs=1e-3)
    assert outliers.bimodality(normal) == pytest.approx(1 / 3, abs=1e-2)
    assert outliers.bimodality(two) == pytest.approx(1, abs=1e-2)
    assert outliers.bimodality(torch.full((50,), 3.0)) == 0


def test_the_gap_lies_between_the_modes_and_a_lone_patch_makes_none():
    bulk = torch.linspace(28, 100, 970)
    second = torch.linspace(170, 560, 30)  # Fig. 3 of the paper
    assert outliers.gap(torch.cat([second, bulk]), 0.005) == (100, 170)
    low, high = outliers.gap(torch.cat([bulk, torch.tensor([560.0])]), 0.005)
    assert high / low < 1.01
    assert outliers.gap(torch.ones(10), 0.005) == (1, 1)


def test_scalars_by_hand():
    found = outliers.scalars(torch.cat([torch.full((98,), 2.0), torch.tensor([1.0, 20.0])]).view(1, 10, 10), Rules())
    assert found["max_over_median"] == 10
    assert found["p99_over_median"] == 1  # the 99th of 100
    assert found["min_over_median"] == 0.5
    assert (found["gap_ratio"], found["gap_cutoff"]) == (10, pytest.approx(40**0.5))


@pytest.mark.parametrize(("block", "registers", "per_image"), [(1, 0, 1), (3, 4, 2), (4, 1, 4)])
def test_the_report_finds_block_positions_and_share_exactly(block, registers, per_image):
    case = planted(block, registers, 8, per_image, seed=block)
    found = measure(case.backbone, case.normalised())
    findings = find(found, Rules())
    for name in ("cutoff", "sigmas", "mads", "log_mads", "factor"):
        finding = findings[name]
        assert finding.first == block
        assert finding.blocks == list(range(block, 5))
        assert finding.shares == pytest.approx([per_image / 64 if b >= block else 0 for b in range(1, 5)], abs=1e-7)
        assert finding.images == [8 * (b >= block) for b in range(1, 5)]
        assert finding.peak >= block
        assert finding.interval == pytest.approx((per_image / 64, per_image / 64), abs=1e-7)
        assert torch.equal(Rules().masks(found.raw[:, block - 1])[name], case.flat)
    assert not findings["low_mads"].blocks
    assert not findings["low_factor"].blocks
    low, high = outliers.gap(found.raw[:, -1], 0.005)
    assert low < 10 < 400 < high


def test_none_is_reported_without_the_neuron(case):
    found = measure(case.clean, case.normalised())
    findings = find(found, Rules())
    assert all(finding.first is None for finding in findings.values())
    assert all(max(finding.shares) == 0 for finding in findings.values())
    assert not outliers.massive(found).any()
    assert outliers.scalars(found.raw[:, -1], Rules())["max_over_median"] < 2
    assert outliers.bimodality(found.raw[:, -1]) < BIMODAL


def test_massive_activations_are_those_of_the_neuron(case):
    found = measure(case.backbone, case.normalised())
    massive = outliers.massive(found)
    assert massive.shape == (16, 5, 3)
    assert massive[..., 2].float().mean(0).tolist() == [0, 0, 1, 1, 0]
    assert not massive[..., :2].any()
    assert outliers.bimodality(found.raw[:, -1]) > BIMODAL


def test_massive_needs_both_magnitude_and_ratio():
    largest = torch.tensor([101.0, 100, 101, 1e4]).view(4, 1, 1).expand(4, 1, 3)
    median = torch.tensor([0.101, 0.1, 0.102, 11]).view(4, 1)
    found = replace(with_norms(torch.ones(4, 1, 1, 1)), largest=largest, median=median)
    assert outliers.massive(found)[:, 0, 0].tolist() == [True, False, False, False]


def test_a_rule_fires_between_the_least_share_and_a_half():
    values = torch.ones(1, 4, 10, 100)
    for block, count in enumerate((4, 5, 499, 500)):  # of 1000
        values[0, block].view(-1)[:count] = 200
    assert find(with_norms(torch.cat([values, values[:, :1]], 1)), Rules())["cutoff"].blocks == [2, 3]
    values = torch.ones(4, 2, 10, 10)
    values[0, 0, 0, :2] = 200  # 2 of 400
    found = with_norms(values)
    assert find(found, Rules(least_share=0.005))["cutoff"].first == 1
    assert find(found, Rules(least_share=0.006))["cutoff"].first is None
    low, high = find(found, Rules())["cutoff"].interval
    assert low == 0  # three of four images have none
    assert high > 0.005


@pytest.mark.parametrize(
    "word", ["cutoff=0", "sigmas=-1", "factor=1", "least_share=0.5", "mads=0", "least_images=1.1", "least_images=0"]
)
def test_constants_out_of_range(word):
    with pytest.raises(SettingsError, match=word.partition("=")[0]):
        load_settings("tasks", "artifact_report", "mini", [f"rules.{word}"])
