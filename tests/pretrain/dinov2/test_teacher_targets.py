"""Sinkhorn-Knopp against a log-domain version in float64, its sums, and the centre in closed form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch.nn import functional as F

from regvit_lightning.pretrain.dinov2.teacher_targets import CentredTargets, Computed, assign, sinkhorn


def cosines(samples, prototypes, seed, gain=1.0):
    generator = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(samples, 8, generator=generator), dim=1)
    return gain * features @ F.normalize(torch.randn(prototypes, 8, generator=generator), dim=1).T


def shared(logits, temperature, iterations=3, parts=1):
    """Targets of logits that come in parts."""
    return assign(logits, temperature, sinkhorn(logits.tensor_split(parts), temperature, iterations))


def in_log_domain(logits, temperature, iterations):
    """The algorithm as published: prototypes to 1/K, samples to 1/B, on logarithms in float64."""
    q = logits.double() / temperature
    q = q - q.flatten().logsumexp(0)
    for _ in range(iterations):
        q = q - q.logsumexp(dim=0, keepdim=True) - math.log(q.shape[1])
        q = q - q.logsumexp(dim=1, keepdim=True) - math.log(q.shape[0])
    return (q + math.log(q.shape[0])).exp()


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(1, 40),
    prototypes=st.integers(1, 50),
    temperature=st.sampled_from([0.04, 0.07, 0.1]),
    iterations=st.integers(1, 5),
    gain=st.sampled_from([1.0, 1.5]),
    parts=st.integers(1, 5),  # with few samples some parts are empty
)
def test_sinkhorn_agrees_with_logarithms_in_float64(samples, prototypes, temperature, iterations, gain, parts):
    logits = cosines(samples, prototypes, samples * 100 + prototypes, gain)
    expected = in_log_domain(logits, temperature, iterations)
    torch.testing.assert_close(shared(logits, temperature, iterations, parts).double(), expected, rtol=2e-3, atol=1e-6)


def test_rows_sum_to_one_and_in_the_end_columns_to_equal_shares():
    logits = cosines(64, 16, 0)
    few, many = shared(logits, 0.07), shared(logits, 0.07, 200)
    torch.testing.assert_close(few.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(many.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(many.sum(dim=0), torch.full((16,), 4.0), rtol=1e-3, atol=0)
    assert (few.sum(dim=0) - 4).abs().sum() < (F.softmax(logits / 0.07, dim=1).sum(dim=0) - 4).abs().sum() / 2


def test_equal_samples_share_the_prototypes_evenly():
    # What keeps Sinkhorn-Knopp from collapsing: when all say the same, nothing is said.
    targets = shared(cosines(1, 10, 3).expand(6, -1), 0.04)
    torch.testing.assert_close(targets, torch.full((6, 10), 0.1), rtol=1e-4, atol=0)


def test_far_values_neither_overflow_nor_vanish():
    logits = torch.tensor([[1e3, 0.0], [0.0, 1e3], [-1e3, -1e3]])
    targets = shared(logits, 0.04)
    torch.testing.assert_close(targets, torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]))


def test_bfloat16_autocast_does_not_reach_into_it():
    logits = cosines(32, 24, 5)
    with torch.autocast("cpu", torch.bfloat16):
        inside = shared(logits, 0.04)
    torch.testing.assert_close(inside, shared(logits, 0.04), rtol=0, atol=0)


def test_parts_are_kept_or_computed_again():
    calls = []
    for count, looks in ((1, 1), (3, 6)):
        calls.clear()
        items = Computed(lambda number: calls.append(number) or 10 * number, range(count))
        assert [list(items) for _ in range(2)] == [[10 * number for number in range(count)]] * 2
        assert (len(items), len(calls)) == (count, looks)


def test_centre_is_the_moving_mean_and_is_used_a_step_later():
    targets = CentredTargets(3)
    first, second = torch.tensor([[1.0, 2.0, 6.0], [3.0, 2.0, 0.0]]), torch.tensor([[10.0, 0.0, 0.0]])
    torch.testing.assert_close(assign(first, 0.5, targets([first], 0.5)), F.softmax(first / 0.5, dim=1))
    before = targets.centre.clone()
    torch.testing.assert_close(before, 0.1 * torch.tensor([2.0, 2.0, 3.0]))
    found = assign(second, 0.5, targets([second], 0.5))
    torch.testing.assert_close(found, F.softmax((second - before) / 0.5, dim=1))
    torch.testing.assert_close(targets.centre, torch.tensor([0.9 * 0.2 + 0.1 * 10, 0.9 * 0.2, 0.9 * 0.3]))


@pytest.mark.parametrize("parts", [1, 3, 12])
def test_the_centre_does_not_depend_on_parts(parts):
    targets, logits = CentredTargets(4), torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    targets(logits.tensor_split(parts), 0.1)
    torch.testing.assert_close(targets.centre, 0.1 * logits.mean(dim=0))
