"""LightningDataModule of the training images of a recipe: one process builds the index, all processes read it."""

from typing import Any

from torch.utils.data import DataLoader

from regvit_lightning.data.images import Files
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import InParts, Loading, Streamed
from regvit_lightning.data.stream import Stream
from regvit_lightning.pretrain.recipe import Recipe, RecipeSettings, recipe_class
from regvit_lightning.settings import check


class PretrainingData(Streamed):
    """Training batches of a recipe, in the order of its sample stream.

    After `prepare_data` and `setup`, `num_classes` and `steps`, which the recipe is built with, are available.

    Args:
        settings: settings of the recipe.
        data: location of the images.
        seed: seed of the sampling order.
    """

    def __init__(self, settings: RecipeSettings, data: DataSettings, seed: int) -> None:
        super().__init__(Loading(settings.workers, settings.device_batch))
        self.prepare_data_per_node = False  # all nodes see the same files
        self.settings, self.data, self.seed = settings, data, seed
        self.indexed: Files | None = None

    def prepare_data(self) -> None:
        """Index the images; Lightning calls this in one process. The index is cached on disk, where the others read it.

        Raises:
            DataError: the data is missing, incomplete or damaged.
        """
        if self.indexed is None:
            self.indexed = recipe_class(self.settings.module).files(self.settings, self.data)

    def setup(self, stage: str) -> None:
        """Open the index; Lightning calls this in every process.

        Raises:
            DataError: the data is missing, incomplete or damaged.
            SettingsError: there are fewer images than one step needs.
        """
        self.prepare_data()
        epochs, batch_size = self.settings.epochs, self.settings.batch_size
        draws = f"the {epochs * len(self.files)} images of {epochs} epochs"
        check(self.steps > 0, f"batch_size={batch_size} is above {draws}")

    @property
    def files(self) -> Files:
        """Index of the training images."""
        assert self.indexed is not None, "prepare_data comes first"
        return self.indexed

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for images without labels."""
        return len(self.files.classes)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.settings.epochs * len(self.files) // self.settings.batch_size

    def train_dataloader(self) -> DataLoader[Any] | InParts:
        """Loader of per-device micro-batches, starting at the step that the run has reached."""
        assert self.trainer is not None, "the recipe that is trained augments the images"
        recipe = self.trainer.lightning_module
        assert isinstance(recipe, Recipe), "a recipe of regvit_lightning/pretrain"
        self.loading = Loading(self.settings.workers, recipe.micro_batch(), decoded_batch=self.settings.device_batch)
        self.stream = Stream(len(self.files), self.settings.batch_size, self.steps, self.seed, recipe.repeats)
        self.train, self.collate_train = recipe.dataset(self.files), recipe.collate
        return super().train_dataloader()
