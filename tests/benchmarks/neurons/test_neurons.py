"""The program on a model whose one register neuron is known, on the same model without it, and on mistakes."""

import re
import sys

import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F

from benchmarks.neurons import __main__ as program
from regvit_lightning import load_backbone
from regvit_lightning.errors import UserError
from regvit_lightning.models import register_neurons, weights
from regvit_lightning.models.metadata import Metadata
from tests.analysis.planted import planted

METADATA = Metadata("vitn_reg0", "deit3", 64, (0.5,) * 3, (0.25,) * 3, None, 0)


@pytest.fixture(scope="module")
def truth():
    return planted(block=3, registers=0)


@pytest.fixture(scope="module")
def folder(truth, tmp_path_factory):
    """The planted images as class folders, and files of the model with its neuron and without.

    A border makes them as large as the view's short side, so that its crop is the image to the bit.
    """
    root = tmp_path_factory.mktemp("neurons")
    for index, image in enumerate(truth.images):
        for split in ("train", "val"):
            file = root / "images" / split / "ab"[index // 8] / f"{index:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(F.pad(image, (4, 5, 4, 5)).permute(1, 2, 0).numpy()).save(file)
    for name, backbone in (("ill", truth.backbone), ("sound", truth.clean)):
        weights.save(root / f"{name}.safetensors", backbone.model, METADATA)
    return root


def options(folder, model="ill.safetensors", **given):
    """Settings of a run."""
    fixed = {"data": str(folder / "images"), "runs": str(folder / "runs"), "workers": 0, "accelerator": "cpu"}
    return program.FindNeurons(**{"model": str(folder / model), **fixed, **given})


def kept(folder, model="ill.safetensors"):
    return register_neurons.path(str(folder / model), folder / "runs" / "images", 0)


@pytest.fixture(scope="module")
def made(folder):
    """What the program prints and keeps."""
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        patch.setattr(program.terminal, "show", lines.append)
        program.main(options(folder, top_k=1), [])
    return "\n".join(lines), yaml.safe_load(kept(folder).read_text())


def test_the_planted_neuron_is_found_and_kept_with_its_provenance(made, truth, folder):
    text, content = made
    assert content["neurons"] == {truth.block - 1: [0]}
    assert content["model"] == "deit3-vitn_reg0-ill"
    assert content["weights"] == load_backbone(folder / "ill.safetensors").weights_fingerprint
    search = content["search"]
    assert (search["data"], search["images"], search["images_with_outliers"]) == ("images", 16, 16)
    assert search["view"] == "resize 73, centre crop 64, bicubic"
    assert (search["settings"]["score"], search["settings"]["top_k"], search["top_block"]) == ("contrast", 1, 2)
    assert len(search["max_over_median_by_block"]) == 4
    assert search["digests"]
    at, elsewhere = search["scores"]["2.0"]
    assert at > 5
    assert abs(elsewhere) < 0.5
    assert set(search["made"]) == {"commit", "dirty", "date", "device", "seconds"}
    assert "16 train images of images at 64 px" in text
    assert "block  2: 0" in text
    assert f"1 kept in {kept(folder)}" in text
    assert f"make eval MODEL={folder / 'ill.safetensors'}+ttr DATA={folder / 'images'}" in text


def test_the_table_shows_what_every_intervention_does(made):
    text, content = made
    effects = content["search"]["effects"]
    name = content["model"]
    endings = ["", "+ttr", "+bias", "+ttr_per_block", "+bias_per_block"]
    assert list(effects) == [f"{name}{ending}" for ending in endings]
    plain, *others = effects.values()
    assert plain["max_over_median"] > 10
    assert plain["outliers"] > 1
    for one in others:
        assert one["outliers"] == 0
        assert one["max_over_median"] < 3
    assert [one["register"] is not None for one in effects.values()] == [False, True, False, True, False]
    assert effects[f"{name}+ttr"]["register"] > 100
    for name, one in effects.items():
        assert re.search(rf"\| {re.escape(name)} +\| +{one['max_over_median']:.3g} \|", text)


def test_what_it_kept_makes_models_of_all_four_names(made, folder):
    model = str(folder / "ill.safetensors")
    images = torch.randn(1, 3, 64, 64)
    plain = load_backbone(model)(images)
    for ending in ("ttr", "ttr_per_block", "bias", "bias_per_block"):
        backbone = load_backbone(f"{model}+{ending}", folder / "runs" / "images")
        assert backbone.name == f"deit3-vitn_reg0-ill+{ending}"
        tokens = backbone(images)
        assert tokens.registers.shape[1] == int(ending.startswith("ttr"))
        assert not torch.allclose(tokens.patches, plain.patches, atol=1e-3)


def test_a_known_list_is_measured_and_keeps_its_source(folder, tmp_path, capsys):
    """Neurons that do nothing leave all outliers, which is said."""
    theirs, runs = tmp_path / "theirs.yaml", tmp_path / "runs"
    theirs.write_text("neurons: {2: [7, 5], 0: [3]}\nsource: a paper\n")
    program.main(options(folder, runs=str(runs), known=str(theirs)), [])
    content = yaml.safe_load(register_neurons.path(str(folder / "ill.safetensors"), runs / "images", 0).read_text())
    assert {block: sorted(chosen) for block, chosen in content["neurons"].items()} == {0: [3], 2: [5, 7]}
    assert content["source"] == "a paper"
    assert set(content["search"]["scores"]) == {"0.3", "2.5", "2.7"}
    assert "more than half of the outliers are left" in capsys.readouterr().out
    assert load_backbone(f"{folder / 'ill.safetensors'}+bias", runs / "images").neurons.source == "a paper"


def test_a_model_without_artifacts_is_refused_and_nothing_is_kept(folder):
    with pytest.raises(UserError, match=r"deit3-vitn_reg0-sound: nothing to repair: the largest norm .* exceed 3 ×"):
        program.main(options(folder, "sound.safetensors"), [])
    assert not kept(folder, "sound.safetensors").exists()
    with pytest.raises(UserError, match=r"no register neurons of .*sound.safetensors are known"):
        load_backbone(f"{folder / 'sound.safetensors'}+ttr", folder / "runs" / "images")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"score": "largest"}, "score=largest: expected activation or contrast"),
        ({"model": "ill.safetensors+ttr"}, r"neurons are those of the model itself: give model=\S+ill.safetensors$"),
        ({"model": "nowhere.safetensors"}, r"nowhere\.safetensors"),
        ({"data": "nowhere"}, "nowhere"),
        ({"known": "nowhere.yaml"}, r"nowhere\.yaml"),
        ({"known": "dinov2_vitl14"}, "no block 12: it has 4, numbered from 0"),
        ({"detect": 4}, "detect=4: it has 4 blocks, numbered 0 to 3"),
        ({"threshold": 1e8}, r"no norm above threshold=1e\+08"),
        ({"first_block": 3}, "first_block=3: the last block of the search is 2"),
        ({"top_block": 9}, "top_block=9: it has 4 blocks"),
        ({"size": 60}, "60 x 60 px are not a multiple of the patch size 8"),
        ({"size": 60000}, r"size=60000"),
        ({"images": 0}, r"images=0: .*\[1, 1e6\]"),
        ({"top_k": 0}, r"top_k=0: "),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_a_mistake_is_one_line_and_loses_nothing(folder, made, given, problem, monkeypatch, capfd):
    before = kept(folder).read_bytes()
    words = {"model": "ill.safetensors", "data": "images", "runs": "runs", "workers": "0", "accelerator": "cpu"}
    words |= {key: str(value) for key, value in given.items()}
    monkeypatch.chdir(folder)
    words["model"] = f"./{words['model']}"
    words["data"] = f"./{words['data']}"
    monkeypatch.setattr(sys, "argv", ["neurons", *(f"{key}={value}" for key, value in words.items())])
    with pytest.raises(SystemExit) as stopped:
        program.cli()
    assert stopped.value.code == 2
    *before_it, line = capfd.readouterr().err.splitlines()
    assert re.search(rf"^neurons: .*{problem}", line.strip())
    assert all("img/s" in progress for progress in before_it)
    assert kept(folder).read_bytes() == before
