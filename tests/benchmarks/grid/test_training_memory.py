"""Memory of a pretraining against what an H100 measured: `results/bench/h100-models.json`, with torch 2.11."""

from types import SimpleNamespace

import pytest

from benchmarks.grid import training_memory
from benchmarks.grid.training_memory import Training
from regvit_lightning import settings
from regvit_lightning.pretrain.recipe import recipe_class
from regvit_lightning.tasks.footprint.case import Shape

GIB = 2**30
VITS = Shape(384, 12, 1536, 6, 14, 4, 5, 22_000_000)
VITB = Shape(768, 12, 3072, 12, 14, 4, 5, 86_000_000)
VITL = Shape(1024, 24, 4096, 16, 14, 4, 5, 304_000_000)
BACKBONE = SimpleNamespace(has_cls=True, num_registers=4, patch_size=14)
PATCHES_OF_16 = SimpleNamespace(has_cls=True, num_registers=4, patch_size=16)


@pytest.mark.parametrize(
    ("shape", "pixels", "images", "measured"),
    [
        (VITS, 224, 512, 24.3),
        (VITB, 224, 256, 24.5),
        (VITL, 224, 128, 33.1),
        (VITS, 518, 64, 16.1),
        (VITB, 518, 32, 16.4),
        (VITL, 518, 16, 22.4),
    ],
)
def test_activations_of_forward_and_backward_passes(shape, pixels, images, measured):
    """Weights and gradients in float32, and activations."""
    size = 8 * shape.parameters + Training(shape, 5 + (pixels // 14) ** 2, images).activations()
    assert size / GIB == pytest.approx(measured, rel=0.06)


def recipe(name, batch, **words):
    words = {"batch_size": batch, "device_batch": batch, **words}
    _, options = settings.load_settings("recipes", name, words=[f"{key}={value}" for key, value in words.items()])
    return recipe_class(options.module).work(options, {"imagenet22k": [14_197_122], "pairs": [10**6]}), options


def test_a_step_of_deit3():
    """ViT-B/16 with 4 registers, 256 images, 21,841 classes: 20.5 GiB."""
    work, options = recipe("deit3", 256)
    with_classes = Shape(768, 12, 3072, 12, 16, 4, 5, 86_000_000 + 21_841 * 769)
    size = training_memory.of(PATCHES_OF_16, with_classes, work, options, 1)
    assert size / GIB == pytest.approx(20.5, rel=0.06)


def test_a_step_of_dinov2():
    """ViT-L/14 with 4 registers and SwiGLU, 64 images of two global and eight local crops in one pass: 67.4 GiB."""
    work, options = recipe("dinov2", 64)
    size = training_memory.of(BACKBONE, VITL, work, options, 1)
    assert size / GIB == pytest.approx(67.4, rel=0.1)


def test_a_share_of_the_batch_and_its_parts():
    """Devices share the batch; above `device_batch` it goes in parts, which need no more memory."""
    work, options = recipe("deit3", 2048, device_batch=256)
    one, eight, sixty_four = (training_memory.of(PATCHES_OF_16, VITB, work, options, count) for count in (1, 8, 64))
    assert one == eight
    assert eight - sixty_four == Training(VITB, 201, 256 - 32).activations()


def test_checkpointing_keeps_the_input_of_every_block_and_all_of_one():
    whole, cheap = (Training(VITB, 197, 10, checkpointed=on).activations() for on in (False, True))
    assert whole == 197 * 10 * 12 * 42 * 768
    assert cheap == 197 * 10 * (12 * 4 + 42) * 768
    work, options = recipe("deit3", 64, grad_checkpointing="true")
    _, plain = recipe("deit3", 64)
    sizes = [training_memory.of(PATCHES_OF_16, VITB, work, own, 1) for own in (plain, options)]
    assert sizes[0] - sizes[1] == 64 * 201 * 768 * (12 * 42 - 12 * 4 - 42)


def test_openclip_trains_a_text_tower_too():
    """63 M parameters in all with its projections, as CLIP's ViT-B/16, whose two towers have 150 M."""
    work, options = recipe("openclip", 256)
    size = training_memory.of(PATCHES_OF_16, VITB, work, options, 1)
    image = 16 * VITB.parameters + Training(VITB, 201, 256).activations()
    texts = 256 * 77 * 12 * 42 * 512
    assert (size - image - texts) / 16 == pytest.approx(64e6, rel=0.02)
