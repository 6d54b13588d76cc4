"""Memory of a pretraining on each of its devices, by recipe, model and images at a time.

It is weights, gradients, two moments of the optimiser, the copy of a moving average or a teacher, what the backward
pass needs of every token and block in 16 bit with fused attention, and DINOv2's logits of all prototypes. On an H100
(`results/bench/h100-models.md`) it is off by at most a tenth: for forward and backward passes of ViT-S, B and L at 224
and 518 px, and for the steps of DeiT-III with ViT-B and of DINOv2 with ViT-L. Compiled blocks keep less.
"""

from dataclasses import dataclass
from typing import Any

from benchmarks.throughput import tokens_of
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.tasks.footprint.case import Shape
from regvit_lightning.work import Work

WEIGHT = 4  # bytes of a parameter in float32
TRAINED = 4 * WEIGHT  # weight, gradient and two moments
RESIDUAL = 2 * 4  # of each channel of a token: the residual stream in float32, after attention and after the MLP
BRANCHES = 18  # inputs and outputs of qkv, of attention and of its projection, of the MLP, LayerScale: 2 bytes each
HIDDEN = 2 * 2  # of each hidden channel of the MLP, before and after its activation
CHECKPOINTED = 4  # with gradient checkpointing: the input of a block
LOGITS = 4 * 4  # of each logit: itself, its log-probability, its gradient and its target
VOCABULARY = 49_408  # of CLIP's text tower


@dataclass(frozen=True)
class Training:
    """What the memory of a training depends on.

    Attributes:
        shape: of the model.
        tokens: tokens of all crops of an image that are trained on.
        images: images in a forward and backward pass.
        checkpointed: blocks are computed again in the backward pass.
        kept: share of the images of a batch that pass through a block, below 1 with DINOv2's stochastic depth.
        swiglu: the MLP is a SwiGLU, whose hidden layer has two thirds of the width, for two products.
    """

    shape: Shape
    tokens: int
    images: int
    checkpointed: bool = False
    kept: float = 1.0
    swiglu: bool = False

    def activations(self) -> int:
        """Bytes that the backward pass needs."""
        shape, tokens = self.shape, self.tokens * self.images
        hidden = shape.hidden * 4 // 3 if self.swiglu else shape.hidden
        block = RESIDUAL * shape.width + round(self.kept * (BRANCHES * shape.width + HIDDEN * hidden))
        if self.checkpointed:
            return tokens * (CHECKPOINTED * shape.width * shape.depth + block)
        return tokens * block * shape.depth


def of(backbone: Backbone, shape: Shape, work: Work, options: Any, devices: int) -> int:
    """Bytes on each of `devices` devices that share the batch."""
    images = min(max(options.batch_size // devices, 1), options.device_batch)
    if options.module == "dinov2":
        return _dinov2(backbone, shape, work, options, images)
    tokens = max(tokens_of(backbone, one) for one in work.passes)
    activations = Training(shape, tokens, images, options.grad_checkpointing).activations()
    if options.module == "openclip":
        return TRAINED * shape.parameters + activations + _text_tower(shape, options, images)
    average = WEIGHT if hasattr(options, "ema_decay") else 0
    return (TRAINED + average) * shape.parameters + activations


def _dinov2(backbone: Backbone, shape: Shape, work: Work, options: Any, images: int) -> int:
    """Student, teacher and their heads; activations of all crops; logits of CLS and of masked patches."""
    wide, near = (tokens_of(backbone, one) for one in work.passes[:2])
    tokens = 2 * wide + options.local_crops * near
    training = Training(shape, tokens, images, options.grad_checkpointing, 1 - options.drop_path, options.swiglu)
    heads = _head(shape.width, options, options.prototypes, options.bottleneck)
    second = options.ibot_prototypes if options.separate_heads else options.prototypes
    if options.separate_heads:
        heads += _head(shape.width, options, second, options.ibot_bottleneck)
    low, high = options.mask_ratios
    masked = round(2 * options.mask_probability * (low + high) / 2 * (wide - shape.prefix))
    logits = LOGITS * images * ((2 + options.local_crops) * options.prototypes + masked * second)
    return (TRAINED + WEIGHT) * (shape.parameters + heads) + training.activations() + logits


def _head(width: int, options: Any, prototypes: int, bottleneck: int) -> int:
    """Parameters of a head of DINOv2: an MLP of three layers and the prototypes."""
    hidden = options.head_hidden
    return hidden * (width + hidden + bottleneck) + prototypes * (bottleneck + 1)


def _text_tower(shape: Shape, options: Any, images: int) -> int:
    """Bytes of CLIP's text tower and of both projections, trained, and of its activations."""
    width, layers = options.text_width, options.text_layers
    own = 12 * layers * width**2 + (VOCABULARY + options.context_length) * width
    parameters = own + options.embed_dim * (width + shape.width)
    tower = Shape(width, layers, 4 * width, options.text_heads, 1, 0, 0, parameters)
    texts = Training(tower, options.context_length, images, options.grad_checkpointing)
    return TRAINED * parameters + texts.activations()
