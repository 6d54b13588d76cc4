"""Names and ids: one grammar, read the same way everywhere."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regvit_lightning import settings
from regvit_lightning.models import names
from regvit_lightning.models.names import ModelId, model_id, parse_id
from regvit_lightning.settings import SettingsError

SAFE = re.compile(r"[A-Za-z0-9][\w.+-]{0,150}", re.ASCII)  # what a record's model may be called

recipes = st.sampled_from(["deit3", "deit3_in1k", "my-recipe", "dinov2_8gpu"])
tags = st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII), fullmatch=True)
sizes = st.from_regex(re.compile("[a-z]{1,4}", re.ASCII), fullmatch=True)
patches = st.sampled_from(["", "8", "14", "16", "_d8", "14_d12", "_w128", "8_d2_w32"])
arms = st.sampled_from(["", "_gated", "_bias_kv", "_a1_2"])


@given(recipes, st.one_of(st.just(""), tags), sizes, patches, arms, st.integers(0, 64))
def test_what_is_written_is_read_back_whatever_the_tag(recipe, tag, size, patch, arm, registers):
    name = f"vit{size}{patch}{arm}_reg{registers}"
    if re.search(r"_reg\d", tag):
        with pytest.raises(SettingsError, match="must not hold _reg<N>"):
            model_id(recipe, tag, name)
        return
    written = str(model_id(recipe, tag, name))
    assert parse_id(written) == ModelId(recipe, tag, name)
    assert SAFE.fullmatch(written)
    assert names.without_tag(written) == f"{recipe}-{name}"
    assert names.without_tag(f"{written}-ema") == f"{recipe}-{name}-ema"
    # Twins and families are told by what is left without the number of registers.
    assert re.sub(r"_reg\d+", "", written) == f"{recipe}{'+' if tag else ''}{tag}-vit{size}{patch}{arm}"
    assert names.without_tag(re.sub(r"_reg\d+", "", written)) == f"{recipe}-vit{size}{patch}{arm}"


def test_the_id_of_the_issue():
    assert str(model_id("deit3", "lr2e-3", "vitb_reg4")) == "deit3+lr2e-3-vitb_reg4"
    assert str(model_id("deit3", "", "vitb_reg4")) == "deit3-vitb_reg4"
    assert parse_id("deit3+lr2e-3-vitb_reg4").label == "deit3+lr2e-3"


@pytest.mark.parametrize("tag", ["a b", "a/b", "+a", "a+b", "-a", ".a", "_a", "é", "a" * 65, "a\n", "../up", "a_reg4"])
def test_a_tag_that_cannot_stand_in_an_id_is_refused_in_a_line(tag):
    with pytest.raises(SettingsError, match="tag=") as error:
        model_id("deit3", tag, "vitb_reg4")
    assert "\n" not in str(error.value)


def test_a_recipe_with_a_plus_is_refused():
    with pytest.raises(SettingsError, match=r"must not have a \+"):
        model_id("deit3+x", "", "vitb_reg4")


@pytest.mark.parametrize(
    "model",
    [
        "timm/vit_small_patch14_dinov2.lvd142m",
        "vitb_reg4",
        "-vitb_reg4",
        "a/deit3-vitb_reg4",
        "deit3-vitb",
        "+a-vitb_reg4",
        "deit3+-vitb_reg4",
        "deit3-vitb_reg4-ema",
        "deit3-vit_reg4",
        "deit3-vitb16x_reg4",
        "deit3+a_reg4-vitb_reg4",
    ],
)
def test_what_is_no_id(model):
    assert parse_id(model) is None


@pytest.mark.parametrize(
    "name", ["timm-vit_small_patch14_reg4_dinov2.lvd142m", "a+b", "dir/deit3+a-vitb_reg4", "b+x-vit", "clip+vitb_reg4"]
)
def test_other_names_have_no_tag_to_take_off(name):
    assert names.without_tag(name) == name


def test_the_run_without_a_tag_comes_first_and_other_recipes_after():
    models = ["deit3-vitb", "deit3+a-vitb", "deit3+b-vitb", "deit3_in1k-vitb", "dinov2-vitb", "timm-a+b"]
    shuffled = [models[place] for place in (3, 5, 1, 2, 4, 0)]
    assert sorted(shuffled, key=names.without_tag_first) == models


# -------------------------------------------------------------------------------------------------------- sizes


@pytest.fixture
def larger_family(configs):
    """The shipped settings, and one size of two letters beside them."""
    text = (settings.CONFIGS / "models" / "vits.yaml").read_text()
    text = text.replace("embed_dim: 384", "embed_dim: 256").replace("num_heads: 6", "num_heads: 4")
    (configs / "models" / "vitxs.yaml").write_text(text)


def test_a_size_of_two_letters_is_one_yaml(larger_family):
    from regvit_lightning.models import sources, vit

    assert names.parse_name("vitxs_reg4") == ("vitxs", None, 4)
    assert names.parse_name("vitxs14_reg16") == ("vitxs", 14, 16)
    assert names.parse_name("vits16_reg4") == ("vits", 16, 4)
    architecture, registers = vit.parse_name("vitxs14_reg2")
    assert (architecture.embed_dim, architecture.patch_size, registers) == (256, 14, 2)
    assert sources.load_backbone("random-vitxs16_reg4", settings.CONFIGS).num_registers == 4


def test_messages_list_the_sizes_that_are_there(larger_family):
    with pytest.raises(
        SettingsError,
        match=r"expected vit\{b,g,h,l,n,s,t,xs\}\[patch\]\[_d<depth>\]\[_w<width>\]"
        r"\[_<arm>\]_reg<N>; nearest: vitxs_reg4",
    ):
        names.parse_name("vitxs_rg4")


@pytest.mark.parametrize("name", ["vitx_reg4", "vitxs16_reg", "vit16_reg4", "vitb_reg", "vitb-reg4", "VITB_reg4"])
def test_names_outside_of_the_grammar(name, larger_family):
    with pytest.raises(SettingsError, match="unknown model"):
        names.parse_name(name)


def test_a_patch_has_a_pixel():
    with pytest.raises(SettingsError, match="the patch size must be at least 1"):
        names.parse_name("vitb0_reg4")


# -------------------------------------------------------------------------------------------------------- shapes


def test_depth_and_width_of_a_name():
    assert names.shape_of("vitn_d8_w128_reg0") == {"depth": 8, "width": 128}
    assert names.shape_of("vitn8_w64_reg0") == {"width": 64}
    assert names.shape_of("vitb14_reg4") == names.shape_of("timm/vit_d8") == {}
    assert names.parse_name("vitn8_d12_w64_reg4") == ("vitn", 8, 4)


@pytest.mark.parametrize("name", ["vitn_w64_d8_reg0", "vitn_d_reg0", "vitn_d8_d9_reg0", "vitn_d8w8_reg0", "vitn_d8"])
def test_shapes_outside_of_the_grammar(name):
    with pytest.raises(SettingsError, match="unknown model"):
        names.parse_name(name)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("vitn_reg4", {}, "vitn_reg4"),
        ("vitn_reg4", {"depth": 8, "width": 128}, "vitn_d8_w128_reg4"),
        ("vitn8_d2_reg0", {"patch": 4, "width": 32}, "vitn4_d2_w32_reg0"),
        ("vitn8_d2_w32_reg0", {"depth": 3}, "vitn8_d3_w32_reg0"),
    ],
)
def test_another_shape_of_a_name(name, options, expected):
    assert names.reshaped(name, **options) == expected
