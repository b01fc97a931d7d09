"""Files from the web: resumed where they were interrupted, whole or not there at all, one sentence when it fails.

While it is incomplete, a file ``NAME`` lies beside its place as ``NAME.part``, with ``NAME.part.tag`` telling which
version of it the server was sending, so that halves of two versions are never joined.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asr.errors import UserError

BLOCK = 1 << 18  # bytes read at a time
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # in a row that bring nothing
TOLERANCE = 0.02  # of a size that is known only to three digits

BROKEN = (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)  # what trying again may mend

Progress = Callable[[str, int, int], None]  # name, bytes there, bytes in all


def fetch(
    url: str,
    target: Path,
    size: int | None = None,
    progress: Progress | None = None,
    pause: float = 1.0,
) -> Path:
    """Download a file unless it is there; a connection that breaks is taken up again, now or in the next call.

    Args:
        target: where the file goes; its folder is made.
        size: bytes, roughly: what the server has must be within 2 % of it (a login page is not).
        progress: called after every block.
        pause: seconds before a broken connection is tried again, growing with every failure.

    Returns:
        ``target``.

    Raises:
        UserError: no connection, no such file on the server, another size than expected, or no room on the disk.
    """
    if target.is_file():
        return target
    part = target.with_name(target.name + ".part")
    failures, best = 0, 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                if _receive(url, part, size, progress):
                    part.replace(target)
                    _tag(part).unlink(missing_ok=True)
                    return target
                reason = "the connection was closed early"
            except urllib.error.HTTPError as error:
                error.close()
                if error.code < 500 and error.code not in (408, 429):
                    raise UserError(f"cannot download {url}: the server says {error.code} {error.reason}") from None
                reason = f"the server says {error.code} {error.reason}"
            except urllib.error.URLError as error:
                if not isinstance(error.reason, BROKEN):  # no network, no such host: it will not change in seconds
                    raise UserError(f"cannot download {url}: {_reason(error.reason)}") from None
                reason = _reason(error.reason)
            except http.client.InvalidURL as error:
                raise UserError(f"cannot download {url}: {error}") from None
            except BROKEN as error:
                reason = _reason(error)
            failures = 1 if _bytes(part) > best else failures + 1
            best = max(best, _bytes(part))
            if failures >= ATTEMPTS:
                raise UserError(f"cannot download {url}: {reason}")
            time.sleep(pause * failures)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None
    except ValueError as error:  # of urllib
        raise UserError(f"cannot download {url}: {error}") from None


def _receive(url: str, part: Path, size: int | None, progress: Progress | None) -> bool:
    """Append what is missing to ``part``; whether it is complete now."""
    tag = _tag(part)
    known = tag.read_text("utf-8").splitlines() if tag.is_file() else []
    have = _bytes(part) if len(known) == 2 else 0
    if have and have == int(known[0]):
        return True
    request = urllib.request.Request(url, headers={"User-Agent": "emformer-asr", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known[1])
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        part.unlink(missing_ok=True)  # the file has become shorter: from the start, at the next attempt
        return False
    with response:
        start, total = _extent(response, have)
        if size is not None and total is not None and abs(total - size) > TOLERANCE * size:
            raise UserError(
                f"cannot download {url}: the server has {total} bytes where about {size} belong, so it is another file"
            )
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        with open(part, "ab" if start else "wb") as file:
            if total is not None and validator and not validator.startswith("W/"):
                tag.write_text(f"{total}\n{validator}\n", "utf-8")
            else:
                tag.unlink(missing_ok=True)  # nothing to tell versions apart by: not to be resumed
            while block := response.read(BLOCK):
                file.write(block)
                if progress is not None:
                    progress(part.name.removesuffix(".part"), file.tell(), total or size or 0)
            done = file.tell()
    if total is None and size is not None and abs(done - size) > TOLERANCE * size:
        raise UserError(f"cannot download {url}: {done} bytes came where about {size} belong")
    return total is None or done == total


def _extent(response: Any, have: int) -> tuple[int, int | None]:
    """First byte that comes, and bytes of the whole file (None: the server does not say)."""
    if response.status == 206:
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if span.partition("-")[0] != str(have) or not total.isdecimal():
            raise http.client.HTTPException("the server sends another part of the file than was asked for")
        return have, int(total)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _reason(error: BaseException | str) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _bytes(file: Path) -> int:
    try:
        return os.stat(file).st_size
    except FileNotFoundError:
        return 0


class ShowProgress:
    """A line on standard error that is written over: bytes, rate, time left; without a terminal one line a file."""

    def __init__(self) -> None:
        self.name = ""
        self.began = self.shown = 0.0
        self.had = 0  # bytes when this call began

    def __call__(self, name: str, done: int, total: int) -> None:
        """``done`` of ``total`` bytes (0: unknown) are there."""
        now = time.monotonic()
        if name != self.name:
            self.name, self.began, self.shown, self.had = name, now, 0.0, done
        complete = done == total
        if not complete and (not sys.stderr.isatty() or now - self.shown < 0.2):
            return
        self.shown = now
        rate = (done - self.had) / max(now - self.began, 1e-3)
        text = f"{name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{name}: {done / 1e6:.1f} MB"
        if not complete and total and rate > 0:
            text += f", {rate / 1e6:.1f} MB/s, {(total - done) / rate:.0f} s left"
        end = "\n" if complete else ""
        print(f"\r{text:<78}" if sys.stderr.isatty() else text, end=end, file=sys.stderr, flush=True)
