"""Modules of users, written to files as users write them: tokens by hand, every task, and every way to get it wrong."""

import sys
import textwrap
from functools import partial

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet18

from regvit_lightning import evaluation
from regvit_lightning.data.imagenet import test_files as val_files
from regvit_lightning.data.imagenet import train_files
from regvit_lightning.data.transforms import centre_crop
from regvit_lightning.errors import UserError
from regvit_lightning.models.foreign import ForeignBackbone, as_tokens
from regvit_lightning.models.sources import load_backbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.models.vit_backbone import ViTBackbone

CNN = """
    import torch
    from torch import nn
    from colours import mean_of_patches  # a file beside this one

    class Colours(nn.Module):
        image_size, mean, std = 64, (0.5, 0.4, 0.3), torch.tensor([0.2, 0.3, 0.4])
        any_size = True

        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(3, 8)
            self.dropout = nn.Dropout(0.9)

        def forward(self, images):
            patches = self.dropout(self.mix(mean_of_patches(images)))
            return {"patches": patches, "cls": patches.mean(dim=(1, 2))}

    def colours():
        return Colours()
"""

COLOURS = """
    from torch.nn import functional as F

    def mean_of_patches(images):
        return F.avg_pool2d(images, 16).permute(0, 2, 3, 1)
"""


@pytest.fixture
def script(tmp_path):
    """Writes `models.py` and gives the name of a function in it."""
    (tmp_path / "colours.py").write_text(textwrap.dedent(COLOURS))

    def written(text: str, function: str) -> str:
        (tmp_path / "models.py").write_text(textwrap.dedent(text))
        return f"python:{tmp_path / 'models.py'}:{function}"

    return written


def test_a_function_of_a_file(script):
    backbone = load_backbone(script(CNN, "colours"))
    assert backbone.name == "python-models-colours"
    facts = {"embed_dim": 8, "depth": 1, "patch_size": 16, "num_registers": 0, "has_cls": True, "image_size": 64}
    mean, std = [0.5, 0.4, 0.3], pytest.approx([0.2, 0.3, 0.4])
    assert backbone.facts().pop("tokens") == "the module's output; a final norm is neither added nor left out"
    assert {key: backbone.facts()[key] for key in (*facts, "mean", "std")} == {**facts, "mean": mean, "std": std}
    assert backbone.transform(torch.zeros(3, 70, 90, dtype=torch.uint8)).shape == (3, 64, 64)

    images = torch.randn(2, 3, 32, 80)
    tokens = backbone(images)
    assert tokens.registers.shape == (2, 0, 8)
    by_hand = backbone.model.mix(images[1, :, 16:32, 48:64].mean(dim=(1, 2)))  # row 1, column 3
    torch.testing.assert_close(tokens.patches[1, 1, 3], by_hand)  # without dropout: it is in evaluation mode
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    again = backbone(images, blocks=(0, -1), norm=False)
    assert len(again) == 2
    assert torch.equal(again[0].cls, tokens.cls)
    with pytest.raises(UserError, match="not a multiple of the patch size 16"):
        backbone(torch.randn(1, 3, 40, 32))
    with pytest.raises(UserError, match="no block 1: it has 1"):
        backbone(images, blocks=(1,))
    with pytest.raises(UserError, match=r"add a batch dimension, images\[None\]"):
        backbone(images[0])


def test_a_function_of_a_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "nets.py").write_text(textwrap.dedent(CNN).replace("from colours", "from .colours"))
    (tmp_path / "my_package" / "colours.py").write_text(textwrap.dedent(COLOURS))
    assert load_backbone("python:my_package.nets:colours").name == "python-my_package.nets-colours"


class Pyramid(nn.Module):
    """A residual network whose last map is the patches, and its mean the CLS."""

    image_size, mean, std = 64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*list(resnet18().children())[:-2])

    def forward(self, images):
        patches = self.net(images).permute(0, 2, 3, 1)
        return Tokens(patches.mean(dim=(1, 2)), patches.new_zeros(len(images), 0, 512), patches)


def test_a_convolutional_network_has_patches_of_its_stride():
    backbone = ForeignBackbone(Pyramid(), "resnet")
    assert (backbone.patch_size, backbone.embed_dim, backbone.any_size) == (32, 512, False)
    assert backbone(torch.zeros(1, 3, 64, 64)).patches.shape == (1, 2, 2, 512)
    with pytest.raises(UserError, match="resnet: takes images of 64 px only, not 96 x 64"):
        backbone(torch.zeros(1, 3, 96, 64))


def test_a_backbone_of_ours_keeps_all_that_it_can_do(script):
    text = """
        import timm
        from regvit_lightning.models.vit_backbone import ViTBackbone

        def ours():
            model = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True)
            return ViTBackbone(model, "anything", 160, (0.5,) * 3, (0.5,) * 3)
    """
    backbone = load_backbone(script(text, "ours"))
    assert isinstance(backbone, ViTBackbone)
    assert backbone.name == "python-models-ours"
    assert backbone.last_block(torch.zeros(1, 3, 32, 32)).attention.full.shape[2:] == (5, 5)


def test_weights_drawn_by_the_function_follow_the_seed_and_nothing_else(script):
    name = script(CNN, "colours")
    state = torch.get_rng_state()
    first, again, other = (load_backbone(name, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_the_fingerprint_is_of_all_weights_and_of_the_code(script):
    first = load_backbone(script(CNN, "colours"))
    changed = load_backbone(script(CNN.replace("mean(dim=(1, 2))", "amax(dim=(1, 2))"), "colours"))
    assert first.fingerprint != changed.fingerprint
    model = Pyramid()
    model.head = nn.Linear(2, 2)  # `fingerprint` of our models leaves out what is called so
    before = ForeignBackbone(model, "a").fingerprint
    model.head.bias.data += 1
    assert ForeignBackbone(model, "a").fingerprint != before


def test_importing_leaves_the_search_path_alone(script):
    before = list(sys.path)
    load_backbone(script(CNN, "colours"))
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        ("", "colours", "no function colours in .*it has none"),
        ("def other(): pass\nsome = 3", "some", "no function some in .*; it has other"),
        (
            "import torch_that_is_not_there",
            "f",
            r"ModuleNotFoundError: No module named 'torch_tha.*\(models\.py, line 1",
        ),
        ("def f(:", "f", "SyntaxError: "),
        ("def f():\n  return 1 / 0", "f", r"ZeroDivisionError: division by zero \(models\.py, line 2\)"),
        ("def f(size):\n  return size", "f", "TypeError: .*missing 1 required positional argument"),
        ("def f():\n  return 3", "f", "returned a int, not an nn.Module"),
        (
            "from torch import nn\nf = nn.Identity",
            "f",
            "Identity lacks the attributes image_size, mean, std; image_size",
        ),
    ],
)
def test_functions_that_do_not_do(script, text, function, message):
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(script(text, function))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("python:", r"expected python:package\.module:function or python:path/to/file\.py:function"),
        ("python:models.py", "expected python:"),
        ("python::f", "expected python:"),
        ("python:absent/models.py:f", r"no such file: absent/models\.py"),
        ("python:not_a_package.models:f", "ModuleNotFoundError: No module named 'not_a_package'"),
        ("python:os:getcwd", "returned a str, not an nn.Module"),
        ("python:os:sep", "no function sep in os"),
        ("python:sys:exit", "python:sys:exit: SystemExit"),
        ("python:.models:f", "TypeError: the 'package' argument is required"),
    ],
)
def test_names_that_lead_nowhere(name, message):
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(name)
    assert "\n" not in str(caught.value)


class Gives(nn.Module):
    """Gives what it is told, whatever it sees."""

    image_size, mean, std = 8, (0.5,) * 3, (0.5,) * 3

    def __init__(self, output, **facts) -> None:
        super().__init__()
        self.output = output
        for key, value in facts.items():
            setattr(self, key, value)

    def forward(self, images):
        return self.output


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(1, 8), "its output is a Tensor; expected Tokens, or a mapping with patches"),
        ({"patch": torch.zeros(1, 2, 2, 8)}, "its output has the keys patch; expected"),
        ({"cls": torch.zeros(1, 8)}, "its output has the keys cls; expected"),
        ({"patches": torch.zeros(1, 4, 8)}, r"has the shapes .*\(1, 4, 8\) for 1 image"),
        ({"patches": torch.zeros(2, 2, 2, 8)}, r"\(2, 2, 2, 8\) for 1 image"),
        ({"patches": torch.zeros(1, 2, 2, 8), "cls": torch.zeros(1, 1, 8)}, r"\(1, 1, 8\) and"),
        ({"patches": torch.zeros(1, 2, 2, 8), "registers": torch.zeros(1, 4, 6)}, r"\(1, 4, 6\)"),
        ({"patches": torch.zeros(1, 2, 4, 8)}, "2 x 4 patches of 8 px images: no square grid"),
        ({"patches": torch.zeros(1, 3, 3, 8)}, "3 x 3 patches of 8 px images: no square grid that divides"),
    ],
)
def test_outputs_that_are_no_tokens(output, message):
    with pytest.raises(UserError, match=message) as caught:
        ForeignBackbone(Gives(output), "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("facts", [{"image_size": "big"}, {"image_size": 0}, {"mean": 0.5}, {"std": (1, 1)}])
def test_facts_that_are_no_numbers(facts):
    with pytest.raises(UserError, match="image_size, mean or std of the Gives are not numbers"):
        ForeignBackbone(Gives({"patches": torch.zeros(1, 2, 2, 8)}, **facts), "m")


def test_registers_are_read():
    output = {"patches": torch.zeros(1, 2, 2, 8), "registers": torch.ones(1, 3, 8)}
    backbone = ForeignBackbone(Gives(output), "m")
    assert (backbone.num_registers, backbone.has_cls, backbone.patch_size) == (3, False, 4)
    assert as_tokens(output, "m", 1).registers.shape == (1, 3, 8)


# ------------------------------------------------------------------------------------------------------- tasks

QUICK = {"workers": 0, "precision": "32-true"}
TRAINED = {**QUICK, "steps": 2, "batch_size": 4}


class Rows(nn.Module):
    """16 px patches: their mean colour, and as CLS that of the image; takes any size."""

    image_size, mean, std, any_size = 64, (0.5,) * 3, (0.5,) * 3, True

    def forward(self, images):
        patches = nn.functional.avg_pool2d(images, 16).permute(0, 2, 3, 1)
        return {"patches": patches, "cls": patches.mean(dim=(1, 2))}


@pytest.fixture
def backbone() -> ForeignBackbone:
    return ForeignBackbone(Rows(), "rows")


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("imagenet_knn", {**QUICK, "neighbours": [1, 5], "held_out": 0.5}),
        ("imagenet_linear", {**TRAINED, "blocks": [1]}),
        ("imagenet_attentive", {**TRAINED, "head_width": 1, "queries": 3, "warmup_steps": 0}),
        ("ade20k_linear", TRAINED),
        ("nyud_linear1", {**TRAINED, "warmup_steps": 1}),
    ],
)
def test_tasks_that_need_only_tokens(backbone, tiny, task, settings):
    outcome = evaluation.evaluate(backbone, task, tiny, settings=settings)
    assert all(value == value for value in outcome.metrics.values())
    assert outcome.images > 0


def test_the_features_of_a_task_are_the_modules_own(backbone, tiny):
    """kNN on mean colours by hand: the nearest of all train images, one by one."""
    outcome = evaluation.evaluate(
        backbone, "imagenet_knn", tiny, settings={**QUICK, "neighbours": [1], "held_out": 0.5}
    )

    def colours(files):
        pixels = [centre_crop(73, 64)(Image.open(files.path(index)).convert("RGB")) for index in range(len(files))]
        means = torch.stack(pixels).double().mean(dim=(2, 3)) / 255 * 2 - 1
        return nn.functional.normalize(means, dim=1)

    train, test = train_files(tiny), val_files(tiny)
    nearest = (colours(test) @ colours(train).T).argmax(dim=1)
    right = (torch.from_numpy(train.labels)[nearest] == torch.from_numpy(test.labels)).double().mean()
    assert outcome.metrics["top1_k1"] == pytest.approx(100 * right.item())


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("imagenet_linear", TRAINED, r"blocks=\[1, 4\]: rows has 1; give fewer, such as blocks=\[1\]"),
        ("ade20k_linear", {**TRAINED, "blocks": 4}, "blocks=4: rows has 1; give fewer"),
        ("nyud_linear4", TRAINED, "blocks=4: the model has 1; give fewer"),
        ("imagenet_zeroshot", QUICK, "rows has no text tower"),
        ("lost_voc07", QUICK, "rows: gives tokens only, but this needs q, k, v and attention"),
        ("tokencut_voc07", QUICK, "rows: gives tokens only, but this needs q, k, v"),
        ("artifact_report", QUICK, "rows: gives tokens only, but this needs q, k, v"),
    ],
)
def test_what_needs_more_than_tokens_is_one_line(backbone, tiny, task, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        evaluation.evaluate(backbone, task, tiny, settings=settings)
    assert "\n" not in str(caught.value)


def test_what_looks_into_blocks_is_one_line(backbone):
    images = torch.zeros(1, 3, 64, 64)
    calls = (
        partial(backbone.walk, images, print),
        partial(backbone.last_block, images),
        partial(backbone.projections, images),
        backbone.linears,
        backbone.rewriting_registers(lambda block, registers: registers).__enter__,
    )
    for call in calls:
        with pytest.raises(UserError, match=r"rows: gives tokens only, but this needs .*, which only a plain ViT has"):
            call()
