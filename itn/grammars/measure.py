"""Measures: "four point one percent" -> 4.1%, "eight kilometers" -> 8 km, "minus forty degrees" -> -40 degrees,
"three million square feet" -> 3 million square feet, "five kilograms per square meter" -> 5 kg/m², "seven hours" -> 7 hours.

All numbers are written in digits, also below ten. Units that stay words in a profile (`=` in units.tsv, durations by
`Style.durations`) keep them as said; `Style.word_unit_from` may leave small numbers before them alone. "half a percent",
"two and a half miles" and "a mile" are not accepted.
"""

from __future__ import annotations

from . import base
from .base import Fst, pynini
from .style import Style

RARER = 2.5  # cost of a rarer word of a unit
SINGULAR = 3.5  # of the singular after a number ("a ten mile run")
Words = list[tuple[str, str, float]]


def _units(style: Style) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The rows whose unit is written as a symbol, and those whose unit stays a word."""
    rows = [row | {"cell": row[style.unit_table]} for row in base.table("units.tsv") if row[style.unit_table]]
    if style.durations == "words":
        rows = [row | {"cell": "="} if row["kind"] == "duration" else row for row in rows]
    return [row for row in rows if row["cell"] != "="], [row for row in rows if row["cell"] == "="]


def _written(row: dict[str, str], word: str, style: Style) -> str:
    if row["cell"] == "=":
        return f" {word}"
    return (style.percent_space if row["cell"] == "%" else style.unit_space) + row["cell"]


def _names(rows: list[dict[str, str]], style: Style) -> tuple[Words, Words]:
    """(said, written, cost) after "one" and after other numbers, with the space before them."""
    one, many = [], []
    for row in rows:
        singular, plural = row["one"].split("|"), row["many"].split("|")
        one += [(f" {word}", _written(row, word, style), k * RARER) for k, word in enumerate(singular)]
        many += [(f" {word}", _written(row, word, style), k * RARER) for k, word in enumerate(plural)]
        rare = [word for word in singular if word not in plural]
        many += [
            (f" {word}", _written(row, word, style), SINGULAR + k * RARER) for k, word in enumerate(rare)
        ]
        if row["kind"] == "percent":
            one += [(f" {word}", _written(row, word, style), k * RARER) for k, word in enumerate(plural) if k]
    return one, many


def _feet_and_inches(rows: list[dict[str, str]], style: Style) -> Fst | None:
    """ "five foot ten" -> 5 foot 10, "six feet two inches" -> 6 feet 2 inches, behind the number of feet."""
    cells = {row["one"]: row for row in rows}
    if "foot" not in cells or "inch" not in cells:
        return None
    feet = base.pairs(
        [(f" {word} ", _written(cells["foot"], word, style) + " ", 0.0) for word in ("foot", "feet")]
    )
    twelve = pynini.union(
        base.except_words(base.digit(), ["one"]), base.say("ten", "10"), base.say("eleven", "11")
    )
    inches = base.say(" inches", _written(cells["inch"], "inches", style))
    inch = base.say("one inch", "1" + _written(cells["inch"], "inch", style))
    if cells["foot"]["cell"] == "=":  # "six foot one"
        return feet + pynini.union(twelve + base.maybe(inches), inch, base.say("one", "1")).optimize()
    return feet + pynini.union(twelve + inches, inch).optimize()


def _hours_and_minutes(rows: list[dict[str, str]], style: Style) -> Fst:
    """ "two hours thirty minutes" -> 2 h 30 min, "one minute and ten seconds" -> 1 min 10 s."""

    def one_of(name: str) -> Fst:
        row = next(row for row in rows if row["one"] == name)
        one = base.say(f"one {name}", "1" + _written(row, name, style))
        many = base.except_words(base.below_100(), ["one"]) + base.say(f" {row['many'].split('|')[0]}", _written(row, name, style))
        return pynini.union(one, many).optimize()

    joint = pynini.union(" ", base.say(" and ", " ", 1.0))
    hours = one_of("hour") + joint + one_of("minute")
    return pynini.union(hours, one_of("minute") + joint + one_of("second")).optimize()


def _per(symbols: list[dict[str, str]], style: Style) -> Fst:
    """The other side of "per": " per second" -> /s. Always singular and a symbol, also where durations alone stay words."""
    times = (
        [row for row in base.table("units.tsv") if row["kind"] == "duration"]
        if style.durations == "words"
        else []
    )
    rows = [row for row in symbols if row["per"] == "y"]
    rows += [row | {"cell": row[style.unit_table]} for row in times if row["per"]]
    words = [(word, row["cell"], k) for row in rows for k, word in enumerate(row["one"].split("|"))]
    return base.pairs([(f" per {word}", f"/{cell}", 1.0 + k * RARER) for word, cell, k in words])


def grammar(style: Style) -> Fst:
    """Spoken -> written for one measure."""
    symbols, words = _units(style)
    # the numbers that are less than this stay words before a unit that stays a word; "one" goes with the singular
    threshold = max(style.word_unit_from, 2)
    one, many = _names(symbols, style)
    one_word, many_word = _names(words, style)
    one_top, many_top = _names([row for row in symbols if row["per"] and row["kind"] != "duration"], style)
    edges = [
        edge for edge in base.quantity_edges(style.point_zero, style.loose_numbers, 2, threshold) if edge[2] != "small"
    ]
    edges += [("start", base.say("one", "1"), "one"), ("one", pynini.accep(""), "small")]
    edges += [
        ("whole", pynini.accep("", weight=0.1), "amount"),
        ("amount", base.pairs(many_word), "end"),
        ("amount", pynini.accep(""), "any"),
        ("zero", pynini.accep(""), "any"),
        ("any", base.pairs(many), "end"),
        ("any", base.pairs(many_top), "top"),
        ("one", base.pairs(one), "end"),
        ("one", base.pairs(one_top), "top"),
        ("top", _per(symbols, style), "end"),
    ]
    if style.word_unit_from < 2:
        edges += [("one", base.pairs(one_word), "end"), ("zero", base.pairs(many_word), "end")]
    else:
        few = base.union_of(list(base.small_words(threshold)[1:])) @ base.below_100()
        edges += [("start", few, "few"), ("few", pynini.accep(""), "small"), ("few", pynini.accep(""), "any")]
    if style.loose_numbers:  # two and a half percent
        percent = base.pairs(_names([row for row in symbols if row["kind"] == "percent"], style)[1])
        edges.append(("half", percent, "end"))
    height = _feet_and_inches(symbols + words, style)
    if height:
        edges += [("start", base.below_100() + base.cost(height, 1.0), "end")]
    if style.durations == "symbols":
        edges += [("begin", base.cost(_hours_and_minutes(symbols, style), 1.0), "end")]
    negative = base.say("negative ", "-" if style.negative_sign else "negative ", 1.0)
    sign = pynini.union("", base.say("minus ", "-"), negative)
    return base.graph([*edges, ("begin", sign, "start")], "begin", "end")
