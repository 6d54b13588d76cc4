"""Images whose pixels are the features: whole evaluations on points that are placed by hand."""

import torch
from PIL import Image
from torch import nn

from regvit_lightning.data.layout import DataSettings
from regvit_lightning.models.foreign import ForeignBackbone

SIDE = 8
WIDTH = 3 * SIDE * SIDE


class Pixels(nn.Module):
    """CLS (and the one patch) is the image itself, flattened, from -0.5 to 0.5."""

    image_size, mean, std = SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def forward(self, images):
        flat = images.flatten(1) - 0.5
        return {"cls": flat, "patches": flat[:, None, None]}


def pixels():
    """The backbone whose features are the pixels."""
    return ForeignBackbone(Pixels(), "pixels")


def write(root, split, points, labels):
    """Write points (N, up to WIDTH) in -1..1 as images, in class folders; returns the data set."""
    padded = torch.zeros(len(points), WIDTH)
    padded[:, : points.shape[1]] = points
    bytes_ = (127.5 + 127.4 * padded).round().to(torch.uint8).view(-1, 3, SIDE, SIDE).permute(0, 2, 3, 1)
    for number, (image, label) in enumerate(zip(bytes_, labels, strict=True)):
        folder = root / "imagenet" / split / f"class{int(label)}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(folder / f"{number:05d}.png")
    return DataSettings(name="planted", root=str(root), imagenet="imagenet")


def groups(count, offsets):
    """`count` copies of offsets (n, d), each around a direction of its own: (count * n, count * (d + 1))."""
    n, d = offsets.shape
    points = torch.zeros(count, n, count, d + 1)
    for group in range(count):
        points[group, :, group, 0] = 0.8
        points[group, :, group, 1:] = offsets
    return points.view(count * n, -1)
