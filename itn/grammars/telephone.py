"""Strings said digit by digit: "six one nine eight two two four four oh seven" -> 619-822-4407, "four two one" -> 421.

How a string is grouped is decided by its length alone, as a writer would: 7 digits 822-4407, 9 digits 123-45-6789 (social security), 10
digits 619-822-4407, with a country code before it 1-800-555-1212 or "+44 207-946-0958", 16 digits a card number in fours; anything else
from 3 digits on is joined. Also IP addresses ("one ninety two dot one sixty eight dot four dot nine") and extensions.

The words become bare digits first; a small counting transducer then sets the signs between them. "double" and "triple" may thus cross a
group. Pairs are understood where people use them: in the last four digits ("twelve twelve"), in "six nineteen" for 619, and in joined
strings. "twenty four" is 24 and never 204: after a round pair come zero, another pair, or the end.
"""

from __future__ import annotations

from . import base
from .base import DROP_SPACE, NUMERAL, SPACE, Fst, pynini
from .style import Style


def _repeated(word: str, written: str, weight: float) -> Fst:
    """ "double four" -> 44. In `written` "d" is the digit."""
    digit = base.digit_or_zero(oh=0.3)
    first, rest = written[0], written[1:]
    assert first == "d"
    rows = [base.drop(f"{word} ") + (digit @ str(d)) + base.add(rest.replace("d", str(d))) for d in range(10)]
    return base.cost(pynini.union(*rows), weight)


def _digit() -> Fst:
    return base.digit_or_zero(oh=0.3)


def _pair(rounded: bool = False) -> Fst:
    """Two digits said as a number: 11..99 that end in no zero, or the round ones, which no other digit than zero may follow."""
    tens = pynini.union(*"23456789") + "0"
    wanted = tens if rounded else pynini.difference(NUMERAL**2, tens).optimize()
    return base.cost(base.two_digits() @ wanted, 3.5 if rounded else 2.0)


def _zero() -> Fst:
    return (_digit() @ "0").optimize()


def _dash(written: str = "-") -> Fst:
    return pynini.union(base.say(" dash ", written, 4.0), base.say(" hyphen ", written, 5.0)).optimize()


def _string(*units: Fst) -> Fst:
    """Units in a row, at least one."""
    unit = pynini.union(*units)
    return (unit + pynini.closure(DROP_SPACE + unit)).optimize()


Edges = list[tuple[str, Fst, str]]


def _places(
    name: str, places: range, signs: dict[int, str], triple: tuple[int, ...] = (), double: bool = True
) -> Edges:
    """Edges over the places of a number of fixed length: state `NAME3` is "three digits are said, the joint comes".

    `signs` are written before the digit at a place; "triple" may start at the places of `triple`.
    """
    edges: Edges = []
    for i in places:
        ready = f"{name}{i}"
        if i > 0:
            joint = pynini.union(base.say(" ", signs[i]), _dash(signs[i])) if i in signs else DROP_SPACE
            edges.append((ready, joint.optimize(), f"{ready}+"))
            ready += "+"
        edges.append((ready, _digit(), f"{name}{i + 1}"))
        if double:
            edges.append((ready, _repeated("double", f"d{signs.get(i + 1, '')}d", 2.0), f"{name}{i + 2}"))
        if i in triple:
            written = f"d{signs.get(i + 1, '')}d{signs.get(i + 2, '')}d"
            edges.append((ready, _repeated("triple", written, 2.5), f"{name}{i + 3}"))
    return edges


def _phone(style: Style) -> Edges:
    """Local, national and international numbers, from "start" to "end"; places n0 to n10."""
    edges = _places("n", range(9), {3: "-", 6: "-"}, triple=tuple(range(8)))
    edges += _places("n", range(9, 10), {}, double=False)
    free = pynini.accep("")
    hundred = base.digit() + base.say(" hundred", "00", 0.7)  # eight hundred five five five ...
    pair, rounded = _pair(), _pair(rounded=True)
    edges += [("n0", hundred, "n3"), ("n1+", pair, "n3"), ("n4+", pair, "n6")]  # six nineteen, eight twenty two
    edges += [("n6+", pair, "n8"), ("n6+", rounded, "n8r"), ("n8r", DROP_SPACE, "n8r+"), ("n8r+", _zero(), "n9")]
    edges += [("n8+", free, "n8p"), ("n8r+", free, "n8p")]
    edges += [("n8p", pynini.union(pair, rounded), "n10"), ("n10", free, "end")]
    code = _string(_digit(), _repeated("double", "dd", 2.0)) @ NUMERAL ** (1, 3)
    plus = base.say("plus ", "+") + pynini.union(code, base.cost(pair, 0.5)) + SPACE
    sign = pynini.union(base.say(" ", style.phone_country), _dash(style.phone_country))
    trunk = pynini.union(base.digit(), base.cost(pair, 2.0)) + sign
    edges += [("start", free, "n0"), ("start", plus.optimize(), "n0"), ("start", trunk.optimize(), "n0")]
    if style.phone_short:  # 822-4407: the last seven places
        edges.append(("start", free, "n3+"))
    return edges


def _others() -> Edges:
    """Social security and card numbers. Their last four digits are those of a phone."""
    social = _places("s", range(5), {3: "-", 5: "-"})
    card = _places("c", range(12), {4: " ", 8: " ", 12: " "}, double=False)
    free = pynini.accep("")
    last = pynini.union(base.say(" ", "-"), _dash())
    edges = [*social, ("start", free, "s0"), ("s5", last, "n6+"), ("s6", free, "n7")]
    return [*edges, *card, ("start", free, "c0"), ("c12", SPACE, "n6+")]


def _ip() -> Edges:
    """An IP address, with a port perhaps."""
    nonzero = base.digit()
    digits = nonzero + pynini.closure(DROP_SPACE + _digit(), 0, 2)
    pairs = base.cost(pynini.closure(nonzero + DROP_SPACE, 0, 1) + base.two_digits(), 1.5)
    double = _repeated("double", "dd", 2.0)
    in_full = base.cost(base.below_1000() @ NUMERAL**3, 2.5)  # two hundred fifty five
    byte = pynini.union(*(str(i) for i in range(256))).optimize()
    octet = (pynini.union(digits, pairs, _digit(), double, in_full) @ byte).optimize()
    dot = pynini.union(base.say(" dot ", "."), base.say(" point ", ".", 2.5)).optimize()
    states = ["start", "ip1", "ip2", "ip3", "ip4"]
    edges = [(a, octet, f"{b}.") for a, b in zip(states, states[1:])]
    edges += [(f"{a}.", dot, a) for a in states[1:4]]
    return [*edges, ("ip4.", pynini.accep(""), "final"), ("ip4.", base.say(" colon ", ":", 4.0), "more")]


def _joined() -> Edges:
    """Strings of three digits and more that have no form of their own, from "joined" to "end"; "more" takes any number of digits."""
    double, triple = _repeated("double", "dd", 2.0).optimize(), _repeated("triple", "ddd", 2.5).optimize()
    pair, rounded = _pair(), _pair(rounded=True)
    edges = [
        ("joined", _digit(), "j1"),
        ("joined", base.cost(pair, 1.0), "j2"),
        ("joined", base.cost(rounded, 1.0), "j2r"),
        ("joined", double, "j2"),
        ("joined", triple, "j3"),
    ]
    edges += [("j1", DROP_SPACE, "j1+"), ("j1+", _digit(), "j2"), ("j1+", pair, "j3"), ("j1+", rounded, "j3r"), ("j1+", double, "j3")]
    edges += [("j2", DROP_SPACE, "more"), ("j3", DROP_SPACE, "more"), ("j3", pynini.accep(""), "end")]
    edges += [("j2r", DROP_SPACE, "round"), ("j3r", DROP_SPACE, "round"), ("j3r", pynini.accep(""), "end")]
    edges += [("more", _digit(), "j3"), ("more", pynini.accep(""), "number"), ("round", _zero(), "j3"), ("round", pynini.accep(""), "number")]
    return [*edges, ("number", rounded, "j3r")] + [("number", unit, "j3") for unit in (pair, double, triple)]


def grammar(style: Style) -> Fst:
    """Spoken -> written for one string of digits."""
    digits = _string(_digit())
    dashed = digits + pynini.closure(_dash() + digits, 1)
    ssn = pynini.union("ssn is ", "ssn ", "social security number is ", "social security number ")  # the words stay
    word = pynini.union("extension ", base.cost(pynini.accep("ext "), 2.0)).optimize()
    edges = [
        *_phone(style),
        *_others(),
        *_ip(),
        *_joined(),
        ("start", pynini.accep("", weight=1.0), "joined"),
        ("start", base.say("plus ", "+", 3.0), "joined"),
        ("start", base.cost(dashed, 1.0), "final"),
        ("start", base.cost(word, 2.0), "more"),
        ("end", pynini.accep(""), "final"),
        ("end", base.cost(SPACE + word, 2.0), "more"),
        ("start", base.cost(ssn, 6.0), "s0"),
    ]
    return base.graph(edges, "start", "final")
