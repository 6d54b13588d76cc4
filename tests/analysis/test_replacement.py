"""Replacement of registers: what must change nothing, what every block then sees, and models without registers."""

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from regvit_lightning.analysis import replacement
from regvit_lightning.errors import UserError
from regvit_lightning.models import sources
from regvit_lightning.models.backbone import Backbone


def model(name: str = "random-vitn_reg4") -> Backbone:
    """Weights that make every tensor matter."""
    backbone = sources.load_backbone(name, "runs", image_size=32)
    generator = torch.Generator().manual_seed(0)
    for parameter in backbone.model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return backbone


def images(batch, seed=1):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def same(first, second):
    return torch.equal(first.cls, second.cls) and torch.equal(first.patches, second.patches)


def registers_of(backbone, x):
    """(M, depth, R, D)."""
    return torch.stack([tokens.registers for tokens in outputs(backbone, x)], dim=1)


@torch.inference_mode()
def outputs(backbone, x, stand_ins=None, seed=0):
    if stand_ins is None:
        return backbone(x, range(backbone.depth), norm=False)
    with replacement.replaced(backbone, stand_ins, seed):
        return backbone(x, range(backbone.depth), norm=False)


@pytest.mark.parametrize("kind", ["mean", "noise", "shuffle"])
def test_the_registers_of_the_image_itself_change_nothing(kind):
    # The only reference image is the image: it is its own mean, has no variance and is shuffled with itself.
    backbone, x = model(), images(1)
    own = replacement.stand_ins(kind, registers_of(backbone, x))
    assert all(same(*pair) for pair in zip(outputs(backbone, x), outputs(backbone, x, own), strict=True))


@pytest.mark.parametrize("kind", ["mean", "noise", "shuffle"])
def test_registers_that_are_the_same_for_every_image(kind):
    backbone = model()
    for block in backbone.model.blocks:
        nn.init.zeros_(block.attn.proj.weight)  # registers no longer hear of the image
    reference = registers_of(backbone, torch.cat([images(3), images(2, seed=2)]))
    assert reference.shape == (5, 4, 4, 96)
    x = images(4, seed=3)
    for before, after in zip(
        outputs(backbone, x), outputs(backbone, x, replacement.stand_ins(kind, reference)), strict=True
    ):
        torch.testing.assert_close(before.registers, after.registers, atol=1e-5, rtol=1e-5)


def test_every_block_gives_out_the_stand_ins():
    backbone, x = model(), images(6)
    stand_ins = torch.randn(3, backbone.depth, 4, 96)
    for block, tokens in enumerate(outputs(backbone, x, stand_ins)):
        known = (tokens.registers[:, None] == stand_ins[:, block]).all(dim=(2, 3))
        assert known.sum(dim=1).tolist() == [1] * 6
    before, after = outputs(backbone, x), outputs(backbone, x, stand_ins)
    assert same(before[0], after[0])  # the first block still reads the model's own registers
    assert not same(before[1], after[1])
    assert replacement.patch_change(before[0], after[0]).allclose(torch.ones(6))
    assert (replacement.patch_change(before[-1], after[-1]) < 1 - 1e-4).all()


def test_a_row_stands_for_all_blocks_of_an_image():
    backbone, x = model(), images(8)
    stand_ins = torch.arange(3.0).view(3, 1, 1, 1).expand(3, backbone.depth, 4, 96)
    found = torch.stack([tokens.registers[:, 0, 0] for tokens in outputs(backbone, x, stand_ins)])
    assert (found == found[0]).all()
    assert found[0].unique().numel() > 1


@hypothesis_settings(max_examples=10, deadline=None)
@given(split=st.integers(1, 4), seed=st.integers(0, 5))
def test_what_an_image_gets_does_not_depend_on_the_batch(split, seed):
    backbone, x = model(), images(5)
    stand_ins = torch.randn(7, backbone.depth, 4, 96, generator=torch.Generator().manual_seed(seed))
    whole = outputs(backbone, x, stand_ins, seed)[-1].registers
    with replacement.replaced(backbone, stand_ins, seed), torch.inference_mode():
        parts = [backbone(part, norm=False).registers for part in (x[:split], x[split:])]
    assert torch.equal(whole, torch.cat(parts))


def test_afterwards_the_model_is_as_before():
    backbone, x = model(), images(2)
    before = outputs(backbone, x)
    with pytest.raises(ZeroDivisionError), replacement.replaced(backbone, torch.zeros(1, 4, 4, 96)):
        raise ZeroDivisionError
    assert all(same(*pair) for pair in zip(before, outputs(backbone, x), strict=True))


def test_noise_has_the_mean_and_variance_of_the_registers():
    registers = torch.randn(4000, 2, 3, 1) * torch.tensor([1.0, 2, 3]).view(3, 1) + torch.tensor([[[5.0]], [[-5.0]]])
    noise = replacement.stand_ins("noise", registers)
    torch.testing.assert_close(noise.mean(dim=0), registers.mean(dim=0), atol=0.2, rtol=0)
    torch.testing.assert_close(noise.std(dim=0), registers.std(dim=0), atol=0, rtol=0.1)
    assert not torch.equal(noise, registers)
    assert torch.equal(noise, replacement.stand_ins("noise", registers))
    assert not torch.equal(noise, replacement.stand_ins("noise", registers, seed=1))
    with pytest.raises(KeyError):
        replacement.stand_ins("one", registers)


def test_a_model_without_registers_says_so():
    with (
        pytest.raises(UserError, match="random-vitn_reg0: has no registers, so there is nothing to replace"),
        replacement.replaced(model("random-vitn_reg0"), torch.zeros(1, 4, 1, 96)),
    ):
        pass


def test_images_seen_before_count():
    backbone, x = model(), images(5)
    stand_ins = torch.randn(7, backbone.depth, 4, 96)
    whole = outputs(backbone, x, stand_ins)[-1].registers
    with replacement.replaced(backbone, stand_ins, first=3), torch.inference_mode():
        rest = backbone(x[3:], norm=False).registers
    assert torch.equal(whole[3:], rest)


def means_file(path, depth=4, shape=(4, 96), **changed):
    means = {block: torch.full(shape, float(block)) for block in range(depth)}
    torch.save({**means, **{int(block): values for block, values in changed.items()}}, path)
    return path


def test_means_from_a_file_replace_the_registers_of_their_block(tmp_path):
    backbone, x = model(), images(2)
    means = replacement.read_means(means_file(tmp_path / "means.pt"), backbone)
    assert means.shape == (1, 4, 4, 96)
    for block, tokens in enumerate(outputs(backbone, x, means)):
        assert (tokens.registers == block).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"depth": 3}, r"means.pt: blocks 0 to 2 \(3\); random-vitn_reg4 has blocks 0 to 3$"),
        ({"depth": 5}, r"blocks 0 to 4 \(5\); random-vitn_reg4 has blocks 0 to 3$"),
        ({"shape": (4, 384)}, r"block 0 is \(4, 384\); random-vitn_reg4 has 4 registers of 96 dimensions, so expected"),
        ({"2": torch.zeros(96)}, r"block 2 is \(96,\); .* expected \(4, 96\)$"),
        ({"2": [1.0]}, r"block 2 is list; .* expected \(4, 96\)$"),
        ({"1": torch.full((4, 96), float("nan"))}, "block 1 has a value that is not finite$"),
    ],
)
def test_means_that_do_not_fit(tmp_path, given, message):
    with pytest.raises(UserError, match=message) as error:
        replacement.read_means(means_file(tmp_path / "means.pt", **given), model())
    assert "\n" not in str(error.value)


def test_files_that_are_no_means(tmp_path):
    file = tmp_path / "means.pt"
    with pytest.raises(UserError, match=r"means\.pt: no such file$"):
        replacement.read_means(file, model())
    file.write_text("text")
    with pytest.raises(UserError, match=r"means.pt: not a PyTorch file \(.*\)$"):
        replacement.read_means(file, model())
    torch.save(torch.zeros(4, 4, 96), file)
    with pytest.raises(UserError, match=r"means\.pt: a Tensor, expected a dictionary"):
        replacement.read_means(file, model())
    with pytest.raises(UserError, match="random-vitn_reg0 has no registers"):
        replacement.read_means(means_file(file), model("random-vitn_reg0"))
