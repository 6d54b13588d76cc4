"""What `make pretrain` says before it begins, and devices that are not there."""

import re
from pathlib import Path

import pytest

from benchmarks import pretrain, terminal
from regvit_lightning import settings
from regvit_lightning.runtime import hardware
from regvit_lightning.settings import SettingsError
from tests.benchmarks.test_chain import QUICK, mistake, program


class Began(BaseException):
    """Raised in place of rendering, which follows the first line."""


@pytest.fixture
def lines(monkeypatch):
    """What the programs show first, line by line."""
    shown = []
    monkeypatch.setattr(terminal, "show", shown.append)
    return shown


@pytest.fixture
def begin(monkeypatch):
    """Begins a program at 10 GFLOP/s up to its rendering, which comes right after the first line."""

    def began(*_, **__):
        raise Began

    monkeypatch.setattr(pretrain, "render", began)
    monkeypatch.setattr(pretrain, "block_speed", lambda *_: 1e10)
    monkeypatch.setattr(hardware, "device_name", lambda: "Some CPU, 2 threads")

    def begin(*words):
        with pytest.raises(Began):
            program("pretrain", *words)

    return begin


def test_the_first_line_says_what_is_trained(begin, lines, tmp_path):
    begin("model=vitb_reg16", f"runs={tmp_path}", f"results={tmp_path}")
    # ViT-B/16 at 64 px: 16 patches and 17 further tokens; 7.1 M weights in a block of width 768, three passes.
    macs = 12 * (33 * 12 * 768**2 + 2 * 33**2 * 768)
    days, hours = divmod(int(3 * 2 * macs * 14 * 4800 / 1e10 / 3600), 24)
    parameters = 12 * (12 * 768**2 + 13 * 768) + 2 * 768 + (3 * 16**2 + 1 + 16 + 16 + 1) * 768
    assert lines == [
        f"pretrain: deit3-vitb_reg16, {parameters / 1e6:.1f} M parameters, 64 px; "
        "data mini: 4,800 rendered images; 1,400 steps of 48 images on CPU Some CPU, 2 threads; "
        f"about {days} day {hours} h (estimated from one block, measured here; loading images not counted); "
        "real data: DATA=full DATA_ROOT=<folder>"
    ]


def test_the_steps_are_those_that_are_trained(tiny, tmp_path, lines):
    words = ["model=vitn_reg2", f"data={tiny.root}/imagenet", f"runs={tmp_path}", f"results={tmp_path}", *QUICK]
    program("pretrain", *words)
    (line,) = lines
    assert "data imagenet: 96 images; 6 steps of 16 images on CPU " in line
    assert "real data" not in line
    assert re.search(r"; about .* \(estimated from one block", line)
    curve = (tmp_path / "imagenet" / "curves" / "deit3-vitn_reg2.seed0.csv").read_text().splitlines()
    assert len(curve) == 1 + 6
    program("pretrain", *words)
    assert len(lines) == 1  # a run that is done is not announced
    (tmp_path / "imagenet" / "deit3-vitn_reg2" / "seed0" / "backbone.safetensors").unlink()
    program("pretrain", *words)
    assert lines[1].endswith("; continues from its checkpoint")
    program("pretrain", *words, "force=true")
    assert "checkpoint" not in lines[2]


@pytest.mark.parametrize(
    ("length", "announced"), [("epochs=2.5", "15 steps of 16 images"), ("steps=1000 epochs=null", "1,000 steps of 16")]
)
def test_the_length_is_announced_in_steps(begin, lines, tiny, tmp_path, length, announced):
    quick = [word for word in QUICK if not word.startswith("epochs")]
    begin(
        "model=vitn_reg2",
        f"data={tiny.root}/imagenet",
        f"runs={tmp_path}",
        f"results={tmp_path}",
        *quick,
        *length.split(),
    )
    assert announced in lines[0]


def test_a_folder_without_images_is_told_as_the_recipe_tells_it(tmp_path):
    line = mistake("pretrain", "model=vitn_reg2", f"data={tmp_path}", "variant=mini", f"runs={tmp_path / 'runs'}")
    assert line.startswith(f"no folder {tmp_path}/train: expected class folders of images; ")


def test_several_devices_share_the_time(begin, lines, tmp_path):
    words = ["model=vitb_reg16", f"runs={tmp_path}", f"results={tmp_path}", "accelerator=cpu"]
    begin(*words, "epochs=80")
    begin(*words, "epochs=80", "devices=4")
    assert "steps of 48 images on 4 × CPU" in lines[1]
    days = [re.search(r"about (?:(\d+) days? )?(?:(\d+) h)?", line).groups("0") for line in lines]
    one, four = (24 * int(day) + int(hour) for day, hour in days)
    assert 0 <= one - 4 * four < 8  # rounded down to hours


def test_gpus_that_are_not_there_are_refused(tmp_path):
    line = "devices=8: this machine has no GPU; leave GPUS out, or give accelerator=cpu for so many processes on its "
    line += "processor"
    assert mistake("pretrain", "model=vitb_reg16", "devices=8", f"runs={tmp_path}") == line
    words = ["model=random-vitn_reg4", "task=imagenet_linear", f"runs={tmp_path}", f"results={tmp_path}"]
    assert mistake("evaluate", *words, "devices=8") == line
    assert "accelerator=tpu: expected auto or cpu" in mistake("evaluate", *words, "accelerator=tpu")
    assert not list(tmp_path.iterdir())


def test_a_processor_is_taken_where_it_is_asked_for(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    hardware.choose_accelerator("auto", 1)
    assert hardware.os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    monkeypatch.setattr(hardware, "accelerator", lambda: "cuda")
    hardware.choose_accelerator("auto", 2)
    hardware.choose_accelerator("cpu", 2)
    assert hardware.os.environ["CUDA_VISIBLE_DEVICES"] == ""
    with pytest.raises(SettingsError, match="accelerator=gpu"):
        hardware.choose_accelerator("gpu", 1)


def test_which_tasks_train_a_head():
    """Those that say so call `fit` of `frozen.trainer`."""
    for name in settings.names("tasks"):
        module, _ = settings.load_settings("tasks", name, "mini")
        trains = "fit(" in Path(module.__file__).read_text(encoding="utf-8")
        assert getattr(module, "TRAINS_HEAD", False) == trains, name
