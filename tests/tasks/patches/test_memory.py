"""The memory of patches: what enters it, what does not, and how often rare classes do."""

import torch

from regvit_lightning.neighbours import search_fast
from regvit_lightning.tasks.patches.memory import PatchMemory, kept_patches


def test_all_labelled_patches_are_kept_where_they_fit():
    pixels = torch.tensor([[0, 0], [255, 255], [1, 255], [2, 2]], dtype=torch.uint8)
    assert kept_patches(pixels, 3, 3, seed=0, number=0).tolist() == [0, 2, 3]
    assert kept_patches(pixels, 3, 9, seed=0, number=0).tolist() == [0, 2, 3]
    assert kept_patches(pixels[1:2], 3, 3, seed=0, number=0).tolist() == []


def test_patches_of_rare_classes_are_preferred():
    # 90 patches of class 0 score 90 U each; 9 of class 1 score 9 U, one of classes 1 and 2 scores 10 U + 1 U.
    pixels = torch.tensor([[0, 0]] * 90 + [[1, 1]] * 9 + [[1, 2]], dtype=torch.uint8)
    kept = [kept_patches(pixels, 3, 10, seed=0, number=number) for number in range(200)]
    assert all(len(one) == 10 for one in kept)
    rare = torch.stack([(one >= 90).sum() for one in kept]).double().mean()
    # Of 90 scores 90 U about as many lie below t as t; of 10 scores of about 10 U, min(t, 10) do: half of ten.
    assert 4.5 < rare < 6
    assert not all(torch.equal(one, kept[0]) for one in kept)
    assert torch.equal(kept_patches(pixels, 3, 10, seed=0, number=7), kept[7])
    assert not torch.equal(kept_patches(pixels, 3, 10, seed=1, number=7), kept[7])


def test_memory_is_filled_image_by_image():
    memory = PatchMemory(5, 2, 1, torch.device("cpu"))
    memory.add(torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[3], [4]], dtype=torch.uint8), 0)
    memory.add(torch.tensor([[1.0, 1]]), torch.tensor([[5]], dtype=torch.uint8), 1)
    assert memory.filled == 3
    assert memory.pixels.flatten().tolist() == [3, 4, 5]
    assert memory.images.tolist() == [0, 0, 1]
    _, index = search_fast(torch.tensor([[2.0, 1.9]]), memory.features, 2, 1)
    assert index.tolist() == [[2, 0]]
