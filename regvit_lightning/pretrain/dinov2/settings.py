"""Settings of DINOv2 (Oquab et al. 2023, arXiv 2304.07193); their values are in `configs/recipes/dinov2*.yaml`."""

from dataclasses import dataclass

import numpy as np

from regvit_lightning.pretrain import recipe
from regvit_lightning.settings import MISSING, check, number


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
        group: images per group, as many as the original has on one GPU, among which KoLeo searches neighbours; at most
            `device_batch`.
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
        grey: probability of a grey crop.
        invert_blur: blur with probability 1 - p, as the released code does.
        blur_sigma: smallest and largest standard deviation of the blur in pixels.
        start_from: a `last.ckpt` of this recipe to initialise the weights from (for a final phase at a higher
            resolution); empty to train from scratch.
    """

    swiglu: bool = MISSING
    base_lr: float = number("(0, 100]")
    min_lr: float = number("[0, 100]")
    schedule_epochs: float = number("(0, 1e6]")
    warmup: float = number("[0, 1e6]")
    teacher_warmup: float = number("[0, 1e6]")
    freeze_last_layer: float = number("[0, 1e6]")
    weight_decay: float = number("[0, 100]")
    weight_decay_end: float = number("[0, 100]")
    momentum: float = number("[0, 1]")
    teacher_temperature_start: float = number("(0, 100]")
    teacher_temperature: float = number("(0, 100]")
    student_temperature: float = number("(0, 100]")
    layer_decay: float = number("(0, 1]")
    patch_embed_lr: float = number("[0, 100]")
    decay_registers: bool = MISSING
    clip: float = number("(0, 1e9]")
    drop_path: float = number("[0, 1)")
    group: int = number("[2, 1e5]")
    separate_heads: bool = MISSING
    prototypes: int = number("[1, 1e7]")
    ibot_prototypes: int = number("[1, 1e7]")
    bottleneck: int = number("[1, 65536]")
    ibot_bottleneck: int = number("[1, 65536]")
    head_hidden: int = number("[1, 65536]")
    centring: str = MISSING
    dino_weight: float = number("[0, 1e6]")
    ibot_weight: float = number("[0, 1e6]")
    koleo_weight: float = number("[0, 1e6]")
    koleo_crops: int = number("[1, 2]")
    mask_probability: float = number("(0, 1]")
    mask_ratios: list[float] = number("(0, 1]", pair=True)
    local_crops: int = number("[0, 1000]")
    local_size: int = number("[1, 1e4]")
    global_scale: list[float] = number("(0, 1]", pair=True)
    local_scale: list[float] = number("(0, 1]", pair=True)
    grey: float = number("[0, 1]")
    invert_blur: bool = MISSING
    blur_sigma: list[float] = number("(0, 1e3]", pair=True)
    start_from: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        clipped = "trainer.gradient_clip_val: each part of this recipe has its gradient clipped by itself; give clip="
        check("gradient_clip_val" not in self.trainer, clipped)
        known = ("sinkhorn", "moving_average")
        check(self.centring in known, f"centring={self.centring}: expected one of {', '.join(known)}")
        for name in ("warmup", "teacher_warmup", "freeze_last_layer"):
            value = getattr(self, name)
            longer = f"{name}={value:g} is above schedule_epochs={self.schedule_epochs:g}, the length of the run"
            check(value <= self.schedule_epochs, f"{longer}; give {name}=0 or a smaller one")
        whole = f"batch_size={self.batch_size} is not a multiple of group={self.group}"
        check(self.batch_size % self.group == 0, f"{whole}; KoLeo, masks and drop path need whole groups")
        held = f"device_batch={self.device_batch} is below group={self.group}"
        check(self.device_batch >= self.group, f"{held}; a device holds whole groups")
        inside = f"local_size={self.local_size} is above image_size={self.image_size}"
        check(self.local_size <= self.image_size, inside)

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
