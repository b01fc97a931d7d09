"""One FST for sherpa-onnx `rule_fsts`: a whole text in, the same text with its plain numbers written out.

It has no tagger and so no context. Only what is safe without one is converted: amounts of dollars, euros, yen, rupees and yuan, percent,
decimals, times with "a m" or "p m", and numbers from 13 on that stand alone. Years said as pairs, ordinals, phone numbers, names
and small numbers stay as spoken.

kaldifst returns an empty text where an FST does not accept its input, so this one accepts every byte string without NUL: a text is
tokens and spaces, a token is an entity, a run of number words (kept), or any other word (kept). The weights choose:

    a number or decimal 0 to 20 < a run of number words 20, however long < an entity with a unit 30 to 50 < any word 100

and a number may not stand beside another number or a run. So "nineteen eighty four" and "twenty first" are runs and stay, instead of
becoming "19 84" and "20 first", while "eighty four percent" is an entity, cheaper than a run and a word.

Text in capitals is written in capitals ("FORTY MILLION YEN" -> ¥40 MILLION); a capital may start a sentence. A sign of punctuation
may follow. Hyphens count as spaces ("twenty-five percent").
"""

from __future__ import annotations

from pynini.lib import byte

from . import base, decimal, measure, money, time
from .base import Fst, pynini
from .style import Style

DECIMAL, RUN, ENTITY, WORD = 5.0, 20.0, 30.0, 100.0

UNITS = ("dollar", "dollars", "euro", "euros")  # may have cents; pounds are weights too, "won" is a verb
MORE_UNITS = ("yen", "rupees", "yuan")
HALVES = ("a m", "p m", "pm", "a.m.", "p.m.")  # not "am": "one am i right"

SIGMA = pynini.closure(byte.BYTE).optimize()
SPACES = pynini.closure(" ", 1).optimize()
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")


def _only(inputs: Fst, grammar: Fst) -> Fst:
    """A grammar restricted to these inputs."""
    return base.merged(pynini.compose(inputs, grammar))


def _starting(*words: str) -> Fst:
    return pynini.union(*words) + " " + SIGMA


def _not(inputs: Fst) -> Fst:
    return pynini.difference(SIGMA, inputs.optimize()).optimize()


def _entities(style: Style) -> Fst:
    """Money and percent: what ends in a unit."""
    # "ten minus five dollars", "at that point five euros", "half a million dollars", "several hundred dollars"
    whole = _not(_starting("minus", "negative", "point", "a", "half", "hundred"))
    units, cents = pynini.union(*UNITS), pynini.union("cent", "cents")
    amounts = SIGMA + " " + pynini.union(units, *MORE_UNITS, units + " " + SIGMA + " " + cents)
    percent = SIGMA + " " + pynini.union("percent", "per cent")
    return pynini.union(
        _only((amounts @ whole).optimize(), money.grammar(style)),
        _only((percent @ whole).optimize(), measure.grammar(style)),
    )


def _times(style: Style) -> Fst:
    """Times of day with "a m" or "p m"; their written form ends in a full stop."""
    return _only((SIGMA + " " + pynini.union(*HALVES)).optimize(), time.grammar(style))


def _decimals(style: Style) -> Fst:
    """Decimals. "point five" and "one point five" may be "at that point five of us", "at one point five of us"."""
    scale = pynini.union(*base.SCALES)
    doubtful = pynini.union(
        _starting("minus", "negative", "point"),
        pynini.difference(_starting("one point"), SIGMA + " " + scale),
    )
    return _only(_not(doubtful), decimal.grammar(style))


def _numbers() -> Fst:
    """Numbers from 13 on: in digits, or with their large word."""
    number = pynini.union(base.integer(), base.large())
    small = pynini.union(*(str(n) for n in range(13)))
    return base.merged(pynini.compose(number, _not(small)))


def _run() -> Fst:
    """Number words in a row, as they are. Also "hundred and twenty" and "four or five hundred", in which 20 and 500 would be wrong."""
    ordinals = ["first", "second", "third", "fifth", "eighth", "ninth", "twelfth"]
    ordinals += [
        f"{word}th"
        for word in ("four", "six", "seven", *base.TEENS, "hundred", *base.SCALES)
        if word != "twelve"
    ]
    ordinals += [f"{word[:-1]}ieth" for word in base.TENS]
    plurals = [f"{word}s" for word in ("hundred", *base.SCALES, *ordinals)] + [
        f"{word[:-1]}ies" for word in base.TENS
    ]
    scales = ["hundred", *base.SCALES]
    small = ["zero", *base.DIGITS, *base.TEENS[:3]]
    words = [*small, *base.TEENS[3:], *base.TENS, *scales, *ordinals, *plurals, "half", "something"]
    word, said = pynini.union(*words).optimize(), {}
    for name, signs in {
        "any": ("oh", "o", "point", "double", "and a"),
        "scale": ("and",),
        "small": ("or", "to", "and"),
    }.items():
        said[name] = (SPACES + pynini.union(*signs) + SPACES).optimize()
    edges = [
        ("start", word, "any"),
        ("start", pynini.union(*scales), "scale"),
        ("start", pynini.union(*small), "small"),
    ]
    edges += [(name, joint, "start") for name, joint in said.items()]
    edges += [("any", SPACES, "start")]
    return base.graph(edges, "start", "any").optimize()


def _cased(fst: Fst) -> Fst:
    """The same, also with hyphens ("twenty-five"), in capitals and with a capital first letter."""
    fst = base.merged(pynini.closure(pynini.union(byte.BYTE, pynini.cross("-", " "))).optimize() @ fst)
    rest = pynini.difference(byte.BYTE, pynini.union(*LETTERS)).optimize()
    first = pynini.union(*(pynini.cross(letter.upper(), letter) for letter in LETTERS))
    lower = pynini.closure(pynini.union(first, pynini.difference(rest, pynini.project(first, "input"))))
    upper = pynini.closure(pynini.union(pynini.invert(first), rest))
    return pynini.union(fst, base.merged(lower @ fst @ upper), base.merged((first + SIGMA) @ fst))


def _kept(words: Fst) -> Fst:
    """These words as they are, in any case and with hyphens: "One", "Nineteen Eighty-Four"."""
    either = pynini.union(byte.BYTE, pynini.cross("-", " "), *(pynini.cross(letter.upper(), letter) for letter in LETTERS))
    return pynini.project(pynini.closure(either).optimize() @ words, "input")


def dropin(style: Style) -> Fst:
    """The transducer of a whole text."""
    # units of two words count as one word, or keeping "thirty four thirty four per cent" would cost more than "34 thirty 4%"
    pairs = _kept(pynini.union("per cent", "a m", "p m").optimize())
    word = pynini.union(pynini.closure(pynini.difference(byte.BYTE, " "), 1), pairs)
    end = pynini.union(*(pynini.escape(sign) for sign in ".,;:?!")).optimize()
    free, space = pynini.accep(""), pynini.accep(" ")
    entity, times = (base.cost(pynini.accep(""), ENTITY) + part for part in (_entities(style), _times(style)))
    run = base.cost(_run(), RUN)
    number = pynini.union(_numbers(), base.cost(pynini.accep(""), DECIMAL) + _decimals(style))
    edges = [
        ("token", space, "token"),
        ("token", base.cost(word, WORD), "gap"),
        ("token", _cased(entity), "unit"),
        ("token", _cased(times), "time"),
        ("token", pynini.union(_cased(number), _kept(run)), "number"),
        ("unit", pynini.union("", end), "gap"),
        ("time", pynini.union("", pynini.difference(end, "."), pynini.cross(".", "")), "gap"),  # "six p m." -> 6 p.m.
        ("gap", space, "token"),
        # a number is followed by a word, by its punctuation or by the end
        ("number", end, "gap"),
        ("number", SPACES, "after"),
        ("after", base.cost(word, WORD), "gap"),
        ("number", free, "end"),
        ("after", free, "end"),
        ("gap", free, "end"),
        ("token", free, "end"),
    ]
    return base.graph(edges, "token", "end").optimize()  # a third smaller, and three times as fast
