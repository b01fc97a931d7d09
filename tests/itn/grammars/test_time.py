"""Times of day: what is written in both styles, what is refused, and that every written form can be said and read back."""

import random

import pytest

pytest.importorskip("pynini")

from itn.grammars import base, time
from itn.grammars.base import pynini
from itn.grammars.style import Style

PROSE = time.grammar(Style())
NEMO = time.grammar(
    Style(hour_pad=True, whole_hour=True, zone_upper=False, odd_minutes_to=True, whole_hour_of_day=False)
)


@pytest.mark.parametrize(
    ("spoken", "prose", "nemo"),
    [
        ("nine forty a m", "9:40 a.m.", "09:40 a.m."),
        ("nine forty am", "9:40 a.m.", "09:40 a.m."),
        ("nine forty a.m.", "9:40 a.m.", "09:40 a.m."),
        ("nine forty a. m.", "9:40 a.m.", "09:40 a.m."),
        ("four p m", "4 p.m.", "04:00 p.m."),
        ("four o'clock p m", "4 p.m.", "04:00 p.m."),
        ("ten o'clock", "10:00", "10:00"),
        ("ten o clock", "10:00", "10:00"),
        ("ten oclock", "10:00", "10:00"),
        ("half past six", "6:30", "06:30"),
        ("half past twelve p m", "12:30 p.m.", "12:30 p.m."),
        ("quarter past six", "6:15", "06:15"),
        ("quarter after six", "6:15", "06:15"),
        ("a quarter to six", "5:45", "05:45"),
        ("quarter of six", "5:45", "05:45"),
        ("quarter till one", "12:45", "12:45"),
        ("five to six", "5:55", "05:55"),
        ("ten past nine", "9:10", "09:10"),
        ("twenty five past nine", "9:25", "09:25"),
        ("ten minutes to nine", "8:50", "08:50"),
        ("twelve minutes past nine", "9:12", "09:12"),
        ("one minute to one", "12:59", "12:59"),
        ("six thirty", "6:30", "06:30"),
        ("six oh five", "6:05", "06:05"),
        ("six o five", "6:05", "06:05"),
        ("eighteen hundred hours", "18:00", "18:00"),
        ("eighteen thirty", "18:30", "18:30"),
        ("twenty oh five", "20:05", "20:05"),
        ("twenty three fifty nine", "23:59", "23:59"),
        ("oh seven hundred", "07:00", "07:00"),
        ("zero hundred hours", "00:00", "00:00"),
        ("eight a m p s t", "8 a.m. PST", "08:00 a.m. pst"),
        ("eight a m pst", "8 a.m. PST", "08:00 a.m. pst"),
        ("eight a m pacific", "8 a.m. pacific", "08:00 a.m. pacific"),
        ("eight thirty eastern time", "8:30 eastern time", "08:30 eastern time"),
        ("fourteen thirty u t c", "14:30 UTC", "14:30 utc"),
        ("six thirty in the evening", "6:30 in the evening", "06:30 in the evening"),
        ("nine in the morning", "9 in the morning", ""),
        ("four to six p m", "", "05:56 p.m."),
    ],
)
def test_written(spoken, prose, nemo):
    assert base.written_form(PROSE, spoken) == prose
    assert base.written_form(NEMO, spoken) == nemo


@pytest.mark.parametrize(
    "spoken",
    [
        "", "nine", "noon", "midnight", "seven sixty p m", "seven oh p m", "seven nine p m", "thirteen p m", "a m", "half past",
        "quarter to", "four to six", "nine to five", "twenty four thirty", "seven hundred", "half six", "nine  forty",
        "one minutes to nine", "half after six", "half to six", "a quarter", "p s t", "eight p s t", "six forty a",
    ],
)  # fmt: skip
def test_refused(spoken):
    assert base.written_form(PROSE, spoken) == ""
    assert base.written_form(NEMO, spoken) == ""


def test_the_usual_way_is_cheapest():
    say = base.verbaliser(PROSE)
    for written, spoken in {
        "9:40 a.m.": "nine forty a m", "4 p.m.": "four p m", "10:00": "ten o'clock", "6:15": "six fifteen",
        "6:05": "six oh five", "18:00": "eighteen hundred hours", "8 a.m. PST": "eight a m p s t", "12:59": "twelve fifty nine",
    }.items():  # fmt: skip
        assert base.written_form(say, written) == spoken


@pytest.mark.parametrize(("grammar", "hour"), [(PROSE, "{}"), (NEMO, "{:02}")], ids=["prose", "nemo"])
def test_said_and_read_back(grammar, hour):
    """Every minute of the clock is said somehow, and any way of saying it is read as the same time."""
    rng = random.Random(3)
    say = base.verbaliser(grammar)
    for minute in range(0, 720, 7):
        half = rng.choice(("", " a.m.", " p.m."))
        zone = rng.choice(("", "", " pacific")) if half else ""
        whole = minute % 60 == 0 and half and hour == "{}"
        written = hour.format(minute // 60 or 12) + ("" if whole else f":{minute % 60:02}") + half + zone
        lattice = pynini.compose(written, say)
        assert lattice.start() != pynini.NO_STATE_ID, written
        ways = pynini.randgen(pynini.project(lattice, "output").rmepsilon(), npath=4, seed=minute)
        for spoken in ways.paths().ostrings():
            assert "  " not in spoken and spoken == spoken.strip()
            assert base.written_form(grammar, spoken) == written
