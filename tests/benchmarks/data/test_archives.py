"""Archives nobody vouches for: plain ones come out whole, hostile ones leave nothing behind, torn ones are named."""

import gzip
import io
import random
import stat
import tarfile
import tracemalloc
import zipfile

import pytest

from benchmarks.data import archives
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import UserError

FILES = {"VOC/a.jpg": b"a" * 1000, "VOC/deep/er/b.xml": b"<b/>", "./VOC/c.txt": b""}


def make_tar(path, files, mode="w", **attributes):
    """A tar of `files`; `attributes` of tarfile.TarInfo for the last of them."""
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            if name == list(files)[-1]:
                for key, value in attributes.items():
                    setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(content))
    return path


def make_zip(path, files, mode=stat.S_IFREG | 0o644, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as pack:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            entry.compress_type = compression
            pack.writestr(entry, content)
    return path


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["w", "w:gz", "w:xz", "zip"])
def test_a_plain_archive_comes_out_whole(tmp_path, kind):
    archive, folder = tmp_path / "archive", tmp_path / "out"
    make_zip(archive, FILES) if kind == "zip" else make_tar(archive, FILES, kind)
    shown = []
    archives.unpack(archive, folder, show=lambda *now: shown.append(now))
    assert contents(folder) == {"VOC/a.jpg": b"a" * 1000, "VOC/deep/er/b.xml": b"<b/>", "VOC/c.txt": b""}
    assert shown[-1] == (3, 3)


def test_only_what_is_wanted_and_without_its_first_folder(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {**FILES, "other/d.jpg": b"d"})
    archives.unpack(archive, tmp_path / "out", only="*.jpg", strip="VOC")
    assert set(contents(tmp_path / "out")) == {"a.jpg", "other/d.jpg"}
    with pytest.raises(DataError, match=r"a\.zip holds no \*\.png: another archive than expected"):
        archives.unpack(archive, tmp_path / "out", only="*.png")


def test_what_is_there_is_left_and_what_is_torn_is_written_again(tmp_path):
    archive, folder = make_tar(tmp_path / "a.tar", FILES), tmp_path / "out"
    archives.unpack(archive, folder)
    (folder / "VOC/a.jpg").write_bytes(b"torn")
    left = folder / "VOC/deep/er/b.xml"
    before = left.stat().st_mtime_ns, left.stat().st_ino
    archives.unpack(archive, folder)
    assert (folder / "VOC/a.jpg").read_bytes() == b"a" * 1000
    assert (left.stat().st_mtime_ns, left.stat().st_ino) == before


HOSTILE = ["/etc/absolute", "../outside", "VOC/../../outside", "VOC\\..\\outside"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_no_file_gets_outside_of_the_folder(tmp_path, make, name):
    archive = make(tmp_path / "hostile", {"VOC/a.jpg": b"good", name: b"evil"})
    with pytest.raises(DataError, match=r"hostile is not unpacked: its member .* does not lie below the folder"):
        archives.unpack(archive, tmp_path / "deep" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["hostile"]  # not even the good one


@pytest.mark.parametrize(
    "attributes",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc"},
        {"type": tarfile.SYMTYPE, "linkname": "a.jpg"},
        {"type": tarfile.LNKTYPE, "linkname": "../../secret"},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
        {"type": tarfile.FIFOTYPE},
    ],
)
def test_a_tar_brings_no_link_and_no_device(tmp_path, attributes):
    archive = make_tar(tmp_path / "a.tar", {"VOC/a.jpg": b"good", "VOC/link": b""}, **attributes)
    with pytest.raises(DataError, match="'VOC/link' is a link or a device"):
        archives.unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_brings_no_link(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"VOC/link": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777)
    with pytest.raises(DataError, match="'VOC/link' is a link or a device"):
        archives.unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("make", [make_zip, lambda path, files: make_tar(path, files, "w:gz")])
def test_an_archive_does_not_fill_the_disk(tmp_path, make):
    archive = make(tmp_path / "bomb", {"zeros": bytes(20_000_000)})
    with pytest.raises(DataError, match="'zeros' makes it larger than an archive of its size can be"):
        archives.unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", ["w", "w:gz", "zip"])
def test_a_truncated_archive_is_named_and_leaves_no_torn_file(tmp_path, kind):
    noise = random.Random(0).randbytes  # does not compress
    files = {"VOC/a.jpg": noise(100_000), "VOC/b.jpg": noise(100_000)}
    archive = tmp_path / "archive"
    make_zip(archive, files, compression=zipfile.ZIP_STORED) if kind == "zip" else make_tar(archive, files, kind)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(DataError, match=r"unreadable or truncated archive .*; remove it and get it again"):
        archives.unpack(archive, tmp_path / "out")
    out = contents(tmp_path / "out") if (tmp_path / "out").exists() else {}
    assert out.items() <= files.items()


def test_a_damaged_zip_is_noticed_by_its_own_checksum(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"VOC/a.jpg": b"A" * 1000}, compression=zipfile.ZIP_STORED)
    archive.write_bytes(archive.read_bytes().replace(b"AAAA", b"AABA", 1))
    with pytest.raises(DataError, match="Bad CRC-32"):
        archives.unpack(archive, tmp_path / "out")
    assert not contents(tmp_path / "out")


def test_no_archive_and_no_room_are_told(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no archive .*gone\.tar"):
        archives.unpack(tmp_path / "gone.tar", tmp_path / "out")
    archive = make_tar(tmp_path / "a.tar", FILES)
    (tmp_path / "out" / "VOC" / "a.jpg").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write .*a\.jpg: Is a directory"):
        archives.unpack(archive, tmp_path / "out")
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(UserError, match="make room"):
        archives.unpack(archive, tmp_path / "other")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_of_a_gigabyte_is_refused_before_it_is_read(tmp_path, kind):
    """A megabyte of gzip that tells of 1 GB of name; 64 MB of it are there."""
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = kind, 1 << 30
    with gzip.open(tmp_path / "a.tar.gz", "wb", 1) as file:
        file.write(entry.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(64):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"a\.tar\.gz: a header of 1,073,741,824 bytes; at most 1,048,576 are read"):
        archives.unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("facts", [{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, {"GNU.sparse.map": "0,1"}])
def test_sparse_files_of_the_pax_format_are_refused(tmp_path, facts):
    archive = make_tar(tmp_path / "a.tar", {"x": b"1\n0\n1\n"}, pax_headers=facts)
    with pytest.raises(DataError, match="a sparse file, not a plain one"):
        archives.unpack(archive, tmp_path / "out")


def test_a_link_in_the_place_of_a_temporary_file_is_not_written_through(tmp_path):
    victim = tmp_path / "elsewhere"
    victim.write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".x.part").symlink_to(victim)
    archives.unpack(make_tar(tmp_path / "a.tar", {"x": b"new"}), tmp_path / "out")
    assert victim.read_text() == "mine"
    assert contents(tmp_path / "out") == {"x": b"new"}
    assert not (tmp_path / "out" / "x").is_symlink()
