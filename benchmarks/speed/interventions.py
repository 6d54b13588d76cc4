"""(l) Cost of a test-time register and of a bias: forward pass of a ViT-B over that of the plain model.

The passes of the two models alternate, so that a machine that is busy for a while slows both; the ratio is the median
over pairs of passes. Weights are random: the cost depends neither on them nor on the neurons that are chosen.
"""

import copy
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speed.timing import Measurement, autocast, seconds_once
from regvit_lightning.models import names

if TYPE_CHECKING:
    from regvit_lightning.models.register_neurons import RegisterNeurons

MODEL = "vitb_reg0"
NEURONS, BLOCKS = 10, 6  # as published for OpenCLIP-B/16: ten neurons of blocks 0 to 5
KINDS = (
    names.Intervention("ttr"),
    names.Intervention("ttr", names.PER_BLOCK),
    names.Intervention("bias"),
)
WARM_UP = 2  # pairs of passes


def rows(passes: int, model: str = MODEL, image_size: int = 224, batch: int = 8) -> list[Measurement]:
    """A row for each intervention.

    Args:
        passes: pairs of passes that are timed for each, at least 1.
        model: name of the register ViT.
        image_size, batch: side of the images in pixels, and images of a pass.
    """
    import torch

    from regvit_lightning.models import sources
    from regvit_lightning.runtime import hardware

    plain = sources.load_backbone(f"random-{model}", Path("runs"), image_size=image_size)
    images = torch.randn(batch, 3, image_size, image_size, device=hardware.accelerator())
    measured = []
    for kind in KINDS:
        own = _pass(_changed(copy.deepcopy(plain), kind), images)
        pairs = _pairs(own, _pass(plain, images), passes)
        parts = (
            f"{1e3 * statistics.median(first for first, _ in pairs):.0f} ms, {batch} images, {passes} pairs of passes"
        )
        name = f"(l) forward with {kind} / plain, {model} {image_size} px"
        measured.append(Measurement(name, ratio(pairs), "≤ 1.03", parts))
    return measured


def ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Median over pairs of the seconds of the changed model relative to those of the plain one."""
    return statistics.median(own / plain for own, plain in pairs)


def _pairs(own: Callable[[], object], plain: Callable[[], object], passes: int) -> list[tuple[float, float]]:
    """Seconds of both; each comes first in every second pair, so that neither gains from what the other left behind."""
    pairs = []
    for index in range(WARM_UP + passes):
        order = (own, plain) if index % 2 else (plain, own)
        seconds = {work: seconds_once(work) for work in order}
        pairs.append((seconds[own], seconds[plain]))
    return pairs[WARM_UP:]


def _pass(backbone: Any, images: Any) -> Callable[[], object]:
    """One forward pass, as tasks make it."""
    import torch

    backbone = backbone.to(images.device)

    def forward() -> None:
        with autocast(), torch.inference_mode():
            backbone(images)

    return forward


def _changed(plain: Any, kind: names.Intervention) -> Any:
    """`plain` with an intervention; a bias of zeros costs as much as any other."""
    import torch

    from regvit_lightning.models.interventions import WithBias, WithRegister
    from regvit_lightning.models.register_neurons import MeanRegister

    neurons = _neurons(plain.depth)
    if kind.kind == "ttr":
        return WithRegister(plain, neurons, kind.value)
    attention = plain.model.blocks[0].attn
    shape = plain.depth, attention.num_heads, attention.head_dim
    return WithBias(plain, neurons, MeanRegister(torch.zeros(shape), torch.zeros(shape)), kind.value)


def _neurons(depth: int) -> "RegisterNeurons":
    """`NEURONS` neurons, spread over the first blocks."""
    from regvit_lightning.models.register_neurons import RegisterNeurons

    blocks: dict[int, list[int]] = {}
    for neuron in range(NEURONS):
        blocks.setdefault(neuron % min(BLOCKS, depth), []).append(neuron)
    return RegisterNeurons(blocks)
