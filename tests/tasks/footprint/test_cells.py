"""Every task has an estimate of its memory, by hand where it is a sum of few arrays."""

from collections import defaultdict

import pytest
import torch

from benchmarks.speed.real_shapes import RandomTokens
from regvit_lightning import settings
from regvit_lightning.analysis.logistic import HISTORY
from regvit_lightning.errors import UserError
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.models.foreign import ForeignBackbone
from regvit_lightning.models.sources import load_backbone
from regvit_lightning.tasks.footprint import cells, pieces
from regvit_lightning.tasks.footprint.case import PROCESS, Case, Shape, shape_of
from regvit_lightning.work import Pass
from tests.allocations import allocated

VITL = Shape(width=1024, depth=24, hidden=4096, heads=16, patch=14, registers=4, prefix=5, parameters=304_000_000)
IMAGES = defaultdict(lambda: [10_000, 2_000], imagenet=[1_281_167, 50_000])
WEIGHTS = 4 * VITL.parameters
# 16 D + 4 · 4 D bytes of each of 261 tokens, and 3 · (1 + 4) of each pixel, of an image of 224 px
IMAGE = 261 * (16 * 1024 + 4 * 4096) + 15 * 224**2


def case(task, model=VITL, images=IMAGES, classes=1000, **words):
    module, chosen = settings.load_settings("tasks", task, words=[f"{key}={value}" for key, value in words.items()])
    return module.__name__.rpartition(".")[2], Case(chosen, images, classes, model, module.work(chosen, images), True)


def footprint(task, **options):
    return cells.of(*case(task, **options))


@pytest.mark.parametrize("task", settings.names("tasks"))
def test_every_task_has_an_estimate_of_its_own(task):
    module, own = case(task)
    assert module in cells.OF_MODULE, "give the task a function in tasks/footprint/cells.py"
    found = cells.of(module, own)
    assert WEIGHTS <= found.device < 200 * 2**30
    assert PROCESS <= found.host < 64 * 2**30
    assert max(found.device, found.host) <= found.together <= found.device + found.host
    if own.work.passes:
        assert found.device >= WEIGHTS + 1024 * VITL.prefix  # a forward pass is among the parts


def test_knn_holds_the_bank_beside_the_forward_passes():
    found = footprint("imagenet_knn")
    blocks = 2 * 4 * 261 * 1024  # the third and fourth, whose class tokens are read for the linear probe
    assert found.parts["passes"].device == WEIGHTS + 1_281_167 * (4 * 1024 + 9) + 128 * (IMAGE + blocks)
    assert found.largest == "passes"
    assert found.host == PROCESS + 2 * 12 * 128 * 3 * 224**2  # 12 workers, two batches each, in uint8


def test_waiting_batches_are_bounded():
    assert footprint("imagenet_knn", workers=64).host == PROCESS + (2 << 30)
    assert footprint("imagenet_knn", workers=0).host == PROCESS


def test_the_linear_probe_holds_three_arrays_of_every_weight():
    """13 rates × 1,000 classes × (1 + 2 + 4 + 5 + 2) D: weights, gradients and momenta; two inputs have registers."""
    weights = 13 * 1000 * 14 * 1024
    found = footprint("imagenet_linear")
    assert found.largest == "training"
    assert found.device == pytest.approx(WEIGHTS + 12 * weights + 128 * IMAGE, rel=0.15)


def test_features_without_registers_have_no_heads_for_them():
    without = Shape(1024, 24, 4096, 16, 14, 0, 1, VITL.parameters)
    with_registers, plain = (footprint("imagenet_linear", model=model) for model in (VITL, without))
    assert with_registers.device - plain.device == pytest.approx(12 * 13 * 1000 * 2 * 1024, rel=0.1)


@pytest.mark.parametrize(
    ("task", "sets", "part", "each"),
    [
        ("imagenet_knn", "imagenet", "passes", 4 * 1024 + 9),
        # 224 px: 16 patches of 14 px a side
        ("hummingbird_ade20k", "segmentation", "search", 16**2 * (4 * 1024 + 14**2 + 8)),
        # three features; the order of all by each of them, and one with its cosines
        ("rparis6k", "rparis6k", "ranking", 3 * 4 * 1024 + 70 * (3 * 8 + 16)),
    ],
)
def test_what_an_image_more_takes(task, sets, part, each):
    """In tasks that keep something of every image."""
    counts = [defaultdict(lambda: [1, 1], {sets: [images, 100]}) for images in (30_000, 31_000)]
    few, more = (footprint(task, images=images).parts[part] for images in counts)
    assert more.device + more.host - few.device - few.host == 1000 * each


def test_memory_of_patches_is_bounded_by_its_setting():
    """As many patches of each of 20,000 train images: five, or two."""
    bounded, less = (
        footprint("hummingbird_ade20k", images={"segmentation": [20_000, 100]}, memory=memory).device
        for memory in (102_400, 51_200)
    )
    assert bounded - less == 20_000 * (5 - 2) * (4 * 1024 + 14**2 + 8)


def test_scores_of_several_scales_hold_all_logits_and_one_scale_a_part_of_them():
    images = {"segmentation": [20_210, 2_000]}
    several, single = (footprint(task, images=images, classes=150) for task in ("ade20k_ms", "ade20k_linear"))
    logits = 4 * 150 * 1920 * 2560
    assert several.parts["test"].device > WEIGHTS + logits
    assert single.parts["test"].device < WEIGHTS + 16 * 1375 * (16 + 16) * 1024 * 2


def test_a_reports_regressions_are_on_the_host():
    found = footprint("artifact_report")
    history = 2 * HISTORY * 8 * 1024 * 1000  # what L-BFGS remembers of 1,000 classes
    assert history < found.parts["tokens"].host < 2 * history + (4 << 30)
    assert found.parts["tokens"].device == WEIGHTS


def test_text_reports_read_no_image():
    found = footprint("text_report")
    assert (found.device, found.host) == (WEIGHTS, PROCESS)


def test_a_task_of_a_user_has_its_forward_passes_and_what_its_work_keeps():
    _, own = case("imagenet_knn")
    found = cells.of("task_of_a_user", own)
    assert found.device == WEIGHTS + 1_281_167 * 4 * 1024 + 128 * IMAGE


def test_the_shape_is_that_of_the_backbone():
    found = shape_of(load_backbone("random-vitn_reg4"))
    assert (found.width, found.depth, found.hidden, found.heads) == (96, 4, 384, 3)
    assert (found.patch, found.registers, found.prefix) == (8, 4, 5)
    assert found.patches(60, 64) == 8 * 8


def test_a_model_of_which_only_tokens_are_known_has_no_shape():
    with pytest.raises(UserError, match="blocks whose multiply-adds could be counted"):
        shape_of(ForeignBackbone(RandomTokens(16), "mine"))


def test_half_precision_halves_the_hidden_layer():
    module, own = case("imagenet_knn", images={"imagenet": [10, 10]})
    single = Case(own.settings, own.images, own.classes, own.model, own.work, False)
    assert cells.of(module, single).device - cells.of(module, own).device == 128 * 261 * 4 * 4096


def test_a_forward_pass_is_that_of_the_largest_image():
    _, own = case("roxford5k", images=defaultdict(lambda: [100, 1]))
    assert own.forward() == own.forward_of(Pass(1, 384, 512), 16)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(("side", "images", "blocks"), [(64, 16, 1), (64, 16, 4), (128, 4, 3)])
def test_a_forward_pass_allocates_what_is_estimated(precision, side, images, blocks):
    module = FrozenModule(load_backbone("random-vitn_reg4"), precision)

    def work():
        pixels = torch.randint(256, (images, 3, side, side), dtype=torch.uint8)
        module.tokens(pixels, range(-blocks, 0))

    work()
    tokens = images * (5 + (side // 8) ** 2)
    expected = pieces.forward(tokens, 96, 384, images * side**2, precision != "32-true", blocks)
    assert allocated(work)[0] == pytest.approx(expected, rel=0.1)
