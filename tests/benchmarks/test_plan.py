"""Plans against numbers computed by hand."""

import pytest

from benchmarks.grid import cells as grids
from benchmarks.grid.estimates import Estimates
from tests.benchmarks.test_chain import mistake, program

# ViT-N: 4 blocks, D = 96, hidden 384, patches of 8: a token costs 4 D² + 2 · 96 · 384 = 110,592 multiply-adds in a
# block, attention 2 T² D. With 4 registers at 64 px T = 1 + 4 + 64 = 69:
NANO_64 = 4 * (69 * 110_592 + 2 * 69**2 * 96)  # 34,179,840
# at 104 × 136 px T = 5 + 13 · 17 = 226, at 120 × 160 px T = 5 + 15 · 20 = 305
NANO_104, NANO_120 = 4 * (226 * 110_592 + 2 * 226**2 * 96), 4 * (305 * 110_592 + 2 * 305**2 * 96)
# CLIP's text tower of the mini recipe: 2 blocks of width 64 on 32 tokens, 12 T d² + 2 T² d each
TEXT = 2 * (12 * 32 * 64**2 + 2 * 32**2 * 64)

MULTIPLY_ADDS = {
    "imagenet_knn": (4800 + 960) * NANO_64,
    "imagenet_linear": (80 * 256 + 480 + 960) * NANO_64,  # a tenth of 4,800 is held out
    "imagenet_zeroshot": 960 * NANO_64,
    "ade20k_linear": (150 * 16 + 80 * 2 * 3) * NANO_64,  # 96 × 128 px: 2 × 3 windows of 64 px, 43 px apart
    "nyud_linear1": 100 * 16 * NANO_104 + 40 * 2 * NANO_120,
    "pretrain": 3 * 32 * 1600 * (NANO_64 + TEXT),
}


@pytest.fixture
def words(tmp_path):
    tasks = ", ".join(task for task in MULTIPLY_ADDS if task != "pretrain")
    (tmp_path / "small.yaml").write_text(f"models: [openclip-vitn_reg4]\ntasks: [{tasks}]\nseeds: [0]\n")
    return [f"grid={tmp_path}/small.yaml", f"runs={tmp_path}/runs", f"results={tmp_path}/results"]


def rows(shown):
    lines = [line.strip("| ").split("|") for line in shown.splitlines() if line.startswith("| ")][2:]
    return {line[0].split()[1]: [cell.strip() for cell in line[1:]] for line in lines}


def test_every_cell_and_the_sums(words):
    shown = program("plan", *words, "tflops=1", "mfu=0.5", "gpus=2")
    found = rows(shown)
    assert set(found) == set(MULTIPLY_ADDS)
    seconds = {task: 2 * macs / 0.5e12 for task, macs in MULTIPLY_ADDS.items()}
    for task, (gpus, flops, _, hours) in found.items():
        assert gpus == "1"
        assert float(flops) == pytest.approx(2 * MULTIPLY_ADDS[task], rel=0.005)
        assert float(hours) == pytest.approx(seconds[task] / 3600, rel=0.005)
    assert f"GPU-hours: {sum(seconds.values()) / 3600:.2f}" in shown
    # On two: the evaluations wait for the pretraining; then the linear probe on one, all others on the other.
    others = sum(seconds.values()) - seconds["pretrain"] - seconds["imagenet_linear"]
    span = seconds["pretrain"] + max(seconds["imagenet_linear"], others)
    assert f"Hours on 2 GPUs, longest cells first: {span / 3600:.2f}" in shown
    assert "Speed: peak 1 TFLOP/s × MFU 0.5" in shown


def test_the_paper_at_full_scale_without_its_data(monkeypatch, tmp_path):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    chosen = grids.Chosen(grid="paper", data="full", pretrain=True, pretrain_devices=8, runs=str(tmp_path))
    estimates = Estimates(grids.build(chosen))
    of_name = {cell.name: estimates.estimate(cell) for cell in estimates.cells.cells}
    # ViT-B/16 at 224 px: T = 197, 12 T D² + 2 T² D in each of 12 blocks: 17.4 G.
    macs = 12 * (12 * 197 * 768**2 + 2 * 197**2 * 768)
    training = of_name["deit3-vitb_reg0 pretrain seed 0"]
    assert training.flops == 6 * 240 * 14_197_086 * macs
    knn = of_name["deit3-vitb_reg0 imagenet_knn seed 0"]
    assert knn.flops == 2 * (1_281_167 + 50_000) * macs
    # Weights, the bank, and 256 images of 197 tokens with 8 D + 4 · 3072 bytes each.
    expected = 85.8e6 * 4 + 1_281_167 * 768 * 4 + 256 * 197 * (8 * 768 + 4 * 3072)
    assert knn.mib == pytest.approx(expected / 2**20, rel=0.01)
    # 85.8 M parameters with Adam, and 256 images of 197 tokens at 34 bytes in each of 12 blocks of width 768
    expected = (85.8e6 * 16 + 256 * 197 * 34 * 12 * 768) / 2**20
    assert training.mib == pytest.approx(expected, rel=0.01)


def test_speed_is_measured_where_cells_have_run(words, tmp_path):
    shown = program("plan", *words)
    assert "peak 312 (assumed: A100, bf16) TFLOP/s × MFU 0.35 (assumed)" in shown
    folder = tmp_path / "runs" / "mini" / "grid" / "openclip-vitn_reg4"
    folder.mkdir(parents=True)
    outcome = '{"name": "x", "error": "", "log": "", "seconds": 36.0, "ended": 0.0}'
    (folder / "imagenet_knn.seed0.json").write_text(outcome)
    shown = program("plan", *words)
    found = rows(shown)
    assert found["imagenet_knn"][3] == "0.01 (measured)"
    expected = 0.01 * MULTIPLY_ADDS["pretrain"] / MULTIPLY_ADDS["imagenet_knn"]
    assert float(found["pretrain"][3]) == pytest.approx(expected, rel=0.005)
    assert "Speed: measured FLOP/s" in shown


def test_images_that_cannot_be_counted_are_told(words, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    line = mistake_lines(*words, "data=full")
    assert "not in the sums are" in line
    assert "1 cells: pairs in" in line
    assert "give pairs=<number of images>" in line
    assert "pretrain" in program("plan", *words, "data=full", "pairs=400000000")


def mistake_lines(*words):
    import contextlib
    import io

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit):
        program("plan", *words)
    return errors.getvalue()


def test_mistakes(words):
    assert "mfu=2.0: must lie in [0, 1]" in mistake("plan", *words, "mfu=2")
    assert "gpus=0: must be at least 1" in mistake("plan", *words, "gpus=0")
