"""What a name says before anything is loaded."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regvit_lightning.errors import UserError
from regvit_lightning.models import origins

NAMES = {
    "timm/vit_small_patch14_reg4_dinov2.lvd142m": "timm-vit_small_patch14_reg4_dinov2.lvd142m",
    "random-timm/test_vit": "random-timm-test_vit",
    "random-vitb_reg4": "random-vitb_reg4",
    "deit3+lr2e-3-vitb_reg16": "deit3+lr2e-3-vitb_reg16",
    "hf/facebook/dinov2-with-registers-base": "hf-facebook-dinov2-with-registers-base",
    "python:package.models:resnet50": "python-package.models-resnet50",
    "python:path/to/models.py:resnet50": "python-models-resnet50",
    "python:../my models.py:resnet50": "python-my-models-resnet50",
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_ids(name, expected):
    assert origins.record_id(name) == expected
    assert not origins.is_file(name)


@pytest.mark.parametrize("name", ["a.pth", "./a", "folder/model", "hf/model.safetensors", "/a/b/pytorch_model.bin"])
def test_files(name):
    assert origins.is_file(name)


@pytest.mark.parametrize(
    ("stem", "generic"),
    [
        *((name, True) for name in ("model", "pytorch_model", "teacher_checkpoint", "model_best", "last", "0")),
        *((name, True) for name in ("epoch=12-step=400", "checkpoint-1000", "open_clip_pytorch_model", "Model.EMA")),
        *((name, False) for name in ("theirs", "dinov2_vitb14", "model_flowers", "eclipse", "flowers", "vitb16")),
    ],
)
def test_names_that_say_nothing(stem, generic):
    assert origins.is_generic(stem) is generic


def test_a_long_name_is_looked_at_in_no_time():
    assert not origins.is_generic("1" * 10_000 + "x")
    assert not origins.is_generic("iteration" * 1_000 + "x")


def test_what_a_model_was_given_as(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert origins.origin("a/b.pth") == str(tmp_path / "a/b.pth")
    assert origins.origin("python:nets.py:small") == f"{tmp_path / 'nets.py'}:small"
    for name in ("deit3-vitb_reg4", "timm/vit_base", "hf/a/b", "random-vitb_reg0", "python:package.nets:small"):
        assert origins.origin(name) == ""


@given(st.sampled_from(["python:", "hf/", "timm/", ""]), st.text(max_size=40))
def test_an_id_is_a_safe_name_of_a_folder(start, rest):
    text = ""
    with contextlib.suppress(UserError):
        text = origins.record_id(start + rest)
    assert re.fullmatch(r"|[A-Za-z0-9][A-Za-z0-9_.+-]{0,150}", text)


@pytest.mark.parametrize("stem", ["vit\uff14", "caf\u00e9", "a" * 152])
def test_a_name_that_is_no_safe_id_is_refused(stem):
    with pytest.raises(UserError, match="ASCII letters"):
        origins.record_id(stem)
