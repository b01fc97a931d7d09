"""Times of day: "nine forty a m" -> 9:40 a.m., "half past six" -> 6:30, "eight a m p s t" -> 8 a.m. PST, "eighteen thirty" -> 18:30.

The written form is regular (H:MM, H:MM a.m., H a.m.), so that the run time can turn it into another clock. A bare hour ("at nine") is not a
time here; it becomes one with a m, p m, o'clock or, where the style asks for it, "in the morning". noon and midnight stay words.
"""

from __future__ import annotations

from functools import cache

from . import base
from .base import DROP_SPACE, Fst, add, cost, drop, maybe, pynini, say
from .style import Style

HOURS = (*base.DIGITS, *base.TEENS[:3])
NIGHT_AND_DAY = (" in the morning", " in the afternoon", " in the evening", " at night")
HALVES = (  # spoken, written, cost
    ("a m", "a.m.", 0.0), ("am", "a.m.", 0.7), ("a.m.", "a.m.", 0.7), ("a. m.", "a.m.", 2.0),
    ("p m", "p.m.", 0.0), ("pm", "p.m.", 0.7), ("p.m.", "p.m.", 0.7), ("p. m.", "p.m.", 2.0),
)  # fmt: skip
ZONES = (
    "est", "edt", "et", "cst", "cdt", "ct", "mst", "mdt", "mt", "pst", "pdt", "pt",
    "akst", "hst", "gmt", "utc", "bst", "cet", "cest", "ist", "jst", "aest",
)  # fmt: skip
QUARTER = (("quarter", 2.0), ("a quarter", 2.5))
TO = (("to", 0.0), ("till", 1.0), ("til", 1.5), ("of", 2.5))
REGIONS = ("eastern", "central", "mountain", "pacific")


def _hour(pad: bool) -> Fst:
    """one..twelve -> 1..12, or 01..12"""
    return base.pairs([(word, f"{i:02}" if pad else str(i)) for i, word in enumerate(HOURS, 1)])


@cache
def _minutes() -> Fst:
    """The minutes after the hour: " thirty" -> :30, " oh five" -> :05"""
    ten_up = base.two_digits() @ (pynini.union(*"12345") + base.NUMERAL)
    small = pynini.union(drop(" oh "), drop(" o ", 1.0), drop(" zero ", 4.0)) + add("0") + base.digit()
    return (add(":") + pynini.union(DROP_SPACE + ten_up, small)).optimize()


def _past_and_to(style: Style) -> Fst:
    """Minutes before the hour is named: half past six -> 6:30, a quarter to six -> 5:45, twelve minutes past nine -> 9:12.

    One branch an hour: the hour is written first and heard last.
    """
    names = dict(enumerate((*base.DIGITS, *base.TEENS, "twenty"), 1)) | {25: "twenty five"}
    half = say("half past ", ":30", 2.0)

    def minutes(after: bool) -> Fst:
        """ "ten past nine", rarely with "minutes"; but "twelve minutes past nine"."""
        written = {m: f":{m if after else 60 - m:02}" for m in names}
        unit, bare = drop(" minutes", 1.5), cost(pynini.accep(""), 3.0)
        usual = cost(base.pairs([(names[m], written[m]) for m in names if m % 5 == 0]) + maybe(unit), 3.0)
        odd = base.pairs([(names[m], written[m]) for m in names if m % 5 and m > 1])
        odd = cost(odd + (pynini.union(unit, bare) if after else unit), 2.5)
        one = base.pairs([("one minute", written[1], 4.0), ("a minute", written[1], 6.0 if after else 4.0)])
        quarter = base.pairs([(words, ":15" if after else ":45", weight) for words, weight in QUARTER])
        return pynini.union(usual, odd, one, quarter).optimize()

    past = pynini.union(minutes(True) + pynini.union(drop(" past "), drop(" after ", 0.3)), half)
    to = minutes(False) + pynini.union(*(drop(f" {word} ", weight) for word, weight in TO))
    branches = []
    for hour in range(1, 13):
        written = f"{hour:02}" if style.hour_pad else str(hour)
        this, following = drop(HOURS[hour - 1]), drop(HOURS[hour % 12])
        branches.append(add(written) + pynini.union(past + this, to + following))
    return pynini.union(*branches).optimize()


def _odd_minutes_to(style: Style) -> Fst:
    """four to six -> 5:56. More often a range, hence refused by most styles, and by all without a.m. or p.m."""
    form = "{:02}" if style.hour_pad else "{}"
    hour = base.pairs([(word, form.format((i - 2) % 12 + 1)) for i, word in enumerate(HOURS, 1)])
    odd = [(m, word) for m, word in enumerate((*base.DIGITS, *base.TEENS), 1) if m % 5]
    return pynini.union(*(drop(f"{word} to ", 5.5) + hour + add(f":{60 - m}") for m, word in odd)).optimize()


def _military(style: Style) -> Fst:
    """The 24-hour clock: eighteen thirty -> 18:30, oh seven hundred hours -> 07:00"""
    afternoon = (base.two_digits() @ pynini.union(*(str(h) for h in range(13, 24)))).optimize()
    early = pynini.union(drop("oh "), drop("zero ", 1.5)) + add("0") + base.digit()
    hundred = pynini.union(say(" hundred hours", ":00", 0.5), say(" hundred", ":00", 3.0))
    late = pynini.union(afternoon, early)
    clock = late + pynini.union(hundred, _minutes() + maybe(drop(" hours"), 3.0))
    o_clock = afternoon + say(" o'clock", ":00", 6.0)
    hundred_hours = _hour(style.hour_pad) + say(" hundred hours", ":00", 4.0)
    ends = pynini.union(
        say("zero hundred", "00:00", 3.0), say("zero hundred hours", "00:00", 0.5),
        say("twenty four hundred", "24:00", 3.0), say("twenty four hundred hours", "24:00", 0.5),
        say("zero", "00", 3.0) + _minutes(),
    )  # fmt: skip
    return pynini.union(clock, o_clock, hundred_hours, ends).optimize()


def _zones(style: Style) -> Fst:
    """p s t, pst -> PST; eastern, pacific time, ... unchanged"""
    rows = []
    for zone in ZONES:
        written = zone.upper() if style.zone_upper else zone
        rows += [(" " + " ".join(zone), " " + written, 0.0), (" " + zone, " " + written, 0.5)]
    names = pynini.union(*REGIONS) + maybe(pynini.union(" time", " standard time", " daylight time"))
    return pynini.union(base.pairs(rows), " " + names).optimize()


def grammar(style: Style) -> Fst:
    """Spoken -> written for one time of day."""
    hour = _hour(style.hour_pad)
    o_clock = pynini.union(say(" o'clock", ":00"), say(" o clock", ":00", 1.0), say(" oclock", ":00", 2.0))
    with_minutes = pynini.union(hour + _minutes(), _past_and_to(style))
    whole = hour + add(":00" if style.whole_hour else "")
    whole = pynini.union(whole, whole + drop(" o'clock", 5.0))
    half = base.pairs([(" " + spoken, " " + written, weight) for spoken, written, weight in HALVES])
    part = pynini.union(*(cost(pynini.accep(part), 1.0) for part in NIGHT_AND_DAY))

    clock = pynini.union(with_minutes, hour + o_clock)
    before_half = pynini.union(with_minutes, whole)
    if style.odd_minutes_to:
        before_half = pynini.union(before_half, _odd_minutes_to(style))
    timed = pynini.union(clock, before_half + half)
    forms = [timed + maybe(_zones(style)), clock + part, _military(style) + maybe(_zones(style))]
    if style.whole_hour_of_day:
        forms.append(hour + part)
    return pynini.union(*forms).optimize()
