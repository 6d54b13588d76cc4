"""What is wrong with a record is said in a few words, and nothing is wrong with a sound one."""

import copy
from dataclasses import replace

import pytest

from benchmarks.tables import record_checks
from tests.by_hand import record, report

SOUND = record(scores={"file": "imagenet_knn.seed0.scores.npz", "digest": "0" * 16}, floors={"chance": {"top1": 6.25}})
PATH = "deit3-vitn_reg4/imagenet_knn.seed0.json"
REPORT = report("deit3-vitn_reg4").record
REPORT_PATH = "deit3-vitn_reg4/artifact_report.seed0.json"
WRONG = [
    ({"data": "full"}, "a record of data 'full'"),
    ({"seed": 7}, "a record that belongs to mini/cells/deit3-vitn_reg4/imagenet_knn.seed7.json"),
    ({"model": "deit3-vitn_reg8"}, "a record that belongs to mini/cells/deit3-vitn_reg8/imagenet_knn.seed0.json"),
]
WRONG_REPORTS = [  # keys that lead to a part of the report's protocol, what stands there instead, and what is said
    (["norms_of_last_block"], [], "protocol.norms_of_last_block is empty"),
    (["norms_of_last_block"], 5, "protocol.norms_of_last_block: expected a list"),
    (["norms_by_block", "levels"], [0.5], "protocol.norms_by_block: expected a norm for each of its levels"),
    (["norms_by_block", "patches", 0], [1.0], "protocol.norms_by_block: expected a norm for each of its levels"),
    (["single_tokens", "CLS"], "80", "protocol.single_tokens.CLS: expected a mapping"),
    (["single_tokens", "CLS"], {"top1": 80.0}, "protocol.single_tokens.CLS.std_over_draws is missing"),
    (["position"], None, "protocol.position: expected a mapping"),
    (["pixels", "normal", "l2"], "far", "protocol.pixels.normal.l2: expected nothing or a number"),
    (["findings"], {}, "settings.rule: expected one of protocol.findings"),
    (["findings", "factor", "shares"], [0.1] * 9, "protocol.findings.factor: more shares than blocks"),
    (["cost", 0, "macs"], None, "protocol.cost[0].macs: expected a number"),
    (["pixel_scale"], 255, "protocol.pixel_scale: expected a text"),
    (["questions"], [3], "protocol.questions[0]: expected a mapping"),
    (["questions"], [{"answer": 3, "words": "x", "effect": {}}], "protocol.questions[0].answer: expected a text"),
    (["sinks"], {"by_block": {"NOP": 1.0}}, "protocol.sinks.by_block.events is missing"),
    (["locality_by_block"], {"mean_cosine": [0.5]}, "protocol.locality_by_block.variance is missing"),
]


@pytest.mark.parametrize(("changed", "words"), WRONG)
def test_a_record_at_the_wrong_place_is_named(changed, words):
    assert record_checks.fault(replace(SOUND, **changed), "mini", PATH).startswith(words)


@pytest.mark.parametrize(("keys", "instead", "words"), WRONG_REPORTS)
def test_a_report_that_cannot_be_shown_is_named(keys, instead, words):
    protocol = copy.deepcopy(REPORT.protocol)
    inside = protocol
    for key in keys[:-1]:
        inside = inside[key]
    inside[keys[-1]] = instead
    assert record_checks.fault(replace(REPORT, protocol=protocol), "mini", REPORT_PATH).startswith(words)


def test_a_sound_record_has_no_fault():
    assert record_checks.fault(SOUND, "mini", PATH) == ""
    assert record_checks.fault(REPORT, "mini", REPORT_PATH) == ""
    assert record_checks.fault(replace(SOUND, scores={}, intervals={}, provenance={}), "mini", PATH) == ""
