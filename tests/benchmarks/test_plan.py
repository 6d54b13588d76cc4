"""Plans against numbers computed by hand."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plan, throughput
from benchmarks.grid import cells as grids
from benchmarks.grid.cells import Cell
from benchmarks.grid.estimates import Estimates, frozen
from benchmarks.plan import PlanRow
from benchmarks.throughput import BlockShape, duration
from regvit_lightning.errors import UserError
from regvit_lightning.models import sources
from regvit_lightning.tasks.footprint.case import Case, shape_of
from regvit_lightning.work import Pass, Work
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
    "pretrain": 3 * 14 * 4800 * (NANO_64 + TEXT),
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
    for task, (gpus, flops, _, _, _, hours) in found.items():
        assert gpus == "1"
        assert float(flops) == pytest.approx(2 * MULTIPLY_ADDS[task], rel=0.005)
        assert hours == duration(seconds[task])
    assert f"GPU-hours: {sum(seconds.values()) / 3600:.2f}" in shown
    # On two: the evaluations wait for the pretraining; then the linear probe on one, all others on the other.
    others = sum(seconds.values()) - seconds["pretrain"] - seconds["imagenet_linear"]
    span = seconds["pretrain"] + max(seconds["imagenet_linear"], others)
    assert f"Hours on 2 GPUs, longest cells first: {span / 3600:.2f} ({duration(span)})" in shown
    assert "Speed: peak 1 TFLOP/s × MFU 0.5" in shown


def test_the_paper_at_full_scale_without_its_data(monkeypatch, tmp_path):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    chosen = grids.Chosen(grid="paper", data="full", pretrain=True, pretrain_devices=8, runs=str(tmp_path))
    nothing_counted = Estimates(grids.build(chosen))
    openclip = next(cell for cell in nothing_counted.cells.cells if cell.name == "openclip-vitb_reg0 pretrain seed 0")
    with pytest.raises(UserError, match="give pairs=<number of images>"):  # how many pairs the paper has is unpublished
        nothing_counted.estimate(openclip)
    estimates = Estimates(grids.build(chosen), {"pairs": 400_000_000})
    of_name = {cell.name: estimates.estimate(cell) for cell in estimates.cells.cells}
    # ViT-B/16 at 224 px: T = 197, 12 T D² + 2 T² D in each of 12 blocks: 17.4 G.
    macs = 12 * (12 * 197 * 768**2 + 2 * 197**2 * 768)
    training = of_name["deit3-vitb_reg0 pretrain seed 0"]
    assert training.flops == 6 * 240 * 14_197_086 * macs
    knn = of_name["deit3-vitb_reg0 imagenet_knn seed 0"]
    assert knn.flops == 2 * (1_281_167 + 50_000) * macs
    # Weights, the bank with labels and a mask, 128 images of 197 tokens with 16 D + 4 · 3072 bytes each, 8 D more for
    # the third and fourth block, whose class tokens the linear probe will read, and pixels in uint8 and float32.
    bank, pixels = 1_281_167 * (768 * 4 + 8 + 1), 128 * 3 * 224**2 * 5
    expected = 85.8e6 * 4 + bank + 128 * 197 * (24 * 768 + 4 * 3072) + pixels
    assert knn.memory.device / 2**20 == pytest.approx(expected / 2**20, rel=0.01)
    # 85.8 M parameters with LAMB and a moving average, and 256 images of 197 tokens at 42 bytes in each of 12 blocks of
    # width 768
    expected = (85.8e6 * 20 + 256 * 197 * 42 * 12 * 768) / 2**20
    assert training.memory.device / 2**20 == pytest.approx(expected, rel=0.01)


def test_speed_is_measured_where_cells_have_run(words, tmp_path, monkeypatch):
    shown = program("plan", *words, "gpus=1")
    assert "peak 312 (assumed: A100, bf16) TFLOP/s × MFU 0.35 (assumed)" in shown
    folder = tmp_path / "runs" / "mini" / "grid" / "openclip-vitn_reg4"
    folder.mkdir(parents=True)
    outcome = '{"name": "x", "error": "", "log": "", "seconds": 36.0, "ended": 0.0}'
    (folder / "imagenet_knn.seed0.json").write_text(outcome)
    shown = program("plan", *words)
    found = rows(shown)
    assert found["imagenet_knn"][-1] == "36 s (measured)"
    expected = 36 * MULTIPLY_ADDS["pretrain"] / MULTIPLY_ADDS["imagenet_knn"]
    assert found["pretrain"][-1] == duration(expected)
    assert "Speed: measured FLOP/s" in shown
    # On this machine without GPU the cell has run on the processor, which says nothing about 64 GPUs.
    assert "peak 312 (assumed: A100, bf16)" in program("plan", *words, "gpus=64")
    monkeypatch.setattr(Estimates, "devices", lambda estimates: ["NVIDIA H100 80GB HBM3", "AMD EPYC, 2 threads"])
    told = "Speed: measured FLOP/s of the cells that have run (NVIDIA H100 80GB HBM3; AMD EPYC, 2 threads)"
    assert told in program("plan", *words, "gpus=64")


def test_memory_stands_beside_every_cell_and_the_largest_of_each_task_below(words):
    """On GPUs two columns, of the GPU and of the host, and one on a machine without."""
    shown = program("plan", *words, "tflops=1", "mfu=0.5", "gpus=2")
    assert "GPU, GiB" in shown
    assert rows(shown)["imagenet_knn"][2:5] == ["0.1", "0.8", "passes"]
    lines = shown[shown.index("Most memory of each task:") :].splitlines()[1 : 1 + len(MULTIPLY_ADDS)]
    sizes = [float(line.split()[0]) for line in lines]
    assert sizes == sorted(sizes, reverse=True)
    assert {line.split()[2].rstrip(",") for line in lines} == set(MULTIPLY_ADDS)
    assert "  0.1 GiB imagenet_knn, openclip-vitn_reg4: passes" in lines
    alone = program("plan", *words, "tflops=1", "mfu=0.5")
    assert "host, GiB" not in alone
    assert rows(alone)["imagenet_knn"][2:4] == ["0.9", "passes"]


def test_without_records_one_block_is_measured_on_this_machine(words, monkeypatch):
    measured = []
    monkeypatch.setattr(plan, "block_speed", lambda shape, images: measured.append((shape, images)) or 2e9)
    shown = program("plan", *words)
    # The pretraining computes most: ViT-N's block on 69 tokens, forward and backward.
    assert measured == [(BlockShape(width=96, heads=3, hidden=384, tokens=69, trained=True), 64)]
    assert "Speed: 2 GFLOP/s, measured on one block of openclip-vitn_reg4 here (" in shown
    total = 2 * sum(MULTIPLY_ADDS.values()) / 2e9
    assert f"Hours on this processor, longest cells first: {total / 3600:.2f} ({duration(total)})" in shown
    assert "GPU" not in shown
    assert rows(shown)["imagenet_knn"][-1] == duration(2 * MULTIPLY_ADDS["imagenet_knn"] / 2e9)


def test_a_block_is_timed_within_its_budget(monkeypatch):
    shape = BlockShape(width=96, heads=3, hidden=384, tokens=69, trained=True)
    assert shape.flops == 6 * (69 * 110_592 + 2 * 69**2 * 96)  # a quarter of NANO_64, three times
    calls = []
    monkeypatch.setattr(throughput, "_step", lambda shape, images, device, bf16: lambda: calls.append((shape, images)))
    clock = iter(range(1000))  # every look at the clock is a second later
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: float(next(clock)))
    assert throughput.block_speed(shape, 48) == 48 * shape.flops
    assert calls == [(shape, 48)]  # the first call has used up the budget
    # One image of a large model: fewer tokens, so that a call takes no more than the aim.
    large = BlockShape(width=1536, heads=24, hidden=8192, tokens=1374, trained=True)
    throughput.block_speed(large, 64)
    cut, images = calls[-1]
    assert images == 1
    assert cut.flops <= throughput.AIM["cpu"] < large.flops


@pytest.mark.parametrize("trained", [True, False])
def test_the_flops_of_a_block_are_those_that_pytorch_counts(monkeypatch, trained):
    counted = []

    def seconds(step):
        with FlopCounterMode(display=False) as counter:
            step()
        counted.append(counter.get_total_flops())
        return 0.5

    monkeypatch.setattr(throughput, "_seconds", seconds)
    shape = BlockShape(width=64, heads=2, hidden=256, tokens=50, trained=trained)
    state = torch.get_rng_state()
    assert throughput.block_speed(shape, 8, "32-true") == counted[0] / 0.5
    assert torch.equal(torch.get_rng_state(), state)  # a training after it draws what it drew without it


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "under 1 s"),
        (36.4, "36 s"),
        (180, "3 min"),
        (7_800, "2 h 10 min"),
        (7_200, "2 h"),
        (86_400, "1 day"),
        (927.71 * 3600, "38 days 15 h"),
        (float("inf"), "never"),
    ],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


TWO_MODELS = [("a", "pretrain", 80.0), ("b", "pretrain", 80.0), ("a", "knn", 2.0), ("b", "knn", 2.0)]


class Recipes:
    """Stands for the estimates: every recipe has this batch."""

    def __init__(self, batch_size, group=1):
        self.settings = type("Settings", (), {"batch_size": batch_size, "group": group})

    def work(self, cell):
        return None, self.settings


@pytest.mark.parametrize(
    ("batch_size", "advice"),
    [
        # 8 each: 80 / 8 + 2 s of 16 GPUs; 164 GPU-seconds in 12 s keep 14 busy.
        (48, '; with ARGS="pretrain_devices=8" it takes 12 s, 2 idle'),
        (12, '; with ARGS="pretrain_devices=6" it takes 15 s, 5 idle'),  # 8 does not divide 12
        (7, '; with ARGS="pretrain_devices=7" it takes 13 s, 4 idle'),
        (11, ""),
    ],
)
def test_idle_gpus_are_told_with_what_would_keep_them_busy(tmp_path, batch_size, advice):
    chosen = grids.Chosen(grid="demo", pretrain=True, runs=str(tmp_path))
    cells = {(model, task): Cell(model, task, 0) for model, task, _ in TWO_MODELS}
    needs = {"a": cells["a", "pretrain"], "b": cells["b", "pretrain"]}
    found = [
        PlanRow(Cell(model, task, 0, None if task == "pretrain" else needs[model]), 1, 1.0, 1.0, seconds, False)
        for model, task, seconds in TWO_MODELS
    ]
    lines = plan.sums(found, grids.build(chosen), Recipes(batch_size), 16, gpus=True)
    # Two GPUs are busy for 80 s, and for 2 s more.
    assert lines == [
        "GPU-hours: 0.05 (2 min)",
        "Hours on 16 GPUs, longest cells first: 0.02 (1 min)",
        f"Idle: 14 of 16 GPUs on average{advice}",
    ]


def test_groups_of_images_stay_on_a_gpu():
    """DINOv2's batch of 48 in groups of 16 is shared by one GPU or three, and not by eight."""
    recipe = Recipes(48, group=16).settings
    assert [devices for devices in range(1, 9) if plan._divides(recipe, devices)] == [1, 3]


def test_no_gpu_of_two_is_idle_while_two_models_are_trained(tmp_path):
    chosen = grids.Chosen(grid="demo", pretrain=True, runs=str(tmp_path))
    found = [PlanRow(Cell(model, "pretrain", 0), 1, 1.0, 1.0, 80.0, False) for model in "ab"]
    assert len(plan.sums(found, grids.build(chosen), Recipes(48), 2, gpus=True)) == 2


def test_no_folder_of_the_data_is_needed(words, monkeypatch):
    monkeypatch.delenv("DATA_ROOT", raising=False)
    assert "imagenet_knn" in program("plan", *words, "data=full", "pairs=1000", "gpus=1")
    assert "DATA_ROOT is not set" in mistake("status", *words, "data=full")


def test_images_that_cannot_be_counted_are_told(words, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    line = mistake_lines(*words, "data=full")
    assert "not in the sums are" in line
    assert "1 cells: pairs in" in line
    assert "give pairs=<number of images>" in line
    assert "pretrain" in program("plan", *words, "data=full", "pairs=400000000")


def test_a_set_that_the_data_does_not_have_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    chosen = grids.Chosen(grid="paper", data="full", runs=str(tmp_path))
    estimates = Estimates(grids.build(chosen, images_needed=False))
    with pytest.raises(UserError, match="scenes: data full has no such images"):
        estimates.estimate(Cell("random-vitn_reg4", "saliency_scenes", 0))


def mistake_lines(*words):
    import contextlib
    import io

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit):
        program("plan", *words)
    return errors.getvalue()


def test_mistakes(words):
    assert "mfu=2: must lie in (0, 1]" in mistake("plan", *words, "mfu=2")
    assert "gpus=0: expected a number from 1" in mistake("plan", *words, "gpus=0")
    assert "gpus=many: expected a number from 1 to 99999, or all" in mistake("plan", *words, "gpus=many")
    line = mistake("plan", *words, "pretrain_devices=8", "gpus=4")
    assert line == "pretrain_devices=8: a pretraining does not fit on gpus=4"


def test_the_flops_of_a_model_with_stages_are_those_of_its_layers():
    backbone = sources.load_backbone("random-timm/test_convnext")
    macs = []

    def counted(layer, _, output):
        places = output[0].numel() // output.shape[-1 if isinstance(layer, nn.Linear) else 1]
        macs.append(places * layer.weight.numel())

    for layer in backbone.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(counted)
    with torch.no_grad():
        backbone.stage_maps(torch.zeros(1, 3, 160, 192))
    expected = 2 * 5 * sum(macs)
    assert throughput.flops(backbone, Pass(5, 150, 190)) == pytest.approx(expected)


def test_models_with_stages_and_reports_of_texts_have_cells(tmp_path):
    (tmp_path / "text.yaml").write_text("models: [openclip-vitn_reg0]\ntasks: [text_report]\nseeds: [0]\n")
    words = [f"runs={tmp_path}/runs", f"results={tmp_path}/results", "tflops=1", "mfu=0.5"]
    found = rows(program("plan", f"grid={tmp_path}/text.yaml", "pretrain=false", *words))
    assert found == {"text_report": ["1", "0", "0.8", "texts", "under 1 s"]}
    (tmp_path / "stages.yaml").write_text(
        "models: [timm/test_convnext.r160_in1k]\ntasks: [artifact_report]\nseeds: [0]\n"
    )
    _, flops, *_ = rows(program("plan", f"grid={tmp_path}/stages.yaml", *words))["artifact_report"]
    assert float(flops) > 0


def test_the_memory_of_a_model_with_stages_holds_its_largest_map():
    backbone = sources.load_backbone("random-timm/test_convnext")
    parameters = sum(value.numel() for value in backbone.parameters())
    # Two images of 5 x 5 last cells of width 64; behind each lie 8 x 8 cells of width 24, with a hidden layer of four.
    activations, pixels = 2 * 25 * (16 * 64 + 4 * 4 * 24 * 64), 2 * 3 * 160**2 * 5
    settings = SimpleNamespace(device_batch=2, workers=0)
    case = Case(settings, {}, 10, shape_of(backbone), Work([Pass(7, 160, 160)]), half=True)
    found = frozen(backbone, "a_task_of_a_user", case).memory.device / 2**20
    assert found == pytest.approx((4 * parameters + activations + pixels) / 2**20)


@pytest.mark.parametrize(
    ("most", "matched"),
    [(0, 12_234), (200, 3_600), (1_000, 12_234)],  # all; 200 of each of 18 classes, as in Probe3D; as many as there are
)
def test_the_pairs_of_a_class_that_are_matched_are_those_that_are_counted(most, matched):
    task, settings, _ = grids.task_module("spair71k", "")
    work = task.work(dataclasses.replace(settings, pairs_per_class=most), {"spair71k": [12_234, 18]})
    assert work.passes == [Pass(2 * matched, 800, 800)]


def test_a_task_that_has_not_run_is_as_fast_as_those_on_the_same_images(tmp_path):
    tasks = ["imagenet_knn", "imagenet_linear", "lost_sweep_voc07", "tokencut_voc07", "tokencut_voc12"]
    (tmp_path / "some.yaml").write_text(f"models: [random-vitn_reg0]\ntasks: [{', '.join(tasks)}]\nseeds: [0]\n")
    folder = tmp_path / "runs" / "mini" / "grid" / "random-vitn_reg0"
    folder.mkdir(parents=True)
    for task, seconds in (("imagenet_knn", 10.0), ("lost_sweep_voc07", 20.0)):
        outcome = f'{{"name": "x", "error": "", "log": "", "seconds": {seconds}, "ended": 0.0}}'
        (folder / f"{task}.seed0.json").write_text(outcome)
    folders = {"runs": str(tmp_path / "runs"), "results": str(tmp_path)}
    estimates = Estimates(grids.build(grids.Chosen(grid=f"{tmp_path}/some.yaml", **folders), images_needed=False))
    flops = {cell.task: estimates.estimate(cell).flops for cell in estimates.cells.cells}
    on_imagenet, on_voc07 = flops["imagenet_knn"] / 10, flops["lost_sweep_voc07"] / 20
    assert on_voc07 != pytest.approx(on_imagenet, rel=0.1)
    expected = [on_imagenet, on_imagenet, on_voc07, on_voc07, (on_imagenet + on_voc07) / 2]
    assert [estimates.speed(task) for task in tasks] == pytest.approx(expected)
