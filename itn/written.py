"""Written text -> words as they are spoken, each with its label: the writers' own judgement of what is a number becomes training data.

A scanner finds written entities (regular expressions, most specific first); the category's own grammar, run backwards, says them; words the writer left
as words are spoken as they stand. Numbers that a writer spelled out are found among the words and labelled by the grammar that reads them. A
sentence with digits nobody recognises is dropped, not guessed at.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from .grammars import base

MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
)  # fmt: skip
MONTH = (
    f"(?:(?i:{'|'.join(m for m in MONTHS if m not in ('may', 'march'))})|may|[Mm]arch|May|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\\.?"
)
DURATIONS = frozenset("second minute hour day week month year decade".split())
SMALL = {word: i + 1 for i, word in enumerate(base.DIGITS)}
SCALE_WORDS = frozenset(("hundred", *base.SCALES))
NUMBER_WORDS = frozenset((*SMALL, *base.TEENS, *base.TENS)) | SCALE_WORDS | {"zero"}
ORDINALS = frozenset("third fourth fifth sixth seventh eighth ninth".split())
CURRENCY_WORDS = frozenset("dollar dollars euro euros pound pounds yen cent cents".split())


@dataclass(frozen=True)
class Spoken:
    """Words, their labels ("O", "B-money", "I-money") and what is written for them, as long as each other.

    The written form of a span stands at its first word, "" at the others.
    """

    words: list[str]
    labels: list[str]
    written: list[str]

    def __add__(self, other: Spoken) -> Spoken:
        return Spoken(self.words + other.words, self.labels + other.labels, self.written + other.written)


def span(category: str, spoken: str, written: str | None = None) -> Spoken:
    """One span; without `written` the words stay as they are."""
    words = spoken.split()
    labels = [f"B-{category}"] + [f"I-{category}"] * (len(words) - 1)
    return Spoken(words, labels, list(words) if written is None else [written] + [""] * (len(words) - 1))


def plain(words: list[str]) -> Spoken:
    return Spoken(words, ["O"] * len(words), words)


class Verbal(Protocol):
    """What says written forms: the inverted grammars (`itn.data.Verbaliser`)."""

    def __call__(self, category: str, written: str, rng: random.Random) -> str | None:
        """Spoken words; None when it cannot be said."""

    def accepts(self, category: str, spoken: str) -> bool:
        """Whether the category's grammar reads these words."""


def _number(text: str) -> str:
    return text.replace(",", "").replace(" ", "")


def _amount(sign: str, number: str, scale: str | None) -> tuple[str, str]:
    return "money", f"{sign}{_cents(_number(number), scale)}{' ' + scale.lower() if scale else ''}"


def _cents(number: str, scale: str | None) -> str:
    """$7.5 is said like $7.50 where no million follows."""
    return f"{number}0" if not scale and re.fullmatch(r"\d+\.\d", number) else number.removesuffix(".00")


def _month(name: str) -> str:
    short = name.lower().rstrip(".")
    return next(month for month in MONTHS if month.startswith(short[:3]))


def _clock(hour: str, minute: str | None, half: str | None) -> tuple[str, str]:
    written = f"{int(hour)}:{minute}" if minute and (minute != "00" or not half) else f"{int(hour)}"
    return "time", f"{written} {half.lower()}.m." if half else written


N = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
INT = r"\d{1,3}(?:,\d{3})+|\d+"
SCALE = r"(?:[ -](million|billion|trillion))"
UNIT_WORDS = (
    "seconds?|minutes?|hours?|days?|weeks?|months?|years?|decades?|degrees(?: (?:fahrenheit|celsius))?|miles? per hour|kilometers? per hour|"
    "miles?|kilometers?|meters?|centimeters?|millimeters?|inches|inch|feet|yards?|pounds?|ounces?|grams?|kilograms?|kilos|tonnes?|tons?|liters?|gallons?|"
    "megawatts?|gigawatts?|kilowatts?|watts?|gigabytes?|megabytes?|terabytes?|megahertz|gigahertz|hertz|acres?|hectares?|barrels?|basis points|"
    "square (?:feet|meters|miles|kilometers)"
)

# (category, pattern, match -> (category, written)); tried in this order at every place.
RULES: list[tuple[re.Pattern, Callable[[re.Match], tuple[str, str] | None]]] = [
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), lambda m: ("electronic", m[0].lower())),
    (
        re.compile(r"(?:https?://)?(?:www\.)?[A-Za-z][\w-]*(?:\.[\w-]+)*\.(?:com|org|net|gov|edu|io|co|uk|de|ru|tv|info)(?:/[\w/-]+)?\b"),
        lambda m: ("electronic", m[0].lower()),
    ),
    (re.compile(r"\+1[ -]\(?(\d{3})\)?[- ](\d{3})-(\d{4})\b"), lambda m: ("telephone", f"1-{m[1]}-{m[2]}-{m[3]}")),
    (re.compile(r"\(?(\d{3})\)?[- ](\d{3})-(\d{4})\b"), lambda m: ("telephone", f"{m[1]}-{m[2]}-{m[3]}")),
    (re.compile(r"\b(\d{3})-(\d{4})\b"), lambda m: ("telephone", f"{m[1]}-{m[2]}")),
    (re.compile(rf"([$€£¥])\s?({N}){SCALE}?(?! ?(?:thousand|[kKmMbB]\b))"), lambda m: _amount(m[1], m[2], m[3])),
    (re.compile(rf"\b({N}){SCALE}? (?:US )?dollars?\b"), lambda m: _amount("$", m[1], m[2])),
    (re.compile(rf"\b({N}){SCALE}? euros?\b"), lambda m: _amount("€", m[1], m[2])),
    (re.compile(r"\b(\d{1,2}) pence\b"), lambda m: ("money", f"{m[1]} pence")),
    (re.compile(r"\b(\d{1,2}) cents?\b"), lambda m: ("money", f"{m[1]} cent{'s' if m[1] != '1' else ''}")),
    (re.compile(rf"\b({N})\s?(?:%|percent\b|per cent\b)(?! point)"), lambda m: ("measure", f"{_number(m[1])}%")),
    (re.compile(r"\b(\d{1,2})(?::(\d{2}))?\s?([aApP])\.?\s?[mM]\b\.?"), lambda m: _clock(m[1], m[2], m[3])),
    (re.compile(r"\b([01]?\d|2[0-3]):([0-5]\d)\b(?!:)"), lambda m: _clock(m[1], m[2], None)),
    (re.compile(r"\b(1[0-2]|[1-9]) (in the (?:morning|afternoon|evening)|at night)\b", re.I), lambda m: ("hour", f"|{m[1]}|{m[2].lower()}")),
    (re.compile(r"\b(1[0-2]|[1-9]) ?(?:o['’ ]?clock)\b", re.I), lambda m: ("hour", f"|{m[1]}|o'clock")),
    (re.compile(r"\b((?:a )?quarter (?:past|to|after|till|of)|half past) (1[0-2]|[1-9])\b(?![:.,%]\d)", re.I), lambda m: ("hour", f"{m[1].lower()}|{m[2]}|")),
    (
        re.compile(rf"\b({MONTH}) (\d{{1,2}})(?:st|nd|rd|th)?(?:,? ((?:1[5-9]|20)\d\d))?\b(?!,\d)"),
        lambda m: ("date", f"{_month(m[1])} {int(m[2])}{' ' + m[3] if m[3] else ''}"),
    ),
    (
        re.compile(rf"\b(the )?(\d{{1,2}})(st|nd|rd|th) of ({MONTH})(?:,? ((?:1[5-9]|20)\d\d))?\b"),
        lambda m: ("date", f"the {int(m[2])}{m[3].lower()} of {_month(m[4])}{' ' + m[5] if m[5] else ''}" if m[1] else ""),
    ),
    (
        re.compile(rf"\b({MONTH}) the (\d{{1,2}})(st|nd|rd|th)(?:,? ((?:1[5-9]|20)\d\d))?\b"),
        lambda m: ("date", f"{_month(m[1])} the {int(m[2])}{m[3].lower()}{' ' + m[4] if m[4] else ''}"),
    ),
    (re.compile(r"\b(\d{1,4}) ?([bB]\.? ?[cC]\b|[aA]\.? ?[dD]\b)\.?(?! ?\w\.)"), lambda m: ("era", f"{m[1]}|{m[2][0].lower()} {'c' if m[2][0] in 'bB' else 'd'}")),
    (re.compile(rf"\b({MONTH})(?: of)? ((?:1[5-9]|20)\d\d)\b"), lambda m: ("date", f"{_month(m[1])} {m[2]}")),
    (
        re.compile(r"\b(\d{2,5})(?= (?:(?:[NSEW]\.?|North|South|East|West) )?(?:[A-Z][\w.]+ ){1,2}(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Drive|Lane|Way|Place)\b)"),
        lambda m: ("address", m[1]),
    ),
    (re.compile(r"\b((?:1[5-9]|20)\d0)['’]?s\b"), lambda m: ("date", f"{m[1]}s")),
    (re.compile(r"\b(Q[1-4])(?: (?:of )?((?:20|19)\d\d))?\b"), lambda m: ("date", f"{m[1]} {m[2]}" if m[2] else m[1])),
    (re.compile(r"\bFY ?(\d\d)\b"), lambda m: ("date", f"FY{m[1]}")),
    (re.compile(r"\b((?:first|second|third|fourth) quarter) (of )?((?:20|19)\d\d)\b"), lambda m: ("quarter", f"{m[1]} {m[2] or ''}|{m[3]}")),
    (re.compile(r"\b(\d+)(st|nd|rd|th)\b"), lambda m: ("ordinal", m[0].lower())),
    (re.compile(rf"\b({N}){SCALE}?[ -]((?i:{UNIT_WORDS}))\b"), lambda m: None if re.fullmatch(r"(?:19|20)\d\d", m[1]) else ("unit", f"{_number(m[1])}{' ' + m[2] if m[2] else ''}|{m[3].lower()}")),
    (re.compile(r"\bCOVID-19\b"), lambda m: ("whitelist", "covid-19")),
    (re.compile(r"\b([345])[GD]\b"), lambda m: ("whitelist", m[0].lower())),
    (re.compile(rf"\b((?:{INT})\.\d+){SCALE}?\b(?!\.\d)"), lambda m: ("decimal", f"{_number(m[1])}{' ' + m[2] if m[2] else ''}")),
    (re.compile(r"\b(?:1[7-9]\d\d|20[0-4]\d)\b(?![,.]\d)"), lambda m: ("date", m[0])),
    (re.compile(rf"\b({INT}){SCALE}?\b(?![:/.%\d]\d)"), lambda m: ("cardinal", f"{_number(m[1])}{' ' + m[2] if m[2] else ''}")),
    (re.compile(r"\b(Mr|Mrs|Dr)\. ?"), lambda m: ("title", {"Mr": "mister", "Mrs": "missus", "Dr": "doctor"}[m[1]])),
]
_GLUED = re.compile(r"(?<=[a-z])([,?!](?=[A-Za-z])|\.(?=[A-Z][a-z]|I\b))")  # "Yes,that", "it.What"
# footnotes, codes of libraries, phone numbers with blanks: read aloud in ways that a number grammar does not know
_UNSPEAKABLE = re.compile(r"\d - \d|\[\d|\d\]|[A-Z]\.[A-Z]\. ?\d|: \d{5}\b|\d{2}'s\b(?<!0's)|\d- |\b[6-9]0's\b|\d, \d+, \d+, \d")
_START = re.compile(r"(?<![\w$€£¥#+@/.,-])[\w$€£¥(+]")
_DIGIT = re.compile(r"\d|[%$€£¥₽₹@#&+=<>_\\|~^°]")


def speak(text: str, say: Verbal, rng: random.Random) -> Spoken | None:
    """A written sentence as it is spoken, with labels; None when part of it cannot be understood."""
    text = text.replace("’", "'").replace("–", " ").replace("—", " ").replace("--", " ")
    if _UNSPEAKABLE.search(text):
        return None
    text = _GLUED.sub(r"\1 ", text).replace(" & ", " and ")
    out = plain([])
    at = 0  # up to here the text has been turned into words
    scan = 0
    while True:
        place = _START.search(text, scan)
        if place is None:
            break
        scan = place.end()
        for pattern, read in RULES:
            match = pattern.match(text, place.start())
            if match is None:
                continue
            found = read(match)
            if found is None:
                continue
            if match.end() < len(text) and re.match(r"[\w$€£¥@/]|-\d", text[match.end() :]) and not text[match.end() - 1].isspace():
                return None  # "5G-like", "10/12", "12-34": not understood
            spoken = _say(found, say, rng) if found[1] else None
            if spoken is None:
                return None
            before = _words(text[at : match.start()])
            if before is None:
                return None
            at = scan = match.end()
            if text.startswith("'s", at) and spoken.words:  # 2021's: "twenty twenty one's"
                spoken.words[-1] += "'s"
                spoken.written[0] += "'s"
                at = scan = at + 2
            out = out + before + spoken
            break
    rest = _words(text[at:])
    return None if rest is None else label_numbers(out + rest)


def _say(found: tuple[str, str], say: Verbal, rng: random.Random) -> Spoken | None:
    category, written = found
    if category == "title":
        return span("whitelist", written)
    if category == "hour":
        before, hour, after = written.split("|")
        return span("time", " ".join(w for w in (before, (*base.DIGITS, *base.TEENS)[int(hour) - 1], after) if w))
    if category == "era":
        number, letters = written.split("|")
        spoken = say("cardinal", number, rng)
        return span("date", f"{spoken} {letters}") if spoken else None
    if category == "quarter":
        words, year = written.split("|")
        spoken = say("date", year, rng)
        return span("date", f"{words}{spoken}", f"{words}{year}") if spoken else None
    if category == "unit":
        number, unit = written.split("|")
        spoken = say_number(number, say, rng)
        return span("measure", f"{spoken} {unit}", f"{number} {unit}") if spoken else None
    if category == "cardinal" and re.fullmatch(r"0\d+", written):
        category = "address"
    spoken = say(category, written, rng)
    return span(category, spoken, written) if spoken else None


def say_number(number: str, say: Verbal, rng: random.Random) -> str | None:
    """A number before a unit, in words."""
    return say("decimal" if "." in number else "cardinal", number, rng)


def _words(text: str) -> Spoken | None:
    """Text without entities as plain words: punctuation off, hyphens apart, letters of U.S. apart. None if digits or signs remain."""
    if _DIGIT.search(text):
        return None
    words = []
    for token in text.replace("-", " ").split():
        token = token.strip("\"“”()[]{}!?,;:*…/'‘")
        if re.fullmatch(r"(?:[A-Za-z]\.){2,}", token):
            words += list(token.replace(".", ""))
            continue
        token = token.strip(".'")
        if not token:
            continue
        if not all(c.isalpha() or c in "'." for c in token) or "." in token:
            return None
        words.append(token)
    return plain(words)


def label_numbers(sentence: Spoken) -> Spoken | None:
    """Label numbers that are spelled out among the O words: a run of number words that its grammar reads.

    What cannot be read for sure (several numbers in a row, years, clock times) makes the sentence unusable: None.
    """
    words = [w.lower() for w in sentence.words]
    labels = list(sentence.labels)
    n = len(words)

    def mark(category: str, first: int, last: int) -> None:
        labels[first:last] = span(category, " ".join(words[first:last])).labels

    i = 0
    while i < n:
        word = words[i]
        if labels[i] != "O":
            i += 1
            continue
        after = words[i + 1] if i + 1 < n and labels[i + 1] == "O" else ""
        end = _spelled_date(words, i) if all(label == "O" for label in labels[i : i + 5]) else 0
        if end:
            mark("date", i, end)
            i = end
            continue
        previous = words[i - 1] if i else ""
        if word in NUMBER_WORDS and word not in SCALE_WORDS:
            end = i + 1
            while end < n and labels[end] == "O":
                if words[end] in NUMBER_WORDS:
                    end += 1
                elif words[end] == "and" and words[end - 1] in SCALE_WORDS and end + 1 < n and words[end + 1] in NUMBER_WORDS:
                    end += 1
                elif words[end] == "point" and end + 1 < n and words[end + 1] in NUMBER_WORDS:
                    end += 1
                else:
                    break
            run = words[i:end]
            following = words[end] if end < n and labels[end] == "O" else ""
            if (end < n and labels[end] != "O" and labels[end].startswith("B-") and len(run) > 1) or following in ("o'clock", "oh", "o", "a", "p", "am", "pm"):
                return None
            if end - i == 1 and word in ("one", "zero"):
                if word == "one" and following.rstrip("s") in ("hour", "minute", "mile", "percent"):
                    mark("measure", i, end + 1)
                i = end
                continue
            category = "decimal" if "point" in run else "cardinal"
            if not _readable(run):
                return None
            if following == "percent" or following in _UNITS:
                mark("measure", i, end + 1)
                end += 1
            elif following == "per" and end + 1 < n and words[end + 1] == "cent":
                mark("measure", i, end + 2)
                end += 2
            elif following in CURRENCY_WORDS:
                mark("money", i, end + 1)
                end += 1
            elif following in ("and", "or", "to") and len(run) == 1 and word in SMALL and end + 1 < n and words[end + 1] in ("a", "half"):
                pass  # two and a half stays
            elif following in ("thirds", "quarters", "fifths", "eighths", "tenths", "sixths", "hundredths"):
                pass
            else:
                mark(category, i, end)
            i = end
            continue
        if word in ORDINALS and previous not in ("a", "one", "an") and previous not in NUMBER_WORDS:
            mark("ordinal", i, i + 1)
        elif word in ("first", "second") and previous in ("the", "my", "your", "his", "her", "our", "their", "its") and after not in (
            "", "of", "i", "we", "you", "and", "or", "to", "that", "time", "half",
        ):  # fmt: skip
            mark("ordinal", i, i + 1)
        i += 1
    for i in range(n - 1):  # minus five percent
        if words[i] == "minus" and labels[i + 1][2:] in ("cardinal", "decimal", "measure", "money") and labels[i + 1][0] == "B":
            if i == 0 or labels[i - 1] == "O":
                labels[i], labels[i + 1] = "B" + labels[i + 1][1:], "I" + labels[i + 1][1:]
    return Spoken(sentence.words, labels, sentence.written)


_DAYS = frozenset((*"first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth".split(),
                   "eighteenth", "nineteenth", "twentieth", "thirtieth"))  # fmt: skip


def _spelled_day(words: list[str], i: int) -> int:
    """The end of a spelled day of the month that starts at i, or 0."""
    if words[i : i + 1] and words[i] in ("twenty", "thirty") and words[i + 1 : i + 2] and words[i + 1] in _DAYS:
        return i + 2
    return i + 1 if words[i : i + 1] and words[i] in _DAYS else 0


def _spelled_date(words: list[str], i: int) -> int:
    """The end of "march sixth" or "the sixth of march" that starts at i, or 0."""
    if words[i] in MONTHS:
        return _spelled_day(words, i + 1)
    start = i + 1 if words[i] == "the" else i
    end = _spelled_day(words, start)
    return end + 2 if end and words[end : end + 1] == ["of"] and words[end + 1 : end + 2] and words[end + 1] in MONTHS else 0


_UNITS = frozenset(
    w for pattern in re.sub(r"\(\?:[^)]*\)", "", UNIT_WORDS).split("|") for w in ((pattern.replace("?", ""), pattern.replace("s?", "")) if pattern else ())
) - {"pound", "pounds"}


def _readable(run: list[str]) -> bool:
    """Whether these words are one number and nothing else (not a year, a clock time or two numbers side by side)."""
    return base.pynini.compose(base.pynini.escape(" ".join(run)), _reader()).start() != base.pywrapfst.NO_STATE_ID


@cache
def _reader() -> base.Fst:
    """What cardinals and decimals are made of, in words."""
    from .grammars import cardinal, decimal
    from .grammars.style import Style

    return base.pynini.union(cardinal.grammar(Style()), decimal.grammar(Style())).project("input").optimize()
