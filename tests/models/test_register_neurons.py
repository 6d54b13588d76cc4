"""Files of register neurons: where they lie, what they hold, and models that are named with an intervention."""

from pathlib import Path

import pytest
import torch

from regvit_lightning import load_backbone
from regvit_lightning.errors import UserError
from regvit_lightning.models import names, origins, register_neurons, sources
from regvit_lightning.models.names import Intervention, intervention
from regvit_lightning.models.register_neurons import MeanRegister, RegisterNeurons

MODEL = "random-vitn_reg0"


def kept(runs: Path, seed: int = 0) -> RegisterNeurons:
    """A list of the model, with its means."""
    plain = load_backbone(MODEL, runs, seed, image_size=32)
    file = register_neurons.path(MODEL, runs, seed)
    neurons = RegisterNeurons({3: (9, 2), 1: (7,)}, plain.fingerprint, "a test", file)
    register_neurons.write(file, neurons, plain.name, {"images": 5, "settings": {"score": "contrast", "top_k": None}})
    means = MeanRegister(torch.rand(4, 3, 32), torch.rand(4, 3, 32))
    register_neurons.write_means(file.with_suffix(".safetensors"), neurons, {"per_neuron": means})
    return neurons


@pytest.mark.parametrize(
    ("name", "plain", "kind", "value"),
    [
        ("deit3-vitb_reg0+ttr", "deit3-vitb_reg0", "ttr", "per_neuron"),
        ("deit3+a-vitb_reg4+ttr_per_block", "deit3+a-vitb_reg4", "ttr", "per_block"),
        ("timm/vit_large_patch14_dinov2.lvd142m+bias", "timm/vit_large_patch14_dinov2.lvd142m", "bias", "per_neuron"),
        ("a/moco.pth:heads=12+bias_per_block", "a/moco.pth:heads=12", "bias", "per_block"),
    ],
)
def test_names_with_an_intervention(name, plain, kind, value):
    parts = intervention(name)
    assert parts == (plain, Intervention(kind, value))
    assert f"{plain}{parts[1]}" == name
    assert origins.is_file(name) == origins.is_file(plain)
    assert origins.origin(name) == origins.origin(plain)
    assert names.SAFE.fullmatch(origins.record_id(name))


@pytest.mark.parametrize("name", ["deit3-vitb_reg0", "deit3+ttr-vitb_reg0", "a+tt", "+ttr", "a+ttr_per_neuron"])
def test_names_without_one(name):
    assert intervention(name) == (name, None)


def test_a_list_is_read_as_it_was_written(tmp_path):
    neurons = kept(tmp_path)
    again = register_neurons.read(neurons.file)
    assert again == RegisterNeurons({1: (7,), 3: (9, 2)}, neurons.weights, "a test", neurons.file)
    assert len(again) == 3
    assert again.digest == neurons.digest == RegisterNeurons({1: (7,), 3: (2, 9)}).digest
    assert again.digest != RegisterNeurons({1: (7,), 3: (2,)}).digest


def test_a_model_by_its_name(tmp_path):
    kept(tmp_path)
    made = {
        name: load_backbone(f"{MODEL}+{name}", tmp_path, image_size=32) for name in ("ttr", "ttr_per_block", "bias")
    }
    assert [model.name for model in made.values()] == [f"{MODEL}+{name}" for name in made]
    assert [model.num_registers for model in made.values()] == [1, 1, 0]
    plain = load_backbone(MODEL, tmp_path, image_size=32)
    assert len({plain.fingerprint, *(model.fingerprint for model in made.values())}) == 4
    x = torch.randn(1, 3, 32, 32)
    assert made["ttr"](x).registers.shape == (1, 1, 96)
    assert made["bias"](x).patches.shape == (1, 4, 4, 96)
    (list_file,) = sources.weights_files(f"{MODEL}+ttr", tmp_path, 0)
    assert sources.weights_files(f"{MODEL}+bias", tmp_path, 0) == [list_file, list_file.with_suffix(".safetensors")]


def test_a_list_of_other_weights_is_refused(tmp_path):
    file = kept(tmp_path).file
    file.rename(register_neurons.path(MODEL, tmp_path, 1))
    with pytest.raises(UserError, match=r"belongs to weights \w+, those of random-vitn_reg0 are \w+"):
        load_backbone(f"{MODEL}+ttr", tmp_path, seed=1, image_size=32)


def test_no_list_is_one_line_with_the_command(tmp_path):
    with pytest.raises(
        UserError, match=r"no register neurons of random-vitn_reg0 .*make neurons MODEL=random-vitn_reg0"
    ):
        load_backbone(f"{MODEL}+ttr", tmp_path)
    with pytest.raises(UserError, match="SEED=3, with DATA= of its images"):
        load_backbone(f"{MODEL}+ttr", tmp_path, seed=3)


def test_no_means_is_one_line_with_the_command(tmp_path):
    neurons = kept(tmp_path)
    with pytest.raises(UserError, match="does not belong to"):  # there are none of this value
        load_backbone(f"{MODEL}+bias_per_block", tmp_path, image_size=32)
    neurons.means_file.unlink()
    with pytest.raises(UserError, match="mean key and value of its register are not measured: make neurons"):
        load_backbone(f"{MODEL}+bias", tmp_path, image_size=32)


def test_means_of_another_list_are_refused(tmp_path):
    """A list that was changed by hand, or replaced, has the means of what it was."""
    file = kept(tmp_path).file
    file.write_text(file.read_text().replace("1: [7]", "1: [8]"))
    with pytest.raises(UserError, match=r"safetensors: does not belong to .*make both anew by `make neurons`"):
        load_backbone(f"{MODEL}+bias", tmp_path, image_size=32)
    assert load_backbone(f"{MODEL}+ttr", tmp_path, image_size=32).neurons.blocks[1] == (8,)


def test_a_model_of_a_function_needs_blocks(tmp_path):
    script = tmp_path / "own.py"
    script.write_text(
        "import torch\n"
        "class Own(torch.nn.Module):\n"
        "    image_size, mean, std = 8, (0.5,) * 3, (0.5,) * 3\n"
        "    def forward(self, x):\n"
        "        return {'patches': x.unfold(2, 4, 4).unfold(3, 4, 4).mean((-2, -1)).permute(0, 2, 3, 1)}\n"
    )
    name = f"python:{script}:Own"
    file = register_neurons.path(name, tmp_path, 0)
    register_neurons.write(file, RegisterNeurons({}), "own", {})
    with pytest.raises(UserError, match="needs the blocks of a plain ViT"):
        load_backbone(f"{name}+ttr", tmp_path)


@pytest.mark.parametrize(
    "model",
    [
        "timm/vit_large_patch14_dinov2.lvd142m",
        "timm/vit_large_patch14_dinov2",
        "hf/facebook/dinov2-large",
        "weights/dinov2_vitl14_pretrain.pth",
    ],
)
def test_the_published_list_of_dinov2(model, tmp_path):
    neurons = register_neurons.read(register_neurons.file_of(model, tmp_path, 0))
    assert {block: len(chosen) for block, chosen in neurons.blocks.items()} == {
        12: 1,
        13: 1,
        14: 8,
        15: 9,
        16: 9,
        17: 17,
    }
    assert len(neurons) == 45
    assert sum(sum(chosen) for chosen in neurons.blocks.values()) == 94_828
    assert max(max(chosen) for chosen in neurons.blocks.values()) < 4096
    assert not neurons.weights


def test_own_neurons_go_before_published_ones(tmp_path):
    model = "timm/vit_large_patch14_dinov2.lvd142m"
    own = register_neurons.path(model, tmp_path, 0)
    register_neurons.write(own, RegisterNeurons({0: (1,)}), "m", {})
    assert register_neurons.file_of(model, tmp_path, 0) == own
    assert register_neurons.path(model, tmp_path, 1) == own  # released weights have no seed


def test_files_of_one_name_have_lists_of_their_own(tmp_path):
    one, other = (register_neurons.path(f"{folder}/model.safetensors", tmp_path, 0) for folder in ("a", "b"))
    assert one != other
    assert one.parent == other.parent == tmp_path / "neurons"


@pytest.mark.parametrize(
    "text",
    ["neurons: [1]", "neurons: {a: [1]}", "neurons: {1: 2}", "neurons: {1: [1, 1]}", "neurons: {1: [-1]}", "a: 1", "["],
)
def test_damaged_lists_are_one_line(text, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=r"x\.yaml: (expected neurons: as lists|not readable)"):
        register_neurons.read(tmp_path / "x.yaml")


@pytest.mark.parametrize("model", [MODEL, "deit3-vitn_reg0", "deit3+a-vitn_reg0"])
def test_seeds_of_a_model_have_lists_of_their_own(model, tmp_path):
    assert register_neurons.path(model, tmp_path, 0) != register_neurons.path(model, tmp_path, 1)
