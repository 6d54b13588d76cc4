"""What a GPU does with the suite: tests, losses, MFU, reading, cells. One table and one JSON, in minutes."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import command
from regvit_lightning.settings import SettingsError, check, setting
from regvit_lightning.values import texts

DESCRIPTION = """Checks and measures the suite on a CUDA GPU, without a network: every recipe for 20 steps in bf16,
plain, with recomputed activations, sharded by FSDP in one process and compiled, its losses beside the CPU's; MFU, img/s
and peak memory of the steps of DINOv2 and DeiT-III and of ViT-S, B and L at 224 and 518 px; reading photographs; 52
heads against a loop; kNN and LOST; cells of tasks over their forward passes; the tests marked gpu. Parts run in the
order of their value, as many as fit into the budget; the others are listed as not run. Writes <results>/bench/<card>.md
and .json after every part. Ends with status 1 if a part failed. mmsegmentation, mmengine, mmcv and open_clip may be
missing: what needs them is skipped with a line."""
SHOWN = ("python", "torch", "torchvision", "lightning", "timm", "numpy")  # versions in the note
MFU = "MFU: FLOP of the blocks by the suite's counter over the bf16 peak of the card's data sheet"


@dataclass
class GpuCheck:
    """Settings of the program."""

    device: str = setting("cuda, or cpu for a trial of the program itself", "cuda")
    size: str = setting("full, or tiny for that trial", "full")
    budget: float = setting("seconds for all parts together", 900.0, within="[1, 1e6]")
    only: str = setting("beginnings of names of parts, with commas, such as recipes,step; empty takes all", "")
    name: str = setting("name of the files; empty takes the card's, such as h100", "")
    results: str = setting("folder of the results", "results", texts.folder)


def main(options: GpuCheck, words: list[str]) -> None:
    """Run the program."""
    begun = time.monotonic()
    check(options.size in ("full", "tiny"), f"size={options.size}: expected full or tiny")
    check(options.device in ("cuda", "cpu"), f"device={options.device}: expected cuda or cpu")
    from benchmarks.gpu_check import schedule

    schedule.start()
    check(options.device == "cpu" or _has_gpu(), "this machine has no CUDA GPU; device=cpu size=tiny tries the program")
    from benchmarks.gpu_check import lines as table
    from benchmarks.gpu_check.check import Check
    from benchmarks.gpu_check.parts import parts

    chosen = [part for part in parts() if part.needed or _wanted(part.name, options.only)]
    if len(chosen) == sum(part.needed for part in chosen) and options.only:
        raise SettingsError(f"only={options.only}: no such part; there are {', '.join(part.name for part in parts())}")
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:

        def keep(lines: list[table.Line]) -> None:
            table.write(_place(options, lines), lines, *_about(options, lines, time.monotonic() - begun))

        given = Check(options.device, options.size, Path(folder))
        lines = schedule.run(chosen, given, options.budget - (time.monotonic() - begun), keep)
    print(Path(f"{_place(options, lines)}.md").read_text(encoding="utf-8"))
    failed = [line.name for line in lines if line.state == table.FAILED]
    print(f"gpu_check: {_place(options, lines)}.md, .json; {time.monotonic() - begun:.0f} s; {len(failed)} failed")
    if failed:
        raise SystemExit(1)


def _has_gpu() -> bool:
    """Whether there is a GPU, asked in another process: this one must not touch it."""
    import subprocess
    import sys

    asked = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", asked]).returncode == 0


def _wanted(name: str, only: str) -> bool:
    return not only or any(name.startswith(start.strip()) for start in only.split(",") if start.strip())


def _machine(lines: list[Any]) -> dict[str, Any]:
    return next((line.facts for line in lines if "device" in line.facts), {})


def _place(options: GpuCheck, lines: list[Any]) -> Path:
    """The files without their suffix."""
    from benchmarks.gpu_check import cards

    own = cards.short(_machine(lines).get("device", "unknown")) if options.device == "cuda" else "gpu-check-trial"
    return Path(options.results) / "bench" / (options.name or own)


def _about(options: GpuCheck, lines: list[Any], seconds: float) -> tuple[dict[str, Any], str]:
    """What the JSON holds beside the lines, and the note below the table."""
    facts = _machine(lines)
    versions = ", ".join(f"{name} {facts.get('versions', {}).get(name) or '–'}" for name in SHOWN)
    commit = f"commit {facts.get('commit', '–')[:10]}{' (dirty)' if facts.get('dirty') else ''}"
    time_taken = f"{seconds:.0f} s of {options.budget:g}"
    about = "; ".join([facts.get("device", "no device"), versions, commit, facts.get("date", "–"), time_taken])
    note = f"{about}. {MFU}. Made by `make gpu-check`."
    return {"settings": vars(options), "seconds": round(seconds, 1), **facts}, note


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("gpu_check", DESCRIPTION, GpuCheck, main)


if __name__ == "__main__":
    cli()
