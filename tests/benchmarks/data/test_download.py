"""Downloads from a server on this machine: whole, cut off and gone on with, corrupted, changed, gone."""

import hashlib
import http.server
import json
import re
import threading
from pathlib import Path

import pytest

from benchmarks.data import download
from benchmarks.data.download import ExpectedFile, fetch
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import Notice, UserError

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes
WHOLE = ExpectedFile(len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT under any name; keeps the Range that each request asked for.

    Attributes:
        cut: for each request to come, after how many bytes of its answer the line breaks; then all is sent.
        tag: ETag of the file. ranges: whether the server knows them. status: of every answer, if not None.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cut, self.tag, self.ranges, self.status, self.asked = CONTENT, [], '"one"', True, None, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/file.tar"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        if server.status:
            self.send_error(server.status)
            return
        begin = int(wanted[6:-1]) if wanted and server.ranges else 0
        if begin and self.headers.get("If-Range", server.tag) != server.tag:
            begin = 0
        if begin >= len(server.content):
            self.send_error(416)
            return
        rest = server.content[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(rest)))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(rest[: server.cut.pop(0)] if server.cut else rest)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetched(server, target, expected=WHOLE, urls=None):
    """Every (bytes there, size) that was reported."""
    shown = []
    fetch(urls or [server.url], target, expected, lambda *now: shown.append(now))
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == [target.name]  # nothing beside it
    return shown


def test_a_whole_file_arrives_with_its_progress(server, tmp_path):
    shown = fetched(server, tmp_path / "new" / "file.tar")
    assert shown[-1] == (len(CONTENT), len(CONTENT))
    assert server.asked == [None]


def test_a_broken_line_is_gone_on_with_at_once(server, tmp_path):
    server.cut = [100_000, 50_000]
    fetched(server, tmp_path / "file.tar")
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_command_goes_on(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.cut = [100_000]
    with pytest.raises(DataError, match=r"cut off after 100,000 of 307,200 bytes; 100,000 bytes are kept: give the"):
        fetch([server.url], tmp_path / "file.tar", WHOLE, lambda *_: None)
    assert not (tmp_path / "file.tar").exists()
    fetched(server, tmp_path / "file.tar")
    assert server.asked == [None, "bytes=100000-"]


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    server.cut, server.ranges = [100_000], False
    fetched(server, tmp_path / "file.tar")


def test_a_file_that_changed_in_between_is_fetched_anew(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.cut, server.content = [100_000], b"old" * 100_000
    with pytest.raises(DataError):
        fetch([server.url], tmp_path / "file.tar", ExpectedFile(), lambda *_: None)
    server.content, server.tag = CONTENT, '"two"'
    fetched(server, tmp_path / "file.tar", ExpectedFile())


def test_without_mark_or_checksum_nothing_is_pieced_together(server, tmp_path):
    server.cut, server.tag = [100_000], ""
    fetched(server, tmp_path / "file.tar", ExpectedFile())
    assert server.asked == [None, None]


def test_a_remainder_that_is_longer_than_the_file_is_dropped(server, tmp_path):
    part = tmp_path / "file.tar.part"
    part.write_bytes(CONTENT + b"more")
    (tmp_path / "file.tar.part.json").write_text(json.dumps({"url": server.url, "version": server.tag}))
    fetched(server, tmp_path / "file.tar")


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_corrupted_file_never_gets_its_name(server, tmp_path, kind):
    published = hashlib.new(kind, CONTENT).hexdigest()
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DataError, match=rf"file\.tar: http.*its {kind} is not the published {published}") as error:
        fetch([server.url], tmp_path / "file.tar", ExpectedFile(**{kind: published}), lambda *_: None)
    assert "kept" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_another_address_steps_in(server, tmp_path):
    with Server() as dead:
        gone = dead.url  # nobody answers once it is closed
    fetched(server, tmp_path / "file.tar", urls=[gone, server.url])


def test_without_a_network_nothing_is_waited_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 60.0)
    with pytest.raises(DataError, match=r"http://nowhere\.invalid/file\.tar: \[Errno"):
        fetch(["http://nowhere.invalid/file.tar"], tmp_path / "file.tar", WHOLE, lambda *_: None)


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (503, download.ATTEMPTS)])
def test_what_will_not_change_is_asked_for_once(server, tmp_path, status, requests):
    server.status = status
    with pytest.raises(DataError, match=f"{re.escape(server.url)}: HTTP {status} "):
        fetch([server.url], tmp_path / "file.tar", WHOLE, lambda *_: None)
    assert len(server.asked) == requests


def test_a_file_of_another_size_is_not_fetched(server, tmp_path):
    with pytest.raises(DataError, match="the server has 307,200 bytes, expected 1,000"):
        fetch([server.url], tmp_path / "file.tar", ExpectedFile(bytes=1000), lambda *_: None)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"has 0\.0 GB left, file\.tar\.part needs 0\.0: make room"):
        fetch([server.url], tmp_path / "file.tar", WHOLE, lambda *_: None)


def test_a_disk_that_fills_up_is_told(server, monkeypatch, tmp_path):
    monkeypatch.setattr(download, "_opened", lambda *_: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(UserError, match="No space left on device; make room"):
        fetch([server.url], tmp_path / "file.tar", WHOLE, lambda *_: None)


# ------------------------------------------------------------------------------------------------ hostile addresses


@pytest.mark.parametrize("mark", [".part", ".part.json"])
def test_a_link_in_the_place_of_the_remainder_is_not_written_through(server, tmp_path, mark):
    victim = tmp_path / "elsewhere"
    victim.write_text("mine")
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / f"file.tar{mark}").symlink_to(victim)
    fetched(server, folder / "file.tar")
    assert victim.read_text() == "mine"
    assert not (folder / "file.tar").is_symlink()


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "/etc/hostname"])
def test_only_the_web_is_fetched_and_redirected_to(server, tmp_path, monkeypatch, address):
    monkeypatch.setattr(download, "PAUSE", 60.0)  # nothing is tried again
    with pytest.raises(DataError, match=r": is not fetched, only https and http"):
        fetch([address], tmp_path / "x", WHOLE, lambda *_: None)

    def redirect(handler):
        handler.send_response(302)
        handler.send_header("Location", address)
        handler.end_headers()

    monkeypatch.setattr(Handler, "do_GET", redirect)
    with pytest.raises(DataError) as error:
        fetch([server.url], tmp_path / "x", WHOLE, lambda *_: None)
    assert "HTTP 302" in str(error.value) or "HTTP 501" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_large_file_that_nothing_is_published_of_is_refused_and_a_small_one_is_said(server, tmp_path, monkeypatch):
    with pytest.warns(Notice, match=r"file\.tar: no size or checksum is published to compare it with"):
        fetched(server, tmp_path / "file.tar", ExpectedFile())
    monkeypatch.setattr(download, "UNVERIFIED", 300_000)
    with pytest.raises(DataError, match="the server has 307,200 bytes, expected at most 300,000"):
        fetch([server.url], tmp_path / "other.tar", ExpectedFile(), lambda *_: None)
