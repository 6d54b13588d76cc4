"""Ids and fingerprints of models, stored in one small file: no model is read again while its files stay as they are."""

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import regvit_lightning.models
from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.models import origins
from regvit_lightning.runtime import atomic

FILE = ".fingerprints.json"  # in the folder of the trained models
SETTLED = 2_000_000_000  # nanoseconds: a file changed more recently may change again with the same timestamp


class Fingerprints:
    """Ids and fingerprints of the models of one folder of runs.

    An entry holds as long as all files that determine it have the same size, time of change and inode: the weights, and
    the code that reads or initialises them. Models of a user's function (`python:…`) are loaded once in each process.

    Args:
        runs: folder of the trained models.
    """

    def __init__(self, runs: Path) -> None:
        self.runs, self._now = runs, dict[str, tuple[list[Any], str, str]]()
        self._stored = _read(runs / FILE)

    def of(self, model: str, seed: int, image_size: int) -> tuple[str, str]:
        """Id and fingerprint of a model; `image_size` is that of an untrained one, else 0.

        Raises:
            UserError: a model that does not exist or cannot be read.
        """
        from regvit_lightning.models import sources

        key, (facts, lasting) = f"{model} {seed} {image_size}", self._facts(model, seed)
        entry = self._now.get(key) or self._stored.get(key)
        if entry is None or list(entry[0]) != facts:
            backbone = sources.load_backbone(model, self.runs, seed, image_size=image_size or 224)
            entry = (facts, backbone.name, backbone.fingerprint)
            if lasting and facts == self._facts(model, seed)[0]:
                self._store(key, entry)
        self._now[key] = entry
        return entry[1], entry[2]

    def _facts(self, model: str, seed: int) -> tuple[list[Any], bool]:
        """What the weights depend on, as plain values, and whether an entry may outlast this process."""
        from regvit_lightning.models import sources

        files = sources.weights_files(model, self.runs, seed)
        known = [_stat(file) for file in files]
        settled = all(time.time_ns() - facts[2] > SETTLED for facts in known)
        determined = bool(files) or model.startswith(origins.RANDOM)
        return [*known, _code()], determined and settled

    def _store(self, key: str, entry: tuple[list[Any], str, str]) -> None:
        self._stored = {**_read(self.runs / FILE), key: entry}
        with suppress(UserError, OSError):  # a folder that cannot be written: the next process reads the model again
            atomic.write_text(self.runs / FILE, json.dumps(self._stored, indent=1) + "\n")


def _stat(file: Path) -> list[Any]:
    try:
        facts = file.stat()
    except OSError as error:
        raise UserError(f"{file}: not readable ({error.strerror})") from None
    return [str(file), facts.st_size, facts.st_mtime_ns, facts.st_ino]


@cache
def _code() -> str:
    """Digest of the code that reads and initialises models, and of the packages that it uses."""
    folder, names = Path(*regvit_lightning.models.__path__), ("torch", "timm", "numpy")
    files = [*sorted(folder.rglob("*.py")), *(settings.find("models", name)[-1] for name in settings.names("models"))]
    facts = [_stat(file)[1:3] for file in files], [version(name) for name in names]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _read(file: Path) -> dict[str, tuple[list[Any], str, str]]:
    """Entries of a stored file; nothing where there is none, or one that is damaged."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: entry for key, entry in stored.items() if _is_entry(entry)} if isinstance(stored, dict) else {}


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, Sequence) or len(entry) != 3:
        return False
    return isinstance(entry[0], list) and all(isinstance(text, str) for text in entry[1:])
