"""timm's training loop: `train_one_epoch` of its train.py with DeiT-III's settings beside our recipe's step.

The same sizes, loss, mixing of images, optimiser (LAMB) and moving average, on images in memory.
"""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.peers import pairs
from benchmarks.speed.timing import Measurement, autocast
from regvit_lightning import settings
from regvit_lightning.models import vit
from regvit_lightning.runtime import hardware, seeds

MODEL, THEIRS, CLASSES, BATCH, SIZE, STEPS = "vits_reg0", "vit_small_patch16_224", 1000, 8, 224, 2


def rows(checkouts: Path) -> list[Measurement]:
    """Seconds of two steps of theirs over two of ours."""
    from regvit_lightning.pretrain.deit3 import DeiT3

    words = [f"batch_size={BATCH}", f"device_batch={BATCH}", f"image_size={SIZE}", "drop_path=0.05"]
    chosen = settings.load_settings("recipes", "deit3_in1k", words=words)[1]
    with seeds.drawn_from(0, "initialise"):
        recipe = DeiT3(chosen, MODEL, CLASSES, 100_000, 0).to(hardware.accelerator()).train()
    images = torch.randint(256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8, device=recipe.device)
    labels = torch.randint(CLASSES, (BATCH,), device=recipe.device)
    name = f"DeiT-III step / timm's train.py, {MODEL} {SIZE} px, batch {BATCH}"
    return [pairs.beside(name, our_steps(recipe, images, labels), their_steps(recipe, images, labels), "≥ 1")]


def our_steps(recipe: Any, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """Training steps of the recipe, without Lightning."""
    optimiser = recipe.configure_optimizers()
    vit.fuse_attention(recipe.backbone, recipe.device.type == "cuda")
    recipe.log = lambda *_, **__: None  # there is no trainer

    def steps() -> None:
        for _ in range(STEPS):
            with autocast():
                loss = recipe.training_step({"image": images, "label": labels}, 0)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            recipe.ema.update_parameters(recipe.backbone)

    return steps


def their_steps(recipe: Any, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """An epoch of two batches in their loop; images are normalised for each, as ours are."""
    import train  # of the checkout
    from timm import create_model
    from timm.data import Mixup
    from timm.loss import BinaryCrossEntropy
    from timm.optim import Lamb, param_groups_weight_decay
    from timm.task import ClassificationTask

    s = recipe.settings
    model = create_model(THEIRS, num_classes=CLASSES, drop_path_rate=s.drop_path, init_values=s.layer_scale)
    model = model.to(recipe.device)
    task = ClassificationTask(model, BinaryCrossEntropy(smoothing=0.0, target_threshold=0.0), verbose=False)
    task.setup_ema(decay=s.ema_decay)
    optimiser = Lamb(param_groups_weight_decay(model, s.weight_decay), lr=1e-4)
    mix = Mixup(s.mixup, s.cutmix, label_smoothing=0.0, num_classes=CLASSES)
    off = dict.fromkeys(("mixup_off_epoch", "prefetcher", "distributed", "channels_last", "synchronize_step"), False)
    words = Namespace(**off, grad_accum_steps=1, clip_grad=None, clip_mode="norm", log_interval=10**9, rank=1)
    words.save_images = words.recovery_interval = False

    def steps() -> None:
        loader = [(recipe.normalise(images), labels)] * STEPS
        train.train_one_epoch(
            0, model, loader, optimiser, words, task, recipe.device, amp_autocast=autocast, mixup_fn=mix
        )

    return steps
