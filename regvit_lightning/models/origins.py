"""Origin of a model and its id in records, derived from its name before anything is loaded."""

import os
import re
from pathlib import PurePath

from regvit_lightning.models import names

FILES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
PYTHON, HUB, TIMM, RANDOM = "python:", "hf/", "timm/", "random-"
ELSEWHERE = (PYTHON, HUB, TIMM, RANDOM)  # prefixes of models that come neither from one of our runs nor from a file

WORDS = re.compile(r"(:[A-Za-z_]+=[^:/]*)+$")  # after the path of a file, see file_words.py
# File names that say nothing about the model, such as teacher_checkpoint, model_best, pytorch_model, epoch=12-step=400.
PARTS = (
    "model|pytorch|pt|checkpoint|ckpt|weights|state|dict|teacher|student|ema|backbone|encoder|vit|net|network|best|last"
    "|latest|final|epoch|step|iteration|iter|training|train|eval|export|full|main|of|open|clip"
)
GENERIC = re.compile(rf"(?:(?:{PARTS}|\d)[\W_]*)+", re.IGNORECASE)

UNSAFE = re.compile(r"[^\w.+-]+")  # not allowed in a folder name


def is_file(name: str) -> bool:
    """Whether `name` is the path of a checkpoint, or of a folder that contains one."""
    name, _ = names.intervention(name)
    if name.startswith((PYTHON, TIMM, RANDOM)):
        return False
    path = name if name.endswith(FILES) else WORDS.sub("", name)
    return path.endswith(FILES) or ("/" in path and not path.startswith(HUB))


def is_generic(stem: str) -> bool:
    """Whether a file's name without suffix is one that many models share, such as `teacher_checkpoint`."""
    return GENERIC.fullmatch(stem) is not None


def origin(name: str) -> str:
    """Absolute path of the file or folder that a model is given as; empty for one that its name alone identifies."""
    name, _ = names.intervention(name)
    if is_file(name):
        return os.path.abspath(os.path.expanduser(name))
    target, _, function = name.removeprefix(PYTHON).rpartition(":")
    return f"{os.path.abspath(target)}:{function}" if name.startswith(PYTHON) and target.endswith(".py") else ""


def record_id(name: str) -> str:
    """Id of the model in records, safe as a folder name; for a file it is derived from the path, not the content.

    `timm/vit_base_patch16_224` is `timm-vit_base_patch16_224`, `hf/facebook/dinov2-base` is `hf-facebook-dinov2-base`,
    `python:folder/models.py:resnet` is `python-models-resnet`.

    Raises:
        UserError: nothing is left that is safe, or a letter or digit is not ASCII.
    """
    if name.startswith(PYTHON):
        target, _, function = name.removeprefix(PYTHON).rpartition(":")
        module = PurePath(target).stem if target.endswith(".py") else target
        name = f"python-{module}-{function}"
    return names.check_id(UNSAFE.sub("-", name.strip("./~")).lstrip("._+-"), "the id of a model,")
