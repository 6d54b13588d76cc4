"""DINOv2 pretraining (Oquab et al. 2023, arXiv 2304.07193), the self-supervised family of the registers paper.

A student learns to predict from its crops the outputs of a teacher, its exponential moving average, for the global
crops: for CLS (DINO) and for masked patches (iBOT); KoLeo spreads the features. Hyperparameters are in
`configs/recipes/dinov2*.yaml`.

Results do not depend on the number of devices: masks, stochastic depth and KoLeo's neighbours are defined within groups
of consecutive images of a step, as many as the original has on one GPU, and a device always holds whole groups.
Centring and Sinkhorn-Knopp use the images of the step on all devices. A share of a step that does not fit on a device
passes through the networks in chunks of `device_batch` images.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from regvit_lightning.models import EXPORT, vit
from regvit_lightning.models.arms import global_pathway
from regvit_lightning.models.metadata import Metadata
from regvit_lightning.pretrain import recipe, register_dropout
from regvit_lightning.pretrain.dinov2 import block_masks, parameter_groups, stochastic_depth
from regvit_lightning.pretrain.dinov2 import losses as dino_losses
from regvit_lightning.pretrain.dinov2.collapse_monitor import CollapseMonitor
from regvit_lightning.pretrain.dinov2.head import DinoHead
from regvit_lightning.pretrain.dinov2.multi_crop import Crops, MultiCrop
from regvit_lightning.pretrain.dinov2.phase import phase_before
from regvit_lightning.pretrain.dinov2.settings import DINOv2Settings, check_crop
from regvit_lightning.pretrain.dinov2.teacher_targets import CentredTargets, Computed, SinkhornTargets, assign
from regvit_lightning.pretrain.koleo import koleo
from regvit_lightning.runtime import hardware, seeds
from regvit_lightning.schedules import cosine, warmup_then_cosine
from regvit_lightning.settings import check
from regvit_lightning.work import ImageCounts, Pass, Work

GLOBAL_CROPS = 2
TERMS = ("dino_local", "dino_global", "ibot", "koleo")


@dataclass(frozen=True)
class Part:
    """Chunk of whole groups of images that passes through the networks at once, ordered crop by crop.

    Attributes:
        wide: global crops (2 B, 3, S, S), uint8.
        local: local crops (L B, 3, s, s), uint8.
        masks: masks (2 B, h, w) of the global crops.
        masked: (M,) indices of the masked patches in the flattened masks.
        groups: step and index of each group, from which its random draws are derived.
    """

    wide: Tensor
    local: Tensor
    masks: Tensor
    masked: Tensor
    groups: list[tuple[int, int]]


class DINOv2(recipe.Recipe):
    """DINOv2 recipe: a student and its EMA teacher.

    Attributes:
        backbone: backbone of the teacher, which is evaluated and exported.
        student: `backbone`, `dino_head` and, with separate heads, `ibot_head`.
        teacher_heads: heads of the teacher.
        targets: modules that compute the offsets of the teacher's logits, for `dino` and `ibot`.
    """

    SETTINGS = DINOv2Settings
    settings: DINOv2Settings

    def __init__(
        self,
        settings: DINOv2Settings | Mapping[str, Any],
        model: str,
        num_classes: int,
        steps: int,
        seed: int,
        epochs: float | None = None,
    ) -> None:
        super().__init__(settings, model, num_classes, steps, seed, epochs)
        settings = self.settings
        for name in ("image_size", "local_size"):
            check_crop(name, getattr(settings, name), vit.parse_name(model)[0].patch_size)
        options: dict[str, Any] = {"image_size": settings.image_size, "layer_scale": settings.layer_scale}
        options["swiglu"] = settings.swiglu
        student = vit.build(model, mask_token=True, block=stochastic_depth.SkippingBlock, **options)
        self.backbone = vit.build(model, **options)
        self.student = nn.ModuleDict({"backbone": student, **self._heads(student.embed_dim)})
        self.teacher_heads = nn.ModuleDict(self._heads(student.embed_dim))
        ibot = settings.ibot_prototypes if settings.separate_heads else settings.prototypes
        self.targets = nn.ModuleDict({"dino": self._targets(settings.prototypes), "ibot": self._targets(ibot)})
        for follower, leader in zip(*self._both(), strict=True):
            follower.requires_grad_(False).copy_(leader.detach())
        self.hparams["settings"]["start_from"] = ""  # a checkpoint needs no initial weights
        if settings.start_from:
            self.load_state_dict(phase_before(Path(settings.start_from), self.state_dict(), model))

    def _heads(self, dim: int) -> dict[str, nn.Module]:
        s = self.settings
        heads: dict[str, nn.Module] = {"dino_head": DinoHead(dim, s.prototypes, s.head_hidden, s.bottleneck)}
        if s.separate_heads:
            heads["ibot_head"] = DinoHead(dim, s.ibot_prototypes, s.head_hidden, s.ibot_bottleneck)
        return heads

    def _targets(self, prototypes: int) -> nn.Module:
        return SinkhornTargets() if self.settings.centring == "sinkhorn" else CentredTargets(prototypes)

    def _both(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of the teacher and the corresponding ones of the student; only the student has a mask token."""
        student = dict(self.student.named_parameters())
        teacher = {f"backbone.{name}": parameter for name, parameter in self.backbone.named_parameters()}
        teacher |= dict(self.teacher_heads.named_parameters())
        return list(teacher.values()), [student[name] for name in teacher]

    @classmethod
    def work(cls, settings: Any, images: ImageCounts) -> Work:
        """Compute of a run: student on two global and all local crops, teacher on the global ones, forward only."""
        count = settings.images_in_all(images[settings.images][0])
        side, small = settings.image_size, settings.local_size
        wide, near = Pass(2 * count, side, side, trained=True), Pass(settings.local_crops * count, small, small, True)
        return Work([wide, near, Pass(2 * count, side, side)])

    def augmentation(self) -> Callable[[Image.Image], Any]:
        s = self.settings
        wide, near = (s.global_scale[0], s.global_scale[1]), (s.local_scale[0], s.local_scale[1])
        sigma = s.blur_sigma[0], s.blur_sigma[1]
        return MultiCrop(Crops(s.image_size, wide, s.local_crops, s.local_size, near, s.grey, s.invert_blur, sigma))

    def micro_batch(self) -> int:
        """Whole batch as one micro-batch, for Sinkhorn-Knopp over a step; `device_batch` splits the forward passes."""
        return self.settings.batch_size

    def examples(self, batch: dict[str, Any]) -> Tensor:
        """Crops of the first images, image by image, (n, 3, H, W); local crops are padded with black."""
        wide, local = (batch["image"][name][:32] for name in ("global", "local"))
        around = wide.new_zeros(*local.shape[:2], *wide.shape[2:])
        around[..., : local.shape[3], : local.shape[4]] = local
        return torch.cat([wide, around], dim=1).flatten(0, 1)

    def configure_callbacks(self) -> list[Callback]:
        s = self.settings
        facts = s.monitor_images, s.device_batch, s.workers, self._part(s.warmup)
        return [CollapseMonitor(s.monitor_every, *facts)] if s.monitor_every else []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        images = batch["image"]
        with global_pathway.collected(self._student().blocks) as shares:
            losses = self.losses(images, self.groups_of(len(images["global"])), self.global_step)
        loss = self.with_common_mode(torch.stack(list(losses.values())).sum(), shares)
        self.log_means({"loss": loss, **losses})
        return loss

    def groups_of(self, images: int) -> list[tuple[int, int]]:
        """Step and index of each group among this device's images.

        Raises:
            SettingsError: the number of images is not a multiple of the group size.
        """
        group = self.settings.group
        whole = f"{images} images of a device are not whole groups of group={group}"
        check(images % group == 0, f"{whole}; give another group or number of devices")
        first = self.global_rank * (images // group)
        return [(self.global_step, first + number) for number in range(images // group)]

    def losses(self, crops: dict[str, Tensor], groups: list[tuple[int, int]], step: int) -> dict[str, Tensor]:
        """Weighted loss terms for the images of the given groups; training minimises their sum.

        With more images than `device_batch`, the teacher first processes all of them chunk by chunk; then the student
        processes each chunk, which the backward pass recomputes, so memory is that of one chunk.

        Args:
            crops: `global` (B, 2, 3, S, S) and `local` (B, L, 3, s, s), uint8.
            groups: step and index of each group of the images, from which its random draws are derived.
            step: optimiser step, for the schedules.

        Returns:
            `dino_local`, `dino_global`, `ibot` and `koleo`, and the terms of the registers that have a weight.
        """
        parts, temperature = list(self._parts(crops, groups)), self.teacher_temperature(step)
        with torch.no_grad():
            seen = [self._seen_by_teacher(part) for part in parts]
            logits = {
                name: Computed(_head(self.teacher_heads, name).last_layer, [vectors[name] for vectors in seen])
                for name in self.targets
            }
            offsets = {name: find(logits[name], temperature) for name, find in self.targets.items()}

        def targets(number: int, name: str) -> Tensor:
            with torch.no_grad():
                return assign(logits[name][number], temperature, offsets[name])

        terms_of_parts = []
        for number, part in enumerate(parts):
            own = part, partial(targets, number)
            terms = self._terms(*own) if len(parts) == 1 else checkpoint(self._terms, *own, use_reentrant=False)
            terms_of_parts.append(cast(Tensor, terms) * (len(part.groups) / len(groups)))
        names = (*TERMS, *self.register_terms.names)
        return dict(zip(names, torch.stack(terms_of_parts).sum(dim=0), strict=True))

    def _parts(self, crops: dict[str, Tensor], groups: list[tuple[int, int]]) -> Iterator[Part]:
        at_once, group, device = self.settings.device_batch // self.settings.group, self.settings.group, self.device
        for first in range(0, len(groups), at_once):
            some = groups[first : first + at_once]
            images = slice(first * group, (first + len(some)) * group)
            wide, local = (crops[name][images].transpose(0, 1).flatten(0, 1) for name in ("global", "local"))
            masks = self.masks_of(some)
            indices = masks.flatten().nonzero().flatten()  # on the host, to avoid a device synchronisation
            masks, indices = (hardware.sent(value, device) for value in (masks, indices))
            yield Part(wide, local, masks, indices, some)

    def _seen_by_teacher(self, part: Part) -> dict[str, Tensor]:
        """Teacher's bottleneck features: of CLS (2 B, d) for `dino`, of the masked patches (M, d) for `ibot`."""
        cls, patches = self._cls_and_patches(self.backbone, part.wide, part.masked)
        heads = self.teacher_heads
        return {"dino": _head(heads, "dino").directions(cls), "ibot": _head(heads, "ibot").directions(patches)}

    def _terms(self, part: Part, targets: Callable[[str], Tensor]) -> Tensor:
        """Weighted loss terms of a chunk, in the order of `TERMS`; then those of the registers of its global crops."""
        s, student = self.settings, self._student()
        with self.register_terms.seen_in(student, self._registers_kept(part.groups, "global")) as seen:
            cls, patches = self._cls_and_patches(
                student, part.wide, part.masked, part.masks, self._kept(part.groups, "global")
            )
        near = cls[:0]
        if s.local_crops:
            kept = self._kept(part.groups, "local")
            with register_dropout.leaving_out(student, self._registers_kept(part.groups, "local")):
                near, _ = self._cls_and_patches(student, part.local, part.masked[:0], None, kept)
        logits, patch_logits = self._logits(torch.cat([near, cls]), patches)
        images = len(cls) // GLOBAL_CROPS
        near_logits, wide_logits = (some.unflatten(0, (-1, images)) for some in logits.split([len(near), len(cls)]))
        taught = targets("dino").unflatten(0, (GLOBAL_CROPS, images))
        local, wide = dino_losses.dino(near_logits, wide_logits, taught, s.student_temperature)
        weights = (1 / part.masks.flatten(1).sum(dim=1).clamp_min(1))[part.masked // part.masks[0].numel()]
        ibot = dino_losses.ibot(patch_logits, targets("ibot"), weights, len(cls), s.student_temperature)
        first = cls.unflatten(0, (GLOBAL_CROPS, -1))[: s.koleo_crops]
        spread = torch.stack([koleo(crop, s.group) for crop in first]).sum()
        terms = [s.dino_weight * local, s.dino_weight * wide, s.ibot_weight * ibot, s.koleo_weight * spread]
        return torch.cat([torch.stack(terms), seen.terms])

    def _cls_and_patches(
        self, backbone: vit.RegisterViT, images: Tensor, indices: Tensor, masks: Tensor | None = None, kept: Any = None
    ) -> tuple[Tensor, Tensor]:
        """CLS (C, D) of all crops (uint8) and the patches (M, D) at `indices` of the flattened grids of all crops."""
        tokens = backbone.forward_features(self.normalise(images), masks, kept)
        return tokens[:, 0], tokens[:, backbone.num_prefix_tokens :].flatten(0, 1).index_select(0, indices)

    def _logits(self, cls: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Student logits of CLS tokens and of patches, in one pass if they share a head."""
        if self.settings.separate_heads:
            return self.student["dino_head"](cls), self.student["ibot_head"](patches)
        both = self.student["dino_head"](torch.cat([cls, patches]))
        return both[: len(cls)], both[len(cls) :]

    def metadata(self, recipe: str) -> Metadata:
        """Metadata of the backbone, including the type of MLP."""
        return replace(super().metadata(recipe), swiglu=self.settings.swiglu)

    def look(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Teacher outputs for normalised images (B, 3, H, W).

        Returns:
            Norms of all tokens before the final norm (B, T), CLS after it (B, D), and the softmax over the prototypes
            without centring (B, K); float32.
        """
        raw: list[Tensor] = []
        hook = self.backbone.norm.register_forward_pre_hook(lambda _, inputs: raw.append(inputs[0]))
        try:
            cls = self.backbone.forward_features(images)[:, 0]
        finally:
            hook.remove()
        logits = self.teacher_heads["dino_head"](cls).float()
        shares = (logits / self.teacher_temperature(self.global_step)).softmax(dim=1)
        return raw[0].float().norm(dim=2), cls.float(), shares

    def masks_of(self, groups: list[tuple[int, int]]) -> Tensor:
        """Masks (2 B, h, w) of the global crops, on the host."""
        s, grid = self.settings, self._student().patch_embed.dynamic_feat_size((self.settings.image_size,) * 2)
        drawn = []
        for step, group in groups:
            rng = np.random.default_rng(seeds.derive(self.seed, "mask", step, group))
            crops, ratios = GLOBAL_CROPS * s.group, (s.mask_ratios[0], s.mask_ratios[1])
            masks = block_masks.group_masks(rng, crops, grid, ratios, s.mask_probability)
            drawn.append(torch.from_numpy(masks).unflatten(0, (GLOBAL_CROPS, -1)))
        return torch.cat(drawn, dim=1).flatten(0, 1)

    def _kept(self, groups: list[tuple[int, int]], crops: str) -> list[stochastic_depth.Rows] | None:
        s, names = self.settings, [(self.seed, "drop path", crops, step, group) for step, group in groups]
        count = GLOBAL_CROPS if crops == "global" else s.local_crops
        return stochastic_depth.draw(names, count, s.group, len(self._student().blocks), s.drop_path, self.device)

    def _registers_kept(self, groups: list[tuple[int, int]], crops: str) -> Tensor | None:
        """Registers that each crop keeps (crops × images, n), drawn for each group; None without register dropout."""
        registers, dropout = self.register_terms.registers, self.register_terms.dropout
        if not dropout:
            return None
        names = self.seed, "register dropout", crops, groups[0][0]
        count = register_dropout.kept_count(registers, dropout, seeds.generator(*names))
        shape = (GLOBAL_CROPS if crops == "global" else self.settings.local_crops, self.settings.group)
        sources = [seeds.generator(*names, group) for _, group in groups]
        drawn = [register_dropout.subsets(shape, registers, count, source) for source in sources]
        return torch.stack(drawn, dim=1).flatten(0, 2)

    def _student(self) -> vit.RegisterViT:
        return cast(vit.RegisterViT, self.student["backbone"])

    def configure_optimizers(self) -> torch.optim.AdamW:
        s, heads = self.settings, nn.ModuleDict({n: m for n, m in self.student.items() if n != "backbone"})
        factors = s.layer_decay, s.patch_embed_lr, s.decay_registers
        # A fused AdamW would unscale the gradients of fp16 itself, after they are clipped.
        fused = self.device.type == "cuda" and s.precision != "16-mixed"
        groups = parameter_groups.groups(self._student(), heads, *factors)
        return torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=fused)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        for part in self.student.values():
            clip_grad_norm_(part.parameters(), self.settings.clip)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        momentum = self.schedule(self.global_step)["momentum"]
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if not self.skipped_update:
            self.update_teacher(momentum)

    def set_options(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the learning rate and weight decay of each parameter group for update `step`."""
        values = self.schedule(step)
        for group in optimizer.param_groups:
            frozen = group["last_layer"] and step < self._part(self.settings.freeze_last_layer)
            group["lr"] = 0.0 if frozen else values["lr"] * group["lr_factor"]
            group["weight_decay"] = values["weight_decay"] * group["decay_factor"]

    def update_teacher(self, momentum: float) -> None:
        """EMA update of the teacher: momentum × teacher + (1 - momentum) × student."""
        get_ema_multi_avg_fn(momentum)(*self._both(), None)

    def schedule(self, step: int) -> dict[str, float]:
        """Learning rate, weight decay and EMA momentum of the teacher for update `step`.

        The learning rate has a linear warm-up from 0, then cosine decay; weight decay follows a cosine from its initial
        to its final value, and so does the momentum, from settings.momentum to 1.
        """
        s, steps = self.settings, self.steps
        return {
            "lr": warmup_then_cosine(step, steps, self._part(s.warmup), s.lr, 0.0, s.min_lr),
            "weight_decay": cosine(step, steps, s.weight_decay, s.weight_decay_end),
            "momentum": cosine(step, steps, s.momentum, 1.0),
        }

    def teacher_temperature(self, step: int) -> float:
        """Temperature of the teacher's softmax at `step`: linear warm-up from the initial value, then constant."""
        start, end = self.settings.teacher_temperature_start, self.settings.teacher_temperature
        return warmup_then_cosine(step, self.steps, self._part(self.settings.teacher_warmup), end, start, end)

    def _part(self, epochs: float) -> int:
        """Optimiser steps in the given number of schedule epochs."""
        return round(self.steps * epochs / self.settings.schedule_epochs)

    def exports(self) -> Iterator[tuple[str, vit.RegisterViT]]:
        """Student backbone, and the teacher backbone, which is the one that DINOv2 evaluates."""
        yield "backbone_student.safetensors", self._student()
        yield EXPORT, self.backbone


def _head(heads: nn.ModuleDict, name: str) -> DinoHead:
    """Head of `dino` or `ibot`, which may be shared."""
    return cast(DinoHead, heads[f"{name}_head" if f"{name}_head" in heads else "dino_head"])
