"""Models of transformers, named by a hand-written inverse map, against timm's models; one test against the library."""

import json
import warnings
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor, nn

from regvit_lightning.errors import Notice, UserError
from regvit_lightning.models import weights
from regvit_lightning.models.sources import load_backbone
from regvit_lightning.models.tokens import Tokens

WIDTH, DEPTH, HEADS = 128, 2, 4  # heads of 32, which only config.json can say

# kind of transformers: timm's model of the same computation, what differs from its shape, side in pixels
MODELS = {
    "dinov2": ("vit_small_patch14_dinov2", {}, 56),
    "dinov2_with_registers": ("vit_small_patch14_reg4_dinov2", {}, 56),
    "swiglu": ("vit_giant_patch14_reg4_dinov2", {}, 56),
    "vit": ("vit_base_patch16_224", {}, 64),
    "clip": ("vit_base_patch16_clip_224", {}, 64),
    "quick clip": ("vit_base_patch16_clip_quickgelu_224", {}, 64),
    "dinov3": ("vit_small_patch16_dinov3_qkvb", {"num_reg_tokens": 4, "rope_temperature": 50.0}, 64),
    "gated dinov3": ("vit_small_plus_patch16_dinov3_qkvb", {"num_reg_tokens": 4}, 64),
}

# What config.json says of each; the rest of the real files says nothing that the tensors do not.
CONFIGS = {
    "dinov2": {"layer_norm_eps": 1e-6, "hidden_act": "gelu", "image_size": 56},
    "dinov2_with_registers": {"layer_norm_eps": 1e-6, "hidden_act": "gelu", "image_size": 56},
    "swiglu": {"layer_norm_eps": 1e-6, "hidden_act": "gelu", "image_size": 56},
    "vit": {"layer_norm_eps": 1e-3, "hidden_act": "gelu", "image_size": 64},
    "clip": {"layer_norm_eps": 1e-5, "hidden_act": "gelu", "image_size": 64},
    "quick clip": {"layer_norm_eps": 1e-5, "hidden_act": "quick_gelu", "image_size": 64},
    "dinov3": {"layer_norm_eps": 1e-5, "hidden_act": "gelu", "image_size": 64, "rope_theta": 50.0},
    "gated dinov3": {"layer_norm_eps": 1e-5, "hidden_act": "silu", "image_size": 64, "rope_theta": 100.0},
}


def randomised(model: nn.Module) -> nn.Module:
    """Weights that make every tensor matter."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def reference(kind: str) -> nn.Module:
    name, changes, side = MODELS[kind]
    shape = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "img_size": side, "num_classes": 0, **changes}
    model = randomised(timm.create_model(name, **shape))
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = CONFIGS[kind]["layer_norm_eps"]
    return model


def block(state: dict[str, Tensor], number: int, names: dict[str, str]) -> dict[str, Tensor]:
    """A block of timm's: q, k and v apart, the rest under `names` by the start of its name."""
    named = {}
    for name, tensor in state.items():
        if not name.startswith(f"blocks.{number}."):
            continue
        part = name.removeprefix(f"blocks.{number}.")
        if part.startswith("attn.qkv."):
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                named[names[letter] + part.removeprefix("attn.qkv")] = third
            continue
        start = next(start for start in sorted(names, key=len, reverse=True) if part.startswith(start))
        named[names[start] + part.removeprefix(start)] = tensor
    return named


DINOV2 = {
    **{letter: f"attention.attention.{word}" for letter, word in zip("qkv", ("query", "key", "value"), strict=True)},
    "attn.proj": "attention.output.dense",
    "norm": "norm",
    "mlp": "mlp",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
VIT = {
    **DINOV2,
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
SWIGLU = {**DINOV2, "mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}
CLIP = {
    **{letter: f"self_attn.{letter}_proj" for letter in "qkv"},
    "attn.proj": "self_attn.out_proj",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "mlp": "mlp",
}
DINOV3 = {
    **{letter: f"attention.{letter}_proj" for letter in "qkv"},
    "attn.q_bias": "attention.q_proj.bias",
    "attn.v_bias": "attention.v_proj.bias",
    "attn.proj": "attention.o_proj",
    "norm": "norm",
    "gamma_1": "layer_scale1.lambda1",
    "gamma_2": "layer_scale2.lambda1",
    "mlp.fc1": "mlp.up_proj",
    "mlp.fc1_g": "mlp.gate_proj",
    "mlp.fc1_x": "mlp.up_proj",
    "mlp.fc2": "mlp.down_proj",
}


def blocks(state: dict[str, Tensor], names: dict[str, str], start: str) -> dict[str, Tensor]:
    every = (block(state, number, names).items() for number in range(DEPTH))
    return {f"{start}.{number}.{name}": tensor for number, part in enumerate(every) for name, tensor in part}


def dinov2_or_vit(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    positions, cls = state["pos_embed"], state["cls_token"]
    if positions.shape[1] == 16:  # timm has folded the entry of CLS; the hub's files have it
        part = torch.full_like(cls, 0.25)
        positions, cls = torch.cat([part, positions], dim=1), cls - part
    named = {
        "embeddings.cls_token": cls,
        "embeddings.position_embeddings": positions,
        "embeddings.mask_token": torch.zeros(1, WIDTH),
        "layernorm.weight": state["norm.weight"],
        "layernorm.bias": state["norm.bias"],
        **blocks(state, names, "encoder.layer"),
    }
    for kind in ("weight", "bias"):
        named[f"embeddings.patch_embeddings.projection.{kind}"] = state[f"patch_embed.proj.{kind}"]
    if "reg_token" in state:
        named["embeddings.register_tokens"] = state["reg_token"]
    return named


def clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "embeddings.class_embedding": state["cls_token"].flatten(),
        "embeddings.position_embedding.weight": state["pos_embed"][0],
        "embeddings.position_ids": torch.arange(17)[None],
        "embeddings.patch_embedding.weight": state["patch_embed.proj.weight"],
        **{f"pre_layrnorm.{kind}": state[f"norm_pre.{kind}"] for kind in ("weight", "bias")},
        **{f"post_layernorm.{kind}": state[f"norm.{kind}"] for kind in ("weight", "bias")},
        **blocks(state, CLIP, "encoder.layers"),
    }


def dinov3(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.mask_token": torch.zeros(1, 1, WIDTH),
        "embeddings.register_tokens": state["reg_token"],
        **{f"embeddings.patch_embeddings.{kind}": state[f"patch_embed.proj.{kind}"] for kind in ("weight", "bias")},
        **{f"norm.{kind}": state[f"norm.{kind}"] for kind in ("weight", "bias")},
        **blocks(state, DINOV3, "layer"),
    }


def named(kind: str, model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    if "dinov3" in kind:
        return dinov3(state)
    if "clip" in kind:
        return clip(state)
    return dinov2_or_vit(state, {"vit": VIT, "swiglu": SWIGLU}.get(kind, DINOV2))


def write(folder: Path, kind: str, state: dict[str, Tensor], **changes) -> Path:
    """A folder as `save_pretrained` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"num_attention_heads": HEADS, **CONFIGS[kind], **changes}
    whole = any(name.startswith("vision_model.") for name in state)
    (folder / "config.json").write_text(json.dumps({"vision_config": config} if whole else config))
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder / "model.safetensors"


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def joined(tokens: Tokens) -> Tensor:
    return torch.cat([tokens.cls[:, None], tokens.registers, tokens.patches.flatten(1, 2)], dim=1)


@torch.no_grad()
def assert_same(path: Path | str, model: nn.Module, side: int) -> None:
    torch.testing.assert_close(joined(load_backbone(path)(images(side))), model.forward_features(images(side)))


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_features_are_those_of_the_original_naming(tmp_path, kind):
    model, side = reference(kind), MODELS[kind][2]
    path = write(tmp_path / "some-model", kind, named(kind, model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing to say where nothing is left out or guessed
        warnings.filterwarnings("ignore", ".*no config.json beside it says", Notice)
        backbone = load_backbone(path)
    torch.testing.assert_close(joined(backbone(images(side))), model.forward_features(images(side)))
    assert (backbone.name, backbone.image_size, backbone.depth, backbone.embed_dim) == (
        "some-model",
        side,
        DEPTH,
        WIDTH,
    )
    assert backbone.last_block(images(side)).attention.full.shape[1] == HEADS


@pytest.mark.parametrize("kind", ["dinov2_with_registers", "dinov3"])
def test_it_is_the_same_model_as_in_the_original_naming(tmp_path, kind):
    """The fingerprint is that of timm's file, so that a record of either answers for both."""
    model = reference(kind)
    state = {**named(kind, model)}
    if kind == "dinov2_with_registers":
        state["embeddings.position_embeddings"][:, 0] = 0
        state["embeddings.cls_token"] = model.state_dict()["cls_token"]
    path = write(tmp_path / "theirs", kind, state)
    assert load_backbone(path).fingerprint == weights.fingerprint(model.state_dict())


def test_the_gate_of_a_swiglu_in_two_tensors(tmp_path):
    model = reference("swiglu")
    state = {}
    for name, tensor in named("swiglu", model).items():
        if "weights_in" in name:
            gate, up = tensor.chunk(2)
            state |= {name.replace("weights_in", "gate_proj"): gate, name.replace("weights_in", "up_proj"): up}
        else:
            state[name.replace("weights_out", "down_proj")] = tensor
    assert_same(write(tmp_path, "swiglu", state), model, 56)


def test_a_classifier_and_a_pooler_are_left_out(tmp_path):
    model = reference("vit")
    inner = {
        **named("vit", model),
        "pooler.dense.weight": torch.ones(WIDTH, WIDTH),
        "pooler.dense.bias": torch.ones(WIDTH),
    }
    assert_same(write(tmp_path / "alone", "vit", inner), model, 64)
    state = {f"vit.{name}": tensor for name, tensor in inner.items()} | {"classifier.weight": torch.ones(5, WIDTH)}
    path = write(tmp_path / "whole", "vit", state)
    with pytest.warns(Notice, match=r"without the prefix 'vit\.' of its names; tensors left out: 1$"):
        assert_same(path, model, 64)


def test_the_vision_half_of_a_clip_model(tmp_path):
    model = reference("quick clip")
    state = {f"vision_model.{name}": tensor for name, tensor in named("quick clip", model).items()}
    beside = ("text_model.final_layer_norm.weight", "visual_projection.weight", "logit_scale")
    path = write(tmp_path, "quick clip", {**state, **{name: torch.ones(3) for name in beside}})
    with pytest.warns(Notice, match=r"'vision_model\.'.* left out: 3$"):
        assert_same(path, model, 64)


def test_a_clip_model_whose_configuration_is_silent_has_the_activation_of_openai(tmp_path):
    model = reference("quick clip")
    path = write(tmp_path, "quick clip", named("quick clip", model))
    config = json.loads(path.with_name("config.json").read_text())
    path.with_name("config.json").write_text(json.dumps({key: config[key] for key in ("num_attention_heads",)}))
    assert_same(path, model, 64)


def test_a_folder_and_a_pickle(tmp_path):
    model = reference("dinov2")
    path = write(tmp_path / "dinov2-tiny", "dinov2", named("dinov2", model))
    torch.save(named("dinov2", model), path.with_name("pytorch_model.bin"))
    assert_same(path.parent, model, 56)
    path.unlink()
    assert_same(path.parent, model, 56)
    assert load_backbone(path.parent).name == "dinov2-tiny"
    assert load_backbone(path.with_name("pytorch_model.bin")).name == "dinov2-tiny"
    (path.with_name("pytorch_model.bin")).rename(tmp_path / "dinov2-tiny" / "mine.bin")
    assert load_backbone(tmp_path / "dinov2-tiny" / "mine.bin").name == "mine"
    with pytest.raises(UserError, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        load_backbone(path.parent)


@pytest.mark.parametrize(
    ("kind", "processor", "expected"),
    [
        ("dinov2", None, (IMAGENET_DEFAULT_MEAN, 64)),
        ("clip", None, (OPENAI_CLIP_MEAN, 64)),
        ("dinov2", {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, ((0.5, 0.4, 0.3), 64)),
        ("dinov2", {"size": {"height": 224, "width": 224}}, ((0.5, 0.4, 0.3), 56)),
        ("clip", {"size": 224, "crop_size": 224}, ((0.5, 0.4, 0.3), 64)),
        ("dinov2", {"size": 256, "crop_size": 224, "do_center_crop": False}, ((0.5, 0.4, 0.3), 56)),
    ],
)
def test_preprocessing_is_what_the_processor_says(tmp_path, kind, processor, expected):
    path = write(tmp_path, kind, named(kind, reference(kind)))
    if processor is not None:
        statistics = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}
        path.with_name("preprocessor_config.json").write_text(json.dumps({**processor, **statistics}))
    backbone = load_backbone(path)
    assert (backbone.mean, backbone.transform.resize) == expected
    assert backbone.std == ((0.2,) * 3 if processor else OPENAI_CLIP_STD if kind == "clip" else backbone.std)


def test_what_is_assumed_without_a_configuration(tmp_path):
    """Heads of 64, and the epsilon of transformers' ViT; CLIP's releases differ in their activation."""
    model = timm.create_model(
        "vit_base_patch16_224", embed_dim=WIDTH, depth=DEPTH, num_heads=2, img_size=64, num_classes=0
    )
    model = randomised(model)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-12
    path = write(tmp_path / "vit", "vit", named("vit", model))
    path.with_name("config.json").unlink()
    assert_same(path, model, 64)
    assert load_backbone(path).name == f"vit-model-{load_backbone(path).fingerprint[:8]}"
    path = write(tmp_path / "clip", "clip", named("clip", reference("clip")))
    path.with_name("config.json").unlink()
    with pytest.raises(UserError, match=r"a CLIP vision tower needs its config\.json beside it"):
        load_backbone(path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "{", r"config\.json: not JSON"),
        ("config.json", "[1]", r"config\.json: not a configuration of transformers"),
        ("config.json", '{"hidden_act": "relu6"}', "hidden_act is relu6; known are gelu"),
        ("config.json", '{"num_attention_heads": "many"}', "not the configuration of a square ViT"),
        ("config.json", '{"image_size": [224, 112]}', "not the configuration of a square ViT"),
        (
            "config.json",
            '{"num_attention_heads": 5}',
            r"5 heads \(.*\) do not divide width 128",
        ),
        ("preprocessor_config.json", "{}", r"not the configuration of an image processor .*image_mean"),
        ("preprocessor_config.json", '{"image_mean": [1], "image_std": [1]}', "are three numbers each"),
    ],
)
def test_configurations_that_cannot_be_followed(tmp_path, file, text, message):
    path = write(tmp_path, "dinov2", named("dinov2", reference("dinov2")))
    path.with_name(file).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(path)
    assert "\n" not in str(caught.value)


def test_a_gated_mlp_of_another_activation(tmp_path):
    path = write(tmp_path, "gated dinov3", named("gated dinov3", reference("gated dinov3")), hidden_act="gelu")
    with pytest.raises(UserError, match=r"hidden_act is gelu; .*in a gated MLP silu"):
        load_backbone(path)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "dinov2",
            {"encoder.layer.1.norm1.bias": None, "extra": torch.ones(1)},
            "missing: blocks.1.norm1.bias.*: extra",
        ),
        ("dinov2", {"encoder.layer.0.attention.attention.key.bias": None}, r"attn\.qkv\.bias; unexpected: .*\(q\)"),
        ("dinov3", {"layer.0.attention.k_proj.bias": torch.ones(WIDTH)}, "unexpected: blocks.0.attn.k.bias"),
        ("vit", {"embeddings.distillation_token": torch.ones(1, 1, WIDTH)}, "a distilled DeiT with two class tokens"),
        ("vit", {"embeddings.position_embeddings": None}, "no pos_embed"),
        ("dinov3", {"layer.0.mlp.down_proj.weight": None}, "not a DINOv3 ViT"),
        ("dinov2", {"embeddings.cls_token": None}, "missing: cls_token"),
    ],
)
def test_loading_is_strict(tmp_path, kind, changes, message):
    state = {**named(kind, reference(kind)), **changes}
    path = write(tmp_path, kind, {name: tensor for name, tensor in state.items() if tensor is not None})
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "config", "changes"),
    [
        ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", {"patch_size": 16}),
        ("Dinov2Model", "Dinov2Config", {"patch_size": 16, "use_swiglu_ffn": True}),
        ("Dinov2ForImageClassification", "Dinov2Config", {"patch_size": 16}),
        ("ViTModel", "ViTConfig", {"intermediate_size": 256}),
        ("CLIPVisionModel", "CLIPVisionConfig", {"intermediate_size": 256, "patch_size": 16}),
        ("DINOv3ViTModel", "DINOv3ViTConfig", {"intermediate_size": 256, "num_register_tokens": 4}),
    ],
)
@torch.no_grad()
def test_features_are_those_of_transformers(tmp_path, model, config, changes):
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "image_size": 64}
    theirs = randomised(getattr(transformers, model)(getattr(transformers, config)(**shape, **changes)))
    theirs.save_pretrained(tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        backbone = load_backbone(tmp_path / "theirs")
    clip = model.startswith("CLIP")  # whose output is not yet normalised
    output = getattr(theirs, "dinov2", theirs)(images(64)).last_hidden_state
    (tokens,) = backbone(images(64), blocks=[-1], norm=not clip)
    torch.testing.assert_close(joined(tokens), output, atol=1e-5, rtol=1e-5)
