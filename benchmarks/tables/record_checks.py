"""Checks of a record before it enters a table or page: where its file lies, and what an artifact report must hold."""

from pathlib import Path
from typing import Any

from regvit_lightning.records import Record
from regvit_lightning.values import patterns

NORMS = {"levels": [float], "patches": [[float]]}
SCORE = {"top1": float, "std_over_draws": (None, float), "test_images": int}
COST = {"registers": int, "parameters": float, "macs": float, "more_parameters": float, "more_macs": float}
MAYBE = [(None, float)]
VARIANCE = {"patch": MAYBE, "image": MAYBE, "position": MAYBE}
REPORT = {  # what tables and page read from an artifact report
    "norms_of_last_block": [float],
    "norms_by_block": NORMS,
    "single_tokens": {str: (None, SCORE)},
    "position": {"normal?": (None, {"top1?": (None, float), "distance?": (None, float), "patches": int})},
    "pixels": {"normal?": (None, {"l2?": (None, float), "rms?": (None, float), "patches": int})},
    "pixel_scale": str,
    "findings": {str: {"shares": [float]}},
    "cost": [COST],
    "questions?": [{"answer": str, "words": str, "effect": {str: (None, float)}}],
    "sinks?": {"images?": int, "by_block?": {"events": [float], "NOP": [float], "broadcast": [float]}},
    "locality_by_block?": {"mean_cosine": [float], "cls_cosine?": (None, [float]), "variance": VARIANCE},
    "singular_defects?": {"cosine_of_others?": MAYBE, "cosine_of_high_norms?": MAYBE},
}
LEVELS = {0.01, 0.5, 0.99, 1.0}  # quantiles of norms that tables show


def fault(record: Record, data: str, path: str) -> str:
    """Short reason why a record cannot be used, or '' if it can.

    Args:
        record: as `records.parse` gives it.
        data: name of its expected data.
        path: path of its file relative to the folder of the cells, with slashes.
    """
    if record.data != data:
        return f"a record of data '{record.data}'"
    proper = record.path(Path()).as_posix()
    if proper != f"{data}/cells/{path}":
        return f"a record that belongs to {proper[:200]}"
    return _report_fault(record) if "norms_of_last_block" in record.protocol else ""


def _report_fault(record: Record) -> str:
    """Reason why an artifact report cannot be shown, or ''."""
    protocol: dict[str, Any] = record.protocol
    wrong = patterns.mismatch(protocol, REPORT, "protocol")
    if wrong:
        return wrong[:200]
    norms, rule = protocol["norms_by_block"], record.settings.get("rule")
    if not protocol["norms_of_last_block"]:
        return "protocol.norms_of_last_block is empty"
    if not set(norms["levels"]) >= LEVELS or any(len(row) != len(norms["levels"]) for row in norms["patches"]):
        return "protocol.norms_by_block: expected a norm for each of its levels, with 0.01, 0.5, 0.99 and 1"
    if not isinstance(rule, str) or rule not in protocol["findings"]:
        return "settings.rule: expected one of protocol.findings"
    if len(protocol["findings"][rule]["shares"]) > len(norms["patches"]):
        return f"protocol.findings.{rule}: more shares than blocks"
    return ""
