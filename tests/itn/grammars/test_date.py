"""Dates: what is written in both styles, what is refused, and that every written form can be said and read back."""

import random

import pytest

pytest.importorskip("pynini")

from itn.grammars import base, date
from itn.grammars.base import pynini
from itn.grammars.style import Style

PROSE = date.grammar(Style())
NEMO = date.grammar(
    Style(ordinal_dates=False, quarter_words=True, era_space="", short_years=False, day_cardinal_from=13)
)


@pytest.mark.parametrize(
    ("spoken", "prose", "nemo"),
    [
        ("july fourth", "july 4", "july 4"),
        ("july four", "july 4", ""),
        ("july twenty one", "july 21", "july 21"),
        ("july fourth twenty twelve", "july 4 2012", "july 4 2012"),
        ("july twenty four twenty eighteen", "july 24 2018", "july 24 2018"),
        ("the sixth of july", "the 6th of july", "6 july"),
        ("sixth of july", "6th of july", "6th of july"),
        ("the sixth of july nineteen forty four", "the 6th of july 1944", "6 july 1944"),
        ("may the fifth", "may the 5th", "may the 5th"),
        ("fifth january", "5th january", "5th january"),
        ("july twenty twelve", "july 2012", "july 2012"),
        ("july of two thousand and four", "july of 2004", "july of 2004"),
        ("monday the fifth of may", "monday the 5th of may", "monday 5 may"),
        ("the twenty first", "the 21st", "the 21st"),
        ("nineteen eighty four", "1984", "1984"),
        ("nineteen oh five", "1905", "1905"),
        ("nineteen hundred", "1900", "1900"),
        ("two thousand", "2000", "2000"),
        ("two thousand and nine", "2009", "2009"),
        ("two thousand nine", "2009", "2009"),
        ("twenty eighteen", "2018", "2018"),
        ("ten sixty six", "1066", "1066"),
        ("one thousand nine hundred eighty four", "1984", "1984"),
        ("nineteen fifties", "1950s", "1950s"),
        ("the nineteen fifties", "the 1950s", "the 1950s"),
        ("two thousands", "2000s", "2000s"),
        ("twenty tens", "2010s", "2010s"),
        ("eighteen hundreds", "1800s", "1800s"),
        ("eighties", "", ""),
        ("oh eight", "", ""),
        ("three hundred b c", "300 BC", "300BC"),
        ("four seventy six a d", "476 AD", "476AD"),
        ("four thousand b c e", "4000 BCE", "4000BCE"),
        ("a d seventy", "AD 70", "AD70"),
        ("third quarter twenty eighteen", "third quarter 2018", "Q3 2018"),
        ("third quarter of twenty eighteen", "third quarter of 2018", "Q3 2018"),
        ("first half of twenty twenty", "first half of 2020", "H1 2020"),
        ("q three", "Q3", "Q3"),
        ("q three twenty twenty one", "Q3 2021", "Q3 2021"),
        ("q three of twenty twenty one", "Q3 of 2021", "Q3 2021"),
        ("q three f y twenty one", "Q3 FY21", "Q3 FY21"),
        ("f y twenty twenty one", "FY2021", "FY2021"),
        ("ten slash twelve slash nineteen", "10/12/19", "10/12/19"),
        ("nine eleven", "9/11", "9/11"),
        ("february twenty ninth", "february 29", "february 29"),
        ("two slash twenty nine", "2/29", "2/29"),
        ("the thirty first of may", "the 31st of may", "31 may"),
        ("february twenty thirty", "february 2030", "february 2030"),
    ],
)
def test_written(spoken, prose, nemo):
    assert base.written_form(PROSE, spoken) == prose
    assert base.written_form(NEMO, spoken) == nemo


@pytest.mark.parametrize(
    "spoken",
    [
        "", "july", "may", "monday", "march of", "seventeen", "seven hundred", "seven seventy seven", "twenty hundred",
        "three thousand nine", "july thirty second", "july fortieth", "fifth may", "third quarter", "twentieth century",
        "nineteen eighty four nineteen eighty five", "q five", "july  fourth", "first", "sixty nine", "a d",
        "february thirtieth", "april thirty one", "the thirty first of april", "thirty first june", "two slash thirty one",
    ],
)  # fmt: skip
def test_refused(spoken):
    assert base.written_form(PROSE, spoken) == ""
    assert base.written_form(NEMO, spoken) == ""


def test_day_suffix_is_a_style():
    assert base.written_form(date.grammar(Style(day_suffix="ordinal")), "july fourth") == "july 4th"


def test_years_have_no_gap():
    """Every year from 1000 to 2199 is said in some way, and the usual way is cheapest."""
    years = pynini.project(date.year(), "output").optimize()
    every = pynini.union(*(str(y) for y in range(1000, 2200))).optimize()
    assert pynini.difference(every, years.rmepsilon()).start() == pynini.NO_STATE_ID
    say = base.verbaliser(date.year())
    for year, spoken in {
        "1984": "nineteen eighty four", "1905": "nineteen oh five", "2000": "two thousand", "2009": "two thousand nine",
        "2012": "twenty twelve", "2021": "twenty twenty one", "1800": "eighteen hundred", "2100": "twenty one hundred",
    }.items():  # fmt: skip
        assert base.written_form(say, year) == spoken


@pytest.mark.parametrize("grammar", [PROSE, NEMO], ids=["prose", "nemo"])
def test_said_and_read_back(grammar):
    """Written -> any way of saying it -> the same written form: no words have two readings of which the wrong one wins."""
    rng = random.Random(3)
    say = base.verbaliser(grammar)
    seen = 0
    for _ in range(150):
        month, year, day = rng.choice(date.MONTHS), rng.randint(1000, 2199), rng.randint(1, 31)
        th = base.written_form(date.day(True), base.written_form(base.verbaliser(date.day(False)), str(day)))
        forms = (f"{month} {day}", f"{month} {day} {year}", f"the {th} of {month} {year}", f"{day} {month} {year}",
                 f"{month} {year}", f"{year}", f"{year // 10}0s", f"Q{day % 4 + 1} {year}", f"{day}BC", f"{day} BC")  # fmt: skip
        written = rng.choice(forms)
        lattice = pynini.compose(written, say)
        if lattice.start() == pynini.NO_STATE_ID:
            continue  # a form of the other style
        seen += 1
        ways = pynini.randgen(pynini.project(lattice, "output").rmepsilon(), npath=3, seed=seen)
        for spoken in ways.paths().ostrings():
            assert "  " not in spoken and spoken == spoken.strip()
            assert base.written_form(grammar, spoken) == written
    assert seen > 80
