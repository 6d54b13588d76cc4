"""Files read back against random models that were written in each naming by hand."""

import argparse
import copy
import json
import os
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from regvit_lightning.errors import UserError
from regvit_lightning.models import heads, vit, weights
from regvit_lightning.models.metadata import Metadata

METADATA = Metadata("vitn_reg4", "deit3", 32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 1e-4, 4, {"commit": "abc", "steps": 7})


def randomised(model: nn.Module) -> nn.Module:
    """Weights that make every tensor matter: initial LayerScale and registers would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def tiny(name: str = "vit_small_patch14_reg4_dinov2", **changes) -> nn.Module:
    """timm's model of that name, narrow and shallow, on 4 x 4 patches."""
    shape = {"embed_dim": 96, "depth": 3, "num_heads": 3, "img_size": 56 if "14" in name else 64, "num_classes": 0}
    return randomised(timm.create_model(name, **{**shape, **changes}))


def ours(**options) -> nn.Module:
    return randomised(vit.build("vitn_reg4", image_size=32, layer_scale=1e-4, **options))


@torch.no_grad()
def assert_same_features(path: Path, reference: nn.Module, side: int) -> None:
    model, metadata, *_ = weights.load_weights(path)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.eval().forward_features(images), reference.forward_features(images))
    assert metadata is None


def with_cls_position(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same model with a part of CLS moved into a position entry of its own, as DINOv2 with registers has it."""
    part = torch.randn(1, 1, state["cls_token"].shape[-1])
    positions = torch.cat([part, state["pos_embed"]], dim=1)
    return {**state, "cls_token": state["cls_token"] - part, "pos_embed": positions}


def hub_dinov2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {"mask_token": torch.zeros(1, state["pos_embed"].shape[-1])}
    for name, tensor in state.items():
        name = "register_tokens" if name == "reg_token" else name
        named[name] = tensor
    return named


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_dinov2_hub_with_registers(tmp_path, suffix):
    model, path = tiny(), tmp_path / f"dinov2_vits14_reg4{suffix}"
    state = hub_dinov2(with_cls_position(model.state_dict()))
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    assert_same_features(path, model, 56)


def test_dinov2_hub_without_registers(tmp_path):
    model = tiny("vit_small_patch14_dinov2")  # timm keeps the CLS entry of its position embedding
    assert model.pos_embed.shape[1] == 17
    torch.save(hub_dinov2(model.state_dict()), tmp_path / "dinov2_vits14.pth")
    assert_same_features(tmp_path / "dinov2_vits14.pth", model, 56)


def test_dinov2_hub_swiglu_and_a_width_of_64_per_head(tmp_path):
    model = tiny("vit_giant_patch14_reg4_dinov2", embed_dim=128, num_heads=2)
    state = with_cls_position(model.state_dict())
    state = {name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): t for name, t in state.items()}
    torch.save(hub_dinov2(state), tmp_path / "giant.pth")
    assert_same_features(tmp_path / "giant.pth", model, 56)


def test_dinov2_training_checkpoint(tmp_path):
    model = tiny()
    chunk_of = {"blocks.0.": "blocks.0.0.", "blocks.1.": "blocks.0.1.", "blocks.2.": "blocks.1.2."}
    teacher = {"dino_head.mlp.0.weight": torch.ones(2, 2), "ibot_head.last_layer.weight_g": torch.ones(2, 1)}
    for name, tensor in hub_dinov2(with_cls_position(model.state_dict())).items():
        for plain, chunked in chunk_of.items():
            name = name.replace(plain, chunked) if name.startswith(plain) else name
        teacher[f"backbone.{name}"] = tensor
    torch.save({"teacher": teacher}, tmp_path / "teacher_checkpoint.pth")
    assert_same_features(tmp_path / "teacher_checkpoint.pth", model, 56)


def test_deit3(tmp_path):
    model = tiny("deit3_small_patch16_224", num_classes=5)
    names = {".ls1.gamma": ".gamma_1", ".ls2.gamma": ".gamma_2"}
    state = {}
    for name, tensor in model.state_dict().items():
        for own, theirs in names.items():
            name = name.replace(own, theirs)
        state[name] = tensor
    assert "blocks.0.gamma_1" in state
    assert "head.weight" in state
    torch.save({"model": state}, tmp_path / "deit_3_small.pth")
    assert_same_features(tmp_path / "deit_3_small.pth", model, 64)


def test_deit_training_checkpoint_with_its_command_line(tmp_path):
    model = tiny("deit_tiny_patch16_224", num_classes=5)  # CLS position entry, head, no LayerScale
    checkpoint = {"model": model.state_dict(), "epoch": 3, "args": argparse.Namespace(lr=1e-3)}
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    assert_same_features(tmp_path / "checkpoint.pth", model, 64)


@pytest.mark.parametrize("no_embed_class", [True, False])
def test_timm_registers_with_and_without_positions(tmp_path, no_embed_class):
    model = tiny("vit_small_patch14_reg4_dinov2", no_embed_class=no_embed_class)
    assert model.pos_embed.shape[1] == (16 if no_embed_class else 21)
    save_file(model.state_dict(), tmp_path / "timm.safetensors")
    assert_same_features(tmp_path / "timm.safetensors", model, 56)


def test_wrapped_names_of_distributed_and_compiled_training(tmp_path):
    model = tiny()
    state = {f"module._orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "wrapped.pt")
    assert_same_features(tmp_path / "wrapped.pt", model, 56)


def test_half_precision_files_are_read_and_folded_in_float32(tmp_path):
    state = {name: tensor.half() for name, tensor in tiny("vit_small_patch14_dinov2").state_dict().items()}
    state["cls_token"].fill_(1)
    state["pos_embed"][:, 0] = 2**-12  # lost in a half-precision sum with 1
    torch.save(state, tmp_path / "half.pth")
    model, *_ = weights.load_weights(tmp_path / "half.pth")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert (model.cls_token == 1 + 2**-12).all()


def test_every_released_width_has_the_heads_of_its_paper():
    widths = {96: 3, 192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1536: 24, 512: 8}
    assert {width: heads.by_width(width, "x") for width in widths} == widths
    with pytest.raises(UserError, match="number of heads of width 100 is unknown"):
        heads.by_width(100, "x")


def test_export_is_read_back_without_pickle(tmp_path):
    model, path = ours(num_classes=7, mask_token=True), tmp_path / "run" / "backbone.safetensors"
    weights.save(path, model, METADATA)
    assert [entry.name for entry in path.parent.iterdir()] == ["backbone.safetensors"]
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["regvit_lightning"])["info"] == {"commit": "abc", "steps": 7}
        assert not {"head.weight", "mask_token"} & set(file.keys())
    read, metadata, *_ = weights.load_weights(path)
    assert metadata == METADATA
    assert metadata.id == "deit3-vitn_reg4"
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(read.eval().forward_features(images), model.forward_features(images))


def test_an_export_from_before_clip_has_no_norm_before_the_first_block(tmp_path):
    values = {key: value for key, value in asdict(METADATA).items() if key != "pre_norm"}
    save_file(ours().state_dict(), tmp_path / "x.safetensors", {"regvit_lightning": json.dumps(values)})
    model, metadata, *_ = weights.load_weights(tmp_path / "x.safetensors")
    assert metadata == METADATA
    assert not model.pre_norm


def test_a_failed_export_leaves_the_previous_one_alone(tmp_path, monkeypatch):
    path = tmp_path / "backbone.safetensors"
    path.write_bytes(b"previous")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"cannot write .*: disk full"):
        weights.save(path, ours(), METADATA)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [(path.name, b"previous")]


def test_lightning_checkpoint_of_ours(tmp_path):
    model = ours(num_classes=7, mask_token=True)
    state = {f"backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    state["teacher.norm.weight"] = torch.ones(3)  # parts of the recipe that are no backbone
    checkpoint = {"state_dict": state, "hyper_parameters": {"lr": 1e-3, "backbone": asdict(METADATA)}}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    read, metadata, *_ = weights.load_weights(tmp_path / "last.ckpt")
    assert metadata == METADATA
    assert weights.fingerprint(read.state_dict()) == weights.fingerprint(model.state_dict())


def test_all_differences_are_in_the_error(tmp_path):
    state = tiny().state_dict()
    del state["norm.bias"], state["blocks.2.norm1.weight"]
    state |= {
        "extra.weight": torch.ones(1),
        "blocks.1.attn.q_norm.weight": torch.ones(32),
        "norm.weight": torch.ones(5),
    }
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(UserError) as caught:
        weights.load_weights(tmp_path / "odd.pth")
    message = str(caught.value)
    assert "missing: blocks.2.norm1.weight, norm.bias;" in message
    assert "unexpected: blocks.1.attn.q_norm.weight, extra.weight;" in message
    assert "other shape: norm.weight [5] for [96]" in message
    assert "\n" not in message


def test_export_of_another_architecture_names_both(tmp_path):
    weights.save(tmp_path / "x.safetensors", ours(), replace(METADATA, name="vitt_reg4"))
    with pytest.raises(
        UserError, match=r"as vitt_reg4: does not fit \(the file holds width 96, 4 blocks, patch 8, 4 reg"
    ):
        weights.load_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**asdict(METADATA), "registers": 2}, "says 2 registers but is named vitn_reg4"),
        ({k: v for k, v in asdict(METADATA).items() if k != "mean"}, "lacks, or should not have: mean"),
        ({**asdict(METADATA), "colour": 1}, "lacks, or should not have: colour"),
        ({**asdict(METADATA), "std": None}, "damaged"),
        ([1], "not a mapping"),
    ],
)
def test_contradictory_metadata(tmp_path, values, message):
    save_file(ours().state_dict(), tmp_path / "x.safetensors", {"regvit_lightning": json.dumps(values)})
    with pytest.raises(UserError, match=message):
        weights.load_weights(tmp_path / "x.safetensors")


class Malicious:
    """Creates a file when it is unpickled by the ordinary unpickler."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return (Path.touch, (self.witness,))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "writer", [torch.save, lambda x, path, pickle_protocol: path.write_bytes(pickle.dumps(x, pickle_protocol))]
)
def test_unsafe_pickles_are_refused_and_not_executed(tmp_path, protocol, writer):
    path, witness = tmp_path / "evil.pth", tmp_path / "executed"
    writer({"model": Malicious(witness)}, path, pickle_protocol=protocol)
    with pytest.raises(
        UserError, match=r"evil\.pth: (refused: an unsafe pickle|truncated, or not a checkpoint)"
    ) as caught:
        weights.load_weights(path)
    assert not witness.exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"half"])
def test_damaged_files(tmp_path, suffix, content):
    path = tmp_path / f"x{suffix}"
    if content == b"half":
        (save_file if suffix == ".safetensors" else torch.save)(tiny().state_dict(), path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"truncated, or not a") as caught:
        weights.load_weights(path)
    assert "\n" not in str(caught.value)


def changed(**tensors):
    state = {**tiny().state_dict(), **tensors}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "holds no tensors by name"),
        (torch.ones(3), "holds no tensors by name"),
        (
            {"conv1.weight": torch.ones(3), "fc.bias": torch.ones(3)},
            r"not a ViT.*no patch_embed.*conv1.weight, fc.bias",
        ),
        (changed(dist_token=torch.ones(1, 1, 96)), "distilled"),
        (changed(pos_embed=None), "no pos_embed.*RoPE"),
        (changed(pos_embed=torch.ones(1, 12, 96)), r"pos_embed \[1, 12, 96\] is not that of a square grid"),
        (changed(**{"patch_embed.proj.weight": torch.ones(96, 3, 14, 16)}), "expected square patches of 3 channels"),
        (changed(**{"patch_embed.proj.weight": torch.ones(96, 1, 14, 14)}), "expected square patches of 3 channels"),
        (changed(cls_token=None), "missing: cls_token"),
    ],
    ids=["no state", "tensor", "resnet", "distilled", "rope", "not square", "patch", "channels", "no cls"],
)
def test_files_that_are_no_plain_vit(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=message):
        weights.load_weights(tmp_path / "x.pth")


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(UserError, match="no such file"):
            weights.load_weights(path)


def test_fingerprint_is_a_known_hash():
    # printf 'a torch.float32 [2]\n' followed by 00 00 80 3f 00 00 00 40, through sha256sum
    state = {"a": torch.tensor([1.0, 2.0])}
    assert weights.fingerprint(state) == "4bab788428211a38"


def test_fingerprint_depends_on_the_weights_and_on_nothing_else():
    state = ours(num_classes=7, mask_token=True).state_dict()
    reference = weights.fingerprint(state)
    assert weights.fingerprint(dict(reversed(state.items()))) == reference
    assert weights.fingerprint({**state, "head.weight": torch.ones(1), "mask_token": torch.ones(1)}) == reference
    strided = {**state, "norm.weight": torch.stack([state["norm.weight"]] * 2, dim=1)[:, 0]}
    assert weights.fingerprint(strided) == reference

    one_bit = copy.deepcopy(state)
    one_bit["norm.weight"].view(torch.int32)[0] ^= 1
    renamed = {("norm.scale" if name == "norm.weight" else name): tensor for name, tensor in state.items()}
    reshaped = {**state, "norm.weight": state["norm.weight"][None]}
    recast = {**state, "norm.weight": state["norm.weight"].view(torch.int32)}
    others = [weights.fingerprint(other) for other in (one_bit, renamed, reshaped, recast)]
    assert len({reference, *others}) == 5


@pytest.mark.gpu
def test_fingerprint_is_that_of_the_cpu_on_a_gpu():
    model = ours()
    reference = weights.fingerprint(model.state_dict())
    assert weights.fingerprint(model.cuda().state_dict()) == reference
