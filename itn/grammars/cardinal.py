"""Cardinals: "seventy one" -> 71, "sixty four thousand and eight" -> 64008, "minus thirty seven" -> -37, "six million" -> 6 million.

Every number is written in digits here, also "seven" -> 7: which small ones stay words is the number threshold, applied at run time.
"a hundred", "hundreds", "a million", dozens are not accepted: they stay words.
"""

from __future__ import annotations

from . import base
from .base import Fst, pynini
from .style import Style


def grammar(style: Style) -> Fst:
    """Spoken -> written for one cardinal."""
    number = pynini.union(base.cost(base.integer(), 0.1), base.large(), base.say("zero", "0"), _lakh(style.lakh_words))
    if style.loose_numbers:
        number = pynini.union(number, base.hundred_and())
    negative = base.say("negative ", "-" if style.negative_sign else "negative ", 1.0)
    sign = pynini.union(base.say("minus ", "-"), negative)
    return pynini.union(number, sign + number).optimize()


def _lakh(words: bool) -> Fst:
    """South Asian numbers: "five lakh" -> 5 lakh or 500000, "two crore fifty lakh" -> 25000000."""
    if words:
        return (base.below_1000() + pynini.union(" lakh", " crore")).optimize()
    hundred = base.below_100(padded=True)
    thousand = pynini.union(base.add("00"), base.DROP_SPACE + hundred + base.drop(" thousand"))
    below = pynini.union(base.add("000"), base.DROP_SPACE + base.below_1000(padded=True))
    after_lakh = thousand + below
    lakh = pynini.union(base.add("00"), base.DROP_SPACE + hundred + base.drop(" lakh")) + after_lakh
    return pynini.union(base.below_100() + base.drop(" lakh") + after_lakh, base.below_1000() + base.drop(" crore") + lakh).optimize()
