"""Weight files: our export, and third-party namings loaded strictly into our `RegisterViT`.

Supported are our export (safetensors with the metadata in its header), our Lightning checkpoints, and `.pth`, `.pt`,
`.ckpt`, `.bin` or `.safetensors` files in the naming of DINOv2 (hub and training), DINOv3, DINO, DeiT, DeiT-III, timm,
open_clip (its image tower) or Hugging Face's transformers, with or without prefixes from the training modules.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.models.eva import Eva
from torch import Tensor, nn

from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.models import clip_naming, dinov3, hugging_face, kinds, prefixes, tensor_files, vit
from regvit_lightning.models.clip_naming import State
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


@dataclass(frozen=True)
class Metadata:
    """Metadata of the weights in a file of ours.

    Attributes:
        name: model name by the grammar (`vitb_reg16`).
        recipe: recipe that trained it (`deit3`), with the tag of a run with custom settings (`deit3+lr2e-3`).
        image_size: side in pixels of the images that the position embedding corresponds to.
        mean, std: per channel, for images in 0..1.
        layer_scale: initial value of LayerScale, or None for a model without.
        registers: number N of registers, as in `name`.
        info: any further information (commit, steps, settings), JSON-serialisable.
        pre_norm: norm before the first block, as in CLIP's image tower, see `RegisterViT`.
        swiglu: SwiGLU instead of the MLP of the name's size, see `vit.with_swiglu`.
    """

    name: str
    recipe: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layer_scale: float | None
    registers: int
    info: dict[str, Any] = field(default_factory=dict)
    pre_norm: bool = False
    swiglu: bool = False

    @property
    def id(self) -> str:
        """Id of the trained model: `deit3-vitb_reg16`."""
        return f"{self.recipe}-{self.name}"

    @classmethod
    def read(cls, values: Mapping[str, Any], source: object) -> "Metadata":
        """Read the metadata from a mapping as returned by `dataclasses.asdict` or JSON.

        Raises:
            UserError: keys are missing or unknown, or the registers contradict the name.
        """
        if not isinstance(values, Mapping):
            raise UserError(f"{source}: its metadata is not a mapping")
        known = {entry.name for entry in fields(cls)}
        wrong = sorted((known - {"info", "pre_norm", "swiglu"} - set(values)) | (set(values) - known))
        if wrong:
            raise UserError(f"{source}: its metadata lacks, or should not have: {', '.join(wrong)}")
        try:
            metadata = cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
        except TypeError as error:
            raise UserError(f"{source}: its metadata is damaged ({error})") from None
        if vit.parse_name(metadata.name)[1] != metadata.registers:
            raise UserError(f"{source}: says {metadata.registers} registers but is named {metadata.name}")
        return metadata


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
        UserError: the folder cannot be written, or the disk is full.
    """
    tensor_files.write(path, _backbone_only(model.state_dict()), asdict(metadata))


class Loaded(NamedTuple):
    """A model with the weights of a file.

    Attributes:
        model: `Eva` for DINOv3, whose positions are rotary.
        metadata: metadata of a file of ours, else None.
        naming: naming of a foreign file: a kind of `hugging_face`, `open_clip`, or empty for all others.
        kind: how the model was trained, see `kinds`.
    """

    model: RegisterViT | Eva
    metadata: Metadata | None
    naming: str
    kind: str


def load_weights(path: Path) -> Loaded:
    """Load the model in a file of ours (with its metadata) or in a third-party naming (without).

    A foreign model is built from the shapes of its tensors and, for transformers, from the `config.json` beside it.
    Its position embedding keeps its grid: the model's own image size is `model.patch_embed.img_size`. Position entries
    of CLS and registers are added to these tokens.

    Raises:
        UserError: no such file; truncated, unsafe or not a checkpoint; not a plain ViT; or tensors that are
            missing, unexpected or of another shape, all of them named.
    """
    state, values = tensor_files.read(path)
    if values is not None:
        metadata = Metadata.read(values, path)
        return Loaded(_ours(state, metadata, path), metadata, "", kinds.of_recipe(metadata.recipe))
    state = prefixes.without_prefix(state, path)
    naming = hugging_face.kind_of(state)
    model = _of_transformers(state, path) if naming else _foreign(state, path)
    naming = naming or ("open_clip" if clip_naming.is_clip(state) else "")
    return Loaded(model, None, naming, kinds.of_tensors(state))


def _ours(state: State, metadata: Metadata, path: Path) -> RegisterViT:
    shape: dict[str, Any] = {"image_size": metadata.image_size, "layer_scale": metadata.layer_scale}
    model = vit.build(metadata.name, **shape, pre_norm=metadata.pre_norm, swiglu=metadata.swiglu)
    load_strictly(model, _backbone_only(state), f"{path} as {metadata.name}")
    return model


def _foreign(state: State, path: Path) -> RegisterViT | Eva:
    model: RegisterViT | Eva
    if dinov3.is_dinov3(state):
        state = dinov3.to_timm_naming(_backbone_only(state))
        model = dinov3.build(state, path)
    else:
        renamed = clip_naming.rename(state, RENAMES)
        state = _checked(clip_naming.image_tower(renamed) if clip_naming.is_clip(renamed) else renamed, state, path)
        model = _model_like(state, path)
    load_strictly(model, state, str(path))
    return model


def _of_transformers(state: State, path: Path) -> RegisterViT | Eva:
    config, renamed = hugging_face.read_config(path, state), hugging_face.to_our_naming(state)
    model: RegisterViT | Eva
    if config.kind == hugging_face.DINOV3:
        model = dinov3.build(renamed, path, config.heads, config.rope_theta, config.image_size)
    else:
        renamed = _checked(renamed, state, path)
        model = _model_like(renamed, path, config.heads)
    hugging_face.adapt(model, config)
    load_strictly(model, renamed, str(path))
    return model


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load every tensor of `model` from `state`.

    Raises:
        UserError: lists all missing and unexpected keys and all keys with another shape; then nothing is loaded.
    """
    own = model.state_dict()
    shapes = [
        f"{name} {list(state[name].shape)} for {list(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    problems = {"missing": sorted(own.keys() - state.keys()), "unexpected": sorted(state.keys() - own.keys())}
    faults = [f"{kind}: {', '.join(names)}" for kind, names in {**problems, "other shape": shapes}.items() if names]
    if faults:
        raise UserError(f"{source}: does not fit ({describe(state)}); {'; '.join(faults)}")
    model.load_state_dict(state)


def describe(state: Mapping[str, Tensor]) -> str:
    """Summarise the tensors for a message: width, number of blocks, patch size, registers."""
    projection = state.get("patch_embed.proj.weight")
    if projection is None or projection.ndim != 4:
        return f"{len(state)} tensors, no patch embedding"
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    width, side = projection.shape[0], projection.shape[-1]
    return f"the file holds width {width}, {_depth(state)} blocks, patch {side}, {registers} registers"


def _checked(renamed: State, state: Mapping[str, Tensor], source: object) -> State:
    """Check that the tensors form a plain ViT, and reduce its position embedding to the patches.

    Args:
        renamed: the tensors under our names.
        state: the same tensors under their original names, for messages.
        source: for messages.

    Raises:
        UserError: not a ViT, not square, without learned positions, or distilled (two class tokens).
    """
    renamed = _backbone_only(renamed)
    if "dist_token" in renamed:
        raise UserError(f"{source}: a distilled DeiT with two class tokens; take the model without distillation")
    for required in ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight", "pos_embed"):
        if required not in renamed:
            example = ", ".join(list(state)[:3])
            hint = "; RoPE models are read as timm/<name>" if required == "pos_embed" else ""
            raise UserError(f"{source}: not a ViT with learned positions: no {required} (it has {example}, …){hint}")
    return _fold_positions(renamed, source)


def _backbone_only(state: Mapping[str, Tensor]) -> State:
    return {name: tensor for name, tensor in state.items() if not DROPPED.fullmatch(name)}


def _fold_positions(state: State, source: object) -> State:
    # Position entries before the patches belong to CLS (DINOv2, DeiT) or to CLS and registers (timm without
    # `no_embed_class`): constants that are added to constant tokens. Which case applies follows from the grid
    # being square; with at most 16 registers that is unambiguous for grids of 9 x 9 and more.
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    positions = state["pos_embed"]
    entries = positions.shape[1] if positions.ndim == 3 else 0
    prefix = next((count for count in (0, 1, 1 + registers) if _is_square(entries - count)), None)
    if prefix is None:
        raise UserError(f"{source}: pos_embed {list(positions.shape)} is not that of a square grid of patches")
    positions = positions.float()  # sum in float32, as the model does that reads a half-precision file
    folded = {**state, "pos_embed": positions[:, prefix:]}
    if prefix and "cls_token" in state:
        folded["cls_token"] = state["cls_token"] + positions[:, :1]
    if prefix > 1:
        folded["reg_token"] = state["reg_token"] + positions[:, 1:prefix]
    return folded


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count


def _model_like(state: State, source: object, heads: int | None = None) -> RegisterViT:
    # A model whose tensors have these shapes. Strict loading reports everything that does not fit.
    projection, fc1, fc2 = (
        state[name] for name in ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight")
    )
    if projection.ndim != 4 or projection.shape[1] != 3 or projection.shape[2] != projection.shape[3]:
        raise UserError(f"{source}: patch embedding {list(projection.shape)}; expected square patches of 3 channels")
    width, patch = projection.shape[0], projection.shape[-1]
    architecture = Architecture(
        embed_dim=width,
        depth=_depth(state),
        num_heads=heads or _heads(width, source),
        patch_size=patch,
        hidden_dim=fc2.shape[1],
        ffn="swiglu" if fc1.shape[0] == 2 * fc2.shape[1] else "mlp",
    )
    return RegisterViT(
        architecture,
        registers=state["reg_token"].shape[1] if "reg_token" in state else 0,
        image_size=patch * math.isqrt(state["pos_embed"].shape[1]),
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in state else None,  # overwritten by the value in the file
        pre_norm="norm_pre.weight" in state,
    )


def _depth(state: Mapping[str, Tensor]) -> int:
    return 1 + max((int(name.split(".")[1]) for name in state if re.match(r"blocks\.\d+\.", name)), default=-1)


def _heads(width: int, source: object) -> int:
    # The number of heads cannot be inferred from the tensors: our widths and CLIP's imply it; else heads are 64 wide.
    if width in clip_naming.HEADS:
        return clip_naming.HEADS[width]
    known = [settings.build(Architecture, settings.find("models", size)) for size in settings.names("models")]
    heads = {architecture.num_heads for architecture in known if architecture.embed_dim == width}
    if width % 64 == 0 and (not heads or width // 64 in heads):
        return width // 64
    if len(heads) != 1:
        which = f"is one of {sorted(heads)} in" if heads else "is unknown; add it to"
        raise UserError(f"{source}: the number of heads of width {width} {which} configs/models")
    return heads.pop()
