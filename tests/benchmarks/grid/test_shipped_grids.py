"""The shipped grids hold what the registers paper trained and measured (arXiv 2309.16588: section 3, tables 2, 3)."""

import pytest

from benchmarks.grid import cells as grids
from regvit_lightning import settings
from regvit_lightning.models import arms, catalogue, names
from regvit_lightning.settings import SettingsError

FROZEN = {"imagenet_knn", "imagenet_linear", "ade20k_linear", "nyud_linear1"}
DISCOVERY = {"lost_voc07", "lost_voc12", "lost_coco20k"}


@pytest.fixture
def built(monkeypatch, tmp_path):
    monkeypatch.delenv("DATA_ROOT", raising=False)

    def build(grid):
        chosen = grids.Chosen(grid=grid, data="full", pretrain=True, runs=str(tmp_path), results=str(tmp_path))
        return grids.build(chosen, images_needed=False)

    return build


def test_paper_holds_the_three_families_with_and_without_four_registers(built):
    """Section 3: DeiT-III ViT-B, OpenCLIP ViT-B/16, DINOv2 ViT-L/14; table 2b: zero-shot of OpenCLIP alone."""
    cells = built("paper").cells
    families = ("deit3-vitb", "openclip-vitb", "dinov2-vitl14")
    models = {f"{family}_reg{count}" for family in families for count in (0, 4)}
    assert {cell.model for cell in cells} == models
    assert {cell.seed for cell in cells} == {0, 1, 2}
    tasks = {model: {cell.task for cell in cells if cell.model == model} for model in models}
    for model, of_model in tasks.items():
        assert of_model >= FROZEN | DISCOVERY | {"artifact_report", grids.PRETRAINING}
        assert ("imagenet_zeroshot" in of_model) == model.startswith("openclip")


def test_registers_is_the_ablation_of_dinov2(built):
    """Fig. 8: DINOv2 ViT-L/14 with 0, 1, 2, 4, 8 and 16 registers."""
    cells = built("registers").cells
    models = [f"dinov2-vitl14_reg{count}" for count in (0, 1, 2, 4, 8, 16)]
    assert list(dict.fromkeys(cell.model for cell in cells if not cell.pretrains)) == models
    assert {cell.task for cell in cells} >= FROZEN | {grids.PRETRAINING}


def small(tmp_path, grid, seeds):
    chosen = grids.Chosen(grid=grid, seeds=seeds, pretrain=True, runs=str(tmp_path), results=str(tmp_path))
    return grids.build(chosen, images_needed=False).cells


def test_mini_paper_has_three_seeds_and_four_numbers_of_registers_for_a_curve(tmp_path):
    cells = small(tmp_path, "mini-paper", "all")
    assert {cell.seed for cell in cells} == {0, 1, 2}
    assert {f"deit3-vitn_reg{count}" for count in (0, 1, 4, 8)} <= {cell.model for cell in cells}
    assert {(cell.model, cell.task) for cell in small(tmp_path, "demo", "all")} <= {(c.model, c.task) for c in cells}


def test_diversity_has_each_term_of_the_registers_by_itself(tmp_path):
    cells = [cell for cell in small(tmp_path, "diversity", "all") if cell.pretrains]
    terms = {cell.model: cell.words for cell in cells if "+" in cell.model}
    assert {words[0].partition("=")[0] for words in terms.values()} == {
        "register_gram",
        "register_koleo",
        "register_disjoint",
        "register_dropout",
    }
    assert all(model.endswith("-vitn_reg4") for model in terms)
    assert all(set(words[1:]) <= {"monitor_every=0"} for words in terms.values()), "nothing else that changes weights"
    assert {cell.model for cell in cells} - terms.keys() == {f"deit3-vitn_reg{count}" for count in (0, 1, 4)}
    assert {cell.seed for cell in cells} == {0, 1, 2}


def test_arms_trains_every_arm_and_its_plain_models_at_equal_settings(tmp_path):
    cells = [cell for cell in small(tmp_path, "arms", "all") if cell.pretrains]
    models = {names.parse_id(cell.model).name for cell in cells}
    assert {names.arm_of(model) for model in models} == {*arms.DESCRIPTIONS, arms.NONE}
    assert {names.without_arm(model) for model in models} <= models, "each arm has its plain twin"
    assert len({cell.words for cell in cells}) == 1
    assert {cell.seed for cell in cells} == {0, 1, 2}


def test_released_is_the_catalogue(built):
    cells = built("released").cells
    assert list(dict.fromkeys(cell.model for cell in cells)) == [entry.name for entry in catalogue.entries()]
    assert {cell.task for cell in cells} >= FROZEN | DISCOVERY | {"artifact_report"}


# Files of configs/tasks without a cell in grid everything: for sets of one's own, for one that is not rendered, and for
# classifiers that a model was released with.
NOT_RENDERED = {"keypoints", "geometry", "vos", "vos_dinov3", "retrieval", "rparis6k", "own_head"}


def test_everything_has_a_cell_of_every_task(tmp_path):
    cells = [cell for cell in small(tmp_path, "everything", "all") if not cell.pretrains]
    files = {file.stem for file in (settings.CONFIGS / "tasks").glob("*.yaml") if "." not in file.stem}
    taken = {max((f for f in files if f"{cell.task}_".startswith(f"{f}_")), key=len) for cell in cells}
    assert files - taken == NOT_RENDERED
    models = {cell.model for cell in cells}
    assert {"random-vitn_reg4", "deit3-vitn_reg0", "deit3-vitn_reg4"} <= models
    tasks = {model: {cell.task for cell in cells if cell.model == model} for model in models}
    assert tasks["deit3-vitn_reg4"] - tasks["deit3-vitn_reg0"] == {"register_discovery_voc07"}
    captions = {"imagenet_zeroshot", "text_report"}
    assert [model for model, of in tasks.items() if captions <= of] == ["openclip-vitn_reg4"]


def test_some_seeds_of_a_grid(tmp_path):
    assert {cell.seed for cell in small(tmp_path, "demo", "2,0")} == {0, 2}
    assert len(small(tmp_path, "demo", "0")) * 3 == len(small(tmp_path, "demo", "all"))
    for strange in ("3", "0,", "x", "0;1"):
        with pytest.raises(SettingsError, match=f"seeds={strange}: grid demo has 0, 1, 2; give some of them, or all"):
            small(tmp_path, "demo", strange)
