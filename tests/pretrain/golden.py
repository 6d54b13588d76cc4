"""Losses of the first steps of a recipe, to be held against kept ones."""

from lightning.pytorch.callbacks import Callback

from regvit_lightning.pretrain import fit


class Losses(Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.values.append(float(outputs["loss"]))


def first_losses(run):
    """Of the first ten steps; also printed, to be kept anew."""
    losses = Losses()
    fit.fit(run, [losses])
    print([round(loss, 5) for loss in losses.values[:10]])
    return losses.values[:10]
