"""Runs the adapter of each peer in a process of its own, and gives a row for each peer that is not there."""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.timing import Measurement

MOST_SECONDS = 1800  # of one adapter


@dataclass(frozen=True)
class Peer:
    """A code base to compare with.

    Attributes:
        adapter: file of this folder.
        shown: what is compared, as the name of a row.
        address: where to get it.
        imported: folders of the checkout from which modules are imported.
        before: its packages stand before the installed ones of the same name.
    """

    adapter: str
    shown: str
    address: str
    imported: tuple[str, ...] = (".",)
    before: bool = True

    @property
    def folder(self) -> str:
        """Folder of the checkout below the user's."""
        return self.address.rsplit("/", 1)[1]


PEERS = (
    Peer("ssl_meta_arch", "DINOv2 step / SSLMetaArch", "https://github.com/facebookresearch/dinov2"),
    Peer("dinov2_evaluation", "kNN and linear / DINOv2's", "https://github.com/facebookresearch/dinov2"),
    Peer("lost_discovery", "LOST / the original", "https://github.com/valeoai/LOST"),
    Peer("token_cut", "TokenCut / the original", "https://github.com/YangtaoWANG95/TokenCut"),
    Peer("open_clip_step", "OpenCLIP step / open_clip", "https://github.com/mlfoundations/open_clip", ("src",)),
    Peer(
        *("timm_loop", "DeiT-III step / timm's train.py", "https://github.com/huggingface/pytorch-image-models"),
        before=False,  # its train.py, with the timm that is installed
    ),
)


def rows(checkouts: Path) -> Iterator[Measurement]:
    """Rows of all peers; one that says why, where a peer is not there or does not run here."""
    for peer in PEERS:
        if (checkouts / peer.folder).is_dir():
            yield from _measured(peer, checkouts.absolute())
        else:
            yield Measurement(f"(peers) {peer.shown}", math.nan, "", f"not there: {peer.address}")


def _measured(peer: Peer, checkouts: Path) -> list[Measurement]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        words = [sys.executable, "-m", "benchmarks.speed.peers", peer.adapter, str(checkouts), str(out)]
        try:
            done = subprocess.run(
                words, env=environment(peer, checkouts), capture_output=True, text=True, timeout=MOST_SECONDS
            )
        except subprocess.TimeoutExpired:
            return [Measurement(f"(peers) {peer.shown}", math.nan, "", f"not measured: above {MOST_SECONDS} s")]
        if done.returncode:
            said = done.stderr.strip().rsplit("\n", 1)[-1]
            return [Measurement(f"(peers) {peer.shown}", math.nan, "", f"does not run here: {said}")]
        return [Measurement(**row) for row in json.loads(out.read_text(encoding="utf-8"))]


def environment(peer: Peer, checkouts: Path) -> dict[str, str]:
    """Environment of the process of an adapter: our code first, and theirs before or after what is installed."""
    own = [str(Path(__file__).parents[3])]
    theirs = [str(checkouts / peer.folder / below) for below in peer.imported]
    path = [*own, *(theirs if peer.before else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "REGVIT_PEER": "" if peer.before else theirs[0]}
