"""A web server in a thread that breaks connections when told to."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator


class FlakyServer(http.server.ThreadingHTTPServer):
    """Serves ``files`` with ranges and tags; the first connections break after ``breaks`` bytes, one each."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.tag: str | None = '"one"'
        self.breaks: list[int] = []
        self.status: list[int] = []  # errors to answer with first
        self.lengths = True  # whether it says how long a file is
        self.requests: list[tuple[str, str | None]] = []  # path, range

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, FlakyServer)
        asked = self.headers.get("Range")
        server.requests.append((self.path, asked))
        if server.status:
            self.send_error(server.status.pop(0))
            return
        content = server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = 0
        if asked and self.headers.get("If-Range", server.tag) == server.tag:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.lengths:
            self.send_header("Content-Length", str(len(content) - start))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        count = server.breaks.pop(0) if server.breaks else len(content)
        self.wfile.write(content[start : start + count])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[FlakyServer]:
    """A server while the block lasts."""
    server = FlakyServer(files)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
