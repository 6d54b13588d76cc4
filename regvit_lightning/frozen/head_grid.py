"""A grid of classifiers on one frozen backbone: what every head predicts for held-out and for test images."""

from torch import Tensor
from torchmetrics.aggregation import CatMetric

from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.models.backbone import Backbone


class HeadGrid(FrozenModule):
    """Base of the probes that train many heads in one pass and choose one of them on held-out images.

    Args:
        backbone, precision: see `FrozenModule`.

    Attributes:
        held_out, test: (predictions (N, heads), labels (N,)), filled by validation and test.
    """

    held_out: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def __init__(self, backbone: Backbone, precision: str) -> None:
        super().__init__(backbone, precision)
        self.predicted, self.labels = CatMetric(), CatMetric()

    def predictions(self, images: Tensor) -> Tensor:
        """Predicted class of every head (B, heads) for uint8 images (B, 3, H, W)."""
        raise NotImplementedError

    def keep(self, predictions: Tensor, labels: Tensor) -> None:
        """Add the predictions (B, heads) and labels (B,) of a batch to those of the pass."""
        self.predicted.update(predictions)
        self.labels.update(labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.keep(self.predictions(batch[0]), batch[1])

    def on_validation_epoch_end(self) -> None:
        self.held_out = self._collect()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.keep(self.predictions(batch[0]), batch[1])

    def on_test_epoch_end(self) -> None:
        self.test = self._collect()

    def _collect(self) -> tuple[Tensor, Tensor]:
        collected = self.predicted.compute().long(), self.labels.compute().long()
        self.predicted.reset()
        self.labels.reset()
        return collected
