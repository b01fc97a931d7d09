"""Numbers of houses, rooms, flights and roads, and codes of letters and digits.

"nine forty five" -> 945, "four oh two" -> 402, "twenty one oh five" -> 2105, "eighty one" -> 81, "fifteen hundred" -> 1500, "nine oh two
one oh" -> 90210; "b seven four two" -> b742, "m thirteen" -> m13, "two hundred twenty one b" -> 221b, "s w one a one a a" -> sw1a1aa.
Only the number is accepted: the street and the word "flight" stay outside.

A lone digit is a cardinal, so "gate seven" is refused here. Letters stay as they are heard, in lower case.
"""

from __future__ import annotations

from . import base
from .base import DROP_SPACE, NUMERAL, Fst, pynini
from .style import Style

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _oh_digit() -> Fst:
    """ "oh five" -> 05"""
    zero = pynini.union(base.say("oh ", "0"), base.say("zero ", "0", 1.5), base.say("o ", "0", 1.5))
    return (zero + base.digit()).optimize()


def _digits(least: int, most: int) -> Fst:
    """Digits one by one."""
    digit = base.digit_or_zero(oh=0.3)
    return (digit + pynini.closure(DROP_SPACE + digit, least - 1, most - 1)).optimize()


def _named() -> Fst:
    """Two to four digits the way people name things: 402 as "four oh two", 945 as "nine forty five", 1234 as "twelve thirty
    four".
    """
    pair = base.two_digits()
    hundred = base.say(" hundred", "00")
    second = DROP_SPACE + pynini.union(pair, _oh_digit())
    parts = [
        base.digit() + second,
        pair + second,
        pair,
        base.digit() + hundred,
        base.digit() + base.say(" thousand", "000"),
        (pair @ pynini.difference(pynini.project(pair, "output"), NUMERAL + "0").optimize()) + hundred,
    ]
    return pynini.union(*parts).optimize()


def _numbers() -> Fst:
    """A number without letters, at least two digits."""
    pair = base.two_digits()
    full = base.cost(base.integer(max_scale=1) @ (NUMERAL ** (3, 5)), 2.0)
    digits = base.cost(_digits(3, 6), 0.4)
    # five digits: "twelve three forty five", "one twenty three forty five", "nine oh two ten"
    five = pair + DROP_SPACE + base.digit() + DROP_SPACE + pynini.union(pair, _oh_digit())
    five = pynini.union(five, _digits(3, 3) + DROP_SPACE + pair)
    dash = pynini.union(base.say(" ", "-"), base.say(" dash ", "-", 0.5), base.say(" hyphen ", "-", 2.0))
    zip_code = _digits(5, 5) + base.maybe(dash + _digits(4, 4), 1.0)
    return pynini.union(_named(), digits, full, base.cost(five, 2.0), base.cost(zip_code, 0.4)).rmepsilon()


def grammar(style: Style) -> Fst:
    """Spoken -> written for one number or code."""
    letter = pynini.union(*LETTERS).optimize()
    after_digit = pynini.union(
        *LETTERS.replace("o", ""), base.say("o", "o", 3.0)
    ).optimize()  # "seven o eight" is 708
    run = pynini.union(
        base.cost(_digits(1, 6), 0.3) @ pynini.difference(NUMERAL ** (1, 6), "0" + NUMERAL**5).optimize(),
        _named(),
        base.cost(base.below_1000() @ NUMERAL**3, 3.0),
    )
    run = base.merged(run.rmepsilon())
    full = base.cost(base.integer(max_scale=1) @ NUMERAL ** (3, 4), 1.5)
    joint = pynini.union(DROP_SPACE, base.say(" dash ", "-", 3.0), base.say(" hyphen ", "-", 4.0)).optimize()
    free = pynini.accep("")
    edges = [
        ("start", _numbers(), "end"),
        # letters and digits in turn: at least one of each
        ("start", letter, "letters"),
        ("letters", joint, "letters+"),
        ("letters+", letter, "letters"),
        ("letters+", run, "mixed"),
        ("letters+", full, "end"),
        ("start", run, "digits"),
        ("start", full, "digits"),
        ("digits", joint, "digits+"),
        ("digits+", after_digit, "mixed letters"),
        ("mixed", free, "end"),
        ("mixed", joint, "digits+"),
        ("mixed letters", free, "end"),
        ("mixed letters", joint, "mixed+"),
        ("mixed+", letter, "mixed letters"),
        ("mixed+", run, "mixed"),
    ]
    return base.graph(edges, "start", "end")
