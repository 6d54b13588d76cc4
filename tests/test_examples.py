"""The examples run as they are, and what they print is right."""

import re
import runpy
from pathlib import Path

import pytest

from regvit_lightning import evaluate, load_backbone

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def output(capsys, name, *words):
    """Lines that an example prints for these words."""
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](*map(str, words))
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_is_tested_here_and_shows_its_command(script):
    assert f"python examples/{script.name} " in script.read_text()
    assert script.stem in ("compare_two_backbones", "look_at_norms")


def test_two_backbones_are_compared(tiny, capsys):
    names = "random-vitn_reg0", "random-vitn_reg4"
    first, second, difference = output(capsys, "compare_two_backbones", f"{tiny.root}/imagenet", *names)
    settings = {"neighbours": [1, 5, 20]}
    tops = [evaluate(load_backbone(name), "imagenet_knn", f"{tiny.root}/imagenet", settings=settings) for name in names]
    for line, name, outcome in zip((first, second), names, tops, strict=True):
        assert line.startswith(f"{name}: top-1 {outcome.metrics['top1']:.1f} % [")
        assert line.endswith("] of 32 images")
    low, high = map(float, re.search(r"\[(.+), (.+)\]", difference).groups())
    value = tops[1].metrics["top1"] - tops[0].metrics["top1"]
    assert difference.startswith(f"difference: {value:+.1f} [")
    assert low <= value <= high
    assert difference.endswith("within noise" if low <= 0 <= high else "more than image noise")


def test_a_backbone_does_not_differ_from_itself(tiny, capsys):
    *_, difference = output(capsys, "compare_two_backbones", f"{tiny.root}/imagenet", *["random-vitn_reg0"] * 2)
    assert difference == "difference: +0.0 [0.0, 0.0], within noise"


def test_norms_are_looked_at(tiny, capsys):
    files = sorted(Path(tiny.root, "imagenet", "val").rglob("*.*"))[:2]
    head, *blocks, first, second, verdict = output(capsys, "look_at_norms", "random-vitn_reg4", *files)
    assert head.split() == ["block", "median", "norm", "highest", "norm"]
    assert [int(line.split()[0]) for line in blocks] == [1, 2, 3, 4]
    assert all(0 < float(median) <= float(highest) for _, median, highest in map(str.split, blocks))
    for line, file in zip((first, second), files, strict=True):
        assert re.fullmatch(rf"{re.escape(str(file))}: \d+ of 784 patches are outliers", line)
    assert verdict.startswith("random-vitn_reg4 has ")
