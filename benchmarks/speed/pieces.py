"""What grows with the number of images or devices: order of a pass, index of shards, checkpoint, kNN bank, Sinkhorn."""

import io
import tarfile
import tempfile
from pathlib import Path

from benchmarks.speed.timing import Measurement, seconds, seconds_once

SHARDED = 20_000  # images of the shard that is indexed
CHECKPOINT = 2**28  # numbers of the checkpoint that is written: 1 GiB in float32


def rows() -> list[Measurement]:
    """All pieces; the counts are in `docs/scale.md`, which multiplies them."""
    return [*order(), shards(), checkpoint(), bank(), sinkhorn()]


def order() -> list[Measurement]:
    """Seconds to draw the order of a pass over 10^6, 10^7 and 10^8 images, which each device does at its start."""
    from regvit_lightning.data.stream import Stream

    found = []
    for images in (10**6, 10**7, 10**8):
        took = seconds_once(lambda images=images: Stream(images, 1024, 1, 0).indices(0))  # type: ignore[misc]
        parts = f"{took / images * 1e9:.0f} ns an image; {8 * images / 2**30:.2f} GiB on each device"
        found.append(Measurement(f"(o) seconds to draw the order of {images:,} images", took, "", parts))
    return found


def shards() -> Measurement:
    """Images a second whose places in a shard are found, in tars of <key>.jpg and <key>.cls of 1 KB each."""
    from regvit_lightning.data.labelled_shards import labelled_shards

    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(Path(folder, "a.tar"), "w") as tar:
            for number in range(SHARDED):
                for name, content in ((f"{number:06d}.jpg", bytes(1000)), (f"{number:06d}.cls", b"7")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        first, again = (seconds_once(lambda: labelled_shards(folder, "*.tar")) for _ in range(2))
    parts = f"{SHARDED:,} images in {first:.2f} s; from the stored index in {1e3 * again:.0f} ms"
    return Measurement("(o) images a second indexed in a shard", SHARDED / first, "", parts)


def checkpoint() -> Measurement:
    """GB a second of a checkpoint, written whole under another name and then renamed."""
    import torch

    from regvit_lightning.runtime.checkpoints import AtomicCheckpointIO

    values = {"weights": torch.zeros(CHECKPOINT)}
    with tempfile.TemporaryDirectory() as folder:
        took = seconds_once(lambda: AtomicCheckpointIO().save_checkpoint(values, Path(folder, "last.ckpt")))
    size = 4 * CHECKPOINT / 1e9
    parts = f"{size:.2f} GB in {took:.2f} s, to the folder of temporary files"
    return Measurement("(o) GB a second of a checkpoint", size / took, "", parts)


def bank(queries: int = 256, rows_: int = 2**17, width: int = 1024) -> Measurement:
    """Comparisons a second of the exact search in the bank of kNN, in float64."""
    import torch

    from regvit_lightning.neighbours import search
    from regvit_lightning.runtime import hardware

    device = hardware.accelerator()
    some, many = (torch.randn(count, width, device=device) for count in (queries, rows_))
    took = seconds(lambda: search(some, many, 201, 2**15), 3)
    parts = f"{queries} queries, {rows_:,} rows of {width} in {took:.2f} s"
    return Measurement("(o) 10^6 comparisons a second in the kNN bank", queries * rows_ / took / 1e6, "", parts)


def sinkhorn(prototypes: int = 65536, samples: int = 128) -> Measurement:
    """Seconds of Sinkhorn-Knopp on one device, without what it exchanges: three vectors and a number a step."""
    import torch

    from regvit_lightning.pretrain.dinov2.teacher_targets import sinkhorn as found
    from regvit_lightning.runtime import hardware

    logits = torch.randn(samples, prototypes, device=hardware.accelerator())
    took = seconds(lambda: found([logits], 0.04), 3)
    parts = f"{samples} samples, {prototypes:,} prototypes; exchanged a step: 3 × {4 * prototypes / 2**20:.2f} MiB"
    return Measurement("(o) seconds of Sinkhorn-Knopp", took, "", parts)
