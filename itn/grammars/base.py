"""What every grammar is made of: numbers, joints, helpers.

Every grammar is one transducer over bytes, spoken -> written, lower case, words joined by single spaces. Its joints are exact (no optional
spaces), so that `verbaliser(grammar)`, its inverse, says a written form in every way the grammar understands. A weight is the cost
(about -ln of the probability) of a way of saying; where two written forms compete for the same words the cheaper one wins.

Hyphens between number words ("twenty-five") are spaces by the time a grammar sees them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pynini
import pywrapfst
from pynini.lib import byte

DIGITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SCALES = ("thousand", "million", "billion", "trillion")

Fst = pynini.Fst


def say(spoken: str, written: str, weight: float = 0.0) -> Fst:
    """One pair: these words are written so, at this cost. Brackets and backslashes are taken literally."""
    return pynini.cross(pynini.escape(spoken), pynini.accep(pynini.escape(written), weight=weight))


def pairs(table: dict[str, str] | list[tuple[str, str]] | list[tuple[str, str, float]]) -> Fst:
    """The union of `say(*row)` over a table."""
    rows = list(table.items()) if isinstance(table, dict) else table
    return pynini.union(*(say(*row) for row in rows)).optimize()


def drop(spoken: str, weight: float = 0.0) -> Fst:
    """Words that are heard and not written."""
    return say(spoken, "", weight)


def add(written: str) -> Fst:
    """Signs that are written and not heard."""
    return say("", written)


def cost(fst: Fst, weight: float) -> Fst:
    """The same relation, every path `weight` dearer."""
    return pynini.concat(pynini.accep("", weight=weight), fst).optimize()


def maybe(fst: Fst, weight: float = 0.0) -> Fst:
    """`fst` at cost `weight`, or nothing."""
    return pynini.union("", cost(fst, weight) if weight else fst).optimize()


SPACE = pynini.accep(" ")
DROP_SPACE = pynini.cross(" ", "")
NUMERAL = byte.DIGIT  # one written digit


@cache
def digit() -> Fst:
    """one..nine -> 1..9"""
    return pairs([(word, str(i + 1)) for i, word in enumerate(DIGITS)])


@cache
def digit_or_zero(oh: float = 1.0) -> Fst:
    """A digit said on its own, in a string of digits: zero, oh or o (at cost `oh`), one..nine."""
    return pynini.union(digit(), say("zero", "0", 0.3), say("oh", "0", oh), say("o", "0", oh + 1.0)).optimize()


@cache
def teen() -> Fst:
    """ten..nineteen -> 10..19"""
    return pairs([(word, str(i + 10)) for i, word in enumerate(TEENS)])


@cache
def two_digits() -> Fst:
    """ten..ninety nine -> 10..99"""
    tens = pairs([(word, str(i + 2)) for i, word in enumerate(TENS)])
    return pynini.union(teen(), tens + add("0"), tens + DROP_SPACE + digit()).optimize()


@cache
def below_100(padded: bool = False) -> Fst:
    """one..ninety nine -> 1..99, or 01..99"""
    return pynini.union(add("0") + digit() if padded else digit(), two_digits()).optimize()


@cache
def _joint(weight_and: float = 0.7) -> Fst:
    """Between a hundred (or thousand) and what follows: " " or " and "."""
    return pynini.union(DROP_SPACE, drop(" and ", weight_and)).optimize()


@cache
def below_1000(padded: bool = False) -> Fst:
    """one..nine hundred ninety nine -> 1..999, or 001..999"""
    hundreds = digit() + drop(" hundred")
    large = hundreds + pynini.union(add("00"), _joint() + below_100(padded=True))
    small = add("0") + below_100(padded=True) if padded else below_100()
    return pynini.union(large, small).optimize()


@cache
def _after(scale: int) -> Fst:
    """What may follow the word of `scale` (1 = thousand): the 3 * scale lower digits, zeros where nothing is said."""
    if scale == 0:
        return pynini.accep("")
    word = drop(f" {SCALES[scale - 2]}") if scale > 1 else pynini.accep("")
    joint = _joint(1.5) if scale == 1 else DROP_SPACE
    said = joint + below_1000(padded=True) + word
    return (pynini.union(add("000"), said) + _after(scale - 1)).optimize()


@cache
def integer(max_scale: int = 4) -> Fst:
    """one..nine hundred ninety nine trillion ... -> 1..999999999999999, no separators.

    Also "fifteen hundred" -> 1500.
    """
    lead = below_1000()
    options = [below_1000()]
    for scale in range(1, max_scale + 1):
        options.append(lead + drop(f" {SCALES[scale - 1]}") + _after(scale))
    not_round = pynini.difference(pynini.project(two_digits(), "output"), NUMERAL + "0").optimize()
    many_hundred = two_digits() @ not_round + drop(" hundred", 3.0)
    options.append(many_hundred + pynini.union(add("00"), _joint() + below_100(padded=True)))
    return pynini.union(*options).optimize()


@cache
def large() -> Fst:
    """A number that keeps its word: "seven million" -> 7 million, "six hundred fifty billion" -> 650 billion."""
    return (below_1000() + pynini.union(*(f" {scale}" for scale in SCALES[1:]), cost(pynini.accep(" quadrillion"), 1.0))).optimize()


def hundred_and() -> Fst:
    """ "a hundred and five" -> 105, "a hundred twenty thousand" -> 120000; "a hundred" alone is a word."""
    number = say("a hundred", "1", 1.5) + _joint() + below_100(padded=True)
    return (number + pynini.union("", say(" thousand", "000", 1.0))).optimize()


def graph(edges: list[tuple[str, Fst, str]], start: str, *finals: str) -> Fst:
    """One transducer from pieces between named states: (from, piece, to).

    Where many paths share what follows, this stays far smaller than unions of concatenations made deterministic.
    """
    fst = pynini.Fst()
    names = dict.fromkeys([start, *(name for source, _, target in edges for name in (source, target)), *finals])
    nodes = {name: fst.add_state() for name in names}
    fst.set_start(nodes[start])
    for name in finals:
        fst.set_final(nodes[name])
    for source, piece, target in edges:
        copy = {state: fst.add_state() for state in piece.states()}
        for state in piece.states():
            for arc in piece.arcs(state):
                fst.add_arc(copy[state], pywrapfst.Arc(arc.ilabel, arc.olabel, arc.weight, copy[arc.nextstate]))
            if piece.final(state) != pywrapfst.Weight.zero(fst.weight_type()):
                fst.add_arc(copy[state], pywrapfst.Arc(0, 0, piece.final(state), nodes[target]))
        fst.add_arc(nodes[source], pywrapfst.Arc(0, 0, 0, copy[piece.start()]))
    return min((merged(fst.copy().rmepsilon()), merged(fst)), key=_arcs)


def _arcs(fst: Fst) -> int:
    return sum(fst.num_arcs(state) for state in fst.states())


def merged(fst: Fst) -> Fst:
    """The same with equal ends merged, without making it deterministic (which can only make such a transducer larger)."""
    mapper = pywrapfst.EncodeMapper(fst.arc_type(), encode_labels=True, encode_weights=True)
    return fst.copy().encode(mapper).minimize(allow_nondet=True).decode(mapper)


def verbaliser(grammar: Fst) -> Fst:
    """Written -> spoken, with the same weights."""
    return pynini.invert(grammar).optimize()


def written_form(grammar: Fst, spoken: str) -> str:
    """What the grammar writes for these words; "" where it does not accept them. For tests and data, not for run time."""
    lattice = pynini.compose(pynini.escape(spoken), grammar)
    if lattice.start() == pywrapfst.NO_STATE_ID:
        return ""
    return pynini.shortestpath(lattice).project("output").rmepsilon().string()


@cache
def point_digits_only() -> Fst:
    """What follows the point, digit by digit: "oh five" -> 05."""
    return (digit_or_zero() + pynini.closure(DROP_SPACE + digit_or_zero())).optimize()


@cache
def point_digits() -> Fst:
    """What follows the point: "oh five" -> 05; rarely "twenty five" -> 25."""
    return pynini.union(point_digits_only(), cost(two_digits(), 3.0)).optimize()


@cache
def zero() -> Fst:
    """zero -> 0, also "oh" and "nought" (before a point)."""
    return pairs([("zero", "0", 0.0), ("oh", "0", 3.0), ("nought", "0", 5.0)])


@cache
def point_and_scale() -> Fst:
    """The rest of a decimal: " point two five" -> .25, " point one million" -> .1 million."""
    scales = pynini.union(*(pynini.accep(f" {s}", weight=1.5 if s == "thousand" else 0.3) for s in SCALES))
    return (say(" point ", ".") + point_digits() + pynini.union("", scales)).optimize()


@cache
def bare_point(point_zero: bool) -> Fst:
    """Before a decimal without a whole part: "point six" -> 0.6, or .6 without `point_zero`."""
    return cost(add("0"), 1.0) if point_zero else pynini.accep("")


@cache
def decimal(point_zero: bool = True) -> Fst:
    """ "two point seven" -> 2.7, "sixty point one million" -> 60.1 million, "point six" -> 0.6."""
    said = pynini.union(integer(), zero()) + point_and_scale()
    bare = bare_point(point_zero) + say("point ", ".") + point_digits()
    return pynini.union(said, bare).optimize()


@cache
def halves() -> Fst:
    """ "two and a half" -> 2.5: for where a large-number word, percent or money follows, never alone."""
    return (below_100() + say(" and a half", ".5", 3.0)).optimize()


def quantity_edges(
    point_zero: bool, loose: bool, max_scale: int, but: int = 2, plain_decimal: float = 0.0
) -> list[tuple[str, Fst, str]]:
    """Numbers before a unit or currency, as pieces for `graph`, from "start" to the ends

    - "zero",
    - "small": a whole number below `but`, written in digits ("one": it takes the singular),
    - "whole": any other integer in digits, exact up to `max_scale` powers of a thousand,
    - "amount": a decimal or a large number: "two million", "zero point six"; with `loose` also "a hundred",
      "two and a half million".

    A decimal without such a word costs `plain_decimal` more (few say "seven point three zero dollars").
    """
    small = small_words(but)
    scales = pynini.union(*(f" {scale}" for scale in SCALES[1:])).optimize()
    zeros = add("000")
    padded = below_1000(padded=True)
    edges = [
        ("start", union_of(list(small)) @ below_100(), "small"),
        ("start", except_words(below_1000(), list(small)), "lead"),
        ("lead", pynini.accep(""), "whole"),
        ("lead", pynini.accep(""), "stem"),
        ("small", pynini.accep(""), "stem"),
        ("stem", scales, "amount"),
        ("small", say(" point ", "."), "point"),
        ("whole", say(" point ", "."), "point"),
        ("start", zero() + say(" point ", "."), "point"),
        ("start", bare_point(point_zero) + say("point ", "."), "point"),
        ("start", say("zero", "0"), "zero"),
        ("point", point_digits() if max_scale > 1 else point_digits_only(), "decimals"),
        ("decimals", pynini.accep("", weight=plain_decimal), "amount"),
        ("decimals", cost(scales, 0.3), "amount"),
        ("decimals", pynini.accep(" thousand", weight=1.5), "amount"),
    ]
    for scale in range(1, max_scale + 1):
        name, word = f"after {scale}", SCALES[scale - 1]
        below = f"after {scale - 1}" if scale > 1 else "whole"
        lower = drop(f" {SCALES[scale - 2]}") if scale > 1 else pynini.accep("")
        joint = _joint(1.5) if scale == 1 else DROP_SPACE
        edges += [("stem", drop(f" {word}", 0.1 if scale > 1 else 0.0), name), (name, zeros, below)]
        edges += [(name, joint + padded + lower, below)]
    if max_scale:
        not_round = pynini.difference(pynini.project(two_digits(), "output"), NUMERAL + "0").optimize()
        edges += [("start", two_digits() @ not_round + drop(" hundred", 3.0), "hundred")]
        edges += [("hundred", add("00"), "whole"), ("hundred", _joint() + below_100(padded=True), "whole")]
    else:
        edges += [("stem", say(" thousand", "000"), "whole")]
    if loose:
        edges += [
            ("start", halves(), "half"),
            ("half", scales, "amount"),
            ("start", say("a hundred", "1", 1.5), "a hundred"),
            ("a hundred", add("00"), "hundreds"),
            ("a hundred", cost(_joint() + below_100(padded=True), 0.5), "hundreds"),
            ("hundreds", pynini.accep(""), "amount"),
            ("hundreds", cost(scales, 0.5), "amount"),
            ("hundreds", say(" thousand", "000", 0.5), "amount"),
            ("start", say("a thousand", "1000", 1.5), "amount"),
            ("start", say("a", "1", 1.5), "article"),
            ("article", scales, "amount"),
        ]
    return edges


def lakh_edges(words: bool) -> list[tuple[str, Fst, str]]:
    """More edges for `quantity_edges`: "five lakh" -> 5 lakh, or 500000; "two crore fifty lakh" -> 25000000."""
    if words:
        scales = pynini.union(" lakh", " crore")
        return [("stem", scales, "amount"), ("decimals", scales, "amount")]
    return [
        ("stem", say(" lakh", "00000"), "whole"),
        ("stem", drop(" crore"), "crore"),
        ("crore", add("0000000"), "whole"),
        ("crore", DROP_SPACE + below_100(padded=True) + say(" lakh", "00000"), "whole"),
    ]


def union_of(words: list[str]) -> Fst:
    """An acceptor of these words."""
    return pynini.union(*(pynini.escape(word) for word in words)).optimize()


def except_words(fst: Fst, words: list[str]) -> Fst:
    """`fst` that does not accept these inputs."""
    anything = pynini.closure(byte.BYTE)
    return pynini.compose(pynini.difference(anything, pynini.union(*words)).optimize(), fst).optimize()


def table(name: str) -> list[dict[str, str]]:
    """The rows of a .tsv beside this file; lines that begin with # are notes, the first other line names the columns."""
    lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [dict(zip(rows[0], row + [""] * (len(rows[0]) - len(row)))) for row in rows[1:]]


def small_words(below: int) -> tuple[str, ...]:
    """ "one", "two" .. up to, not including, `below` (at least "one"): what `quantity` leaves out."""
    return (*DIGITS, *TEENS)[: max(below, 2) - 1]
