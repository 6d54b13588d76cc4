"""Does a backbone have artifacts on these images? Norms of its patches after every block, and the outliers of each.

    python examples/look_at_norms.py timm/vit_base_patch14_dinov2.lvd142m photo1.jpg photo2.jpg

Darcet et al. 2023 (arXiv 2309.16588, fig. 3): artifacts are patches whose norm is many times that of the others.
"""

import sys

import torch
from PIL import Image

from regvit_lightning import artifacts, load_backbone


def main(name: str, *files: str) -> None:
    """Print the norms by block, the number of outliers per image, and the verdict."""
    backbone = load_backbone(name)
    images = torch.stack([backbone.transform(Image.open(file)) for file in files])
    measured = artifacts(backbone, images)
    print("block  median norm  highest norm")
    for block, norms in enumerate(measured.norms.raw.unbind(1), start=1):
        print(f"{block:>5} {norms.median():>12.2f} {norms.max():>13.2f}")
    for file, outliers in zip(files, measured.outliers, strict=True):
        print(f"{file}: {int(outliers.sum())} of {outliers.numel()} patches are outliers")
    print(measured.verdict)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
