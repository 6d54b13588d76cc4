"""Logits in parts: the values of torch's own functions on whole arrays, but for rounding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from regvit_lightning.frozen import large_logits
from regvit_lightning.frozen.large_logits import cross_entropy_sum, largest_class, tiles, upsampled_rows

SIZES = [((4, 5), (64, 80)), ((5, 3), (23, 31)), ((1, 1), (7, 9)), ((9, 8), (5, 6))]  # the last one shrinks


@pytest.fixture(autouse=True)
def several_parts(monkeypatch):
    monkeypatch.setattr(large_logits, "TILE", 4 * 3 * 80 * 3)  # three rows of three classes


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("small", "size"), SIZES)
def test_rows_are_those_of_interpolate(small, size):
    logits = drawn(2, 3, *small)
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    rows = torch.cat([upsampled_rows(logits, part, size) for part in tiles(3, *size)], dim=2)
    torch.testing.assert_close(rows, expected, rtol=1e-6, atol=2e-6)


@given(st.integers(1, 200), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_parts_cover_every_row_once(classes, height, width):
    rows = [row for part in tiles(classes, height, width) for row in range(height)[part]]
    assert rows == list(range(height))


@pytest.mark.parametrize(("small", "size"), SIZES)
def test_loss_and_gradient_are_those_of_the_whole(small, size):
    labels = torch.randint(3, (2, *size), generator=torch.Generator().manual_seed(1))
    labels[0, : size[0] // 2] = 255
    ours, whole = (drawn(2, 3, *small).requires_grad_() for _ in range(2))
    found = cross_entropy_sum(ours, labels, 255)
    fine = F.interpolate(whole.double(), size, mode="bilinear", align_corners=False)
    expected = F.cross_entropy(fine, labels, ignore_index=255, reduction="sum")
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    (3 * found).backward()
    (3 * expected).backward()
    torch.testing.assert_close(ours.grad, whole.grad, rtol=1e-5, atol=1e-5)


def test_pixels_without_a_label_alone_have_no_loss_and_no_gradient():
    logits = drawn(1, 3, 4, 5).requires_grad_()
    loss = cross_entropy_sum(logits, torch.full((1, 12, 15), 255), 255)
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


@pytest.mark.parametrize("size", [(30, 44), (20, 60)])
def test_the_largest_class_is_that_of_averaged_windows(size):
    windows = [(slice(0, 24), slice(0, 24)), (slice(0, 24), slice(16, 40)), (slice(6, 30), slice(0, 24))]
    windows.append((slice(6, 30), slice(16, 40)))
    logits, image = [drawn(7, 4, 4, seed=number) for number in range(4)], (30, 40)
    total, count = torch.zeros(7, *image), torch.zeros(image)
    for own, (rows, columns) in zip(logits, windows, strict=True):
        total[:, rows, columns] += F.interpolate(own[None], (24, 24), mode="bilinear", align_corners=False)[0]
        count[rows, columns] += 1
    expected = F.interpolate((total / count)[None], size, mode="bilinear", align_corners=False)[0]
    first, second = expected.topk(2, dim=0).values
    found = largest_class(logits, windows, image, size)
    assert found.shape == size
    assert torch.equal(found[first - second > 1e-4], expected.argmax(dim=0)[first - second > 1e-4])
    assert (first - second > 1e-4).float().mean() > 0.99


def test_of_equal_classes_the_first_is_taken():
    flat = torch.tensor([0.5, 2.0, 2.0, 1.0]).view(4, 1, 1)
    found = largest_class([flat], [(slice(0, 6), slice(0, 6))], (6, 6), (6, 6))
    assert found.unique().tolist() == [1]


def test_what_is_large():
    assert not large_logits.is_large(16, 150, 64, 64)  # a step on the rendered data keeps its bits
    assert large_logits.is_large(1, 150, 512, 512)
