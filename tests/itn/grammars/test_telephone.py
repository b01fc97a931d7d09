"""Strings said digit by digit."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("pynini")

from itn.grammars import base, telephone
from itn.grammars.style import load_style


@pytest.fixture(scope="module", params=["prose", "nemo"])
def profile(request):
    return request.param, telephone.grammar(load_style(request.param))


BOTH = {
    "six one nine eight two two four four oh seven": "619-822-4407",
    "six one nine dash eight two two dash four four oh seven": "619-822-4407",
    "six one nine eight two two double four oh seven": "619-822-4407",
    "six one nine eight double two four four oh seven": "619-822-4407",  # across two groups
    "triple five eight two two four four o seven": "555-822-4407",
    "eight hundred five five five twelve twelve": "800-555-1212",
    "plus four four two oh seven nine four six oh nine five eight": "+44 207-946-0958",
    "plus forty four two zero seven nine four six zero nine five eight": "+44 207-946-0958",
    "one two three one two three five six seven": "123-12-3567",
    "seven double nine one two three double one three": "799-12-3113",
    "four one one one one one one one one one one one one one one one": "4111 1111 1111 1111",
    "one nine two dot one six eight dot four dot nine": "192.168.4.9",
    "one ninety two dot one sixty eight dot four dot nine": "192.168.4.9",
    "two two five dot double five dot o dot four five": "225.55.0.45",
    "one two seven dot zero dot zero dot one colon eight oh eight zero": "127.0.0.1:8080",
    "four two one": "421",
    "double oh seven": "007",
    "triple seven": "777",
    "one two three double four": "12344",
    "seven zero three four five six seven eight": "70345678",
    "extension two oh four": "extension 204",
    "six one nine eight two two four four oh seven extension five": "619-822-4407 extension 5",
    "one two three dash four five six": "123-456",
    "extension twenty four": "extension 24",
    "twenty twenty": "2020",
    "twenty oh seven": "2007",
    "one two three twenty four": "12324",
    "six nineteen eight twenty two forty four oh seven": "619-822-4407",
    "plus forty four two oh seven nine four six o nine five eight": "+44 207-946-0958",
    "two hundred fifty five dot two hundred fifty five dot zero dot zero": "255.255.0.0",
}
OWN = {
    "five five five twenty one thirty four": {"prose": "555-2134", "nemo": "5552134"},
    "eight two two four four oh seven": {"prose": "822-4407", "nemo": "8224407"},
    "one eight hundred five five five one two one two": {"prose": "1-800-555-1212", "nemo": "1 800-555-1212"},
    "one six one nine eight two two four four oh seven": {
        "prose": "1-619-822-4407",
        "nemo": "1 619-822-4407",
    },
}
REFUSED = [
    "", "seven", "four two", "double seven", "one hundred twenty", "twelve", "six one nine dash", "double", "extension",
    "one nine two dot one six eight", "eight hundred", "oh", "six  one nine", "six one nine people", " four two one",
    "twenty four", "twenty one", "plus forty four", "two five six dot one dot one dot one",
    "two hundred fifty six dot one dot one dot one", "one two three dot one dot one dot three hundred",
]  # fmt: skip


def test_examples(profile):
    name, fst = profile
    for spoken, written in {**BOTH, **{spoken: forms[name] for spoken, forms in OWN.items()}}.items():
        assert base.written_form(fst, spoken) == written, spoken


def test_refuses_what_is_no_string_of_digits(profile):
    for spoken in REFUSED:
        assert base.written_form(profile[1], spoken) == "", spoken


def test_every_way_of_saying_a_number_is_read_back(profile):
    """The likeliest ways of the inverse lead back to the same form."""
    import pynini

    name, fst = profile
    rng = random.Random(4)
    digits = lambda n: "".join(rng.choice("0123456789") for _ in range(n))  # noqa: E731
    values = [digits(n) for n in (3, 4, 5, 6, 8)] + [
        f"{digits(3)}-{digits(2)}-{digits(4)}",
        f"extension {digits(4)}",
    ]
    values += [f"{digits(3)}-{digits(3)}-{digits(4)}" for _ in range(5)] + [
        f"+44 {digits(3)}-{digits(3)}-{digits(4)}"
    ]
    values += [f"192.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 256)}"]
    values += [f"{digits(3)}-{digits(4)}"] if name == "prose" else [digits(7)]
    said = base.verbaliser(fst)
    for value in values:
        ways = pynini.compose(pynini.escape(value), said).project("output").rmepsilon()
        for spoken in pynini.shortestpath(ways, nshortest=8, unique=True).paths().ostrings():
            assert "  " not in spoken and spoken == spoken.strip()
            assert base.written_form(fst, spoken) == value, spoken


def test_is_small(profile):
    assert len(profile[1].write_to_string()) < 142 * 1024
