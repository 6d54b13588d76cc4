"""The text report on exported and released towers: its metrics, its record, its page and its messages."""

import json
from pathlib import Path

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from regvit_lightning import settings
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.errors import UserError
from regvit_lightning.models import joint_space, sources, vit, weights
from regvit_lightning.models.joint_space import JointSpace, TextArchitecture
from regvit_lightning.settings import SettingsError
from regvit_lightning.tasks import text_report
from tests.tasks.test_zeroshot import METADATA

LONG = "a red ball on the planks in front of a brick wall, left of a blue box"


def report(backbone, data, *words):
    chosen = settings.load_settings("tasks", "text_report", "mini", words)[1]
    return text_report.run(backbone, data, chosen)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An export of the recipe whose text tower spreads its attention evenly."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("export")
    weights.save(folder / "backbone.safetensors", vit.build("vitn_reg2", image_size=64, pre_norm=True), METADATA)
    backbone = sources.load_backbone(str(folder / "backbone.safetensors"), Path())
    space = JointSpace(TextArchitecture(width=64, layers=2, heads=2, context_length=32, embed_dim=32), 96)
    for block in space.text.transformer.resblocks:
        block.attn.in_proj_weight.data[:128] = 0
    joint_space.save(folder / "text.safetensors", space, backbone.fingerprint)
    return backbone


def test_the_report_of_captions(model, tiny):
    found = report(model, tiny, "texts=5", "figures=true")
    assert 0 < found.images <= 5
    assert {"sink_rate", "nop_sinks", "broadcast_sinks", "words_to_sot"} <= found.metrics.keys()
    assert found.scores.keys() == found.intervals.keys() == text_report.METRICS.keys()
    facts = found.protocol
    json.dumps(facts, allow_nan=False)
    assert facts["source"] == "captions of the training pairs"
    assert facts["attention_shares"]["EOT"]["padding"] == [0, 0]
    assert len(facts["first_token_attention"]) == len(facts["norms_by_block"]["SOT"]) == 2
    assert facts["verdict"] == found.remarks[0]
    assert facts["verdict"].startswith("openclip-vitn_reg2: in 0.0% of the heads of its text tower")
    FigureCanvasAgg(found.picture).draw()
    assert {"first_token_by_head", "attention_of_eot", "example"} <= found.figures().keys()


def test_texts_of_a_file_and_what_is_too_short(model, tiny, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text(f"{LONG}\n\nhi\n{LONG}\n", encoding="utf-8")
    found = report(model, tiny, f"source={file}")
    assert (found.images, found.protocol["left_out"]) == (2, 1)
    assert found.protocol["source"].startswith("texts.txt, SHA-256 ")
    tokens = found.protocol["tokens_per_text"]["most"]
    expected = sum(1 / (t + 1) for t in range(8, tokens)) / (tokens - 8)
    for head in (0, 1):
        assert found.protocol["first_token_attention"][0][head] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"hi\n", "no text is long enough"), (b"\n \n", "holds no text"), (b"\xff\xfe\x00", "not a UTF-8 file of texts")],
)
def test_files_without_usable_texts(model, tiny, tmp_path, content, message):
    file = tmp_path / "texts.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        report(model, tiny, f"source={file}")


def test_what_has_no_texts(model, tiny, tmp_path):
    with pytest.raises(UserError, match="not a UTF-8 file of texts"):
        report(model, tiny, f"source={tmp_path / 'missing.txt'}")
    with pytest.raises(DataError, match="has no captions; give ARGS="):
        report(model, DataSettings(name="own", root=str(tmp_path)))
    with pytest.raises(UserError, match="has no text tower"):
        report(sources.load_backbone("random-vitn_reg0", "runs", image_size=64), tiny)
    with pytest.raises(SettingsError, match="precision=bf16-mixed: the text report is computed in single precision"):
        report(model, tiny, "precision=bf16-mixed")
