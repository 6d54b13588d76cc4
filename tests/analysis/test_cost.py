"""The cost of registers against published numbers, against `vit.block_macs` and against what torch counts."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from regvit_lightning.analysis import cost
from regvit_lightning.errors import UserError
from regvit_lightning.models import sources, vit
from tests.models.test_backbones import images, tiny

RUNS = Path("no-runs-here")

# Matrix products of the blocks, more than without registers, in percent (paper, fig. 12, recomputed).
FIG12 = {
    ("vitl14_reg0", 224): {1: 0.40, 2: 0.81, 4: 1.62, 8: 3.24, 16: 6.49},
    ("vitb_reg0", 224): {1: 0.53, 2: 1.06, 4: 2.12, 8: 4.23, 16: 8.48},
    ("vitl14_reg4", 518): {1: 0.09, 2: 0.17, 4: 0.35, 8: 0.69, 16: 1.38},
    ("deit3-vitb_reg16", 224): {1: 0.53, 2: 1.06, 4: 2.12, 8: 4.23, 16: 8.48},
    ("timm/vit_large_patch14_reg4_dinov2", 518): {1: 0.09, 2: 0.17, 4: 0.35, 8: 0.69, 16: 1.38},
}


@pytest.mark.parametrize(("name", "size"), FIG12)
def test_fig_12(name, size):
    rows = cost.table(cost.load_shape(name, RUNS), size)
    assert [row.registers for row in rows] == [0, 1, 2, 4, 8, 16]
    assert (rows[0].more_macs, rows[0].more_parameters) == (0, 0)
    assert {row.registers: round(row.more_macs, 2) for row in rows[1:]} == pytest.approx(FIG12[name, size], abs=0.0101)


def test_four_registers_of_a_vit_l_are_4096_parameters():
    rows = {row.registers: row for row in cost.table(cost.load_shape("vitl14_reg16", RUNS))}
    assert rows[4].parameters - rows[0].parameters == 4096
    assert rows[0].parameters == pytest.approx(304e6, rel=0.01)
    assert rows[4].more_parameters == pytest.approx(0.0013, abs=1e-4)


@pytest.mark.parametrize("name", ["vitn_reg4", "vitg_reg2", "vitb_reg0"])
def test_products_are_those_of_the_architecture(name):
    architecture, registers = vit.parse_name(name)
    backbone = cost.load_shape(name, RUNS)
    size = 4 * architecture.patch_size
    assert cost.macs(backbone, registers, size) == vit.block_macs(architecture, registers, size)


@pytest.mark.parametrize("family", ["registers", "eva02", "no prefix"])
def test_products_are_those_that_torch_counts(family):
    backbone = tiny(family)
    for block in backbone.model.blocks:
        block.attn.fused_attn = False
    inside = []
    for block in backbone.model.blocks:
        block.register_forward_pre_hook(lambda *_: inside.append(-counter.get_total_flops()))
        block.register_forward_hook(lambda *_: inside.append(counter.get_total_flops()))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        backbone(images(backbone.image_size, batch=1))
    assert sum(inside) == 2 * cost.macs(backbone, backbone.num_registers, backbone.image_size)


def test_no_weights_are_made_for_a_shape_but_those_of_a_file_are_read(tmp_path):
    assert all(value.is_meta for value in cost.load_shape("random-vitg_reg4", RUNS).parameters())
    torch.save(vit.build("vitn_reg4", image_size=32).state_dict(), tmp_path / "theirs.pth")
    path = str(tmp_path / "theirs.pth")
    assert cost.table(cost.load_shape(path, RUNS)) == cost.table(sources.load_backbone(path, RUNS))
    with pytest.raises(UserError, match="unknown model"):
        cost.load_shape("vitq_reg4", RUNS)
