"""Norms by stage on planted maps: outliers, border, window seams, and how few cells are said."""

import pytest
import torch

from regvit_lightning.analysis import stage_report
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.analysis.stages import StageNorms, ring_profile, window_profile


def noise(*shape, seed=0):
    return 1 + 0.05 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def stage(norms, stem=None):
    return StageNorms(norms, None, noise(*norms.shape, seed=1) if stem is None else stem, torch.zeros_like(norms))


def test_planted_outliers_of_a_stage_are_found_there_alone():
    first, last = noise(20, 16, 16), noise(20, 8, 8)
    last[:, 3, 4] = 6
    found = stage_report.stage_findings([stage(first), stage(last)], Rules(), 0)["factor"]
    assert found.shares == [0, 1 / 64]
    assert (found.blocks, found.peak, found.images) == ([2], 2, [0, 20])


def test_cells_that_are_high_in_the_stem_are_not_made_by_a_stage():
    norms, stem = noise(20, 8, 8), noise(20, 8, 8)
    norms[:, 3, 4] = stem[:, 3, 4] = 6
    found = stage_report.stage_findings([stage(norms, stem)], Rules(), 0)["factor"]
    assert found.shares == [1 / 64] == [found.embedded]
    assert (found.made, found.blocks) == ([0], [])


def test_the_profile_of_a_planted_border():
    norms = torch.ones(3, 9, 9)
    norms[:, 0], norms[:, -1], norms[:, :, 0], norms[:, :, -1] = 2, 2, 2, 2
    norms[:, 4, 4] = 1.5
    assert ring_profile(3 * norms).tolist() == pytest.approx([2, 1, 1, 1, 1.5])  # relative to the median


def test_a_planted_seam_stands_out_and_a_trend_does_not():
    rise = torch.linspace(0, 1, 16, dtype=torch.float64)
    trend = 1 + rise[None, :, None] + rise[None, None]
    found = window_profile(trend.expand(4, -1, -1), (4, 2))
    assert found.contrast == pytest.approx([0] * 4, abs=1e-9)
    norms = torch.ones(4, 16, 16)
    for line in (4, 8, 12):
        norms[:, line - 1 : line + 1] *= 1.1
        norms[:, :, line - 1 : line + 1] *= 1.1
    found = window_profile(norms, (4, 2))
    assert found.contrast[0] == pytest.approx(0.1, rel=1e-5)
    # Between two lines norms are 1 and next to them 1.1, but 1 at the border: the outer half of two of four lines.
    assert found.contrast[2] == pytest.approx(8 / (6 * 1.1 + 2) - 1, rel=1e-5)
    assert found.profile[0, 0] > found.profile[1, 0] > found.profile[1, 1]
    assert found.profile.mean().item() == pytest.approx(1)


def test_windows_tell_nothing_where_there_is_one_a_side():
    assert window_profile(torch.ones(4, 7, 7), (7, 3)) is None
    assert window_profile(torch.ones(4, 14, 14), (7, 3)) is not None
