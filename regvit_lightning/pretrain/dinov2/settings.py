"""Settings of DINOv2 (Oquab et al. 2023, arXiv 2304.07193); their values are in `configs/recipes/dinov2*.yaml`."""

from dataclasses import dataclass, field

import numpy as np

from regvit_lightning.pretrain import recipe
from regvit_lightning.settings import MISSING, check, check_at_least, check_positive


@dataclass
class DINOv2Settings(recipe.RecipeSettings):
    """Settings of DINOv2.

    Attributes:
        swiglu: use SwiGLU instead of an MLP in the blocks, as in the original's ViT-L/14.
        base_lr: peak learning rate at batch size 1024; scales with the square root of the batch size.
        min_lr: learning rate at the end.
        schedule_epochs: length of the run in schedule epochs (1250 steps in the original), the unit of the next three
            settings.
        warmup: schedule epochs of linear learning-rate warm-up from 0.
        teacher_warmup: schedule epochs of warm-up of the teacher temperature.
        freeze_last_layer: schedule epochs during which the prototypes are frozen.
        weight_decay, weight_decay_end: weight decay at the start and at the end of a cosine schedule.
        momentum: initial EMA momentum of the teacher; cosine schedule to 1.
        teacher_temperature_start, teacher_temperature: linear warm-up from the first to the second, then constant.
        student_temperature: temperature of the student, constant.
        layer_decay: learning rate of a block relative to that of the next block; CLS, registers and embeddings count as
            the block before the first.
        patch_embed_lr: learning-rate multiplier of the patch embedding.
        decay_registers: apply weight decay to the registers.
        clip: maximum gradient norm, applied separately to the backbone and to each head.
        drop_path: share of the samples that each residual branch skips, the same in all blocks.
        group: images per group, as many as the original has on one GPU; at most `device_batch`.
        separate_heads: give iBOT a separate head; otherwise it shares DINO's and the two iBOT head settings are unused.
        prototypes, ibot_prototypes: number of prototypes (outputs) of each head.
        bottleneck, ibot_bottleneck: bottleneck dimension of each head.
        head_hidden: width of the heads' hidden layers.
        centring: centring of the teacher, `sinkhorn` or `moving_average`.
        dino_weight, ibot_weight, koleo_weight: weights of the losses.
        koleo_crops: number of global crops that KoLeo is summed over, 1 or 2.
        mask_probability: share of the global crops that are masked.
        mask_ratios: smallest and largest share of masked patches.
        local_crops, local_size: number of local crops and their side in pixels.
        global_scale, local_scale: smallest and largest area of a crop, as a share of the image.
        invert_blur: blur with probability 1 - p, as the released code does.
        blur_sigma: smallest and largest standard deviation of the blur in pixels.
        start_from: a `last.ckpt` of this recipe to initialise the weights from (for a final phase at a higher
            resolution); empty to train from scratch.
    """

    swiglu: bool = MISSING
    base_lr: float = MISSING
    min_lr: float = MISSING
    schedule_epochs: float = MISSING
    warmup: float = MISSING
    teacher_warmup: float = MISSING
    freeze_last_layer: float = MISSING
    weight_decay: float = MISSING
    weight_decay_end: float = MISSING
    momentum: float = MISSING
    teacher_temperature_start: float = MISSING
    teacher_temperature: float = MISSING
    student_temperature: float = MISSING
    layer_decay: float = MISSING
    patch_embed_lr: float = MISSING
    decay_registers: bool = MISSING
    clip: float = MISSING
    drop_path: float = MISSING
    group: int = MISSING
    separate_heads: bool = MISSING
    prototypes: int = MISSING
    ibot_prototypes: int = MISSING
    bottleneck: int = MISSING
    ibot_bottleneck: int = MISSING
    head_hidden: int = MISSING
    centring: str = MISSING
    dino_weight: float = MISSING
    ibot_weight: float = MISSING
    koleo_weight: float = MISSING
    koleo_crops: int = MISSING
    mask_probability: float = MISSING
    mask_ratios: list[float] = field(default_factory=list)
    local_crops: int = MISSING
    local_size: int = MISSING
    global_scale: list[float] = field(default_factory=list)
    local_scale: list[float] = field(default_factory=list)
    invert_blur: bool = MISSING
    blur_sigma: list[float] = field(default_factory=list)
    start_from: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        clipped = "trainer.gradient_clip_val: each part of this recipe has its gradient clipped by itself; give clip="
        check("gradient_clip_val" not in self.trainer, clipped)
        known = ("sinkhorn", "moving_average")
        check(self.centring in known, f"centring={self.centring}: expected one of {', '.join(known)}")
        check_positive(self, "base_lr", "schedule_epochs", "clip", "student_temperature", "teacher_temperature_start")
        check_at_least(self, 1, "prototypes", "ibot_prototypes", "bottleneck", "ibot_bottleneck", "head_hidden")
        for name in ("warmup", "teacher_warmup", "freeze_last_layer"):
            value = getattr(self, name)
            check(0 <= value <= self.schedule_epochs, f"{name}={value}: must lie in [0, {self.schedule_epochs}]")
        check(0 <= self.drop_path < 1, f"drop_path={self.drop_path}: must lie in [0, 1)")
        check(0 <= self.momentum <= 1, f"momentum={self.momentum}: must lie in [0, 1]")
        check(self.koleo_crops in (1, 2), f"koleo_crops={self.koleo_crops}: expected 1 or 2")
        check_at_least(self, 0, "local_crops")
        check(self.group >= 2, f"group={self.group}: KoLeo needs at least 2 images to find a neighbour among")
        whole = f"batch_size={self.batch_size} is not a multiple of group={self.group}"
        check(self.batch_size % self.group == 0, f"{whole}; KoLeo, masks and drop path need whole groups")
        check(0 < self.mask_probability <= 1, f"mask_probability={self.mask_probability}: must lie in (0, 1]")
        held = f"device_batch={self.device_batch} is below group={self.group}"
        check(self.device_batch >= self.group, f"{held}; a device holds whole groups")
        inside = f"local_size={self.local_size} is above image_size={self.image_size}"
        check(self.local_size <= self.image_size, inside)
        for name in ("mask_ratios", "global_scale", "local_scale"):
            ends = getattr(self, name)
            ordered = len(ends) == 2 and 0 < ends[0] <= ends[1] <= 1
            check(ordered, f"{name}={ends}: expected two numbers in (0, 1], the smaller one first")
        check(len(self.blur_sigma) == 2, f"blur_sigma={self.blur_sigma}: expected two numbers")

    @property
    def lr(self) -> float:
        """Peak learning rate, scaled to the batch size."""
        return self.base_lr * float(np.sqrt(self.batch_size / 1024))


def check_crop(name: str, size: int, patch: int) -> None:
    """Check that the crop size is a multiple of the patch size.

    Raises:
        SettingsError: it is not; the message names the nearest valid sizes.
    """
    below = size // patch * patch
    nearest = " and ".join(str(valid) for valid in (below, below + patch) if valid > 0)
    check(
        size % patch == 0 and size > 0, f"{name}={size}: not a multiple of the patch size {patch}; nearest: {nearest}"
    )
