"""Passes of a search for register neurons over its images, with the model as it is and with every intervention."""

import copy
import time
from functools import cached_property
from typing import TYPE_CHECKING

from benchmarks import progress
from regvit_lightning.analysis import neuron_search
from regvit_lightning.analysis.neuron_search import Effect, NeuronPass, Outliers, RegisterPass, Scored, Search
from regvit_lightning.analysis.norms import NormPass, Norms
from regvit_lightning.data import digest
from regvit_lightning.data.imagenet import ImageNet, train_files
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.data.transforms import centre_crop
from regvit_lightning.frozen import dense
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models import names
from regvit_lightning.models.interventions import WithBias, WithRegister
from regvit_lightning.models.register_neurons import MeanRegister, RegisterNeurons
from regvit_lightning.models.vit_backbone import ViTBackbone

if TYPE_CHECKING:
    from benchmarks.neurons.__main__ import FindNeurons


Effects = dict[str, Effect]
Means = dict[str, MeanRegister]


class Passes:
    """Train images of a data set, passed through a model in the order of their list, in float32.

    Args:
        plain: the model, which is not changed.
        data: location and layout of the images.
        options: settings of the program.

    Raises:
        UserError: a setting names a block that the model does not have.
        DataError: the images are missing or incomplete.
    """

    def __init__(self, plain: ViTBackbone, data: DataSettings, options: "FindNeurons") -> None:
        self.plain, self.data, self.options = plain, data, options
        self.search = Search(
            options.score, options.detect, options.threshold, options.first_block, options.top_block, options.top_k
        )
        neuron_search.require_blocks(plain.name, self.search, plain.depth)
        every = train_files(data)
        self.files = every.subset(dense.examples(len(every), options.images))
        crop = options.size or plain.image_size
        self.resize, self.crop = round(crop * plain.transform.resize / plain.transform.crop), crop
        self.begun = time.monotonic()

    @property
    def view_in_words(self) -> str:
        return f"resize {self.resize}, centre crop {self.crop}, bicubic"

    @property
    def in_words(self) -> str:
        """The images: `500 train images of full at 224 px`."""
        return f"{len(self.files):,} train images of {self.data.name} at {self.crop} px"

    @property
    def seconds(self) -> float:
        """Time since the passes were prepared."""
        return time.monotonic() - self.begun

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digest of each split of the data."""
        return digest.digests(self.data, "imagenet")

    def detect(self) -> tuple[Outliers, Effect]:
        """Outliers of the plain model, and its norms as the effect of nothing.

        Raises:
            UserError: there is nothing to repair, see `neuron_search.detect`.
        """
        norms = self._norms(NormPass(self.plain, neuron_search.PRECISION), "norms")
        detected = neuron_search.detect(self.plain.name, norms, self.search)
        return detected, neuron_search.effect(norms, detected)

    def scored(self, detected: Outliers) -> list[Scored]:
        """All neurons of the blocks of the search by descending score; of all blocks for a known list."""
        module = NeuronPass(self.plain, detected.masks)
        self._over(module, "neurons")
        first, top = (0, self.plain.depth - 1) if self.options.known else (self.search.first_block, detected.top_block)
        return neuron_search.ranked(module.activation, module.elsewhere, self.search.score, first, top)

    def effects(self, neurons: RegisterNeurons, detected: Outliers) -> tuple[Effects, Means]:
        """Effect of every intervention by the model's name, and the mean register by the value that it holds."""
        effects: Effects = {}
        means: Means = {}
        for value in (names.PER_NEURON, names.PER_BLOCK):
            register = RegisterPass(WithRegister(copy.deepcopy(self.plain), neurons, value))
            name = register.frozen.backbone.name
            effects[name] = neuron_search.effect(self._norms(register, name), detected)
            means[value] = register.mean_register
            bias = WithBias(copy.deepcopy(self.plain), neurons, means[value], value)
            effects[bias.name] = neuron_search.effect(
                self._norms(NormPass(bias, neuron_search.PRECISION), bias.name), detected
            )
        return effects, means

    def _norms(self, module: NormPass, title: str) -> Norms:
        self._over(module, title)
        return module.norms

    def _over(self, module: FrozenModule, title: str) -> None:
        loading = Loading(self.options.workers, self.options.device_batch)
        images = ImageNet(loading, test=[(self.files, centre_crop(self.resize, self.crop))])
        Tester(RunOptions(callbacks=[progress.Progress(f"neurons: {title}")])).test(module, images, verbose=False)
