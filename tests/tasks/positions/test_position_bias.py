"""Position bias, whole runs: models that hold place or content alone, the control, and the sentence about outliers."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from regvit_lightning import settings
from regvit_lightning.analysis.positions import placement
from regvit_lightning.data.imagenet import test_files as files_of
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.errors import UserError
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import positions, sources
from regvit_lightning.models.foreign import ForeignBackbone
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks.positions import position_bias
from regvit_lightning.tasks.positions.position_bias import Measured, fixed_in_words
from tests.tasks.test_correspondence import Pixels

SIDE, PATCH, IMAGES = 32, 4, 20
WORDS = [
    *("workers=0", "precision=32-true", f"resize={SIDE}", f"crop={SIDE}", f"images={IMAGES}", "train_images=12"),
    *("detailed=5", "shifts=[1,3]"),
]


class Places(nn.Module):
    """Patches are their places of the grid and nothing else."""

    image_size, mean, std, any_size = SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), True

    def forward(self, images):
        side = images.shape[-1] // PATCH
        patches = torch.eye(side * side, device=images.device).view(1, side, side, -1).expand(len(images), -1, -1, -1)
        return {"patches": patches}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise: 20 test and 16 train images, wide enough for every shift."""
    root = tmp_path_factory.mktemp("positions")
    for split, count in (("train", 16), ("val", IMAGES)):
        for number in range(count):
            folder = root / "imagenet" / split / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([number, count]).integers(0, 256, (SIDE, SIDE + 3 * PATCH, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return DataSettings(name="noise", root=str(root))


def chosen(*words):
    given = {word.partition("=")[0] for word in words}
    kept = [word for word in WORDS if word.partition("=")[0] not in given]
    return settings.load_settings("tasks", "position_bias", "mini", [*kept, *words])[1]


def run(backbone, data, *words):
    return position_bias.run(backbone, data, chosen(*words), RunOptions(seed=2))


def test_places_alone(data):
    outcome = run(ForeignBackbone(Places(), "places"), data)
    assert outcome.metrics["position_variance"] == pytest.approx(100)
    assert outcome.intervals["position_variance"] == pytest.approx((100, 100))
    assert outcome.metrics["position_r2"] == pytest.approx(1, abs=1e-4)
    assert outcome.metrics["position_matches"] == 100
    assert outcome.metrics["content_matches"] == 0


def test_content_alone(data):
    # The images are not resized, so that shifted crops hold the same pixels.
    outcome = run(ForeignBackbone(Pixels(), "pixels"), data)
    assert outcome.metrics["content_matches"] == 100
    assert outcome.metrics["position_matches"] == 0
    assert outcome.metrics["position_variance"] == pytest.approx(
        outcome.floors["no position"]["position_variance"], 0.2
    )
    assert outcome.metrics["position_r2"] < 0.1
    assert outcome.protocol["control"] == "none: it has no position embedding of its own"
    assert outcome.remarks == ["There are no outliers, so that none have fixed places."]
    assert outcome.images == IMAGES
    assert outcome.picture is not None


def test_images_of_one_class_are_said(tmp_path):
    for split, count in (("train", 12), ("val", IMAGES)):
        folder = tmp_path / "imagenet" / split / "all"
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng([number, count]).integers(0, 256, (SIDE, SIDE + 3 * PATCH, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    outcome = run(ForeignBackbone(Pixels(), "pixels"), DataSettings(name="noise", root=str(tmp_path)))
    assert outcome.remarks[0] == "There are no outliers, so that none have fixed places."
    assert outcome.remarks[1].startswith("All test images are of one class folder, all: the layout that they share")


def test_the_share_and_its_interval_are_those_of_numpy(data):
    outcome = run(ForeignBackbone(Pixels(), "pixels"), data, "device_batch=7")
    files = files_of(data)
    images = np.stack([np.asarray(files.open(index), np.float64) / 255 for index in range(IMAGES)])
    images = images[:, :, 6:-6]  # the centre crop
    cells = images.reshape(IMAGES, 8, 4, 8, 4, 3).transpose(0, 1, 3, 5, 2, 4).reshape(IMAGES, 64, 48)

    def share(own):
        return 100 * own.mean(axis=0).var(axis=0).sum() / own.var(axis=(0, 1)).sum()

    assert outcome.metrics["position_variance"] == pytest.approx(share(cells), rel=1e-5)
    left = np.array([share(cells[np.arange(IMAGES) % 10 != group]) for group in range(10)])
    error = 2.262 * np.sqrt(0.9 * ((left - left.mean()) ** 2).sum())
    low, high = outcome.intervals["position_variance"]
    assert (high - low) / 2 == pytest.approx(error, rel=1e-3)


# ---------------------------------------------------------------------------------------------------- the control


def planted(fixed, size=64):
    """An untrained ViT in which the embedding of one position is very large."""
    backbone = sources.load_backbone("random-vitn_reg4", "runs", image_size=size)
    with torch.no_grad():
        backbone.model.pos_embed[:, fixed] = 300.0 * torch.sign(torch.randn(96, generator=torch.manual_seed(0)))
    return backbone


def test_an_embedding_that_makes_outliers_at_one_place_is_found_out(tiny):
    outcome = run(planted(10), tiny, "resize=73", "crop=64", "device_batch=8")
    assert outcome.metrics["outlier_share"] == pytest.approx(100 / 64)
    assert outcome.metrics["outlier_share_zeroed"] == 0
    (told,) = outcome.remarks
    assert told.startswith("Outliers prefer some places: 1.6 % of the patches")
    assert told.endswith("With the position embedding at 0 there are none left.")
    facts = outcome.protocol["measured"]
    assert facts["outliers_gini"]["gini"] == pytest.approx(63 / 64)
    assert facts["sinks"] is not None
    assert len(facts["share_by_stage"]) == 5  # four blocks and the final norm
    assert list(facts["r2_by_stage"]) == ["1", "2", "3", "4", "5"]
    assert outcome.protocol["measured_zeroed"]["outliers"] == 0
    assert outcome.metrics["position_variance_zeroed"] < outcome.metrics["position_variance"]


def test_zeroed_is_a_model_made_with_zeros_and_leaves_no_trace():
    backbone, images = planted(3), torch.rand(2, 3, 64, 64)
    before, kept = backbone(images).patches, backbone.model.pos_embed.detach().clone()
    other = planted(3)
    other.model.pos_embed.data.zero_()
    with positions.zeroed(backbone.model):
        inside = backbone(images).patches
    torch.testing.assert_close(inside, other(images).patches)
    assert not torch.allclose(inside, before)
    assert torch.equal(backbone.model.pos_embed, kept)
    torch.testing.assert_close(backbone(images).patches, before)


def test_the_embedding_of_cls_stays():
    import timm

    model = timm.create_model("test_vit", num_classes=0)
    first = model.pos_embed.detach()[:, 0].clone()
    with positions.zeroed(model):
        assert torch.equal(model.pos_embed[:, 0], first)
        assert not model.pos_embed[:, 1:].any()
    with pytest.raises(ZeroDivisionError), positions.zeroed(model):
        raise ZeroDivisionError
    assert model.pos_embed[:, 1:].any()  # restored after an error, too


def test_a_model_without_an_embedding_is_refused():
    told = "no position embedding to set to 0: it has no position embedding of its own"
    with pytest.raises(UserError, match=told), positions.zeroed(nn.Linear(2, 2)):
        pass
    rotary = nn.Module()
    rotary.rope = nn.Identity()
    assert positions.why_not_zeroed(rotary) == "its positions are rotary"
    for other in (nn.Linear(2, 2), nn.Parameter(torch.ones(5, 4))):  # by another module; of another shape
        strange = nn.Module()
        strange.pos_embed = other
        with pytest.raises(UserError, match="no tensor of one row for each token"), positions.zeroed(strange):
            pass


def measured(mask):
    whole = torch.zeros(2), [0.0], {}, {}
    return Measured(*whole, mask=mask, placement=placement(mask), sinks=torch.zeros(0))


def test_the_sentence_about_fixed_places():
    generator = torch.Generator().manual_seed(1)
    anywhere = torch.rand(60, 5, 5, generator=generator) < 0.1
    fixed = torch.zeros(60, 5, 5, dtype=torch.bool)
    fixed[:, 2, 2] = True
    none = torch.zeros(60, 5, 5, dtype=torch.bool)
    told = {
        (anywhere, None): "Outliers have no fixed places",
        (fixed, None): "Without a position embedding of its own there is no control.",
        (fixed, none): "With the position embedding at 0 there are none left.",
        (fixed, anywhere): "it is what fixes them.",
        (fixed, fixed): "it is not what fixes them.",
        (none, fixed): "There are no outliers, so that none have fixed places.",
    }
    for (intact, without), expected in told.items():
        assert expected in fixed_in_words(measured(intact), None if without is None else measured(without))
    assert "4 % of the patches are outliers" in fixed_in_words(measured(fixed), None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["shifts=[2,1]"], r"shifts=\[2, 1\]: expected different numbers that rise"),
        (["shifts=[]"], "expected different numbers that rise"),
        (["shifts=[8]"], "crops of 8 patches have no patch in common with the last"),
        (["rule=big"], "rule=big: expected one of cutoff"),
    ],
)
def test_settings_that_do_not_fit(data, words, told):
    with pytest.raises(SettingsError, match=told):
        run(ForeignBackbone(Pixels(), "pixels"), data, *words)


def test_the_split_leaves_no_image_out_whatever_the_classes(data):
    files = files_of(data)
    train, held_out = position_bias._split(files, 0.2, 0)
    assert (len(train), len(held_out)) == (16, 4)
    assert sorted([*train.paths, *held_out.paths]) == sorted(files.paths)


def test_work_is_that_of_both_models():
    (one,) = position_bias.work(chosen(), {"imagenet": [100, 100]}).passes
    assert one.images == 2 * (12 + 20 + 5 * (2 + 2))
