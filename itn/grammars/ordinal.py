"""Ordinals: "third" -> 3rd, "thirty second" -> 32nd, "one hundred and seventh" -> 107th, "two thousandth" -> 2000th.

All are written with digits here; which small ones stay words is the ordinal threshold, applied at run time.
"a hundredth", "hundredth" alone and "thirty seconds" are not accepted: they stay words.
"""

from __future__ import annotations

from . import base
from .base import Fst, pynini
from .style import Style

UNITS = {
    "first": "1st", "second": "2nd", "third": "3rd", "fourth": "4th", "fifth": "5th", "sixth": "6th",
    "seventh": "7th", "eighth": "8th", "ninth": "9th",
}  # fmt: skip
TEENS = (
    "tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth",
    "eighteenth", "nineteenth",
)  # fmt: skip


def below_100(padded: bool = False) -> Fst:
    """first..ninety ninth -> 1st..99th, or 01st..99th."""
    unit = base.pairs(UNITS)
    teen = base.pairs([(word, f"{i + 10}th") for i, word in enumerate(TEENS)])
    tens = base.pairs([(word, str(i + 2)) for i, word in enumerate(base.TENS)])
    round_ten = base.pairs([(word[:-1] + "ieth", f"{i + 2}0th") for i, word in enumerate(base.TENS)])
    return pynini.union(
        base.add("0") + unit if padded else unit, teen, round_ten, tens + base.DROP_SPACE + unit
    ).optimize()


def grammar(style: Style) -> Fst:
    """Spoken -> written for one ordinal."""
    last = below_100(padded=True)
    joint = pynini.union(base.DROP_SPACE, base.drop(" and ", 0.7))
    hundreds = base.digit() + base.drop(" hundred")
    hundredth = base.digit() + base.say(" hundredth", "00th")
    in_hundreds = pynini.union(hundredth, hundreds + joint + last)
    low_thousand = pynini.union(in_hundreds, base.add("0") + last)
    thousands = base.below_1000() + base.drop(" thousand")
    not_round = pynini.difference(pynini.project(base.two_digits(), "output"), base.NUMERAL + "0").optimize()
    years = base.two_digits() @ not_round
    options = [
        base.say("zeroth", "0th"),
        below_100(),
        in_hundreds,
        base.below_1000() + base.say(" thousandth", "000th"),
        base.below_1000() + base.say(" millionth", "000000th"),
        base.below_1000() + base.say(" billionth", "000000000th"),
        thousands
        + pynini.union(base.DROP_SPACE + low_thousand, base.drop(" and ", 1.0) + base.add("0") + last),
        # "twenty five hundredth" -> 2500th; the round tens ("twenty hundredth") are said by nobody
        base.cost(years + base.say(" hundredth", "00th"), 3.0),
        base.cost(years + base.drop(" hundred") + joint + last, 4.0),
    ]
    the = base.maybe(pynini.accep("the "), 5.0)  # understood, though the article is no part of the span
    return (the + pynini.union(*options)).optimize()
