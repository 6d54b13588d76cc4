"""What a name says before anything is loaded."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.sampled_from(["python:", "hf/", "timm/", ""]), st.text(max_size=40))
def test_an_id_is_a_safe_name_of_a_folder(start, rest):
    made = origins.record_id(start + rest)
    assert re.fullmatch(r"[\w.+-]*", made)
    assert "/" not in made
    assert made not in (".", "..")
