"""DINOv2: constants, schedules, gradients, and a step against a straightforward version of it."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks.speed.plain_dinov2 import PlainDinov2
from regvit_lightning import settings
from regvit_lightning.data.augmentation import Blur
from regvit_lightning.errors import UserError
from regvit_lightning.pretrain.dinov2 import losses as dino_losses
from regvit_lightning.pretrain.dinov2 import parameter_groups
from regvit_lightning.pretrain.dinov2 import recipe as dinov2
from regvit_lightning.pretrain.dinov2.multi_crop import Crops, MultiCrop
from regvit_lightning.runtime import seeds
from regvit_lightning.runtime.scheduled import ScheduledModule
from regvit_lightning.settings import SettingsError
from tests.pretrain.dinov2.test_teacher_targets import in_log_domain

SMALL = [
    "image_size=32",
    "local_size=16",
    "local_crops=3",
    "group=4",
    "batch_size=8",
    "prototypes=24",
    "ibot_prototypes=16",
    "bottleneck=12",
    "ibot_bottleneck=8",
    "head_hidden=20",
    "drop_path=0.0",
    "precision=32-true",
    "layer_scale=0.1",
    "teacher_temperature_start=0.04",
    "teacher_temperature=0.07",
    "momentum=0.98",
    "freeze_last_layer=1",
    "patch_embed_lr=0.2",
    "ibot_weight=1.0",
    "grey=0.2",
    "base_lr=4e-3",
    "global_scale=[0.32,1.0]",
    "local_scale=[0.05,0.32]",
    "blur_sigma=[0.1,2.0]",
]


def load(*words, name="dinov2", variant=""):
    return settings.load_settings("recipes", name, variant, list(words))[1]


def recipe(*words, steps=1000, registers=4, name="dinov2", variant="mini"):
    words = [*[w for w in SMALL if w.partition("=")[0] not in {o.partition("=")[0] for o in words}], *words]
    torch.manual_seed(0)
    return dinov2.DINOv2(load(*words, name=name, variant=variant), f"vitn_reg{registers}", 16, steps, 0)


def crops(images=8, local=3):
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)  # noqa: E731
    return {"global": draw(images, 2, 3, 32, 32), "local": draw(images, local, 3, 16, 16)}


def total(losses):
    return torch.stack(list(losses.values())).sum()


def test_the_22k_recipe_has_the_published_constants():
    found = load()
    assert (found.batch_size, found.drop_path, found.layer_scale, found.clip) == (3072, 0.4, 1e-5, 3.0)
    assert found.lr == pytest.approx(3.464e-4, rel=1e-3)
    assert (found.prototypes, found.ibot_prototypes, found.bottleneck, found.ibot_bottleneck) == (
        2**17,
        2**17,
        384,
        256,
    )
    assert (found.weight_decay, found.weight_decay_end, found.momentum) == (0.04, 0.2, 0.994)
    assert (found.layer_decay, found.patch_embed_lr, found.local_size, found.centring) == (1.0, 0.2, 98, "sinkhorn")
    assert (found.steps_in_all(14_197_086), found.epochs) == (625_000, None)
    assert dinov2.DINOv2._part(SimpleNamespace(settings=found, steps=625_000), found.warmup) == 100_000
    assert (found.invert_blur, found.koleo_crops, found.decay_registers, found.swiglu) == (True, 2, True, True)


def test_the_short_recipe_has_the_published_constants():
    found = load(name="dinov2_in1k")
    assert (found.batch_size, found.drop_path, found.layer_decay) == (2048, 0.3, 0.9)
    assert found.lr == pytest.approx(5.657e-3, rel=1e-3)
    assert (found.prototypes, found.separate_heads, found.centring) == (65536, False, "moving_average")
    assert not found.swiglu
    assert (found.weight_decay_end, found.momentum, found.local_size) == (0.4, 0.992, 96)
    assert (found.steps_in_all(1_281_167), load(name="dinov2_8gpu").steps) == (125_000, 125_000)


@pytest.mark.parametrize("name", ["dinov2", "dinov2_in1k", "dinov2_8gpu"])
def test_every_variant_builds_at_small_size(name):
    module = recipe(name=name)
    assert ("ibot_head" in module.student) == (name == "dinov2")
    assert total(module.losses(crops(), [(0, 0), (0, 1)], 0)).isfinite()


def as_released(steps, warmup, base, start, end):
    """DINOv2's schedule: evenly spaced from start to base, both included, then a cosine that begins at base."""
    left = steps - warmup
    cosine = end + 0.5 * (base - end) * (1 + np.cos(np.pi * np.arange(left) / left)) if left else []
    return np.concatenate([np.linspace(start, base, warmup), cosine])


@pytest.mark.parametrize("warmup", [0, 1, 80, 500])
def test_schedules_are_those_of_the_released_code(warmup):
    """The values that facebookresearch/dinov2 b8931f7 computes with its CosineScheduler, at every step."""
    words = ["base_lr=2e-4", "batch_size=3072", "group=32", f"warmup={warmup}", "schedule_epochs=500"]
    module = recipe(*words, "momentum=0.994", "weight_decay=0.04", "weight_decay_end=0.2")
    assert (module.schedule(0)["momentum"], module.schedule(1000)["momentum"]) == pytest.approx((0.994, 1.0))
    expected = {
        "lr": as_released(1000, 2 * warmup, 2e-4 * math.sqrt(3), 0.0, 1e-6),
        "weight_decay": as_released(1000, 0, 0.04, 0.0, 0.2),
        "momentum": as_released(1000, 0, 0.994, 0.0, 1.0),
    }
    for step in range(1000):
        values = module.schedule(step)
        assert {name: values[name] for name in expected} == pytest.approx(
            {name: schedule[step] for name, schedule in expected.items()}, rel=1e-9, abs=1e-15
        )
    temperatures = [module.teacher_temperature(step) for step in range(62)]  # 30 of 500 parts of 1000 steps
    assert temperatures == pytest.approx([*np.linspace(0.04, 0.07, 60), 0.07, 0.07])


def test_the_teacher_takes_the_momentum_of_the_update_that_it_follows(monkeypatch):
    """Update k (0, 1, …) takes momentum k of the schedule, and the student after the update."""
    module, step = recipe("momentum=0.5", steps=4), [0]
    monkeypatch.setattr(dinov2.DINOv2, "global_step", property(lambda _: step[0]))

    def update(*_):
        module.student["backbone"].norm.weight.data.fill_(float(step[0] + 2))
        step[0] += 1  # Lightning counts an update as soon as the optimiser has made it

    monkeypatch.setattr(ScheduledModule, "optimizer_step", update)
    expected = 1.0
    for number in range(4):
        module.optimizer_step(0, number, None, None)
        momentum = 1 - (1 - 0.5) * (math.cos(math.pi * number / 4) + 1) / 2
        expected = momentum * expected + (1 - momentum) * (number + 2)
        assert module.backbone.norm.weight[0].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["dino", "ibot"])
def test_logits_and_their_gradients_are_float32_under_autocast(name):
    """The product with the prototypes, its loss and the targets, held against float64."""
    head = recipe("prototypes=512", "bottleneck=64").student["dino_head"].last_layer
    generator = torch.Generator().manual_seed(0)
    vectors, teacher = (F.normalize(torch.randn(2, 16, 64, generator=generator), dim=2) for _ in range(2))
    gradients = []
    for autocast, dtype in ((True, torch.float32), (False, torch.float64)):
        layer = copy.deepcopy(head).to(dtype)
        x = vectors.detach().to(dtype, copy=True).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = layer(x)
            assert logits.dtype == dtype
            targets = F.softmax(layer(teacher.to(dtype)).detach() / 0.04, dim=-1)
            if name == "dino":
                loss = torch.stack(dino_losses.dino(logits[:0], logits, targets, 0.1)).sum()
            else:
                flat = logits.flatten(0, 1), targets.flatten(0, 1)
                loss = dino_losses.ibot(*flat, torch.ones(32, dtype=dtype), 32, 0.1)
        loss.backward()
        gradients.append([value.double() for value in (x.grad, layer.direction.grad, layer.gain.grad)])
    for found, expected in zip(*gradients, strict=True):
        assert (found - expected).norm() < 2e-5 * expected.norm()  # bf16: 3e-3 to 2e-2


def test_prototypes_are_frozen_for_one_part_of_the_schedule():
    module = recipe("schedule_epochs=500", "freeze_last_layer=1", "warmup=0")
    optimizer = module.configure_optimizers()
    for step, frozen in {0: True, 1: True, 2: False}.items():
        module.set_options(optimizer, step)
        for group in optimizer.param_groups:
            assert (group["lr"] == 0.0) == (frozen and group["last_layer"])


def test_the_teacher_is_the_moving_average_in_closed_form():
    module = recipe()
    teacher = module.backbone.blocks[1].attn.qkv.weight
    student = module.student["backbone"].blocks[1].attn.qkv.weight
    assert torch.equal(teacher, student)
    begin, momentum = teacher[0, 0].item(), [0.9, 0.5, 0.99]
    for value, share in zip((1.0, 2.0, 3.0), momentum, strict=True):
        student.data.fill_(value)
        module.update_teacher(share)
    expected = 0.99 * (0.5 * (0.9 * begin + 0.1 * 1) + 0.5 * 2) + 0.01 * 3
    assert teacher[0, 0].item() == pytest.approx(expected, rel=1e-5)


def test_every_weight_of_the_teacher_follows_and_only_the_mask_token_has_no_teacher():
    module = recipe()
    for parameter in module.student.parameters():
        parameter.data.add_(1.0)
    module.update_teacher(0.0)
    student = module.student.state_dict()
    teacher = {f"backbone.{name}": value for name, value in module.backbone.state_dict().items()}
    teacher |= module.teacher_heads.state_dict()
    assert student.keys() - teacher.keys() == {"backbone.mask_token"}
    assert all(torch.equal(student[name], value) for name, value in teacher.items())


@pytest.mark.parametrize("centring", ["sinkhorn", "moving_average"])
def test_the_teacher_gets_no_gradient_and_all_of_the_student_does(centring):
    module = recipe(f"centring={centring}", "drop_path=0.2")
    total(module.losses(crops(), [(0, 0), (0, 1)], 0)).backward()
    assert all(p.grad is None for p in [*module.backbone.parameters(), *module.teacher_heads.parameters()])
    for name, parameter in module.student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_registers_learn_through_attention_only():
    module, gradients = recipe(), []
    for bypassed in (False, True):
        if bypassed:
            for block in module.student["backbone"].blocks:
                torch.nn.init.zeros_(block.attn.proj.weight)
        module.zero_grad()
        total(module.losses(crops(), [(0, 0), (0, 1)], 0)).backward()
        gradients.append(module.student["backbone"].reg_token.grad.abs().sum().item())
    assert gradients[0] > 0
    assert gradients[1] == 0


@pytest.mark.parametrize("separate", [True, False])
def test_a_step_is_that_of_a_straightforward_version(separate):
    module = recipe(f"separate_heads={separate}")
    generator = torch.Generator().manual_seed(7)
    for parameter in module.student.parameters():  # away from the even start, and teacher apart from student
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    images, groups = crops(), [(5, 0), (5, 1)]
    found = module.losses(images, groups, 100)
    total(found).backward()
    gradient = module.student["backbone"].blocks[0].attn.qkv.weight.grad.clone()
    masks, temperature = module.masks_of(groups), module.teacher_temperature(100)
    assert masks.any(dim=(1, 2)).sum() == 8
    assert module.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert module.std.tolist() == pytest.approx([0.229, 0.224, 0.225])
    plain = PlainDinov2(module, lambda logits, temperature: in_log_domain(logits, temperature, 3).float())
    dino, ibot, koleo = plain.losses(images, masks, temperature).values()
    found = {name: value.detach() for name, value in found.items()}
    assert float(found["dino_local"] + found["dino_global"]) == pytest.approx(dino.item(), rel=1e-4)
    assert float(found["ibot"]) == pytest.approx(ibot.item(), rel=1e-4)
    assert float(found["koleo"]) == pytest.approx(koleo.item(), rel=1e-4)
    (dino + ibot + koleo).backward()
    expected = plain.student.blocks[0].attn.qkv.weight.grad
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_groups_are_the_same_together_and_apart():
    # With a centre, what two devices find averages to what one finds, stochastic depth and masks included.
    images = crops()
    one = recipe("centring=moving_average", "drop_path=0.3").losses(images, [(3, 0), (3, 1)], 3)
    halves = []
    for group in (0, 1):
        half = {name: value[4 * group : 4 * group + 4] for name, value in images.items()}
        halves.append(recipe("centring=moving_average", "drop_path=0.3").losses(half, [(3, group)], 3))
    for name, value in one.items():
        torch.testing.assert_close(value, (halves[0][name] + halves[1][name]) / 2, rtol=1e-4, atol=1e-5)


def test_weights_of_the_terms_and_the_quirk_of_koleo():
    images, groups = crops(), [(0, 0), (0, 1)]
    both = recipe().losses(images, groups, 0)
    words = ["dino_weight=2.0", "ibot_weight=3.0", "koleo_weight=0.2", "koleo_crops=1"]
    other = recipe(*words).losses(images, groups, 0)
    torch.testing.assert_close(other["dino_local"], 2 * both["dino_local"])
    torch.testing.assert_close(other["ibot"], 3 * both["ibot"])
    cls = recipe()
    first = cls._cls_and_patches(
        cls._student(),
        images["global"][:, 0],
        torch.tensor([0]),
        cls.masks_of(groups)[:8],
    )[0]
    unit = F.normalize(first, dim=1).unflatten(0, (2, 4))
    distance = torch.cdist(unit, unit) + 9 * torch.eye(4)
    assert other["koleo"].item() == pytest.approx(-0.2 * distance.amin(dim=2).log().mean().item(), rel=1e-3)


def test_gradients_are_clipped_for_each_part_by_itself():
    module = recipe("clip=3.0")
    sizes = {"backbone": 100.0, "dino_head": 0.01, "ibot_head": 10.0}
    for name, size in sizes.items():
        for parameter in module.student[name].parameters():
            parameter.grad = torch.full_like(parameter, size)
    before = {name: norm(part) for name, part in module.student.items()}
    module.configure_gradient_clipping(None)
    for name, part in module.student.items():
        assert norm(part) == pytest.approx(min(before[name], 3.0), rel=1e-4)
    assert before["dino_head"] < 3.0 < before["ibot_head"]


def norm(part):
    return torch.cat([p.grad.double().flatten() for p in part.parameters()]).norm().item()


def test_parameter_groups_by_name():
    module = recipe("separate_heads=true")
    student, heads = module._student(), torch.nn.ModuleDict({"ibot_head": module.student["ibot_head"]})
    groups = parameter_groups.groups(student, heads, 0.9, 0.2, True)
    facts = {id(p): (g["lr_factor"], g["decay_factor"], g["last_layer"]) for g in groups for p in g["params"]}
    named = {**dict(student.named_parameters()), **dict(heads.named_parameters())}
    expected = {
        "cls_token": (0.9**5, 1.0, False),
        "mask_token": (0.9**5, 1.0, False),
        "pos_embed": (0.9**5, 1.0, False),
        "patch_embed.proj.weight": (0.2 * 0.9**5, 1.0, False),
        "patch_embed.proj.bias": (0.2 * 0.9**5, 0.0, False),
        "blocks.0.attn.qkv.weight": (0.9**4, 1.0, False),
        "blocks.3.norm1.weight": (0.9, 0.0, False),
        "blocks.3.ls2.gamma": (0.9, 0.0, False),
        "reg_token": (0.9**5, 1.0, False),
        "norm.weight": (1.0, 0.0, False),
        "ibot_head.mlp.0.weight": (1.0, 1.0, False),
        "ibot_head.mlp.0.bias": (1.0, 0.0, False),
        "ibot_head.last_layer.direction": (1.0, 1.0, True),
        "ibot_head.last_layer.gain": (1.0, 1.0, True),
    }
    for name, fact in expected.items():
        assert facts[id(named[name])] == pytest.approx(fact), name
    assert len(facts) == len(named)
    spared = parameter_groups.groups(student, heads, 0.9, 0.2, False)
    found = next(g for g in spared if any(p is student.reg_token for p in g["params"]))
    assert found["decay_factor"] == 0.0


CROPS = Crops(32, (0.32, 1.0), 5, 16, (0.05, 0.32), 0.2, True, (0.1, 2.0))


def test_multi_crop_shapes_and_repeated_draws():
    image = Image.effect_noise((50, 40), 60).convert("RGB")
    found = []
    for _ in range(2):
        with seeds.drawn_from(0, "augment", 3):
            found.append(MultiCrop(CROPS)(image))
    assert found[0]["global"].shape == (2, 3, 32, 32)
    assert found[0]["local"].shape == (5, 3, 16, 16)
    assert found[0]["global"].dtype == torch.uint8
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize(("inverted", "expected"), [(True, (0.0, 0.9, 0.5)), (False, (1.0, 0.1, 0.5))])
def test_blur_probabilities_as_released_and_as_meant(inverted, expected, monkeypatch):
    views = MultiCrop(Crops(8, (1.0, 1.0), 1, 8, (1.0, 1.0), 0.2, inverted, (0.1, 2.0)))
    blurred = []
    monkeypatch.setattr(Blur, "__call__", lambda self, view: blurred.append(view) or view)
    found = []
    for view in (*views.wide, views.local[0]):
        with seeds.drawn_from(0):
            blurred.clear()
            for _ in range(200):
                view(Image.new("RGB", (8, 8)))
        found.append(len(blurred) / 200)
    assert found == pytest.approx(expected, abs=0.08)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_share_of_grey_crops(share):
    views = MultiCrop(Crops(8, (1.0, 1.0), 1, 8, (1.0, 1.0), share, True, (0.1, 2.0)))
    image = Image.new("RGB", (8, 8), (200, 40, 90))
    for view in (*views.wide, views.local[0]):
        with seeds.drawn_from(0):
            crops = [view(image).int() for _ in range(200)]
        coloured = sum(int((crop - crop[:1]).abs().max()) > 1 for crop in crops)
        assert 1 - coloured / 200 == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("image_size=37", "image_size=37: not a multiple of the patch size 8; nearest: 32 and 40"),
        ("local_size=5", "local_size=5: not a multiple of the patch size 8; nearest: 8"),
        ("local_size=40", "local_size=40 is above image_size=32"),
        ("mask_ratios=[0.5,1.2]", "mask_ratios"),
        ("mask_ratios=[0.5,0.1]", "mask_ratios"),
        ("mask_probability=0", "mask_probability"),
        ("group=1", "group=1: must lie in "),
        ("group=3", "batch_size=8 is not a multiple of group=3"),
        ("centring=none", "expected one of sinkhorn, moving_average"),
        ("drop_path=1.0", "drop_path"),
        ("warmup=200", "warmup=200"),
        ("koleo_crops=3", "koleo_crops"),
    ],
)
def test_bad_settings_are_told(word, message):
    with pytest.raises(SettingsError, match=message.replace("[", r"\[")):
        recipe(word)


def checkpoint(module, path):
    torch.save({"state_dict": module.state_dict()}, path)
    return f"start_from={path}"


def test_a_final_phase_starts_from_the_weights_of_the_first(tmp_path):
    before = recipe("centring=moving_average")
    for value in before.state_dict().values():
        value.add_(0.01 * torch.randn(value.shape)) if value.is_floating_point() else None
    word = checkpoint(before, tmp_path / "last.ckpt")
    after = recipe("centring=moving_average", word, "image_size=72")
    assert after.backbone.pos_embed.shape == (1, 81, 96)
    for name, value in after.state_dict().items():
        if "pos_embed" not in name:
            assert torch.equal(value, before.state_dict()[name]), name
    small = after.backbone.pos_embed.view(9, 9, 96).permute(2, 0, 1)[None]
    back = F.interpolate(small, (4, 4), mode="area").flatten(2).mT
    assert F.cosine_similarity(back, before.backbone.pos_embed, dim=2).mean() > 0.7
    images = {"global": torch.zeros(4, 2, 3, 72, 72, dtype=torch.uint8), "local": crops(4)["local"]}
    assert total(after.losses(images, [(0, 0)], 0)).isfinite()


def test_a_final_phase_refuses_other_heads_and_broken_files(tmp_path):
    word = checkpoint(recipe(), tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"of another model or recipe; it differs in .*last_layer"):
        recipe(word, "prototypes=30")
    with pytest.raises(UserError, match="of another model or recipe"):
        recipe(word, registers=2)
    (tmp_path / "text").write_text("no")
    with pytest.raises(UserError, match="not a checkpoint of a run"):
        recipe(f"start_from={tmp_path / 'text'}")


@pytest.mark.gpu
@pytest.mark.parametrize("device_batch", [4, 8])
def test_a_gpu_finds_the_losses_and_gradients_of_the_cpu(device_batch):
    found = []
    for device in ("cpu", "cuda"):
        module = recipe(f"device_batch={device_batch}", "drop_path=0.3").to(device)
        some = {name: value.to(device) for name, value in crops().items()}
        losses = module.losses(some, [(0, 0), (0, 1)], 100)
        total(losses).backward()
        gradient = module.student["backbone"].blocks[0].attn.qkv.weight.grad
        found.append((torch.stack(list(losses.values())).detach().cpu(), gradient.cpu()))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-2, atol=1e-2 * float(found[0][1].abs().max()))
