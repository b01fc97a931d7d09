"""Files are written whole or not at all."""

from __future__ import annotations

import os

import pytest

from asr.errors import UserError
from asr.files import whole_file, write_text


def test_what_was_there_stays_until_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to("real.txt")
    write_text(link, "new")
    assert link.is_symlink() and (tmp_path / "real.txt").read_text() == "new"


def test_a_pipe_is_written_as_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(pipe, "words")
        assert os.read(reader, 100) == b"words"
    finally:
        os.close(reader)


def test_folders_are_made_or_said_to_be_none(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"
    with pytest.raises(UserError, match="cannot write .*c.txt/d.txt: "):
        write_text(tmp_path / "a" / "b" / "c.txt" / "d.txt", "x")
    with pytest.raises(UserError, match="cannot write .*/a: Is a directory"):
        write_text(tmp_path / "a", "x")
