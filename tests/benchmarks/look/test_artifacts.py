"""Lines of a look on artifacts: of the images shown, and of the model's artifact report where there is one."""

from benchmarks.look import artifacts
from regvit_lightning.analysis.questions import Answer
from regvit_lightning.analysis.token_maps import ModelMaps
from tests.benchmarks.tables.test_questions import answered
from tests.by_hand import save

MODEL = "deit3-vitn_reg4"
ANSWERS = [Answer("?", "no", f"Words {index}.", {}) for index in range(3)]


def maps(answers=ANSWERS, name=MODEL):
    return ModelMaps(name, 4, 4, 4, False, "3 × median", 1.0, [], answers)


def test_lines_of_the_images_and_of_the_report(tmp_path):
    save(tmp_path, answered(MODEL))
    shown, on_many = artifacts.lines(maps(), MODEL, tmp_path, "mini", 0)
    assert shown == "in the images shown: Words 0. Words 1. Words 2."
    assert on_many.startswith(
        "on 960 images of mini: high norms? no (largest 2.50 × median); attention sinks? few (NOP"
    )


def test_without_a_report_the_command_that_makes_it(tmp_path):
    (tmp_path / "mini" / "cells" / MODEL).mkdir(parents=True)
    (tmp_path / "mini" / "cells" / MODEL / "artifact_report.seed0.json").write_text("{")
    for name in (MODEL, f"{MODEL} (2)", "deit3-vitn_reg0"):
        _, on_many = artifacts.lines(maps(name=name), "my.pth", tmp_path, "mini", 0)
        assert on_many == "on many images, and whether patches are local: make artifacts MODEL=my.pth DATA=mini"


def test_a_model_that_gives_tokens_only_has_no_lines(tmp_path):
    assert artifacts.lines(maps(answers=()), MODEL, tmp_path, "mini", 0) == []
