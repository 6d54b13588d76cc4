"""The documents: links lead somewhere, numbers are those of the kept records, the Python of the README runs."""

import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pytest
import yaml
from PIL import Image

import regvit_lightning
from benchmarks.tables import columns, scored_records, summary, summary_formats
from regvit_lightning import records, settings
from tests.by_hand import saved_records

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    local = [target for target in targets if target and not target.startswith(("https://", "mailto:"))]
    assert not [target for target in local if not (document.parent / target).exists()]


def test_every_document_is_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        file = waiting.pop()
        reached.add(file)
        linked = re.findall(r"\]\(([^)#\s]+\.md)\)", file.read_text(encoding="utf-8"))
        waiting += [path for path in ((file.parent / link).resolve() for link in linked) if path not in reached]
    assert set((ROOT / "docs").rglob("*.md")) <= reached


def test_the_readme_is_read_in_one_go():
    assert len(README.encode()) <= 8192


def test_every_task_has_a_page():
    index = (ROOT / "docs" / "protocols" / "README.md").read_text(encoding="utf-8")
    stars = [name.removesuffix("*") for name in re.findall(r"`(\w+\*)`", index)]
    missing = [
        task for task in settings.names("tasks") if f"`{task}`" not in index and not task.startswith(tuple(stars))
    ]
    assert not missing


def test_the_readme_shows_the_kept_summary():
    kept = scored_records.read_scored_records(records.ROOT / "results", "mini")
    assert summary_formats.glance(summary.answers(columns.overview(kept.cells))) in README


def test_the_readme_shows_the_kept_numbers():
    shown_columns = {"imagenet_knn": "top1", "imagenet_linear": "top1", "ade20k_linear": "miou", "nyud_linear1": "rmse"}
    shown_columns |= {"lost_sweep_voc07": "corloc"}
    kept = defaultdict(list)
    for record in saved_records(records.ROOT / "results", "mini"):
        kept[record.model, record.task].append(record)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in README.splitlines() if "-vitn_reg" in line
    ]
    rows = [row for row in rows if len(row) == 1 + len(shown_columns)]
    assert len(rows) >= 3
    for name, *shown in rows:
        model = name.removesuffix(" (floor)")
        for text, (task, metric) in zip(shown, shown_columns.items(), strict=True):
            seeds = kept[model, task]
            mean = fmean(record.metrics[metric] for record in seeds)
            assert text == f"{mean:.{seeds[0].columns[metric]['decimals']}f}", (model, task)


def test_the_python_of_the_readme_runs(tiny, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (300, 200), "teal").save("photo.jpg")
    (tmp_path / "folder_of_classes").symlink_to(f"{tiny.root}/imagenet", target_is_directory=True)
    exec(compile(code, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "torch.Size([1, 4, 96])" in shown
    assert "artifacts" in shown
    assert "top1" in shown


def test_files_that_contributing_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:regvit_lightning|benchmarks|configs|tests|results)/[\w./-]*)`", text)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_targets_that_contributing_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= set(targets)


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == regvit_lightning.__version__
    assert citation["license"] == "Apache-2.0"
    (paper,) = citation["references"]
    assert paper["title"] == "Vision Transformers Need Registers"
    assert paper["url"].endswith("2309.16588")


def test_the_changelog_has_its_form():
    text = (ROOT / "CHANGELOG.md").read_text()
    heads = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert heads[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", head) for head in heads[1:])
    kinds = {"Numbers", "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


@pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda p: p.stem)
def test_issue_forms_have_what_github_asks_for(form):
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= content.keys()
    assert all(part["type"] in ("textarea", "input") and part["attributes"]["label"] for part in content["body"])
    ids = [part["id"] for part in content["body"]]
    assert len(ids) == len(set(ids))
