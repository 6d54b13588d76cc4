"""OpenCLIP: the loss against open_clip's, float64 and two processes; parameter groups, schedule, resume, goldens."""

import math
from pathlib import Path

import open_clip
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from open_clip_train.scheduler import cosine_lr
from safetensors.torch import load_file
from torch.nn import functional as F

from regvit_lightning import settings
from regvit_lightning.data.layout import DataError
from regvit_lightning.models import joint_space, sources
from regvit_lightning.pretrain import fit, openclip
from regvit_lightning.settings import SettingsError
from tests.pretrain.golden import first_losses
from tests.pretrain.test_fit import die_at

WORDS = [
    "workers=0",
    "batch_size=4",
    "device_batch=4",
    "epochs=12",
    "checkpoint_every=3",
    "log_every=2",
    "warmup_steps=3",
]


def load_recipe(*words):
    return settings.load_settings("recipes", "openclip", "mini", words)[1]


def prepare(data, folder, *words, model="vitn_reg2", devices=1):
    words = [*[w for w in WORDS if w.partition("=")[0] not in {o.partition("=")[0] for o in words}], *words]
    return fit.Run(model, "openclip", load_recipe(*words), data, 0, Path(folder), devices)


def recipe(*words, registers=4, steps=100):
    torch.manual_seed(0)
    return openclip.OpenClip(load_recipe(*words), f"vitn_reg{registers}", 0, steps, 0)


def batch(count=6):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator)
    captions = ["a red ball", "a blue box", "a ring", "two cones", "a star on sand", "a cross on grass"]
    return {"image": images, "text": open_clip.tokenizer.tokenize(captions[:count], 32)}


def test_the_recipe_has_the_published_constants():
    found = settings.load_settings("recipes", "openclip")[1]
    shape = (found.embed_dim, found.text_width, found.text_layers, found.text_heads, found.context_length)
    published = open_clip.get_model_config("ViT-B-16")
    text = published["text_cfg"]
    assert shape == (published["embed_dim"], text["width"], text["layers"], text["heads"], text["context_length"])
    assert (found.lr, found.beta2, found.epsilon, found.weight_decay) == (5e-4, 0.98, 1e-6, 0.2)
    assert (found.epochs, found.warmup_steps, found.batch_size, found.smallest_crop) == (32, 10000, 33792, 0.9)


def test_its_defaults_are_those_of_open_clips_trainer():
    from open_clip_train.params import parse_args

    theirs, ours = parse_args(["--model", "ViT-B-16"]), settings.load_settings("recipes", "openclip")[1]
    assert (ours.lr, ours.beta2, ours.epsilon) == (theirs.lr, theirs.beta2, theirs.eps)
    assert (ours.weight_decay, ours.warmup_steps, ours.epochs) == (theirs.wd, theirs.warmup, theirs.epochs)


class Alone:
    """What a training step asks of its Trainer."""

    world_size = 1


@pytest.fixture
def _rank(monkeypatch):
    monkeypatch.setattr(openclip.OpenClip, "global_rank", 0, raising=False)
    monkeypatch.setattr(openclip.OpenClip, "trainer", Alone(), raising=False)
    for name in ("log", "log_dict"):
        monkeypatch.setattr(openclip.OpenClip, name, lambda *_, **__: None)


@pytest.mark.usefixtures("_rank")
def test_the_loss_is_the_symmetric_cross_entropy_in_float64():
    module, examples = recipe(), batch()
    loss = module.training_step(examples, 0)
    with torch.no_grad():
        images, texts = (part.double() for part in module.embed(examples["image"], examples["text"])[:2])
    scale = math.exp(module.space.logit_scale.item())
    total = 0.0
    for one, other in ((images, texts), (texts, images)):
        for i in range(6):
            row = [scale * float(one[i] @ other[j]) for j in range(6)]
            total += math.log(sum(math.exp(value) for value in row)) - row[i]
    assert loss.item() == pytest.approx(total / 12, rel=1e-5)


@pytest.mark.usefixtures("_rank")
def test_the_loss_is_nearly_zero_for_planted_pairs_and_log_b_for_equal_ones(monkeypatch):
    module = recipe()
    module.space.logit_scale.data.fill_(math.log(100))
    monkeypatch.setattr(module, "embed", lambda *_: (torch.eye(6), torch.eye(6), torch.zeros(0)))
    assert module.training_step(batch(), 0).item() < 1e-6
    same = F.normalize(torch.ones(6, 6), dim=1)
    monkeypatch.setattr(module, "embed", lambda *_: (same, same, torch.zeros(0)))
    assert module.training_step(batch(), 0).item() == pytest.approx(math.log(6), rel=1e-5)


@pytest.mark.usefixtures("_rank")
def test_the_towers_are_open_clips_with_the_same_weights(tmp_path):
    """Without registers, the model written in open_clip's names and run by open_clip has the same loss."""
    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP

    vision = {"image_size": 64, "layers": 2, "width": 128, "patch_size": 16}
    text = {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    torch.manual_seed(0)
    theirs = CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text)
    torch.save(theirs.state_dict(), tmp_path / "clip.pt")
    module = recipe("text_width=64", "text_heads=1", "text_layers=2", registers=0)
    backbone = sources.load_backbone(str(tmp_path / "clip.pt"), Path())
    module.backbone = backbone.model
    module.space = joint_space.load_joint_space(tmp_path / "clip.pt", "clip", "")
    examples = batch()
    expected = ClipLoss()(*theirs(module.normalise(examples["image"]), examples["text"]))
    torch.testing.assert_close(module.training_step(examples, 0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("_rank")
@pytest.mark.parametrize("device_batch", [1, 2, 5])
def test_parts_give_the_gradient_of_the_whole_batch(device_batch):
    gradients = []
    for size in (6, device_batch):
        module = recipe(f"device_batch={size}")
        module.training_step(batch(), 0).backward()
        gradients.append({name: parameter.grad for name, parameter in module.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.usefixtures("_rank")
def test_in_bf16_the_loss_is_that_of_float32_to_two_digits():
    """Both towers compute in bf16 (8 bits); cosines and loss are float32."""
    module = recipe("device_batch=3")
    exact = module.training_step(batch(), 0)
    with torch.autocast("cpu", torch.bfloat16):
        images, texts, _ = module.embed(batch()["image"], batch()["text"])
        rounded = module.training_step(batch(), 0)
    assert (images.dtype, texts.dtype) == (torch.float32, torch.float32)
    assert rounded.item() == pytest.approx(exact.item(), rel=3e-2)
    assert rounded.item() != exact.item()
    rounded.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in module.parameters())


@pytest.mark.usefixtures("_rank")
def test_the_gradient_of_the_features_is_float32_under_autocast(monkeypatch):
    """At the largest scale, which multiplies the rounding of a cosine by 100; held against float64."""
    generator = torch.Generator().manual_seed(0)
    pairs = [F.normalize(torch.randn(48, 64, generator=generator), dim=1) for _ in range(2)]
    pairs[1] = F.normalize(pairs[0] + 0.5 * pairs[1], dim=1)
    module = recipe()
    module.space.logit_scale.data.fill_(math.log(100))
    features = [part.clone().requires_grad_() for part in pairs]
    monkeypatch.setattr(module, "embed", lambda *_: (*features, torch.zeros(0)))
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.training_step(batch(), 0)
    loss.backward()
    exact = [part.double().requires_grad_() for part in pairs]
    logits = 100 * exact[0] @ exact[1].T
    labels = torch.arange(48)
    ((F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2).backward()
    for found, expected in zip(features, exact, strict=True):
        assert (found.grad - expected.grad).norm() < 1e-4 * expected.grad.norm()  # bf16: 9e-3


def test_what_does_not_decay_has_one_axis_or_is_a_token():
    module = recipe()
    groups = module.configure_optimizers().param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    names = {name: decay[id(parameter)] for name, parameter in module.named_parameters()}
    assert len(decay) == len(names)
    free = ("bias", "norm_pre.weight", "norm.weight", "norm1.weight", "norm2.weight", "ln_1.weight", "ln_2.weight")
    free += ("ln_final.weight", "logit_scale", "cls_token", "reg_token")
    for name, value in names.items():
        assert value == (0.0 if name.endswith(free) else 0.2), name
    for name in (
        "space.projection",
        "space.text.text_projection",
        "backbone.pos_embed",
        "space.text.token_embedding.weight",
    ):
        assert names[name] == 0.2


def test_the_schedule_is_open_clips():
    module = recipe("warmup_steps=10", "lr=0.5", steps=40)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    theirs = cosine_lr(optimiser, 0.5, 10, 40)
    for step in range(40):
        theirs(step)
        assert module.schedule(step)["lr"] == pytest.approx(optimiser.param_groups[0]["lr"]), step
    # First share of the warm-up, its end, halfway down, the end.
    assert [module.schedule(step)["lr"] for step in (0, 9, 10, 25, 40)] == pytest.approx([0.05, 0.5, 0.5, 0.25, 0.0])


def test_registers_pass_the_norm_before_the_first_block():
    module = recipe()
    seen = {}
    module.backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    module.backbone(torch.randn(1, 3, 64, 64))
    registers = F.layer_norm(module.backbone.reg_token[0], (96,))
    torch.testing.assert_close(seen["x"][0, 1:5], registers, rtol=1e-3, atol=1e-3)
    assert seen["x"].shape == (1, 1 + 4 + 64, 96)


@pytest.mark.usefixtures("_rank")
def test_registers_learn_through_attention_only():
    module = recipe()
    module.training_step(batch(), 0).backward()
    assert module.backbone.reg_token.grad.abs().max() > 0
    module.zero_grad()
    for block in module.backbone.blocks:
        block.attn.register_forward_hook(lambda _, __, output: torch.zeros_like(output))
    module.training_step(batch(), 0).backward()
    assert module.backbone.reg_token.grad is None or module.backbone.reg_token.grad.abs().max() == 0
    assert module.backbone.cls_token.grad.abs().max() > 0


def test_the_augmentation_is_open_clips(tiny):
    """The same draw gives the same crop; open_clip's ends in floats."""
    from PIL import Image
    from torchvision.transforms import Normalize, ToTensor

    image = Image.fromarray(torch.randint(0, 256, (90, 120, 3), dtype=torch.uint8).numpy())
    ours = openclip.OpenClip.augmentation(recipe("smallest_crop=0.9"))
    theirs = open_clip.image_transform(64, is_train=True)
    assert [type(step) for step in theirs.transforms[-1:]] == [Normalize]
    theirs.transforms[-2:] = [ToTensor()]
    for seed in range(5):
        torch.manual_seed(seed)
        cropped = ours(image)
        torch.manual_seed(seed)
        assert torch.equal(cropped, (theirs(image) * 255).round().to(torch.uint8))


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """An uninterrupted run of 12 steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    fit.fit(prepare(tiny, folder))
    return folder


def same_bits(ours, theirs):
    for name in ("backbone", "text"):
        one, other = load_file(ours / f"{name}.safetensors"), load_file(theirs / f"{name}.safetensors")
        if one.keys() != other.keys() or not all(torch.equal(one[key], other[key]) for key in other):
            return False
    return True


@pytest.mark.parametrize(("step", "more"), [(2, []), (7, []), (8, ["workers=2"])])
def test_an_interrupted_run_ends_with_the_same_bits(tiny, whole, tmp_path, step, more):
    run = prepare(tiny, tmp_path / "run", *more)
    die_at(run, step)
    assert not (run.folder / "backbone.safetensors").exists()
    fit.fit(run)
    assert same_bits(run.folder, whole)


def test_the_export_serves_every_task_and_zero_shot(whole):
    backbone = sources.load_backbone(str(whole / "backbone.safetensors"), Path())
    assert backbone.name == "openclip-vitn_reg2"
    assert backbone.model.pre_norm
    assert (backbone.num_registers, backbone.image_size) == (2, 64)
    assert backbone.mean == open_clip.OPENAI_DATASET_MEAN
    space = joint_space.load_joint_space(backbone.source, backbone.name, backbone.fingerprint)
    assert space.architecture.context_length == 32
    assert space.logit_scale.item() <= math.log(100)
    checkpoint = sources.load_backbone(str(whole / "last.ckpt"), Path())
    assert checkpoint.fingerprint == backbone.fingerprint


def test_the_scale_is_kept_below_a_hundred_while_it_trains(tiny, tmp_path):
    seen = []

    class Raise(Callback):
        def on_train_batch_start(self, trainer, module, *_):
            seen.append(module.space.logit_scale.item())
            module.space.logit_scale.data.fill_(9.0)

    fit.fit(prepare(tiny, tmp_path / "run", "epochs=3"), [Raise()])
    assert seen == pytest.approx([math.log(1 / 0.07), math.log(100), math.log(100)])


def test_data_and_batches_that_do_not_do(tiny, tmp_path):
    with pytest.raises(SettingsError, match="batch_size=100 is above the 48 images of 12 epochs"):
        fit.fit(prepare(tiny, tmp_path / "run", "batch_size=100"))
    with pytest.raises(SettingsError, match="warmup_steps=50 is above the 12 steps of the run; give warmup_steps=0 or"):
        fit.fit(prepare(tiny, tmp_path / "run", "warmup_steps=50"))
    from dataclasses import replace

    with pytest.raises(DataError, match="no shard"):
        fit.fit(prepare(replace(tiny, pairs="none/*.tar"), tmp_path / "run"))


@pytest.mark.parametrize(
    "word",
    [
        "lr=0",
        "batch_size=1",
        "images=imagenet",
        "smallest_crop=0",
        "context_length=2",
        "text_heads=5",
        "warmup_steps=-1",
    ],
)
def test_values_out_of_range_are_refused(word):
    with pytest.raises(SettingsError, match=word.partition("=")[0]):
        load_recipe(word)


# Losses of the first ten steps, fp32, one thread: pytest tests/pretrain/test_openclip.py -k golden -s prints them.
GOLDEN = [1.57312, 1.60858, 1.56292, 1.1828, 0.99486, 0.86245, 0.77883, 0.63878, 0.44567, 0.35376]


@pytest.mark.skipif(not torch.__version__.startswith("2.15."), reason="made with the versions of constraints.txt")
def test_golden_losses(tiny, tmp_path):
    assert first_losses(prepare(tiny, tmp_path / "run", "precision=32-true")) == pytest.approx(GOLDEN, abs=2e-3)
