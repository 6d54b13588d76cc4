"""Ids of ours and of timm: registers, families and twins."""

import pytest

from benchmarks.tables import model_names

TIMM = "timm-vit_large_patch14{}_dinov2.lvd142m"


@pytest.mark.parametrize(
    ("model", "registers", "family"),
    [
        ("deit3-vitb_reg16", 16, "deit3-vitb"),
        ("deit3+lr2e-3-vitb_reg0", 0, "deit3+lr2e-3-vitb"),
        (TIMM.format("_reg4"), 4, TIMM.format("")),
        (TIMM.format(""), 0, TIMM.format("")),
        ("somebodys-weights", 0, "somebodys-weights"),
    ],
)
def test_registers_and_family(model, registers, family):
    assert (model_names.registers(model), model_names.family(model)) == (registers, family)


def test_models_that_differ_in_their_registers_alone_have_the_same_twins():
    for one, other in (("deit3-vitb_reg16", "deit3-vitb_reg4"), (TIMM.format("_reg4"), TIMM.format("_reg16"))):
        assert model_names.twins(one) == model_names.twins(other)
    assert "deit3-vitb_reg0" in model_names.twins("deit3-vitb_reg16")
    assert TIMM.format("") in model_names.twins(TIMM.format("_reg4"))


def test_random_weights_are_untrained():
    assert model_names.is_untrained("random-vitn_reg4")
    assert not model_names.is_untrained("deit3-random-vitn_reg4")


def test_a_test_time_register_is_compared_with_the_same_weights_without_it():
    assert model_names.registers("deit3-vitb_reg0+ttr") == 1
    assert model_names.registers("timm-vit_large_patch14_reg4_dinov2+ttr_per_block") == 5
    assert model_names.registers("deit3-vitb_reg0+bias") == 0
    assert model_names.twins("deit3-vitb_reg4+ttr") == ["deit3-vitb_reg4"]
    assert model_names.family("deit3-vitb_reg0+ttr") == "deit3-vitb+ttr"
    assert model_names.plain_family("deit3-vitb_reg0+ttr") == "deit3-vitb"
    assert [model_names.added(model) for model in ("deit3+a-vitb_reg0", "deit3-vitb_reg0+bias")] == ["", "+bias"]


def test_what_is_added_at_test_time_follows_its_model():
    ordered = [
        "deit3-vitb_reg0",
        "deit3-vitb_reg0+bias",
        "deit3-vitb_reg0+ttr",
        "deit3-vitb_reg0+ttr_per_block",
        "deit3-vitb_reg1",
        "deit3-vitb_reg4",
        "deit3-vitb_reg4+ttr",
        "deit3+a-vitb_reg0",
        "deit3+a-vitb_reg0+ttr",
        TIMM.format(""),
        TIMM.format("") + "+ttr",
        TIMM.format("_reg4"),
    ]
    shuffled = sorted(ordered, key=hash)
    assert sorted(shuffled, key=model_names.order) == ordered
