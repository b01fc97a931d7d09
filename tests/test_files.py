"""Files are written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def test_standard_output_that_is_a_file_keeps_what_it_holds(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("previous\n")
    code = "from asr.files import write_text; write_text('/dev/stdout', 'words\\n')"
    for expected in ("previous\nwords\n", "previous\nwords\nwords\n"):
        with open(log, "a") as out:
            subprocess.run([sys.executable, "-c", code], stdout=out, check=True, cwd=Path(__file__).parent.parent)
        assert log.read_text() == expected


def test_a_loop_of_links_is_one_sentence(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UserError, match="cannot write .*a: "):
        write_text(tmp_path / "a", "x")
