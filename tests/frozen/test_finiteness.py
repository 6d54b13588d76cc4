"""Nothing that is not finite is recorded: every kind of number of an outcome, named with its task."""

import json
import math

import pytest
import torch

from regvit_lightning.errors import UserError
from regvit_lightning.frozen.contract import Outcome
from regvit_lightning.frozen.finiteness import require_finite
from tests import by_hand

GOOD = {
    "metrics": {"miou": 40.0, "rmse": 0.5},
    "images": 3,
    "intervals": {"miou": (39.0, 41.0)},
    "per_class": {"wall": 40.0, "sky": None},
    "floors": {"constant": {"miou": 1.0}},
    "protocol": {"rings": [0.1, 0.2], "head": {"lr": 1e-3}, "caveat": "", "view": None, "flip": True},
    "scores": {"miou": torch.tensor([1.0, math.nan, 2.0])},
}


def test_a_finite_outcome_is_fine():
    require_finite("ade20k_linear", ["miou"], Outcome(**GOOD))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("part", "spoilt", "name"),
    [
        ("metrics", lambda x: {"miou": 1.0, "rmse": x}, "rmse"),
        ("intervals", lambda x: {"miou": (1.0, x)}, r"miou \(intervals\)"),
        ("per_class", lambda x: {"wall": x}, r"wall \(per class\)"),
        ("floors", lambda x: {"constant": {"miou": x}}, r"constant\.miou \(floors\)"),
        ("protocol", lambda x: {"rings": [0.1, {"inner": (x,)}]}, r"rings\.inner \(protocol\)"),
    ],
)
def test_a_number_that_is_not_finite_is_named(part, spoilt, name, value):
    outcome = Outcome(**{**GOOD, part: spoilt(value)})
    with pytest.raises(UserError, match=rf"ade20k_linear: {name} is {value}, not a finite number; nothing is rec") as e:
        require_finite("ade20k_linear", ["miou"], outcome)
    assert "\n" not in str(e.value)


def test_a_missing_metric_and_an_infinite_score_are_named():
    with pytest.raises(UserError, match="t: corloc could not be measured"):
        require_finite("t", ["corloc"], Outcome(**GOOD))
    with pytest.raises(UserError, match="t: rmse of an image is infinite"):
        require_finite("t", ["rmse"], Outcome(**{**GOOD, "scores": {"rmse": torch.tensor([1.0, math.inf])}}))


@pytest.mark.parametrize("part", ["metrics", "settings", "provenance", "backbone"])
def test_no_record_is_written_that_is_no_json(tmp_path, part):
    record = by_hand.record(**{part: {"top1": math.nan}})
    with pytest.raises(UserError, match=r"imagenet_knn of deit3-vitn_reg4: not saved, as a value is not finite"):
        record.save(tmp_path)
    assert not list(tmp_path.rglob("*"))
    json.loads(by_hand.record().save(tmp_path).read_text(), parse_constant=pytest.fail)
