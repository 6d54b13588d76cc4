"""The artifact report on a planted neuron: found where it is, and not found in the same model without it."""

import pytest

from regvit_lightning import settings
from regvit_lightning.tasks import artifact_report
from tests.artifacts.planted import planted


def report(backbone, tiny, *words):
    words = ["workers=0", "precision=32-true", "images=32", "detailed=4", "shown=2", *words]
    chosen = settings.load("tasks", "artifact_report", "mini", words)[1]
    return artifact_report.run(backbone, tiny, chosen)


def test_the_report_tells_a_model_with_artifacts_from_one_without(tiny):
    model = planted()
    found, clean = (
        report(backbone, tiny, f"crop={model.backbone.image_size}") for backbone in (model.backbone, model.clean)
    )
    for outcome in (found, clean):
        assert outcome.images == 32
        assert 0 <= outcome.metrics["outlier_share"] <= 100
        assert outcome.protocol["verdict"].endswith(".")
        assert set(outcome.protocol["findings"]) >= {"cutoff", "sigmas", "mads", "factor", "low_mads"}
        assert len(outcome.protocol["kurtosis_by_block"]) == model.backbone.depth + 1
        sums = [outcome.metrics[f"attention_{kind}_to_registers"] for kind in ("cls", "patches", "registers")]
        assert all(0 < value < 1 for value in sums)
        assert len(outcome.picture.axes) > 8
    assert "no artifacts" in clean.protocol["verdict"]
    assert found.metrics["max_over_median"] >= clean.metrics["max_over_median"] * (1 - 1e-6)


def test_numbers_of_images_must_rise():
    with pytest.raises(settings.SettingsError, match="expected them to rise"):
        settings.load("tasks", "artifact_report", "mini", ["images=32", "detailed=64"])
