"""`--print-config` has the settings that the program would have, and says where each comes from."""

import pytest
import yaml

from benchmarks.manual import config as manual
from regvit_lightning import settings
from tests.benchmarks.test_chain import mistake, program


def config(name, *words):
    """The resolved settings, and where each comes from, by section and key."""
    text = program(name, *words, "--print-config")
    origins: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if not line.startswith(" "):
            section = origins.setdefault(line.removesuffix(":"), {})
        elif "#" in line:
            section[line.split(":")[0].strip()] = line.rpartition("# ")[2]
    return yaml.safe_load(text), origins


def test_config_says_where_every_value_comes_from():
    found, origins = config("pretrain", "model=vitn_reg4", "lr=0.25", "layer_scale=null", "tag=x")
    assert list(found) == ["pretrain", "recipe deit3", "data mini"]
    program_origins, recipe = origins["pretrain"], origins["recipe deit3"]
    assert [program_origins[key] for key in ("model", "recipe", "tag")] == ["word", "default", "word"]
    assert [recipe[key] for key in ("lr", "layer_scale", "epochs", "loss")] == [
        "word",
        "word",
        "configs/recipes/deit3.mini.yaml",
        "configs/recipes/deit3.yaml",
    ]
    assert recipe["precision"] == "configs/recipes/deit3.yaml: auto"  # the hardware has chosen
    _, chosen = settings.load_settings("recipes", "deit3", "mini", ["lr=0.25", "layer_scale=null"])
    assert found["recipe deit3"] == settings.resolved(chosen)
    assert found["pretrain"]["model"] == "vitn_reg4"
    assert set(recipe) == set(settings.resolved(chosen))
    assert set(program_origins) == set(found["pretrain"])


def test_config_of_a_value_that_nobody_gives_is_the_default(configs):
    text = (configs / "recipes" / "deit3.yaml").read_text()
    (configs / "recipes" / "deit3.yaml").write_text(text.replace("strategy: ddp", "# strategy: ddp"))
    found, origins = config("pretrain", "model=vitn_reg4")
    assert origins["recipe deit3"]["strategy"] == "default"
    assert found["recipe deit3"]["strategy"] == "ddp"


def test_config_of_nested_settings_and_of_the_name_of_a_task():
    found, origins = config("evaluate", "model=x", "task=artifact_report", "probes.local.pixels=normalised")
    report, where = found["task artifact_report"], origins["task artifact_report"]
    assert report["probes"]["local"]["pixels"] == "normalised"
    assert (where["pixels"], where["train_images"], where["draws"], where["cutoff"]) == (
        "word",
        "configs/tasks/artifact_report.mini.yaml",
        "configs/tasks/artifact_report.mini.yaml",
        "configs/tasks/artifact_report.yaml",
    )
    _, origins = config("evaluate", "model=x", "task=lost_sweep_voc12")
    assert origins["task lost_sweep_voc12"]["images"] == "the name lost_sweep_voc12"


def test_config_of_the_data(monkeypatch, tmp_path):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    found, origins = config("status", "data=full")
    assert list(found) == ["status", "data full"]
    assert found["data full"]["root"] == str(tmp_path)
    assert origins["data full"]["root"] == "configs/data/full.yaml: ${oc.env:DATA_ROOT}"
    assert found["data full"]["counts"]["voc07"] == [5011]
    found, origins = config("evaluate", "model=x", "task=imagenet_knn", f"data={tmp_path}")
    data = origins[f"data {tmp_path}"]
    assert (data["root"], data["trained_on"], data["masks"]) == (
        "a folder given by its path",
        "default",
        "configs/data/full.yaml",
    )
    monkeypatch.delenv("DATA_ROOT")
    assert "DATA_ROOT is not set" in mistake("status", "data=full", "--print-config")


def test_config_of_programs_without_files_is_their_own_settings():
    found, origins = config("tables", "data=nothing")
    assert list(found) == ["tables"]
    assert (found["tables"]["data"], origins["tables"]["data"]) == ("nothing", "word")


def test_config_runs_nothing_and_refuses_what_the_program_would(tmp_path):
    words = ["model=vitn_reg4", f"runs={tmp_path}/runs", f"results={tmp_path}/results"]
    assert "epochs: 14" in program("pretrain", *words, "--print-config")
    assert not list(tmp_path.iterdir())
    assert "epochs=0: must lie in (0, 1e6]" in mistake("pretrain", *words, "epochs=0", "--print-config")
    assert "not set: model" in mistake("pretrain", "--print-config")
    assert "unknown key 'epoch'; nearest: epochs" in mistake("pretrain", *words, "epoch=3", "--print-config")


@pytest.mark.parametrize("text", ["yes", "1", "1e3", "null", "a: b", "", "é", "a # b", "plain", "32-true", "/a/b.c"])
def test_texts_are_shown_so_that_yaml_reads_them_as_texts(text):
    assert yaml.safe_load(f"key: {manual._shown(text)}") == {"key": text}
