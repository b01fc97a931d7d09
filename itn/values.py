"""Values for the slots of training sentences: `{money.price}` -> a price, said in one of the ways people say it.

A sampler gives a written value, which the category's grammar run backwards says, or, where one way of saying is the point ("half past six"), the words
themselves. Values are drawn the way they occur: small and round numbers often, recent years, prices that end in 99.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache

from .grammars import base
from .grammars.base import DIGITS, TEENS, TENS
from .written import MONTHS, Spoken, Verbal, say_number, span

Rng = random.Random
Value = tuple[str, str] | Spoken  # (category, written) or words with labels

NAMES = (
    "john mary james linda robert anna michael susan david karen william lisa richard nancy joseph sandra thomas ashley carlos maria juan priya arjun wei "
    "li chen yuki hiroshi fatima omar ahmed leila sven ingrid pierre claire hans greta olga ivan kofi amara kwame nina tom kim pat lee sam alex chris jo "
    "max ben dan kate amy beth jane joe bob jim tim rob nick steve mike dave paul mark peter sarah emma olivia noah liam mia zoe jack harry grace ruth"
).split()
SURNAMES = (
    "smith johnson williams brown jones garcia miller davis rodriguez martinez wilson anderson taylor moore jackson martin lee thompson white lopez clark "
    "lewis robinson walker young allen king wright scott hill green adams baker nelson carter mitchell perez roberts turner phillips campbell parker evans "
    "patel singh kumar khan ali wang zhang liu nguyen tran kim park choi tanaka sato suzuki mueller schmidt weber rossi silva santos novak kowalski jansen"
).split()
THINGS = (
    "info sales support help contact admin office team hello press jobs billing service news orders accounts shop store blog book bank cloud data home "
    "garden music photo video sport travel health food coffee pizza tech code game film art design green blue red north south river mountain sun moon star "
    "rocket tiger eagle fox bear wolf apple orange lemon maple oak stone gold silver smart fast easy best first prime open free city world global union "
    "acme contoso fabrikam globex initech umbrella hooli vandelay wayne stark weather market auto parts hotel flights rental school college library museum"
).split()
WORDS = list(THINGS)  # what hosts, users and files may be called; `itn.data.examples` adds the words of its corpora
MAIL_HOSTS = "gmail yahoo hotmail outlook aol icloud protonmail fastmail gmx live zoho mail comcast verizon".split()
TLDS = ("com",) * 10 + ("org", "org", "net", "net", "edu", "gov", "io", "co", "info", "tv", "me", "us", "uk", "de", "ca", "co.uk", "fr", "eu", "ai", "app", "dev")
SPOKEN_TLDS = {"tv": "t v", "uk": "u k", "co.uk": "co dot u k", "us": "u s", "io": "i o", "ai": "a i", "eu": "e u"}
PATHS = "docs about contact careers jobs news blog support help login download products pricing events shop store courses register offers menu press faq".split()
EXTENSIONS = ("pdf", "txt", "csv", "doc", "docx", "jpg", "png", "zip", "py", "exe", "html", "json", "xls", "mp3", "mp4", "js", "md")


_table = cache(base.table)


def letters(text: str) -> str:
    return " ".join(text)


def _log_uniform(rng: Rng, low: int, high: int) -> int:
    """Log-uniform with round numbers more often."""
    value = int(round(math.exp(rng.uniform(math.log(low), math.log(high + 0.5)))))
    if value >= 20 and rng.random() < 0.4:
        step = 10 ** max(1, len(str(value)) - 2 + (rng.random() < 0.5))
        value = max(low, value // step * step)
    return min(max(value, low), high)


def _year(rng: Rng) -> int:
    return int(rng.triangular(1950, 2036, 2018)) if rng.random() < 0.75 else rng.randint(1066, 1999) if rng.random() < 0.2 else rng.randint(1800, 2050)


def _day(rng: Rng) -> int:
    return rng.randint(1, 31)


def _suffix(n: int) -> str:
    return f"{n}th" if n % 100 in (11, 12, 13) else f"{n}" + {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")


def _decimal(rng: Rng) -> str:
    whole = 0 if rng.random() < 0.2 else _log_uniform(rng, 1, 300)
    places = rng.choices((1, 2, 3), (70, 25, 5))[0]
    return f"{whole}.{rng.randint(0, 10**places - 1):0{places}d}"


def _price(rng: Rng) -> str:
    cents = rng.choice((99, 50, 95, 25, 75, 49, rng.randint(1, 99), rng.randint(10, 99), rng.randint(1, 12)))
    return f"{rng.choice('$$$$$$€£')}{_log_uniform(rng, 1, 400)}.{cents:02d}"


def _large(rng: Rng) -> str:
    number = _decimal(rng) if rng.random() < 0.45 else str(_log_uniform(rng, 1, 990))
    return f"{number} {rng.choices(('million', 'billion', 'trillion'), (55, 38, 7))[0]}"


def _number(rng: Rng) -> str:
    return str(_log_uniform(rng, 10, 9999))


def _quantity(rng: Rng, low: int = 1, high: int = 2000) -> str:
    return _decimal(rng) if rng.random() < 0.3 else str(_log_uniform(rng, low, high))


UNITS = {
    "distance": "kilometers miles meters feet inches centimeters yards millimeters kilometer mile foot inch".split(),
    "weight": "pounds kilograms kilos grams ounces tons tonnes milligrams".split(),
    "speed": ["miles per hour", "kilometers per hour", "miles an hour", "knots", "meters per second"],
    "volume": ["liters", "gallons", "milliliters", "cups", "pints", "barrels", "cubic meters", "cubic feet"],
    "area": ["acres", "hectares", "square feet", "square meters", "square miles", "square kilometers"],
    "data": "megabytes gigabytes terabytes kilobytes gigs megabits".split(),
    "power": "watts kilowatts megawatts gigawatts volts megahertz gigahertz horsepower hertz amps calories".split() + ["kilowatt hours"],
    "duration": "seconds minutes hours days weeks months years".split(),
}


def _measure(kind: str) -> Callable[[Rng, Verbal], Spoken | None]:
    def sample(rng: Rng, say: Verbal) -> Spoken | None:
        unit = rng.choice(UNITS[kind])
        low, high = (1, 90) if kind == "duration" else (1, 1000)
        written = str(_log_uniform(rng, low, high)) if kind == "duration" and rng.random() < 0.95 else _quantity(rng, low, high)
        spoken = say_number(written, say, rng)
        if spoken is None:
            return None
        if written == "1":
            unit = unit.removesuffix("s") if unit not in ("feet", "inches") else {"feet": "foot", "inches": "inch"}[unit]
        return span("measure", f"{spoken} {unit}")

    return sample


def _any_unit(rng: Rng, say: Verbal) -> Spoken | None:
    """A quantity of any unit the grammar knows, in any of its names."""
    unit = rng.choice([row for row in _table("units.tsv") if row["kind"] != "percent"])
    written = _quantity(rng, 1, 1000)
    spoken = say_number(written, say, rng)
    names = (unit["one"] if written == "1" else unit["many"]).split("|")
    return span("measure", f"{spoken} {names[0] if rng.random() < 0.7 else rng.choice(names)}") if spoken else None


def _phrase(rng: Rng, say: Verbal) -> Spoken:
    """A fixed phrase of the whitelist, titles apart."""
    return span("whitelist", rng.choice([row["spoken"] for row in _table("whitelist.tsv") if row["spoken"] not in TITLES]))


def _amount(rng: Rng, say: Verbal) -> Value | None:
    """A sum of money, in any currency one time in four."""
    if rng.random() < 0.75:
        return "money", f"{rng.choice('$$$$$€£')}{_log_uniform(rng, 1, 50_000)}"
    row = rng.choice(_table("currencies.tsv"))
    number = rng.choice((_log_uniform(rng, 1, 90), _log_uniform(rng, 1, 90_000)))
    written = f"{number} {rng.choice(('million', 'billion'))}" if rng.random() < 0.2 else str(number)
    spoken = say("cardinal", written, rng)
    return span("money", f"{spoken} {row['one'] if written == '1' else row['many'].split('|')[0]}") if spoken else None


def _temperature(rng: Rng, say: Verbal) -> Spoken | None:
    spoken = say("cardinal", str(rng.randint(-30, 110) or 5), rng)
    return span("measure", f"{spoken} degrees{rng.choice(['', '', '', ' fahrenheit', ' celsius'])}") if spoken else None


def _clock_words(rng: Rng) -> str:
    """A clock time as hour and minutes."""
    hour = rng.choice(DIGITS + TEENS[:3])
    minute = rng.choice(("fifteen", "thirty", "thirty", "forty five", "twenty", "ten", "forty", "fifty", "oh five", "twenty five", "fifty five", None, None))
    return f"{hour} {minute or _minute(rng)}"


def _minute(rng: Rng) -> str:
    return _pair(rng.randint(1, 59))


def _pair(number: int) -> str:
    """Two digits of a time, a year or a name: "oh five", "forty two", "hundred" for 00."""
    return "hundred" if number == 0 else f"oh {DIGITS[number - 1]}" if number < 10 else _minute_of(number)


def _half(rng: Rng) -> str:
    return rng.choice(("a m", "p m", "p m", "am", "pm", "pm", "a.m.", "p.m."))


def _hour(rng: Rng) -> str:
    return rng.choice(DIGITS + TEENS[:3])


def _time(kind: str) -> Callable[[Rng, Verbal], Spoken]:
    def sample(rng: Rng, say: Verbal) -> Spoken:
        if kind == "ampm":
            words = f"{_clock_words(rng)} {_half(rng)}"
        elif kind == "hour_ampm":
            words = f"{_hour(rng)} {_half(rng)}"
        elif kind == "clock":
            words = _clock_words(rng)
        elif kind == "oclock":
            words = f"{_hour(rng)} {rng.choice(('o' + chr(39) + 'clock',) * 4 + ('o clock', 'oclock'))}"
        elif kind == "half_past":
            words = f"half past {_hour(rng)}"
        elif kind == "quarter":
            words = f"{rng.choice(('', '', 'a '))}quarter {rng.choice(('to', 'to', 'past', 'past', 'after', 'of', 'till'))} {_hour(rng)}"
        elif kind == "to_past":
            count = rng.choice(("five", "ten", "twenty", "twenty five", "five", "ten"))
            words = f"{count}{rng.choice(('', '', ' minutes'))} {rng.choice(('to', 'past', 'past', 'after', 'till'))} {_hour(rng)}"
        elif kind == "zone":
            zone = rng.choice(
                ("eastern", "pacific", "central", "e s t", "p s t", "est", "pst", "g m t", "gmt", "u t c", "utc", "eastern time", "pacific time",
                 "eastern standard time", "c e t", "e d t", "p d t", "central time", "mountain time")
            )  # fmt: skip
            clock = _clock_words(rng) if rng.random() < 0.5 else _hour(rng)
            words = f"{clock} {_half(rng)} {zone}"
        else:
            hour = rng.randint(13, 23)
            words = f"{_minute_of(hour)} {rng.choice(('hundred hours', 'hundred', _minute(rng), _minute(rng)))}"
        return span("time", words)

    return sample


def _minute_of(number: int) -> str:
    return TEENS[number - 10] if number < 20 else TENS[number // 10 - 2] + (f" {DIGITS[number % 10 - 1]}" if number % 10 else "")


def _digits(rng: Rng, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def _phone(rng: Rng) -> str:
    return f"{rng.randint(2, 9)}{_digits(rng, 2)}-{rng.randint(2, 9)}{_digits(rng, 2)}-{_digits(rng, 4)}"


def say_digits(digits: str, rng: Rng) -> str:
    """Digits one by one; double and triple, and pairs as numbers, now and then."""
    zero = rng.choice(("zero", "oh", "oh", "o"))
    names = (zero, *DIGITS)
    style = rng.random()
    out, i = [], 0
    while i < len(digits):
        if style < 0.2 and digits[i : i + 3] == digits[i] * 3 and rng.random() < 0.6:
            out += ["triple", names[int(digits[i])]]
            i += 3
        elif style < 0.3 and digits[i : i + 2] == digits[i] * 2:
            out += ["double", names[int(digits[i])]]
            i += 2
        else:
            out.append(names[int(digits[i])])
            i += 1
    return " ".join(out)


def _code_number(rng: Rng, low: int = 1, high: int = 9999) -> str:
    """A numbered name: said as a number, in pairs, or digit by digit."""
    bands = [(max(low, a), min(high, b)) for a, b in ((1, 99), (100, 999), (100, 9999)) if max(low, a) <= min(high, b)]
    number = rng.randint(*rng.choice(bands))
    digits = str(number)
    how = rng.random()
    if number < 100 and how < 0.85 or number % 100 == 0 and number < 1000:
        return _spell(number)
    if how < 0.35:
        return say_digits(digits, rng)
    if number < 100 or number < 1000 and how >= 0.9:
        return _spell(number)
    return f"{_spell(number // 100)} {_pair(number % 100)}"


def _spell(number: int) -> str:
    """A number below 1000 in words."""
    if number >= 100:
        rest = number % 100
        return f"{DIGITS[number // 100 - 1]} hundred" + (f" {_spell(rest)}" if rest else "")
    return DIGITS[number - 1] if number < 10 else _minute_of(number)


def _letters(rng: Rng, count: int) -> str:
    return " ".join(rng.choice("abcdefghjklmnpqrstuvwxyz") for _ in range(count))


def _address(kind: str) -> Callable[[Rng, Verbal], Spoken]:
    def sample(rng: Rng, say: Verbal) -> Spoken:
        if kind == "code":
            words = rng.choice((
                f"{_letters(rng, 1)} {_code_number(rng, 2, 999)}",
                f"{_letters(rng, rng.randint(1, 3))} {say_digits(_digits(rng, rng.randint(2, 4)), rng)}",
                f"{_letters(rng, rng.randint(1, 2))} {say_digits(_digits(rng, rng.randint(1, 3)), rng)} {_letters(rng, rng.randint(1, 2))}",
                f"{_spell(rng.randint(2, 99))} {_letters(rng, 1)}",
            ))  # fmt: skip
        elif kind == "zip":
            words = say_digits(_digits(rng, 5), rng)
        elif kind == "house":
            words = _code_number(rng, 2, 9999)
            if rng.random() < 0.08:
                words += f" {rng.choice('abcd')}"
        elif kind in ("flight", "bus", "route", "room"):
            words = _code_number(rng, 2, 9999 if kind == "flight" else 999)
            if rng.random() < (0.1 if kind in ("flight", "room", "bus") else 0.02):
                words = f"{_letters(rng, 1 if kind != 'flight' else 2)} {words}"
        else:
            words = rng.choice((
                "seven forty seven", "seven thirty seven", "seven eighty seven", "three twenty", "three eighty", "three fifty", "nine eleven", "two oh six",
                _code_number(rng, 100, 999), _code_number(rng, 10, 99), f"{_letters(rng, 1)} {_code_number(rng, 10, 999)}", f"{_letters(rng, 1)} {rng.choice(DIGITS)}",
            ))  # fmt: skip
        return span("address", words)

    return sample


def _telephone(kind: str) -> Callable[[Rng, Verbal], Spoken | Value]:
    def sample(rng: Rng, say: Verbal) -> Value:
        if kind == "us":
            if rng.random() < 0.3:
                return "telephone", _phone(rng)
            return span("telephone", say_digits(_phone(rng).replace("-", ""), rng))
        if kind == "us7":
            return span("telephone", say_digits(_phone(rng)[4:].replace("-", ""), rng))
        if kind == "tollfree":
            area = rng.choice(("eight hundred", "eight hundred", "eight eight eight", "nine hundred", "eight seven seven"))
            return span("telephone", f"{rng.choice(('one ', 'one ', ''))}{area} {say_digits(_phone(rng)[4:].replace('-', ''), rng)}")
        if kind == "intl":
            code = rng.choice(("four four", "four nine", "three three", "nine one", "eight one", "six one", "one", "forty four", "ninety one", "eight six"))
            return span("telephone", f"plus {code} {say_digits(_digits(rng, rng.randint(7, 10)), rng)}")
        if kind == "pin":
            return span("telephone", say_digits(_digits(rng, rng.randint(3, 6)), rng))
        if kind == "long":
            return span("telephone", say_digits(_digits(rng, rng.choice((8, 9, 11, 12, 12, 16))), rng))
        if kind == "ssn":
            return span("telephone", say_digits(_digits(rng, 9), rng))
        if kind == "extension":
            return span("telephone", say_digits(_digits(rng, rng.randint(2, 4)), rng))
        parts = [str(rng.randint(1, 255)) if rng.random() < 0.8 else rng.choice("0012") for _ in range(4)]
        if rng.random() < 0.5:
            parts = rng.choice((["192", "168"], ["10", "0"], ["127", "0"], ["172", "16"])) + parts[2:]
        return span("telephone", " dot ".join(say_digits(p, rng) for p in parts))

    return sample


def _name(rng: Rng) -> str:
    """One word of a made-up name."""
    return rng.choice(THINGS) if rng.random() < 0.4 else rng.choice(WORDS)


def _domain(rng: Rng, mail: bool = False) -> str:
    """A host, spoken."""
    tld = rng.choice(TLDS)
    spoken_tld = SPOKEN_TLDS.get(tld, tld.replace(".", " dot ")) if rng.random() < 0.9 else letters(tld.replace(".", ""))
    if tld == "co.uk":
        spoken_tld = rng.choice(("co dot uk", "co dot u k"))
    if mail and rng.random() < 0.5:
        return f"{rng.choice(MAIL_HOSTS)} dot {'com' if rng.random() < 0.85 else spoken_tld}"
    a, b = _name(rng), _name(rng)
    number = rng.choice((*DIGITS, *TEENS, "twenty four", "ninety nine"))
    name = rng.choices(
        (a, a + b, f"{a} {b}", rng.choice(SURNAMES), _letters(rng, rng.randint(2, 4)), f"{a} dash {b}", f"{a} dot {b}", f"{a} {number}"),
        (40, 16, 8, 8, 9, 10, 5, 4),
    )[0]
    return f"{name} dot {spoken_tld}"


def _user(rng: Rng) -> str:
    first, last = rng.choice(NAMES), rng.choice(SURNAMES)
    number = rng.choice((say_digits(_digits(rng, rng.randint(1, 3)), rng), _spell(rng.randint(10, 99)), "nineteen eighty five", "two thousand one"))
    word = _name(rng)
    return rng.choice((
        first, first, f"{first} dot {last}", f"{first} dot {last}", f"{first} {last}", f"{first} underscore {last}", f"{first[0]} {last}", f"{first[0]} dot {last}",
        f"{first} {number}", f"{first} dot {last} {number}", letters(first[:4]), f"{first[0]} {last[0]}", word, word, word, f"{first} dash {last}",
        f"{word} dot {_name(rng)}", last, f"{letters(first[:3])} {last}", f"{first}{last}", f"{first} plus {word}", f"{word} {number}", letters(last),
    ))  # fmt: skip


def _electronic(kind: str) -> Callable[[Rng, Verbal], Spoken]:
    def sample(rng: Rng, say: Verbal) -> Spoken:
        if kind == "email":
            words = f"{_user(rng)} at {_domain(rng, mail=True)}"
        elif kind == "url":
            prefix = rng.choice(("", "", "", "", "w w w dot ", "www dot ", "w w w dot ", "h t t p s colon slash slash ", "https colon slash slash "))
            words = prefix + _domain(rng)
        elif kind == "url_path":
            path = rng.choice((rng.choice(PATHS), rng.choice(PATHS), _name(rng))) + (f" slash {rng.choice(PATHS)}" if rng.random() < 0.2 else "")
            words = f"{rng.choice(('', '', '', 'w w w dot '))}{_domain(rng)} slash {path}"
        elif kind == "handle":
            name = rng.choice((
                f"{rng.choice(NAMES)} underscore {rng.choice(SURNAMES)}", f"{_name(rng)} underscore {_name(rng)}", rng.choice(NAMES) + rng.choice(SURNAMES),
                f"{rng.choice(NAMES)} underscore {say_digits(_digits(rng, 2), rng)}",
            ))  # fmt: skip
            words = f"at {name}"
        elif kind == "hashtag":
            words = f"{rng.choice(('hashtag', 'hashtag', 'hash tag'))} {_name(rng)}"
        elif kind == "version":
            parts = [rng.choice((rng.choice(DIGITS), rng.choice(TEENS), "zero", rng.choice(DIGITS))) for _ in range(3)]
            points = rng.choice((" point ", " point ", " dot "))
            words = points.join(parts[: rng.choice((2, 2, 3))]) if rng.random() < 0.85 else f"v {parts[0]}"
        else:
            name = _name(rng) if rng.random() < 0.6 else f"{_name(rng)} underscore {_name(rng)}"
            extension = rng.choice(EXTENSIONS)
            spoken = letters(extension) if rng.random() < 0.7 and extension.isalpha() else extension
            words = f"{name} dot {spoken if extension.isalpha() else letters(extension[:2]) + ' ' + DIGITS[int(extension[2]) - 1]}"
        return span("electronic", words)

    return sample


def _quarter(with_year: bool) -> Callable[[Rng, Verbal], Spoken | None]:
    def sample(rng: Rng, say: Verbal) -> Spoken | None:
        year = say("date", str(rng.randint(2005, 2027)), rng) if with_year else ""
        if with_year and not year:
            return None
        if not with_year or rng.random() < 0.4:
            words = f"q {rng.choice(DIGITS[:4])}"
            return span("date", f"{words}{rng.choice((' ', ' of ')) if rng.random() < 0.5 else ' '}{year}".strip())
        return span("date", f"{rng.choice(('first', 'second', 'third', 'fourth'))} quarter {rng.choice(('', 'of '))}{year}")

    return sample


def _era(rng: Rng, say: Verbal) -> Spoken | None:
    spoken = say("cardinal", str(_log_uniform(rng, 20, 3000)), rng)
    return span("date", f"{spoken} {rng.choice(('b c', 'b c', 'bc', 'a d', 'b c e', 'c e'))}") if spoken else None


TITLES = ("doctor", "mister", "missus", "misses", "saint")
FRACTIONS = ("two thirds", "three quarters", "one third", "one half", "one fifth", "three fifths", "two fifths", "five eighths", "one quarter", "one and a half", "two and a half")

SLOTS: dict[str, Callable[[Rng, Verbal], Value | None]] = {
    "cardinal.number": lambda r, s: ("cardinal", _number(r)),
    "cardinal.small": lambda r, s: ("cardinal", str(r.randint(2, 9))),
    "cardinal.big": lambda r, s: ("cardinal", str(_log_uniform(r, 10_000, 999_999 if r.random() < 0.75 else 999_999_999_999))),
    "cardinal.large": lambda r, s: ("cardinal", f"{_log_uniform(r, 1, 990)} {r.choices(('million', 'billion', 'trillion'), (6, 3, 1))[0]}"),
    "cardinal.minus": lambda r, s: ("cardinal", f"-{_log_uniform(r, 1, 300)}"),
    "ordinal.number": lambda r, s: ("ordinal", _suffix(_log_uniform(r, 10, 120 if r.random() < 0.8 else 9999))),
    "ordinal.small": lambda r, s: ("ordinal", _suffix(r.randint(1, 9))),
    "decimal.number": lambda r, s: ("decimal", _decimal(r)),
    "decimal.large": lambda r, s: ("decimal", f"{_decimal(r)} {r.choice(('million', 'billion'))}"),
    "money.price": lambda r, s: ("money", _price(r)),
    "money.amount": _amount,
    "money.large": lambda r, s: ("money", f"{r.choice('$$$$€£¥')}{_large(r)}"),
    "money.cents": lambda r, s: span("money", f"{_spell(r.randint(1, 99))} cents"),
    "money.short": lambda r, s: span("money", f"{_spell(_log_uniform(r, 2, 99))} {r.choice(('ninety nine', 'fifty', 'ninety five', 'seventy five', 'twenty five', _minute_of(r.randint(10, 99))))}"),
    "measure.percent": lambda r, s: ("measure", f"{_quantity(r, 1, 150)}%"),
    "measure.temperature": _temperature,
    **{f"measure.{kind}": _measure(kind) for kind in UNITS},
    "measure.any": _any_unit,
    "date.month_day": lambda r, s: ("date", f"{r.choice(MONTHS)} {_day(r)}"),
    "date.month_day_year": lambda r, s: ("date", f"{r.choice(MONTHS)} {_day(r)} {_year(r)}"),
    "date.day_of_month": lambda r, s: ("date", f"the {_suffix(_day(r))} of {r.choice(MONTHS)}"),
    "date.day_of_month_year": lambda r, s: ("date", f"the {_suffix(_day(r))} of {r.choice(MONTHS)} {_year(r)}"),
    "date.month_year": lambda r, s: ("date", f"{r.choice(MONTHS)} {_year(r)}"),
    "date.year": lambda r, s: ("date", str(_year(r))),
    "date.decade": lambda r, s: ("date", f"{r.choice((17, 18, 18, 19, 19, 19, 19, 19, 20))}{r.choice('123456789')}0s"),
    "date.quarter": _quarter(False),
    "date.quarter_year": _quarter(True),
    "date.era": _era,
    "date.day": lambda r, s: span("date", f"the {(s('ordinal', _suffix(_day(r)), r) or 'fifth')}"),
    "date.fiscal": lambda r, s: ("date", f"FY{r.randint(10, 29)}"),
    **{f"time.{kind}": _time(kind) for kind in ("ampm", "hour_ampm", "clock", "oclock", "half_past", "quarter", "to_past", "zone", "military")},
    **{f"telephone.{kind}": _telephone(kind) for kind in ("us", "us7", "tollfree", "intl", "pin", "long", "ssn", "extension", "ip")},
    **{f"electronic.{kind}": _electronic(kind) for kind in ("email", "url", "url_path", "handle", "hashtag", "version", "file")},
    **{f"address.{kind}": _address(kind) for kind in ("house", "flight", "room", "route", "code", "zip", "model", "bus")},
    "whitelist.title": lambda r, s: span("whitelist", r.choice(TITLES)),
    "whitelist.any": _phrase,
    "fraction.simple": lambda r, s: span("fraction", r.choice(FRACTIONS)),
}

# words that are something else without their context: "three forty five" is a time before it is a room
NEEDS_CONTEXT = frozenset(
    ("address.house", "address.flight", "address.room", "address.route", "address.model", "address.bus", "money.short", "time.military", "electronic.version")
)  # fmt: skip


def sample(slot: str, rng: Rng, say: Verbal) -> Spoken | None:
    """One value of `category.kind` in words with labels; None where the grammars cannot say it. KeyError names an unknown slot."""
    value = SLOTS[slot](rng, say)
    if value is None or isinstance(value, Spoken):
        return value if value is not None and say.accepts(slot.split(".")[0], " ".join(value.words)) else None
    category, written = value
    spoken = say(category, written, rng)
    return span(category, spoken, written) if spoken else None
