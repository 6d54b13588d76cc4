"""High norms, sinks and locality of a few images: planted ones are seen, in images of different sizes."""

import pytest
import torch

from regvit_lightning.analysis import few_images
from regvit_lightning.analysis.outliers import Rules
from tests.analysis.planted import planted

TRUTH = planted(images=3)


def images():
    every = TRUTH.normalised()
    return [every[:1], every[1:2, :, :, :48], every[2:]]


def test_planted_norms_are_high_in_each_image_and_not_in_the_clean_model():
    high, sinks, local = few_images.answers(TRUTH.backbone, images(), Rules())
    assert high.answer == "high"
    assert high.effect["max_over_median"] > 20
    assert high.words.startswith("3 of 3 images have")
    assert sinks.answer == "none"
    assert sinks.words.startswith("Sinks per image (n = 3 images, 12 heads): NOP 0")
    assert local.answer == "not judged"
    clean, *_ = few_images.answers(TRUTH.clean, images(), Rules())
    assert clean.answer == "no"
    assert clean.words.startswith("0 of 3 images have norms high above the others; the largest is ")
    assert clean.effect["max_over_median"] < 3


def test_the_cosine_is_that_of_the_output():
    every = images()
    *_, local = few_images.answers(TRUTH.clean, every, Rules())
    with torch.inference_mode():
        outputs = [TRUTH.clean(image).patches.flatten(1, 2) for image in every]
    cosines = [torch.cosine_similarity(one, one.mean(dim=1, keepdim=True), dim=2).mean() for one in outputs]
    assert local.effect["mean_cosine"] == pytest.approx(sum(cosines).item() / 3, rel=1e-4)


def test_sinks_of_large_images_are_not_measured(monkeypatch):
    monkeypatch.setattr(few_images, "MOST_TOKENS", 50)
    _, sinks, _ = few_images.answers(TRUTH.clean, images(), Rules())
    assert sinks.words == "Sinks are not measured: an image has 64 patches, more than 50."


def test_a_model_whose_blocks_are_more_than_their_heads_says_why():
    backbone = planted(images=1).clean
    hook = backbone.model.blocks[0].register_forward_hook(lambda _, __, output: 1.01 * output)
    _, sinks, _ = few_images.answers(backbone, images()[:1], Rules())
    hook.remove()
    assert sinks.answer == "not measured"
    assert "clean: block 0 is not the sum of what its heads write" in sinks.words
