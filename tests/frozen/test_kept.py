"""Training on kept features gives the numbers of training on the same images without keeping them."""

from pathlib import Path

import pytest
import torch

from regvit_lightning import settings
from regvit_lightning.data import ade20k, nyu
from regvit_lightning.data.depth_pairs import Augmentation
from regvit_lightning.data.imagenet import ImageNet, train_files
from regvit_lightning.data.module import Loading
from regvit_lightning.data.stream import Stream
from regvit_lightning.frozen import head_grid, kept
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.frozen.trainer import fit
from regvit_lightning.models import sources
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks import depth, linear, segmentation

HOW = RunOptions(seed=3)


def nano():
    return sources.load_backbone("random-vitn_reg4", Path("runs"), image_size=64)


def options(task, *words):
    usual = ["workers=0", "precision=32-true", "steps=4", "batch_size=4", "device_batch=4", "augment=false"]
    return settings.load_settings("tasks", task, "mini", [*usual, *words])[1]


def heads(module):
    return {name: value.clone() for name, value in module.head_state().items()}


def assert_equal(found, expected, start):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(value, start[name]) for name, value in found.items())


def test_linear_heads_are_those_of_the_views_themselves(tiny):
    chosen = options("imagenet_linear")
    train, stream = train_files(tiny), Stream(len(train_files(tiny)), 4, 4, HOW.seed)
    states = []
    for keeping in (True, False):
        torch.manual_seed(0)
        module = linear.LinearProbe(nano(), chosen, 16)
        start = heads(module)
        plain = ImageNet(Loading(0, 4), stream, train=(train, chosen.view()))
        run = head_grid.training(module, module.settings, train, Loading(0, 4), HOW) if keeping else plain
        fit(module, run, 4, HOW)
        states.append(heads(module))
    assert_equal(*states, start)


def test_depth_heads_are_those_of_the_middle_crops(tiny):
    chosen = options("nyud_linear1", "warmup_steps=1", "border_crop=false", "crop=[64,64]")
    pairs = nyu.train_pairs(tiny)
    view = Augmentation((64, 64), chosen.short_side, False, 0.0, drawn=False)
    stream = Stream(len(pairs), 4, 4, HOW.seed)
    test = nyu.OrderedPairs(pairs, chosen.short_side, chosen.depth_range, False)
    states = []
    for keeping in (True, False):
        torch.manual_seed(0)
        module = depth.DepthHead(nano(), chosen)
        start = heads(module)
        plain = nyu.NYU(Loading(0, 4), stream, (pairs, view), test)
        fit(module, kept.drawn(kept.keep(module, plain, HOW), stream) if keeping else plain, 4, HOW)
        states.append(heads(module))
    assert states[0]["seen"][1] > 0
    assert_equal(*states, start)


def test_segmentation_heads_are_those_of_the_windows(tiny):
    """Windows as large as the images: each is the whole image, which mmsegmentation's own loss takes, too."""
    chosen = options("ade20k_linear", "warmup_steps=1", "crop=64", "short_side=24", "stride=64")
    train = ade20k.train_images(tiny, ade20k.plain_pipeline(tiny.segmentation, 24))
    classes, stream = tiny.segmentation.classes, Stream(len(train), 4, 4, HOW.seed)
    states = []
    for keeping in (True, False):
        torch.manual_seed(0)
        module = segmentation.Segmenter(nano(), chosen, classes)
        start = heads(module)
        plain = ade20k.ADE20k(Loading(0, 4), stream, train, train)
        fit(module, segmentation._kept(module, train, HOW) if keeping else plain, 4, HOW)
        states.append(heads(module))
    assert states[0]["seen"].sum() > 0
    assert_equal(*states, start)


def test_windows_cover_the_whole_image(tiny):
    chosen = options("ade20k_linear", "crop=64", "short_side=96", "stride=43")
    train = ade20k.train_images(tiny, ade20k.plain_pipeline(tiny.segmentation, 96))
    module = segmentation.Segmenter(nano(), chosen, tiny.segmentation.classes)
    samples = kept.keep(module, ade20k.WholeImages(Loading(0, 1), train), HOW)
    height, width = train[0]["inputs"].shape[1:]
    columns = len(segmentation._starts(chosen, width)) * len(segmentation._starts(chosen, height))
    assert columns > 2
    assert len(samples) >= len(train) * 2
    first, last = samples[0]["labels"], samples[columns - 1]["labels"]
    truth = train[0]["data_samples"].gt_sem_seg.data
    assert torch.equal(first, truth[:, :64, :64])
    assert torch.equal(last, truth[:, -64:, -64:])


def test_more_than_the_memory_is_refused():
    kept.check_memory(1)
    with pytest.raises(SettingsError, match=r"augment=false keeps 1000000\.0 GB of features.*give augment=true"):
        kept.check_memory(10**15)


def test_the_work_of_kept_features_is_one_pass_over_the_images():
    count = {"imagenet": (600, 400), "segmentation": (367, 233), "depth": (140, 40)}
    for task in ("imagenet_linear", "ade20k_linear", "nyud_linear1"):
        task_module, chosen, _ = settings_of(task)
        small = sum(one.images for one in task_module.work(chosen, count).passes)
        assert small <= 2 * sum(count[task_module.READS])


def test_reduced_images_cost_less():
    from regvit_lightning.tasks.discovery import lost

    full, small = (settings.load_settings("tasks", "lost_raccoon", variant)[1] for variant in ("", "small"))
    costs = [lost.work(one, {"raccoon": (200,)}).passes[0] for one in (full, small)]
    assert (costs[0].height, costs[0].width) == (480, 640)
    assert costs[1].height * costs[1].width == pytest.approx(576 * 16**2, rel=0.01)


def settings_of(task):
    from regvit_lightning import precision

    return precision.module_and_settings("tasks", task, "small", [])


@pytest.mark.parametrize("task", settings.names("tasks"))
def test_every_task_has_a_small_overlay(task):
    words = ["images=voc07"] if task in ("lost", "lost_sweep", "tokencut") else []
    settings.load_settings("tasks", task, "small", words)
