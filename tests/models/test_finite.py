"""NaN and infinite values: in weights, refused at load; in features, at every output and in every task."""

import pytest
import torch
from safetensors.torch import save_file

from regvit_lightning import evaluation
from regvit_lightning.errors import UserError
from regvit_lightning.models import joint_space, weights
from regvit_lightning.models.sources import load_backbone
from tests.models.test_weights import METADATA, ours
from tests.models.test_weights import tiny as foreign


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_not_finite_are_refused_with_the_first_tensor(tmp_path, value, suffix):
    state = foreign().state_dict()
    state["blocks.2.mlp.fc2.bias"][7] = value
    (save_file if suffix == ".safetensors" else torch.save)(state, tmp_path / f"x{suffix}")
    with pytest.raises(UserError, match=r"blocks\.2\.mlp\.fc2\.bias has 1 values that are NaN or infinite, of 96"):
        load_backbone(tmp_path / f"x{suffix}")


def test_an_export_and_a_released_model_are_checked_too(tmp_path, monkeypatch):
    model = ours()
    model.blocks[3].norm1.weight.data[0] = float("nan")
    weights.save(tmp_path / "backbone.safetensors", model, METADATA)
    with pytest.raises(UserError, match=r"blocks\.3\.norm1\.weight"):
        load_backbone(tmp_path / "backbone.safetensors")
    build = weights.vit.build
    monkeypatch.setattr(weights.vit, "build", lambda *words, **more: build(*words, **more).apply(_spoil))
    with pytest.raises(UserError, match="NaN or infinite"):
        load_backbone("random-vitn_reg4")


def _spoil(module):
    if isinstance(module, torch.nn.LayerNorm):
        module.weight.data[0] = float("nan")


CELLS = {
    "imagenet_knn": {"neighbours": [1, 5]},
    **{
        task: {}
        for task in ("imagenet_linear", "imagenet_attentive", "artifact_report", "ade20k_linear", "nyud_linear1")
    },
    **{task: {} for task in ("lost_voc07", "tokencut_voc07")},
}


def overflowing(name="random-vitn_reg4", image=None):
    """A backbone whose last block but one overflows, for all images or for one of the batch, as in half precision."""
    backbone = load_backbone(name, image_size=32)

    def spoil(_, __, output):
        spoiled = output.clone()
        spoiled[slice(None) if image is None else slice(image, image + 1), -1, 3] = float("inf")
        return spoiled

    backbone.model.blocks[-2].register_forward_hook(spoil)
    return backbone


@torch.no_grad()
def test_every_output_of_a_backbone_names_image_and_block():
    images, backbone = torch.randn(3, 3, 32, 32), overflowing(image=1)
    last = backbone.depth - 1
    with pytest.raises(UserError, match=rf"patches after block {last - 1} of image 1 of a batch of 3 .* precision="):
        backbone(images, blocks=(0, -2), norm=False)
    backbone(images, blocks=(0,))  # what is not reached is not checked
    for output in (backbone, backbone.last_block, backbone.projections):
        with pytest.raises(UserError, match=rf"block {last} of image 1 of a batch of 3|last block of image 1"):
            output(images)
    with pytest.raises(UserError, match=rf"tokens after block {last - 1} of a batch"):
        backbone.walk(images, lambda stage, tokens: None)


@pytest.mark.parametrize("task", CELLS)
def test_no_task_answers(tiny, tmp_path, task):
    with pytest.raises(UserError, match="NaN or infinite"):
        evaluation.evaluate(overflowing(), task, tiny, folder=tmp_path, settings={"workers": 0, **CELLS[task]})


def test_zero_shot_does_not_answer(tiny, tmp_path):
    path, model = tmp_path / "backbone.safetensors", ours()
    weights.save(path, model, METADATA)
    space = joint_space.JointSpace(joint_space.TextArchitecture(64, 1, 1, 16, 32), 96)
    joint_space.save(tmp_path / "text.safetensors", space, weights.fingerprint(model.state_dict()))
    with pytest.raises(UserError, match="NaN or infinite"):
        evaluation.evaluate(overflowing(path), "imagenet_zeroshot", tiny, folder=tmp_path, settings={"workers": 0})


def test_a_text_tower_that_is_not_finite_is_refused(tmp_path):
    architecture = joint_space.TextArchitecture(64, 1, 1, 16, 32)
    space = joint_space.JointSpace(architecture, 96)
    space.projection.data[0, 0] = float("nan")
    joint_space.save(tmp_path / "text.safetensors", space, "abc")
    (tmp_path / "backbone.safetensors").touch()
    with pytest.raises(UserError, match="projection has 1 values that are NaN or infinite"):
        joint_space.load_joint_space(tmp_path / "backbone.safetensors", "m", "abc")
