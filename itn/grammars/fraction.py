"""Fractions: "two thirds" -> 2/3, "three quarters" -> 3/4, "a half" -> 1/2, "two and a half" -> 2 1/2, "five over eight" -> 5/8.

Off in both profiles (fractions stay words); a user may switch the category on.
"""

from __future__ import annotations

from . import base, ordinal
from .base import Fst, pynini
from .style import Style


def _denominators() -> list[tuple[str, str, str, float]]:
    """(singular, plural, written, cost): halves, quarters, thirds .. ninety ninths, hundredths, thousandths."""
    rows = [("half", "halves", "2", 0.0), ("quarter", "quarters", "4", 0.0)]
    parts = ordinal.below_100()
    for number in range(3, 100):
        suffix = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number // 10 != 1 else 0, "th")
        word = base.written_form(base.verbaliser(parts), f"{number}{suffix}")
        if number % 10 != 2 or number == 12:  # nobody says "a twenty second" for 1/22
            rows.append((word, word + "s", str(number), 1.0 if number == 4 else 0.0))
    rows += [("hundredth", "hundredths", "100", 0.0), ("thousandth", "thousandths", "1000", 0.0)]
    return rows


def grammar(style: Style) -> Fst:
    """Spoken -> written for one fraction or mixed number."""
    rows = _denominators()
    singular = base.pairs([(one, written, weight) for one, _, written, weight in rows])
    plural = base.pairs([(many, written, weight) for _, many, written, weight in rows])
    one = pynini.union(base.say("one ", "1/"), base.say("a ", "1/", 0.7)) + singular
    several = base.except_words(base.below_100(), ["one"])
    many = several + base.say(" ", "/") + plural
    over = base.below_100() + base.say(" over ", "/", 3.0) + base.below_100()
    simple = pynini.union(one, many).optimize()
    mixed = base.integer(max_scale=1) + base.say(" and ", " ") + simple
    return pynini.union(simple, over, mixed).optimize()
