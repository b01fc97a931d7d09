"""Downloads against a server that breaks connections."""

from __future__ import annotations

import random
import socket

import pytest

from asr.errors import UserError
from asr.importing.download import ShowProgress, fetch
from tests.importing.server import serving

CONTENT = random.Random(0).randbytes(1_000_000)
FILES = {"/folder/file.bin": CONTENT}


@pytest.fixture
def server():
    with serving(dict(FILES)) as server:
        yield server


@pytest.fixture
def get(server, tmp_path):
    target = tmp_path / "new" / "folder" / "file.bin"
    return lambda **more: fetch(f"{server.url}/folder/file.bin", target, **{"pause": 0.0, **more})


def left(tmp_path) -> list[str]:
    return sorted(path.name for path in tmp_path.rglob("*") if path.is_file())


def test_whole_and_only_once(server, get, tmp_path):
    steps = []
    assert get(size=1_010_000, progress=lambda *step: steps.append(step)).read_bytes() == CONTENT
    assert steps[-1] == ("file.bin", 1_000_000, 1_000_000) and len(steps) > 2
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)
    assert left(tmp_path) == ["file.bin"]
    get()
    assert len(server.requests) == 1


def test_a_broken_connection_is_taken_up(server, get, tmp_path):
    server.breaks = [100_000, 0, 300_000]
    assert get().read_bytes() == CONTENT
    ranges = [asked for _, asked in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=400000-"]
    assert left(tmp_path) == ["file.bin"]


def test_an_interrupted_call_is_resumed(server, get, tmp_path):
    class Stop(Exception):
        pass

    def stop(name: str, done: int, total: int) -> None:
        if done > 400_000:
            raise Stop

    with pytest.raises(Stop):
        get(progress=stop)
    assert left(tmp_path) == ["file.bin.part", "file.bin.part.tag"]
    have = (tmp_path / "new/folder/file.bin.part").stat().st_size
    assert 400_000 < have < 1_000_000
    assert get().read_bytes() == CONTENT
    assert server.requests[-1][1] == f"bytes={have}-"


def test_a_new_version_is_not_joined_to_the_old(server, get):
    server.breaks = [300_000] + [0] * 4
    with pytest.raises(UserError, match="closed early"):
        get()
    new = CONTENT[::-1]
    server.files["/folder/file.bin"], server.tag = new, '"two"'
    assert get().read_bytes() == new


def test_a_shorter_version_starts_again(server, get):
    server.breaks = [900_000] + [0] * 4
    with pytest.raises(UserError, match="closed early"):
        get()
    server.files["/folder/file.bin"] = CONTENT[:500]  # with the same tag: the range is out of reach
    assert get().read_bytes() == CONTENT[:500]


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_without_a_tag_it_starts_again(server, get, tag):
    server.tag, server.breaks = tag, [300_000]
    assert get().read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, None]


def test_a_partial_file_of_unknown_origin_is_not_used(server, get, tmp_path):
    (tmp_path / "new/folder").mkdir(parents=True)
    (tmp_path / "new/folder/file.bin.part").write_bytes(b"something else")
    assert get().read_bytes() == CONTENT


def test_gives_up_when_nothing_comes(server, get, tmp_path):
    server.breaks = [1000] + [0] * 20
    with pytest.raises(UserError, match=r"cannot download http\S+file.bin: the connection was closed early"):
        get()
    assert len(server.requests) == 5
    assert "file.bin" not in left(tmp_path)


def test_a_busy_server_is_asked_again(server, get):
    server.status = [503, 429]
    assert get().read_bytes() == CONTENT


def test_no_such_file_on_the_server(server, tmp_path):
    with pytest.raises(UserError, match="the server says 404 Not Found"):
        fetch(f"{server.url}/other", tmp_path / "other")
    assert len(server.requests) == 1 and left(tmp_path) == []


def test_another_size_than_expected(server, get, tmp_path):
    with pytest.raises(UserError, match="the server has 1000000 bytes where about 3900 belong"):
        get(size=3900)
    server.lengths = False
    with pytest.raises(UserError, match="1000000 bytes came where about 3900 belong"):
        get(size=3900)
    assert "file.bin" not in left(tmp_path)


def test_a_server_that_does_not_say_how_long(server, get):
    server.lengths = False
    assert get(size=1_000_000).read_bytes() == CONTENT


def test_nobody_listens(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot download http://127.0.0.1:{port}/x: Connection refused"):
            fetch(f"http://127.0.0.1:{port}/x", tmp_path / "x", pause=0.0)
    for url in ("nonsense", "http://host.invalid/x", "http://127.0.0.1/a b"):
        with pytest.raises(UserError, match=f"cannot download {url}: "):
            fetch(url, tmp_path / "x", pause=0.0)


def test_no_room(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        fetch(f"{server.url}/folder/file.bin", tmp_path / "file" / "below")


def test_progress_line(capsys):
    show = ShowProgress()
    show("a.pt", 100_000_000, 307_000_000)
    show("a.pt", 307_000_000, 307_000_000)
    assert capsys.readouterr().err == "a.pt: 307.0 of 307.0 MB\n"  # no terminal: one line a file
