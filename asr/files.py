"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from asr.errors import UserError

DEVICES = (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd"))


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` when the block ends well, and goes otherwise. What a link points to is written, the link
    stays; a pipe or a device is written as it is, and standard output that is a file keeps what it holds.

    Raises:
        UserError: it cannot be written.
    """
    target = Path(path)
    try:
        # a named pipe, a terminal, /dev/stdout: nothing to replace
        special = target.parent in DEVICES or target.exists() and not target.is_file() and not target.is_dir()
        if target.is_symlink() and not special:
            target = target.resolve()
    except (OSError, RuntimeError):  # RuntimeError: Python 3.12 and older
        raise UserError(f"cannot write {path}: too many levels of symbolic links") from None
    temporary = target if special else target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        try:
            with open(temporary, "ab" if special else "wb") as file:
                yield file
            if not special:
                temporary.replace(target)
        except BaseException:
            if not special:
                with suppress(OSError):  # its folder is none
                    temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or leave what was there; its folder is made.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    with whole_file(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))  # names of files need not be UTF-8
