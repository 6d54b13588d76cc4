"""Attention mass by hand on tiny matrices, and that it is all there."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from regvit_lightning.analysis import attention
from regvit_lightning.models import sources, vit
from regvit_lightning.models.tokens import Attention

# CLS, one register and 1 x 2 patches, one head: rows are queries.
ROWS = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.7, 0.1, 0.1, 0.1], [0.0, 0.5, 0.5, 0.0], [0.2, 0.3, 0.1, 0.4]])
OUTLIER_IS_THE_LAST = torch.tensor([[[False, True]]])


def by_hand():
    full = ROWS[None, None]
    return Attention(
        full[:, :, 0, None, 2:], full[:, :, 1:2, None, 2:], full[:, :, 2:, 2:].reshape(1, 1, 1, 2, 1, 2), full
    )


def of_a_model(name, seed=0, **options):
    backbone = sources.load_backbone(name, "runs", seed=seed, image_size=32)
    generator = torch.Generator().manual_seed(seed)
    for parameter in backbone.model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    return backbone.last_block(images).attention


def test_mass_by_hand():
    mass = attention.mass(by_hand(), OUTLIER_IS_THE_LAST)
    for source, expected in {
        "cls": (0.1, 0.4, 0.3, 0.2),
        "registers": (0.7, 0.1, 0.1, 0.1),
        "patches": (0.1, 0.4, 0.2, 0.3),  # the mean of the last two rows: to CLS, register, outlier, normal
    }.items():
        found = mass[source]
        np.testing.assert_allclose(
            [found.cls[0], found.registers[0, 0], found.outliers[0], found.normal[0]], expected, rtol=1e-6
        )
    np.testing.assert_allclose(attention.outlier_preference(mass["cls"], OUTLIER_IS_THE_LAST), 1.5, rtol=1e-6)


def test_entropy_by_hand():
    expected = -sum(p * math.log(p) for p in (0.1, 0.4, 0.2, 0.3))
    np.testing.assert_allclose(attention.cls_entropy(by_hand()), expected, rtol=1e-6)


def test_maps_by_hand():
    maps = attention.maps(by_hand())
    assert list(maps) == ["CLS", "reg_0", "central patch"]
    for name, expected in {"CLS": (0.2, 0.3), "reg_0": (0.1, 0.1), "central patch": (0.1, 0.4)}.items():
        assert maps[name].shape == (1, 1, 2)
        np.testing.assert_allclose(maps[name].flatten(), expected)


@pytest.mark.parametrize(("name", "sources"), [
    ("random-vitn_reg0", {"cls", "patches"}),
    ("random-vitn_reg4", {"cls", "registers", "patches"}),
    ("random-timm/vit_wee_patch16_reg1_gap_256", {"registers", "patches"}),
])  # fmt: skip
@hypothesis_settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 20))
def test_nothing_is_lost(name, sources, seed):
    found = of_a_model(name, seed)
    outliers = torch.rand(2, *found.patches.shape[2:4], generator=torch.Generator().manual_seed(seed)) < 0.3
    masses = attention.mass(found, outliers)
    assert set(masses) == sources
    for mass in masses.values():
        total = mass.cls + mass.registers.sum(dim=1) + mass.outliers + mass.normal
        torch.testing.assert_close(total, torch.ones(2))


def test_maps_and_mass_of_the_same_model_agree():
    found = of_a_model("random-vitn_reg4")
    nothing = torch.zeros(2, *found.patches.shape[2:4], dtype=torch.bool)
    masses, maps = attention.mass(found, nothing), attention.maps(found)
    assert list(maps) == ["CLS", "reg_0", "reg_1", "reg_2", "reg_3", "central patch"]
    torch.testing.assert_close(masses["cls"].normal, maps["CLS"].sum(dim=(1, 2)))
    registers = torch.stack([maps[f"reg_{index}"] for index in range(4)])
    torch.testing.assert_close(masses["registers"].normal, registers.sum(dim=(2, 3)).mean(dim=0))
    assert attention.outlier_preference(masses["cls"], nothing).isnan().all()


def test_a_model_without_cls_has_no_entropy_of_cls():
    assert attention.cls_entropy(of_a_model("random-timm/vit_wee_patch16_reg1_gap_256")) is None


def test_uniform_attention():
    backbone = sources.load_backbone("random-vitn_reg4", "runs", image_size=32)
    vit.fuse_attention(backbone.model, fused=True)
    torch.nn.init.zeros_(backbone.model.blocks[-1].attn.qkv.weight)
    found = backbone.last_block(torch.randn(1, 3, 32, 32)).attention
    np.testing.assert_allclose(attention.cls_entropy(found), math.log(1 + 4 + 16), rtol=1e-5)
    outliers = torch.zeros(1, 4, 4, dtype=torch.bool)
    outliers[0, 1, 2] = True
    mass = attention.mass(found, outliers)["patches"]
    np.testing.assert_allclose([mass.outliers[0], mass.normal[0], mass.cls[0]], [1 / 21, 15 / 21, 1 / 21], rtol=1e-5)
    np.testing.assert_allclose(attention.outlier_preference(mass, outliers), 1, rtol=1e-5)
