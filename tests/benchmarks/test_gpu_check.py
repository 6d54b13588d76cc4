"""The check on a GPU: its arithmetic by hand, its schedule with parts that fail or hang, and a trial on a CPU."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_check import cards, kernels, lines, marked_tests, recipes, schedule, steps, waits
from benchmarks.gpu_check.check import TINY, Check
from benchmarks.gpu_check.lines import Line
from benchmarks.gpu_check.machine import MACHINE
from benchmarks.gpu_check.parts import parts
from benchmarks.gpu_check.schedule import Part
from regvit_lightning.models import vit

ROOT = Path(__file__).resolve().parents[2]


def test_peaks_of_the_data_sheets():
    peaks = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA H200": 989e12, "NVIDIA H20": 148e12}
    peaks |= {"NVIDIA A100-SXM4-80GB": 312e12, "NVIDIA L40S": 362e12, "NVIDIA L4": 121e12, "AMD EPYC, 2 threads": None}
    assert {name: cards.peak(name) for name in peaks} == peaks
    assert cards.short("NVIDIA H100 80GB HBM3") == "h100"
    assert cards.short("NVIDIA H100 PCIe") == "h100-pcie"
    assert cards.short("NVIDIA GeForce GTX 1080 Ti") == "geforce-gtx-1080-ti"


def test_kernels_by_kind():
    """Names that an H100 with PyTorch 2.11 reported, and seconds of two steps."""
    seconds = {
        "nvjet_sm90_tst_192x192_64x4_2x1_v_bz_coopB_bias_TNN": 0.06,
        "void cutlass::Kernel2<cutlass_80_simt_sgemm_128x256_8x4_nt_align1>(int)": 0.02,
        "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_64x64x64": 0.01,
        "triton_poi_fused_gelu_gelu_backward_view_5": 0.03,
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>": 0.01,
    }
    found = kernels.by_kind(seconds.items())
    assert found == pytest.approx({"products": 0.08, "attention": 0.01, "the rest": 0.04})
    words = "a step 70 ms, the GPU busy 65: products 40, attention 5, the rest 20"
    assert kernels.in_words(found, 2, 0.07) == words


def test_distance_of_two_series_of_losses():
    assert recipes.distance([2.0, 3.3], [2.0, 3.0]) == pytest.approx(0.1)
    assert recipes.distance([2.0, float("nan")], [2.0, 3.0]) == float("inf")
    assert recipes.distance([2.0], [2.0, 3.0]) == float("inf")


def test_flops_of_a_step_are_those_of_its_passes(tmp_path):
    check = Check("cpu", "tiny", tmp_path)
    architecture, registers = vit.parse_name("vitn_reg1")
    macs = vit.block_macs(architecture, registers, 32)
    supervised = steps.build("deit3", False, check, 4)
    assert steps.flops_per_image(supervised) == pytest.approx(6 * macs)
    taught = steps.build("dinov2", False, check, 4)
    swiglu = vit.with_swiglu(architecture)
    wide, near = (vit.block_macs(swiglu, registers, side) for side in (32, 16))
    # The teacher sees two crops, forward; the student these and two local ones, of which 0.6 pass through a block.
    assert steps.flops_per_image(taught) == pytest.approx(2 * 2 * wide + 6 * 0.6 * (2 * wide + 2 * near))


def test_mfu_is_over_the_data_sheet_and_its_aim_is_told(tmp_path):
    speed = steps.Speed(rate=1000.0, flops=400e9, peak=3 * 2**30, batch=64)
    check = Check("cuda", "tiny", tmp_path, {MACHINE: {"peak": 1000e12, "product": 800e12}})
    line = speed.line("step", check, 0.45)
    assert (line.value, line.state) == (pytest.approx(0.4), lines.BELOW)
    assert "1,000 img/s of 400.0 GFLOP; 3.0 GiB; batch 64; 50% of the measured product" in line.source
    assert speed.line("step", check, 0.35).state == lines.OK
    unknown = Check("cuda", "tiny", tmp_path, {MACHINE: {"peak": None, "product": 800e12}})
    assert speed.line("step", unknown).value == pytest.approx(0.5)


def test_waits_are_told_by_place():
    assert waits.in_words(Counter({"a.py:3": 4, "b.py:9": 1}), 2) == "a.py:3 × 2, b.py:9 × 0.5"
    assert waits.in_words(Counter(), 2) == "nowhere"


def test_a_missing_optional_package_skips_and_any_other_error_fails():
    assert lines.failure("x", ModuleNotFoundError("", name="mmseg.utils")).state == lines.SKIPPED
    assert lines.failure("x", ModuleNotFoundError("", name="torch")).state == lines.FAILED
    assert lines.failure("x", ValueError("two\nlines")).source == "ValueError: two"
    behind = OSError("no OpenCV")
    behind.__context__ = ModuleNotFoundError("", name="cv2")
    assert lines.failure("x", behind) == Line("x", state=lines.SKIPPED, source="cv2 is not installed")
    assert lines.at_most("x", float("nan"), 1.0, "", lines.FAILED).state == lines.FAILED


# ------------------------------------------------------------------------------------------------- the schedule


def good(check):
    yield Line("good", 1.0, facts={"seen": sorted(check.known)})


def raises(check):
    yield Line("before", 2.0)
    raise ValueError("went wrong")


def dies(check):
    yield Line("dying")
    os._exit(7)


def hangs(check):
    yield Line("hanging")
    time.sleep(600)


def reads(check):
    loader = torch.utils.data.DataLoader(
        [1, 2, 3], num_workers=1, collate_fn=lambda numbers: numbers
    )  # no pickle has it
    yield Line("reads", float(sum(number for batch in loader for number in batch)))


def hidden(check):
    yield Line(f"{check.device}, GPUs {os.environ.get('CUDA_VISIBLE_DEVICES')!r}")


def test_a_part_that_fails_dies_or_hangs_is_a_line_and_the_others_run(tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "GRACE", 1)
    chosen = [Part(work.__name__, 1, work) for work in (raises, dies, good)]
    chosen += [Part("later", 1000, good), Part("hidden", 1, hidden, on_cpu=True), Part("hangs", 1, hangs)]
    kept = []
    found = schedule.run(chosen, Check("cuda", "tiny", tmp_path), 100.0, lambda some: kept.append(len(some)))
    states = [(line.name, line.state) for line in found]
    assert states == [
        ("before", "ok"),
        ("raises", "failed"),
        ("dying", "ok"),
        ("dies", "failed"),
        ("good", "ok"),
        ("later", "not run"),
        ("cpu, GPUs ''", "ok"),
        ("hanging", "ok"),
        ("hangs", "failed"),
    ]
    assert [line.source for line in found if line.state == "failed"] == [
        "ValueError: went wrong",
        "its process died with status 7",
        "stopped after 3 s, 1 s were planned",
    ]
    assert found[4].facts["seen"] == ["before", "dies", "dying", "raises"]
    assert found[5].source.startswith("no time left: 1000 s planned, ")
    assert kept == [2, 4, 5, 7, 9, 9]
    assert not multiprocessing.active_children()


def test_loaders_of_a_part_are_forked_as_in_any_program(tmp_path):
    (line,) = schedule.run([Part("reads", 60, reads)], Check("cpu", "tiny", tmp_path), 100.0, lambda some: None)
    assert (line.name, line.value) == ("reads", 6.0)


def test_names_of_parts_differ_and_the_needed_come_first():
    names = [part.name for part in parts()]
    assert len(set(names)) == len(names)
    assert [part.name for part in parts() if part.needed] == names[:2]


def test_a_report_of_pytest_is_counted(tmp_path):
    (tmp_path / "r.xml").write_text(
        '<testsuites><testsuite tests="4" failures="1" errors="0" skipped="1"><testcase name="a"/><testcase name="b"/>'
        '<testcase name="c"><skipped/></testcase><testcase name="d"><failure message="no&#10;more"/></testcase>'
        "</testsuite></testsuites>"
    )
    counted, failed = marked_tests.outcomes(tmp_path / "r.xml")
    assert (counted.value, counted.state, counted.source) == (2, "failed", "2 passed, 1 failed, 1 skipped")
    assert (failed.name, failed.source) == ("tests marked gpu: d", "no")


# ------------------------------------------------------------------------------------------------------ the trial


NO_GPU = "this machine has no CUDA GPU; device=cpu size=tiny tries the program"


def program(*words):
    """The program in a process of its own, with a server of its own for its parts."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)


def test_a_trial_on_a_cpu_measures_the_parts_and_writes_both_files(tmp_path):
    only = "only=step-dinov2,models,frozen,reading,recipes-cpu,recipes-deit3,cell-lost,tests"
    trial = program("device=cpu", "size=tiny", only, f"results={tmp_path}", "budget=9000")
    assert trial.returncode == 0, trial.stdout + trial.stderr
    place = tmp_path / "bench" / "gpu-check-trial"
    content = json.loads(place.with_suffix(".json").read_text())
    states = {line["name"]: line["state"] for line in content["lines"]}
    assert not {lines.FAILED, lines.NOT_RUN} & set(states.values())
    assert "MFU, step of dinov2, vitn_reg1, compiled" in states
    assert "deit3, FSDP, one process: distance to the CPU's losses" in states
    assert f"cell / forward, lost_voc07, {TINY.evaluated}" in states
    assert f"MFU, forward and backward, {TINY.trained[1].model} 48 px" in states
    assert "| matrix product, bf16" in place.with_suffix(".md").read_text()
    assert content["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]


def test_without_a_gpu_a_line_says_how_to_try(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    refused = program(f"results={tmp_path}")
    assert refused.stderr == f"gpu_check: {NO_GPU}\n"
    assert refused.returncode == 2
