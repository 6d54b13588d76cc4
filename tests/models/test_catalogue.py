"""The catalogue of released backbones against timm: every name, its licence and its token layout."""

import re
from dataclasses import replace
from itertools import groupby

import pytest
import timm
import torch

from regvit_lightning import settings
from regvit_lightning.analysis import cost
from regvit_lightning.models import catalogue
from regvit_lightning.models.catalogue import Entry
from regvit_lightning.settings import SettingsError

ENTRIES = catalogue.entries()
FAMILIES = {family: list(group) for family, group in groupby(ENTRIES, key=lambda entry: entry.family)}
WIDTHS = {"Ti": 192, "S": 384, "S+": 384, "M": 512, "M deep": 512, "betwixt": 640, "B": 768, "SO150M2": 832}
WIDTHS |= {"SO150M": 896, "L": 1024, "SO400M": 1152, "H": 1280, "H+": 1280, "g": 1536, "G": 1536, "7B": 4096}
REGISTERS_OF_THE_PAPER = {
    f"timm/vit_{size}_patch14_reg4_dinov2.lvd142m" for size in ("small", "base", "large", "giant")
}


@pytest.fixture
def two_blocks(monkeypatch):
    """Every model of timm gets two blocks: its class, tokens, patches and width are those of the whole."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *words, **options: create(*words, **{**options, "depth": 2}))


def test_timm_releases_every_model_under_its_name_and_licence():
    released = set(timm.list_models(pretrained=True))
    for entry in ENTRIES:
        name = entry.name.removeprefix("timm/")
        assert name in released
        facts = timm.get_pretrained_cfg(name)
        assert facts.hf_hub_id, "its weights can be fetched from the hub"
        assert entry.licence in (facts.license, catalogue.UNCERTAIN), name
        assert entry.image_size == facts.input_size[-1], name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_has_the_tokens_of_its_entry(two_blocks, family):
    built = {}
    for entry in FAMILIES[family]:
        architecture = entry.name.partition(".")[0]
        if architecture not in built:
            built[architecture] = cost.load_shape(entry.name, "runs")
        backbone = built[architecture]
        layout = backbone.has_cls, backbone.num_registers, backbone.patch_size, backbone.embed_dim
        assert layout == (entry.has_cls, entry.registers, entry.patch, WIDTHS[entry.size]), entry.name
        with torch.no_grad():
            tokens = backbone(torch.empty(1, 3, 3 * entry.patch, 2 * entry.patch, device="meta"))
        assert tokens.patches.shape == (1, 3, 2, WIDTHS[entry.size])
        assert tokens.registers.shape == (1, entry.registers, WIDTHS[entry.size])
        assert (tokens.cls is not None) == entry.has_cls


def test_models_of_one_size_are_told_apart_by_what_their_entry_says():
    assert len(ENTRIES) >= 60
    assert len(FAMILIES) == len({entry.family for entry in ENTRIES}), "a family stands together"
    assert len({entry.record_id for entry in ENTRIES}) == len(ENTRIES)
    assert set(FAMILIES) >= {"AugReg", "sbb", "DeiT-III", "DINO", "DINOv2", "DINOv3", "MAE", "CLIP", "OpenCLIP"}
    assert set(FAMILIES) >= {"SigLIP 2", "EVA-02", "TIPSv2", "PE core", "C-RADIOv3"}


def test_pairs_are_those_that_differ_in_registers():
    pairs = {entry.name: entry.pair for entry in ENTRIES if entry.pair}
    assert pairs.keys() >= REGISTERS_OF_THE_PAPER
    assert all(pairs[name] == name.replace("_reg4", "") for name in REGISTERS_OF_THE_PAPER)
    by_name = {entry.name: entry for entry in ENTRIES}
    for name, pair in pairs.items():
        with_registers, without = by_name[name], by_name[pair]
        assert with_registers.registers > without.registers
        same_but_for_registers = re.sub("_reg[0-9]", "", name) == re.sub("_reg[0-9]", "", pair)
        assert same_but_for_registers != bool(with_registers.differs), "what else differs is said"


WITH = Entry("timm/a_reg4", "A", "images", "IN1k", "mit", "here", "B", 4, 16, 224, pair="timm/a")
WITHOUT = replace(WITH, name="timm/a", registers=0, pair="")


@pytest.mark.parametrize(
    ("entry", "pair", "message"),
    [
        (WITH, None, "pair timm/a is no entry"),
        (WITH, replace(WITHOUT, size="L"), "differs in size"),
        (WITH, replace(WITHOUT, patch=14, data="IN22k"), "differs in patch, data"),
        (WITH, replace(WITHOUT, registers=4), "has 4 registers: expected fewer"),
        (replace(WITHOUT, differs="the recipe"), None, "differs without a pair"),
    ],
)
def test_what_is_no_pair_is_refused(entry, pair, message):
    with pytest.raises(SettingsError, match=message):
        catalogue._check_pair(entry, pair)
    catalogue._check_pair(WITH, WITHOUT)


def test_what_cannot_be_named_has_a_reason():
    reasons = catalogue.not_by_name()
    assert len(reasons) >= 5
    assert all(len(reason) > 20 for reason in reasons.values())


def test_the_document_lists_every_model_with_its_facts():
    rows = {
        cells[2].strip("`"): [cells[0], cells[1], cells[3], cells[5], cells[6]]
        for line in (settings.CONFIGS.parent / "docs" / "released.md").read_text(encoding="utf-8").splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 7
    }
    expected = {
        entry.name.removeprefix("timm/"): [entry.family, entry.size, str(entry.registers), entry.data, entry.licence]
        for entry in ENTRIES
    }
    assert {name: facts for name, facts in rows.items() if name.startswith(("vit_", "deit", "eva"))} == expected
