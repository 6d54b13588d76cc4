"""Features that tasks share: the same bits with a store and without, no pass for the second task, nothing stale."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks import evaluate
from benchmarks.grid import cells
from benchmarks.grid.make_commands import Commands
from regvit_lightning import evaluation, records, settings
from regvit_lightning.data.imagenet import ImageFiles
from regvit_lightning.data.imagenet import test_files as files_of_test
from regvit_lightning.data.layout import DataError
from regvit_lightning.frozen import shared
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import sources
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.runtime.store import Store
from regvit_lightning.tasks import knn, linear

WORDS = {
    "imagenet_knn": ["neighbours=[1,5]", "device_batch=32"],
    "imagenet_linear": ["steps=3", "batch_size=8", "device_batch=32", "augment=false"],
}
TASKS = {"imagenet_knn": knn, "imagenet_linear": linear}


def options(task, *more, precision="32-true"):
    words = dict(word.split("=", 1) for word in [*WORDS[task], "workers=0", f"precision={precision}", *more])
    words = [f"{name}={value}" for name, value in words.items()]
    return settings.load_settings("tasks", task, "mini", words)[1]


def model(name="random-vitn_reg4", seed=0):
    """A backbone that counts the images of its forward passes in `seen`."""
    backbone = sources.load_backbone(name, "runs", seed, image_size=64)
    backbone.seen = 0

    def count(module, arguments):
        backbone.seen += len(arguments[0])

    backbone.model.patch_embed.register_forward_pre_hook(count)
    return backbone


def run(task, data, store, backbone=None, *words, precision="32-true"):
    """Outcome of a task, and how many images went through the backbone."""
    backbone = backbone or model()
    before = backbone.seen
    outcome = TASKS[task].run(backbone, data, options(task, *words, precision=precision), RunOptions(store=store))
    return outcome, backbone.seen - before


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "features", 10**8)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["random-vitn_reg4", "random-vitn_reg0"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_numbers_are_the_same_bits_with_a_store_and_without(tiny, store, task, name, precision):
    plain, _ = run(task, tiny, None, model(name), precision=precision)
    filling, passed = run(task, tiny, store, model(name), precision=precision)
    reading, again = run(task, tiny, store, model(name), precision=precision)
    assert plain == filling == reading
    for metric, values in plain.scores.items():
        assert torch.equal(values, filling.scores[metric])
        assert torch.equal(values, reading.scores[metric])
    assert passed > 0
    assert again == 0


def test_a_second_task_runs_the_images_of_the_first_one_no_more(tiny, store):
    _, first = run("imagenet_linear", tiny, store)  # 96 train images, held-out ones of them, and 32 of test
    assert first == 96 + 32
    store.read = store.computed = 0
    _, second = run("imagenet_knn", tiny, store)
    assert second == 96  # all train images in one list, which the probe had split; test is there
    assert (store.read, store.computed) == (32, 96)
    assert run("imagenet_knn", tiny, store)[1] == 0


@pytest.mark.parametrize("fits", [True, False])
def test_one_pass_serves_tasks_that_want_other_vectors_where_the_usual_ones_fit(tiny, tmp_path, fits):
    files, backbone = files_of_test(tiny), model()
    six = 4 * len(files) * backbone.embed_dim * 6  # bytes of four class vectors and two means
    how, view = RunOptions(store=Store(tmp_path, 8 * six - (not fits))), options("imagenet_knn")
    less = shared.VectorModule(backbone, "32-true", [(-1, shared.CLASS)])
    more = shared.VectorModule(
        backbone, "32-true", [(-2, shared.CLASS), (backbone.depth - 1, shared.CLASS), (-1, shared.MEAN)]
    )
    (one,) = (part.dataset for part in shared.passes(less, view, how, test=[files]).test_dataloader())
    assert backbone.seen == len(files)
    (three,) = (part.dataset for part in shared.passes(more, view, how, test=[files]).test_dataloader())
    assert backbone.seen == (1 if fits else 2) * len(files)  # what is missing in one pass
    assert torch.equal(three[3][0][1], one[3][0][0])
    images = next(iter(shared.passes(more, view, RunOptions(), test=[files]).test_dataloader()[0]))[0]
    assert torch.equal(three[3][0], more.vectors(images)[3])
    shared.passes(more, view, how, test=[files])
    assert backbone.seen == (1 if fits else 2) * len(files) + len(images)


def test_an_image_that_is_gone_is_named(tmp_path, store):
    files = ImageFiles(("a",), np.array([b"a/gone.png"]), np.array([0]), str(tmp_path))
    module = shared.VectorModule(model(), "32-true")
    with pytest.raises(DataError, match=r"gone\.png"):
        shared.passes(module, options("imagenet_knn"), RunOptions(store=store), test=[files])


@pytest.mark.parametrize("variant", ["", "mini", "small"])
def test_tasks_that_read_the_same_images_do_so_in_the_same_batches(variant):
    def chosen(task):
        return settings.load_settings("tasks", task, variant, [])[1]

    batches = {}
    for task in ("imagenet_knn", "imagenet_linear", "imagenet_zeroshot", "label_free"):
        own = chosen(task)
        batches.setdefault((own.resize, own.crop), set()).add(own.device_batch)
    for task in ("hummingbird", "patch_knn", "overclustering", "kmeans_segmentation"):
        own = chosen(f"{task}_ade20k")
        batches.setdefault(own.size, set()).add(own.device_batch)
    assert all(len(own) == 1 for own in batches.values()), batches
    assert chosen("robustness_imagenet_val").device_batch == chosen("imagenet_linear").device_batch


def test_vectors_are_those_of_the_tokens(tiny):
    backbone = model()
    wanted = [(-2, shared.CLASS), (-1, shared.MEAN), (-1, shared.REGISTERS)]
    module = shared.VectorModule(backbone, "32-true", wanted)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    before, last = module.tokens(images, (-2, -1))
    assert isinstance(last, Tokens)
    found = module.vectors(images)
    assert torch.equal(found[:, 0], before.cls)
    assert torch.equal(found[:, 1], last.patches.mean(dim=(1, 2)))
    assert torch.equal(found[:, 2], last.registers.mean(dim=1))
    assert module.vectors(found) is found
    earlier, final = shared.as_tokens(found, wanted)
    assert torch.equal(earlier.cls, before.cls)
    assert final.cls is None
    assert torch.equal(final.patches.mean(dim=(1, 2)), last.patches.mean(dim=(1, 2)))
    assert torch.equal(final.registers.mean(dim=1), last.registers.mean(dim=1))


def with_activation(activation):
    """The same weights as those of `model`, computed otherwise, as timm has CLIP with two activations."""
    backbone = model()
    for block in backbone.model.blocks:
        block.mlp.act = activation()
    return backbone


CHANGES = {
    "other weights": lambda: {"backbone": model(seed=1)},
    "another activation": lambda: {"backbone": with_activation(nn.ReLU)},
    "other registers": lambda: {"backbone": model("random-vitn_reg0")},
    "another precision": lambda: {"precision": "bf16-mixed"},
    "another size": lambda: {"words": ["resize=64", "crop=48"]},
    "other batches": lambda: {"words": ["device_batch=31"]},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_what_decides_the_bits_misses(tiny, store, change):
    run("imagenet_knn", tiny, store)
    changed = CHANGES[change]()
    _, passed = run(
        "imagenet_knn",
        tiny,
        store,
        changed.get("backbone"),
        *changed.get("words", []),
        precision=changed.get("precision", "32-true"),
    )
    assert passed == 96 + 32


def test_an_intervention_on_the_tokens_misses(tiny, store):
    backbone = model()
    run("imagenet_knn", tiny, store, backbone)
    backbone.choices = {"heads": 99}
    del backbone.fingerprint, backbone.weights_fingerprint
    assert run("imagenet_knn", tiny, store, backbone)[1] == 96 + 32


def test_a_changed_image_misses_and_one_that_was_only_read_does_not(tiny, store):
    run("imagenet_knn", tiny, store)
    files = files_of_test(tiny)
    path = Path(files.path(0))
    path.read_bytes()
    assert run("imagenet_knn", tiny, store)[1] == 0
    facts = path.stat()
    try:
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
        assert run("imagenet_knn", tiny, store)[1] == 32  # of test alone
    finally:
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def bitmap(path, value):
    """A file of always the same size and time of modification, as many archives have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), (value, 0, 0)).save(path)
    os.utime(path, ns=(0, 0))
    return path


def vector(folder, store):
    """The vector of the one image of a folder."""
    files = ImageFiles(("a",), np.array([b"a/0.bmp"]), np.array([0]), str(folder))
    module, how = shared.VectorModule(model(), "32-true"), RunOptions(store=store)
    return shared.passes(module, options("imagenet_knn"), how, test=[files]).test_dataloader()[0].dataset[0][0]


def test_images_of_one_name_size_and_time_do_not_share_features(tmp_path, store):
    for folder, value in (("fog", 10), ("snow", 200)):
        bitmap(tmp_path / folder / "a" / "0.bmp", value)
        assert torch.equal(vector(tmp_path / folder, store), vector(tmp_path / folder, Store(tmp_path / "own", 0)))
    assert not torch.equal(vector(tmp_path / "fog", store), vector(tmp_path / "snow", store))


def test_features_of_a_file_that_is_written_over_with_its_time_are_computed_again(tmp_path, store):
    path, other = (bitmap(tmp_path / name / "a" / "0.bmp", value) for name, value in (("fog", 10), ("snow", 200)))
    before = vector(tmp_path / "fog", store)
    time.sleep(0.02)  # the clock of a file system ticks every few milliseconds
    shutil.copy2(other, path)
    assert not torch.equal(before, vector(tmp_path / "fog", store))


def test_changed_code_and_packages_miss(tiny, store, monkeypatch):
    run("imagenet_knn", tiny, store)
    monkeypatch.setattr(shared, "_code", lambda: "another")
    assert run("imagenet_knn", tiny, store)[1] == 96 + 32


def test_the_code_that_computes_is_found():
    for pattern in shared.CODE:
        assert list(shared.BASE.glob(pattern)), pattern


def test_a_record_says_how_many_images_were_read(tiny, store, tmp_path):
    words = [*WORDS["imagenet_knn"], "workers=0", "precision=32-true"]
    cell = evaluation.prepare("imagenet_knn", tiny, "mini", words=words)
    read = []
    for number in range(2):
        how = RunOptions(folder=tmp_path / f"runs{number}", store=store)
        _, file = evaluation.run_and_record(cell, model(), tmp_path / f"results{number}", how)
        read.append(records.read_record(file))
    first, second = read
    assert "vectors_read" not in first.provenance
    assert second.provenance["vectors_read"] == 96 + 32
    assert (first.metrics, first.intervals, first.scores) == (second.metrics, second.intervals, second.scores)


def test_the_program_shares_unless_it_is_told_not_to_or_the_code_of_the_model_is_not_known():
    asked = {"model": "random-vitn_reg4", "task": "imagenet_knn", "runs": "here", "cache_gb": 0.5}
    assert evaluate.store_of(evaluate.Evaluate(**asked)) == Store(Path("here/.features"), 500_000_000)
    assert evaluate.store_of(evaluate.Evaluate(**asked, cache=False)) is None
    assert evaluate.store_of(evaluate.Evaluate(**{**asked, "model": "python:mine:build"})) is None


def test_a_grid_passes_it_on_to_its_evaluations():
    grid = cells.build(cells.Chosen(grid="demo", pretrain=True))
    told = {cell.pretrains: Commands(cells.Chosen(), grid, False, cache=False).words(cell) for cell in grid.cells}
    assert "cache=False" in told[False] or "cache=false" in told[False]
    assert not [word for word in told[True] if word.startswith("cache=")]
    assert not [
        word for cell in grid.cells for word in Commands(cells.Chosen(), grid, False).words(cell) if "cache=" in word
    ]
