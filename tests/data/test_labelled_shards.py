"""Labelled images in webdataset's shards: labels by hand, what is broken in them, and training on them to the bit."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from regvit_lightning.data import digest, imagenet
from regvit_lightning.data.labelled_shards import labelled_shards
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import Notice
from regvit_lightning.models import EXPORT
from regvit_lightning.pretrain import fit
from tests.pretrain.test_fit import die_at, prepare


def image(value):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_images_and_numbers_of_classes_over_several_shards(tmp_path):
    shard(tmp_path / "a-0.tar", [("x/0.png", image(10)), ("x/0.cls", b"12\n"), ("x/0.json", b"{}")])
    shard(tmp_path / "a-1.tar", [("1.cls", b"3"), ("1.png", image(30)), ("2.png", image(50)), ("2.cls", b"0")])
    for _ in range(2):  # the second time from the stored index
        found = labelled_shards(str(tmp_path), "a-*.tar")
        assert found.labels.tolist() == [12, 3, 0]
        assert found.classes == tuple(map(str, range(13)))
        assert [int(np.asarray(found.open(index))[0, 0, 0]) for index in range(3)] == [10, 30, 50]
    some = found.subset([2, 0])
    assert some.labels.tolist() == [0, 12]
    assert [int(np.asarray(some.open(index))[0, 0, 0]) for index in (0, 1)] == [50, 10]
    assert found.path(1).endswith("a-1.tar: 1.png")


def test_parquet_is_refused_as_its_captions_are_no_classes(tmp_path):
    (tmp_path / "a-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a-0\.parquet: Parquet holds captions; labelled images are read from tar"):
        labelled_shards(str(tmp_path), "a-*")


def test_images_without_a_number_are_left_out_and_counted(tmp_path):
    broken = [("0.png", image(1)), ("1.png", image(2)), ("1.cls", b"cat"), ("2.png", image(3)), ("2.cls", b"5")]
    shard(tmp_path / "a.tar", [*broken, ("3.png", image(4)), ("3.cls", b"-1")])
    with pytest.warns(Notice, match=r"1 without label \(a\.tar: 0\); 2 with a label that is no number of a class"):
        found = labelled_shards(str(tmp_path), "*.tar")
    assert found.labels.tolist() == [5]
    assert int(np.asarray(found.open(0))[0, 0, 0]) == 3
    shard(tmp_path / "b.tar", [("0.png", image(1)), ("0.txt", b"a caption")])
    with pytest.raises(DataError, match=r"holds no pair: expected a pair of an image .* and the number of its class"):
        labelled_shards(str(tmp_path), "b.tar")
    with pytest.raises(DataError, match="no shard"):
        labelled_shards(str(tmp_path), "c*.tar")


@pytest.fixture(scope="module")
def sharded(tiny, tmp_path_factory):
    """The train images of the tiny set in shards of 7 images, in the order of its class folders."""
    root = tmp_path_factory.mktemp("sharded")
    files = imagenet.train_files(tiny)
    for first in range(0, len(files), 7):
        members = []
        for index in range(first, min(first + 7, len(files))):
            path = Path(files.path(index))
            members += [
                (f"{index:04d}{path.suffix}", path.read_bytes()),
                (f"{index:04d}.cls", b"%d" % files.labels[index]),
            ]
        shard(root / f"train-{first:04d}.tar", members)
    return replace(tiny, root=str(root), imagenet22k="train-*.tar", rendered=False, name="sharded")


def weights(folder):
    return load_file(folder / EXPORT)


def test_a_run_on_shards_has_the_bits_of_one_on_folders_also_when_it_is_interrupted(tiny, sharded, tmp_path):
    words = "images=imagenet22k", "epochs=1", "logger=none", "norms_every=0", "monitor_every=3", "monitor_images=20"
    fit.fit(prepare(tiny, tmp_path / "folders", *words))
    die_at(prepare(sharded, tmp_path / "shards", *words), 4)
    assert torch.load(tmp_path / "shards" / "last.ckpt", weights_only=True)["global_step"] == 3
    fit.fit(prepare(sharded, tmp_path / "shards", *words))
    theirs, ours = weights(tmp_path / "folders"), weights(tmp_path / "shards")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_the_digest_of_shards_changes_with_them(sharded, tmp_path):
    before = digest.digests(sharded, "imagenet22k")
    assert before.keys() == {"train"}
    added = Path(sharded.root, "train-9999.tar")
    shard(added, [("9.png", image(9)), ("9.cls", b"1")])
    try:
        assert digest.digests(sharded, "imagenet22k") != before
        assert (
            len(imagenet.training_images(sharded, "imagenet22k"))
            == len(imagenet.training_images(replace(sharded, imagenet22k="train-0*.tar"), "imagenet22k")) + 1
        )
    finally:
        added.unlink()
    with pytest.raises(DataError, match="expected 12"):
        imagenet.training_images(replace(sharded, counts={"imagenet22k": [12]}), "imagenet22k")
