"""Clusters and classes: the matchings by hand, and the one-to-one matching against all permutations."""

from itertools import permutations

import torch

from regvit_lightning.tasks.patches.matching import hungarian, many_to_one
from tests.tasks.patches.planted import torch_seed


def test_each_cluster_gets_the_class_of_its_precision():
    shared = torch.tensor([[9, 1, 0], [8, 0, 7], [0, 0, 0], [0, 5, 5]])
    assert many_to_one(shared).tolist() == [0, 0, 0, 1]


def test_one_to_one_is_the_best_of_all_permutations():
    shared = torch.randint(50, (5, 5), generator=torch_seed(0))
    union = shared.sum(dim=1, keepdim=True) + shared.sum(dim=0) - shared
    overlap = (shared / union).double()
    best = max(permutations(range(5)), key=lambda order: sum(overlap[n, own] for n, own in enumerate(order)))
    assert hungarian(shared).tolist() == list(best)


def test_more_clusters_than_classes_leaves_some_without_and_the_other_way_round():
    assert hungarian(torch.tensor([[1, 0], [9, 0], [0, 4]])).tolist() == [-1, 0, 1]
    assert hungarian(torch.tensor([[0, 3, 9]])).tolist() == [2]
    assert hungarian(torch.zeros(2, 2, dtype=torch.long)).sort().values.tolist() == [0, 1]
