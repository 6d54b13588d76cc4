"""Features of a frozen backbone computed once: where a training run has no augmentation, its steps share them.

A head that is trained for hundreds of steps on a small set asks for the same features again and again. Without
augmentation they do not change: each training view goes through the backbone once, and the steps draw from what is
kept.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.data.stream import Stream
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.settings import check

Sample = dict[str, Tensor]
MOST_MEMORY = 0.5  # share of the machine's memory that kept features may fill


class Keeper(Protocol):
    """Task module that can be trained on kept features."""

    def samples(self, batch: Any) -> list[Sample]:
        """Training samples of a batch of the validation pass, without augmentation: features and labels by name."""
        ...


class KeptSamples(Dataset[Sample]):
    """Training samples indexed by (position in the run, index of the sample)."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: tuple[int, int]) -> Sample:
        return self.samples[draw[1]]


class KeepingPass(FrozenModule):
    """Validation pass that collects the training samples of another module.

    Args:
        backbone, precision: those of `module`.
        module: computes the samples.
        batches: number of batches of the pass.
    """

    validates_on = "train images"
    shares_passes = True

    def __init__(self, backbone: Backbone, precision: str, module: Keeper, batches: int) -> None:
        super().__init__(backbone, precision)
        self.module, self.batches, self.samples = module, batches, list[Sample]()

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        samples = [{name: value.cpu() for name, value in one.items()} for one in self.module.samples(batch)]
        if batch_idx == 0:
            check_memory(size(samples) * self.batches)
        return samples

    def validated(self, measured: list[Sample]) -> None:
        self.samples += measured


def keep(module: FrozenModule, images: Streamed, how: RunOptions) -> list[Sample]:
    """Training samples of `module`, a `Keeper`, from the validation pass of `images`, in its order.

    Raises:
        SettingsError: they would fill more than `MOST_MEMORY` of the machine's memory.
    """
    batches = sum(len(loader) for loader in images.val_dataloader())
    keeping = KeepingPass(module.frozen.backbone, module.frozen.precision, module, batches)  # type: ignore[arg-type]
    Tester(how).validate(keeping, images, verbose=False)
    # Autograd refuses tensors made in inference mode: copies made outside of it are ordinary ones.
    return [{name: value.clone() for name, value in sample.items()} for sample in keeping.samples]


def drawn(samples: Sequence[Sample], stream: Stream) -> Streamed:
    """The training run `stream` over kept samples; `stream.size` is their number."""
    return Streamed(Loading(workers=0, device_batch=stream.batch_size), stream, KeptSamples(samples))


def size(samples: Iterable[Sample]) -> int:
    """Bytes of all tensors of the samples."""
    return sum(value.numel() * value.element_size() for sample in samples for value in sample.values())


def check_memory(needed: int) -> None:
    """Raise `SettingsError` if `needed` bytes are more than `MOST_MEMORY` of the machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    too_large = (
        f"augment=false keeps {needed / 1e9:.1f} GB of features, more than half of {memory / 1e9:.1f} GB of memory"
    )
    check(needed <= MOST_MEMORY * memory, f"{too_large}: give augment=true, or fewer images")
