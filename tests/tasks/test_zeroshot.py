"""Zero-shot: the classifier and whole evaluations against open_clip's own, and planted classes that must be found."""

from pathlib import Path

import open_clip
import pytest
import torch
from open_clip import zero_shot_metadata
from open_clip.model import CLIP
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import top_k_accuracy_score

from regvit_lightning import settings
from regvit_lightning.data.imagenet import test_files as val_files
from regvit_lightning.errors import UserError
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import joint_space, sources, vit, weights
from regvit_lightning.models.joint_space import JointSpace, TextArchitecture
from regvit_lightning.models.metadata import Metadata
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks import zeroshot

VISION = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
METADATA = Metadata("vitn_reg2", "openclip", 64, (0.5,) * 3, (0.2,) * 3, None, 2, pre_norm=True)


def mini_settings(*words):
    words = ["workers=0", "precision=32-true", *words]
    return settings.load_settings("tasks", "imagenet_zeroshot", "mini", words)[1]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A random model of open_clip, and the file that holds it."""
    torch.manual_seed(0)
    model, path = CLIP(embed_dim=32, vision_cfg=VISION, text_cfg=TEXT).eval(), tmp_path_factory.mktemp("clip") / "m.pt"
    torch.save(model.state_dict(), path)
    return model, path


def load(path):
    return sources.load_backbone(str(path), Path())


@pytest.mark.parametrize("batch", [1, 5, 1000])
@pytest.mark.parametrize("templates", ["openai", "simple", "rendered"])
def test_the_classifier_is_open_clips(released, templates, batch):
    model, path = released
    backbone, names = load(path), ["green mamba", "cat", "photocopier"]
    space, prompts = joint_space.load_joint_space(path, "m", backbone.fingerprint), zeroshot.TEMPLATES[templates]()[:7]
    ours = zeroshot.classifier(space, names, prompts, batch)
    theirs = open_clip.build_zero_shot_classifier(model, open_clip.SimpleTokenizer(context_length=24), names, prompts)
    torch.testing.assert_close(ours, theirs.T)


def test_the_published_prompts():
    assert [len(make()) for make in zeroshot.TEMPLATES.values()] == [80, 7, 36]
    assert zeroshot.TEMPLATES["openai"]()[0]("cat") == "a bad photo of a cat."


@torch.no_grad()
def test_a_released_model_scores_what_open_clip_computes(tiny, released):
    model, path = released
    outcome = zeroshot.run(load(path), tiny, mini_settings("resize=64", "templates=simple"))
    files, preprocess = val_files(tiny), open_clip.image_transform(64, is_train=False)
    images = torch.stack([preprocess(Image.open(files.path(place))) for place in range(len(files))])
    names = [folder.replace("_", " ") for folder in files.classes]
    rows = open_clip.build_zero_shot_classifier(
        model, open_clip.SimpleTokenizer(context_length=24), names, zero_shot_metadata.SIMPLE_IMAGENET_TEMPLATES
    )
    logits = (model.encode_image(images, normalize=True) @ rows).numpy()
    for k in (1, 5):
        expected = 100 * top_k_accuracy_score(files.labels, logits, k=k, labels=range(16))
        assert outcome.metrics[f"top{k}"] == pytest.approx(expected)
    assert outcome.images == 32
    assert outcome.floors["chance"] == {"top1": 100 / 16, "top5": 500 / 16}


def plant(folder, data, shift):
    """A random image tower whose projection sends every test image to the text of its class, `shift` classes on."""
    torch.manual_seed(0)
    weights.save(folder / "backbone.safetensors", vit.build("vitn_reg2", image_size=64, pre_norm=True), METADATA)
    backbone, files, chosen = load(folder / "backbone.safetensors"), val_files(data), mini_settings()
    space = JointSpace(TextArchitecture(width=64, layers=2, heads=2, context_length=32, embed_dim=32), 96).eval()
    names = zeroshot.names_of(files.classes, "folders")
    rows = zeroshot.classifier(space, names, zeroshot.rendered_templates(), 100)
    view, mean, std = chosen.view(), torch.tensor(backbone.mean), torch.tensor(backbone.std)
    pixels = torch.stack([view(Image.open(files.path(place))) for place in range(len(files))]) / 255
    with torch.no_grad():
        cls = backbone((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)).cls
        targets = rows[(torch.from_numpy(files.labels) + shift) % 16]
        space.projection.copy_(torch.linalg.lstsq(cls.double(), targets.double(), driver="gelsd").solution)
    joint_space.save(folder / "text.safetensors", space, backbone.fingerprint)
    return backbone


@pytest.mark.parametrize(("shift", "top1"), [(0, 100.0), (3, 0.0)])
def test_planted_classes_are_all_found_and_shifted_ones_never(tiny, tmp_path, shift, top1):
    backbone = plant(tmp_path, tiny, shift)
    outcome = zeroshot.run(backbone, tiny, mini_settings(), RunOptions(seed=1))
    assert outcome.metrics["top1"] == pytest.approx(top1)
    images = len(outcome.scores["top1"])
    exact = binomtest(images if top1 else 0, images).proportion_ci(0.95, "exact")
    assert outcome.intervals["top1"] == pytest.approx((100 * exact.low, 100 * exact.high))
    assert set(outcome.scores["top1"].tolist()) == {top1}
    assert outcome.protocol["templates"] == "rendered (36)"
    assert outcome.protocol["text_tower"]["embed_dim"] == 32
    assert set(zeroshot.METRICS) <= set(outcome.metrics)
    small = zeroshot.run(backbone, tiny, mini_settings("device_batch=7"), RunOptions(seed=1))
    assert small.metrics == outcome.metrics


def test_ranks_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.3, 0.3], [0.3, 0.3, 0.3], [2.0, 1.0, 0.0]])
    assert zeroshot.rank(scores, torch.tensor([0, 0, 2, 0])).tolist() == [2, 0, 2, 0]


def test_a_collapsed_model_scores_chance():
    """Equal scores must not count as right: constant embeddings find one class of K, not all."""
    scores, labels = torch.zeros(16, 16), torch.arange(16)
    ranks = zeroshot.rank(scores, labels)
    assert (ranks < 1).sum() == 1
    assert (ranks < 5).sum() == 5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_have_no_rank(value):
    """`scores > own` is False for NaN: the true class of every image would rank first, and top-1 be 100."""
    scores = torch.rand(3, 4)
    scores[1, 2] = value
    with pytest.raises(UserError, match="a similarity of image and text is not finite"):
        zeroshot.rank(scores, torch.tensor([0, 1, 2]))


def test_names_of_classes():
    assert zeroshot.names_of(["plain_box", "ring"], "folders") == ["plain box", "ring"]
    with pytest.raises(UserError, match=r"but the data has 2, plain_box … ring; give class_names=folders"):
        zeroshot.names_of(["plain_box", "ring"], "imagenet")
    folders = ["n01440764", *(f"n0{number}" for number in range(1500000, 1500998)), "n15075141"]
    named = zeroshot.names_of(folders, "imagenet")
    assert (named[0], named[-1], len(named)) == ("tench", "toilet paper", 1000)


def test_a_model_without_a_text_tower_gets_one_line(tiny):
    backbone = sources.load_backbone("random-vitn_reg4", Path(), image_size=64)
    with pytest.raises(
        UserError, match="random-vitn_reg4 has no text tower: zero-shot takes models of RECIPE=openclip"
    ):
        zeroshot.run(backbone, tiny, mini_settings())


@pytest.mark.parametrize("word", ["class_names=odd", "templates=odd", "text_batch=0", "crop=100"])
def test_values_out_of_range_are_refused(word):
    with pytest.raises(SettingsError, match=word.partition("=")[0]):
        mini_settings(word)
