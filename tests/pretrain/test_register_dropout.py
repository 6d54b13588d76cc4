"""Register dropout: how often a register is left out, and which."""

import pytest
import torch

from regvit_lightning.pretrain import register_dropout


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_every_register_is_left_out_with_the_probability(probability):
    source, registers, passes = generator(), 4, 4000
    kept, counts = torch.zeros(registers), torch.zeros(registers + 1)
    for _ in range(passes):
        count = register_dropout.kept_count(registers, probability, source)
        counts[count] += 1
        (chosen,) = register_dropout.subsets((1,), registers, count, source)
        kept[chosen] += 1
    torch.testing.assert_close(kept / passes, torch.full((4,), 1 - probability), rtol=0, atol=0.03)
    binomial = torch.distributions.Binomial(registers, torch.tensor(1 - probability))
    torch.testing.assert_close(counts / passes, binomial.log_prob(torch.arange(5.0)).exp(), rtol=0, atol=0.03)


def test_subsets_ascend_without_repetition_and_differ_between_images():
    drawn = register_dropout.subsets((2, 50), 6, 3, generator())
    assert drawn.shape == (2, 50, 3)
    assert (drawn.diff(dim=-1) > 0).all()
    assert drawn.flatten(0, 1).unique(dim=0).shape[0] == 20  # all subsets of 3 of 6
