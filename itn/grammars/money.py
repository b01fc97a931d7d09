"""Money: "seven dollars and thirty cents" -> $7.30, "six billion dollars" -> $6 billion, "fifty cents" -> 50 cents.

The sign stands before the number, so every sign needs a copy of the number grammar: how long its exact numbers may be (`scale` in
currencies.tsv, in powers of a thousand; 0: only round ones) keeps the rarer currencies small. Currencies without a sign keep
their word behind the number and share one copy. "a dollar", "half a million dollars" and "a few dollars" are not accepted.
"""

from __future__ import annotations

from itertools import groupby

from . import base
from .base import Fst, pynini
from .style import Style

ALIAS = 2.5  # cost of a rarer word of a currency
SINGULAR = 3.5  # of the singular after a number ("a five dollar bill")


def _names(rows: list[dict[str, str]], written: bool) -> tuple[Fst, Fst]:
    """The words of these currencies after "one" and after other numbers, with the space; `written`: kept as said, or as =XYZ."""
    one, many = [], []
    for row in rows:
        weight = float(row["cost"] or 0.0) if not written else 0.0
        plurals = row["many"].split("|")

        def form(word: str, code: str = row["cell"][1:]) -> str:
            return f" {code or word}" if written else ""

        one.append((f" {row['one']}", form(row["one"]), weight))
        many += [(f" {word}", form(word), weight + k * ALIAS) for k, word in enumerate(plurals)]
        if row["one"] not in plurals:
            many.append((f" {row['one']}", form(row["one"]), weight + SINGULAR))
    return base.pairs(one), base.pairs(many)


def _cents(one: str, many: list[str]) -> Fst:
    """What follows the full units: " and thirty cents" -> .30, " thirty cents", " thirty"."""
    several = base.except_words(base.below_100(padded=True), ["one"])
    names = base.pairs([(f" {word}", "", k * ALIAS) for k, word in enumerate(many)])
    with_name = pynini.union(several + names, base.say(f"one {one}", "01"))
    joint = pynini.union(base.say(" and ", "."), base.say(" ", ".", 1.0))
    digit = pynini.union(base.say("oh ", "0", 1.0), base.cost(base.add("0"), 3.0)) + base.digit()
    short = base.say(" ", ".", 1.5) + pynini.union(base.two_digits(), digit)
    return pynini.union(joint + with_name, short).optimize()


def _signed(sign: str, rows: list[dict[str, str]], style: Style) -> Fst:
    """All amounts of the currencies with one sign."""
    one, many = _names(rows, written=False)
    scale = int(rows[0]["scale"])
    edges = base.quantity_edges(style.point_zero, style.loose_numbers and scale > 0, scale, plain_decimal=2.0)
    edges += [
        ("sign", base.add(sign), "start"),
        ("small", one, "paid"),
        ("zero", pynini.accep(""), "amount"),
        ("whole", base.cost(many, 0.1), "paid"),
    ]
    edges += [("amount", many, "end"), ("paid", pynini.accep(""), "end")]
    if rows[0]["cents"]:
        edges += [("paid", _cents(rows[0]["cent"], rows[0]["cents"].split("|")), "end")]
        edges += [("zero", base.cost(many, 2.0), "paid")]
    if rows[0]["lakh"]:
        edges += base.lakh_edges(style.lakh_words)
    return base.graph(edges, "sign", "end")


def _worded(rows: list[dict[str, str]], style: Style) -> Fst:
    """Amounts whose currency stays a word behind the number."""
    one, many = _names(rows, written=True)
    edges = base.quantity_edges(style.point_zero, style.loose_numbers, 1, style.word_unit_from)
    edges += [("whole", base.cost(many, 0.1), "end"), ("amount", many, "end")]
    if style.word_unit_from < 2:
        edges += [("small", one, "end"), ("zero", pynini.accep(""), "amount")]
    codes = [row for row in rows if row["cell"] != "="]
    if codes:  # "r m b nineteen million"
        said = base.pairs(
            [(f"{word} ", row["cell"][1:] + " ", 1.0) for row in codes for word in row["many"].split("|")]
        )
        number = base.below_1000() + pynini.union("", *(f" {scale}" for scale in base.SCALES[1:]))
        edges += [("code", said + number, "end"), ("begin", pynini.accep(""), "code")]
    edges += [("begin", pynini.accep(""), "start")]
    return base.graph(edges, "begin", "end")


def _small_change(style: Style) -> Fst:
    """ "fifty cents" -> 50 cents or $0.50; "fifty pence" -> 50 pence."""
    symbol = style.cents == "symbol"
    several = base.except_words(base.below_100(padded=symbol), ["one"])
    if symbol:
        cents = pynini.union(
            several + base.drop(" cents"), base.say("one cent", "01"), base.say("zero cents", "00")
        )
        options = [base.add("$0.") + cents]
    else:
        options = [several + " cents", base.say("one cent", "1 cent"), base.say("zero cents", "0 cents")]
    options.append(base.below_100() + base.say(" point ", ".") + base.point_digits_only() + " cents")
    pence = base.except_words(base.below_100(), list(base.small_words(style.word_unit_from)))
    return pynini.union(*options, pence + " pence").optimize()


def grammar(style: Style) -> Fst:
    """Spoken -> written for one amount of money."""
    rows = [
        row | {"cell": row[style.currencies]} for row in base.table("currencies.tsv") if row[style.currencies]
    ]
    worded = [row for row in rows if row["cell"].startswith("=")]
    signed = sorted((row for row in rows if row not in worded), key=lambda row: row["cell"])
    options = [
        _signed(sign, list(group), style) for sign, group in groupby(signed, key=lambda row: row["cell"])
    ]
    options += [_worded(worded, style), _small_change(style)]
    # a price said short: only the tagger can know that "nineteen ninety nine" is one
    cents = pynini.union(base.two_digits(), base.say("oh ", "0", 1.0) + base.digit())
    options.append(base.cost(base.add("$") + base.below_100() + base.say(" ", ".") + cents, 3.0))
    minus = "-" if style.money_sign else "minus "
    negative = "negative " if not style.negative_sign else "-"
    sign = pynini.union("", base.say("minus ", minus), base.say("negative ", negative, 1.0))
    return base.merged((sign + pynini.union(*options)).rmepsilon())
