"""What the name of a model says before anything is loaded: where it comes from, and its id in records."""

import re
from pathlib import PurePath

FILES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
PYTHON, HUB, TIMM, RANDOM = "python:", "hf/", "timm/", "random-"
ELSEWHERE = (PYTHON, HUB, TIMM, RANDOM)  # starts of names of models that no run of ours and no file holds

UNSAFE = re.compile(r"[^\w.+-]+")  # in the name of a folder


def is_file(name: str) -> bool:
    """Whether it is the path of a checkpoint, or of a folder that holds one."""
    if name.startswith((PYTHON, TIMM, RANDOM)):
        return False
    return name.endswith(FILES) or ("/" in name and not name.startswith(HUB))


def record_id(name: str) -> str:
    """Names the model in records, a safe folder name; of a file, whose content would tell, what its path says.

    `timm/vit_base_patch16_224` is `timm-vit_base_patch16_224`, `hf/facebook/dinov2-base` is `hf-facebook-dinov2-base`,
    `python:folder/models.py:resnet` is `python-models-resnet`.
    """
    if name.startswith(PYTHON):
        target, _, function = name.removeprefix(PYTHON).rpartition(":")
        module = PurePath(target).stem if target.endswith(".py") else target
        name = f"python-{module}-{function}"
    return UNSAFE.sub("-", name.strip("./~"))
