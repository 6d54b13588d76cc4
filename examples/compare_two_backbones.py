"""Which of two backbones is better on these images? ImageNet's kNN protocol, and an interval of the difference.

    python examples/compare_two_backbones.py /data/flowers deit3-vitb_reg4 timm/vit_small_patch14_dinov2.lvd142m

The folder holds train/<class>/<image> and val/<class>/<image>. Names of backbones are those of `make eval MODEL=…`.
"""

import sys

from regvit_lightning import evaluate, load_backbone
from regvit_lightning.statistics import compare

SETTINGS = {"neighbours": [1, 5, 20], "workers": 2}  # ImageNet, with 1,281 images per class, takes a larger k


def main(folder: str, first: str, second: str) -> None:
    """Print the accuracy of both backbones, and whether the difference exceeds noise."""
    scores = []
    for name in (first, second):
        outcome = evaluate(load_backbone(name), "imagenet_knn", folder, settings=SETTINGS)
        low, high = outcome.intervals["top1"]
        print(f"{name}: top-1 {outcome.metrics['top1']:.1f} % [{low:.1f}, {high:.1f}] of {outcome.images} images")
        scores.append(outcome.scores["top1"].cpu().numpy())
    difference = compare("top1", [scores[0]], [scores[1]])
    verdict = "more than image noise" if difference.beyond_noise else "within noise"
    low, high = difference.interval or (float("nan"), float("nan"))
    print(f"difference: {difference.value:+.1f} [{low:.1f}, {high:.1f}], {verdict}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
