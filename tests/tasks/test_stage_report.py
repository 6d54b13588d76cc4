"""The artifact report of convolutional and hierarchical models on planted outliers, through the task itself."""

import json

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from regvit_lightning import settings
from regvit_lightning.models.sources import load_backbone
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks import artifact_report
from tests.models.test_feature_maps import swin


def report(backbone, data, side, *words):
    quick = "{train_images: 32, local_images: 16, tokens: {draws: 2, exponents: [0], iterations: 20}}"
    view = ["images=8", "detailed=4", "shown=2", f"resize={side}", f"crop={side}"]
    words = ["workers=0", "precision=32-true", *view, f"probes={quick}", *words]
    return artifact_report.run(backbone, data, settings.load_settings("tasks", "artifact_report", "mini", words)[1])


def planted(backbone, stage=-1, row=2, column=3):
    """Multiply one cell of a stage's map by 20, whatever the image."""

    def raise_one(_, __, output):
        maps = output.clone()
        maps[(..., row, column)] *= 20  # of maps with channels first
        return maps

    backbone.model.stages[stage].register_forward_hook(raise_one)
    return backbone


def test_planted_outliers_of_a_convnext(tiny):
    found = report(planted(load_backbone("random-timm/test_convnext")), tiny, 160, "figures=true")
    facts = found.protocol
    json.dumps(facts, allow_nan=False)
    assert found.metrics["outlier_share"] == pytest.approx(100 / 25)
    assert facts["artifact_stages"] == [4]
    assert "has artifacts in the map of stage 4 of 4" in facts["verdict"]
    assert "with replicate padding in place of zeros 4.00% of cells instead of 4.00%" in facts["verdict"]
    assert (
        'Few cells at 160 px, 10 × 10 in stage 3, 5 × 5 in stage 4: shares there are coarse; give ARGS="'
        in (facts["verdict"])
    )
    assert [one["grid"] for one in facts["stages"]] == [[40, 40], [20, 20], [10, 10], [5, 5]]
    assert set(facts["single_tokens"]) == {"mean", "normal", "outlier"}
    assert facts["replicated_convolutions"] > 0
    FigureCanvasAgg(found.picture).draw()
    assert {"norm_maps", "outliers_by_stage", "distance_from_border", "single_cells"} <= found.figures().keys()


@pytest.mark.parametrize("name", ["test_mambaout", "test_maxvit"])
def test_models_without_outliers(tiny, name):
    found = report(load_backbone(f"random-timm/{name}"), tiny, 160)
    assert found.protocol["artifact_stages"] == []
    assert "has no artifacts in the maps of its 4 stages" in found.protocol["verdict"]
    assert found.protocol["single_tokens"] == {} or found.metrics["outlier_share"] > 0
    FigureCanvasAgg(found.picture).draw()


def test_a_swin_has_windows_and_no_padding(tiny):
    found = report(swin(), tiny, 64)
    first = found.protocol["stages"][0]
    assert first["windows"]["size"] == 4
    assert len(first["windows"]["contrast"]) == 4
    assert first["padding"] is None
    assert found.protocol["replicated_convolutions"] == 0
    FigureCanvasAgg(found.picture).draw()


def test_a_size_and_a_setting_that_do_not_apply(tiny):
    with pytest.raises(SettingsError, match="has no registers"):
        report(load_backbone("random-timm/test_convnext"), tiny, 160, "register_means=means.pt")
    assert torch.is_inference_mode_enabled() is False
