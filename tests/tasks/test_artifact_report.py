"""The artifact report on a planted neuron: found where it is, and not found in the same model without it."""

import copy
import json
import re

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from regvit_lightning import settings
from regvit_lightning.data import layout
from regvit_lightning.models import sources
from regvit_lightning.models.interventions import WithRegister
from regvit_lightning.models.register_neurons import RegisterNeurons
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks import artifact_report
from tests.analysis.planted import planted
from tests.data.test_voc import write_voc


def report(backbone, data, *words):
    quick = "{train_images: 32, local_images: 16, tokens: {draws: 2, exponents: [0], iterations: 20}}"
    words = ["workers=0", "precision=32-true", "images=32", "detailed=4", "shown=2", f"probes={quick}", *words]
    chosen = settings.load_settings("tasks", "artifact_report", "mini", words)[1]
    return artifact_report.run(backbone, data, chosen)


@pytest.fixture(scope="module")
def truth():
    return planted(images=32)


@pytest.fixture(scope="module")
def photographs(truth, tmp_path_factory):
    """The images of the planted model as class folders, the same for train and test; in the order of the report."""
    root = tmp_path_factory.mktemp("planted")
    for place, image in enumerate(truth.images):
        for split in ("train", "val"):
            folder = root / split / "ab"[place // 16]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{place:02d}.png")
    return layout.resolve(str(root))


@pytest.fixture(scope="module")
def found(truth, photographs):
    """The report of the planted model."""
    return report(truth.backbone, photographs, "resize=64")


def test_the_report_finds_the_planted_neuron(truth, found):
    facts = found.protocol
    assert found.metrics["outlier_share"] == pytest.approx(100 * 2 / 64)
    assert found.scores["outlier_share"].mean().item() == pytest.approx(100 * 2 / 64)
    assert facts["verdict"].startswith("planted has high-norm artifacts after blocks 3–4 of 4: ")
    assert "3.12% of patches, in 32 of 32 images" in facts["verdict"]
    assert found.remarks[0] == facts["verdict"]
    # Registers start from N(0, 1e-6), and the planted model is not trained.
    assert found.remarks[1].startswith("its 4 registers are copies of one: the mean cosine of two is 1.000")
    assert facts["artifact_blocks"] == [[3, 4]]
    assert [one["images"] for one in facts["high_norms_by_block"]] == [0, 0, 32, 32]
    assert {name: facts["findings"][name]["first"] for name in ("sigmas", "mads", "factor")} == dict.fromkeys(
        ("sigmas", "mads", "factor"), 3
    )
    ring = torch.tensor([[min(r, c, 7 - r, 7 - c) for c in range(8)] for r in range(8)])
    shares = [truth.flat[:, ring == distance].double().mean().item() for distance in range(4)]
    assert facts["placement"]["rings"] == pytest.approx(shares, rel=1e-5)
    assert facts["position"]["outlier"]["patches"] == int(truth.flat[::2].sum())
    # The tenth train image chooses the penalty: without it there would be no probe of pixels.
    assert facts["pixels"]["normal"]["patches"] == 16 * 64 - int(truth.flat[::2].sum())
    assert facts["single_tokens"]["outlier"]["test_images"] == 32
    # The attention of CLS in the four detailed images, (4, heads, 1 + 4 + 64), computed beside the report.
    rows = truth.backbone.last_block(truth.normalised()).attention.full[::8, :, 0]
    received = rows.mean(dim=1)[:, 5:].view(-1, 8, 8)
    ratios = [row[flat].mean() / row[~flat].mean() for row, flat in zip(received, truth.flat[::8], strict=True)]
    expected = torch.stack(ratios).mean().item()
    assert [one["answer"] for one in facts["questions"]] == ["high", "none", "yes"]
    assert facts["verdict"] == " ".join(one["words"] for one in facts["questions"])
    assert (facts["sinks"]["images"], facts["sinks"]["heads"]) == (4, 3)
    assert found.metrics["nop_sinks"] == found.metrics["broadcast_sinks"] == 0
    assert found.metrics["patch_variance"] + found.metrics["image_variance"] + found.metrics[
        "position_variance"
    ] == pytest.approx(100)
    assert len(facts["locality_by_block"]["mean_cosine"]) == 5
    assert len(facts["singular_defects"]["shares"]) == 4
    assert found.metrics["attention_cls_outlier_preference"] == pytest.approx(expected, rel=1e-4)


def test_with_a_test_time_register_the_verdict_is_that_there_are_none(truth, photographs):
    """The same weights and images as above: the register has the norm, no patch has it."""
    register = WithRegister(copy.deepcopy(truth.backbone), RegisterNeurons({truth.block - 1: (0,)}))
    made = report(register, photographs, "resize=64")
    assert made.protocol["verdict"].startswith("planted+ttr has no high-norm artifacts after any of its 4 blocks: ")
    assert made.metrics["outlier_share"] == 0
    norms = made.protocol["norms_by_block"]
    added = f"reg_{register.num_registers - 1}"
    assert min(norms[added][truth.block - 1]) > 10 * max(norms["patches"][truth.block - 1])


def test_the_report_has_the_diversity_of_the_registers(truth, found):
    raw = truth.backbone(truth.normalised(), [-1], norm=False)[0].registers.double()
    unit = raw / raw.norm(dim=2, keepdim=True)
    pairs = [(a, b) for a in range(4) for b in range(a)]
    cosine = torch.stack([(unit[:, a] * unit[:, b]).sum(dim=1) for a, b in pairs]).mean().item()
    assert found.metrics["register_cosine_raw"] == pytest.approx(cosine, abs=1e-5)
    assert found.protocol["register_cosines_raw"][0][1] == pytest.approx((unit[:, 0] * unit[:, 1]).sum(1).mean().item())
    of_registers = {name for name in found.metrics if name.startswith("register_")}
    identity = {"register_identity", "register_identity_raw"}
    assert of_registers - found.intervals.keys() == identity
    for name in of_registers - identity:
        low, high = found.intervals[name]
        assert low <= found.metrics[name] <= high
    assert 1 <= found.metrics["register_effective_rank"] <= 4
    assert 10 * 0.9 <= found.metrics["register_coverage"] <= 40


@pytest.mark.parametrize("registers", [0, 1])
def test_fewer_than_two_registers_have_no_diversity(photographs, registers):
    found = report(planted(registers=registers).clean, photographs, "resize=64")
    names = [*found.metrics, *found.intervals, *found.protocol]
    known = {"register_replacement"}
    assert [name for name in names if name.startswith("register_") and name not in known] == []


def test_the_same_model_without_the_neuron_has_none(truth, photographs):
    found = report(truth.clean, photographs, "resize=64")
    assert found.metrics["outlier_share"] == 0
    # None of 32 × 64 patches: the largest share with a chance of 2.5 % of none.
    assert found.intervals["outlier_share"] == (0, pytest.approx(100 * (1 - 0.025 ** (1 / 2048))))
    assert found.protocol["artifact_blocks"] == []
    assert "no high-norm artifacts" in found.protocol["verdict"]
    assert found.protocol["single_tokens"]["outlier"] is None
    assert found.protocol["position"]["outlier"] is None


def test_facts_and_page(truth, found):
    json.dumps(found.protocol, allow_nan=False)
    assert list(found.protocol["register_replacement"]) == ["intact", "zero", "mean", "noise", "shuffle"]
    assert found.protocol["register_replacement"]["intact"]["patch_change"] == pytest.approx(1)
    assert list(found.protocol["single_tokens"]) == ["CLS", "normal", "outlier", *(f"reg_{i}" for i in range(4))]
    norms = found.protocol["norms_by_block"]
    assert list(norms) == ["levels", "patches", "CLS", *(f"reg_{i}" for i in range(4))]
    assert len(norms["patches"]) == truth.backbone.depth + 1
    assert all(row == sorted(row) for row in norms["patches"])
    titles = {re.split(r" \(|, ", axes.get_title("left"))[0] for axes in found.picture.axes}
    assert {"class from one token", "registers replaced", "cost of registers", "norms of patches"} <= titles
    assert {"attention sinks", "variance of a patch", "cosine of patches"} <= titles
    FigureCanvasAgg(found.picture).draw()


def test_the_norm_of_the_mean_register_after_every_block(truth, found):
    images = truth.normalised()
    with torch.inference_mode():
        blocks = truth.backbone(images, range(truth.backbone.depth), norm=False)
    for norms, tokens in zip(found.protocol["norm_of_mean_register_by_block"], blocks, strict=True):
        assert norms == pytest.approx(tokens.registers.mean(dim=0).norm(dim=-1).tolist(), rel=1e-3)


def test_the_registers_of_a_file_replace_those_of_every_image(truth, photographs, tmp_path):
    file = tmp_path / "means.pt"
    torch.save({block: torch.zeros(4, 96) for block in range(4)}, file)
    found = report(truth.backbone, photographs, "resize=64", f"register_means={file}").protocol
    effects = found["register_replacement"]
    assert effects["mean"] == effects["zero"] != effects["noise"]
    assert found["register_means"].startswith("means.pt, SHA-256 ")


def test_a_model_without_registers_and_without_cls(photographs):
    for name in ("random-vitn_reg0", "random-timm/vit_tiny_patch16_224"):
        backbone = sources.load_backbone(name, "runs", image_size=64)
        found = report(backbone, photographs, "resize=64")
        assert found.protocol["register_replacement"] == {}
        assert found.protocol["cost"][0]["registers"] == 0


def test_images_with_boxes_have_no_classes(truth, tmp_path):
    names = [f"{place:02d}" for place in range(9)]
    folder = write_voc(tmp_path / "VOCdevkit" / "VOC2007", {name: ((64, 64), [(1, 1, 9, 9)]) for name in names})
    for name, image in zip(names, truth.images, strict=False):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.save(folder / "JPEGImages" / f"{name}.jpg", quality=100, subsampling=0)
    data = layout.DataSettings(name="boxed", root=str(tmp_path))
    found = report(truth.backbone, data, "source=voc07", "resize=64")
    assert (found.images, found.protocol["train_images"]) == (4, 5)
    assert found.metrics["outlier_share"] == pytest.approx(100 * 2 / 64)
    assert set(found.protocol["single_tokens"].values()) == {None}
    assert found.protocol["position"]["normal"]["patches"] == 4 * 62
    with pytest.raises(SettingsError, match=r"register_means=means\.pt: .* no classes; leave it out"):
        report(truth.backbone, data, "source=voc07", "resize=64", "register_means=means.pt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["images=32", "detailed=64"], "expected them to rise"),
        (["rule=most"], "rule=most: expected one of cutoff, sigmas"),
        (["source=voc99"], "source=voc99: expected one of imagenet, voc07"),
        (["probes={train_images: 1}"], r"probes=\{train_images: 1\}: train_images: must lie in \[2, 1e9\]"),
    ],
)
def test_settings_out_of_range(words, message):
    with pytest.raises(settings.SettingsError, match=message):
        settings.load_settings("tasks", "artifact_report", "mini", words)
