"""Object discovery: LOST and TokenCut box for box against their plain versions, planted objects, CorLoc by hand."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F

from regvit_lightning import settings
from regvit_lightning.data import boxes
from regvit_lightning.data.discovery import NativeSize, pad_together
from regvit_lightning.data.image_sets import BoxedSet
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.mini import writer as mini
from regvit_lightning.models import sources, vit
from regvit_lightning.models.vit_backbone import ViTBackbone
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks.discovery import (
    lost,
    lost_sweep,
    normalised_cut,
    protocol,
    seed_expansion,
    tokencut,
)
from regvit_lightning.tasks.discovery.lost import LOST, Choice
from regvit_lightning.tasks.discovery.protocol import Discoverer
from tests.data.test_voc import write_coco, write_voc

PATCH = 8
BIASES = (0.0, -0.75, 1.5, -4.0, -1000.0)


def mini_settings(*words, task="lost_voc07"):
    given = dict(word.split("=", 1) for word in ("workers=0", *words))
    return settings.load_settings("tasks", task, "mini", [f"{key}={value}" for key, value in given.items()])[1]


def nano(name="random-vitn_reg4"):
    return sources.load_backbone(name, Path("runs"), image_size=64)


# ------------------------------------------------------------------------------------------- the plain versions


def plain_lost(features, k=100, bias=0.0):
    """LOST for one image (h, w, D), written from its description: (box, seed, whether the seed is background)."""
    grid, flat = features.shape[:2], features.flatten(0, 1)
    gram = flat @ flat.T + bias
    positive = gram > 0
    positive.fill_diagonal_(False)
    order = torch.argsort(positive.sum(dim=1), stable=True)
    seed = int(order[0])
    similar = [patch for patch in order[:k].tolist() if gram[seed, patch] > 0]
    foreground = gram[similar].sum(dim=0).view(grid) > 0
    return *plain_box(foreground.numpy(), seed), seed


def plain_box(foreground, seed):
    labels, _ = scipy.ndimage.label(foreground)
    row, column = np.unravel_index(seed, labels.shape)
    if labels[row, column] == 0:
        return [int(column), int(row), int(column) + 1, int(row) + 1], True
    rows, columns = np.where(labels == labels[row, column])
    return [int(end) for end in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)], False


def plain_tokencut(features, threshold=0.2, weak=1e-5):
    """TokenCut for one image (h, w, D) as its authors' code has it: (box, eigenvector)."""
    flat = F.normalize(features.flatten(0, 1), dim=1)
    weights = np.where((flat @ flat.T > threshold).numpy(), 1.0, weak)
    degree = np.diag(weights.sum(axis=1))
    _, vectors = scipy.linalg.eigh(degree - weights, degree, subset_by_index=[1, 2])
    vector = vectors[:, 0]
    part, seed = vector > vector.mean(), int(np.abs(vector).argmax())
    if not part[seed]:
        part = ~part
    return plain_box(part.reshape(features.shape[:2]), seed)[0], vector


def expanded(features, biases, k=100, l2=False):
    """Boxes, fallbacks and seeds (B, J) of a batch (B, h, w, D)."""
    values = F.normalize(features, dim=-1) if l2 else features
    both = ((), biases) if l2 else (biases, ())
    found = seed_expansion.expand(values, seed_expansion.degrees(features.flatten(1, 2), *both), biases, k)
    return found.boxes.tolist(), found.fallback.tolist(), found.seeds.tolist()


def integers(seed, *shape):
    """Features whose dot products are exact, so that they do not depend on the order of the sums, and full of ties."""
    return torch.from_numpy(np.random.default_rng(seed).integers(-2, 3, shape)).float()


# ------------------------------------------------------------------------------------- box for box, and planted


@effort(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.integers(1, 24),
    st.integers(1, 24),
    st.integers(1, 12),
    st.sampled_from([1, 3, 20, 100]),
)
def test_a_batch_gives_the_boxes_of_the_plain_version(seed, images, height, width, channels, k):
    features = integers(seed, images, height, width, channels)
    boxes_, fallback, seeds = expanded(features, BIASES, k)
    for image, (number, bias) in itertools.product(range(images), enumerate(BIASES)):
        found = boxes_[image][number], fallback[image][number], seeds[image][number]
        assert found == plain_lost(features[image], k, bias)


@effort(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20))
def test_so_it_does_for_normalised_features(seed, height, width):
    # Four entries of ±1 among twelve: the norm is 2, so that dot products of normalised features are exact, too.
    rng = np.random.default_rng(seed)
    chosen = rng.random((2 * height * width, 12)).argsort(axis=1) < 4
    signs = rng.choice([-1, 1], chosen.shape)
    features = torch.from_numpy(chosen * signs).float().view(2, height, width, 12)
    biases = (0.0, -0.3, -0.25, 0.25, -0.9)
    boxes_, fallback, seeds = expanded(features, biases, l2=True)
    for image, (number, bias) in itertools.product(range(2), enumerate(biases)):
        found = boxes_[image][number], fallback[image][number], seeds[image][number]
        assert found == plain_lost(F.normalize(features[image], dim=-1), 100, bias)


@pytest.mark.parametrize(("grid", "channels", "images"), [((30, 40), 384, 2), ((37, 37), 64, 3), ((9, 11), 16, 8)])
def test_it_does_at_the_sizes_of_use(grid, channels, images):
    """Features as a ViT has them: smooth over the image, with a common part and an outlier of high norm."""
    torch.manual_seed(0)
    features = F.interpolate(torch.randn(images, channels, 5, 5), grid, mode="bicubic").permute(0, 2, 3, 1)
    features = (features + 0.3 * torch.randn_like(features) + 0.1 * torch.randn(channels)).contiguous()
    features[:, 2, 3] *= 20
    biases = (0.0, -20.0, 3.0)
    boxes_, fallback, seeds = expanded(features, biases)
    for image, (number, bias) in itertools.product(range(images), enumerate(biases)):
        found = boxes_[image][number], fallback[image][number], seeds[image][number]
        assert found == plain_lost(features[image], 100, bias)


def test_strips_and_sub_batches_change_nothing(monkeypatch):
    features = integers(0, 5, 9, 8, 6)
    whole = seed_expansion.degrees(features.flatten(1, 2), [0.0, -1.0], [0.1])
    for strip, elements in ((1, 1), (7, 2**19), (72, 500), (30, 4320), (30, 13000)):
        monkeypatch.setattr(seed_expansion, "STRIP", strip)
        monkeypatch.setitem(seed_expansion.ELEMENTS, "cpu", elements)
        assert (seed_expansion.degrees(features.flatten(1, 2), [0.0, -1.0], [0.1]) == whole).all()


def test_a_sweep_gives_the_boxes_of_the_plain_version_in_all_its_settings(monkeypatch):
    """Five images, two of them at a time."""
    monkeypatch.setitem(seed_expansion.ELEMENTS, "cpu", 2 * 12 * 13 * 16 + 5)
    torch.manual_seed(0)
    features = F.interpolate(torch.randn(5, 16, 4, 4), (12, 13), mode="bicubic").permute(0, 2, 3, 1)
    features = features + 0.3 * torch.randn_like(features) + 0.3 * torch.randn(16)
    choices = [one for one in mini_settings(task="lost_sweep_voc07").choices() if (one.block, one.feature) == (-1, "k")]
    found = LOST(choices, 20)([features])
    assert len(choices) == 32
    for (image, own), (number, one) in itertools.product(enumerate(features), enumerate(choices)):
        values = own - own.mean(dim=(0, 1)) if one.centred else own
        products = (values.flatten(0, 1) @ values.flatten(0, 1).T)[tuple(np.triu_indices(156, 1))]
        bias = one.bias * (products.abs().median().item() if one.scaled else 1)
        box, fallback, _ = plain_lost(F.normalize(values, dim=-1) if one.l2 else values, 20, bias)
        assert found.boxes[image, number].tolist() == box
        assert found.fallback[image, number] == fallback


def test_a_patch_without_a_norm_resembles_nothing():
    features = integers(0, 1, 4, 4, 6)
    features[0, 1, 1] = 0
    degrees = seed_expansion.degrees(features.flatten(1, 2), [0.0], [0.0, -0.5])
    assert (degrees[0, :, 5] == 0).all()


@effort(max_examples=40, deadline=None)
@given(st.data())
def test_a_planted_object_is_found_in_the_image_whatever_stands_before_the_patches(data):
    registers, cls = data.draw(st.sampled_from([0, 1, 4, 7])), data.draw(st.booleans())
    height, width = (data.draw(st.integers(3 * PATCH, 9 * PATCH)) for _ in range(2))
    image, planted = planted_image(lambda low, high: data.draw(st.integers(low, high)), height, width)
    feature = data.draw(st.sampled_from("qkv"))
    choice = Choice(feature, data.draw(st.integers(-4, -1)), False, data.draw(st.booleans()), 0.0)
    backbone = colour_backbone(registers, cls)
    for method in (LOST([choice], 100), tokencut.TokenCut((-1, feature), 0.2, 1e-5)):
        assert found_in(backbone, method, [image]) == [planted]


def planted_image(draw, height, width):
    """A red object of whole patches, less than half of the image, on blue; its box in pixels, cut at the border.

    `draw` gives a whole number between two, both included.
    """
    rows, columns = -(-height // PATCH), -(-width // PATCH)
    tall, wide = draw(1, rows), draw(1, columns)
    if 2 * tall * wide >= rows * columns:
        tall, wide = max(rows // 2, 1), max(columns // 2, 1)
    top, left = draw(0, rows - tall), draw(0, columns - wide)
    image = np.zeros((height, width, 3), np.uint8)
    image[...] = (10, 60, 220)
    image[top * PATCH : (top + tall) * PATCH, left * PATCH : (left + wide) * PATCH] = (230, 60, 10)
    ends = min((left + wide) * PATCH, width), min((top + tall) * PATCH, height)
    return image, [left * PATCH, top * PATCH, *ends]


def colour_backbone(registers=4, cls=True):
    """A ViT that does nothing but to tell red from blue: queries, keys and values of every block are ±1 by colour."""
    model = vit.build(f"vitn_reg{registers}", image_size=64)
    if not cls:
        model.cls_token, model.num_prefix_tokens = None, registers
    for parameter in (model.pos_embed, model.patch_embed.proj.weight, model.patch_embed.proj.bias):
        nn.init.zeros_(parameter)
    signs = torch.ones(96).index_fill(0, torch.arange(48), -1)
    model.patch_embed.proj.weight.data[:, 0] = signs[:, None, None]
    model.patch_embed.proj.weight.data[:, 2] = -signs[:, None, None]
    for block in model.blocks:
        for last in (block.attn.proj, block.mlp.fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        block.attn.qkv.weight.data = torch.eye(96).repeat(3, 1)
        nn.init.zeros_(block.attn.qkv.bias)
    return ViTBackbone(model, "colours", 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def found_in(backbone, method, images):
    """Boxes in pixels that the module finds in images (H, W, 3) of one padded size."""
    sizes = np.array([image.shape[1::-1] for image in images])
    files = boxes.BoxedImages(np.array([b""] * len(images)), sizes, [np.zeros((0, 4))] * len(images))
    module = Discoverer(backbone, "32-true", method, NativeSize(files, sizes))
    samples = [(torch.from_numpy(image).permute(2, 0, 1), place) for place, image in enumerate(images)]
    batch = pad_together(samples, PATCH)
    with torch.inference_mode():
        patches = method(module.features(batch["image"], batch["size"])).boxes
    return [module.in_pixels(own[0], place).tolist() for place, own in enumerate(patches)]


def test_zeros_stand_behind_the_normalised_image_and_take_part():
    """Features of images of different sizes in a batch are those of each one, normalised and then padded, alone."""
    rng, backbone = np.random.default_rng(0), nano()
    images = [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((20, 27), (24, 25), (17, 32))]
    samples = [(torch.from_numpy(image).permute(2, 0, 1), place) for place, image in enumerate(images)]
    method = LOST([Choice("v", -2, False, False, 0.0), Choice("q", -1, False, False, 0.0)], 100)
    files = boxes.BoxedImages(np.array([b""] * 3), np.zeros((3, 2), np.int64), [])
    module = Discoverer(backbone, "32-true", method, NativeSize(files, files.sizes))
    batch = pad_together(samples, PATCH)
    values, queries = module.features(batch["image"], batch["size"])
    assert values.shape == (3, 3, 4, 96)
    mean, std = (torch.tensor(parts).view(3, 1, 1) for parts in (backbone.mean, backbone.std))
    for place, (image, _) in enumerate(samples):
        normal = (image / 255 - mean) / std
        whole = F.pad(normal, (0, 32 - image.shape[2], 0, 24 - image.shape[1]))[None]
        before, last = backbone.projections(whole, (-2, -1))
        torch.testing.assert_close(values[place], before.v.patches[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(queries[place], last.q.patches[0], atol=1e-5, rtol=1e-4)


# ----------------------------------------------------------------------------------------- seeds, ties, fallback


def test_steps_by_hand():
    """Four patches in a row: the outer two resemble each other, the others nobody."""
    features = torch.tensor([[2.0, 0], [-1, 0], [0, 3], [1, 0]]).view(1, 1, 4, 2)
    degrees = seed_expansion.degrees(features.flatten(1, 2))
    assert degrees.tolist() == [[[1, 0, 0, 1]]]
    found = seed_expansion.expand(features, degrees, [0.0], k=2)
    assert found.seeds.tolist() == [[1]]  # the lower place of the two without neighbours
    assert found.similarity.flatten().tolist() == [-2, 1, 0, -1]
    assert found.scores.flatten().tolist() == [-2, 1, 0, -1]
    assert found.boxes.tolist() == [[[1, 0, 2, 1]]]
    degrees = seed_expansion.degrees(features.flatten(1, 2), [1.5])
    assert degrees.tolist() == [[[2, 2, 3, 3]]]
    biased = seed_expansion.expand(features, degrees, [1.5], k=4)
    assert biased.similarity.flatten().tolist() == [5.5, -0.5, 1.5, 3.5]
    assert biased.scores.flatten().tolist() == [10.5, 1.5, 13.5, 7.5]  # rows of patches 0, 2 and 3, bias included
    assert biased.boxes.tolist() == [[[0, 0, 4, 1]]]
    assert seed_expansion.expand(features, degrees, [1.5], k=1).boxes.tolist() == [[[0, 0, 1, 1]]]


def test_a_seed_in_the_background_falls_back_to_its_own_patch():
    features = integers(1, 2, 5, 6, 4)
    degrees = seed_expansion.degrees(features.flatten(1, 2), [-1000.0])
    assert (degrees == 0).all()
    found = seed_expansion.expand(features, degrees, [-1000.0], k=100)
    assert found.fallback.all()
    assert found.seeds.tolist() == [[0], [0]]
    assert found.boxes.tolist() == [[[0, 0, 1, 1]]] * 2


def test_regions_hang_together_by_sides_and_within_one_image():
    foreground = torch.tensor([[[1, 1, 0], [0, 0, 1], [1, 0, 1]], [[0, 0, 0], [1, 1, 1], [0, 0, 0]]]).bool()
    parts, alone = seed_expansion.connected_part(torch.tensor([8, 0]), foreground)
    assert parts.long().tolist() == [[[0, 0, 0], [0, 0, 1], [0, 0, 1]], [[1, 0, 0], [0, 0, 0], [0, 0, 0]]]
    assert alone.tolist() == [False, True]
    assert seed_expansion.tight_boxes(parts).tolist() == [[2, 1, 3, 3], [0, 0, 1, 1]]


# ------------------------------------------------------------------------------------------------------ tokencut


@pytest.mark.parametrize("seed", range(8))
def test_tokencut_gives_the_boxes_of_the_plain_version(seed):
    generator = torch.Generator().manual_seed(seed)
    height, width = torch.randint(6, 20, (2,), generator=generator).tolist()
    features = 0.7 * torch.randn(2, height, width, 16, generator=generator)
    features[:, : height // 2, 1 : width // 2 + 1] += torch.randn(16, generator=generator)
    features += 0.5 * torch.randn(16, generator=generator)
    found = normalised_cut.cut(features, 0.2, 1e-5)
    for image in range(2):
        box, vector = plain_tokencut(features[image])
        assert found.boxes[image].tolist() == box
        own = found.eigenvectors[image].flatten().numpy()
        assert abs(own @ vector) / np.linalg.norm(own) / np.linalg.norm(vector) == pytest.approx(1)


# --------------------------------------------------------------------------------------------------------- scores


def test_half_of_a_graph_is_mirrored(monkeypatch):
    monkeypatch.setattr(normalised_cut, "STRIP", 7)
    features = integers(0, 31, 6)
    assert (normalised_cut.joined_pairs(features, 2) == (features @ features.T > 2).numpy()).all()


@pytest.mark.parametrize("share", [0, 1], ids=["dense", "sparse"])
def test_the_eigenvector_is_that_of_a_dense_solver_whatever_is_multiplied(monkeypatch, share):
    monkeypatch.setattr(normalised_cut, "SPARSE", share)
    features = F.interpolate(torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(1)), (9, 10))
    joined = normalised_cut.joined_pairs(F.normalize(features.flatten(2)[0].T, dim=1), 0.2)
    weights = np.where(joined, 1.0, 0.03)
    degree = np.diag(weights.sum(axis=1))
    expected = scipy.linalg.eigh(degree - weights, degree, subset_by_index=[1, 1])[1][:, 0]
    found = normalised_cut.second_eigenvector(joined, 0.03)
    np.testing.assert_allclose(found * np.sign(found @ expected), expected, atol=1e-12)


@pytest.mark.parametrize(("width", "right"), [(49, False), (50, True), (51, True)])
def test_an_overlap_of_one_half_is_right(width, right):
    """A box of `width` by 100 in one of 100 by 100: IoU 0.49, 0.5, 0.51."""
    truths = torch.tensor([[300, 300, 310, 310], [0, 0, 100, 100]])
    found = torch.tensor([[0, 0, width, 100], [300, 300, 400, 400]])
    assert protocol.hits(found, truths).tolist() == [right, False]
    assert protocol.hits(found, torch.zeros(0, 4)).tolist() == [False, False]


def test_floors_by_hand():
    sizes = np.array([[100, 100], [200, 50], [100, 100]])
    objects = [np.array([[0.0, 0, 100, 60]]), np.array([[80.0, 10, 120, 40], [0, 0, 20, 5]]), np.zeros((0, 4))]
    images = boxes.BoxedImages(np.array([b"a"] * 3), sizes, objects)
    # Mean width (1 + 0.2 + 0.1) / 3 = 0.433, mean height (0.6 + 0.6 + 0.1) / 3 = 0.433: in the first image IoU 0.21,
    # in the second, with 86.7 × 21.7 px on an object of 40 × 30 px, 867 / 2211 = 0.39.
    found = protocol.floors(images, [0, 1, 2])
    assert found == {"whole image": {"corloc": pytest.approx(100 / 3)}, "centred box of mean size": {"corloc": 0.0}}
    # Of the second image alone: 0.15 and 0.35 of it, 30 × 17.5 in an object of 40 × 30: IoU 0.44. Of the first: itself.
    assert protocol.floors(images, [1])["centred box of mean size"]["corloc"] == 0
    assert protocol.floors(images, [0])["centred box of mean size"]["corloc"] == 100


# ------------------------------------------------------------------------------------------------ the whole cell


def planted_set(root, count=12):
    """A VOC folder of images with one planted object each, in several sizes, losslessly written."""
    rng = np.random.default_rng(0)
    images, pictures = {}, {}
    for number in range(count):
        height, width = rng.integers(3 * PATCH, 7 * PATCH, 2).tolist()
        picture, (x1, y1, x2, y2) = planted_image(lambda low, high: int(rng.integers(low, high + 1)), height, width)
        images[str(number)] = (width, height), [(x1 + 1, y1 + 1, x2, y2)]
        pictures[str(number)] = picture
    folder = write_voc(root / "VOCdevkit" / "VOC2007", images)
    for name, picture in pictures.items():
        # Without loss: Pillow looks at what a file holds, not at its name.
        Image.fromarray(picture).save(folder / "JPEGImages" / f"{name}.jpg", format="PNG")
    return DataSettings(name="planted", root=str(root), get="")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_set(tmp_path_factory.mktemp("planted"))


@pytest.mark.parametrize("task", ["lost_voc07", "tokencut_voc07"])
def test_planted_objects_are_all_found(planted, task):
    module, options = settings.load_settings("tasks", task, "mini", ["workers=0"])
    found = module.run(colour_backbone(), planted, options)
    assert found.metrics == {"corloc": 100.0}
    # All of 12: the smallest share with a chance of 2.5 % of that is 0.025^(1/12).
    assert found.intervals == {"corloc": (pytest.approx(100 * 0.025 ** (1 / 12)), 100.0)}
    assert found.scores["corloc"].tolist() == [100.0] * 12
    assert found.images == 12
    assert set(found.floors) == {"whole image", "centred box of mean size"}
    assert max(floor["corloc"] for floor in found.floors.values()) < 100
    assert found.protocol["feature"] == "k"
    assert found.protocol["fallbacks"] == 0
    assert len(found.picture.axes) == 3 * (4 if task == "lost_voc07" else 3)
    json.dumps(found.protocol)


def test_a_sweep_is_what_its_settings_are_alone(tiny_voc):
    """Every number of the grid, from one pass, is that of the protocol run under this one setting."""
    options = mini_settings(
        "features=[k,v]", "blocks=[-1,-3]", "biases=[0.0,-5.0]", "l2_biases=[-0.1]", task="lost_sweep_voc07"
    )
    backbone = nano()
    choices = options.choices()
    assert len(choices) == 2 * 2 * 2 * 3
    module = protocol.discover(backbone, tiny_voc, options, LOST(choices, options.k), protocol.RunOptions())
    for column in range(0, len(choices), 5):
        alone = mini_settings(*choices[column].words().split())
        single = lost.run(backbone, tiny_voc, alone)
        assert single.metrics["corloc"] == pytest.approx(100 * module.right[:, column].double().mean().item())
        assert single.protocol["fallbacks"] == module.fallbacks[:, column].sum()


@pytest.fixture(scope="module")
def tiny_voc(tmp_path_factory):
    """Twelve rendered images in VOC's layout, of several sizes."""
    root = tmp_path_factory.mktemp("voc")
    few = dict.fromkeys(("imagenet_train", "imagenet_val", "shards_train", "shards_val", "voc2012", "coco"), 1)
    small = mini.MiniSettings(**few, ade_train=1, ade_val=1, nyu_train=1, nyu_test=1, voc2007=12, voc_side=90)
    for _ in mini.write(root, small, workers=0):
        pass
    return DataSettings(name="tiny", root=str(root))


def test_a_sweep_chooses_on_one_part_and_reports_the_other(tiny_voc):
    words = ["features=[k]", "blocks=[-1,-2]", "held_out=0.34"]
    options = mini_settings(*words, task="lost_sweep_voc07")
    found = lost_sweep.run(nano(), tiny_voc, options)
    choices = options.choices()
    grid, facts = found.protocol["grid"], found.protocol
    assert found.images == 8
    held_out = list(grid["corloc_held_out"].values())
    assert facts["equally_good"] == held_out.count(max(held_out))
    assert facts["chosen_on"] == f"4 held-out images, the first of the best among {len(choices)} settings"
    assert set(grid["corloc"]) == set(grid["corloc_held_out"]) == {choice.words() for choice in choices}
    chosen = Choice(*(facts[name] for name in ("feature", "block", "centred", "l2", "bias", "scaled"))).words()
    assert list(grid["corloc_held_out"]).index(chosen) == held_out.index(max(held_out))
    assert grid["corloc"][chosen] == pytest.approx(found.metrics["corloc"], abs=0.01)
    assert grid["corloc"][facts["best_on_test"]] == pytest.approx(found.metrics["corloc_best_on_test"], abs=0.01)
    assert found.metrics["corloc_best_on_test"] == pytest.approx(max(grid["corloc"].values()), abs=0.01)
    assert set(found.intervals) == {"corloc"}
    assert found.scores["corloc"].isnan().sum() == 4  # those held out, wherever they are
    assert found.scores["corloc"].nanmean().item() == pytest.approx(found.metrics["corloc"])
    json.dumps(found.protocol)


def test_the_parts_of_a_sweep_are_disjoint_and_drawn_from_the_seed():
    held, rest = lost_sweep.split(50, 0.2, seed=0)
    assert len(held) == 10
    assert sorted(held + rest) == list(range(50))
    assert held == lost_sweep.split(50, 0.2, seed=0)[0]
    assert held != lost_sweep.split(50, 0.2, seed=1)[0]
    with pytest.raises(SettingsError, match="at least one must be on either side"):
        lost_sweep.split(2, 0.1, seed=0)


@pytest.mark.parametrize("words", [["device_batch=1"], ["device_batch=3"], ["workers=1"]])
def test_how_it_is_run_changes_no_box(tiny_voc, words):
    def found(*words):
        options = mini_settings(*words)
        method = LOST([Choice("k", -1, False, False, 0.0)], options.k)
        return protocol.discover(nano(), tiny_voc, options, method, protocol.RunOptions()).right

    assert (found(*words) == found()).all()


def test_a_very_large_image_is_reduced_and_its_box_is_in_its_own_pixels(tmp_path):
    image = np.zeros((24 * PATCH, 32 * PATCH, 3), np.uint8)
    image[...] = (10, 60, 220)
    image[8 * PATCH : 16 * PATCH, 4 * PATCH : 12 * PATCH] = (230, 60, 10)
    box = (4 * PATCH + 1, 8 * PATCH + 1, 12 * PATCH, 16 * PATCH)
    folder = write_voc(tmp_path / "VOCdevkit" / "VOC2007", {"1": (image.shape[1::-1], [box])})
    Image.fromarray(image).save(folder / "JPEGImages" / "1.jpg", format="PNG")
    data = DataSettings(name="large", root=str(tmp_path))
    found = lost.run(colour_backbone(), data, mini_settings("max_patches=48"))  # 8 × 6
    assert found.protocol["reduced"] == "1 images of more than 48 patches"
    assert found.metrics["corloc"] == 100
    method = LOST([Choice("k", -1, False, False, 0.0)], 100)
    module = protocol.discover(colour_backbone(), data, mini_settings("max_patches=48"), method, protocol.RunOptions())
    assert module.patch(0).tolist() == [32, 32]
    assert module.in_pixels(torch.tensor([1, 2, 3, 7]), 0).tolist() == [32, 64, 96, 192]


def test_coco_with_a_crowd_alone_counts_as_not_found(tmp_path):
    images = {1: ((64, 48), [((0, 0, 64, 48), True)]), 2: ((64, 48), [((0, 0, 64, 48), False)])}
    folder, annotations, names = write_coco(tmp_path, images)
    data = DataSettings(name="own", root=str(tmp_path))
    below = [str(path.relative_to(tmp_path)) for path in (folder, annotations, names)]
    data.discovery["coco20k"] = BoxedSet("coco", "", *below)
    found = lost.run(nano(), data, mini_settings(task="lost_coco20k"))
    assert found.protocol["left_out"] == {"crowd": 1}
    assert found.protocol["without_a_box"] == 1
    assert found.floors["whole image"]["corloc"] == 50


# ------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(("kind", "feature"), [("deit3", "v"), ("clip", "v"), ("other", "k")])
def test_auto_is_the_papers_choice_by_the_kind_of_model_and_not_by_its_name(kind, feature):
    backbone = nano()
    for name in ("eclipse", "deit3-vitb_reg4", "dinov2-vitl14_reg4"):
        backbone.name, backbone.kind = name, kind
        assert protocol.feature_of(backbone, "auto") == feature
        assert protocol.feature_of(backbone, "q") == "q"


def test_the_words_of_a_setting_are_those_of_the_command():
    choice = Choice("q", -2, True, False, -0.15, scaled=True)
    assert choice.words() == "feature=q block=-2 centred=true l2=false scaled=true bias=-0.15"
    options = mini_settings(*choice.words().split())
    values = (options.feature, options.block, options.centred, options.l2, options.bias, options.scaled)
    assert choice == Choice(*values)


@pytest.mark.parametrize(
    ("task", "word", "fault"),
    [
        ("lost_voc07", "feature=x", "expected auto, q, k or v"),
        ("lost_voc07", "block=-9", "block=-9: random-vitn_reg4 has 4, numbered 0 to 3, or -1 to -4"),
        ("lost_voc07", "images=voc", "expected one of voc07"),
        ("lost_voc07", "k=0", "k=0"),
        ("lost_voc07", "max_patches=0", "max_patches=0"),
        ("lost_sweep_voc07", "blocks=[-1,-5]", "block=-5"),
        ("lost_sweep_voc07", "features=[k,x]", "expected some of q, k, v"),
        ("lost_sweep_voc07", "features=[]", "the grid is empty"),
        ("lost_sweep_voc07", "held_out=1.0", "held_out=1.0"),
        ("tokencut_voc07", "threshold=1", "threshold=1"),
        ("tokencut_voc07", "weak=0", "weak=0"),
        ("tokencut_voc07", "feature=keys", "expected auto"),
    ],
)
def test_settings_that_make_no_sense_are_told(tiny_voc, task, word, fault):
    with pytest.raises(SettingsError, match=fault) as error:
        settings.load_settings("tasks", task)[0].run(nano(), tiny_voc, mini_settings(word, task=task))
    assert "\n" not in str(error.value)


def test_a_scaled_bias_is_for_features_that_are_not_normalised():
    with pytest.raises(SettingsError, match=r"scaled=true: .*take l2=false"):
        mini_settings("l2=true", "scaled=true")


def test_an_image_smaller_than_a_patch_is_named(tmp_path):
    small = {"1": ((60, 40), [(1, 1, 9, 9)]), "2": ((60, 7), [(1, 1, 9, 7)])}
    write_voc(tmp_path / "VOCdevkit" / "VOC2007", small)
    with pytest.raises(DataError, match=r"2\.jpg, 60 × 7 px: smaller than a patch of 8 px; take it off the list"):
        lost.run(nano(), DataSettings(name="own", root=str(tmp_path)), mini_settings())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_boxes_on_any_device_are_those_of_the_plain_version(device):
    features = torch.randn(6, 9, 7, 16, generator=torch.Generator().manual_seed(5))
    found = LOST([Choice("k", -1, False, False, 0.0)], 20)([features.to(device)])
    expected = [plain_lost(image, k=20)[0] for image in features]
    assert found.boxes[:, 0].cpu().tolist() == [list(map(int, box)) for box in expected]
