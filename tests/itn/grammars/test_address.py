"""Numbers of houses, rooms and flights, and codes."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("pynini")

from itn.grammars import address, base
from itn.grammars.style import load_style


@pytest.fixture(scope="module", params=["prose", "nemo"])
def fst(request):
    return address.grammar(load_style(request.param))


EXAMPLES = {
    "nine forty five": "945",
    "four oh two": "402",
    "three twenty": "320",
    "twelve thirty four": "1234",
    "twenty one oh five": "2105",
    "twenty one": "21",
    "eighty one": "81",
    "one hundred": "100",
    "fifteen hundred": "1500",
    "two thousand": "2000",
    "twelve three forty five": "12345",
    "six one nine": "619",
    "seven oh eight": "708",
    "nine oh two one oh": "90210",
    "nine oh two one oh dash one two three four": "90210-1234",
    "b seven four two": "b742",
    "b seven forty two": "b742",
    "x three nine": "x39",
    "m thirteen": "m13",
    "d c nine": "dc9",
    "a three hundred": "a300",
    "x two hundred and twelve": "x212",
    "twelve b": "12b",
    "two hundred twenty one b": "221b",
    "two twenty one b": "221b",
    "h one n one": "h1n1",
    "one b two c": "1b2c",
    "s w one a one a a": "sw1a1aa",
    "k one a zero b one": "k1a0b1",
    "five o one c three": "501c3",
    "seven o eight": "708",
    "c three p o": "c3po",
    "b dash seven": "b-7",
}
REFUSED = [
    "",
    "seven",
    "b",
    "a b",
    "elm street",
    "nine forty five elm",
    "nine  forty five",
    "oh",
    "b seven ",
    "dash seven",
    "one million",
]


def test_examples(fst):
    for spoken, written in EXAMPLES.items():
        assert base.written_form(fst, spoken) == written, spoken


def test_refuses_the_rest(fst):
    for spoken in REFUSED:
        assert base.written_form(fst, spoken) == "", spoken


def test_numbers_and_codes_come_back(fst):
    import pynini

    rng = random.Random(7)
    values = [str(rng.randrange(10, 10 ** rng.randrange(2, 7))) for _ in range(60)]
    values += [f"{rng.choice('abcdefgh')}{rng.randrange(1, 1000)}" for _ in range(30)]
    values += [f"{rng.randrange(1, 1000)}{rng.choice('abcdefgh')}" for _ in range(20)]
    said = base.verbaliser(fst)
    for value in values:
        ways = pynini.compose(pynini.escape(value), said).project("output").rmepsilon()
        best = pynini.shortestpath(ways).string()
        for spoken in [best, *pynini.randgen(ways, npath=4, select="log_prob", seed=1).paths().ostrings()]:
            assert base.written_form(fst, spoken) == value, spoken


def test_the_usual_way_of_saying_is_the_cheapest(fst):
    import pynini

    said = base.verbaliser(fst)
    for value, spoken in {
        "945": "nine forty five",
        "402": "four oh two",
        "2105": "twenty one oh five",
        "b13": "b thirteen",
    }.items():
        assert pynini.shortestpath(pynini.compose(value, said)).project("output").string() == spoken


def test_is_small(fst):
    assert len(fst.write_to_string()) < 100 * 1024
