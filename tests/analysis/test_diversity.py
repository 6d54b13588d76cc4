"""Diversity of registers: planted registers and maps, the published means of DINOv2, an independent library."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon, pdist, squareform

from regvit_lightning.analysis import diversity
from regvit_lightning.analysis.diversity import NORMED, RAW, DiversityOfRegisters, Moments
from regvit_lightning.models.tokens import Attention, Tokens

MEANS = Path(__file__).resolve().parents[3] / "shared" / "data" / "register_means"


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(registers):
    return Tokens(None, registers, registers.new_zeros(len(registers), 1, 1, registers.shape[-1]))


def measured(raw, normed=None):
    found = DiversityOfRegisters()
    for part in raw.split(2):
        found.add(RAW, tokens(part))
    for part in (raw if normed is None else normed).split(2):
        found.add(NORMED, tokens(part))
    return found.result()


def test_orthogonal_and_equal_registers():
    lengths = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    orthogonal = (lengths[:, None] * torch.eye(4, 6)).expand(5, -1, -1)
    equal = (lengths[:, None] * torch.ones(6)).expand(5, -1, -1)
    metrics = measured(orthogonal, equal).metrics()
    assert metrics["register_cosine_raw"] == pytest.approx(0, abs=1e-12)
    assert metrics["register_cosine"] == pytest.approx(1)
    assert metrics["register_effective_rank"] == pytest.approx(1)
    assert measured(orthogonal).metrics()["register_effective_rank"] == pytest.approx(4)  # lengths do not count


def test_cosine_of_a_known_angle_is_a_mean_over_pairs_and_images():
    at = lambda angle: [math.cos(angle), math.sin(angle)]  # noqa: E731
    registers = torch.tensor([[at(0), at(0.3), at(1.0)], [at(0), at(0), at(0)]])
    found = measured(registers)
    first = (math.cos(0.3) + math.cos(1.0) + math.cos(0.7)) / 3
    assert found.scores["register_cosine"].tolist() == pytest.approx([first, 1.0])
    assert found.cosines[NORMED][0, 1].item() == pytest.approx((math.cos(0.3) + 1) / 2)


def test_copies_of_one_register_are_named():
    one = randn(4, 1, 6)
    copies = measured(one.expand(-1, 3, -1) + 1e-3 * randn(4, 3, 6, seed=1))
    assert copies.remark() == "its 3 registers are copies of one: the mean cosine of two is 1.000 after the final norm"
    assert measured(randn(4, 3, 6)).remark() == ""


@pytest.mark.parametrize("registers", [0, 1])
def test_fewer_than_two_registers_have_none(registers):
    assert measured(randn(3, registers, 4)) is None
    attention = Attention(None, torch.rand(2, 3, registers, 4, 4), torch.rand(2, 3, 4, 4, 4, 4), torch.rand(2, 3, 1, 1))
    assert diversity.of_attention(attention) == ({}, None)


def test_identity_is_one_for_constants_and_zero_for_content_alone():
    constants = randn(1, 4, 6).expand(50, -1, -1)
    content = randn(50, 1, 6).expand(-1, 4, -1)
    assert measured(constants, content).identity == pytest.approx({RAW: 1, NORMED: 0}, abs=1e-9)


def test_identity_of_planted_parts_is_their_share_of_variance():
    # Two registers at +a and -a in one dimension, two images at +b and -b in another: a² / (a² + b²).
    a, b = 3.0, 1.5
    one = torch.tensor([[[a, b], [-a, b]], [[a, -b], [-a, -b]]], dtype=torch.float64) + 100  # a mean does not count
    assert measured(one).identity[RAW] == pytest.approx(a**2 / (a**2 + b**2))


def test_identity_does_not_depend_on_batches_and_is_undefined_without_variance():
    registers = randn(7, 3, 5)
    whole = Moments()
    whole.add(registers)
    assert measured(registers).identity[RAW] == pytest.approx(whole.identity())
    assert math.isnan(measured(torch.ones(3, 2, 4)).identity[RAW])
    assert "register_identity" in measured(registers).metrics()


@given(rows=st.integers(2, 5), patches=st.integers(2, 30), seed=st.integers(0, 99))
def test_divergences_are_those_of_scipy(rows, patches, seed):
    maps = 0.1 * randn(2, rows, patches, seed=seed).square() + 1e-6  # no shares yet
    found = diversity.divergences(maps)
    for image in range(2):
        for a in range(rows):
            for b in range(rows):
                expected = jensenshannon(maps[image, a], maps[image, b], base=2) ** 2
                assert found[image, a, b].item() == pytest.approx(np.nan_to_num(expected), abs=1e-9)


def test_divergences_of_disjoint_and_equal_maps():
    maps = torch.tensor([[[1.0, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 2.0, 2.0, 0]]])
    expected = [[0, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert diversity.divergences(maps)[0].tolist() == [pytest.approx(row) for row in expected]


def test_coverage_of_equal_and_disjoint_maps():
    same = torch.arange(100.0).expand(1, 3, -1)
    apart = torch.stack([torch.arange(100.0).roll(30 * index) for index in range(3)])[None]
    assert diversity.coverage(same).tolist() == [pytest.approx(0.1)]
    assert diversity.coverage(apart).tolist() == [pytest.approx(0.3)]
    assert diversity.coverage(apart[..., :4]).tolist() == [pytest.approx(0.25)]  # one patch at least


def test_measures_of_attention_are_of_the_mean_over_heads():
    registers = torch.zeros(1, 2, 2, 2, 2)  # two heads, two registers
    registers[0, 0, 0, 0, 0] = registers[0, 1, 0, 0, 1] = 0.3
    registers[0, 0, 1, 0, 1] = registers[0, 1, 1, 1, 1] = 0.2
    attention = Attention(None, registers, torch.rand(1, 2, 2, 2, 2, 2), torch.rand(1, 2, 1, 1))
    scores, between = diversity.of_attention(attention)
    assert scores["register_divergence"].item() == pytest.approx(0.5)  # half of each map is shared
    assert between[0, 0, 1].item() == pytest.approx(0.5)
    assert scores["register_coverage"].item() in (25, 50)  # one of two equally high patches each


# Smallest and largest cosine of two mean registers after the last block.
PUBLISHED = {"small": (0.47, 0.90), "base": (0.54, 0.77), "large": (0.71, 0.95), "giant": (0.35, 0.66)}


@pytest.mark.parametrize("size", PUBLISHED)
def test_cosines_of_the_published_means(size):
    if not MEANS.is_dir():
        pytest.skip("the published means are not here")
    means = torch.load(MEANS / f"{size}.pt", map_location="cpu", weights_only=True)
    found = measured(means[max(means)].expand(3, -1, -1))  # as if every image had the means
    between = 1 - squareform(pdist(means[max(means)].double().numpy(), "cosine"))
    np.testing.assert_allclose(found.cosines[RAW], between, atol=1e-6)
    np.testing.assert_allclose(found.cosines[RAW].min(), PUBLISHED[size][0], atol=0.005)
    np.testing.assert_allclose(found.cosines[RAW].triu(1).max(), PUBLISHED[size][1], atol=0.005)
    assert found.identity[RAW] == pytest.approx(1)
    if size == "large":
        assert found.cosines[RAW][2, 3].item() == pytest.approx(0.95, abs=0.005)
