"""The development sets: form, sizes, and that each line has something to say."""

import re
from pathlib import Path

DATA = Path(__file__).parent / "data"


def rows(name: str) -> list[list[str]]:
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


def test_context():
    pairs = rows("context.tsv")
    assert all(len(pair) == 2 for pair in pairs)
    untouched = [spoken for spoken, written in pairs if spoken == written]
    assert len(pairs) >= 320 and len(untouched) >= 160 and len(pairs) - len(untouched) >= 160
    assert len({spoken for spoken, _ in pairs}) == len(pairs)
    for spoken, written in pairs:
        assert re.fullmatch(r"[a-z']+( [a-z']+)*", spoken) and 6 <= len(spoken.split()) <= 40, spoken
        assert written == " ".join(written.split()), written
        assert spoken == written or any(character.isdigit() or character in ".@" for character in written), (
            written
        )


def test_nemo():
    triples = rows("nemo.tsv")
    assert all(len(triple) == 3 for triple in triples) and len(triples) >= 330
    assert len({spoken for spoken, _, _ in triples}) == len(triples)
    for spoken, written, category in triples:
        assert re.fullmatch(r"[a-z']+( [a-z']+)*", spoken), spoken
        assert (spoken == written) == (category == "word"), spoken
    wanted = "cardinal ordinal decimal measure money date time telephone electronic address whitelist word"
    assert {category for _, _, category in triples} == set(wanted.split())
