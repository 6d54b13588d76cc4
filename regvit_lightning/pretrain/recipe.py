"""Base of the pretraining recipes: common settings, seeding of each step, and the register ViT backbone."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, distributed, nn
from torch.utils.data import Dataset

from regvit_lightning.data.imagenet import Drawn, ImageFiles, collate, training_images
from regvit_lightning.data.images import Files
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Collate
from regvit_lightning.data.transforms import normalise
from regvit_lightning.errors import UserError, one_line
from regvit_lightning.models import EXPORT, vit, weights
from regvit_lightning.models.arms import global_pathway
from regvit_lightning.models.metadata import Metadata
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.pretrain import parallel, trainer_options
from regvit_lightning.pretrain.knn_callback import HeldOutKnn
from regvit_lightning.pretrain.register_terms import RegisterTerms
from regvit_lightning.runtime import hardware, loggers, seeds
from regvit_lightning.runtime.scheduled import ScheduledModule
from regvit_lightning.settings import MISSING, SettingsError, below, check, from_resolved, number, resolved
from regvit_lightning.work import ImageCounts, Pass, Work


@dataclass
class RecipeSettings:
    """Settings common to all recipes.

    Attributes:
        module: file of `regvit_lightning/pretrain/` with the recipe's `SETTINGS` and `RECIPE`.
        epochs: length of a run in passes over the data, which may be a fraction; null where `steps` gives it.
        steps: length of a run in optimiser steps; null where `epochs` gives it.
        batch_size: images per optimiser step over all devices; independent of their number.
        device_batch: images per device and forward pass; larger shares of a step are accumulated.
        images: training images: `imagenet` or `imagenet22k`, labelled images; `pairs`, images with captions.
        image_size: side of the training images in pixels.
        layer_scale: initial LayerScale value, null for none.
        precision: bf16-mixed, 16-mixed (with a gradient scaler) or 32-true; auto selects bf16-mixed where the hardware
            supports it, 16-mixed on other GPUs.
        workers: data-loading processes per device.
        checkpoint_every: steps between checkpoints.
        log_every: steps between logged scalars.
        norms_every: steps between measurements of the token norms of every block, 0 for none.
        keep_every: steps between backbones that are kept, in `steps/` of the run's folder, from step 0 on; 0 for none.
        grad_checkpointing: recompute the activations of the blocks in the backward pass instead of storing them; less
            memory, about a third more computation, the same weights.
        compile: run the blocks through torch.compile; the weights keep their names.
        strategy: strategy for several devices: `ddp`, or `fsdp` for a model that does not fit on one.
        monitor_every: steps between measurements of kNN on held-out train images and of other monitors of a recipe;
            0 for none.
        monitor_images: maximum number of train images for kNN.
        logger: tensorboard, csv, wandb or none.
        trainer: options of Lightning's Trainer, given as words `trainer.<name>=<value>`; see `trainer_options`.
        register_gram: weight of the mean squared cosine between the registers of an image, 0 for none; this and the
            next three are defined in `register_terms` and `register_dropout`.
        register_koleo: weight of KoLeo among the registers of an image, 0 for none.
        register_disjoint: weight of the overlap of the attention maps of the registers in the last block, 0 for none.
        register_dropout: probability that a register is left out of a training pass.
    """

    module: str = MISSING
    epochs: float | None = number("(0, 1e6]", None)
    steps: int | None = number("[1, 1e9]", None)
    batch_size: int = number("[1, 1e6]")
    device_batch: int = number("[1, 1e5]")
    images: str = MISSING
    image_size: int = number("[1, 1e4]")
    layer_scale: float | None = number("(0, 10]")
    precision: str = MISSING
    workers: int = number("[0, 256]")
    checkpoint_every: int = number("[1, 1e9]")
    log_every: int = number("[1, 1e9]")
    norms_every: int = number("[0, 1e9]")
    keep_every: int = number("[0, 1e9]", 0)
    grad_checkpointing: bool = False
    compile: bool = False
    strategy: str = "ddp"
    monitor_every: int = number("[0, 1e9]", 2500)
    monitor_images: int = number("[2, 1e9]", 20_000)
    logger: str = "tensorboard"
    trainer: dict[str, Any] = field(default_factory=dict)
    register_gram: float = number("[0, 1e6]", 0.0)
    register_koleo: float = number("[0, 1e6]", 0.0)
    register_disjoint: float = number("[0, 1e6]", 0.0)
    register_dropout: float = number("[0, 1)", 0.0)

    def __post_init__(self) -> None:
        both = f"epochs={self.epochs} and steps={self.steps} are two lengths; add epochs=null or steps=null"
        check(self.epochs is None or self.steps is None, both)
        check(self.epochs is not None or self.steps is not None, "a run has no length: give epochs= or steps=")
        self.precision = hardware.precision(self.precision, trained=True)
        loggers.check_kind(self.logger)
        trainer_options.check_options(self.trainer)
        known = ", ".join(parallel.STRATEGIES)
        check(self.strategy in parallel.STRATEGIES, f"strategy={self.strategy}: expected one of {known}")
        whole = self.strategy == "ddp" or self.norms_every == 0
        kept = self.strategy == "ddp" or self.keep_every == 0
        scaled = self.strategy == "ddp" or self.precision != "16-mixed"
        check(scaled, "precision=16-mixed: strategy=fsdp has no gradient scaler here; give bf16-mixed or 32-true")
        check(whole, f"norms_every={self.norms_every}: no device of strategy=fsdp holds the whole backbone; give 0")
        check(kept, f"keep_every={self.keep_every}: no device of strategy=fsdp holds the whole backbone; give 0")
        looks_inside = self.strategy == "ddp" or self.register_disjoint == 0
        sharded = "looks into the last block, whose weights strategy=fsdp shards; give strategy=ddp or 0"
        check(looks_inside, f"register_disjoint={self.register_disjoint:g}: {sharded}")

    def images_in_all(self, images: int) -> int:
        """Images drawn in a whole run, where the data has `images` of them."""
        if self.steps is not None:
            return self.steps * self.batch_size
        assert self.epochs is not None, "one of both is given"
        return int(round(self.epochs * images, 6))  # the product 0.29 * 100 is 28.999999999999996

    def steps_in_all(self, images: int) -> int:
        """Optimiser steps of a whole run, where the data has `images` images; 0 if they are fewer than one step's."""
        return self.images_in_all(images) // self.batch_size

    def epochs_in_all(self, images: int) -> float:
        """Passes over `images` images in a whole run."""
        return self.epochs if self.epochs is not None else self.images_in_all(images) / images


class Recipe(ScheduledModule):
    """Base class of the recipes: has `self.backbone`, a `RegisterViT`, and derives all randomness from (seed, step).

    A recipe's file defines `SETTINGS` (a `RecipeSettings`) and `RECIPE` (a subclass of this class), which adds
    `training_step`, `configure_optimizers`, `schedule` and `augmentation`. A recipe for data other than class folders
    overrides `files`, `dataset` and `collate`.

    Every checkpoint stores the arguments, so `load_from_checkpoint` needs nothing but the file.

    Args:
        settings: settings of the recipe, or their `settings.resolved` form.
        model: name of the register ViT.
        num_classes: number of classes of the data, for recipes with labels.
        steps: optimiser steps of the whole run.
        seed: seed of the initialisation and of all later randomness.
        epochs: passes over the data of the whole run, for settings in epochs; by default those of the settings.

    Raises:
        SettingsError: a setting does not fit the model.

    Attributes:
        SETTINGS: dataclass of the settings.
        register_terms: regularisers of the registers, and register dropout.
        MEAN, STD: per-channel mean and standard deviation of images in 0..1.
        repeats: times an image is drawn per epoch (repeated augmentation).
        collate: makes a batch from a list of samples.
    """

    SETTINGS: type[RecipeSettings] = RecipeSettings
    MEAN, STD = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    repeats: int = 1
    collate: Collate = staticmethod(collate)
    backbone: vit.RegisterViT
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        settings: RecipeSettings | Mapping[str, Any],
        model: str,
        num_classes: int,
        steps: int,
        seed: int,
        epochs: float | None = None,
    ) -> None:
        super().__init__()
        self.settings: Any = from_resolved(self.SETTINGS, settings)
        self.model, self.num_classes, self.steps, self.seed = model, num_classes, steps, seed
        self.epochs = epochs if epochs is not None else self.settings.epochs
        self.register_terms = RegisterTerms(self.settings, model)
        counts = {"num_classes": num_classes, "steps": steps, "seed": seed, "epochs": self.epochs}
        self.save_hyperparameters({"settings": resolved(self.settings), "model": model, **counts}, logger=False)
        self.register_buffer("mean", torch.tensor(self.MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(self.STD), persistent=False)

    @classmethod
    def files(cls, settings: Any, data: DataSettings) -> Files:
        """Training images: the train split of an image-folder data set, or labelled images in shards.

        Raises:
            DataError: the data is missing or incomplete.
        """
        return training_images(data, settings.images)

    @classmethod
    def work(cls, settings: Any, images: ImageCounts) -> Work:
        """Compute of a run: every image that is drawn, forward and backward."""
        count = settings.images_in_all(images[settings.images][0])
        return Work([Pass(count, settings.image_size, settings.image_size, trained=True)])

    def dataset(self, files: Files) -> Dataset[Any]:
        """Data set of training samples, indexed by (position in the run, index into `files`)."""
        return Drawn(cast(ImageFiles, files), self.augmentation(), self.seed, replace=True)

    def micro_batch(self) -> int:
        """Maximum number of images in a training batch of one device; a larger share of a step is accumulated."""
        return self.settings.device_batch

    def augmentation(self) -> Callable[[Image.Image], Any]:
        """Training transform of one image to uint8 (3, image_size, image_size), or to several such views by name."""
        raise NotImplementedError

    def examples(self, batch: dict[str, Any]) -> Tensor:
        """Network inputs of a batch for display, uint8 (n, 3, H, W)."""
        images: Tensor = batch["image"]
        return images

    def exports(self) -> Iterator[tuple[str, vit.RegisterViT]]:
        """Backbones to export at the end, by file name; evaluations use `EXPORT`, which comes last."""
        yield EXPORT, self.backbone

    def export(self, folder: Path, metadata: Metadata) -> None:
        """Write the exported weights of a finished run; `EXPORT`, which marks the run as finished, is written last.

        Raises:
            UserError: the folder cannot be written, or the disk is full.
        """
        for name, backbone in self.exports():
            weights.save(folder / name, backbone, metadata)

    def metadata(self, recipe: str) -> Metadata:
        """Metadata needed to rebuild the backbone from its weights; `recipe` is the name in `configs/recipes`."""
        return Metadata(
            name=self.model,
            recipe=recipe,
            image_size=self.settings.image_size,
            mean=self.MEAN,
            std=self.STD,
            layer_scale=self.settings.layer_scale,
            registers=self.backbone.num_reg_tokens,
            info={"steps": self.steps, "seed": self.seed, "settings": resolved(self.settings)},
            pre_norm=self.backbone.pre_norm,
            class_token=self.backbone.has_class_token,
        )

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *more: Any, **options: Any) -> Self:
        """Load a recipe with its weights from a checkpoint of a run, such as `last.ckpt`.

        `Recipe.load_from_checkpoint` determines the class of the recipe from the file.

        Args:
            checkpoint_path: path of the checkpoint.
            more, options: further arguments of Lightning's `load_from_checkpoint`.

        Raises:
            UserError: the file is not a checkpoint of a recipe.
        """
        kind = cls if cls is not Recipe else recipe_in(Path(checkpoint_path))
        return cast(Self, super(Recipe, kind).load_from_checkpoint(checkpoint_path, *more, **options))

    def forward(self, images: Tensor) -> Tokens:
        """Tokens after the final norm for uint8 images (B, 3, H, W) whose sides are multiples of the patch size.

        Raises:
            SettingsError: the images have another shape or dtype.
        """
        known = images.ndim == 4 and images.shape[1] == 3 and images.dtype == torch.uint8
        check(known, f"images: expected uint8 (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        return self.backbone.tokens(self.normalise(images))

    def name_backbone(self, recipe: str) -> Metadata:
        """Store the metadata of the backbone in every checkpoint, see `metadata`."""
        metadata = self.metadata(recipe)
        self.save_hyperparameters({"backbone": asdict(metadata)}, logger=False)
        return metadata

    def normalise(self, images: Tensor) -> Tensor:
        """Convert uint8 images (B, 3, H, W) to the normalised float input of the backbone."""
        return normalise(images, self.mean, self.std)

    def log_means(self, values: Mapping[str, Tensor]) -> None:
        """Log scalars of a step as `train/<name>`, as means over all devices.

        Lightning's `sync_dist` has the same values, but all processes wait for each other and their GPUs at each one.
        """
        means = torch.stack([value.detach().float() for value in values.values()])
        if distributed.is_initialized():
            distributed.all_reduce(means)
            means = means / distributed.get_world_size()
        self.log_dict({f"train/{name}": mean for name, mean in zip(values, means, strict=True)})

    def with_register_terms(self, loss: Tensor, terms: Tensor) -> Tensor:
        """Add the weighted terms of the registers to the loss of a step, and log each; unchanged without any.

        Args:
            loss: of the recipe itself.
            terms: see `register_terms.Seen`.
        """
        if not self.register_terms.names:
            return loss
        self.log_means(dict(zip(self.register_terms.names, terms, strict=True)))
        return loss + terms.sum()

    def with_common_mode(self, loss: Tensor, shares: Sequence[Tensor]) -> Tensor:
        """Add the common-mode penalty of the arm `global` to the loss of a step, and log it; unchanged without shares.

        Args:
            loss: of the recipe itself.
            shares: see `global_pathway.collected`.
        """
        if not shares:
            return loss
        penalty = global_pathway.penalty(shares)
        self.log_means({"common_mode": penalty})
        return loss + penalty

    def blocks(self) -> Iterator[nn.Module]:
        """Transformer blocks of every register ViT in the recipe; each is compiled and sharded separately."""
        for model in self._models():
            yield from model.blocks

    def setup(self, stage: str) -> None:
        if "backbone" not in self.hparams:  # lets the checkpoint itself be evaluated
            self.name_backbone(self.settings.module)
        for model in self._models():
            # The fused kernel's backward pass is slow on CPUs: it doubles the step time of the nano model.
            vit.fuse_attention(model, self.trainer.strategy.root_device.type != "cpu")
            model.set_grad_checkpointing(self.settings.grad_checkpointing)
        # The input of the last block is read by a hook, which compiled blocks ignore.
        read = [model.blocks[-1] for model in self._models()] if self.settings.register_disjoint else []
        for block in self.blocks() if self.settings.compile else ():
            if block not in read:
                block.compile()  # in place, so the weights' names get no `_orig_mod`

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # only with strategy=fsdp, once Lightning has set up the processes
            parallel.shard(self, self.blocks(), self.device_mesh["data_parallel"])

    def _models(self) -> list[vit.RegisterViT]:
        return [module for module in self.modules() if isinstance(module, vit.RegisterViT)]

    def configure_callbacks(self) -> list[Callback]:
        s = self.settings
        return [HeldOutKnn(s.monitor_every, s.monitor_images, s.device_batch, s.workers)] if s.monitor_every else []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        seeds.seed_global(self.seed, "step", batch_idx, self.global_rank)
        # As in the code of DINOv2, OpenCLIP and timm. The products of monitors between the steps are computed in full.
        hardware.round_products(self.settings.precision != "32-true")

    def on_after_backward(self) -> None:
        hardware.round_products(False)


def recipe_class(module: str) -> type[Recipe]:
    """Recipe class defined in a module of `regvit_lightning/pretrain/`.

    Raises:
        SettingsError: there is no such module, or it defines no recipe.
    """
    recipe: type[Recipe] | None = getattr(importlib.import_module(below("pretrain", module)), "RECIPE", None)
    if recipe is None:
        raise SettingsError(f"module: {module}: regvit_lightning/pretrain/{module} defines no recipe")
    return recipe


def recipe_in(checkpoint: Path) -> type[Recipe]:
    """Class of the recipe that wrote a checkpoint.

    Raises:
        UserError: the file is not a checkpoint of a recipe.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return recipe_class(content["hyper_parameters"]["settings"]["module"])
    except Exception as error:  # on damaged files the unpickler may raise almost any exception
        raise UserError(f"{checkpoint}: not a checkpoint of a pretraining recipe ({one_line(error)})") from None


def example_grid(images: Tensor, count: int = 32) -> npt.NDArray[np.uint8]:
    """First `count` uint8 images of a batch (n, 3, H, W) as one image grid (H, W, 3), eight per row."""
    from torchvision.utils import make_grid

    grid: Tensor = make_grid(images[:count].cpu(), nrow=8, padding=2, pad_value=255)
    return grid.permute(1, 2, 0).numpy()
