"""Numbers against a speller of our own, and every category on what belongs to the others: no digits that nobody said."""

from __future__ import annotations

import random
import re

import pytest

pytest.importorskip("pynini")

from itn.grammars import CATEGORIES, base, grammar
from itn.grammars.style import load_style
from tests.itn.grammars.speller import read_year, spell, spell_ordinal, suffix

STYLE = load_style("prose")
BUILT: dict[str, base.Fst] = {}


def written(category: str, spoken: str) -> str:
    fst = BUILT.get(category) or BUILT.setdefault(category, grammar(category, STYLE))
    return base.written_form(fst, spoken)


def sample(below: int, count: int = 60, seed: int = 1) -> list[int]:
    """Numbers of every length, and those around the round ones."""
    rng = random.Random(seed)
    digits = len(str(below - 1))
    edges = [10**k + d for k in range(1, digits) for d in (-1, 0, 1)]
    drawn = [rng.randrange(10 ** rng.randint(1, digits)) for _ in range(count)]
    zeros = [int("".join(rng.choice("0001234567891") for _ in range(digits))) for _ in range(count)]
    return [n for n in {*edges, *drawn, *zeros} if 0 < n < below]


def plain(n: int) -> list[str]:
    """How a number may be written: in digits, or a round one with its word."""
    forms = [str(n)]
    for power, scale in ((6, "million"), (9, "billion"), (12, "trillion")):
        if n % 10**power == 0 and n < 10 ** (power + 3):
            forms.append(f"{n // 10**power} {scale}")
    return forms


@pytest.mark.parametrize("joint", [" ", " and "])
def test_cardinals(joint):
    for n in sample(10**15):
        assert written("cardinal", spell(n, joint)) in plain(n), spell(n, joint)


@pytest.mark.parametrize("joint", [" ", " and "])
def test_dollars(joint):
    for n in sample(10**12):
        spoken = f"{spell(n, joint)} {'dollar' if n == 1 else 'dollars'}"
        assert written("money", spoken) in [f"${form}" for form in plain(n)], spoken


@pytest.mark.parametrize("sign, words", [("€", "euros"), ("£", "pounds"), ("¥", "yen")])
def test_other_currencies(sign, words):
    for n in sample(10**9, 20):
        if n > 1:
            assert written("money", f"{spell(n)} {words}") in [f"{sign}{form}" for form in plain(n)], n


@pytest.mark.parametrize("joint", [" ", " and "])
def test_percent(joint):
    for n in sample(10**9):
        assert written("measure", f"{spell(n, joint)} percent") in [f"{form}%" for form in plain(n)], n


@pytest.mark.parametrize("joint", [" ", " and "])
def test_ordinals(joint):
    for n in sample(10**6):
        assert written("ordinal", spell_ordinal(n, joint)) == f"{n}{suffix(n)}", spell_ordinal(n, joint)


def test_years():
    for n in range(1000, 2200, 7):
        if n // 100 != 10 or n % 100 > 9:
            assert written("date", read_year(n)) == str(n), read_year(n)


# Spoken, and the digits (signs left out) that it may become in any category. Where none is given the digits are those of the words.
SPANS = {
    "twenty four": "24", "twenty one": "21", "thirty two point five": "325", "one hundred": "100", "one hundred and five": "105",
    "a hundred dollars": "100", "hundred dollars": "", "hundred percent": "", "hundred kilometers": "",
    "seven million": "7", "two thousand and five": "2005", "two thousand twenty four": "2024", "fifteen hundred": "1500",
    "twenty five hundred": "2500", "nineteen eighty four": "1984", "nineteen oh five": "1905", "two thirds": "23", "twenty third": "23",
    "the thirty first of april": "", "february thirtieth": "", "two slash thirty one": "", "july fourth": "4",
    "july fourth twenty twelve": "42012", "the sixth of july": "6", "nineteen fifties": "1950", "third quarter of twenty eighteen": "2018",
    "nine forty five": "945", "nine forty a m": "940", "half past six": "630", "quarter to six": "545", "six o'clock": "600 6",
    "four oh two": "402", "double oh seven": "007", "triple five": "555", "extension twenty four": "24", "plus forty four": "44",
    "six one nine eight two two four four oh seven": "6198224407", "six nineteen eight twenty two forty four oh seven": "6198224407",
    "five five five twenty one thirty four": "5552134", "plus forty four two oh seven nine four six oh nine five eight": "442079460958",
    "one nine two dot one six eight dot four dot nine": "19216849", "one ninety two dot one sixty eight dot four dot nine": "19216849",
    "two hundred fifty five dot two hundred fifty five dot zero dot zero": "25525500",
    "kim at fastmail dot com": "", "kim two hundred five at gmail dot com": "205", "one hundred twenty five dot com": "125",
    "twenty five hundred dot com": "2500", "kim ninety nine at mail dot com": "99", "dot smith at yahoo dot com": "", "at at at dot com": "",
    "i bought it at zappos dot com": "", "two point one point three": "213", "b seven four two": "742", "s w one a one a a": "11",
    "seven dollars and thirty cents": "730", "fifty cents": "50 050", "two and a half million dollars": "25",
    "one million two hundred fifty thousand euros": "1250000", "five foot ten": "510", "minus forty degrees": "40", "twenty mph": "20",
    "five percentage points": "5", "ninety kilometers per hour": "90", "twenty twenty": "2020", "doctor smith": "", "one": "1",
    "one two three twenty four": "12324", "one quadrillion two": "",
}  # fmt: skip


@pytest.mark.parametrize("category", CATEGORIES)
def test_no_category_invents_digits(category):
    for spoken, digits in SPANS.items():
        form = written(category, spoken)
        got = re.sub(r"\D", "", form)
        allowed = {"", *digits.split()}
        if category == "money" and spoken in ("nineteen eighty four", "nineteen oh five", "nine forty five", "four oh two", "twenty twenty"):
            continue  # a price said short
        assert got in allowed, (spoken, form)
