"""Pairs of image and caption: shards in webdataset's layout, tables, folders, and everything broken in them."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from regvit_lightning.data import pairs, shards
from regvit_lightning.data.layout import DataError
from regvit_lightning.data.mini import captions
from regvit_lightning.data.pairs import DrawnCaptionedImages, train_pairs
from regvit_lightning.data.shards import from_shards
from regvit_lightning.errors import Notice
from tests.data.one_line import complaint


def jpeg(value, form="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (10, 8), (value, value, value)).save(buffer, form)
    return buffer.getvalue()


def shard(path, members, form=tarfile.USTAR_FORMAT):
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


MEMBERS = {
    "000.jpg": jpeg(10),
    "000.txt": b"ten",
    "000.json": b"{}",
    "deep/001.0.txt": b"not a caption: its key is 001 and its kind 0.txt",
    "deep/001.txt": "fünfzig\n".encode(),  # the caption may come first
    "deep/001.PNG": jpeg(50, "PNG"),
}


def read(path):
    return from_shards([path], path)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_and_captions_of_a_shard(tmp_path, form):
    found = read(shard(tmp_path / "a.tar", MEMBERS, form))
    assert len(found) == 2
    assert [found.caption(0), found.caption(1)] == ["ten", "fünfzig"]
    assert [np.asarray(found.open(place)).mean() for place in (0, 1)] == pytest.approx([10, 50], abs=1)
    assert found.path(1) == f"{tmp_path / 'a.tar'}: deep/001.PNG"


@hypothesis_settings(max_examples=20, deadline=None)
@given(
    captions=st.lists(st.text(min_size=1).filter(lambda text: text.strip()), min_size=1, max_size=6),
    cuts=st.integers(1, 3),
)
def test_every_pair_of_every_shard_is_found_once_and_together(tmp_path_factory, captions, cuts):
    folder = tmp_path_factory.mktemp("shards")
    members = [{f"{i}.jpg": jpeg(20 * i), f"{i}.txt": text.encode()} for i, text in enumerate(captions)]
    written = []
    for first in range(min(cuts, len(members))):
        part = {name: content for pair in members[first::cuts] for name, content in pair.items()}
        written.append(shard(folder / f"{first}.tar", part))
    found = from_shards(written, folder)
    seen = {round(np.asarray(found.open(place)).mean() / 20): found.caption(place) for place in range(len(found))}
    assert seen == {i: text.strip() for i, text in enumerate(captions)}


def test_the_index_is_kept_until_a_shard_changes(tmp_path, monkeypatch):
    path = whole(tmp_path / "x.tar")
    first = read(path)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "_read_shard", None)  # what is kept needs no look into the shard
        again = read(path)
    assert len(first) == len(again) == 2
    assert [again.caption(place) for place in (0, 1)] == [first.caption(place) for place in (0, 1)] == ["one", "two"]
    assert again.path(1) == f"{path}: 1.jpg"
    shard(path, {"0.jpg": jpeg(90), "0.txt": b"another"})
    assert read(path).caption(0) == "another"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_kept_index_serves_from_another_place(tmp_path, tiny):
    """The shards may be named by a relative, an absolute or an outside path, and their folder may move."""
    (tmp_path / "a [1]").mkdir()
    whole(tmp_path / "a [1]" / "x.tar")
    data = replace(tiny, root=str(tmp_path / "a [1]"), pairs="x*.tar")
    assert train_pairs(data).caption(1) == "two"
    (tmp_path / "a [1]").rename(tmp_path / "b")
    for pattern in ("x*.tar", f"{tmp_path}/b/x*.tar"):
        found = train_pairs(replace(data, root=str(tmp_path / "b"), pairs=pattern))
        assert np.asarray(found.open(1)).mean() == pytest.approx(2, abs=1)


def test_a_folder_that_cannot_be_written_needs_no_kept_index(tmp_path, monkeypatch):
    path = whole(tmp_path / "x.tar")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    found = read(path)
    assert [found.caption(place) for place in (0, 1)] == ["one", "two"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.tar"]


def test_the_rendered_shards(tiny):
    found = train_pairs(tiny)
    assert len(found) == 4
    first = found.caption(0)
    assert "striped ball" in first
    assert " on " in first
    assert found.open(0).size == (96, 96)


def test_templates_are_worded_as_the_captions(tiny):
    texts = captions.templates()
    assert len(set(texts)) == 36
    assert all(text.count("{}") == 1 for text in texts)
    words = {word for text in texts for word in text.format("striped ball").split()}
    found = train_pairs(tiny)
    for place in range(len(found)):
        beginning = found.caption(place).partition(",")[0]
        own = {name for label in captions.CLASSES for name in label.split()}
        assert set(beginning.split()) <= words | own


def test_what_cannot_be_used_in_a_shard_is_left_out_counted_and_named_once(tmp_path):
    """As open_clip skips it: one empty caption among millions stops nothing."""
    members = {**MEMBERS, "2.jpg": jpeg(1), "2.txt": b" ", "3.jpg": jpeg(1), "4.txt": b"four", "5.jpg": jpeg(1)}
    members |= {"5.txt": b"\xff", "000.png": jpeg(7, "PNG"), "._000.jpg": b"", "._000.txt": b""}
    path = shard(tmp_path / "a.tar", members)
    lines = []
    for _ in range(2):  # listed, and from the kept index
        with pytest.warns(Notice) as caught:
            assert [read(path).caption(place) for place in (0, 1)] == ["ten", "fünfzig"]
        lines.append({str(one.message) for one in caught})
    (line,) = lines[0]
    assert lines[1] == {line}
    for part in (
        "1 with an empty caption (a.tar: 2)",
        "1 without caption (a.tar: 3)",
        "1 with a caption that is not UTF-8",
    ):
        assert part in line
    for part in ("captions without image (", "1 with the name of another image (a.tar: 000.png)", "2 hidden"):
        assert part in line


def test_a_dot_in_a_key_is_a_part_of_it(tmp_path):
    members = {"a.b.jpg": jpeg(10), "a.b.txt": b"ab", "a.c.jpg": jpeg(20), "a.c.txt": b"ac", "v1.0/x.JPG": jpeg(30)}
    found = read(shard(tmp_path / "x.tar", {**members, "v1.0/x.TXT": b"x"}))
    assert [found.caption(place) for place in range(len(found))] == ["ab", "ac", "x"]


@pytest.mark.parametrize("padding", [0, 512, 3 << 20])
def test_a_tar_that_was_appended_to_another_is_read(tmp_path, padding):
    first, second = (whole(tmp_path / "1.tar"), shard(tmp_path / "2.tar", MEMBERS))
    path = tmp_path / "both.tar"
    path.write_bytes(first.read_bytes() + bytes(padding) + second.read_bytes())
    with pytest.warns(Notice):  # the member that is no pair
        found = read(path)
    assert [found.caption(place) for place in range(len(found))] == ["one", "two", "ten", "fünfzig"]
    assert np.asarray(found.open(3)).mean() == pytest.approx(50, abs=1)
    assert found.path(3) == f"{path}: deep/001.PNG"


@given(content=st.binary(max_size=1100), start=st.floats(0, 1), length=st.integers(0, 1100))
@hypothesis_settings(max_examples=60)
def test_a_damaged_shard_is_read_or_told_in_a_line(tmp_path_factory, content, start, length):
    folder = tmp_path_factory.mktemp("damaged")
    path = whole(folder / "x.tar")
    sound = path.read_bytes()
    place = int(start * 4000)
    path.write_bytes(sound[:place] + content + sound[place + length :])
    complaint(read, path)


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])
    return path


def whole(path):
    return shard(path, {"0.jpg": jpeg(1), "0.txt": b"one", "1.jpg": jpeg(2), "1.txt": b"two"})


def damaged(path):
    content = bytearray(whole(path).read_bytes())
    second = content.index(b"1.jpg")
    content[second : second + 100] = b"\xff" * 100
    path.write_bytes(content)
    return path


SHARDS = {
    "empty file": (lambda p: (p.write_bytes(b""), p)[1], r"x\.tar: truncated, empty or not an uncompressed tar"),
    "a web page": (
        lambda p: (p.write_bytes(b"<html>" * 200), p)[1],
        r"x\.tar: truncated, empty or not an uncompressed",
    ),
    "compressed": (lambda p: (tarfile.open(p, "w:gz").close(), p)[1], r"x\.tar: truncated, empty or not an uncompre"),
    "cut in an image": (lambda p: cut(whole(p), 700), r"x\.tar: truncated"),
    "cut in a header": (lambda p: cut(whole(p), 512 + 1024 + 1024 + 100), r"x\.tar: truncated"),
    "cut between members": (lambda p: cut(whole(p), 512 + 1024 + 1024), r"x\.tar: truncated or damaged at byte 2,560"),
    "damaged header": (damaged, r"x\.tar: truncated or damaged at byte 2,560: neither a member nor the end mark"),
    "no pair": (
        lambda p: shard(p, {"0.json": b"{}"}),
        r"x\.tar: holds no pair: expected a pair of an image \(.*\) and a caption",
    ),
    "no member": (lambda p: shard(p, {}), r"x\.tar: (truncated, empty|holds no pair)"),
    "no caption": (lambda p: shard(p, {"7.jpg": jpeg(1)}), r"holds no pair: .*1 without caption \(x\.tar: 7\)"),
    "no image": (lambda p: shard(p, {"7.txt": b"seven"}), r"holds no pair: .*1 captions without image \(x\.tar: 7\)"),
    "empty caption": (lambda p: shard(p, {"7.jpg": jpeg(1), "7.txt": b" \n"}), r"no pair: .*1 with an empty caption"),
    "no text": (
        lambda p: shard(p, {"7.jpg": jpeg(1), "7.txt": b"\xff\xfe"}),
        r"no pair: .*1 with a caption that is not",
    ),
    "a header of 2 MB": (
        lambda p: shard(p, {"n" * 2_000_000: b""}, tarfile.GNU_FORMAT),
        r"a header of 2,000,001 bytes",
    ),
}


@pytest.mark.parametrize("case", SHARDS)
def test_broken_shards_in_one_line(tmp_path, case):
    make, message = SHARDS[case]
    # The lengths that the cuts assume: an image of 512 to 1024 bytes, each header and caption one block.
    assert 512 < len(jpeg(1)) <= 1024
    with pytest.raises(DataError, match=message) as caught:
        read(make(tmp_path / "x.tar"))
    assert "\n" not in str(caught.value)


def test_a_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, value in (("sub/a", 50), ("b", 10)):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(value))
        (tmp_path / f"{name}.txt").write_text(f"value {value}\n")
    found = pairs.from_folder(tmp_path)
    seen = {found.caption(place): np.asarray(found.open(place)).mean() for place in range(2)}
    assert seen == {"value 10": pytest.approx(10, abs=1), "value 50": pytest.approx(50, abs=1)}
    for name in ("c.jpg", "b.PNG", "._b.txt", "notes.md", "a.jpg/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(1))
    (tmp_path / "d.txt").write_text("no image")
    (tmp_path / "b.json").write_text("{}")
    with pytest.warns(Notice) as caught:
        assert len(pairs.from_folder(tmp_path)) == 2
    assert len(caught) == 1
    for part in ("1 without caption (c)", "1 captions without image (d)", "1 with the name of another image"):
        assert part in str(caught[0].message)
    for part in ("1 hidden or left by the system", "1 folder named as an image", "1 not an image"):
        assert part in str(caught[0].message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": "shards/none-*.tar"}, r"no image-text pairs: no shard .*none-\*\.tar"),
        ({"pairs": "nowhere"}, r"no image-text pairs: .*nowhere is not there"),
        ({"pairs": ""}, "names no image-text pairs"),
        ({"counts": {"pairs": [5]}}, r"train-\*\.tar holds 4 pairs, expected 5"),
    ],
)
def test_what_is_missing_is_said(tiny, changes, message):
    with pytest.raises(DataError, match=message):
        train_pairs(replace(tiny, **changes))


def drawn(found, seed=0):
    def tokenize(texts):
        return torch.tensor([[len(text) for text in texts]])

    return DrawnCaptionedImages(found, v2.Compose([v2.RandomCrop(4), v2.PILToTensor()]), tokenize, seed)


def test_a_sample_depends_on_seed_and_position_alone(tiny):
    found = train_pairs(tiny)
    first, other = drawn(found), drawn(found)
    other[5, 0]
    assert torch.equal(first[7, 2]["image"], other[7, 2]["image"])
    assert not torch.equal(first[7, 2]["image"], first[8, 2]["image"])
    assert first[7, 2]["text"].item() == len(found.caption(2))


@pytest.mark.parametrize(("most", "asked"), [(10, [0, 2]), (1, [0, 2, 2])])
def test_a_caption_is_tokenised_once_while_there_is_room(tiny, most, asked, monkeypatch):
    monkeypatch.setattr(pairs, "TOKENISED", most)
    found = train_pairs(tiny)
    samples, texts = drawn(found), []
    tokenize = samples.tokenize
    samples.tokenize = lambda captions: texts.extend(captions) or tokenize(captions)
    for position, index in enumerate([0, 2, 0, 2]):
        assert samples[position, index]["text"].item() == len(found.caption(index))
    assert texts == [found.caption(index) for index in asked]


def test_a_broken_image_is_replaced_with_its_caption_and_reported(tmp_path):
    members = {
        "0.jpg": b"broken",
        "0.txt": b"a",
        "1.jpg": jpeg(9)[:300],
        "1.txt": b"bb",
        "2.jpg": jpeg(7),
        "2.txt": b"ccc",
    }
    found = read(shard(tmp_path / "x.tar", members))
    sample = drawn(found)[0, 0]
    assert sample["unreadable"] == [0, 1]
    assert sample["text"].item() == 3
    assert sample["image"].float().mean() == pytest.approx(7, abs=1)
    with pytest.raises(DataError, match=r"unreadable image .*x\.tar: 0\.jpg: not an image; restore or remove it"):
        found.open(0)
    batch = pairs.collate_pairs([sample, drawn(found)[1, 2]])
    assert batch["unreadable"].tolist() == [0, 1]
    assert (batch["image"].shape, batch["text"].shape) == ((2, 3, 4, 4), (2, 1))


def test_nothing_readable_ends(tmp_path):
    found = read(shard(tmp_path / "x.tar", {"0.jpg": b"broken", "0.txt": b"a"}))
    with pytest.raises(DataError, match="unreadable image"):
        drawn(found)[0, 0]


def test_a_shard_that_was_replaced_after_indexing_is_told(tmp_path):
    path = Path(whole(tmp_path / "x.tar"))
    found = read(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"unreadable image .*x\.tar: byte 512, where the shard no longer"):
        found.open(0)
