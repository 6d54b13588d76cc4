"""`make compare` on a repository of git made for the purpose: every verdict, both kinds of sides, every mistake."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.compare import comment, reasons, sides
from benchmarks.compare.lines import certainly_worse, compare_records
from benchmarks.tables import scored_records
from benchmarks.tables.scored_records import ScoredRecord, ScoredRecords
from regvit_lightning import records
from regvit_lightning.errors import UserError
from tests.by_hand import cell, save

HALF = np.arange(400) % 2 * 100.0  # 50 %


def changed_by(images):
    """As HALF with so many more images right, fewer where negative."""
    values = HALF.copy()
    values[slice(0, 2 * images, 2) if images > 0 else slice(1, -2 * images, 2)] = 100.0 if images > 0 else 0.0
    return values


def git(folder, *words):
    identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def twice(*words, **more):
    """The same cell from two seeds whose trainings agree: what is left is the noise of the images."""
    return [cell(*words, seed=seed, **more) for seed in (0, 1)]


BASE = [
    *twice("deit3-vitn_reg0", per_image=HALF),
    *twice("deit3-vitn_reg1", per_image=HALF),
    *twice("deit3-vitn_reg2", per_image=HALF),
    cell("deit3-vitn_reg3", per_image=HALF),
    *twice("deit3-vitn_reg4", per_image=HALF),
    *twice("deit3-vitn_reg8", per_image=HALF),
    *twice("deit3-vitn_reg16", per_image=HALF),
    cell("deit3-vitn_reg24", per_image=HALF),
]
HEAD = [
    *twice("deit3-vitn_reg0", per_image=changed_by(20)),  # better
    *twice("deit3-vitn_reg1", per_image=changed_by(-20)),  # worse
    *twice("deit3-vitn_reg2", per_image=changed_by(1)),  # within noise
    cell("deit3-vitn_reg3", per_image=changed_by(-20)),  # as much worse, but from one seed
    *twice("deit3-vitn_reg4", per_image=HALF, settings={"crop": 96, "workers": 1}),  # another protocol
    *twice("deit3-vitn_reg8", per_image=HALF, settings={"crop": 64, "workers": 8}),  # the same; reg16 is gone
    cell("deit3-vitn_reg24", per_image=changed_by(20)),  # as much better, but from one seed
    *twice("deit3-vitn_reg32", per_image=HALF),  # new
]
VERDICTS = {
    "deit3-vitn_reg0": "better",
    "deit3-vitn_reg1": "worse",
    "deit3-vitn_reg2": "within noise",
    "deit3-vitn_reg3": "worse beyond image noise, one seed",
    "deit3-vitn_reg4": "protocol changed",
    "deit3-vitn_reg8": "",
    "deit3-vitn_reg16": "gone",
    "deit3-vitn_reg24": "better beyond image noise, one seed",
    "deit3-vitn_reg32": "new",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Two commits of results; in the folder lie those of the second."""
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "-q", "-b", "main")
    for cells in (BASE, HEAD):
        subprocess.run(["rm", "-rf", str(folder / "results")], check=True)
        for values in cells:
            save(folder / "results", values)
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", "results")
    return folder


def judged(results, base, head=""):
    compared = compare_records(
        scored_records.read_scored_records(results, "mini", base),
        scored_records.read_scored_records(results, "mini", head),
    )
    return {line.row.model: line.verdict for line in compared}


def test_every_verdict_between_a_commit_and_the_folder(repository):
    assert judged(repository / "results", "HEAD~1") == VERDICTS


def test_two_commits_two_folders_and_a_checkout_say_the_same(repository, tmp_path):
    for values in BASE:
        save(tmp_path / "checkout" / "results", values)
    results = repository / "results"
    assert judged(results, "HEAD~1", "main") == VERDICTS
    assert judged(results, str(tmp_path / "checkout")) == VERDICTS
    assert judged(results, str(tmp_path / "checkout" / "results"), "main") == VERDICTS
    assert set(judged(results, "HEAD").values()) == {""}


def test_records_of_a_commit_are_those_of_its_files(repository):
    kept_here, in_commit = (
        scored_records.read_scored_records(repository / "results", "mini", side) for side in ("", "HEAD")
    )
    assert kept_here.records == in_commit.records
    for one, other in zip(kept_here.cells, in_commit.cells, strict=True):
        np.testing.assert_array_equal(one.scores["top1"], other.scores["top1"])
    assert len(scored_records.read_scored_records(repository / "results", "mini", "HEAD~1").records) == len(BASE)
    assert git(repository, "status", "--porcelain") == ""


def test_the_comment_shows_old_new_difference_interval_and_verdict(repository):
    base, head = (scored_records.read_scored_records(repository / "results", "mini", side) for side in ("HEAD~1", ""))
    shown = comment.markdown(base, head, "mini", compare_records(base, head))
    title = "### Results on mini: **1 worse**, 1 better, 1 worse beyond image noise, one seed, "
    title += "1 better beyond image noise, one seed, 1 within noise, 1 protocol changed, 1 new, 1 gone, 1 the same"
    assert shown.splitlines()[0] == title
    cells = [[part.strip() for part in line.split("|")[1:-1]] for line in shown.splitlines() if "| deit3" in line]
    rows = {first: rest for first, *rest in cells}
    assert list(rows) == sorted(set(VERDICTS) - {"deit3-vitn_reg8"}, key=lambda name: int(name.partition("_reg")[2]))
    metric, numbers, difference, verdict = rows["deit3-vitn_reg1"]
    assert (metric, numbers, verdict) == ("top-1 in %", "50.0 (2 seeds) → 45.0 (2 seeds)", "**worse**")
    # 20 of 400 images changed by 100: -5 ± 1.96 * sqrt(0.05 * 0.95 / 400) * 100 = ± 2.1.
    value, low, high = (float(text.strip("[],")) for text in difference.split())
    assert value == -5.0
    assert (low, high) == pytest.approx((-7.1, -2.9), abs=0.3)
    assert rows["deit3-vitn_reg16"][1:] == ["50.0 (2 seeds) → –", "", "gone"]
    assert rows["deit3-vitn_reg32"][1:] == ["– → 50.0 (2 seeds)", "", "new"]
    assert rows["deit3-vitn_reg4"][1:] == ["50.0 (2 seeds) → 50.0 (2 seeds)", "", "protocol changed: crop 64 → 96"]


def test_less_is_better_turns_the_verdict_and_no_interval_gives_none(tmp_path):
    less = {"columns": {"top1": {"better": -1, "unit": "m", "decimals": 1}}}
    bare = {"columns": {"top1_k10": {"better": 1, "unit": "%", "decimals": 1}}, "intervals": {}}
    sides = []
    for name, by in (("old", 0), ("new", 20)):
        for values in twice("deit3-vitn_reg0", per_image=changed_by(by) if by else HALF):
            save(tmp_path / name, ScoredRecord(replace(values.record, **less), values.scores))
        save(tmp_path / name, cell("deit3-vitn_reg4", metrics={"top1_k10": 1.0 + by}, **bare))
        sides.append(str(tmp_path / name))
    assert judged(tmp_path / "new", sides[0]) == {"deit3-vitn_reg0": "worse", "deit3-vitn_reg4": "no interval"}
    assert judged(tmp_path / "old", sides[1]) == {"deit3-vitn_reg0": "better", "deit3-vitn_reg4": "no interval"}


def sides_of(old, new):
    return [ScoredRecords(name, list(cells), []) for name, cells in (("old", old), ("new", new))]


def test_a_value_that_is_no_number_is_worse_and_fails_strictly():
    for seeds in ((0,), (0, 1)):
        old = [cell("deit3-vitn_reg0", seed=seed, top1=40.0) for seed in seeds]
        new = [cell("deit3-vitn_reg0", seed=seed, top1=float("nan"), intervals={}) for seed in seeds]
        lines = compare_records(*sides_of(old, new))
        assert [line.verdict for line in lines] == ["worse"]
        assert certainly_worse(lines) == lines


def test_strict_corrects_for_the_number_of_metrics():
    """Forty equal recipes: each is called worse in 2.5 % of cases by itself, any in 5 % by Holm's correction."""
    draw, alarms, alone = np.random.default_rng(0), 0, 0
    for _ in range(60):
        old, new = (
            [
                cell(f"deit3-vitn_reg{count}", seed=seed, per_image=draw.normal(50, 10, 60))
                for count in range(40)
                for seed in (0, 1)
            ]
            for _ in range(2)
        )
        lines = compare_records(*sides_of(old, new))
        alone += any(line.verdict == "worse" for line in lines)
        alarms += bool(certainly_worse(lines))
    assert alone > 20
    assert alarms <= 7  # 3 expected
    much = [cell("deit3-vitn_reg0", seed=seed, per_image=draw.normal(30, 10, 60)) for seed in (0, 1)]
    assert [line.row.model for line in certainly_worse(compare_records(*sides_of(old, much)))] == ["deit3-vitn_reg0"]


def program(folder, *words):
    command = [sys.executable, "-m", "benchmarks.compare", f"results={folder / 'results'}", *words]
    return subprocess.run(command, cwd=records.ROOT, capture_output=True, text=True)


def test_exit_status(repository):
    assert program(repository, "base=HEAD~1").returncode == 0
    strict = program(repository, "base=HEAD~1", "strict=true")
    assert strict.returncode == 1
    assert "**worse**" in strict.stdout
    assert program(repository, "base=HEAD", "strict=true").returncode == 0
    turned = program(repository, "base=HEAD", "head=HEAD~1", "strict=true")
    assert turned.returncode == 1  # what was better is worse the other way round


def test_strict_warns_of_one_seed_and_fails_where_a_record_became_unreadable(tmp_path):
    save(tmp_path / "old", cell("deit3-vitn_reg0", per_image=HALF))
    save(tmp_path / "results", cell("deit3-vitn_reg0", per_image=changed_by(-20)))
    words = f"base={tmp_path / 'old'}", "strict=true"
    one_seed = program(tmp_path, *words)
    warning = "warning: worse beyond image noise, but with one seed: deit3-vitn_reg0 imagenet_knn top-1\n"
    assert (one_seed.returncode, one_seed.stderr) == (0, warning)
    save(tmp_path / "old", cell("deit3-vitn_reg4", per_image=HALF))
    broken = save(tmp_path / "results", cell("deit3-vitn_reg4", per_image=HALF))
    broken.write_text(broken.read_text().replace("50.0", "NaN"))
    assert program(tmp_path, *words).returncode == 1


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("nowhere", "nowhere: neither a folder nor a revision of git in "),
        ("--help-me", "--help-me: neither a folder nor a revision"),
        ("HEAD^{tree}", "neither a folder nor a revision"),
    ],
)
def test_a_base_that_does_not_exist_is_named(repository, base, message):
    with pytest.raises(UserError) as error:
        scored_records.read_scored_records(repository / "results", "mini", base)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_old_side_without_records_makes_everything_new(repository, tmp_path):
    (tmp_path / "empty").mkdir()
    base, head = sides.of_states(repository / "results", "mini", str(tmp_path / "empty"), "")
    compared = compare_records(base, head)
    assert {line.verdict for line in compared} == {"new"}
    assert {line.row.model for line in compared} == {one.record.model for one in HEAD}
    shown = comment.markdown(base, head, "mini", compared)
    assert f"0 worse, 0 better, {len(compared)} new, 0 the same" in shown.splitlines()[0]
    assert "No record" in shown
    with pytest.raises(UserError, match="no record in"):
        sides.of_states(repository / "results", "mini", "", str(tmp_path / "empty"))


def test_one_model_against_another(repository):
    """HEAD's reg0 has 20 of 400 images more right than half, reg1 has 20 fewer: 55 and 45 %."""
    results = repository / "results"
    base, head = sides.of_models(results, "mini", "", "", "deit3-vitn_reg1,deit3-vitn_reg0")
    (line,) = compare_records(base, head)
    assert (line.row.model, line.change.value) == ("deit3-vitn_reg0", 10.0)
    assert line.change.paired
    (line,) = compare_records(*sides.of_models(results, "mini", "", "", "deit3-vitn_reg0,deit3-vitn_reg1"))
    assert line.change.value == -10.0
    (line,) = compare_records(*sides.of_models(results, "mini", "HEAD~1", "", "deit3-vitn_reg16,deit3-vitn_reg1"))
    assert line.change.value == -5.0  # of the older state, as the new one has no such model
    (line,) = compare_records(*sides.of_models(results, "mini", "", "", "deit3-vitn_reg4,deit3-vitn_reg0"))
    assert (line.verdict, line.reason) == ("protocol changed", "crop 96 → 64")
    for models, said in (
        ("deit3-vitn_reg1", "expected two"),
        ("a,a", "expected two"),
        ("a,b", "no record of model 'a'"),
    ):
        with pytest.raises(UserError, match=said):
            sides.of_models(results, "mini", "", "", models)
    assert program(repository, "models=deit3-vitn_reg1,deit3-vitn_reg0").returncode == 0


def test_settings_of_recipes_and_versions_that_changed_are_named():
    def side(lr, torch, model="deit3-vitn_reg4"):
        backbone = {"num_registers": 4, "trained_with": {"lr": lr, "clip": 3.0, "trainer": {"precision": "16"}}}
        one = cell(model, backbone=backbone, provenance={"versions": {"torch": torch, "numpy": "2.0"}})
        return ScoredRecords("x", [one, cell("timm-vit")], [])

    old, new = side(0.1, "2.6"), side(0.2, "2.7")
    assert reasons.changed_facts(old, new) == [
        "deit3-vitn_reg4: trained with lr 0.1 → 0.2",
        "versions: torch 2.6 → 2.7",
    ]
    shown = comment.markdown(old, new, "mini", compare_records(old, new))
    assert "- changed, deit3-vitn_reg4: trained with lr 0.1 → 0.2" in shown
    assert reasons.changed_facts(old, old) == []
    assert reasons.changed_facts(ScoredRecords("none", [], []), new) == []


def test_a_setting_that_an_earlier_record_lacks_has_not_changed_at_its_neutral_value():
    def side(**more):
        backbone = {"num_registers": 4, "trained_with": {"lr": 0.1, **more}}
        return ScoredRecords("x", [cell("deit3-vitn_reg4", backbone=backbone)], [])

    assert reasons.changed_facts(side(), side(register_gram=0.0, register_dropout=0.0)) == []
    (line,) = reasons.changed_facts(side(), side(register_gram=0.5, register_dropout=0.0))
    assert line == "deit3-vitn_reg4: trained with register_gram not there → 0.5"


def test_no_records_on_a_side_is_said(repository, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no record in .*make some with: make eval DATA=mini"):
        scored_records.read_scored_records(repository / "results", "mini", str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"no record in .*full/cells of HEAD; make some"):
        scored_records.read_scored_records(repository / "results", "full", "HEAD")
    with pytest.raises(UserError, match="no folder"):
        scored_records.read_scored_records(tmp_path / "none", "mini")
