"""What tensors cannot say: heads, mean, std, one of several models; from the file, from beside it, or from words."""

import argparse
import json
import pathlib
import warnings

import numpy as np
import pytest
import timm
import torch
from torch import nn

from regvit_lightning.errors import Notice, UserError
from regvit_lightning.models.sources import load_backbone
from tests.models.test_weights import randomised

IMAGENET = (0.485, 0.456, 0.406)


def vit(heads: int = 12, width: int = 384) -> nn.Module:
    shape = {"embed_dim": width, "depth": 2, "num_heads": heads, "img_size": 32, "num_classes": 0}
    return randomised(timm.create_model("vit_small_patch16_224", **shape))


@torch.no_grad()
def agrees(backbone, model: nn.Module) -> bool:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return torch.allclose(backbone(images).cls, model.forward_features(images)[:, 0], atol=1e-4)


def test_heads_are_guessed_with_a_line_that_names_the_remedy(tmp_path):
    path, model = tmp_path / "moco.pth", vit()
    torch.save(model.state_dict(), path)
    with pytest.warns(Notice, match=rf"6 heads .* give the model as {path}:heads=<number>"):
        guessed = load_backbone(path)
    assert not agrees(guessed, model)
    assert guessed.facts()["heads"] == 6
    assert "guess" in guessed.facts()["read_from"]["heads"]
    told = load_backbone(f"{path}:heads=12:mean=0.5:std=0.5")
    assert agrees(told, model)
    assert told.facts()["heads"] == 12
    assert told.mean == told.std == (0.5, 0.5, 0.5)
    assert told.fingerprint != guessed.fingerprint
    assert told.name != guessed.name


def test_moco_v3_says_its_heads_by_its_own_checkpoint(tmp_path):
    model = vit()
    state = {f"module.base_encoder.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"arch": "vit_small", "epoch": 3, "state_dict": state}, tmp_path / "moco.pth")
    with pytest.warns(Notice):
        backbone = load_backbone(tmp_path / "moco.pth")
    assert agrees(backbone, model)


@pytest.mark.parametrize("where", ["arch", "args", "config"])
def test_an_architecture_of_timm_says_the_heads(tmp_path, where):
    model = vit(heads=3, width=192)
    content = {"state_dict": model.state_dict()}
    if where == "config":
        told = {"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": 12}}
        (tmp_path / "config.json").write_text(json.dumps(told))
        model = vit(heads=12, width=192)
        content = {"state_dict": model.state_dict()}
    elif where == "arch":
        content["arch"] = "vit_tiny_patch16_224"
    else:
        content["args"] = argparse.Namespace(model="deit_tiny_patch16_224")
    torch.save(content, tmp_path / "theirs.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        backbone = load_backbone(tmp_path / "theirs.pth")
    assert agrees(backbone, model)
    assert "guess" not in backbone.facts()["read_from"]["heads"]


def test_a_configuration_of_another_width_is_refused(tmp_path):
    torch.save(vit().state_dict(), tmp_path / "x.pth")
    (tmp_path / "config.json").write_text('{"architecture": "vit_base_patch16_224"}')
    with pytest.raises(UserError, match="says vit_base_patch16_224, which is no ViT of width 384"):
        load_backbone(tmp_path / "x.pth")


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_the_mean_is_that_of_the_file_beside_the_weights(tmp_path, file):
    torch.save(vit(6).state_dict(), tmp_path / "x.pth")
    with pytest.warns(Notice, match=r"mean \[0\.485.*:mean=<values>:std=<values>"):
        without = load_backbone(tmp_path / "x.pth")
    assert without.mean == IMAGENET
    values = {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9}}
    values["architecture"] = "vit_small_patch16_224"
    other = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 32, "crop_size": 32}
    (tmp_path / file).write_text(json.dumps(values if file == "config.json" else other))
    backbone = load_backbone(tmp_path / "x.pth")
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    assert backbone.facts()["read_from"]["mean_and_std"] == file
    assert backbone.fingerprint != without.fingerprint


@pytest.mark.parametrize(
    ("plain", "average"), [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("student", "teacher")]
)
def test_of_two_models_in_one_file_the_average_is_read_with_a_line(tmp_path, plain, average):
    first, second = vit(6), vit(6)
    for parameter in second.parameters():
        parameter.data *= 1.1
    torch.save({plain: first.state_dict(), average: second.state_dict(), "epoch": 1}, tmp_path / "x.pth")
    with pytest.warns(Notice, match=f"holds {plain}, {average}; {average} is read; to choose: .*:part="):
        backbone = load_backbone(tmp_path / "x.pth")
    assert agrees(backbone, second)
    assert backbone.facts()["read_from"]["part"] == average
    chosen = load_backbone(f"{tmp_path / 'x.pth'}:part={plain}")
    assert agrees(chosen, first)
    assert chosen.facts()["read_from"]["part"] == plain
    with pytest.raises(UserError, match="holds several models"):
        load_backbone(f"{tmp_path / 'x.pth'}:part=other")


def test_a_part_is_chosen_by_its_prefix(tmp_path):
    first, second = vit(6), vit(6)
    for parameter in second.parameters():
        parameter.data *= 1.1
    state = {f"student.backbone.{name}": tensor for name, tensor in first.state_dict().items()}
    state |= {f"teacher.backbone.{name}": tensor for name, tensor in second.state_dict().items()}
    torch.save(state, tmp_path / "x.pth")
    assert agrees(load_backbone(f"{tmp_path / 'x.pth'}:part=student"), first)
    assert agrees(load_backbone(tmp_path / "x.pth"), second)


@pytest.mark.parametrize(
    "words",
    ["colour=1", "heads=0", "heads=5", "heads=x", "mean=nan", "std=0", "mean=1,2", "positions=x", "heads=6:heads=6"],
)
def test_words_out_of_range_are_one_line(tmp_path, words):
    torch.save(vit(6).state_dict(), tmp_path / "x.pth")
    with pytest.raises(UserError) as error:
        load_backbone(f"{tmp_path / 'x.pth'}:{words}")
    assert "\n" not in str(error.value)


def test_harmless_objects_of_a_training_program_are_read(tmp_path):
    model = vit(6)
    options = argparse.Namespace(
        output=pathlib.Path("runs/a"), lr=np.float64(0.5), best=np.float32(1.5), seed=np.int64(3)
    )
    torch.save({"model": model.state_dict(), "args": options, "loss": np.float64(0.25)}, tmp_path / "x.pth")
    assert agrees(load_backbone(tmp_path / "x.pth"), model)


class Unsafe:
    def __reduce__(self):
        return eval, ("1",)


class Blocked:
    def __reduce__(self):
        import os

        return os.system, ("true",)


@pytest.mark.parametrize("content", [Unsafe(), Blocked(), print, np.array([{}], dtype=object)])
def test_an_unsafe_pickle_is_called_unsafe_and_says_how_to_convert_it(tmp_path, content):
    torch.save({"state_dict": vit(6).state_dict(), "x": content}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"refused: an unsafe pickle .* torch.save") as error:
        load_backbone(tmp_path / "x.pth")
    assert "truncated" not in str(error.value)
    assert "\n" not in str(error.value)
