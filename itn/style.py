"""House style that is chosen at run time, on the written form: thresholds, separators, 24 hours, names for symbols, case.

What is built into the FSTs of a profile instead (spaces, symbols, padding) is `itn.grammars.style.Style`. Users of other
systems miss exactly these knobs (NeMo #3307, #4945, NeMo-text-processing #146): "prose writers want twenty five, everyone
else 25".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from itn.errors import ItnError

CATEGORIES = (
    "cardinal", "ordinal", "decimal", "fraction", "money", "measure", "date", "time", "telephone", "electronic",
    "address", "whitelist",
)  # fmt: skip
SEPARATORS = ("", ",", " ", "'", "’", "_", "\u00a0", "\u2009", "\u202f")  # a full stop would look like a decimal point
GROUPED = ("cardinal", "decimal", "money", "measure", "fraction")  # years, codes and telephone numbers are never grouped

_INTEGER = re.compile(r"-?(\d+)")
_ORDINAL = re.compile(r"(?:the )?(\d+)(?:st|nd|rd|th)")
_DURATION = re.compile(r"-?(\d+) (?:second|minute|hour|day|week|fortnight|month|year|decade|century|centurie)s?")
_LONG = re.compile(r"(?<![\w.,])\d{4,}(?![\w,])")
_CLOCK = re.compile(
    r"\b(\d{1,2})((?::\d\d){0,2}) ?(?:([ap])\.?m\b\.?|in the (morning|afternoon|evening)\b|at (night)\b)", re.IGNORECASE
)
_HOUR = re.compile(r"(?<![\d:])\d(?=:\d\d\b)")
_PARTS = {"and a half": ".5", "and a quarter": ".25", "and three quarters": ".75"}  # of a number in front of a unit
_SIGNS = re.compile(r"[^\w\s.,:'’-]")  # $ € % ° …


@dataclass(frozen=True)
class Options:
    """The run-time half of a profile; its defaults stand in the profile's manifest, these are those of `prose`."""

    number_threshold: int = 10  # cardinals and durations ("seven hours") below it stay words
    ordinal_threshold: int = 10  # ordinals below it stay words
    thousands: str = ""  # between groups of three digits, of numbers of four digits and more
    clock: int = 12  # hours: 24 writes "9:40 p.m." and "9:40 in the evening" as 21:40, "6:30" as 06:30
    units: str = "symbols"  # as the profile writes them, or as "words", no sign is left: 8 kilometers
    currencies: str = "symbols"  # the same: 7 dollars; "nineteen ninety nine" without a name stays as spoken
    off: frozenset[str] = frozenset()  # categories that stay as spoken

    def __post_init__(self) -> None:
        for name in ("number_threshold", "ordinal_threshold"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ItnError(f"{name} must be a whole number from 0 on, not {value!r}")
        if self.thousands not in SEPARATORS:
            known = ", ".join(map(repr, SEPARATORS))
            raise ItnError(f"thousands must be one of {known}, not {self.thousands!r}")
        if self.clock not in (12, 24):
            raise ItnError(f"clock must be 12 or 24, not {self.clock!r}")
        for name in ("units", "currencies"):
            if getattr(self, name) not in ("symbols", "words"):
                raise ItnError(f"{name} must be 'symbols' or 'words', not {getattr(self, name)!r}")

    def changed(self, values: Mapping[str, Any], where: str = "") -> Options:
        """With other values; None keeps what is there.

        Raises:
            ItnError: an unknown name or a wrong value, after ``where``.
        """
        known = [field.name for field in fields(self)]
        for name in values:
            if name not in known:
                raise ItnError(f"{where}unknown option {name!r}{hint(name, known)}")
        given = {name: value for name, value in values.items() if value is not None}
        if "off" in given:
            given["off"] = frozenset(_names(given["off"]))
        if isinstance(given.get("thousands"), bool):
            given["thousands"] = "," if given["thousands"] else ""
        try:
            return replace(self, **given)
        except ItnError as error:
            raise ItnError(f"{where}{error}") from None

    def switched(self, on: Iterable[str], off: Iterable[str], known: Sequence[str]) -> Options:
        """With categories switched on and off.

        Raises:
            ItnError: a category that does not exist, or one that is to be both.
        """
        on, off = _names(on), _names(off)
        for name in (*on, *off, *sorted(self.off)):
            if name not in known:
                raise ItnError(f"no category {name!r}{hint(name, known)}; there are: {', '.join(known)}")
            if name in on and name in off:
                raise ItnError(f"category {name!r} is switched both on and off")
        return replace(self, off=(self.off - set(on)) | set(off))


def hint(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` if a known word is near."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def restyle(
    category: str, words: Sequence[str], written: str, options: Options, number: Callable[[str], str]
) -> str | None:
    """The written form of a span in the user's style; None: it stays as spoken.

    Args:
        category: of the span.
        words: as spoken, lower case.
        written: by the category's FST.
        options: the style.
        number: writes number words in digits; "" if they are no number.
    """
    if category == "cardinal" and _below(_INTEGER, written, options.number_threshold):
        return None
    if category == "ordinal" and _below(_ORDINAL, written, options.ordinal_threshold):
        return None
    if category == "measure":
        if _below(_DURATION, written, options.number_threshold):
            return None
    if (category, "words") in (("measure", options.units), ("money", options.currencies)):
        written = _named(words, written, number)
        if _SIGNS.search(written):
            return None
    if options.thousands and category in GROUPED:
        written = _LONG.sub(lambda match: f"{int(match[0]):,}".replace(",", options.thousands), written)
    if category == "time" and options.clock == 24:
        written = _HOUR.sub(r"0\g<0>", _CLOCK.sub(_hours, written))
    return written


def cased(words: Sequence[str], written: str, category: str) -> str:
    """The written form with the user's capitals on what is left of the words: ("May", "Third"), "may 3" -> "May 3".

    Written words that are spoken words, in order, are taken as the user wrote them. A code keeps the case of its letters,
    and an abbreviation the capital of what it stands for: ("Doctor",) -> "Dr.".
    """
    if all(word == word.lower() for word in words):
        return written
    parts, at = written.split(" "), 0
    for i, part in enumerate(parts):
        for k in range(at, len(words)):
            if words[k].lower() == part:
                parts[i], at = words[k], k + 1
                break
    written = " ".join(parts)
    if category == "address":
        at = 0
        for word in words:
            found = written.find(word.lower(), at) if len(word) == 1 and word.isalpha() else -1
            if found >= 0:
                written, at = written[:found] + word + written[found + 1 :], found + 1
    if category == "whitelist" and words[0][:1].isupper():
        written = written[:1].upper() + written[1:]
    return written


def _below(pattern: re.Pattern[str], written: str, threshold: int) -> bool:
    match = pattern.fullmatch(written)
    return match is not None and int(match[1]) < threshold


def _named(words: Sequence[str], written: str, number: Callable[[str], str]) -> str:
    """The numbers of the words in digits and the other words as spoken; what the FST wrote where there are no others.

    "two and a half percent" -> 2.5 percent, "seven dollars thirty" -> 7 dollars 30.
    """
    if words[0] == "a" and len(words) > 1 and number(f"one {words[1]}"):  # a hundred dollars
        words = ["one", *words[1:]]
    parts: list[str] = []
    at, names = 0, False
    while at < len(words):
        fraction = next((p for p in _PARTS if words[at : at + len(p.split())] == p.split()), "")
        if fraction and parts and parts[-1].isdigit():
            parts[-1] += _PARTS[fraction]
            at += len(fraction.split())
            continue
        length, value = next(
            (
                (n, value)
                for n in range(len(words) - at, 0, -1)
                if (value := number(" ".join(words[at : at + n])))
            ),
            (1, ""),
        )
        names = names or not value
        parts.append(value or words[at])
        at += length
    return " ".join(parts) if names and len(parts) > 1 else written


def _hours(match: re.Match[str]) -> str:
    hour, part = int(match[1]), (match[3] or match[4] or match[5]).lower()
    if not 1 <= hour <= 12:
        return match[0]
    late = part in ("p", "afternoon", "evening") or part == "night" and hour > 4  # one to four at night: before the morning
    if part in ("evening", "night") and hour == 12:
        late = False
    return f"{hour % 12 + 12 * late:02d}{match[2] or ':00'}"


def _names(value: Iterable[str]) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(name, str) for name in names):
        raise ItnError(f"categories are given by their names, not {value!r}")
    return names
