"""The machine: card, versions, its peak by data sheet and by a large matrix product; and the small data."""

import io
import random
from collections.abc import Iterator

import torch
from PIL import Image

from benchmarks.gpu_check import cards
from benchmarks.gpu_check.check import Check, threads
from benchmarks.gpu_check.lines import Line
from benchmarks.speed.timing import autocast, seconds
from regvit_lightning import records
from regvit_lightning.data.mini import writer as mini
from regvit_lightning.data.mini.options import MiniSettings
from regvit_lightning.runtime import hardware

MACHINE = "matrix product, bf16"
PHOTOGRAPHS = 128
MEAN_SIZE = (500, 375)  # pixels, of ImageNet's images


def machine(check: Check) -> Iterator[Line]:
    """FLOP/s of a matrix product in bf16, beside the peak of the card's data sheet."""
    side = check.scale.matrix
    a, b = (torch.randn(side, side, device=check.device) for _ in range(2))
    if check.device == "cuda":  # no conversion is timed
        a, b = a.bfloat16(), b.bfloat16()
    with autocast():
        product = 2 * side**3 / seconds(lambda: a @ b, 20 if check.device == "cuda" else 1)
    peak = cards.peak(hardware.device_name())
    facts = {**records.provenance(0.0), "peak": peak, "product": product}
    sheet = f"{product / peak:.0%} of {peak / 1e12:.0f} TFLOP/s, its data sheet's" if peak else "no known data sheet"
    yield Line(MACHINE, product / 1e12, "TFLOP/s", source=f"{hardware.device_name()}; {side}³; {sheet}", facts=facts)


def small_data(check: Check) -> Iterator[Line]:
    """Render what the recipes and the cells read, and JPEGs of ImageNet's mean size."""
    count = check.scale.images
    sizes = MiniSettings(
        imagenet_train=count,
        imagenet_val=max(count // 4, 2),
        ade_train=max(count // 8, 3),
        ade_val=max(count // 16, 2),
        nyu_train=max(count // 8, 1),
        nyu_test=max(count // 16, 1),
        voc2007=max(count // 2, 2),
        voc2012=2,
        coco=2,
        shards_train=max(count // 2, 4),
        shards_val=2,
        films=2,
        keypoints=2,
        scans=1,
        voc_side=check.scale.side,
    )
    for _ in mini.write(check.folder / "data", sizes, 0 if check.size == "tiny" else threads()):
        pass
    (check.folder / "data" / "imagenet" / "pairs").symlink_to("../shards")
    photographs = min(count, PHOTOGRAPHS)
    _photographs(check, photographs)
    images = 16 * (sizes.imagenet_train + sizes.imagenet_val)
    yield Line(
        "small data, rendered", images, "images of 16 classes", source=f"and {photographs} JPEGs of 500 × 375 px"
    )


def _photographs(check: Check, count: int) -> None:
    """JPEGs of two classes: rendered images enlarged, with noise, so that they compress as photographs do."""
    files = sorted((check.folder / "data" / "imagenet" / "train").rglob("*.JPEG"))
    chosen = random.Random(0)
    for number in range(count):
        with Image.open(chosen.choice(files)) as image:
            large = image.convert("RGB").resize(MEAN_SIZE, Image.Resampling.BICUBIC)
        noise = Image.effect_noise(MEAN_SIZE, 40).convert("RGB")
        buffer = io.BytesIO()
        Image.blend(large, noise, 0.15).save(buffer, "JPEG", quality=90)
        for split in ("train", "val") if number < 2 else ("train",):
            place = check.photographs / split / f"class{number % 2}" / f"{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(buffer.getvalue())
