"""The examples run as they are, and what they print is right."""

import re
import runpy
import textwrap
from pathlib import Path

import pytest
from PIL import Image

import regvit_lightning
from regvit_lightning import evaluation

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def output(capsys, name, *words):
    """Lines that an example prints for these words."""
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](*map(str, words))
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_is_tested_here_and_shows_its_command(script):
    assert f"python examples/{script.name} " in script.read_text()
    assert script.stem in ("compare_two_backbones", "look_at_norms", "own_model")


@pytest.fixture
def folder(tiny, tmp_path):
    """Four of the tiny data set's classes, with 24 train and 8 test images."""
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for classes in sorted(Path(tiny.root, "imagenet", split).iterdir())[:4]:
            (tmp_path / split / classes.name).symlink_to(classes)
    return tmp_path


def test_two_backbones_are_compared(folder, capsys, monkeypatch):
    outcomes = {}

    def recorded(backbone, *words, **settings):
        outcomes[backbone.name] = outcome = evaluation.evaluate(backbone, *words, **settings)
        return outcome

    monkeypatch.setattr(regvit_lightning, "evaluate", recorded)
    names = ["random-vitn_reg0", "random-vitn_reg4"]
    *each, difference = output(capsys, "compare_two_backbones", folder, *names)
    assert list(outcomes) == names
    for line, name in zip(each, names, strict=True):
        assert line.startswith(f"{name}: top-1 {outcomes[name].metrics['top1']:.1f} % [")
        assert line.endswith("] of 8 images")
    value = outcomes[names[1]].metrics["top1"] - outcomes[names[0]].metrics["top1"]
    low, high = map(float, re.search(r"\[(.+), (.+)\]", difference).groups())
    assert difference.startswith(f"difference: {value:+.1f} [")
    assert low <= value <= high
    assert difference.endswith("within noise" if low <= 0 <= high else "more than image noise")


def test_norms_are_looked_at(tiny, capsys):
    files = sorted(Path(tiny.root, "imagenet", "val").rglob("*.*"))[:2]
    head, *blocks, first, second, verdict = output(capsys, "look_at_norms", "random-vitn_reg4", *files)
    assert head.split() == ["block", "median", "norm", "highest", "norm"]
    assert [int(line.split()[0]) for line in blocks] == [1, 2, 3, 4]
    assert all(0 < float(median) <= float(highest) for _, median, highest in map(str.split, blocks))
    for line, file in zip((first, second), files, strict=True):
        assert re.fullmatch(rf"{re.escape(str(file))}: \d+ of 784 patches are outliers", line)
    assert verdict.startswith("random-vitn_reg4 has ")


def test_a_model_of_ones_own_is_looked_at_and_evaluated(folder, tiny, tmp_path, capsys, monkeypatch):
    nets = """
        from torch import nn

        class Net(nn.Module):
            image_size, mean, std = 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

            def __init__(self):
                super().__init__()
                self.net = nn.Conv2d(3, 8, 32, 32)

            def forward(self, images):
                patches = self.net(images).permute(0, 2, 3, 1)
                return {"patches": patches, "cls": patches.mean(dim=(1, 2))}
    """
    (tmp_path / "my_models.py").write_text(textwrap.dedent(nets))
    monkeypatch.chdir(tmp_path)
    photo = next(Path(tiny.root, "imagenet", "val").rglob("*.*"))
    of_photo, accuracy = output(capsys, "own_model", "my_models.py:Net", folder, photo)
    assert re.fullmatch(rf"{re.escape(photo.name)}: \d+ of 49 patches are outliers", of_photo)
    value, low, high = map(float, re.fullmatch(r"top-1 (.+) % \[(.+), (.+)\] of 8 images", accuracy).groups())
    assert 0 <= low <= value <= high <= 100
    with Image.open("look.png") as figure:
        assert figure.width > 1000
