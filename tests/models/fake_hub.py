"""A Hub of a few files on this machine, asked directly or as a proxy for a host that no name server knows."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit


class FakeHub:
    """Serves `folder/<org>/<name>/<file>` as the Hub does; a folder with a file GATED is a gated repository.

    Attributes:
        url: of the server.
        asked: method, host and path of every request for a file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                parts = urlsplit(self.path)
                if "/resolve/" in parts.path:  # the client has questions of its own, too
                    hub.asked.append((self.command, self.headers["Host"], parts.path))
                status, headers, content = hub.answer(parts.path)
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            do_GET = do_HEAD

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of a file at `/<org>/<name>/resolve/<revision>/<file>`."""
        repository, _, rest = path.strip("/").partition("/resolve/")
        file = self.folder / repository / rest.partition("/")[2]
        if not file.parent.is_dir():
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if (file.parent / "GATED").exists():
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        commit = {"X-Repo-Commit": "0" * 40}
        if not file.is_file():
            return 404, {**commit, "X-Error-Code": "EntryNotFound"}, b""
        content = file.read_bytes()
        return 200, {**commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, content


@contextmanager
def serving(folder: Path) -> Iterator[FakeHub]:
    """Inside, the files of `folder` are on a Hub."""
    hub = FakeHub(folder)
    thread = Thread(target=hub.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
