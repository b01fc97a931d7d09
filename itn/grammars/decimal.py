"""Decimals: "two point seven" -> 2.7, "minus zero point six" -> -0.6, "sixty point one million" -> 60.1 million.

After the point the digits are said one by one ("zero", "oh"); "point twenty five" is understood too. "two and a half million" is
2.5 million; "two and a half" and "half a million" stay words.
"""

from __future__ import annotations

from . import base
from .base import Fst, pynini
from .style import Style


def grammar(style: Style) -> Fst:
    """Spoken -> written for one decimal number."""
    number = base.decimal(style.point_zero)
    if style.loose_numbers:
        number = pynini.union(
            number, base.halves() + pynini.union(*(f" {scale}" for scale in base.SCALES[1:]))
        )
    negative = base.say("negative ", "-" if style.negative_sign else "negative ", 1.0)
    sign = pynini.union("", base.say("minus ", "-"), negative)
    return (sign + number).optimize()
