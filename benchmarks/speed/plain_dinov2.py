"""Reference implementation of DINOv2's losses: the same values as the recipe's, without its optimisations.

`benchmarks.speed` compares the recipe's time with it, and the tests its losses and gradients. Every crop is a separate
forward pass, stochastic depth computes what it drops, and the losses are loops over pairs of crops and over images.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.models import vit
from regvit_lightning.pretrain.dinov2.head import DinoHead
from regvit_lightning.pretrain.dinov2.recipe import GLOBAL_CROPS, DINOv2
from regvit_lightning.pretrain.dinov2.teacher_targets import assign, sinkhorn

Crop = tuple[Tensor, Tensor]  # logits of CLS (B, K) and of the masked patches (M, K)


def balanced(logits: Tensor, temperature: float) -> Tensor:
    """Targets (M, K) from the teacher's logits (M, K) by Sinkhorn-Knopp, as computed by the recipe."""
    return assign(logits, temperature, sinkhorn([logits], temperature))


class PlainDinov2:
    """Reference losses for a recipe with Sinkhorn-Knopp, whose teacher and heads it uses.

    Args:
        recipe: the recipe whose losses are computed.
        targets: function from the teacher's logits (M, K) and temperature to targets (M, K).

    Attributes:
        student: a separate backbone with the weights of the recipe's student.
    """

    def __init__(self, recipe: DINOv2, targets: Callable[[Tensor, float], Tensor] = balanced) -> None:
        self.recipe, self.targets, s = recipe, targets, recipe.settings
        options: dict[str, Any] = {"image_size": s.image_size, "layer_scale": s.layer_scale, "swiglu": s.swiglu}
        self.student = vit.build(recipe.model, mask_token=True, drop_path=s.drop_path, **options)
        self.student.load_state_dict(recipe.student["backbone"].state_dict())
        self.student.to(recipe.device).train()

    def parts(self) -> list[torch.nn.Module]:
        """Trained modules, each with its own gradient clipping."""
        return [self.student, *(head for name, head in self.recipe.student.items() if name != "backbone")]

    def losses(self, crops: dict[str, Tensor], masks: Tensor, temperature: float) -> dict[str, Tensor]:
        """Compute the weighted losses `dino`, `ibot` and `koleo`; their sum is minimised.

        Args:
            crops: `global` (B, 2, 3, S, S) and `local` (B, L, 3, s, s), uint8.
            masks: (2 B, h, w), all images of the first global crop, then all of the second.
            temperature: temperature of the teacher.
        """
        s, masked = self.recipe.settings, masks.unflatten(0, (GLOBAL_CROPS, -1))
        wide = list(zip(crops["global"].unbind(1), masked, strict=True))
        with torch.no_grad():
            heads = self.recipe.teacher_heads
            seen = [self._logits(self.recipe.backbone, heads, crop, mask, False)[1] for crop, mask in wide]
            targets, patch_targets = (
                self._targets([logits[index] for logits in seen], temperature) for index in (0, 1)
            )
        heads, outputs, tokens = self.recipe.student, list[Crop](), list[Tensor]()
        for crop, mask in wide:
            cls, logits = self._logits(self.student, heads, crop, mask, True)
            tokens.append(cls)
            outputs.append(logits)
        for crop in crops["local"].unbind(1):
            outputs.append(self._logits(self.student, heads, crop, None, True)[1])
        dino = self._dino([cls for cls, _ in outputs], targets)
        ibot = self._ibot([patches for _, patches in outputs[:GLOBAL_CROPS]], patch_targets, masked)
        spread = torch.stack([self._koleo(cls) for cls in tokens[: s.koleo_crops]]).sum()
        return {"dino": s.dino_weight * dino, "ibot": s.ibot_weight * ibot, "koleo": s.koleo_weight * spread}

    def _logits(
        self, model: vit.RegisterViT, heads: torch.nn.ModuleDict, crop: Tensor, mask: Tensor | None, student: bool
    ) -> tuple[Tensor, Crop]:
        tokens = model.forward_features(self.recipe.normalise(crop), mask if student else None)
        cls, patches = tokens[:, 0], tokens[:, model.num_prefix_tokens :]
        some = patches[mask.flatten(1)] if mask is not None else patches[:0].flatten(0, 1)
        patch_head = heads["ibot_head" if "ibot_head" in heads else "dino_head"]
        return cls, (cast(DinoHead, heads["dino_head"])(cls), cast(DinoHead, patch_head)(some))

    def _targets(self, logits: list[Tensor], temperature: float) -> list[Tensor]:
        return list(self.targets(torch.cat(logits), temperature).split([len(part) for part in logits]))

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        return -(targets * F.log_softmax(logits.float() / self.recipe.settings.student_temperature, dim=1)).sum(dim=1)

    def _dino(self, logits: list[Tensor], targets: list[Tensor]) -> Tensor:
        pairs = [(seen, taught) for seen in range(len(logits)) for taught in range(len(targets)) if seen != taught]
        losses = [self._cross_entropy(logits[seen], targets[taught]).mean() for seen, taught in pairs]
        return torch.stack(losses).mean()

    def _ibot(self, logits: list[Tensor], targets: list[Tensor], masks: Tensor) -> Tensor:
        losses = []
        for crop, mask in enumerate(masks):
            counts = mask.flatten(1).sum(dim=1).tolist()
            losses += [
                part.mean() for part in self._cross_entropy(logits[crop], targets[crop]).split(counts) if len(part)
            ]
        return torch.stack(losses).sum() / masks[:, :, 0, 0].numel()

    def _koleo(self, cls: Tensor) -> Tensor:
        losses = []
        for group in F.normalize(cls.float(), dim=1).split(self.recipe.settings.group):
            near = (group @ group.T).fill_diagonal_(-2).argmax(dim=1)
            losses += [-(one - group[index]).norm().log() for one, index in zip(group, near.tolist(), strict=True)]
        return torch.stack(losses).mean()
