"""`itn`: lines in, lines out; errors are one sentence."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

import itn.normalizer
from itn.cli import COMMANDS, main
from itn.errors import ItnError
from tests.itn.toy import RuleTagger, write_profile


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_profile(tmp_path_factory.mktemp("itn") / "toy")


@pytest.fixture
def run(capsys, monkeypatch, folder):
    """Run a command on some input with the toy tagger: (status, stdout, stderr); input and output are bytes."""
    monkeypatch.setattr(itn.normalizer, "_load_tagger", lambda tagger: RuleTagger())

    def call(content: bytes, *arguments: object, profile: bool = True) -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8"))
        status = main([*(["--profile", str(folder)] if profile else []), *map(str, arguments)])
        sys.stdout.flush()
        return status, written.getvalue(), capsys.readouterr().err

    return call


def test_lines(run):
    text = b"pay twenty five dollars\n\n  \r\n\xff twenty \x80\r\nno newline at the end: seven percent"
    assert run(text) == (0, b"pay $25\n\n  \r\n\xff 20 \x80\r\nno newline at the end: 7%", "")
    assert run(b"") == (0, b"", "")


def test_json(run):
    status, out, _ = run("été twenty five dollars\n\nx".encode(), "--format", "json")
    first, second, third = map(json.loads, out.decode().splitlines())
    span = {"start": 1, "end": 4, "category": "money", "spoken": "twenty five dollars", "written": "$25"}
    assert status == 0 and first == {"text": "été $25", "spans": [span]}
    assert second == {"text": "", "spans": []} and third == {"text": "x", "spans": []}
    assert run(b"\xff\n", "--format", "json")[:2] == (0, b'{"text": "?", "spans": []}\n')


def test_options(run, tmp_path):
    (tmp_path / "l.tsv").write_text("acme\tACME\n")
    line = b"acme has seven to nine thousand dollars in january\n"
    assert run(line, "--lexicon", tmp_path / "l.tsv", "--number-threshold", 0, "--thousands", ",")[1] == (
        b"ACME has 7 to $9,000 in january\n"
    )
    assert run(line, "--off", "money", "--number-threshold", "0")[1] == b"acme has 7 to nine thousand dollars in january\n"
    assert run(b"twenty five\nnothing\n", "--category", "cardinal")[1] == b"25\nnothing\n"
    assert run(b"\t twenty five \r\n  \n\r\nno\r\nten", "--category", "cardinal")[1] == b"\t 25 \r\n  \n\r\nno\r\n10"
    status, out, err = run(b"pay seven dollars\n", "--partials")
    assert (status, out) == (0, b"pay $7\n") and err.splitlines()[0].split() == ["pay", "pay", "|"]
    assert err.splitlines()[-1].strip() == "pay $7"


def test_errors_are_one_sentence(run, folder, tmp_path):
    (tmp_path / "bad.tsv").write_text("a\tb\nno tab\n")
    for arguments, words in [
        (["--profil", "x"], "itn has no option --profil; did you mean --profile?"),
        (["--lexicon", tmp_path / "bad.tsv"], f"{tmp_path / 'bad.tsv'}:2: no tab"),
        (["--lexicon", tmp_path / "nope.tsv"], "cannot read the lexicon"),
        (["--format", "xml"], "invalid choice"),
        (["--clock", "25"], "clock must be 12 or 24"),
        (["--off", "mony"], "did you mean money?"),
        (["--category", "mony"], "did you mean money?"),
        (["--number-threshold", "x"], "invalid int value"),
        (["--partials", "--category", "money"], "--partials"),
        (["--profile", "no-such"], "no profile 'no-such'"),
    ]:
        status, out, err = run(b"one\n", *arguments)
        assert (status, out) == (2, b""), arguments
        assert err.startswith("error: ") and err.count("\n") == 1 and words in err, err
    status, _, err = run(b"", "biuld", profile=False)
    assert status == 2 and err == "error: itn has no command biuld; did you mean build?\n"


def test_help_and_commands(run, monkeypatch):
    status, out, _ = run(b"", "--help")
    assert status == 0 and b"--lexicon" in out and b"itn build" in out
    called = []
    module = types.SimpleNamespace(main=lambda argv: called.append(list(argv)) or 3)
    monkeypatch.setitem(sys.modules, "some_module", module)
    monkeypatch.setitem(COMMANDS, "build", ("some_module", "", "grammar"))
    assert run(b"", "build", "--x", "1", profile=False)[0] == 3 and called == [["--x", "1"]]

    def needs(name):
        def load(module):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        return load

    monkeypatch.setattr("itn.cli.importlib.import_module", needs("pynini"))
    assert run(b"", "build", profile=False)[::2] == (2, "error: itn build needs pynini: pip install 'emformer-asr[grammar]'\n")
    monkeypatch.setattr("itn.cli.importlib.import_module", needs("itn.export"))
    assert "itn export is not part of this version" in run(b"", "export", profile=False)[2]


PROGRAM = """
import sys
import itn.normalizer
from itn.cli import main
from tests.itn.toy import RuleTagger
itn.normalizer._load_tagger = lambda tagger: RuleTagger()
sys.exit(main())
"""


def test_every_line_is_there_at_once_and_a_closed_pipe_is_quiet(folder):
    root = Path(itn.normalizer.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--profile", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root,
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    for spoken, written in ((b"seven percent\n", b"7%\n"), (b"\n", b"\n"), (b"ten\n", b"10\n")):
        process.stdin.write(spoken)
        process.stdin.flush()
        assert process.stdout.readline() == written
    process.stdout.close()
    process.stdin.write(b"ten\n" * 10)
    process.stdin.close()
    assert process.wait(20) == 141 and process.stderr.read() == b""
    process.stderr.close()


def test_without_parts_it_is_an_error(run, monkeypatch, folder):
    def missing(tagger):
        raise ItnError("no tagger at /nowhere")

    monkeypatch.setattr(itn.normalizer, "_load_tagger", missing)
    assert run(b"ten\n")[::2] == (2, "error: no tagger at /nowhere\n")


def test_version(run, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"1.2 of {name}")
    assert run(b"", "--version", profile=False) == (0, b"itn 1.2 of emformer-asr\n", "")


def test_a_byte_order_mark_is_no_letter():
    done = subprocess.run([sys.executable, "-m", "itn.cli"], input="\ufefftwenty five dollars\n".encode(), capture_output=True)
    assert done.stdout == b"$25\n"


@pytest.mark.parametrize(("closed", "word"), [("<&-", "input"), (">&-", "output")])
def test_closed_streams_are_named(closed, word):
    done = subprocess.run(f"{sys.executable} -m itn.cli {closed}", shell=True, capture_output=True, text=True)
    assert done.returncode == 2 and f"standard {word} is closed" in done.stderr and "Traceback" not in done.stderr
