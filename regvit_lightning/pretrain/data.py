"""The training images of a recipe as a LightningDataModule: indexed by one process, read by all."""

from typing import Any

from torch.utils.data import DataLoader

from regvit_lightning.data.images import Files
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.data.stream import Stream
from regvit_lightning.pretrain.recipe import Recipe, RecipeSettings, recipe_class
from regvit_lightning.settings import check


class PretrainingData(Streamed):
    """Batches of the recipe that is being trained, in the order of its stream.

    After `prepare_data` and `setup` it knows what a recipe is built with: `num_classes` and `steps`.

    Args:
        settings: of the recipe.
        data: where the images are.
        seed: of the order.
    """

    def __init__(self, settings: RecipeSettings, data: DataSettings, seed: int) -> None:
        super().__init__(Loading(settings.workers, settings.device_batch))
        self.prepare_data_per_node = False  # all machines see the same files
        self.settings, self.data, self.seed = settings, data, seed
        self.indexed: Files | None = None

    def prepare_data(self) -> None:
        """List the images; Lightning asks one process to. The index is kept beside them, so the others read it.

        Raises:
            DataError: the data is missing, incomplete or damaged.
        """
        if self.indexed is None:
            self.indexed = recipe_class(self.settings.module).files(self.settings, self.data)

    def setup(self, stage: str) -> None:
        """Open the index, in every process.

        Raises:
            DataError: the data is missing, incomplete or damaged.
            SettingsError: there are fewer images than a step takes.
        """
        self.prepare_data()
        epochs, batch_size = self.settings.epochs, self.settings.batch_size
        draws = f"the {epochs * len(self.files)} images of {epochs} epochs"
        check(self.steps > 0, f"batch_size={batch_size} is above {draws}")

    @property
    def files(self) -> Files:
        """The images."""
        assert self.indexed is not None, "prepare_data comes first"
        return self.indexed

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 for images without labels."""
        return len(self.files.classes)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.settings.epochs * len(self.files) // self.settings.batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        """The stream, from the step that the run has reached, in batches of one device."""
        assert self.trainer is not None, "the recipe that is trained augments the images"
        recipe = self.trainer.lightning_module
        assert isinstance(recipe, Recipe), "a recipe of regvit_lightning/pretrain"
        self.loading = Loading(self.settings.workers, recipe.micro_batch())
        self.stream = Stream(len(self.files), self.settings.batch_size, self.steps, self.seed, recipe.repeats)
        self.train, self.collate_train = recipe.dataset(self.files), recipe.collate
        return super().train_dataloader()
