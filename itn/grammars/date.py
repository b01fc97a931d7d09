"""Dates: "july fourth twenty twelve" -> july 4 2012, "nineteen eighty four" -> 1984, "nineteen fifties" -> 1950s.

Days with their month, lone years, decades, eras, quarters, fiscal years, and the day alone ("the fifth"). A weekday before a date is passed
through. Months stay lower case: the run time restores the case of words that do not change.

The costs say how Americans read a date out: "july fourth" rather than "july four", "two thousand nine" but "twenty nineteen". Nothing is
guessed: "seven seventy seven" is no year unless an era follows, "twenty hundred" is none at all.
"""

from __future__ import annotations

from functools import cache

from . import base
from .base import DROP_SPACE, Fst, add, cost, drop, maybe, pynini, say
from .style import Style

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth",
)  # fmt: skip
MONTH_DAYS = {  # last day: (months, their numbers)
    last: (tuple(m for m, d in zip(MONTHS, days) if d == last), [n for n, d in enumerate(days, 1) if d == last])
    for days in [(31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)]
    for last in (29, 30, 31)
}
DECADES = ("twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties", "nineties")
ERAS = (  # spoken, written, cost
    ("b c", "BC", 0.0), ("bc", "BC", 1.0), ("b.c.", "BC", 1.5), ("b c e", "BCE", 0.0), ("bce", "BCE", 1.0),
    ("c e", "CE", 0.0), ("ce", "CE", 1.0), ("a d", "AD", 0.0), ("ad", "AD", 1.0), ("a.d.", "AD", 1.5),
)  # fmt: skip


def _words(words: tuple[str, ...]) -> Fst:
    return pynini.union(*words).optimize()


def _ordinal_suffix(day: int) -> str:
    return "th" if 11 <= day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


@cache
def day(suffix: bool, last: int = 31) -> Fst:
    """first..thirty first -> 1..31, or 1st..31st; up to `last`"""
    twenties = (f"twenty {name}" for name in ORDINALS[:9])
    names = enumerate((*ORDINALS, "twentieth", *twenties, "thirtieth", "thirty first"), 1)
    return base.pairs([(name, f"{i}{_ordinal_suffix(i) if suffix else ''}") for i, name in names if i <= last])


@cache
def _up_to(low: int, high: int) -> Fst:
    """The cardinals low..high (below 100), as spoken: four -> 4."""
    wanted = pynini.union(*(str(i) for i in range(low, high + 1)))
    return (base.below_100() @ wanted).optimize()


@cache
def year() -> Fst:
    """Years 1000 to 2199, as they are read: "nineteen oh five", "two thousand and nine", "twenty eighteen"."""
    low, padded = base.two_digits(), base.below_100(padded=True)

    def oh(weight: float = 0.0) -> Fst:
        said = pynini.union(drop(" oh "), drop(" o ", 1.0), drop(" zero ", 5.0))
        return cost(said + add("0") + base.digit(), weight)

    ones = add("0") + base.digit()
    hundred = pynini.union(
        say(" hundred", "00"), drop(" hundred and ", 4.0) + low, drop(" hundred ", 4.5) + low
    )
    hundred = pynini.union(hundred, drop(" hundred and ", 1.5) + ones, drop(" hundred ", 2.0) + ones)
    of_century = _up_to(11, 19) + pynini.union(DROP_SPACE + low, oh(), hundred)
    tenth = say("ten", "10") + pynini.union(DROP_SPACE + low, oh(0.5))
    twentieth = say("twenty", "20") + pynini.union(DROP_SPACE + low, oh(1.5))
    next_century = say("twenty one", "21") + pynini.union(DROP_SPACE + low, oh(), hundred)

    def after_thousand(small: float, ten: float, above: float) -> Fst:
        tail = pynini.union(cost(ones, small), cost(_up_to(10, 19), ten), cost(_up_to(20, 99), above))
        return pynini.union(say("", "00"), DROP_SPACE + tail, drop(" and ", 0.5) + tail)

    two_thousand = say("two thousand", "20") + after_thousand(0.0, 1.0, 2.5)
    one_thousand = say("one thousand", "10") + after_thousand(0.0, 2.0, 2.0)
    hundreds = base.below_1000(padded=True) @ (pynini.union(*"123456789") + base.NUMERAL**2)
    in_full = say("one thousand ", "1", 6.0) + hundreds
    in_full_21 = say("two thousand one hundred", "21", 4.0) + pynini.union(add("00"), DROP_SPACE + padded)
    return pynini.union(
        of_century, tenth, twentieth, next_century, two_thousand, one_thousand, in_full, in_full_21
    ).optimize()


def _day_dates(style: Style) -> Fst:
    """Day and month in all their orders, with or without the year, after a weekday or alone."""
    forms: list[Fst] = []
    for last, (months, _) in MONTH_DAYS.items():
        month, ordinal, plain = _words(months), day(True, last), day(False, last)
        named = ordinal if style.day_suffix == "ordinal" else plain
        number = cost(_up_to(style.day_cardinal_from, last), 3.0)
        # july fourth, july four, july the fourth
        after_month = pynini.union(named, number, cost(pynini.accep("the ") + ordinal, 2.0))
        forms += [month + " " + after_month, ordinal + " of " + month]
        if style.ordinal_dates:
            forms.append(pynini.accep("the ") + ordinal + " of " + month)
        else:
            forms.append(drop("the ") + plain + say(" of ", " ") + month)
        # "the fifth may be ..." is no date
        unambiguous = _words(tuple(m for m in months if m not in ("may", "march")))
        the = maybe(pynini.accep("the "), 2.0)
        forms.append(pynini.union(cost(the + ordinal, 2.0), cost(number, 1.0)) + " " + unambiguous)
    joint = pynini.union(" ", cost(pynini.accep(" of "), 3.0))
    dates = pynini.union(*forms) + maybe(joint + year())
    month_of_year = _words(MONTHS) + pynini.union(" ", cost(pynini.accep(" of "), 1.5)) + year()
    weekday = _words(WEEKDAYS) + " "
    return pynini.union(maybe(weekday) + pynini.union(dates, "the " + day(True)), month_of_year).optimize()


def _decades(style: Style) -> Fst:
    """nineteen fifties -> 1950s, two thousands -> 2000s and, where the style writes them, eighties -> 80s."""
    tens = base.pairs([(name, f"{i}0s") for i, name in enumerate(DECADES, 2)])
    first = pynini.union(say("tens", "10s"), say("teens", "10s", 1.5))
    any_ten = DROP_SPACE + pynini.union(tens, first)
    of_century = _up_to(11, 19) + pynini.union(any_ten, say(" hundreds", "00s"))
    forms = [of_century, say("twenty", "20") + any_ten, say("two thousands", "2000s")]
    if style.short_years:
        forms.append(tens)
    return (maybe(pynini.accep("the "), 4.0) + pynini.union(*forms)).optimize()


def _eras(style: Style) -> Fst:
    """three hundred b c -> 300 BC, a d seventy -> AD 70"""
    hundreds = pynini.union(add("000"), DROP_SPACE + base.digit() + say(" hundred", "00"))
    millennia = base.digit() + drop(" thousand") + hundreds
    # "seven fifty", "four oh six": a three-digit year in two parts.
    parted = base.digit() + pynini.union(
        DROP_SPACE + base.two_digits(), drop(" oh ") + add("0") + base.digit()
    )
    number = pynini.union(base.below_1000(), millennia, year(), cost(parted, 0.5)).optimize()
    after = base.pairs(
        [(" " + spoken, style.era_space + written, weight) for spoken, written, weight in ERAS]
    )
    before = pynini.union(say("a d ", "AD" + style.era_space), say("ad ", "AD" + style.era_space, 1.0))
    return pynini.union(number + after, before + number).optimize()


def _business(style: Style) -> Fst:
    """Quarters, halves and fiscal years: q three twenty twenty one -> Q3 2021, f y twenty one -> FY21."""
    lead, _, rest = style.quarter_year.partition("3")
    gap = rest.removesuffix("2018")
    of_four, of_two = _up_to(1, 4), _up_to(1, 2)
    quarter = pynini.union(say("q ", lead) + of_four, say("h ", "H") + of_two)
    two = pynini.union(base.two_digits(), drop("oh ") + add("0") + base.digit())
    fiscal = pynini.union(say("f y ", "FY"), say("fy ", "FY", 1.0)) + pynini.union(two, cost(year(), 0.5))
    of = say(" of ", gap if style.quarter_words else " of ", 0.7)
    followed = pynini.union(" " + fiscal, say(" ", gap) + year(), of + pynini.union(year(), fiscal))
    forms = [quarter + maybe(followed), fiscal]
    words = [(f"{ORDINALS[i]} quarter", f"{lead}{i + 1}") for i in range(4)] + [(f"{ORDINALS[i]} half", f"H{i + 1}") for i in range(2)]
    if not style.quarter_words:  # newspapers write "third quarter of 2018"
        words = [(spoken, spoken) for spoken, _ in words]
    joint = pynini.union(say(" ", gap), say(" of ", gap)) if style.quarter_words else pynini.union(" ", " of ")
    forms.append(maybe(pynini.accep("the "), 4.0) + base.pairs(words) + joint + year())
    return pynini.union(*forms).optimize()


def _numeric() -> Fst:
    """ten slash twelve slash nineteen -> 10/12/19; nine eleven -> 9/11"""
    slash = say(" slash ", "/")
    two = pynini.union(base.two_digits(), drop("oh ") + add("0") + base.digit())
    days = []
    for last, (_, numbers) in MONTH_DAYS.items():
        month = _up_to(1, 12) @ pynini.union(*map(str, numbers))
        days.append(month + slash + _up_to(1, last))
    spelled = pynini.union(*days) + maybe(slash + pynini.union(two, year()))
    return pynini.union(spelled, say("nine eleven", "9/11")).optimize()


def grammar(style: Style) -> Fst:
    """Spoken -> written for one date."""
    forms = [
        _day_dates(style),
        year(),
        _decades(style),
        _eras(style),
        _business(style),
        cost(_numeric(), 0.5),
    ]
    if style.short_years:  # "back in oh eight" -> '08
        forms.append(pynini.union(drop("oh ", 0.5), drop("o ", 1.5)) + add("'0") + base.digit())
    return pynini.union(*forms).optimize()
