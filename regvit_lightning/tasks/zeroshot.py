"""Zero-shot ImageNet (the registers paper's table 2b): images classified by the text embeddings of class names.

Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1, and open_clip's `build_zero_shot_classifier`: every class
name is inserted into every template, and the weight of a class is the normalised mean of the normalised embeddings. The
paper does not state its prompts; open_clip's 80 templates of OpenAI are the usual choice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from open_clip import zero_shot_metadata
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.data.imagenet import test_files
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.mini import captions
from regvit_lightning.errors import UserError
from regvit_lightning.frozen import shared
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.settings import ViewSettings
from regvit_lightning.frozen.shared import VectorModule
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models import joint_space
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.joint_space import JointSpace
from regvit_lightning.settings import MISSING, check, number
from regvit_lightning.statistics import accuracy_by_class, accuracy_interval
from regvit_lightning.work import ImageCounts, Pass, Work

METRICS = {"top1": Metric(), "top5": Metric()}
READS = "imagenet"
NEEDS_TEXT = True
FOOTNOTE = ("view", "class_names", "templates")

FIRST_WNID, LAST_WNID, WNIDS = "n01440764", "n15075141", 1000  # of the folders of open_clip's class names

Template = Callable[[str], str]


@dataclass
class ZeroShotSettings(ViewSettings):
    """Settings of zero-shot classification.

    Attributes:
        class_names: `imagenet`, open_clip's names of the 1,000 classes, or `folders`, names of the class folders with
            spaces for underscores.
        templates: `openai`, the 80 of CLIP, `simple`, 7 of them, or `rendered`, from captions of the rendered scenes.
        text_batch: texts per forward pass of the text tower.
    """

    class_names: str = MISSING
    templates: str = MISSING
    text_batch: int = number("[1, 1e6]")

    def __post_init__(self) -> None:
        super().__post_init__()
        names = f"class_names={self.class_names}: expected imagenet or folders"
        check(self.class_names in ("imagenet", "folders"), names)
        check(self.templates in TEMPLATES, f"templates={self.templates}: expected one of {', '.join(TEMPLATES)}")


SETTINGS = ZeroShotSettings


def rendered_templates() -> list[Template]:
    """Templates from the captions of one object in `data/captions.py`, with its class left open."""
    return [text.format for text in captions.templates()]


TEMPLATES: dict[str, Callable[[], Sequence[Template]]] = {
    "openai": lambda: zero_shot_metadata.OPENAI_IMAGENET_TEMPLATES,
    "simple": lambda: zero_shot_metadata.SIMPLE_IMAGENET_TEMPLATES,
    "rendered": rendered_templates,
}


def names_of(folders: Sequence[str], class_names: str) -> list[str]:
    """Class names for the prompts.

    Args:
        folders: names of the class folders, sorted.
        class_names: as in `ZeroShotSettings`.

    Raises:
        UserError: open_clip's names are requested, but these are not ImageNet's folders.
    """
    if class_names == "folders":
        return [folder.replace("_", " ") for folder in folders]
    if (len(folders), folders[0], folders[-1]) != (WNIDS, FIRST_WNID, LAST_WNID):
        raise UserError(
            f"class_names=imagenet names the {WNIDS:,} classes {FIRST_WNID} … {LAST_WNID}, but the data has "
            f"{len(folders):,}, {folders[0]} … {folders[-1]}; give class_names=folders"
        )
    return list(zero_shot_metadata.IMAGENET_CLASSNAMES)


@torch.no_grad()
def classifier(space: JointSpace, names: Sequence[str], templates: Sequence[Template], batch: int) -> Tensor:
    """Class weights (len(names), E), unit vectors, float32, on the device of `space`; `batch` texts at once."""
    texts = [template(name) for name in names for template in templates]
    parts = [space.tokenize(texts[start : start + batch]) for start in range(0, len(texts), batch)]
    # Written to their place: a list of 80,000 vectors that is joined takes three times the memory on a CPU.
    embedded = space.projection.new_empty(len(texts), space.projection.shape[1], dtype=torch.float32)
    for place, tokens in zip(embedded.split(batch), parts, strict=True):
        place.copy_(space.texts(tokens.to(embedded.device)))
    return F.normalize(embedded.unflatten(0, (len(names), len(templates))).mean(dim=1), dim=-1)


class ZeroShot(VectorModule):
    """Ranks the classes of test images by the cosine of their embeddings.

    Attributes:
        ranks: (images,) rank from 0 of the true class, available after test.
    """

    shares_passes = True
    ranks: Tensor

    def __init__(
        self,
        backbone: Backbone,
        space: JointSpace,
        settings: ZeroShotSettings,
        names: Sequence[str],
        templates: Sequence[Template],
    ) -> None:
        super().__init__(backbone, settings.precision)
        self.space, self.settings, self.names, self.templates = space, settings, names, templates
        self._ranks: list[Tensor] = []

    def on_test_start(self) -> None:
        self.classes = classifier(self.space, self.names, self.templates, self.settings.text_batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return rank(self.space.images(self.vectors(batch[0])[:, 0]) @ self.classes.T, batch[1])

    def tested(self, measured: Tensor) -> None:
        self._ranks.append(measured)

    def on_test_epoch_end(self) -> None:
        self.ranks = torch.cat(self._ranks)


def rank(scores: Tensor, labels: Tensor) -> Tensor:
    """Rank of the true class, from 0: number of classes that score higher, or equal with a lower index.

    Args:
        scores: (B, K).
        labels: (B,).

    Raises:
        UserError: a score is not finite, so that no class has a rank.
    """
    if not scores.isfinite().all():
        raise UserError("zero-shot: a similarity of image and text is not finite; check the weights of both towers")
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(dim=1)


def work(settings: ZeroShotSettings, images: ImageCounts) -> Work:
    """Work: test images once; the texts of the classes are few in comparison."""
    return Work([Pass(images["imagenet"][1], settings.crop, settings.crop)])


def run(backbone: Backbone, data: DataSettings, settings: ZeroShotSettings, how: RunOptions = RunOptions()) -> Outcome:  # noqa: B008
    """Top-1 and top-5 accuracy on test.

    Raises:
        UserError: the model has no text tower, or the class names do not apply.
        DataError: the data is missing, incomplete or unreadable.
    """
    space = joint_space.of_backbone(backbone)
    test = test_files(data)
    names, templates = names_of(test.classes, settings.class_names), TEMPLATES[settings.templates]()
    module = ZeroShot(backbone, space, settings, names, templates)
    images = shared.passes(module, settings, how, test=[test])
    Tester(how).test(module, images, verbose=False)
    within = {f"top{k}": 100.0 * (module.ranks < k) for k in (1, 5)}
    return Outcome(
        metrics={name: right.mean().item() for name, right in within.items()},
        images=len(test),
        intervals={name: accuracy_interval(right, how.seed) for name, right in within.items()},
        scores=within,
        per_class=accuracy_by_class(within["top1"], torch.tensor(test.labels), test.classes),
        protocol={
            "view": settings.view_in_words(),
            "class_names": settings.class_names,
            "templates": f"{settings.templates} ({len(templates)})",
            "classes": len(names),
            "text_tower": {**vars(space.architecture)},
            "logit_scale": space.logit_scale.exp().item(),
        },
        floors={"chance": {f"top{k}": 100.0 * min(k / len(names), 1.0) for k in (1, 5)}},
    )
