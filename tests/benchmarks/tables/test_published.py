"""Published numbers: complete against the paper, each with source and protocol, tasks and models that exist."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tables import published
from benchmarks.tables.published import Protocol
from regvit_lightning import settings
from regvit_lightning.settings import SettingsError
from tests.by_hand import record

ENTRIES = published.read_published()
PAPER = "arXiv 2309.16588, table "
DOCUMENT = Path(published.FILE).parents[1] / "docs" / "published.md"


def documented():
    """Values of docs/published.md by (source, model, column): what no task here measures."""
    found, source = {}, ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            source = line.lstrip("# ")
        elif line.startswith("| model |"):
            columns = [cell.strip() for cell in line.strip("| ").split(" | ")][1:]
        elif line.startswith("| ") and source != "Protocols" and "---" not in line:
            model, *cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
            assert len(cells) == len(columns), line
            found |= {(source, model, column): cell for column, cell in zip(columns, cells, strict=True) if cell != "–"}
    return found


DOCUMENTED = documented()


def values(source, model, part=""):
    """All values of a row, those that are measured here first."""
    here = [entry.value for entry in ENTRIES if (entry.source, entry.model, entry.part) == (source, model, part)]
    row = f"{model}: {part}" if part else model
    return here + [
        float(cell.split(" ± ")[0]) for (where, name, _), cell in DOCUMENTED.items() if (where, name) == (source, row)
    ]


def test_every_table_of_the_paper_is_there_whole():
    # 14 data sets × 3 tokens; 6 models × 3; 2; 6 × 3; two rows with a gap each; two rows of two.
    sources = [entry.source for entry in ENTRIES] + [source for source, _, _ in DOCUMENTED]
    counts = Counter(source.removeprefix(PAPER) for source in sources if source.startswith(PAPER))
    assert counts == {"1": 42, "2a": 18, "2b": 2, "3": 18, "4": 6, "5": 4, "6": 42}


def test_some_numbers_of_every_table():
    assert values(PAPER + "1", "DINOv2-g", "outlier")[:3] == [69.0, 55.1, 79.1]
    assert sum(values(PAPER + "1", "DINOv2-g", "CLS")) == pytest.approx(1257.5)
    assert sum(values(PAPER + "1", "DINOv2-g", "normal")) == pytest.approx(770.1)
    assert sum(values(PAPER + "1", "DINOv2-g", "outlier")) == pytest.approx(1204.2)
    for token in ("normal", "outlier", "CLS"):  # table 6 is table 1 in another order
        assert sorted(values(PAPER + "6", "DINOv2-g", token)) == sorted(values(PAPER + "1", "DINOv2-g", token))
    assert values(PAPER + "2a", "DINOv2-L IN22k+reg") == [84.8, 47.9, 0.366]
    assert values(PAPER + "2b", "OpenCLIP-B Shutterstock") == [59.9]
    pairs = [(values(PAPER + "3", f"{m}+reg"), values(PAPER + "3", m)) for m in ("DINOv2-L IN22k", "DeiT-III-B")]
    gains = [[round(new - old, 1) for new, old in zip(*pair, strict=True)] for pair in pairs]
    assert gains == [[20.1, 19.8, 15.1], [15.4, 19.6, 14.4]]  # as worked out from the paper
    assert values(PAPER + "4", "DINOv2 (unnamed)", "1") == [85.2, 14.5, 71.1]
    assert values(PAPER + "5", "DINOv2 (unnamed)", "0") == [66.3, 15.9]
    deviations = [e.deviation for e in ENTRIES if e.source == PAPER + "6" and e.part == "outlier"]
    row = (PAPER + "6", "DINOv2-g: outlier")
    deviations += [float(cell.split(" ± ")[1]) for (*where, _), cell in DOCUMENTED.items() if tuple(where) == row]
    assert sum(deviations) == pytest.approx(7.8)


@pytest.mark.parametrize(
    "source",
    [
        "DINOv2's README",
        "DINOv2's README, second table",
        "DINOv2's model card",
        "arXiv 2304.07193, tables 10 and 11",
        "arXiv 2506.08010, table of linear probes",
        "arXiv 2506.08010, table of object discovery",
        "arXiv 2506.08010, probes of single tokens",
        "arXiv 2401.02957 (DVT), table of linear probes",
        "arXiv 2508.10104 (DINOv3), table 14",
        "open-hummingbird's README",
        "LOST's README (arXiv 2109.14279)",
        "arXiv 2508.10104 (DINOv3), figure 14",
        "Bach et al. (TMLR 2025), notebook",
    ],
)
def test_tables_after_the_paper_are_there(source):
    assert any(source == where for where in [*(e.source for e in ENTRIES), *(where for where, _, _ in DOCUMENTED)])


def test_every_column_of_the_document_is_explained():
    explained = DOCUMENT.read_text(encoding="utf-8").partition("## Protocols")[2]
    assert not [column for _, _, column in DOCUMENTED if f"\n| {column} |" not in explained]


def test_every_entry_has_source_protocol_and_a_plausible_value():
    for entry in ENTRIES:
        assert entry.source
        assert len(entry.protocol.words) > 10
        if entry.protocol.unit == "%":
            assert 0 <= entry.value <= 100, entry
        if entry.protocol.unit == "m":
            assert entry.protocol.better == -1
            assert 0.2 < entry.value < 3, entry
    # One protocol of one source gives a model one number.
    keys = Counter((e.source, e.model, e.part, e.protocol.name) for e in ENTRIES)
    assert set(keys.values()) == {1}


def test_protocols_measured_here_name_a_task_with_that_metric():
    for protocol in {entry.protocol.name: entry.protocol for entry in ENTRIES}.values():
        assert protocol.task in settings.names("tasks"), protocol.name
        module, chosen = settings.load_settings("tasks", protocol.task)
        of_tokens = protocol.task == "artifact_report" or protocol.metric == "single_token_score"
        assert protocol.metric in module.METRICS or of_tokens
        assert set(protocol.only) <= set(settings.resolved(chosen))


def full(task="imagenet_knn", **changed):
    """A record under the published protocol of a task."""
    _, chosen = settings.load_settings("tasks", task)
    chosen = settings.resolved(chosen)
    return record(
        "timm-vit_large_patch14_dinov2.lvd142m", task, data="full", images=50000, settings={**chosen, **changed}
    )


def test_released_dinov2_gets_its_readme_and_nothing_else_does():
    model, metric = "timm-vit_large_patch14_dinov2.lvd142m", "top1_best_on_test"
    found = published.beside(ENTRIES, model, "", metric, full())
    assert (found.value, found.source) == (83.5, "DINOv2's README")
    assert published.beside(ENTRIES, model, "", metric, full("imagenet_linear")).value == 86.3
    assert published.beside(ENTRIES, model, "", metric, full(precision="32-true", workers=0)) == found
    assert published.beside(ENTRIES, model, "", "top1", full()) is None
    assert published.beside(ENTRIES, model, "", metric, full(temperature=0.1)) is None
    assert published.beside(ENTRIES, model, "", metric, full(neighbours=[10, 20])) is None
    assert published.beside(ENTRIES, "random-" + model, "", metric, full()) is None


SIZES = {"S": "small", "B": "base", "L": "large", "g": "giant"}
MEANS = Path(published.FILE).parents[2] / "shared" / "data" / "register_means"


@pytest.mark.parametrize(
    ("size", "register", "block", "norm"),
    # The register with the largest norm: its index, the block (from 1) after which it first is, its norm at the end.
    [("S", 1, 6, 118.4), ("B", 3, 9, 340.1), ("L", 0, 4, 955.1), ("g", 2, 2, 1362.1)],
)
def test_norms_of_registers_by_block(size, register, block, norm):
    rows = {int(e.part): [] for e in ENTRIES if e.model == f"DINOv2-{size}+reg" and e.part}
    for entry in ENTRIES:
        if entry.model == f"DINOv2-{size}+reg" and entry.part:
            rows[int(entry.part)].append(entry.value)
    assert list(rows) == list(range(1, {"S": 12, "B": 12, "L": 24, "g": 40}[size] + 1))
    assert rows[max(rows)][register] == max(rows[max(rows)]) == norm
    assert next(number for number, norms in rows.items() if norms[register] > 90) == block


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.skipif(not MEANS.exists(), reason="needs the published means of DINOv2's registers")
def test_norms_of_registers_are_those_of_the_published_means(size):
    means = torch.load(MEANS / f"{SIZES[size]}.pt", map_location="cpu", weights_only=True)
    norms = torch.stack([means[block] for block in range(len(means))]).norm(dim=-1)
    rows = [e.value for e in ENTRIES if e.model == f"DINOv2-{size}+reg" and e.part]
    np.testing.assert_allclose(np.reshape(rows, norms.shape), norms, rtol=6e-4)


def test_norms_of_registers_stand_beside_those_of_a_report_of_any_number_of_images():
    _, chosen = settings.load_settings("tasks", "artifact_report")
    of = {"data": "full", "images": 300, "settings": {**settings.resolved(chosen), "images": 300, "rule": "mads"}}
    model = "timm-vit_small_patch14_reg4_dinov2.lvd142m"
    measured = replace(record(task="artifact_report", **of), model=model)
    assert published.beside(ENTRIES, model, "12", "register_norm_1", measured).value == 118.4
    assert published.beside(ENTRIES, model, "12", "register_norm_1", replace(measured, data="photos")) is None
    larger = replace(measured, settings={**measured.settings, "crop": 518})
    assert published.beside(ENTRIES, model, "12", "register_norm_1", larger) is None


def test_rendered_data_never_agree():
    of = Protocol("p", "w", "top1", task="imagenet_knn", images=50000)
    assert published.agrees(full(), of)
    assert not published.agrees(record(data="mini", images=50000, settings=full().settings), of)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tables: [{source: s, columns: [a], rows: {m: [1, 2]}}]", "s, m: 2 values for 1 columns"),
        ("tables: [{source: s, columns: [b], rows: {m: [1]}}]", "s, m: no protocol b"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, text, message):
    file = tmp_path / "published.yaml"
    file.write_text("models: {}\nprotocols: {a: {metric: x, words: some words}}\n" + text)
    with pytest.raises(SettingsError, match=message):
        published.read_published(file)
