"""Joint space of images and texts: open_clip's text tower, and the projection of an image tower's CLS.

Sources: Radford et al. 2021 (arXiv 2103.00020), section 2.4; `CLIP` and `TextTransformer` of open_clip.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from regvit_lightning.errors import Notice, UserError
from regvit_lightning.models import clip_naming, prefixes, tensor_files, weights
from regvit_lightning.models.backbone import Backbone

TEXT = "text.safetensors"  # beside the export of the image tower
VOCABULARY = 49408  # size of CLIP's byte-pair vocabulary
LARGEST_SCALE = math.log(100.0)


@dataclass(frozen=True)
class TextArchitecture:
    """Shape of a text tower.

    Attributes:
        width, layers, heads: sizes of its transformer.
        context_length: tokens per text, including start and end; longer texts are truncated.
        embed_dim: dimensions E of the joint space.
    """

    width: int
    layers: int
    heads: int
    context_length: int
    embed_dim: int


class JointSpace(nn.Module):
    """Text tower, projection of the image tower's CLS, and the learned scale of the cosine similarities.

    Args:
        architecture: shape of the text tower.
        image_width: width D of the image tower.
    """

    def __init__(self, architecture: TextArchitecture, image_width: int) -> None:
        super().__init__()
        self.architecture, self.image_width = architecture, image_width
        self.text = TextTransformer(
            context_length=architecture.context_length,
            vocab_size=VOCABULARY,
            width=architecture.width,
            heads=architecture.heads,
            layers=architecture.layers,
            output_dim=architecture.embed_dim,
        )
        self.projection = nn.Parameter(image_width**-0.5 * torch.randn(image_width, architecture.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor([math.log(1 / 0.07)]))  # (1,): FSDP shards no scalars
        self.tokenizer = SimpleTokenizer(context_length=architecture.context_length)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Tokenise texts: (len(texts), context_length), int64."""
        return self.tokenizer(list(texts))

    def images(self, cls: Tensor) -> Tensor:
        """Embed CLS after the final norm (B, D) as unit vectors (B, E), float32."""
        return F.normalize((cls @ self.projection).float(), dim=-1)

    def texts(self, tokens: Tensor) -> Tensor:
        """Embed tokens (B, context_length) as unit vectors (B, E), float32."""
        return F.normalize(self.text(tokens).float(), dim=-1)

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Clamp the scale of the cosine similarities to 1..100."""
        self.logit_scale.clamp_(0.0, LARGEST_SCALE)


def save(path: Path, space: JointSpace, backbone: str) -> None:
    """Write `space` beside the export of its image tower.

    Args:
        path: target file, written atomically.
        space: text tower, projection and scale.
        backbone: fingerprint of the corresponding image tower.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    values = {**asdict(space.architecture), "image_width": space.image_width, "backbone": backbone}
    tensor_files.write(path, space.state_dict(), values)


def of_backbone(backbone: Backbone) -> JointSpace:
    """The joint space of an image tower, see `load_joint_space`."""
    # Of the tensors alone: the text tower knows of no arm and of nothing that is done at test time.
    tower = weights.fingerprint(backbone.model.state_dict())
    return load_joint_space(backbone.source, backbone.name, tower, backbone.read_from.get("part", ""))


def load_joint_space(source: Path | None, name: str, backbone: str, part: str = "") -> JointSpace:
    """Load the joint space of an image tower, in evaluation mode.

    Args:
        source: file of the image tower: our export, with `text.safetensors` beside it, or an open_clip checkpoint,
            which contains both towers.
        name: name of the image tower, for messages.
        backbone: fingerprint of the image tower.
        part: key or prefix of the model that was read, where the file holds several.

    Raises:
        UserError: there is no text tower, it is not CLIP's, or it belongs to other weights.
    """
    if source is not None:
        if source.with_name(TEXT).exists() and source.name.startswith("backbone"):
            return _from_export(source.with_name(TEXT), name, backbone)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)  # the image tower has said which part is read
            content = tensor_files.read(source, part)
            state = prefixes.without_prefix(content.state, source, "" if content.part == part else part).state
        if clip_naming.is_clip(state):
            return _from_open_clip(state, source)
    raise UserError(
        f"{name} has no text tower: zero-shot takes models of RECIPE=openclip ({TEXT} lies beside their backbone) "
        "and checkpoints of open_clip with both towers, as a file"
    )


def _from_export(path: Path, name: str, backbone: str) -> JointSpace:
    state, values, *_ = tensor_files.read(path)
    keys = [field.name for field in fields(TextArchitecture)]
    if not isinstance(values, Mapping) or set(values) != {*keys, "image_width", "backbone"}:
        raise UserError(f"{path}: not a text tower that RECIPE=openclip wrote")
    if values["backbone"] != backbone:
        raise UserError(f"{path}: belongs to weights {values['backbone']}, but those of {name} are {backbone}")
    space = JointSpace(TextArchitecture(**{key: values[key] for key in keys}), values["image_width"])
    weights.load_strictly(space, state, str(path))
    return space.eval()


def _from_open_clip(state: clip_naming.State, source: Path) -> JointSpace:
    text = clip_naming.text_tower(state)
    shared = {"projection": "visual.proj", "logit_scale": "logit_scale"}
    needed = {"token_embedding.weight", "positional_embedding", "text_projection"}
    there = needed <= text.keys() and set(shared.values()) <= state.keys()
    if not there or len(text["token_embedding.weight"]) != VOCABULARY:
        raise UserError(
            f"{source}: its text tower is not CLIP's with its {VOCABULARY:,} tokens, or not there; the attention of "
            "other towers is measured from Python, by regvit_lightning.text_sinks"
        )
    width, embed_dim = text["text_projection"].shape
    layers = len({name.split(".")[2] for name in text if name.startswith("transformer.resblocks.")})
    # The number of heads cannot be inferred from the tensors: all text towers of open_clip's own have heads of 64.
    architecture = TextArchitecture(width, layers, max(width // 64, 1), len(text["positional_embedding"]), embed_dim)
    space = JointSpace(architecture, len(state["visual.proj"]))
    named = {f"text.{name}": tensor for name, tensor in text.items()}
    named |= {ours: state[theirs].reshape(getattr(space, ours).shape) for ours, theirs in shared.items()}
    weights.load_strictly(space, named, str(source))
    return space.eval()
