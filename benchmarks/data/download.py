"""Resumable downloads: an interrupted one continues, and a file gets its final name only when complete."""

import hashlib
import http.client
import json
import os
import shutil
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import Notice, UserError, one_line
from regvit_lightning.runtime import atomic

CHUNK = 1 << 20
SILENCE = 60  # seconds without data before a connection counts as lost
ATTEMPTS = 5  # per URL, in turn; each resumes where the last one ended
PAUSE = 2.0  # seconds before the second attempt, doubled for each further one
LARGEST = 1 << 36  # size limit in bytes of a file whose size is not published, and whose checksum is
UNVERIFIED = 1 << 30  # size limit in bytes of a file of which neither is published
SCHEMES = ("https", "http")

Show = Callable[[int, int], None]


@dataclass(frozen=True)
class ExpectedFile:
    """Published size and checksums of a file; 0 and '' where unpublished.

    Attributes:
        bytes: size in bytes.
        md5, sha256: checksums in hexadecimal digits.
        checked_inside: an archive whose files are compared with their own hashes afterwards.
    """

    bytes: int = 0
    md5: str = ""
    sha256: str = ""
    checked_inside: bool = False

    @property
    def is_known(self) -> bool:
        """Whether there is anything to compare a file with."""
        return bool(self.bytes or self.md5 or self.sha256)

    def fault(self, file: Path, show: Show) -> str:
        """Reason why `file` is not the one expected, or ''; reads all of it if a checksum is known."""
        size = file.stat().st_size
        if self.bytes and size != self.bytes:
            return f"it has {size:,} bytes, expected {self.bytes:,}"
        kind = "sha256" if self.sha256 else "md5"
        wanted = self.sha256 or self.md5
        if wanted and _digest(file, kind, show) != wanted:
            return f"its {kind} is not the published {wanted}"
        return ""


def fetch(urls: Sequence[str], target: Path, expected: ExpectedFile, show: Show, check: Show = lambda *_: None) -> None:
    """Download `target` from the first of `urls` that provides it completely.

    Partial data is stored in `<target>.part`, with the URL and the server's version (ETag or date) in
    `<target>.part.json`; this call or a later one resumes it, unless the file on the server has changed.

    Args:
        show: called with the bytes downloaded so far and the size of the file, 0 if unknown.
        check: called likewise while the checksum is computed.

    Raises:
        DataError: no URL provides the file, or what they provide is not the one expected.
        UserError: the disk is full.
    """
    part = target.with_name(target.name + ".part")
    if part.is_symlink():  # it would be written through
        _forget(part)
    if not expected.is_known and not expected.checked_inside:
        text = "no size or checksum is published to compare it with: it is taken as the server sends it"
        warnings.warn(f"{target.name}: {text}", Notice, stacklevel=2)
    failures = []
    for url in urls:
        scheme = urllib.parse.urlsplit(url).scheme
        failure = f"{scheme}: is not fetched, only https and http" if scheme not in SCHEMES else ""
        failure = failure or _download(url, part, expected, show)
        if not failure:
            failure = expected.fault(part, check)
            if not failure:
                os.replace(part, target)
                atomic.remove(_note(part))
                return
            _forget(part)
        failures.append(f"{url}: {failure}")
    kept = f"; {part.stat().st_size:,} bytes are kept: give the command again to continue" if part.exists() else ""
    raise DataError(f"cannot download {target.name}: {'; '.join(failures)}{kept}")


def _download(url: str, part: Path, expected: ExpectedFile, show: Show) -> str:
    """Download into `part`, with retries; returns the reason of a failure, or ''."""
    failure = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            failure = _attempt(url, part, expected, show)
        except urllib.error.HTTPError as error:
            failure = f"HTTP {error.code} {error.reason}"
            if error.code == 416:  # range not satisfiable: the partial file is of another version
                _forget(part)
            elif error.code < 500 and error.code not in (408, 429):
                return failure
        except urllib.error.URLError as error:
            failure = str(error.reason)
            if isinstance(error.reason, socket.gaierror):  # no such host, or no network
                return failure
        except (http.client.HTTPException, OSError) as error:
            failure = one_line(error)
        if not failure:
            return ""
    return failure


def _attempt(url: str, part: Path, expected: ExpectedFile, show: Show) -> str:
    headers = _going_on(url, part, expected)
    request = urllib.request.Request(url, headers={"User-Agent": "regvit-lightning", **headers})
    with _web().open(request, timeout=SILENCE) as response:
        begin = part.stat().st_size if response.status == 206 else 0
        if begin and not response.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
            _forget(part)
            return "the server continues at another offset than asked for"
        length = response.headers.get("Content-Length")
        total = begin + int(length) if length else 0
        limit = expected.bytes or (LARGEST if expected.is_known else UNVERIFIED)
        if total > limit:
            return f"the server has {total:,} bytes, expected {'' if expected.bytes else 'at most '}{limit:,}"
        _make_room(part, total - begin)
        atomic.write_text(_note(part), json.dumps({"url": url, "version": _version(response.headers)}))
        done = _append(response, part, begin, limit, total, show)
    if done > limit:
        _forget(part)
        return f"the server sends more than {limit:,} bytes"
    return f"cut off after {done:,} of {total:,} bytes" if done < total else ""


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects within https and http; urllib alone would follow one to ftp."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in SCHEMES:
            raise urllib.error.HTTPError(newurl, code, f"redirects to {scheme}:, which is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _web() -> urllib.request.OpenerDirector:
    """Opens https and http addresses, through the proxies of the environment, and nothing else."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _WebRedirects(),
    ):
        opener.add_handler(handler)
    return opener


def _append(response: Any, part: Path, begin: int, limit: int, total: int, show: Show) -> int:
    """Append the response, up to just above `limit`; returns the size of the partial file."""
    done = begin
    try:
        file = _opened(part, "ab" if begin else "wb")
    except OSError as error:
        raise UserError(f"cannot write {part}: {error.strerror}; choose another folder") from None
    with file:
        while done <= limit and (chunk := response.read(CHUNK)):
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                raise UserError(f"cannot write {part}: {error.strerror}; make room and give it again") from None
            done += len(chunk)
            show(done, total)
    return done


def _opened(part: Path, mode: str) -> IO[bytes]:
    """Open a file for writing, unless it is a link."""
    return open(part, mode, opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o666))


def _going_on(url: str, part: Path, expected: ExpectedFile) -> dict[str, str]:
    """Range headers for the rest of the file, if it is unchanged; none where all of it is needed."""
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
        have = part.stat().st_size
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(note, dict) or note.get("url") != url or not have:
        return {}
    version = note.get("version")
    if not isinstance(version, str) or not (version.isascii() and (version.isprintable() or not version)):
        return {}
    if version:
        return {"Range": f"bytes={have}-", "If-Range": version}
    return {"Range": f"bytes={have}-"} if expected.md5 or expected.sha256 else {}


def _version(headers: http.client.HTTPMessage) -> str:
    """Version identifier of the file: a strong ETag, or else its date (RFC 9110, section 13.1.5)."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _forget(part: Path) -> None:
    atomic.remove(part)
    atomic.remove(_note(part))


def _make_room(part: Path, needed: int) -> None:
    part.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise UserError(f"{part.parent} has {free / 1e9:.1f} GB left, {part.name} needs {needed / 1e9:.1f}: make room")


def _digest(file: Path, kind: str, show: Show) -> str:
    digest, done, size = hashlib.new(kind), 0, file.stat().st_size
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            show(done, size)
    return digest.hexdigest()
