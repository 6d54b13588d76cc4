"""What does a model of your own see, and how good are its features? A figure, and ImageNet's kNN protocol.

    python examples/own_model.py my_models.py:ResNet /data/flowers photo1.jpg photo2.jpg

`my_models.py:ResNet` is a function in a file that returns an `nn.Module`; docs/own-models.md says what it must give.
The folder holds train/<class>/<image> and val/<class>/<image>. The figure is look.png in the current folder.
"""

import sys

from regvit_lightning import evaluate, load_backbone, look

SETTINGS = {"neighbours": [1, 5, 20], "workers": 2}  # ImageNet, with 1,281 images per class, takes a larger k


def main(function: str, folder: str, *photos: str) -> None:
    """Write the figure, then print the outliers of each photograph and the accuracy."""
    backbone = load_backbone(f"python:{function}")
    looked = look(backbone, photos)
    assert looked.figure is not None
    looked.figure.savefig("look.png", dpi=200)
    for title, maps in zip(looked.titles, looked.models[0].images, strict=True):
        print(f"{title}: {int(maps.outliers.sum())} of {maps.outliers.size} patches are outliers")
    outcome = evaluate(backbone, "imagenet_knn", folder, settings=SETTINGS)
    low, high = outcome.intervals["top1"]
    print(f"top-1 {outcome.metrics['top1']:.1f} % [{low:.1f}, {high:.1f}] of {outcome.images} images")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
