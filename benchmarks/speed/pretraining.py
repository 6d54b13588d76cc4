"""Pretraining rows of `benchmarks.speed`: runs as a user starts them, DINOv2's step, and reading images."""

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import command
from benchmarks.speed.timing import Measurement, autocast, seconds, seconds_once
from regvit_lightning import settings
from regvit_lightning.data.layout import DataSettings

RECIPES = ("deit3", "openclip", "dinov2")

WARMUP = 3  # steps before the timed ones
ROUNDS = 3  # of the bare loop and the recipe in turn

A100 = 312e12  # FLOP/s in bf16, by its data sheet: the GPU of the recipes of the paper
BUSY = 0.5  # assumed fraction of them that a step reaches

# Settings with which a step of a small model takes seconds on two CPU cores; for DINOv2, few prototypes.
AFFORDABLE = {
    "deit3": ["image_size=224", "batch_size=32", "device_batch=32"],
    "openclip": ["image_size=224", "batch_size=32", "device_batch=32", "warmup_steps=1"],
    "dinov2": [
        *["image_size=224", "local_size=96", "local_crops=8", "batch_size=16", "device_batch=16", "group=16"],
        *["drop_path=0.3", "prototypes=4096", "ibot_prototypes=4096", "monitor_every=1000000"],
        *["bottleneck=256", "ibot_bottleneck=256", "head_hidden=1024"],
    ],
}

# The models of the paper, from which a GPU's demand for images is computed.
PUBLISHED = {"deit3": "vitb_reg4", "openclip": "vitb_reg4", "dinov2": "vitl14_reg4"}


@dataclass(frozen=True)
class Timed:
    """Options of a timed run.

    Attributes:
        data: data whose images are read.
        workers: number of decoding processes.
        steps: number of timed steps, after `WARMUP` others.
    """

    data: DataSettings
    workers: int
    steps: int


def deit3_step(model: str, size: int, batch: int, run: Timed, peak: float) -> list[Measurement]:
    """(c) img/s of the recipe, reading images, over a bare loop on images in memory; (d) its fraction of the peak.

    Images of a small set are decoded once and stored before the first step, see `data.decoded`.
    """
    from regvit_lightning.models.vit import block_macs, parse_name

    words = [f"batch_size={batch}", f"device_batch={batch}", f"image_size={size}"]
    recipe = settings.load_settings("recipes", "deit3", "mini", words)[1]
    # The speed of a shared machine drifts.
    rates = [(recipe_rate("deit3", model, words, run)[0], bare_rate(model, recipe, run.steps)) for _ in range(ROUNDS)]
    ours, bare = map(statistics.median, zip(*rates, strict=True))
    flops = 6 * block_macs(*parse_name(model), size) * ours
    return [
        Measurement(
            f"(c) DeiT-III img/s / bare loop, {model} {size} px",
            ours / bare,
            "≥ 0.9" if size < 224 else "≥ 0.95",
            f"{ours:.1f} img/s recipe, {bare:.1f} img/s bare, batch {batch}",
        ),
        Measurement(
            f"(d) FLOP/s / matrix-product peak, {model} {size} px",
            flops / peak,
            "",
            f"{flops / 1e9:.0f} GFLOP/s in training (3 × forward)",
        ),
    ]


def recipe_step(name: str, model: str, run: Timed, peak: float) -> Measurement:
    """(h) FLOP/s of a run, reading images, over the peak; matrix products are counted at run time."""
    rate, flops = recipe_rate(name, model, AFFORDABLE[name], run)
    parts = f"{rate:.2f} img/s of {flops / 1e9:.1f} GFLOP, reading with {run.workers} further process"
    return Measurement(f"(h) FLOP/s / matrix-product peak, {name}, {model} 224 px", rate * flops / peak, "", parts)


def recipe_rate(name: str, model: str, words: list[str], run: Timed) -> tuple[float, float]:
    """Measure img/s of a pretraining run as a user starts it, from its third to its last step; and FLOP per image."""
    import torch
    from lightning.pytorch.callbacks import Callback
    from torch.utils.flop_counter import FlopCounterMode

    with command.importing():  # as the program does: one collection of all that imports made takes three steps
        from regvit_lightning.pretrain import fit

    times: list[float] = []
    counter = FlopCounterMode(display=False)

    class Clock(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            if not times:
                counter.__enter__()

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if not times:
                counter.__exit__(None, None, None)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter())
            trainer.should_stop = len(times) == WARMUP + run.steps

    words = [*words, f"workers={run.workers}", "checkpoint_every=1000000"]
    _, recipe = settings.load_settings("recipes", name, "mini", words)
    with tempfile.TemporaryDirectory() as folder:
        fit.fit(fit.Run(model, name, recipe, run.data, 0, Path(folder) / "run"), [Clock()])
    rate = recipe.batch_size * run.steps / (times[-1] - times[WARMUP - 1])
    return rate, counter.get_total_flops() / recipe.batch_size


def bare_rate(model: str, recipe: Any, steps: int) -> float:
    """Measure img/s of the same model, optimiser, loss and EMA in a plain loop on one batch in memory, normalised."""
    import torch
    from timm.optim import Lamb
    from torch.nn import functional as F
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from regvit_lightning.models import vit
    from regvit_lightning.runtime import hardware

    device, size, batch = hardware.accelerator(), recipe.image_size, recipe.batch_size
    shape = {"layer_scale": recipe.layer_scale, "drop_path": recipe.drop_path}
    network = vit.build(model, image_size=size, num_classes=16, **shape).to(device).train()
    vit.fuse_attention(network, device == "cuda")
    images, labels = torch.randn(batch, 3, size, size, device=device), torch.randint(16, (batch,), device=device)
    optimiser = Lamb(network.parameters(), lr=1e-3)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay))

    def step() -> None:
        with autocast():
            loss = F.cross_entropy(network(images).float(), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update_parameters(network)

    for _ in range(WARMUP):
        step()
    return batch * steps / sum(seconds_once(step) for _ in range(steps))


def dinov2_step(model: str) -> Measurement:
    """(g) img/s of DINOv2's step over that of a reference step with the same losses, on crops in memory."""
    import torch

    from regvit_lightning.pretrain.dinov2 import recipe as dinov2
    from regvit_lightning.runtime import hardware, seeds

    device = hardware.accelerator()
    chosen = settings.load_settings("recipes", "dinov2", words=AFFORDABLE["dinov2"])[1]
    with seeds.drawn_from(0, "initialise"):
        recipe = dinov2.DINOv2(chosen, model, 0, 1000, 0).to(device)
    shapes = {"global": (2, chosen.image_size), "local": (chosen.local_crops, chosen.local_size)}
    crops = {
        name: torch.randint(256, (chosen.batch_size, count, 3, size, size), dtype=torch.uint8, device=device)
        for name, (count, size) in shapes.items()
    }
    plain = seconds(plain_step(recipe, crops), 3)  # before ours: both update the same teacher and heads
    ours = seconds(thrifty_step(recipe, crops), 3)
    sizes = f"{chosen.image_size} and {chosen.local_crops} × {chosen.local_size} px, drop path {chosen.drop_path}"
    parts = f"{chosen.batch_size / ours:.2f} img/s, {chosen.batch_size / plain:.2f} img/s straightforward"
    return Measurement(f"(g) DINOv2 img/s / straightforward, {model}, {sizes}", plain / ours, "≥ 1.3", parts)


def thrifty_step(recipe: Any, crops: dict[str, Any]) -> Callable[[], None]:
    """Training step of the recipe, without Lightning."""
    import torch

    from regvit_lightning.models import vit

    optimiser = recipe.configure_optimizers()
    groups = [(0, number) for number in range(recipe.settings.batch_size // recipe.settings.group)]
    for backbone in (recipe.backbone, recipe.student["backbone"]):
        vit.fuse_attention(backbone, recipe.device.type == "cuda")

    def step() -> None:
        with autocast():
            loss = torch.stack(list(recipe.losses(crops, groups, 0).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        recipe.configure_gradient_clipping(optimiser)
        optimiser.step()
        recipe.update_teacher(0.99)

    return step


def plain_step(recipe: Any, crops: dict[str, Any]) -> Callable[[], None]:
    """Reference training step: `PlainDinov2`, and loops over parameters for clipping and the teacher."""
    import torch

    from benchmarks.speed.plain_dinov2 import PlainDinov2
    from regvit_lightning.models import vit

    plain = PlainDinov2(recipe)
    for backbone in (recipe.backbone, plain.student):
        vit.fuse_attention(backbone, recipe.device.type == "cuda")
    optimiser = torch.optim.AdamW([p for part in plain.parts() for p in part.parameters()], lr=1e-4)
    followers = dict(recipe.backbone.named_parameters())
    groups = [(0, number) for number in range(recipe.settings.batch_size // recipe.settings.group)]

    def step() -> None:
        masks = recipe.masks_of(groups).to(recipe.device)
        with autocast():
            loss = torch.stack(list(plain.losses(crops, masks, recipe.teacher_temperature(0)).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        for part in plain.parts():
            torch.nn.utils.clip_grad_norm_(part.parameters(), recipe.settings.clip)
        optimiser.step()
        with torch.no_grad():
            for name, leader in plain.student.named_parameters():
                if name in followers:
                    followers[name].mul_(0.99).add_(leader, alpha=0.01)

    return step


def reading(data: DataSettings) -> Iterator[Measurement]:
    """(i) Rows of the recipes, and of crops of a usual and of a large photograph."""
    yield from (loading(name, data) for name in RECIPES)
    yield from (drafted(data, size) for size in ((500, 375), (2000, 1500)))


def loading(name: str, data: DataSettings, images: int = 16) -> Measurement:
    """(i) CPU cores needed to decode and augment, at the published sizes, as many images as an A100 trains on."""
    import torch
    from PIL import Image

    words = ["prototypes=8", "ibot_prototypes=8"] if name == "dinov2" else []
    module, chosen = settings.load_settings("recipes", name, words=words)
    augment = module.RECIPE(chosen, "vitn14_reg4", 16, 1_000_000, 0).augmentation()
    files = photographs(data, images)

    def read() -> None:
        for file in files:
            augment(Image.open(io.BytesIO(file)).convert("RGB"))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes of a loader
    try:
        rate = images / seconds(read, 3)
    finally:
        torch.set_num_threads(threads)
    needed = BUSY * A100 / flops_per_image(name, chosen)
    parts = f"{rate:.0f} img/s a core; {PUBLISHED[name]} takes {needed:,.0f} img/s at {BUSY:.0%} of an A100's peak"
    return Measurement(f"(i) cores that feed an A100, {name}", needed / rate, "≤ 16", parts)


def drafted(data: DataSettings, size: tuple[int, int], images: int = 8) -> Measurement:
    """(i) Processor time of a crop of a JPEG of `size`, resized to 224 px: by `draft` over decoding in full."""
    import torch

    from regvit_lightning.data.augmentation import ResizedCrop
    from regvit_lightning.data.images import as_rgb, decode

    crop, files = ResizedCrop(224, (0.08, 1.0)), photographs(data, images, size)

    def busy(read: Callable[[bytes], object]) -> float:
        torch.manual_seed(0)  # the same crops both ways
        begun = time.process_time()
        for file in files * 4:
            read(file)
        return 1000 * (time.process_time() - begun) / (4 * images)

    full = min(busy(lambda file: crop(decode(file, "photograph", as_rgb))) for _ in range(5))
    part = min(busy(lambda file: decode(file, "photograph", crop.of_opened)) for _ in range(5))
    shown = f"{size[0]} × {size[1]} px"
    parts = f"{part:.2f} ms of a processor, {full:.2f} ms in full"
    return Measurement(f"(i) crop of 8 to 100 % by draft / in full, JPEG of {shown}", part / full, "≤ 1", parts)


def photographs(data: DataSettings, images: int, size: tuple[int, int] = (500, 375)) -> list[bytes]:
    """JPEGs, by default of the mean size of ImageNet's, made from rendered rooms."""
    from PIL import Image

    photographs = sorted(Path(data.root).rglob("rgb_*.jpg"))[:images]
    files = []
    for number in range(images):
        file = io.BytesIO()
        with Image.open(photographs[number % len(photographs)]) as image:
            image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def flops_per_image(name: str, chosen: Any) -> float:
    """FLOP of the blocks (and of OpenCLIP's text tower) per image of the published recipe, without recomputation."""
    from regvit_lightning.models.vit import Architecture, block_macs, parse_name, with_swiglu

    architecture, registers = parse_name(PUBLISHED[name])
    size = chosen.image_size
    if name == "dinov2":
        architecture = with_swiglu(architecture)
        wide = 2 * block_macs(architecture, registers, size)
        near = chosen.local_crops * block_macs(architecture, registers, chosen.local_size)
        return 2 * wide + 6 * (1 - chosen.drop_path) * (wide + near)
    macs = block_macs(architecture, registers, size)
    if name == "openclip":  # a text has no patches: its tokens are counted as CLS and registers
        width = chosen.text_width
        text = Architecture(width, chosen.text_layers, chosen.text_heads, 1, 4 * width)
        macs += block_macs(text, chosen.context_length - 1, 0)
    return 6 * macs
