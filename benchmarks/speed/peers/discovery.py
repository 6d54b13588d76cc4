"""What the adapters of LOST and TokenCut share: maps of features, and their ways from an image to a box."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from benchmarks.data.rendering import render
from regvit_lightning import settings
from regvit_lightning.data import layout
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.models import sources
from regvit_lightning.runtime import hardware
from regvit_lightning.tasks.discovery import protocol

PATCH, IMAGES = 8, "voc07"  # the rendered images are small: patches of 8 px give some hundreds of them

Box = Callable[[Tensor, tuple[int, int]], Any]  # from keys (1, 1 + N, D) and the grid to x1, y1, x2, y2


def structured(images: int, height: int, width: int, channels: int) -> Tensor:
    """Random maps (B, h, w, D) with a part in the middle that belongs together."""
    maps = torch.randn(images, height, width, channels, generator=torch.Generator().manual_seed(0))
    maps[:, height // 3 : 2 * height // 3, width // 3 : width // 2] += 1
    return maps.to(hardware.accelerator())


def find_dino(checkouts: Path) -> None:
    """Let `dino.vision_transformer` be imported: LOST's submodule, a checkout beside it, or TokenCut's copy."""
    for folder in (checkouts / "LOST", checkouts, checkouts / "TokenCut"):
        if (folder / "dino" / "vision_transformer.py").is_file():
            sys.path.append(str(folder))
            return
    raise FileNotFoundError("no dino/vision_transformer.py: https://github.com/facebookresearch/dino beside the others")


def their_loop(box: Box) -> Callable[[], None]:
    """Every image by itself, as their main programs do: padded, forward with attention of the last block, box.

    In float32 on both sides: theirs knows nothing else, ours has it in the YAML, as signs of dot products decide.
    """
    from dino import vision_transformer

    from regvit_lightning.data.discovery import boxed_images

    device = hardware.accelerator()
    images = boxed_images(layout.resolve("mini"), IMAGES)
    model = vision_transformer.vit_small(patch_size=PATCH, num_classes=0).eval().to(device)
    seen: dict[str, Tensor] = {}
    model.blocks[-1].attn.qkv.register_forward_hook(lambda _, __, output: seen.update(qkv=output))
    view = v2.Compose(
        [
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )

    @torch.no_grad()
    def loop() -> None:
        for index in range(len(images.sizes)):
            image = view(Image.open(images.path(index)).convert("RGB"))
            image = F.pad(image, (0, -image.shape[2] % PATCH, 0, -image.shape[1] % PATCH)).to(device)
            model.get_last_selfattention(image[None])
            keys = seen["qkv"].float().unflatten(2, (3, -1))[:, :, 1]
            np.asarray(box(keys, (image.shape[1] // PATCH, image.shape[2] // PATCH)))

    return loop


def our_cell(task: str, method: Callable[[Any, Any], protocol.Method]) -> Callable[[], object]:
    """The same images through our cell, with a reading process, without floors and figure."""
    data = layout.resolve("mini")
    render(data)
    backbone = sources.load_backbone(f"random-vits{PATCH}_reg0", Path("runs"))
    cell = settings.load_settings("tasks", task, words=["workers=1"])[1]
    cell.feature = "k"
    own = method(backbone, cell)
    return lambda: protocol.discover(backbone, data, cell, own, RunOptions())
