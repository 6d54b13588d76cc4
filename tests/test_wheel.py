"""The wheel works anywhere: built, installed into a folder without dependencies, and used from another directory."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import regvit_lightning

ROOT = Path(__file__).resolve().parents[1]
CARRIED = ("regvit_lightning", "benchmarks", "configs")
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
SETTINGS = {"workers": 0, "precision": "32-true", "neighbours": [1, 5], "held_out": 0.5}
IDENTITY = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]


def run(*command, cwd, path=""):
    """Standard output of a command that must succeed, with the packages in `path` before those of this environment."""
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the sources, as building leaves files among them."""
    sources = tmp_path_factory.mktemp("sources")
    for folder in CARRIED:
        shutil.copytree(ROOT / folder, sources / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", sources / "dist", ".", cwd=sources)
    (built,) = (sources / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the installed wheel inside a repository of something else; the working directory beside it."""
    repository = tmp_path_factory.mktemp("repository")
    run("git", "init", "--quiet", cwd=repository)
    run("git", *IDENTITY, "commit", "--quiet", "--allow-empty", "--message", "something else", cwd=repository)
    folder = repository / "packages"
    run(*PIP, "install", "--no-deps", "--no-index", "--target", folder, wheel, cwd=repository)
    (folder / "configs").mkdir()  # another package's, beside ours
    (repository / "work").mkdir()
    return folder


def regvit(installed, *words):
    return run(installed / "bin" / "regvit", *words, cwd=installed.parent / "work", path=installed)


def test_the_wheel_carries_every_file_of_the_packages_and_of_configs(wheel):
    tracked = {
        path.relative_to(ROOT).as_posix()
        for folder in CARRIED
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {f"regvit_lightning/{name}" if name.startswith("configs/") else name for name in tracked}


def test_help_and_version_come_from_the_installed_package(installed):
    assert regvit(installed, "--version") == f"regvit {regvit_lightning.__version__}\n"
    shown = regvit(installed, "eval", "task=imagenet_knn", "--help")
    assert "neighbours" in shown
    where = "from regvit_lightning import settings; import benchmarks; print(settings.CONFIGS, benchmarks.__file__)"
    found = run(sys.executable, "-c", where, cwd=installed.parent / "work", path=installed).split()
    assert [Path(path).relative_to(installed).as_posix() for path in found] == [
        "regvit_lightning/configs",
        "benchmarks/__init__.py",
    ]


def test_a_mistake_is_answered_with_what_can_be_typed_there(installed):
    script = "from regvit_lightning import load_backbone; load_backbone('deit3-vitn_reg4')"
    words = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(words, cwd=installed.parent / "work", env=environment, capture_output=True, text=True)
    assert "regvit pretrain model=vitn_reg4 recipe=deit3 seed=0, with the same data" in done.stderr


def test_an_evaluation_runs_and_its_record_names_the_version(installed, tiny):
    cell = ["model=random-vitn_reg2", "task=imagenet_knn", f"data={tiny.root}/imagenet", "variant=mini"]
    said = regvit(installed, "eval", *cell, *(f"{key}={value}" for key, value in SETTINGS.items()))
    (file,) = (installed.parent / "work" / "results").rglob("*.json")
    assert file.relative_to(installed.parent / "work").as_posix() in said
    record = json.loads(file.read_text())
    backbone = regvit_lightning.load_backbone("random-vitn_reg2", Path("none"), image_size=64)
    outcome = regvit_lightning.evaluate(
        backbone, "imagenet_knn", f"{tiny.root}/imagenet", variant="mini", settings=SETTINGS
    )
    assert record["metrics"] == {key: round(value, 4) for key, value in outcome.metrics.items()}
    assert record["weights"] == backbone.fingerprint
    assert record["provenance"]["commit"] == regvit_lightning.__version__
    assert record["provenance"]["dirty"] is False
