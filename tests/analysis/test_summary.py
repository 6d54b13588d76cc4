"""`artifacts` on a model with a planted neuron: the outliers are the flat patches, and the clean model has none."""

import pytest
import torch

from regvit_lightning.analysis.summary import artifacts
from regvit_lightning.errors import UserError
from tests.analysis.planted import planted


@pytest.mark.parametrize("device_batch", [3, 16])
def test_planted_outliers_are_marked_exactly(device_batch):
    made = planted(block=2, images=7)
    measured = artifacts(made.backbone, made.normalised(), device_batch=device_batch)
    assert torch.equal(measured.outliers, made.flat)
    assert measured.findings["factor"].first == made.block
    assert measured.verdict.startswith("planted has high-norm artifacts after blocks 2–4 of 4: ")


def test_the_clean_model_has_none():
    made = planted(images=4)
    measured = artifacts(made.clean, made.normalised())
    assert not measured.outliers.any()
    assert "no high-norm artifacts" in measured.verdict


def test_mistakes_are_one_line():
    made = planted(images=2)
    with pytest.raises(UserError, match=r"expected \(N, 3, H, W\)"):
        artifacts(made.clean, made.normalised()[0])
    with pytest.raises(UserError, match="rule=sigma: expected one of"):
        artifacts(made.clean, made.normalised(), rule="sigma")
