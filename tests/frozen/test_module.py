"""Heads on frozen backbones: their checkpoints hold what builds them again, but for the backbone."""

import warnings
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from regvit_lightning import settings
from regvit_lightning.models import sources
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks.attentive.probe import AttentiveProbe
from regvit_lightning.tasks.depth import DepthHead
from regvit_lightning.tasks.linear import LinearProbe
from regvit_lightning.tasks.segmentation import Segmenter

HEADS = {
    "imagenet_linear": (LinearProbe, {"classes": 5}),
    "imagenet_attentive": (AttentiveProbe, {"classes": 5}),
    "ade20k_linear": (Segmenter, {"classes": 5, "seed": 3}),
    "nyud_linear1": (DepthHead, {"seed": 3}),
}


def nano():
    return sources.load_backbone("random-vitn_reg4", Path("runs"), image_size=64)


def checkpoint(module, path):
    """What Lightning writes for a module."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(params=HEADS)
def kept(request, tmp_path):
    """A head away from its initialisation, its class, and its checkpoint."""
    kind, more = HEADS[request.param]
    chosen = settings.load_settings("tasks", request.param, "mini", ["precision=32-true"])[1]
    module = kind(nano(), chosen, **more)
    for weight in module.head_state().values():
        weight.data.add_(1)
    return module, kind, checkpoint(module, tmp_path / "last.ckpt")


def test_a_checkpoint_needs_the_backbone_and_nothing_else(kept):
    module, kind, path = kept
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found keys")  # Lightning's, of weights that the file does not hold
        found = kind.load_from_checkpoint(path, backbone=nano())
    assert found.settings == module.settings
    assert vars(found).get("classes") == vars(module).get("classes")
    assert found.seed == module.seed
    ours, theirs = found.state_dict(), module.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_it_holds_the_head_alone_and_nothing_that_is_executed(kept):
    module, _, path = kept
    content = torch.load(path, weights_only=True)
    assert content["state_dict"].keys() == module.head_state().keys()
    assert not [name for name in content["state_dict"] if "blocks" in name]


def test_a_head_that_lacks_weights_is_refused(kept):
    _, kind, path = kept
    content = torch.load(path, weights_only=True)
    lost = next(iter(content["state_dict"]))
    del content["state_dict"][lost]
    torch.save(content, path)
    with pytest.raises(RuntimeError, match=f"Missing key.*{lost}"):
        kind.load_from_checkpoint(path, backbone=nano())


def test_settings_of_another_head_are_refused():
    chosen = settings.load_settings("tasks", "nyud_linear1", "mini", ["precision=32-true"])[1]
    with pytest.raises(SettingsError, match="not settings of LinearSettings"):
        LinearProbe(nano(), settings.resolved(chosen), 5)
