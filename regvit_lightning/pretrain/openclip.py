"""OpenCLIP: contrastive image-text pretraining (Radford et al. 2021, arXiv 2103.00020), the text-supervised family.

Text tower, tokenizer and loss are those of open_clip; the image tower is the register ViT with CLIP's norm before the
first block. How the registers paper inserts registers here is not published: in this code they stand between CLS and
the patches and pass through that norm as CLS does. Hyperparameters are in `configs/recipes/openclip*.yaml`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from open_clip.loss import ClipLoss
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from regvit_lightning.data.augmentation import ResizedCrop
from regvit_lightning.data.images import Files
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.pairs import CaptionedImages, DrawnCaptionedImages, collate_pairs, train_pairs
from regvit_lightning.data.transforms import Steps, with_crop
from regvit_lightning.models import joint_space, vit, weights
from regvit_lightning.models.arms import NOT_DECAYED, global_pathway
from regvit_lightning.models.joint_space import JointSpace, TextArchitecture
from regvit_lightning.models.metadata import Metadata
from regvit_lightning.pretrain import recipe
from regvit_lightning.schedules import cosine
from regvit_lightning.settings import check, number
from regvit_lightning.work import ImageCounts, Pass, Work


@dataclass
class OpenClipSettings(recipe.RecipeSettings):
    """Settings of OpenCLIP.

    Attributes:
        lr: peak learning rate; not scaled by the batch size.
        warmup_steps: steps of the linear warm-up.
        weight_decay: not applied to biases, norms, CLS, registers and the logit scale.
        beta2, epsilon: AdamW's beta2 and epsilon.
        smallest_crop: smallest area of a random crop, as a share of the image.
        draft: decode a large JPEG at 1/2, 1/4 or 1/8 of its size where the crop stays twice as large as the view.
        embed_dim: dimension of the joint space of images and texts.
        text_width, text_layers, text_heads, context_length: size of the text tower, see `TextArchitecture`; start and
            end are two tokens of a context.
        monitor_every: must be 0, as kNN on held-out images needs labels, which pairs do not have.
    """

    lr: float = number("(0, 100]")
    warmup_steps: int = number("[0, 1e9]")
    weight_decay: float = number("[0, 100]")
    beta2: float = number("[0, 1)")
    epsilon: float = number("(0, 1]")
    smallest_crop: float = number("(0, 1]")
    draft: bool = False
    embed_dim: int = number("[1, 65536]")
    text_width: int = number("[1, 65536]")
    text_layers: int = number("[1, 1000]")
    text_heads: int = number("[1, 1024]")
    context_length: int = number("[3, 8192]")
    monitor_every: int = number("[0, 1e9]", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.images == "pairs", f"images={self.images}: this recipe trains on pairs of image and caption")
        check(self.monitor_every == 0, f"monitor_every={self.monitor_every}: kNN needs labels, which pairs do not have")
        check(self.batch_size > 1, f"batch_size={self.batch_size}: each pair is contrasted with others, so at least 2")
        heads = f"text_width={self.text_width} is not a multiple of text_heads={self.text_heads}"
        check(self.text_width % self.text_heads == 0, heads)


class OpenClip(recipe.Recipe):
    """Register ViT and text tower, trained by contrasting each pair with all others in the global batch."""

    MEAN, STD = OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    collate = staticmethod(collate_pairs)
    SETTINGS = OpenClipSettings
    settings: OpenClipSettings

    def __init__(
        self,
        settings: OpenClipSettings | Mapping[str, Any],
        model: str,
        num_classes: int,
        steps: int,
        seed: int,
        epochs: float | None = None,
    ) -> None:
        super().__init__(settings, model, num_classes, steps, seed, epochs)
        settings = self.settings
        longer = f"warmup_steps={settings.warmup_steps} is above the {steps} steps of the run"
        check(settings.warmup_steps <= steps, f"{longer}; give warmup_steps=0 or a smaller one, or a longer run")
        options: dict[str, Any] = {"image_size": settings.image_size, "layer_scale": settings.layer_scale}
        self.backbone = vit.build(model, **options, pre_norm=True)
        draw_image_tower(self.backbone)
        self.space = JointSpace(
            TextArchitecture(
                width=settings.text_width,
                layers=settings.text_layers,
                heads=settings.text_heads,
                context_length=settings.context_length,
                embed_dim=settings.embed_dim,
            ),
            self.backbone.embed_dim,
        )

    @classmethod
    def files(cls, settings: OpenClipSettings, data: DataSettings) -> Files:
        """Training image–text pairs.

        Raises:
            DataError: the data is missing, incomplete or damaged.
        """
        return train_pairs(data)

    @classmethod
    def work(cls, settings: OpenClipSettings, images: ImageCounts) -> Work:
        """Compute of a run: every pair that is drawn, forward and backward through both towers."""
        count, side = settings.images_in_all(images["pairs"][0]), settings.image_size
        return Work([Pass(count, side, side, trained=True, more_macs=_text_macs(settings))])

    def dataset(self, files: Files) -> DrawnCaptionedImages:
        """Data set of augmented images with the tokens of their captions."""
        return DrawnCaptionedImages(cast(CaptionedImages, files), self.augmentation(), self.space.tokenize, self.seed)

    def micro_batch(self) -> int:
        """Whole batch as one micro-batch, for a loss over all pairs; `device_batch` splits the passes, see `embed`."""
        return self.settings.batch_size

    def augmentation(self) -> Steps:
        """OpenCLIP's only augmentation: a random crop of at least `smallest_crop` of the image."""
        crop = ResizedCrop(self.settings.image_size, (self.settings.smallest_crop, 1.0))
        return with_crop(crop, (), self.settings.draft)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        with global_pathway.collected(self.backbone.blocks) as shares:
            images, texts, terms = self.embed(batch["image"], batch["text"])
        contrast = ClipLoss(
            local_loss=True,  # each device contrasts its pairs with the features of all; the mean is the full loss
            gather_with_grad=True,
            rank=self.global_rank,
            world_size=self.trainer.world_size,
        )
        with torch.autocast(self.device.type, enabled=False):  # logits in float32: the scale multiplies errors by 100
            loss: Tensor = contrast(images, texts, self.space.logit_scale.exp())
        loss = self.with_register_terms(self.with_common_mode(loss, shares), terms)
        self.log_means({"loss": loss})
        self.log("train/logit_scale", self.space.logit_scale.exp())
        return loss

    def blocks(self) -> Iterator[nn.Module]:
        """Transformer blocks of both towers."""
        yield from super().blocks()
        yield from self.space.text.transformer.resblocks

    def embed(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors (B, E) of images uint8 (B, 3, H, W) and of texts (B, L), `device_batch` at a time.

        The third output are the weighted terms of the registers, see `register_terms.Seen`.

        A larger batch passes through the towers in chunks, which the backward pass recomputes (as in GradCache, Gao et
        al. 2021, arXiv 2101.06983): memory is that of one chunk, the gradient that of the whole batch.
        """
        size = self.settings.device_batch
        if len(images) <= size:
            return self._towers(images, texts)
        parts = zip(images.split(size), texts.split(size), strict=True)
        done = [cast(tuple[Tensor, ...], checkpoint(self._towers, *part, use_reentrant=False)) for part in parts]
        seen, read, terms = zip(*done, strict=True)
        weighted = [term * (len(part) / len(images)) for term, part in zip(terms, seen, strict=True)]
        return torch.cat(seen), torch.cat(read), torch.stack(weighted).sum(dim=0)

    def _towers(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with self.register_terms.seen_in(self.backbone, self.register_terms.drawn(len(images))) as seen:
            cls = self.backbone(self.normalise(images))
        return self.space.images(cls), self.space.texts(texts), seen.terms

    def configure_optimizers(self) -> torch.optim.AdamW:
        settings = self.settings
        betas = (0.9, settings.beta2)
        groups = parameter_groups(self, settings.weight_decay)
        # A fused AdamW would unscale the gradients of fp16 itself, after their norm is logged.
        fused = settings.precision != "16-mixed"
        return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.epsilon, fused=fused)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.space.clamp_scale()

    def schedule(self, step: int) -> dict[str, float]:
        """Learning rate: linear warm-up from lr / warmup_steps, then cosine decay to 0."""
        warmup, lr = self.settings.warmup_steps, self.settings.lr
        return {"lr": lr * (step + 1) / warmup if step < warmup else cosine(step - warmup, self.steps - warmup, lr)}

    def export(self, folder: Path, metadata: Metadata) -> None:
        """Write the text tower and projection for zero-shot, then the image tower as the backbone for all tasks."""
        joint_space.save(folder / joint_space.TEXT, self.space, weights.fingerprint(self.backbone.state_dict()))
        super().export(folder, metadata)


SETTINGS, RECIPE = OpenClipSettings, OpenClip


@torch.no_grad()
def draw_image_tower(backbone: vit.RegisterViT) -> None:
    """Initialise an image tower as open_clip does: tokens from N(0, 1 / D), linear layers by PyTorch's defaults.

    CLS starts as the sum of open_clip's class embedding and its position entry, so with variance 2 / D. Registers have
    no position entry; smaller values, such as 1e-6, would be divided by the square root of the epsilon of the norm
    before the first block.

    Args:
        backbone: image tower of width D with an MLP in each block; its patch embedding and norms are left as they are.
    """
    scale = backbone.embed_dim**-0.5
    stds = {backbone.cls_token: math.sqrt(2) * scale, backbone.reg_token: scale, backbone.pos_embed: scale}
    for token, std in stds.items():
        if token is not None:
            nn.init.normal_(token, std=std)
    for block in cast(Any, backbone.blocks):
        nn.init.xavier_uniform_(block.attn.qkv.weight)  # as in PyTorch's MultiheadAttention, whose biases are 0
        for linear in (block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            linear.reset_parameters()
        nn.init.zeros_(block.attn.proj.bias)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """OpenCLIP's two parameter groups: tensors with at most one axis (norms, biases, logit scale) have no weight decay.

    CLS and registers are single vectors stored in timm's (1, N, D), so they have none either; position embeddings do.
    """
    single: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        token = name.endswith(("cls_token", "reg_token", *NOT_DECAYED))
        (single if parameter.ndim < 2 or token else decayed).append(parameter)
    return [{"params": single, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]


def _text_macs(settings: OpenClipSettings) -> int:
    """MACs of the text tower's matrix products for one text, with an MLP ratio of 4; see `vit.block_macs`."""
    tokens, width = settings.context_length, settings.text_width
    return settings.text_layers * (12 * tokens * width**2 + 2 * tokens**2 * width)
