"""OpenCLIP's training step: `open_clip_train.train` of mlfoundations/open_clip beside ours, on images in memory."""

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

MODEL, BATCH = "vits_reg0", 16
WIDTH, LAYERS, HEADS = 384, 12, 6  # of ViT-S


def rows(checkouts: Path) -> list[Measurement]:
    """Seconds of a step of theirs over ours, with towers of the same sizes."""
    from regvit_lightning.pretrain.openclip import OpenClip

    words = [f"batch_size={BATCH}", f"device_batch={BATCH}", "image_size=224", "warmup_steps=1", "text_layers=4"]
    chosen = settings.load_settings("recipes", "openclip", words=words)[1]
    with seeds.drawn_from(0, "initialise"):
        recipe = OpenClip(chosen, MODEL, 0, 1000, 0, epochs=1.0).to(hardware.accelerator())
    images = torch.randint(256, (BATCH, 3, 224, 224), dtype=torch.uint8, device=recipe.device)
    texts = torch.randint(1, 49406, (BATCH, chosen.context_length), device=recipe.device)
    texts[:, -1] = 49407  # the token of the end, at which a text is read
    name = f"OpenCLIP step / open_clip, {MODEL} 224 px, {chosen.text_layers} text blocks, batch {BATCH}"
    return [pairs.beside(name, our_step(recipe, images, texts), their_step(recipe, images, texts), "≥ 1")]


def our_step(recipe: Any, images: torch.Tensor, texts: torch.Tensor) -> Callable[[], None]:
    """Training step of the recipe, without Lightning."""
    from open_clip.loss import ClipLoss

    optimiser, contrast = recipe.configure_optimizers(), ClipLoss()
    vit.fuse_attention(recipe.backbone, recipe.device.type == "cuda")

    def step() -> None:
        with autocast():
            seen, read, _ = recipe.embed(images, texts)
        loss = contrast(seen.float(), read.float(), recipe.space.logit_scale.exp())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        recipe.space.clamp_scale()

    return step


def their_step(recipe: Any, images: torch.Tensor, texts: torch.Tensor) -> Callable[[], None]:
    """Their eager training step with towers of the same sizes; images are normalised in the step, as ours are."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    from open_clip.task import CLIPTask
    from open_clip_train.train import _train_step_eager

    s = recipe.settings
    vision = CLIPVisionCfg(layers=LAYERS, width=WIDTH, head_width=WIDTH // HEADS, patch_size=16, image_size=224)
    text = CLIPTextCfg(context_length=s.context_length, width=s.text_width, heads=s.text_heads, layers=s.text_layers)
    model = CLIP(s.embed_dim, vision, text, output_dict=True).to(recipe.device).train()
    task = CLIPTask(model, device=recipe.device, verbose=False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=s.lr, betas=(0.9, s.beta2), eps=s.epsilon)
    words = Namespace(accum_freq=1, grad_clip_norm=None, batch_size=len(images))

    def step() -> None:
        batch = {"image": recipe.normalise(images), "text": texts}
        _train_step_eager(task, batch, None, optimiser, None, autocast, words)

    return step
