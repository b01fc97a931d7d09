"""E-mail and web addresses, handles, hashtags, versions and file names: everything that is joined by said signs.

"kim dot lee at fastmail dot com" -> kim.lee@fastmail.com, "kernel dot org slash docs" -> kernel.org/docs, "at john underscore doe" ->
@john_doe, "hashtag winning" -> #winning, "two point one point three" -> 2.1.3, "v two" -> v2, "report dot p d f" -> report.pdf.

The alphabet is open, any word of letters and digits may be a name, so this is a small graph of loops. A name is words, spelled letters
and numbers in a row, written without spaces; a sign that makes it more than words is required. Two words joined cost much (they are
understood, hardly ever said for data); a word and a number ("kim ninety nine") cost little.
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


def _number() -> Fst:
    """A number inside a name: digits, pairs, "nineteen eighty four" as two pairs, "two thousand five", "one hundred"."""
    year = base.say("two thousand ", "20") + pynini.union(base.two_digits(), base.add("0") + base.digit())
    round_one = base.digit() + pynini.union(base.say(" hundred", "00"), base.say(" thousand", "000"))
    double = base.drop("double ") + pynini.union(
        *(base.digit_or_zero() @ str(d) + base.add(str(d)) for d in range(10))
    )
    options = [
        base.digit_or_zero(oh=0.5),
        base.cost(base.two_digits(), 0.3),
        base.cost(pynini.union(year, round_one), 1.0),
    ]
    return pynini.union(*options, base.cost(double, 2.0)).optimize()


def _name(name: str) -> Edges:
    """One name, from state `NAME` to `NAME.`"""
    letters = pynini.union(*"abcdefghijklmnopqrstuvwxyz").optimize()
    numeral = base.cost(NUMERAL, 6.0)  # already written
    inner = pynini.union(letters, numeral).optimize()
    word, letter, number, end = f"{name} word", f"{name} letter", f"{name} number", f"{name}."
    pieces = pynini.union(letters, numeral) + pynini.closure(inner, 1)
    edges: Edges = [
        (word, base.cost(pieces, 1.0), f"{word}."),
        (letter, base.cost(letters, 0.8), f"{letter}."),
        (number, _number(), f"{number}."),
    ]
    edges += [
        (name, pynini.accep("", weight=w), kind) for kind, w in ((word, 0.0), (letter, 1.0), (number, 0.5))
    ]
    joints = {
        (word, number): 0.3, (word, letter): 5.0, (word, word): 6.0,
        (letter, letter): 0.0, (letter, number): 0.3, (letter, word): 5.0,
        (number, number): 0.3, (number, letter): 1.2, (number, word): 3.0,
    }  # fmt: skip
    edges += [(f"{a}.", base.drop(" ", weight), b) for (a, b), weight in joints.items()]
    return edges + [(f"{kind}.", FREE, end) for kind in (word, letter, number)]


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
    www = base.say("w w w", "www", 0.2)
    edges: Edges = [
        # "first": nothing but words so far; "dotted": a sign has been said, so it may end
        *_name("first"),
        *_name("dotted"),
        ("start", FREE, "first"),
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
    ]
    return base.graph(edges, "start", "end")
