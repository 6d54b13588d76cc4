"""Benchmarks beside other code bases: the stand-in for xFormers, the limit by matrix products, absent peers."""

import json
import math
import sys

import pytest
import torch
from torch.nn import functional as F

from benchmarks.speed import __main__ as speed
from benchmarks.speed.peers import pairs, products, runner
from benchmarks.speed.peers.xformers_stand_in import (
    BlockDiagonalMask,
    index_select_cat,
    memory_efficient_attention,
    scaled_index_add,
)
from benchmarks.speed.timing import Measurement


def test_a_peer_that_is_not_there_has_a_row_with_its_address(tmp_path):
    rows = list(runner.rows(tmp_path))
    assert len(rows) == len(runner.PEERS)
    for row, peer in zip(rows, runner.PEERS, strict=True):
        assert math.isnan(row.value)
        assert row.parts == f"not there: {peer.address}"
        assert speed.stored(row)["value"] is None


def test_a_row_without_a_measurement_is_shown_and_stored(tmp_path):
    facts = {"device": "a CPU", "versions": {"torch": "2"}, "commit": "0" * 40, "dirty": False, "date": "today"}
    shown = speed.table(list(runner.rows(tmp_path))[:1], 1e9, facts)
    assert "–" in shown
    assert "not there: https://github.com/facebookresearch/dinov2" in shown


def test_a_peer_that_fails_has_a_row_with_its_last_line(tmp_path, monkeypatch):
    (tmp_path / "LOST").mkdir()  # an empty checkout: nothing can be imported
    peer = next(peer for peer in runner.PEERS if peer.folder == "LOST")
    monkeypatch.setattr(runner, "PEERS", [peer])
    (row,) = runner.rows(tmp_path)
    assert math.isnan(row.value)
    assert row.parts.startswith("does not run here: ")
    assert "dino" in row.parts


def test_rows_of_an_adapter_arrive_from_its_process(tmp_path, monkeypatch):
    written = {"name": "a", "value": 2.0, "target": "", "parts": "b"}

    def run(words, **_):
        with open(words[-1], "w") as file:
            json.dump([written], file)
        return type("Done", (), {"returncode": 0})

    (tmp_path / "LOST").mkdir()
    monkeypatch.setattr(runner.subprocess, "run", run)
    monkeypatch.setattr(runner, "PEERS", [peer for peer in runner.PEERS if peer.folder == "LOST"])
    assert list(runner.rows(tmp_path)) == [Measurement(**written)]


def test_their_modules_come_before_installed_ones_or_after(tmp_path):
    before, after = (next(peer for peer in runner.PEERS if peer.before == wanted) for wanted in (True, False))
    assert str(tmp_path / "dinov2") in runner.environment(before, tmp_path)["PYTHONPATH"]
    environment = runner.environment(after, tmp_path)
    assert "pytorch-image-models" not in environment["PYTHONPATH"]
    assert environment["REGVIT_PEER"].startswith(str(tmp_path / "pytorch-image-models"))


def test_a_ratio_is_that_of_pairs():
    # A machine that is three times as slow in one pair slows both sides, and changes no ratio.
    assert pairs.ratio([(1.0, 2.0), (3.0, 6.0), (1.0, 2.0)]) == 2.0


def test_packages_that_are_not_installed_can_be_imported_and_installed_ones_stay():
    pairs.without("no_such_package.part", "torch.nn")
    import no_such_package.part

    try:
        assert isinstance(no_such_package.part.Anything, type)
        assert torch.nn is sys.modules["torch.nn"]
    finally:
        for name in ("no_such_package", "no_such_package.part"):
            del sys.modules[name]


@pytest.mark.parametrize("kind", ["lengths", "tensors"])
def test_attention_stays_inside_a_sequence(kind):
    torch.manual_seed(0)
    batches = [torch.randn(2, 5, 3, 4), torch.randn(3, 2, 3, 4)]  # (b, n, heads, d)
    mask, joined = BlockDiagonalMask.from_tensor_list(batches)
    if kind == "lengths":
        mask = BlockDiagonalMask.from_seqlens([5, 5, 2, 2, 2])
    found = mask.split(memory_efficient_attention(joined, joined, joined, mask))
    for batch, own in zip(batches, found, strict=True):
        assert own.shape == batch.shape
        for one, result in zip(batch, own, strict=True):
            weights = torch.einsum("nhd,mhd->hnm", one, one).div(2.0).softmax(dim=-1)  # the root of d is 2
            torch.testing.assert_close(result, torch.einsum("hnm,mhd->nhd", weights, one))


def test_rows_are_selected_and_added():
    x, chosen = torch.arange(12.0).view(3, 2, 2), torch.tensor([2, 0])
    assert index_select_cat([x.flatten(1)], [chosen]).tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
    added = scaled_index_add(x, chosen, torch.ones(2, 2, 2), scaling=torch.tensor([1.0, 10.0]), alpha=0.5)
    assert (added - x).tolist() == [[[0.5, 5.0]] * 2, [[0.0, 0.0]] * 2, [[0.5, 5.0]] * 2]


def test_every_matrix_product_of_a_step_is_counted():
    weight, x = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)

    def step():
        F.linear(F.linear(x, weight), weight.T).sum().backward()
        weight.grad = None

    with products.Recorded() as recorded:
        step()
    shapes = sorted(tuple(value[0][:2] for kind, value in args if kind == "tensor") for _, args in recorded.calls)
    assert sum(recorded.calls.values()) == 5  # two forward; one and two backward, as x needs no gradient
    assert ((5, 4), (4, 3)) in shapes
    assert products.product_seconds(step, 1) > 0


def test_letters_of_measurements_are_checked():
    assert speed.known_letters("peers") == "peers"
    assert speed.known_letters("ce") == "ce"
    with pytest.raises(ValueError, match="no measurement z"):
        speed.known_letters("cz")
