"""Render or complete the mini data set, with a contact sheet."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.data.shown import Shown
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.runtime import atomic

if TYPE_CHECKING:
    from regvit_lightning.data.mini.options import MiniSettings

SHEET_SCENES = 6


def render(data: DataSettings, workers: int = 0) -> None:
    """Render or complete the data if it is a rendered data set; otherwise do nothing."""
    if not data.rendered:
        return
    from regvit_lightning.data.mini import writer as mini

    root, settings = Path(data.root), data.rendering
    if mini.is_complete(root, settings):
        return
    with Shown(f"rendering {root}", "img") as show:
        for done, total in mini.write(root, settings, workers or os.cpu_count() or 1):
            show(done, total)
    sheet = root / "contact_sheet.png"
    atomic.write(sheet, lambda temporary: _sheet(settings).savefig(temporary, format="png"))
    print(f"data: contact sheet in {sheet}")


def _sheet(settings: "MiniSettings"):  # type: ignore[no-untyped-def]  # matplotlib is imported lazily
    from dataclasses import replace

    import numpy as np

    from regvit_lightning.data.mini.scenes import render, sample_scene
    from regvit_lightning.figures import contact_sheet

    scenes = [sample_scene(np.random.default_rng([0, index]), 320, 240) for index in range(SHEET_SCENES)]
    plain = round(settings.plain * SHEET_SCENES)
    shown = [replace(scene, plain_wall=index < plain) for index, scene in enumerate(scenes)]
    return contact_sheet.contact_sheet([render(scene) for scene in shown])
