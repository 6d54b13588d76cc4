"""open_clip's own models, written as files and read back: the image tower as a backbone, the text tower beside it."""

import json
import math
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from torch.nn import functional as F

from regvit_lightning.errors import UserError
from regvit_lightning.models import heads, joint_space, sources, vit, weights
from regvit_lightning.models.joint_space import JointSpace, TextArchitecture
from regvit_lightning.models.metadata import Metadata
from tests.models.bert_like import TextEncoder

VISION = {"image_size": 64, "layers": 3, "width": 128, "patch_size": 16}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
METADATA = Metadata("vitn_reg4", "openclip", 32, (0.5,) * 3, (0.2,) * 3, None, 4, pre_norm=True)


def clip(kind=CLIP, vision=VISION, text=TEXT):
    """A random model of open_clip in which every tensor matters."""
    torch.manual_seed(0)
    model = kind(embed_dim=32, vision_cfg=vision, text_cfg=text).eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    return model


@pytest.fixture(scope="module")
def reference():
    return clip()


def images(side=64):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def load(path):
    return sources.load_backbone(str(path), Path())


def space_of(backbone):
    return joint_space.load_joint_space(backbone.source, backbone.name, backbone.fingerprint)


@torch.no_grad()
def assert_same(path, model):
    backbone = load(path)
    space = space_of(backbone)
    tokens = backbone(images())
    torch.testing.assert_close(space.images(tokens.cls), model.encode_image(images(), normalize=True))
    texts = space.tokenize(["a red cat", "two dogs on the " + "very " * 40 + "green lawn"])
    assert torch.equal(texts, open_clip.tokenizer.tokenize(["a red cat", "two dogs on the " + "very " * 40], 20))
    torch.testing.assert_close(space.texts(texts), model.encode_text(texts, normalize=True))
    torch.testing.assert_close(space.logit_scale, model.logit_scale[None])
    return backbone


def write(model, path, form):
    state = model.state_dict()
    if form == "training":  # open_clip's own checkpoint, from several devices
        state = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": state, "optimizer": {}}, path)
    elif form == "old":  # keeps the constant mask
        torch.save({**state, "attn_mask": model.attn_mask}, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


@pytest.mark.parametrize("form", ["plain", "training", "old"])
def test_a_released_checkpoint_gives_open_clips_own_embeddings(tmp_path, reference, form):
    path = tmp_path / ("model.safetensors" if form == "plain" else "model.bin")
    write(reference, path, form)
    backbone = assert_same(path, reference)
    assert (backbone.image_size, backbone.num_registers, backbone.patch_size) == (64, 0, 16)
    assert backbone.model.pre_norm
    # OpenAI's statistics, which all of open_clip's models have that do not say otherwise
    assert backbone.mean == open_clip.OPENAI_DATASET_MEAN
    assert backbone.std == open_clip.OPENAI_DATASET_STD


def test_the_towers_of_a_custom_text_model(tmp_path):
    model = clip(CustomTextCLIP)
    write(model, tmp_path / "custom.safetensors", "plain")
    assert_same(tmp_path / "custom.safetensors", model)


def test_layer_scale_is_read(tmp_path):
    model = clip(vision={**VISION, "ls_init_value": 0.1})
    write(model, tmp_path / "scaled.safetensors", "plain")
    assert_same(tmp_path / "scaled.safetensors", model)


@torch.no_grad()
def test_patches_and_blocks_are_those_of_open_clip(tmp_path, reference):
    write(reference, tmp_path / "m.safetensors", "plain")
    found = load(tmp_path / "m.safetensors")(images(), blocks=(0, 1, 2), norm=False)
    theirs = reference.visual.forward_intermediates(images(), output_extra_tokens=True)
    for tokens, patches, cls in zip(
        found, theirs["image_intermediates"], theirs["image_intermediates_prefix"], strict=True
    ):
        torch.testing.assert_close(tokens.patches, patches.permute(0, 2, 3, 1))
        torch.testing.assert_close(tokens.cls, cls[:, 0])


def test_every_vit_of_open_clip_has_the_heads_of_its_configuration():
    towers = 0
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        vision, text = config["vision_cfg"], config["text_cfg"]
        if "timm_model_name" in vision or isinstance(vision.get("layers"), list) or "hf_model_name" in text:
            continue
        towers += 1
        assert heads.by_width(vision["width"], name) == vision["width"] // vision.get("head_width", 64), name
        assert text["width"] == 64 * text["heads"], name
    assert towers > 30


def test_the_configuration_beside_a_released_model_says_its_statistics(tmp_path, reference):
    write(reference, tmp_path / "open_clip_model.safetensors", "plain")
    config = {"model_cfg": {}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    backbone = load(tmp_path / "open_clip_model.safetensors")
    assert (backbone.mean, backbone.std) == ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {}}, "QuickGELU, which our ViT does not have"),
        ({"model_cfg": {}}, "not a configuration of open_clip .*preprocess_cfg"),
        ([1], "not a configuration of open_clip"),
    ],
)
def test_configurations_that_cannot_be_followed(tmp_path, reference, config, message):
    write(reference, tmp_path / "m.safetensors", "plain")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value)


def test_loading_is_strict_on_either_side(tmp_path, reference):
    state = reference.state_dict()
    odd = {**state, "visual.attn_pool.query": torch.ones(3), "other.weight": torch.ones(2)}
    del odd["visual.ln_post.bias"]
    save_file(odd, tmp_path / "odd.safetensors")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "odd.safetensors")
    assert "missing: norm.bias;" in str(caught.value)
    assert "unexpected: other.weight, visual.attn_pool.query" in str(caught.value)
    lost = {name: tensor for name, tensor in state.items() if name != "transformer.resblocks.1.ln_1.weight"}
    save_file(lost, tmp_path / "lost.safetensors")
    with pytest.raises(UserError, match=r"missing: text\.transformer\.resblocks\.1\.ln_1\.weight"):
        space_of(load(tmp_path / "lost.safetensors"))


def test_a_checkpoint_without_its_text_tower(tmp_path, reference):
    state = {name: tensor for name, tensor in reference.state_dict().items() if name.startswith("visual.")}
    save_file(state, tmp_path / "image.safetensors")
    backbone = load(tmp_path / "image.safetensors")
    with pytest.raises(UserError, match=r"its text tower is not CLIP's with its 49,408 tokens, or not there"):
        space_of(backbone)


def test_a_checkpoint_with_a_text_tower_of_transformers(tmp_path, reference):
    state = {name: tensor for name, tensor in reference.state_dict().items() if name.startswith("visual.")}
    for name, tensor in TextEncoder().state_dict().items():
        state[f"text.{name}"] = tensor
    state["text.proj.0.weight"] = torch.zeros(16, 32)
    save_file({**state, "logit_scale": torch.ones(1)}, tmp_path / "roberta.safetensors")
    backbone = load(tmp_path / "roberta.safetensors")
    with pytest.raises(UserError, match=r"its text tower is not CLIP's .* by regvit_lightning\.text_sinks"):
        space_of(backbone)


def exported(folder):
    """Our own pair of files, as a finished run leaves them."""
    torch.manual_seed(0)
    model = vit.build("vitn_reg4", image_size=32, pre_norm=True)
    space = JointSpace(TextArchitecture(width=32, layers=1, heads=2, context_length=12, embed_dim=16), 96)
    joint_space.save(folder / "text.safetensors", space, weights.fingerprint(model.state_dict()))
    weights.save(folder / "backbone.safetensors", model, METADATA)
    return model.eval(), space.eval()


@torch.no_grad()
def test_our_export_is_read_back(tmp_path):
    model, space = exported(tmp_path)
    backbone = load(tmp_path / "backbone.safetensors")
    assert backbone.name == "openclip-vitn_reg4"
    assert not isinstance(backbone.model.norm_pre, torch.nn.Identity)
    torch.testing.assert_close(backbone(images(32)).cls, model(images(32)))
    read = space_of(backbone)
    assert read.architecture == space.architecture
    assert not read.training
    tokens = read.tokenize(["a cat"])
    assert tokens.shape == (1, 12)
    torch.testing.assert_close(read.texts(tokens), space.texts(tokens))
    torch.testing.assert_close(read.projection, space.projection)


def test_a_text_tower_of_other_weights_is_refused(tmp_path):
    exported(tmp_path)
    (tmp_path / "other").mkdir()
    torch.manual_seed(1)
    weights.save(tmp_path / "backbone.safetensors", vit.build("vitn_reg4", image_size=32, pre_norm=True), METADATA)
    with pytest.raises(
        UserError, match=r"text\.safetensors: belongs to weights \w{16}, but those of openclip-vitn_reg4"
    ):
        space_of(load(tmp_path / "backbone.safetensors"))


def test_models_without_a_text_tower(tmp_path):
    weights.save(tmp_path / "backbone.safetensors", vit.build("vitn_reg4", image_size=32, pre_norm=True), METADATA)
    for backbone in (load(tmp_path / "backbone.safetensors"), sources.load_backbone("random-vitn_reg4", Path())):
        with pytest.raises(
            UserError, match=f"{backbone.name} has no text tower: zero-shot takes models of RECIPE=open"
        ):
            space_of(backbone)


def test_a_file_that_is_no_text_tower(tmp_path):
    exported(tmp_path)
    save_file({"a": torch.ones(2)}, tmp_path / "text.safetensors")
    with pytest.raises(UserError, match=r"text\.safetensors: not a text tower that RECIPE=openclip wrote"):
        space_of(load(tmp_path / "backbone.safetensors"))


def test_the_scale_begins_at_one_over_seven_hundredths_and_stays_below_a_hundred():
    space = JointSpace(TextArchitecture(width=32, layers=1, heads=2, context_length=12, embed_dim=16), 8)
    assert space.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    for value, expected in ((5.0, math.log(100)), (-1.0, 0.0), (3.0, 3.0)):
        space.logit_scale.data.fill_(value)
        space.clamp_scale()
        assert space.logit_scale.item() == pytest.approx(expected)


def test_embeddings_are_unit_vectors_of_the_projected_cls():
    space = JointSpace(TextArchitecture(width=32, layers=1, heads=2, context_length=12, embed_dim=16), 8)
    cls = torch.randn(3, 8)
    by_hand = torch.stack([sum(row[i] * space.projection[i] for i in range(8)) for row in cls])
    torch.testing.assert_close(space.images(cls), F.normalize(by_hand, dim=1))
    assert space.images(cls.bfloat16().float()).dtype == torch.float32
