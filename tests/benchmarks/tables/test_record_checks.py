"""What is wrong with a record is said in a few words, and nothing is wrong with a sound one."""

import math
from dataclasses import replace

import pytest

from benchmarks.tables import record_checks
from tests.by_hand import record

SOUND = record(scores={"file": "imagenet_knn.seed0.scores.npz", "digest": "0" * 16}, floors={"chance": {"top1": 6.25}})
PATH = "deit3-vitn_reg4/imagenet_knn.seed0.json"
COLUMN = SOUND.columns["top1"]
NAMES, NUMBERS, INTERVALS = "its names are not texts", "its metrics are not numbers", "its intervals are not pairs"
COLUMNS, PARTS, FOOTNOTE = "its columns lack", "some of its parts are not mappings", "its footnote is no list"
WRONG = [
    ({"model": 4}, NAMES),
    ({"weights": None}, NAMES),
    ({"data_root": []}, NAMES),
    ({"seed": "0"}, NAMES),
    ({"seed": True}, NAMES),
    ({"images": 9.5}, NAMES),
    ({"settings": []}, PARTS),
    ({"floors": "none"}, PARTS),
    ({"provenance": None}, PARTS),
    ({"footnote": "view"}, FOOTNOTE),
    ({"footnote": [1]}, FOOTNOTE),
    ({"footnote": ["view"]}, "its footnote names facts that its protocol lacks"),
    ({"provenance": {"commit": 7}}, "its commit or its date is no text"),
    ({"provenance": {"date": {}}}, "its commit or its date is no text"),
    ({"scores": {"file": "a"}}, "its scores name no file or no digest"),
    ({"columns": {"top1": "best"}}, COLUMNS),
    ({"columns": {"top1": {"better": 1, "unit": "%"}}}, COLUMNS),
    ({"columns": {"top1": {**COLUMN, "rank": 1}}}, COLUMNS),
    ({"columns": {"top1": {**COLUMN, "better": 2}}}, COLUMNS),
    ({"columns": {"top1": {**COLUMN, "better": True}}}, COLUMNS),
    ({"columns": {"top1": {**COLUMN, "decimals": 10}}}, COLUMNS),
    ({"columns": {"top1": {**COLUMN, "decimals": -1}}}, COLUMNS),
    ({"columns": {"top1": {**COLUMN, "unit": 5}}}, COLUMNS),
    ({"metrics": {"top1": "50"}}, NUMBERS),
    ({"metrics": {"top1": True}}, NUMBERS),
    ({"metrics": {"top1": math.nan}}, NUMBERS),
    ({"metrics": {"top1": -math.inf}}, NUMBERS),
    ({"metrics": {"top1": 10**400}}, NUMBERS),
    ({"floors": {"chance": 1.0}}, NUMBERS),
    ({"floors": {"chance": {"top1": None}}}, NUMBERS),
    ({"intervals": {"top1": [1.0]}}, INTERVALS),
    ({"intervals": {"top1": [1.0, math.nan]}}, INTERVALS),
    ({"intervals": {"top1": 1.0}}, INTERVALS),
    ({"data": "full"}, "a record of data 'full'"),
    ({"seed": 7}, "a record that belongs to mini/cells/deit3-vitn_reg4/imagenet_knn.seed7.json"),
    ({"model": "deit3-vitn_reg8"}, "a record that belongs to mini/cells/deit3-vitn_reg8/imagenet_knn.seed0.json"),
]


@pytest.mark.parametrize(("changed", "words"), WRONG)
def test_a_fault_is_named(changed, words):
    assert record_checks.fault(replace(SOUND, **changed), "mini", PATH).startswith(words)


def test_a_sound_record_has_no_fault_and_neither_direction_is_one():
    assert record_checks.fault(SOUND, "mini", PATH) == ""
    assert record_checks.fault(replace(SOUND, columns={"top1": {**COLUMN, "better": 0}}), "mini", PATH) == ""
    assert record_checks.fault(replace(SOUND, scores={}, intervals={}, provenance={}), "mini", PATH) == ""
