"""E-mail and web addresses, handles, hashtags, versions and file names: everything that is joined by said signs.

"kim dot lee at fastmail dot com" -> kim.lee@fastmail.com, "kernel dot org slash docs" -> kernel.org/docs, "at john underscore doe" ->
@john_doe, "hashtag winning" -> #winning, "two point one point three" -> 2.1.3, "v two" -> v2, "report dot p d f" -> report.pdf.

The alphabet is open, any word of letters and digits may be a name, so this is a small graph of loops. A name is words, spelled letters
and numbers in a row, written without spaces; a sign that makes it more than words is required. Two words joined cost much (they are
understood, hardly ever said for data), three are refused: "i bought it at zappos dot com" is a sentence. A word and a number ("kim ninety
nine") cost little.

What no name may be (a sign word, "and" after a number) would need a copy of its complement in every name. Instead a veto reads such words
at a cost no reading can beat and writes nothing, which is how a span is refused.
"""

from __future__ import annotations

from . import base
from .base import DROP_SPACE, NUMERAL, Fst, pynini
from .style import Style

# Endings that are spelled out loud; others are said as words ("com", "org").
SPELLED = {
    "u k": "uk", "u s": "us", "e u": "eu", "i o": "io", "t v": "tv", "a i": "ai", "d e": "de", "c a": "ca", "a u": "au",
    "p d f": "pdf", "t x t": "txt", "h t m l": "html", "c s v": "csv", "j p g": "jpg", "j peg": "jpeg", "p n g": "png", "e x e": "exe",
    "j s": "js", "p y": "py", "doc x": "docx", "x l s x": "xlsx", "x m l": "xml", "m p three": "mp3", "m p four": "mp4",
}  # fmt: skip
SCHEMES = {
    "h t t p s": "https", "https": "https", "h t t p": "http", "http": "http", "f t p": "ftp", "ftp": "ftp",
}  # fmt: skip

Edges = list[tuple[str, Fst, str]]
FREE = pynini.accep("")


def _sign(rows: list[tuple[str, str, float]]) -> Fst:
    return base.pairs([(f" {word} ", sign, weight) for word, sign, weight in rows])


DOT = [("dot", ".", 0.0), ("point", ".", 5.0), ("period", ".", 5.0)]
DASH = [("dash", "-", 0.3), ("hyphen", "-", 0.7), ("minus", "-", 4.0)]
UNDERSCORE = [("underscore", "_", 0.0), ("under score", "_", 2.0)]
SLASH = [("slash", "/", 0.0), ("forward slash", "/", 1.0)]
QUERY = [
    ("question mark", "?", 0.0),
    ("equals", "=", 0.0),
    ("ampersand", "&", 0.0),
    ("hash", "#", 1.0),
    ("tilde", "~", 1.0),
]


def _numbers(name: str) -> Edges:
    """Numbers inside a name, from `NAME number` to `NAME number.`: digits, pairs ("nineteen eighty four" are two), "two thousand five",
    "one hundred twenty five", "twenty five hundred".

    A round pair is followed by zero, another pair or no number at all: "twenty four" is never 204. Hundreds behind other digits are
    left to the veto: every word here has one copy, for size.
    """
    start, end, pairs = f"{name} number", f"{name} number.", f"{name} pairs"
    ones, one, two, tens, rounded, tail = (f"{name} {p}" for p in ("ones", "one", "two", "tens", "rounded", "tail"))
    digit, oh = base.digit_or_zero(oh=0.5), pynini.union(base.say("zero", "0", 0.3), base.say("oh", "0", 0.5))
    double = base.drop("double ") + pynini.union(*((digit @ str(d)) + base.add(str(d)) for d in range(10)))
    return [
        (start, FREE, ones),
        (ones, base.digit(), one),
        (start, pynini.union(oh, base.say("o", "0", 1.5), base.cost(double, 2.0)), end),
        (start, FREE, pairs),
        (pairs, base.cost(base.teen(), 0.3), two),
        (pairs, base.pairs([(word, str(i), 0.3) for i, word in enumerate(base.TENS, 2)]), tens),
        (tens, DROP_SPACE + base.digit(), two),
        (tens, base.add("0"), rounded),
        (rounded, FREE, f"{end}."),
        (rounded, base.drop(" ", 0.3) + oh, end),
        (rounded, base.drop(" ", 0.3), pairs),
        (one, FREE, end),
        (one, base.drop(" hundred", 0.5), tail),
        (one, base.say(" thousand", "0", 0.5), tail),
        (two, FREE, end),
        (two, base.drop(" hundred", 0.5), tail),
        (tail, base.add("00"), f"{end}."),
        (tail, DROP_SPACE, pairs),
        (tail, base.say(" ", "0"), ones),
        (end, base.drop(" ", 0.3), start),
        (end, FREE, f"{end}."),
    ]


def _name(name: str) -> Edges:
    """One name, from state `NAME` to `NAME.`"""
    letters = pynini.union(*"abcdefghijklmnopqrstuvwxyz").optimize()
    numeral = base.cost(NUMERAL, 6.0)  # already written
    inner = pynini.union(letters, numeral).optimize()
    word, second, letter, number = f"{name} word", f"{name} second", f"{name} letter", f"{name} number"
    pieces = pynini.union(letters, numeral) + pynini.closure(inner, 1)
    edges: Edges = [
        (word, base.cost(pieces, 1.0), f"{word}."),
        (second, base.cost(pieces, 1.0), f"{second}."),
        (letter, base.cost(letters, 0.8), f"{letter}."),
        (name, FREE, word),
        (name, pynini.accep("", weight=1.0), letter),
        *_numbers(name),
    ]
    joints = {
        (word, letter): 5.0, (word, second): 6.0, (letter, letter): 0.0, (letter, second): 5.0,
        (f"{number}.", letter): 1.2, (f"{number}.", second): 3.0,
    }  # fmt: skip
    edges.append((name, pynini.accep("", weight=0.5), number))
    joints |= {(kind, number): 0.3 for kind in (word, second, letter)}
    edges += [(f"{a}.", base.drop(" ", weight), b) for (a, b), weight in joints.items()]
    return edges + [(f"{kind}.", FREE, f"{name}.") for kind in (word, second, letter, number, f"{number}.")]


VETO = -1000.0  # below every reading
SIGN_WORDS = ("dot", "at", "slash", "underscore", "dash", "hyphen", "colon", "plus")


def _veto() -> Fst:
    """Words that make a span no address, written as nothing: sign words in the place of a name, numbers run into words."""
    byte = pynini.union(*"abcdefghijklmnopqrstuvwxyz ").optimize()

    def any_of(words: tuple[str, ...] | list[str]) -> Fst:
        return pynini.union(*words).optimize()

    anything = pynini.closure(byte)
    and_slash, others = any_of(["colon", "slash"]), any_of([word for word in SIGN_WORDS if word not in ("colon", "slash")])
    tens, digit_words = any_of(base.TENS), any_of(base.DIGITS)
    edges: Edges = [
        ("start", any_of([word for word in SIGN_WORDS if word not in ("at", "underscore")]), "bad"),
        ("start", FREE, "word"),
        ("start", anything + " ", "word"),
        ("word", others, "other"),
        ("word", and_slash, "slash"),
        ("other", FREE, "end"),
        ("other", pynini.accep(" "), "sign"),
        ("sign", any_of(SIGN_WORDS), "bad"),
        ("slash", pynini.accep(" "), "no slash"),
        ("no slash", any_of([word for word in SIGN_WORDS if word != "slash"]), "bad"),
        ("start", anything + pynini.difference(byte, "n") + " slash slash", "bad"),
        ("word", pynini.accep("colon"), "end"),
        # numbers
        ("word", digit_words, "digit"),
        ("word", any_of(base.TEENS), "teen"),
        ("word", tens, "tens"),
        ("word", any_of(["hundred", "thousand"]), "scale"),
        ("digit", FREE, "number"),
        ("teen", FREE, "number"),
        ("tens", FREE, "number"),
        ("scale", FREE, "number"),
        ("number", any_of([" and", *(f" {scale}" for scale in base.SCALES[1:])]), "bad"),
        ("number", base.SPACE + digit_words, "digits"),
        ("digits", pynini.accep(" thousand"), "bad"),
        ("teen", pynini.accep(" thousand"), "bad"),
        ("tens", any_of([" thousand", " hundred"]), "bad"),
        ("scale", any_of([" thousand", " hundred"]), "bad"),
        ("digit", base.SPACE + digit_words, "few"),
        ("teen", base.SPACE + digit_words, "few"),
        ("scale", base.SPACE + digit_words, "few"),
        ("number", base.SPACE + any_of(base.TEENS), "few"),
        ("number", base.SPACE + tens + base.SPACE + digit_words, "few"),
        ("few", pynini.accep(" hundred"), "bad"),
        ("bad", pynini.union("", " " + anything), "end"),
    ]
    return pynini.concat(pynini.accep("", weight=VETO), pynini.cross(base.graph(edges, "start", "end"), ""))


def _versions() -> Edges:
    """2.1.3, "version 2.1", v2. A number after a point may be said as one ("eleven") or by digits ("oh four")."""
    digit = base.digit_or_zero(oh=0.3)
    digits = base.cost(digit + pynini.closure(DROP_SPACE + digit, 1, 3), 0.5)
    number = pynini.union(base.below_100(), base.say("zero", "0"), digits).optimize()
    point = base.pairs([(" point ", ".", 0.0), (" dot ", ".", 1.0)])
    word = base.pairs([("version ", "version ", 2.0), ("v ", "v", 1.0)])
    return [
        ("start", base.cost(number + point, 1.0), "version"),
        ("start", word, "version"),
        ("version", number, "version."),
        ("version.", point, "version"),
        ("version.", FREE, "end"),
    ]


def grammar(style: Style) -> Fst:
    """Spoken -> written for one address, handle, version or file name."""
    dot, dash, underscore, slash = (_sign(rows) for rows in (DOT, DASH, UNDERSCORE, SLASH))
    ending = base.cost(base.pairs(SPELLED), 0.3)
    final_slash = base.pairs([(" slash", "/", 3.0), (" forward slash", "/", 4.0)])
    at = base.pairs([(" at ", "@", 0.0), (" at sign ", "@", 3.0)])
    colon_slashes = pynini.union(
        *(
            base.say(f" colon {s} ", "://", w)
            for s, w in (("slash slash", 0), ("forward slash forward slash", 1), ("double slash", 3))
        )
    )
    www = base.pairs([("w w w", "www", 0.2), ("triple w", "www", 3.0), ("double u double u double u", "www", 4.0)])
    edges: Edges = [
        # "first": nothing but words so far; "dotted": a sign has been said, so it may end
        *_name("first"),
        *_name("dotted"),
        ("start", FREE, "first"),
        ("start", base.say("underscore ", "_", 4.0), "first"),
        ("start", www, "first."),
        ("first.", pynini.union(dot, underscore, base.cost(dash, 2.0)), "dotted"),
        ("first.", dash, "first"),
        ("dotted", ending, "dotted."),
        ("dotted.", pynini.union(dot, underscore, dash), "dotted"),
        ("dotted.", FREE, "end"),
        ("first.", base.say(" plus ", "+"), "first"),
        ("dotted.", base.say(" plus ", "+"), "dotted"),
        ("dotted.", slash, "path"),
        ("dotted.", base.say(" colon ", ":", 1.0), "path number"),
        ("dotted.", final_slash, "end"),
        # after "@" and "https://": a host, with a dot in it
        ("first.", at, "host"),
        ("dotted.", at, "host"),
        ("start", base.pairs(SCHEMES) + colon_slashes, "host"),
        *_name("host"),
        *_name("domain"),
        ("host", www, "host."),
        ("host.", dash, "host"),
        ("host.", dot, "domain"),
        ("domain", ending, "domain."),
        ("domain.", pynini.union(dot, dash), "domain"),
        ("domain.", slash, "path"),
        ("domain.", final_slash, "end"),
        ("domain.", base.say(" colon ", ":", 1.0), "path number"),
        ("domain.", FREE, "end"),
        # a path, a handle, a hashtag
        *_name("path"),
        ("path.", pynini.union(dot, underscore, dash, slash, _sign(QUERY)), "path"),
        ("path.", FREE, "end"),
        ("path.", final_slash, "end"),
        (
            "start",
            base.pairs(
                [("at ", "@", 1.0), ("hashtag ", "#", 0.5), ("hash tag ", "#", 1.0), ("hash ", "#", 2.5)]
            ),
            "path",
        ),
        *_versions(),
        ("start", _veto(), "end"),
    ]
    return base.graph(edges, "start", "end")
