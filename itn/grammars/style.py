"""A style profile: how a category is written. Data only; the grammars read it, none of them knows a profile by name.

A `Style` has two halves. What is *built into* the FSTs of a profile (symbols, spaces, padding) is chosen when `itn build` runs; what is
*applied at run time* on the written form (`Options` in itn/style.py: number threshold, thousands separator, 12 or 24 hours) can be
changed at load without pynini.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

PROFILES = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Style:
    """What is built into the FSTs of one profile. Defaults are those of `prose`.

    Strings named `*_space` stand between a number and its sign or unit.
    """

    name: str = "prose"
    point_zero: bool = True  # "point six" -> 0.6 (False: .6; a zero is then written only when it is said)
    ordinal_dates: bool = True  # "the sixth of july" -> the 6th of july (False: 6 july)
    day_suffix: str = "plain"  # in "july fourth": plain -> july 4, ordinal -> july 4th
    hour_pad: bool = False  # 9:40 or 09:40
    whole_hour: bool = False  # "four p m" -> 4 p.m. (True: 4:00 p.m.)
    percent_space: str = ""  # 4% or 4 %
    unit_space: str = " "  # 8 km
    unit_table: str = "prose"  # the column of grammars/units.tsv
    word_unit_from: int = 0  # a unit or currency that stays a word: smaller whole numbers before it stay words too
    loose_numbers: bool = True  # "a hundred dollars", "two and a half million euros" are numbers (False: stay words)
    lakh_words: bool = True  # "five crore rupees" -> ₹5 crore (False: ₹50000000)
    negative_sign: bool = True  # "negative two point five" -> -2.5 (False: negative 2.5)
    money_sign: bool = True  # "minus five dollars" -> -$5 (False: minus $5)
    durations: str = "words"  # "seven hours": words -> 7 hours, symbols -> 7 h
    cents: str = "words"  # "nine cents": words -> 9 cents, symbol -> $0.09
    currencies: str = "prose"  # the column of grammars/currencies.tsv
    quarter_year: str = "Q3 2018"  # form of "third quarter twenty eighteen"
    whitelist: str = "prose"  # the column of grammars/whitelist.tsv
    phone_country: str = "-"  # after a country code without plus: 1-800-555-1212 or 1 800-555-1212
    phone_short: bool = True  # seven digits: 822-4407 (False: 8224407)
    # dates
    day_cardinal_from: int = 1  # "july four" is a date from this day on (13: "july four" stays, "july twenty" -> july 20)
    quarter_words: bool = False  # "third quarter of twenty eighteen" -> Q3 2018 (False: third quarter of 2018)
    era_space: str = " "  # 300 BC or 300BC
    short_years: bool = False  # "the eighties" -> the 80s, "oh eight" -> '08 (False: they stay words)
    # times of day
    zone_upper: bool = True  # "eight a m p s t" -> 8 a.m. PST (False: pst)
    odd_minutes_to: bool = False  # "four to six p m" -> 5:56 p.m. (False: it is a range and is refused)
    whole_hour_of_day: bool = True  # "nine in the morning" -> 9 in the morning (False: it stays words)


def load_style(name: str) -> Style:
    """Read `profiles/NAME.yaml` beside this file (or a path to such a file). Raises ValueError that names an unknown key."""
    import yaml

    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))
        raise ValueError(f"no profile {name!r}; there are: {known}")
    values = (yaml.safe_load(path.read_text()) or {}).get("style", {})
    known_keys = {f.name for f in fields(Style)}
    for key in values:
        if key not in known_keys:
            raise ValueError(f"{path}: unknown style key {key!r}; known: {', '.join(sorted(known_keys))}")
    return Style(**values)
