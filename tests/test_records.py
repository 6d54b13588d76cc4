"""Records: round trip, staleness, provenance; the kept results and their tables."""

import importlib
import json
import subprocess
from dataclasses import asdict, dataclass, replace

import pytest

import regvit_lightning
from benchmarks.tables import __main__ as program
from benchmarks.tables import published, scored_records
from benchmarks.tables.formats import Origin
from regvit_lightning import records, settings
from regvit_lightning.errors import UserError
from tests.by_hand import record, saved_records


@dataclass
class Words:
    """Settings of a program made for the purpose."""

    workers: int = 0


def test_round_trip(tmp_path):
    saved = record().save(tmp_path)
    assert saved == tmp_path / "mini" / "cells" / "deit3-vitn_reg4" / "imagenet_knn.seed0.json"
    assert records.read_record(saved) == record()
    assert saved_records(tmp_path, "mini") == [record()]
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("content", ["", "[]", '{"model": "x"}', "{"])
def test_what_is_no_record_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=r"a\.json") as error:
        records.read_record(tmp_path / "a.json")
    assert "\n" not in str(error.value)


def test_whatever_a_folder_is_called_its_record_is_read_again(tmp_path):
    """Names of classes are those of folders, which may hold any character but a slash."""
    odd = record(per_class={"a\nb": 1.0, "c\ud800": 2.0}, data_root="/x\x1b[2J", protocol={"k_chosen_on": "\u2028"})
    kept = records.read_record(odd.save(tmp_path))
    assert kept.per_class == {"a b": 1.0, "c ": 2.0}
    assert kept.protocol == {"k_chosen_on": " "}


def test_stale_says_why_and_ignores_how_it_is_run():
    chosen, layout = {"crop": 64, "workers": 1}, {"imagenet": "imagenet"}
    assert records.stale(record(), chosen, "abc", layout) == ""
    assert records.stale(record(), {"crop": 64, "workers": 8}, "abc", layout) == ""
    assert records.stale(record(), {"crop": 96, "workers": 1}, "abc", layout) == "settings changed: crop 64 -> 96"
    assert records.stale(record(), {**chosen, "k": 3}, "abc", layout) == "settings changed: k None -> 3"
    assert records.stale(record(), chosen, "def", layout) == "weights changed: abc -> def"
    digests = {"train": "1", "test": "2"}
    kept = record(data_root="/a/hands", digests=digests)
    assert records.stale(kept, chosen, "abc", layout, digests) == ""  # wherever the folder lies now
    assert records.stale(kept, chosen, "abc", layout, {"test": "2"}) == ""  # train is not there
    assert records.stale(kept, chosen, "abc", layout, {}) == ""
    changed = records.stale(kept, chosen, "abc", layout, {"train": "3", "test": "2"})
    assert changed == "data changed: names, sizes or labels of train are not those of the record"
    changed = records.stale(record(), chosen, "abc", {"imagenet": "in1k"})
    assert changed == "layout of the data changed: imagenet imagenet -> in1k"


@pytest.mark.parametrize(("schema", "lacks"), [(2, {"scores", "source", "digests"}), (3, {"source", "digests"})])
def test_a_record_of_an_older_schema_is_read_but_runs_again(tmp_path, schema, lacks):
    old = {key: value for key, value in asdict(record()).items() if key not in lacks} | {"schema": schema}
    (tmp_path / "a.json").write_text(json.dumps(old))
    found = records.read_record(tmp_path / "a.json")
    assert found == replace(record(), schema=schema)
    reason = records.stale(found, record().settings, "abc", record().layout)
    assert reason == f"a record of schema {schema}, which is now 4"
    for changed in ({"schema": 1}, {"schema": 4}, {"schema": 2.0}, {"more": 1}):
        (tmp_path / "a.json").write_text(json.dumps({**old, **changed}))
        with pytest.raises(UserError, match=r"a\.json: not a record of schema 4; remove it"):
            records.read_record(tmp_path / "a.json")


NOT_RECORDS = [  # a change of a valid record, and what is said of it
    ({"metrics": {"top1": float("nan")}}, "NaN is no number"),
    ({"metrics": {"top1": 1e400}}, "Infinity is no number"),
    ({"metrics": {"top1": "50"}}, r"metrics\.top1: expected a number"),
    ({"metrics": {"top1": True}}, r"metrics\.top1: expected a number"),
    ({"images": 10**400}, "a number is not finite or not below 1e"),
    ({"images": 10**16}, "a number is not finite or not below 1e"),
    ({"images": -1}, "images: must not be negative"),
    ({"seed": 1.0}, "seed: expected a whole number"),
    ({"intervals": {"top1": [1.0]}}, r"intervals\.top1: expected a list of 2"),
    ({"intervals": {"top1": [2.0, 1.0]}}, r"intervals\.top1: its ends are in the wrong order"),
    ({"columns": {"top1": {"better": 1, "unit": "%"}}}, r"columns\.top1\.decimals is missing"),
    ({"columns": {"top1": {"better": 2, "unit": "%", "decimals": 1}}}, r"columns\.top1: expected better in -1..1"),
    ({"model": "../../escaped"}, "model: expected a text like"),
    ({"task": "knn\n# heading"}, "a text holds a newline or another control character"),
    ({"data": "a/b"}, "data: expected a text like"),
    ({"provenance": {"date": "2026\n\\input{x}"}}, "a text holds a newline"),
    ({"protocol": {"k\u2028": 1}, "footnote": []}, "a text holds a newline"),
    ({"protocol": {"\u202e": 1}, "footnote": []}, "a text holds a newline or another control character"),
    ({"settings": {"a": [{"b": "\x1b[31m"}]}}, "a text holds a newline or another control character"),
    ({"footnote": ["gone"]}, "footnote: names facts that protocol lacks"),
    ({"footnote": None}, "footnote: expected a list"),
    ({"backbone": {"num_registers": "four"}}, r"backbone\.num_registers: expected a whole number"),
    ({"scores": {"file": "../x.npz", "digest": "1"}}, r"scores\.file: expected a text like"),
    ({"scores": {"file": "x.npz"}}, "scores: expected a file and its digest"),
    ({"digests": {"train": 5}}, r"digests\.train: expected a text"),
    ({"layout": []}, "layout: expected a mapping"),
]


@pytest.mark.parametrize(("changed", "said"), NOT_RECORDS)
def test_a_value_that_no_record_has_is_refused_in_a_line(changed, said):
    content = json.dumps({**asdict(record()), **changed}).encode()
    with pytest.raises(UserError, match=said) as error:
        records.parse(content, "a.json")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"a":' * 5_000, "{}".encode("utf-16"), b"\xff\xfe", b'{"schema": 4', b"", b"null", b"9" * 5000],
)
def test_no_json_is_refused_in_a_line(content):
    with pytest.raises(UserError, match=r"^a\.json: not ") as error:
        records.parse(content, "a.json")
    assert "\n" not in str(error.value)


def test_the_kept_records_are_records():
    """All records that are kept in this repository, whatever their schema."""
    files = sorted((records.ROOT / "results").glob("*/cells/*/*.json"))
    assert files
    for file in files:
        assert records.parse(file.read_bytes(), str(file)).path(file.parents[3]) == file


def test_provenance_names_commit_versions_and_hardware():
    found = records.provenance(1.26)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=records.ROOT, capture_output=True, text=True)
    assert found["commit"] == head.stdout.strip()
    assert found["seconds"] == 1.3
    assert "torch" in found["versions"]
    assert found["device"]
    assert found["peak_memory_mib"] > 10


def test_provenance_is_of_the_checkout_and_not_of_what_surrounds_it(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
        command = ["git", *identity, *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    head = records.provenance(0)["commit"]
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "something else")
    (tmp_path / "packages").mkdir()
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as in a hook of the other repository
    assert records.provenance(0)["commit"] == head
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.setattr(records, "ROOT", tmp_path / "packages")
    found = records.provenance(0)
    assert (found["commit"], found["dirty"]) == (regvit_lightning.__version__, False)
    monkeypatch.setattr(records, "ROOT", tmp_path)
    found = records.provenance(0)
    assert (found["commit"], found["dirty"]) == (git("rev-parse", "HEAD"), False)


def test_dirty_is_what_this_process_uses(tmp_path, monkeypatch):
    """A module that is imported and a YAML file whose values are used, not what else lies in the checkout."""

    def git(*words):
        command = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org", *words]
        subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)

    for name in ("used_here.py", "configs/used.yaml", "configs/other.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "configs/used.yaml").write_text("workers: 1\n")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "all")
    monkeypatch.setattr(records, "ROOT", tmp_path)
    monkeypatch.setattr(settings, "FILES_USED", set())
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("used_here")
    settings.build(Words, [tmp_path / "configs/used.yaml"])
    assert records.provenance(0)["dirty"] is False
    for name in ("configs/untracked.yaml", "notes.md", "other.py", "configs/other.yaml"):
        (tmp_path / name).write_text("a: 1\n")
    assert records.provenance(0)["dirty"] is False
    for name in ("configs/used.yaml", "used_here.py"):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(f"{before}# changed\n")
        assert records.provenance(0)["dirty"] is True
        (tmp_path / name).write_text(before)
    (tmp_path / "configs/untracked.yaml").write_text("workers: 2\n")
    settings.build(Words, [tmp_path / "configs/untracked.yaml"])
    assert records.provenance(0)["dirty"] is True


def test_the_kept_tables_are_those_of_the_kept_records():
    folder = records.ROOT / "results" / "mini" / "tables"
    found = scored_records.read_scored_records(records.ROOT / "results", "mini")
    origin = Origin("mini", found, "make tables DATA=mini")
    built = program.tables(found.cells, published.read_published())
    made = {f"{name}.{suffix}": text for name, of in program.files(built, origin) for suffix, text in of.items()}
    assert {file.name: file.read_text() for file in folder.iterdir() if file.suffix[1:] in ("md", "csv", "tex")} == made
    assert {len(values.provenance["commit"]) for values in found.records} == {40}


@pytest.mark.parametrize(("task", "metric", "factor"), [("ade20k_linear", "miou", 2.0), ("nyud_linear1", "rmse", 0.9)])
def test_kept_dense_results_beat_random_weights_and_the_constant_predictor(task, metric, factor):
    """Clearly, where labels or captions were seen; 400 steps of DINOv2 must be better at all."""
    cells = [cell for cell in saved_records(records.ROOT / "results", "mini") if cell.task == task]
    better = cells[0].columns[metric]["better"]
    trained = {cell.model: cell.metrics[metric] for cell in cells if not cell.model.startswith("random-")}
    floors = [cell.metrics[metric] for cell in cells if cell.model.startswith("random-")]
    floors += [kept[metric] for cell in cells for kept in cell.floors.values()]
    assert trained
    assert floors
    for model, value in trained.items():
        margin = 1.0 if model.startswith("dinov2-") else factor
        assert all(better * value > better * margin * floor for floor in floors), model


def test_the_documents_show_the_kept_tables():
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "results"], cwd=records.ROOT, capture_output=True, text=True
    )
    if changed.returncode or changed.stdout:
        pytest.skip("results were made anew here")
    for table, page in (("mini/tables/overview.md", "quick-tour.md"), ("bench/speed-cpu.md", "speed.md")):
        shown = (records.ROOT / "docs" / page).read_text()
        assert (records.ROOT / "results" / table).read_text() in shown


def test_a_record_that_lacks_a_later_setting_holds_for_the_value_it_was_made_with():
    assert records.changes({"steps": 1}, {"steps": 1, "augment": True}) == []
    assert records.changes({"steps": 1}, {"steps": 1, "augment": False}) == ["augment True -> False"]
    assert records.changes({"k": 1}, {"k": 1}) == []


def test_a_setting_that_earlier_records_lack_makes_no_other_protocol_at_the_value_they_had():
    assert records.decisive({"k": 1, "augment": True, "workers": 3}) == records.decisive({"k": 1}) == {"k": 1}
    assert records.decisive({"k": 1, "augment": False}) == {"k": 1, "augment": False}
