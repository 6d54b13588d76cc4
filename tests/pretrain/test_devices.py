"""What changes how a recipe runs, and not what it computes: devices, accumulation, checkpointing, compilation, FSDP.

Without what DeiT-III draws per batch of a device, mixing and stochastic depth, weights differ by rounding only. It is
measured against the distance that the weights have moved.
"""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from safetensors.torch import load_file

from regvit_lightning import settings
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.data import layout
from regvit_lightning.models import EXPORT, sources, vit
from regvit_lightning.pretrain import fit, parallel
from regvit_lightning.pretrain.norms_callback import NormsDuringTraining
from regvit_lightning.runtime import hardware
from regvit_lightning.settings import SettingsError
from tests.forked import Forked, command_line

pytestmark = pytest.mark.usefixtures("norms_undrawn")
COMMON = ["workers=0", "precision=32-true", "batch_size=16", "device_batch=16", "logger=csv", "log_every=2"]
# Recipe: its words for a run of a few steps that draws nothing per batch of a device.
# Of 6 steps, warmup=20 of 100 makes the first one of learning rate 0.
DINOV2 = ["epochs=1", "drop_path=0.3", "group=4", "base_lr=1e-2", "warmup=20"]
RECIPES = {
    "deit3": ["epochs=1", "cutmix=0", "mixup=0", "drop_path=0", "warmup_epochs=0.1"],
    "dinov2": [*DINOV2, "monitor_every=100", "monitor_images=40"],
    "openclip": ["epochs=16", "warmup_steps=1", "epsilon=1e-3", "lr=1e-2"],
}
# Share of the distance moved. Measured: 1e-6 for LAMB and AdamW with an epsilon of 1e-3, 1.2e-5 for DINOv2, whose AdamW
# has one of 1e-8. Its first update is about sign(gradient), also of gradients as small as their rounding errors, so the
# first step has learning rate 0: with a full one it is 1.5e-4.
CLOSE = 1e-4


def chosen(recipe, *words):
    """`words` and, where they say nothing, those of the recipe."""
    said = {word.partition("=")[0] for word in words}
    return [*[word for word in (*COMMON, *RECIPES[recipe]) if word.partition("=")[0] not in said], *words]


def prepare(recipe, data, folder, *words):
    images = layout.resolve(f"{data.root}/imagenet")
    options = settings.load_settings("recipes", recipe, "mini", chosen(recipe, *words))[1]
    return fit.Run("vitn_reg2", recipe, options, images, 0, folder)


@pytest.fixture(scope="module", params=RECIPES)
def whole(request, tiny, tmp_path_factory):
    """(recipe, its weights after a run on one device, the distance that each run has moved, what it logged)."""
    folder = tmp_path_factory.mktemp(request.param)
    run = prepare(request.param, tiny, folder)
    weights = exported(fit.fit(run))
    models = fit._recipe(run, 16, 6).exports()
    untrained = {f"{name} {key}": value for name, model in models for key, value in model.state_dict().items()}
    backbones = {name: value for name, value in weights.items() if name in untrained}  # without a text tower
    return request.param, weights, distance(backbones, untrained), logged(folder)


def exported(backbone):
    """The weights of all files that a run exports, those beside its backbone too, by file and name."""
    files = sorted(backbone.parent.glob("*.safetensors"))
    return {f"{file.name} {key}": value for file in files for key, value in load_file(file).items()}


def logged(folder):
    """Values `train/…` by name and step, as the run in a folder logged them."""
    with next(folder.rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    return {(name, row["step"]): float(row[name]) for row in rows for name in row if name.startswith("train/")}


def distance(ours, theirs):
    """Euclidean distance of two models."""
    assert ours.keys() <= theirs.keys()  # the classifier is not exported
    return sum(float((ours[name] - theirs[name]).double().square().sum()) for name in ours) ** 0.5


def on_two(recipe, data, place, *words):
    """Weights of a run on two devices, in processes of their own."""
    command = ["model=vitn_reg2", f"recipe={recipe}", "devices=2", "accelerator=cpu", *chosen(recipe, *words)]
    command += [f"data={data.root}/imagenet", f"runs={place}", f"results={place}", "variant=mini"]
    done = Forked(command_line, "pretrain", *command)
    errors = done.communicate(timeout=300)[1]
    assert done.returncode == 0, errors
    return exported(place / "imagenet" / f"{recipe}-vitn_reg2" / "seed0" / EXPORT)


@pytest.mark.parametrize(
    "words", [(), ("strategy=fsdp", "device_batch=4", "norms_every=0", "checkpoint_every=3")], ids=["ddp", "fsdp"]
)
def test_two_devices_give_the_weights_of_one(tiny, tmp_path, whole, words):
    recipe, weights, moved, values = whole
    found = on_two(recipe, tiny, tmp_path, *words)
    assert 0 < distance(found, weights) < CLOSE * moved
    if "device_batch=4" not in words:  # with accumulation, the last part of a step is logged
        assert len(values) >= 6
        assert logged(tmp_path) == pytest.approx(values, rel=1e-4)  # means over both devices
    backbone = next(tmp_path.rglob(EXPORT))
    assert sources.load_backbone(str(backbone), Path()).num_registers == 2


def test_accumulation_gives_the_weights_of_the_large_batch(tiny, tmp_path, whole):
    recipe, weights, moved, _ = whole
    found = exported(fit.fit(prepare(recipe, tiny, tmp_path, "device_batch=4")))
    assert distance(found, weights) < CLOSE * moved


def test_checkpointing_of_activations_changes_no_bit(tiny, tmp_path, whole, monkeypatch):
    recipe, weights, *_ = whole
    runs = []
    real = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", lambda *a, **k: runs.append(1) or real(*a, **k))
    run = prepare(recipe, tiny, tmp_path, "grad_checkpointing=true")
    assert distance(exported(fit.fit(run)), weights) == 0
    assert len(runs) >= 6 * 4  # steps × blocks
    assert fit.finished(prepare(recipe, tiny, tmp_path))  # it may be switched between two starts


def test_compiled_weights_keep_their_names(tiny, tmp_path, whole, monkeypatch):
    recipe, weights, moved, _ = whole
    compiled, graphs = [], []
    real = torch.compile

    def counted(graph, inputs):  # the default backend would call a C++ compiler for half a minute
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def traced(function, *args, **options):
        compiled.append(function)
        return real(function, *args, backend=counted, **options)

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", traced)
    run = prepare(recipe, tiny, tmp_path, "compile=true")
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    backbone = fit.fit(run, [NormsDuringTraining(images, tmp_path, 2, Rules())])  # which hooks into the blocks
    assert distance(exported(backbone), weights) < CLOSE * moved
    assert len(compiled) >= 4
    # All blocks of a tower share them: one with gradients, one without for DINOv2's teacher.
    assert len(graphs) == {"deit3": 1, "openclip": 2, "dinov2": 2}[recipe]
    assert len((tmp_path / "norms.csv").read_text().splitlines()) == 1 + 4 * 4
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not [name for name in checkpoint["state_dict"] if "_orig_mod" in name]


@pytest.mark.parametrize(("precision", "rounded"), [("32-true", False), ("bf16-mixed", True)])
def test_products_are_rounded_in_steps_of_mixed_precision_alone(tiny, tmp_path, monkeypatch, precision, rounded):
    seen, now = [], [False]
    monkeypatch.setattr(hardware, "round_products", lambda value: now.__setitem__(0, value))

    class Seen(Callback):
        def on_before_backward(self, *_):
            seen.append(("step", now[0]))

        def on_train_batch_end(self, *_):  # where monitors measure
            seen.append(("after", now[0]))

    words = [f"precision={precision}", "epochs=0.5", "device_batch=8", "warmup_epochs=0.1"]
    fit.fit(prepare("deit3", tiny, tmp_path, *words), [Seen()])
    assert seen.count(("step", rounded)) == seen.count(("after", False)) == len(seen) / 2 > 2

    class Failing(Callback):
        def on_before_backward(self, *_):
            raise ValueError("in a step")

    with pytest.raises(ValueError, match="in a step"):
        fit.fit(prepare("deit3", tiny, tmp_path / "other", *words), [Failing()])
    assert now == [False]


@pytest.mark.parametrize(("used", "expected"), [(False, ["highest", "highest"]), (True, ["high", "highest"])])
def test_products_are_rounded_where_a_gpu_is_in_use_and_no_driver_is_asked(monkeypatch, used, expected):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("takes as long as a small operation"))
    before, found = torch.get_float32_matmul_precision(), []
    try:
        for rounded in (True, False):
            hardware.round_products(rounded)
            found.append(torch.get_float32_matmul_precision())
    finally:
        torch.set_float32_matmul_precision(before)
    assert found == expected


def test_fsdp_shards_the_blocks_and_keeps_whole_checkpoints():
    strategy = parallel.strategy("fsdp", 16)
    assert isinstance(strategy, ModelParallelStrategy)
    assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == (16, 1)
    assert strategy._save_distributed_checkpoint is False
    assert parallel.strategy("fsdp", 1) == "auto"
    assert parallel.strategy("ddp", 16) == "ddp"


def test_what_fsdp_gathers_at_once(whole, tiny, monkeypatch):
    sharded = []
    monkeypatch.setattr(parallel, "fully_shard", lambda module, mesh: sharded.append(module))
    monkeypatch.setattr(parallel, "register_fsdp_forward_method", lambda module, name: sharded.append(name))
    run = prepare(whole[0], tiny, Path())
    recipe = fit._recipe(run, 16, 6)
    parallel.shard(recipe, recipe.blocks(), None)
    *blocks, root, method = sharded
    assert (root, method) == (recipe, "training_step")
    towers = [m.blocks for m in recipe.modules() if isinstance(m, vit.RegisterViT)]
    towers += [m.resblocks for m in recipe.modules() if hasattr(m, "resblocks")]
    assert set(blocks) == {block for tower in towers for block in tower}
    outside = {id(p) for p in recipe.backbone.parameters()} - {id(p) for b in blocks for p in b.parameters()}
    left = sum(p.numel() for p in recipe.backbone.parameters() if id(p) in outside)
    assert left < 0.25 * sum(p.numel() for p in recipe.backbone.parameters())  # in a nano model; 2 % in a ViT-L


def test_devices_and_strategies_that_do_not_exist(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "accelerator", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingsError, match="devices=2: this machine has 1"):
        fit.fit(replace(prepare("deit3", tiny, tmp_path), devices=2))
    with pytest.raises(SettingsError, match="norms_every=5: no device of strategy=fsdp holds the whole backbone"):
        prepare("deit3", tiny, tmp_path, "strategy=fsdp", "norms_every=5")
    with pytest.raises(SettingsError, match="strategy=deepspeed: expected one of ddp, fsdp"):
        prepare("deit3", tiny, tmp_path, "strategy=deepspeed")
