"""Weight files: our export, and third-party namings loaded strictly into our `RegisterViT`.

Supported are our export (safetensors with the metadata in its header), our Lightning checkpoints, and `.pth`, `.pt`,
`.ckpt`, `.bin` or `.safetensors` files in the naming of DINOv2 (hub and training), DINOv3, DINO, DeiT, DeiT-III, timm,
open_clip (its image tower) or Hugging Face's transformers, with or without prefixes from the training modules.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.models.eva import Eva
from torch import Tensor, nn

from regvit_lightning.errors import UserError, one_line
from regvit_lightning.models import (
    clip_naming,
    dinov3,
    heads,
    hugging_face,
    kinds,
    positions,
    prefixes,
    tensor_files,
    vit,
)
from regvit_lightning.models.arms import registry
from regvit_lightning.models.clip_naming import State
from regvit_lightning.models.dinov3 import MOST_REGISTERS
from regvit_lightning.models.file_words import FileWords
from regvit_lightning.models.heads import Heads, Known
from regvit_lightning.models.metadata import Metadata
from regvit_lightning.models.vit import Architecture, RegisterViT

# Not part of a backbone: classifiers, the projection heads of DINO and iBOT, and the embedding of masked patches.
DROPPED = re.compile(r"(head|dino_head|ibot_head)\..+|mask_token")

# Third-party names to ours (which are timm's), applied in this order.
RENAMES = (
    (re.compile(r"^blocks\.\d+\.(\d+)\."), r"blocks.\1."),  # DINOv2 training wraps blocks in FSDP chunks
    (re.compile(r"^register_tokens$"), "reg_token"),  # DINOv2
    (re.compile(r"\.mlp\.w12\."), ".mlp.fc1."),  # DINOv2's fused SwiGLU
    (re.compile(r"\.mlp\.w3\."), ".mlp.fc2."),
    (re.compile(r"\.gamma_([12])$"), r".ls\1.gamma"),  # DeiT-III's LayerScale
)


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """First 16 hex digits of the SHA-256 of names, dtypes, shapes and bytes, in the order of the names.

    It depends neither on the device nor on the order of the keys. The classifier head and the mask token are excluded,
    so that a checkpoint and its export have the same fingerprint.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_backbone_only(state).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def save(path: Path, model: nn.Module, metadata: Metadata) -> None:
    """Write the backbone weights of `model` (no classifier, no mask token) as safetensors with `metadata`.

    The file is written atomically.

    Raises:
        UserError: the folder cannot be written, or the disk is full; or the model has an intervention at test time,
            which is none of its weights.
    """
    if intervention := getattr(model, "intervention", ""):
        how = f"save the plain model, and the list of its register neurons, which {intervention} is made of"
        raise UserError(f"{path}: a model with {intervention} is its plain weights and hooks: {how}")
    tensor_files.write(path, _backbone_only(model.state_dict()), asdict(metadata))


class Loaded(NamedTuple):
    """A model with the weights of a file.

    Attributes:
        model: `Eva` for DINOv3, whose positions are rotary.
        metadata: metadata of a file of ours, else None.
        naming: naming of a foreign file: a kind of `hugging_face`, `open_clip`, `DINOv2`, `DeiT-III`, `DINOv3`, or
            empty for all others.
        kind: how the model was trained, see `kinds`.
        heads: number of heads and its origin.
        part: key or prefix of the model that was read, where the file holds several or all names have one.
        choices: what was read otherwise than the tensors alone imply (`heads`, `positions`).
    """

    model: RegisterViT | Eva
    metadata: Metadata | None
    naming: str
    heads: Heads
    part: str = ""
    choices: Mapping[str, Any] = {}
    kind: str = kinds.OTHER


def load_weights(path: Path, words: FileWords | None = None) -> Loaded:
    """Load the model in a file of ours (with its metadata) or in a third-party naming (without).

    A foreign model is built from the shapes of its tensors, from the JSON files beside it and from `words`.
    Its position embedding keeps its grid: the model's own image size is `model.patch_embed.img_size`. Position entries
    of CLS and registers are added to these tokens.

    Raises:
        UserError: no such file; truncated, unsafe or not a checkpoint; not a plain ViT; tensors that are missing,
            unexpected or of another shape, all of them named; or values that are not finite.
    """
    words = words or FileWords()
    content = tensor_files.read(path, words.part)
    if content.metadata is not None:
        if words != FileWords():
            raise UserError(f"{path}: trained here, and says itself how it is read: leave out the words after it")
        metadata = Metadata.read(content.metadata, path)
        model = _ours(content.state, metadata, path)
        heads_there = Heads(vit.parse_name(metadata.name)[0].num_heads, "the model's name")
        return Loaded(model, metadata, "", heads_there, kind=kinds.of_recipe(metadata.recipe))
    part = "" if content.part == words.part else words.part
    taken = prefixes.without_prefix(content.state, path, part)
    read = _of_transformers if hugging_face.kind_of(taken.state) else _foreign
    try:
        loaded = read(taken.state, Known(path, words.heads, None, "", content.architecture, taken.prefix))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:  # shapes that no check foresaw
        raise UserError(f"{path}: its tensors are not those of a ViT ({one_line(error)})") from None
    choices = dict(loaded.choices)
    if words.positions and getattr(loaded.model, "pos_embed", None) is None:
        raise UserError(f"{path}: has no learned positions, so positions={words.positions} does not apply")
    usual = choices.pop("positions", positions.ANTIALIASED)
    rule = words.positions or usual
    positions.use(loaded.model, rule)
    choices |= {} if rule == positions.ANTIALIASED else {"positions": rule}
    part = content.part or taken.prefix.rstrip(".")
    return loaded._replace(part=part, choices=choices, kind=kinds.of_tensors(taken.state))


def _ours(state: State, metadata: Metadata, path: Path) -> RegisterViT:
    shape: dict[str, Any] = {"image_size": metadata.image_size, "layer_scale": metadata.layer_scale}
    shape |= {"pre_norm": metadata.pre_norm, "swiglu": metadata.swiglu, "class_token": metadata.class_token}
    return _filled(lambda: vit.build(metadata.name, **shape), _backbone_only(state), f"{path} as {metadata.name}")


def _foreign(state: State, known: Known) -> Loaded:
    if dinov3.is_dinov3(state):
        known, state = known._replace(family="DINOv3"), dinov3.to_timm_naming(_backbone_only(state))
        return _dinov3(state, known, known.family)
    clip, renamed = clip_naming.is_clip(state), clip_naming.rename(state, RENAMES)
    renamed = _backbone_only(clip_naming.image_tower(renamed) if clip else renamed)
    _require_vit(renamed, state, known.path)
    rule = _is_dinov2_without_registers(renamed)
    known = known._replace(family="open_clip" if clip else "DINOv2" if rule else _family(state))
    chosen = {"positions": positions.OFFSET} if rule else {}
    return _vit(_fold_positions(renamed, known.path), known, known.family, chosen)


def _of_transformers(state: State, known: Known) -> Loaded:
    config, renamed = hugging_face.read_config(known.path, state), hugging_face.to_our_naming(state)
    known = known._replace(config=config.heads)
    if config.kind == hugging_face.DINOV3:
        loaded = _dinov3(renamed, known._replace(family="DINOv3"), config.kind, config.rope_theta, config.image_size)
    else:
        renamed = _backbone_only(renamed)
        _require_vit(renamed, state, known.path)
        known = known._replace(family="DINOv2" if config.kind == hugging_face.DINOV2 else "")
        chosen = {} if "reg_token" in renamed else {"positions": positions.PLAIN}
        loaded = _vit(_fold_positions(renamed, known.path), known, config.kind, chosen)
    hugging_face.adapt(loaded.model, config)
    return loaded


def _family(state: Mapping[str, Tensor]) -> str:
    if "register_tokens" in state:
        return "DINOv2"
    return "DeiT-III" if "blocks.0.gamma_1" in state else ""


def _is_dinov2_without_registers(state: Mapping[str, Tensor]) -> bool:
    # Of the families in this naming, only DINOv2 has both LayerScale and a position entry for CLS.
    entries = state["pos_embed"].shape[1]
    scaled = "blocks.0.ls1.gamma" in state and "reg_token" not in state
    return scaled and "cls_token" in state and not _is_square(entries) and _is_square(entries - 1)


def _vit(state: State, known: Known, naming: str, chosen: Mapping[str, Any]) -> Loaded:
    width = state["patch_embed.proj.weight"].shape[0]
    number = heads.of(width, known)
    model = _filled(lambda: _model_like(state, known.path, number.number), state, str(known.path))
    return Loaded(model, None, naming, number, choices={**chosen, **_unlike_guess(width, number)})


def _dinov3(state: State, known: Known, naming: str, *rope: Any) -> Loaded:
    width = dinov3.width_of(state, known.path)
    number = heads.of(width, known)
    model = _filled(lambda: dinov3.build(state, known.path, number.number, *rope), state, str(known.path))
    return Loaded(model, None, naming, number, choices=_unlike_guess(width, number))


def _unlike_guess(width: int, number: Heads) -> dict[str, Any]:
    """The number of heads, where it is neither the one that the width implies nor that of transformers."""
    if number.origin == heads.TRANSFORMERS:
        return {}
    try:
        implied = heads.by_width(width, "")
    except UserError:
        implied = 0
    return {} if number.number == implied else {"heads": number.number}


def _filled(build: Callable[[], Any], state: State, source: str) -> Any:
    """Build a model and load `state` into it; nothing large is made before all shapes fit."""
    with torch.device("meta"):
        require_fit(build(), state, source)
    require_finite(state, source)
    model = build()
    model.load_state_dict(state)
    return model


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load every tensor of `model` from `state`.

    Raises:
        UserError: see `require_fit` and `require_finite`; then nothing is loaded.
    """
    require_fit(model, state, source)
    require_finite(state, source)
    model.load_state_dict(state)


def require_finite(state: Mapping[str, Tensor], source: object) -> None:
    """Raise `UserError`, naming the first tensor, if a value is NaN or infinite: every score would mean nothing."""
    for name, tensor in state.items():
        valued = tensor.is_floating_point() and tensor.numel() and not tensor.is_meta
        if valued and not torch.stack(tensor.aminmax()).isfinite().all():
            broken = int((~tensor.isfinite()).sum())
            raise UserError(f"{source}: {name} has {broken} values that are NaN or infinite, of {tensor.numel()}")


def require_fit(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Check that `state` holds every tensor of `model`, in its shape and with real numbers, and no other.

    Raises:
        UserError: lists all missing and unexpected keys and all keys with another shape or with whole numbers.
    """
    own = model.state_dict()
    both = sorted(own.keys() & state.keys())
    shapes = [
        f"{name} {list(state[name].shape)} for {list(own[name].shape)}"
        for name in both
        if own[name].shape != state[name].shape
    ]
    whole = [name for name in both if own[name].is_floating_point() and not state[name].is_floating_point()]
    problems = {"missing": sorted(own.keys() - state.keys()), "unexpected": sorted(state.keys() - own.keys())}
    problems |= {"other shape": shapes, "whole numbers": whole}
    faults = [f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names]
    if faults:
        other = registry.arms_of([*problems["missing"], *problems["unexpected"]])
        hint = f"; tensors of the arm {' or '.join(other)}, which only the name in the metadata tells" if other else ""
        raise UserError(f"{source}: does not fit ({describe(state)}); {'; '.join(faults)}{hint}")


def describe(state: Mapping[str, Tensor]) -> str:
    """Summarise the tensors for a message: width, number of blocks, patch size, registers."""
    projection = state.get("patch_embed.proj.weight")
    if projection is None or projection.ndim != 4:
        return f"{len(state)} tensors, no patch embedding"
    registers = _registers(state)
    width, side = projection.shape[0], projection.shape[-1]
    return f"the file holds width {width}, {_depth(state)} blocks, patch {side}, {registers} registers"


def _backbone_only(state: Mapping[str, Tensor]) -> State:
    return {name: tensor for name, tensor in state.items() if not DROPPED.fullmatch(name)}


def _require_vit(renamed: State, state: Mapping[str, Tensor], source: object) -> None:
    """Check that the tensors form a plain ViT with learned positions.

    Args:
        renamed: the tensors under our names.
        state: the same tensors under their original names, for messages.
        source: for messages.

    Raises:
        UserError: not a ViT, not square, without learned positions, or distilled (two class tokens).
    """
    if "dist_token" in renamed:
        raise UserError(f"{source}: a distilled DeiT with two class tokens; take the model without distillation")
    for required in ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight", "pos_embed"):
        if required not in renamed:
            example = ", ".join(list(state)[:3])
            hint = "; RoPE models are read as timm/<name>" if required == "pos_embed" else ""
            raise UserError(f"{source}: not a ViT with learned positions: no {required} (it has {example}, …){hint}")
    projection = renamed["patch_embed.proj.weight"]
    if projection.ndim != 4 or projection.shape[1] != 3 or projection.shape[2] != projection.shape[3]:
        raise UserError(f"{source}: patch embedding {list(projection.shape)}; expected square patches of 3 channels")
    _require_shapes(renamed, projection.shape[0], source)


def _require_shapes(state: State, width: int, source: object) -> None:
    """Check the tensors from which sizes are read, before any arithmetic that could broadcast them."""
    one, any_size = 1, -1
    expected = {
        "pos_embed": (one, any_size, width),
        "cls_token": (one, one, width),
        "reg_token": (one, any_size, width),
        "blocks.0.mlp.fc1.weight": (any_size, width),
        "blocks.0.mlp.fc2.weight": (width, any_size),
    }
    for name, sizes in expected.items():
        shape = tuple(state[name].shape) if name in state else sizes
        if len(shape) != len(sizes) or any(size not in (own, any_size) for own, size in zip(shape, sizes, strict=True)):
            raise UserError(f"{source}: {name} is {list(shape)}, which does not belong to width {width}")
        if 0 in shape or (name in state and not state[name].is_floating_point()):
            raise UserError(f"{source}: {name} {list(shape)} is empty, or not of real numbers")
    if _registers(state) > MOST_REGISTERS:
        raise UserError(f"{source}: {_registers(state)} registers, more than {MOST_REGISTERS}")


def _registers(state: Mapping[str, Tensor]) -> int:
    return state["reg_token"].shape[1] if "reg_token" in state and state["reg_token"].ndim == 3 else 0


def _fold_positions(state: State, source: object) -> State:
    # Position entries before the patches belong to CLS (DINOv2, DeiT) or to CLS and registers (timm without
    # `no_embed_class`): constants that are added to constant tokens. Which case applies follows from the grid
    # being square; with at most 16 registers that is unambiguous for grids of 9 x 9 and more.
    embedding = state["pos_embed"]
    entries = embedding.shape[1]
    prefix = next((count for count in (0, 1, 1 + _registers(state)) if _is_square(entries - count)), None)
    if prefix is None:
        raise UserError(f"{source}: pos_embed {list(embedding.shape)} is not that of a square grid of patches")
    embedding = embedding.float()  # sum in float32, as the model does that reads a half-precision file
    folded = {**state, "pos_embed": embedding[:, prefix:]}
    if prefix and "cls_token" in state:
        folded["cls_token"] = state["cls_token"] + embedding[:, :1]
    if prefix > 1:
        folded["reg_token"] = state["reg_token"] + embedding[:, 1:prefix]
    return folded


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count


def _model_like(state: State, source: object, number: int) -> RegisterViT:
    # A model whose tensors have these shapes. Strict loading reports everything that does not fit.
    projection, fc1, fc2 = (
        state[name] for name in ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight")
    )
    width, patch = projection.shape[0], projection.shape[-1]
    architecture = Architecture(
        embed_dim=width,
        depth=_depth(state),
        num_heads=number,
        patch_size=patch,
        hidden_dim=fc2.shape[1],
        ffn="swiglu" if fc1.shape[0] == 2 * fc2.shape[1] else "mlp",
    )
    return RegisterViT(
        architecture,
        registers=_registers(state),
        image_size=patch * math.isqrt(state["pos_embed"].shape[1]),
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in state else None,  # overwritten by the value in the file
        pre_norm="norm_pre.weight" in state,
    )


def _depth(state: Mapping[str, Tensor]) -> int:
    # The number of different blocks: a file with a gap, however high its last number, has blocks missing.
    blocks = (re.match(r"blocks\.([0-9]+)\.", name) for name in state)
    return len({block[1] for block in blocks if block})
