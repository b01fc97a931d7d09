"""Run-time style, on written forms alone."""

from __future__ import annotations

import pytest

from itn.errors import ItnError
from itn.style import Options, cased, restyle
from tests.itn.toy import numbers

NUMBERS = numbers() | {"seven point five": "7.5", "one thousand five hundred": "1500"}


def styled(category, spoken, written, **options):
    return restyle(category, spoken.split(), written, Options(**options), lambda words: NUMBERS.get(words, ""))


@pytest.mark.parametrize(
    "category, written, threshold, kept",
    [
        ("cardinal", "9", 10, True),
        ("cardinal", "-9", 10, True),
        ("cardinal", "10", 10, False),
        ("cardinal", "0", 10, True),
        ("cardinal", "0", 0, False),
        ("cardinal", "7 million", 10, False),
        ("measure", "7 hours", 10, True),
        ("measure", "1 day", 10, True),
        ("measure", "12 weeks", 13, True),
        ("measure", "7.5 hours", 10, False),
        ("measure", "7 h", 10, False),
        ("measure", "7 km", 10, False),
        ("measure", "7%", 10, False),
        ("decimal", "2.7", 10, False),
        ("money", "$7", 10, False),
        ("date", "may 7", 10, False),
        ("address", "7", 10, False),
    ],
)
def test_number_threshold(category, written, threshold, kept):
    assert styled(category, "x", written, number_threshold=threshold) == (None if kept else written)


def test_ordinal_threshold():
    assert styled("ordinal", "x", "9th") is None and styled("ordinal", "x", "10th") == "10th"
    assert styled("ordinal", "x", "9th", ordinal_threshold=0) == "9th"
    assert styled("date", "x", "9th") == "9th"


@pytest.mark.parametrize(
    "category, written, expected",
    [
        ("cardinal", "999", "999"),
        ("cardinal", "1000", "1,000"),
        ("cardinal", "-1234567", "-1,234,567"),
        ("decimal", "12345.67891", "12,345.67891"),
        ("money", "$1500.50", "$1,500.50"),
        ("money", "€10000", "€10,000"),
        ("measure", "1500 km/h", "1,500 km/h"),
        ("measure", "1,500 km", "1,500 km"),
        ("date", "may 4 2026", "may 4 2026"),
        ("telephone", "5551234", "5551234"),
        ("address", "94103", "94103"),
    ],
)
def test_thousands(category, written, expected):
    assert styled(category, "x", written, thousands=",") == expected
    narrow = styled(category, "x", written, thousands="\u202f")
    assert narrow == (expected if "," in written else expected.replace(",", "\u202f"))
    assert styled(category, "x", written) == written


@pytest.mark.parametrize(
    "written, expected",
    [
        ("9:40 p.m.", "21:40"),
        ("09:40 a.m.", "09:40"),
        ("4 p.m.", "16:00"),
        ("12 a.m.", "00:00"),
        ("12:30 p.m.", "12:30"),
        ("08:00 a.m. pst", "08:00 pst"),
        ("8 PM EST", "20:00 EST"),
        ("9:40", "09:40"),
        ("6:30 pst", "06:30 pst"),
        ("9:30 in the evening", "21:30"),
        ("9 in the morning", "09:00"),
        ("12:15 in the afternoon", "12:15"),
        ("4 in the afternoon est", "16:00 est"),
        ("11 at night", "23:00"),
        ("2 at night", "02:00"),
        ("12:30 at night", "00:30"),
        ("12 in the morning", "00:00"),
        ("16:00", "16:00"),
        ("13 p.m.", "13 p.m."),
    ],
)
def test_24_hours(written, expected):
    assert styled("time", "x", written, clock=24) == expected
    assert styled("time", "x", written) == written  # 12 hours
    assert styled("address", "x", written, clock=24) == written


def test_units_and_currencies_as_words():
    assert styled("measure", "eight kilometers", "8 km", units="words") == "8 kilometers"
    assert styled("measure", "seven point five percent", "7.5%", units="words") == "7.5 percent"
    assert styled("measure", "ninety kilometers per hour", "90 km/h", units="words") == "90 kilometers per hour"
    assert styled("measure", "one thousand five hundred feet", "1500 ft", units="words", thousands=",") == "1,500 feet"
    assert styled("money", "seven dollars", "$7", currencies="words") == "7 dollars"
    assert styled("money", "seven dollars and thirty cents", "$7.30", currencies="words") == "7 dollars and 30 cents"
    assert styled("money", "six million euros", "€6 million", currencies="words") == "6 million euros"
    assert styled("money", "twelve fifty", "$12.50", currencies="words") is None  # no name was said, and no sign may be left
    assert styled("money", "seven dollars thirty", "$7.30", currencies="words") == "7 dollars 30"
    assert styled("money", "a hundred dollars", "$100", currencies="words") == "100 dollars"
    assert styled("money", "two and a half million dollars", "$2.5 million", currencies="words") == "2.5 million dollars"
    assert styled("measure", "two and a half percent", "2.5%", units="words") == "2.5 percent"
    assert styled("measure", "seven hours", "7 hours", units="words", number_threshold=0) == "7 hours"
    assert styled("measure", "eight kilometers", "8 km", currencies="words") == "8 km"


@pytest.mark.parametrize(
    "spoken, written, category, expected",
    [
        ("may third", "may 3", "date", "may 3"),
        ("May Third", "may 3", "date", "May 3"),
        ("MAY THIRD", "may 3", "date", "MAY 3"),
        ("the Sixth of July", "the 6th of july", "date", "the 6th of July"),
        ("Seven Million", "7 million", "cardinal", "7 Million"),
        ("Nine Forty P M", "9:40 p.m.", "time", "9:40 p.m."),
        ("usb", "USB", "whitelist", "USB"),
        ("Usb", "USB", "whitelist", "USB"),
        ("Doctor", "dr.", "whitelist", "Dr."),
        ("For example", "e.g.", "whitelist", "E.g."),
        ("B seven four two", "b742", "address", "B742"),
        ("b A seven", "ba7", "address", "bA7"),
        ("Twenty Five Dollars", "$25", "money", "$25"),
    ],
)
def test_case(spoken, written, category, expected):
    assert cased(spoken.split(), written, category) == expected


def test_options_are_checked():
    assert Options().changed({"thousands": True}).thousands == "," and Options().changed({"clock": None}) == Options()
    assert Options().changed({"off": ["money"]}).off == {"money"}
    for values in ({"off": 5}, {"off": [5]}):
        with pytest.raises(ItnError, match="by their names"):
            Options().changed(values)
    for values in ({"clock": "24"}, {"units": "si"}, {"thousands": "."}, {"number_threshold": "ten"}, {"colck": 24}):
        with pytest.raises(ItnError, match="^where: "):
            Options().changed(values, "where: ")
