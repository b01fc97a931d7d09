"""Scores of inverse text normalisation: sentences, words inside and outside the conversions, and what a stream showed.

`lenient` equates spellings of one written form that are a matter of format only (a.m. and am, 8 km and 8 kilometers, july 4th and
4 july); it does not equate a number with its words, nor a duration with its abbreviation. All scores are of whole sentences and take
plain strings, so that any system can be scored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

# A unit's symbol and the names and symbols that mean it after digits. Durations are not here: 45 minutes and 45 min differ in house style.
UNITS = {
    "%": "percent|per cent|pct",
    "°c": "degrees celsius|degree celsius|degrees centigrade|degrees c|celsius",
    "°f": "degrees fahrenheit|degree fahrenheit|degrees f|fahrenheit",
    "°": "degrees|degree",
    "km/h": "kilometers per hour|kilometer per hour|kilometres per hour|kilometers an hour|kmh|kph",
    "mph": "miles per hour|mile per hour|miles an hour|mi/h",
    "m/s": "meters per second|meter per second|metres per second|meters a second",
    "km²": "square kilometers|square kilometer|square kilometres|sq km|km2",
    "m²": "square meters|square meter|square metres|sq m|m2",
    "cm²": "square centimeters|square centimeter|square centimetres|sq cm|cm2",
    "sq mi": "square miles|square mile|mi²",
    "sq ft": "square feet|square foot|ft²",
    "m³": "cubic meters|cubic meter|cubic metres|m3",
    "km": "kilometers|kilometer|kilometres|kilometre",
    "cm": "centimeters|centimeter|centimetres|centimetre",
    "mm": "millimeters|millimeter|millimetres|millimetre",
    "m": "meters|meter|metres|metre",
    "mi": "miles|mile",
    "ft": "feet|foot",
    "in": 'inches|inch|"',
    "yd": "yards|yard|yds",
    "kg": "kilograms|kilogram|kilos|kilo",
    "mg": "milligrams|milligram",
    "g": "grams|gram",
    "lb": "pounds|pound|lbs",
    "oz": "ounces|ounce",
    "ml": "milliliters|milliliter|millilitres",
    "l": "liters|liter|litres|litre",
    "gal": "gallons|gallon",
    "ac": "acres|acre",
    "ha": "hectares|hectare",
    "t": "tons|ton|tonnes|tonne",
    "kwh": "kilowatt hours|kilowatt hour",
    "kw": "kilowatts|kilowatt",
    "mw": "megawatts|megawatt",
    "gw": "gigawatts|gigawatt",
    "w": "watts|watt",
    "v": "volts|volt",
    "hz": "hertz",
    "khz": "kilohertz",
    "mhz": "megahertz",
    "ghz": "gigahertz",
    "kb": "kilobytes|kilobyte",
    "mb": "megabytes|megabyte",
    "gb": "gigabytes|gigabyte",
    "tb": "terabytes|terabyte",
    "mbps": "megabits per second|megabit per second",
    "gbps": "gigabits per second|gigabit per second",
    "hp": "horsepower",
    "db": "decibels|decibel",
    "kt": "knots|knot",
}
SCALES = ("thousand", "million", "billion", "trillion")
_SYMBOL = {form: symbol for symbol, names in UNITS.items() for form in (symbol, *names.split("|"))}
_UNIT = re.compile(
    r"(?<![$€£¥\d.])(\d[\d.]*(?: (?:"
    + "|".join(SCALES)
    + r"))?)[ -]?("
    + "|".join(re.escape(form) for form in sorted(_SYMBOL, key=len, reverse=True))
    + r")(?![\w/²³@-])"
)
_MONTH = "january|february|march|april|may|june|july|august|september|october|november|december"
_DAY_OF_MONTH = re.compile(
    rf"\b({_MONTH}) (?:the )?(\d{{1,2}})(?:st|nd|rd|th)?(?![\d:%]|\.\d)\b|\b(?:the )?(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({_MONTH})\b"
)


def lenient(text: str) -> str:
    """The text with all spellings of one written form made equal; only for comparison.

    Equated: letter case, thousands commas, the leading zero of an hour, 5:00 p.m. and 5 p.m., a.m. and am, the space before % and
    before a unit, unit names and symbols after digits, day-month order, the ordinal suffix in dates, the comma before a year.

    >>> lenient("the 6th of July at 05:00 p.m.") == lenient("july 6 at 5 pm")
    True
    """
    text = " ".join(text.lower().split())
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"\b0(?=\d:\d\d\b)", "", text)
    text = re.sub(r"(?<=\d) ?([ap])(?:\.m\.?|m\b)", r" \1m", text)
    text = re.sub(r"(?<=\d):00(?= [ap]m\b)", "", text)
    text = _UNIT.sub(lambda found: f"{found[1]} {_SYMBOL[found[2]]}", text)
    text = _DAY_OF_MONTH.sub(lambda d: f"{d[1]} {int(d[2])}" if d[1] else f"{d[4]} {int(d[3])}", text)
    return re.sub(rf"\b((?:{_MONTH}) \d{{1,2}}), (?=\d{{4}}\b)", r"\1 ", text)


def align(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Index pairs of a least-edits alignment of two word lists; -1 stands for no word. Matches as early as possible."""
    rows, columns = len(a), len(b)
    cost = [[0] * (columns + 1) for _ in range(rows + 1)]  # of the suffixes a[i:], b[j:]
    for i in range(rows, -1, -1):
        for j in range(columns, -1, -1):
            if i == rows or j == columns:
                cost[i][j] = rows - i + columns - j
            else:
                cost[i][j] = min(cost[i + 1][j + 1] + (a[i] != b[j]), cost[i + 1][j] + 1, cost[i][j + 1] + 1)
    pairs, i, j = [], 0, 0
    while i < rows or j < columns:
        if i < rows and j < columns and cost[i][j] == cost[i + 1][j + 1] + (a[i] != b[j]):
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif i < rows and cost[i][j] == cost[i + 1][j] + 1:
            pairs.append((i, -1))
            i += 1
        else:
            pairs.append((-1, j))
            j += 1
    return pairs


@dataclass
class Words:
    """Word errors of a set, split at the reference: `inside` its conversions (I-WER) and outside (NI-WER: damage to ordinary words)."""

    inside_errors: int = 0
    inside: int = 0
    outside_errors: int = 0
    outside: int = 0

    @property
    def i_wer(self) -> float:
        return self.inside_errors / max(self.inside, 1)

    @property
    def ni_wer(self) -> float:
        return self.outside_errors / max(self.outside, 1)

    def add(self, spoken: str, reference: str, hypothesis: str) -> None:
        """Count one sentence. A reference word is inside when the speaker did not say it as written (and in "$6 million" both are); an inserted word is inside when
        it stands beside such a word."""
        spoken_words, reference_words = spoken.split(), reference.split()
        pairs = [pair for pair in align(spoken_words, reference_words) if min(pair) >= 0]
        kept = {j for i, j in pairs if spoken_words[i] == reference_words[j]}
        inside = [j not in kept for j in range(len(reference_words))]
        for j in range(1, len(inside)):  # the word of "$6 million"
            inside[j] |= (
                inside[j - 1] and reference_words[j] in SCALES and reference_words[j - 1][-1].isdigit()
            )
        hypothesis_words, last = hypothesis.split(), -1
        self.inside += sum(inside)
        self.outside += len(inside) - sum(inside)
        for j, k in align(reference_words, hypothesis_words):
            if j >= 0 and k >= 0 and reference_words[j] == hypothesis_words[k]:
                error, where = 0, False
            elif j >= 0:
                error, where = 1, inside[j]
            else:
                error, where = 1, any(inside[max(last, 0) : last + 2])
            last = j if j >= 0 else last
            self.inside_errors += error * where
            self.outside_errors += error * (not where)


@dataclass
class Score:
    """Scores of sentences: exact (strict, lenient), and lenient among those with nothing to convert and those with something."""

    sentences: int = 0
    strict: int = 0
    lenient: int = 0
    untouched: int = 0  # sentences with nothing to convert
    kept: int = 0
    entities: int = 0  # sentences with something to convert
    right: int = 0
    words: Words = field(default_factory=Words)

    def add(self, spoken: str, reference: str, hypothesis: str) -> bool:
        """Count one sentence; True when it is right (lenient)."""
        spoken_form, wanted, got = lenient(spoken), lenient(reference), lenient(hypothesis)
        right = wanted == got
        self.sentences += 1
        self.strict += reference == hypothesis
        self.lenient += right
        if spoken == reference:
            self.untouched += 1
            self.kept += right
        else:
            self.entities += 1
            self.right += right
        self.words.add(spoken_form, wanted, got)
        return right

    def figures(self) -> dict[str, float]:
        """Shares between 0 and 1, and the counts they are of."""
        return {
            "sentences": self.sentences,
            "strict": self.strict / max(self.sentences, 1),
            "lenient": self.lenient / max(self.sentences, 1),
            "untouched": self.untouched,
            "kept": self.kept / max(self.untouched, 1),
            "entities": self.entities,
            "right": self.right / max(self.entities, 1),
            "i_wer": self.words.i_wer,
            "ni_wer": self.words.ni_wer,
        }


def score(spoken: Sequence[str], references: Sequence[str], hypotheses: Sequence[str]) -> Score:
    """The `Score` of a set. The three lists have one length."""
    if not len(spoken) == len(references) == len(hypotheses):
        raise ValueError(
            f"{len(spoken)} spoken, {len(references)} references and {len(hypotheses)} hypotheses do not match"
        )
    total = Score()
    for triple in zip(spoken, references, hypotheses):
        total.add(*triple)
    return total


def word_ends(spoken: Sequence[str], written: str) -> list[int]:
    """For each spoken word, the length of `written` up to and including its written form (all words of a span: the end of the span).

    Found from the text alone: words that both have stand for themselves, what lies between two of them is a span.
    """
    tokens = [(found[0], found.end()) for found in re.finditer(r"\S+", written)]
    ends = [-1] * len(spoken)
    boundary = 0  # the end of the written tokens passed so far
    waiting: list[int] = []  # spoken words of the open span
    for i, j in align(list(spoken), [token for token, _ in tokens]):
        matched = i >= 0 and j >= 0 and spoken[i] == tokens[j][0]
        if matched:
            for word in waiting:
                ends[word] = boundary
            waiting = []
        boundary = tokens[j][1] if j >= 0 else boundary
        if matched:
            ends[i] = boundary
        elif i >= 0:
            waiting.append(i)
    for word in waiting:
        ends[word] = boundary
    return ends


@dataclass
class StreamScore:
    """What streams showed after each push: how often shown text was taken back, and how long words waited.

    Shown text is final + tail. A *revision* is a push after which the earlier shown text is no prefix of the new one. The *hold* of a
    word is the number of further pushes until it is in the final text (words that only the end of the stream made final: until the
    last push). *Held* words were pushed and are not shown yet.
    """

    pushes: int = 0
    revisions: int = 0
    holds: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)

    def add(self, words: Sequence[str], steps: Sequence[tuple[str, str]], whole: str) -> None:
        """Count one stream: `steps` = (all final text so far, tail) after each push of `words`; `whole` = the text when finished."""
        if len(words) != len(steps):
            raise ValueError(f"{len(words)} words but {len(steps)} steps")
        ends = word_ends(words, whole)
        before = ""
        for count, (final, tail) in enumerate(steps, start=1):
            shown = final + tail
            self.pushes += 1
            self.revisions += not shown.startswith(before)
            if whole.startswith(shown):
                self.held.append(sum(end > len(shown) for end in ends[:count]))
            else:  # shown text that is revised later
                self.held.append(_not_shown(words[:count], shown))
            before = shown
        step = 0
        for index, end in enumerate(ends):
            step = max(step, index)
            while step < len(steps) - 1 and len(steps[step][0]) < end:
                step += 1
            self.holds.append(step - index)

    def figures(self) -> dict[str, float]:
        """Revisions per push; mean and 99th percentile of the hold; mean and largest count of held words."""
        return {
            "pushes": self.pushes,
            "revision_rate": self.revisions / max(self.pushes, 1),
            "hold_mean": sum(self.holds) / max(len(self.holds), 1),
            "hold_p99": percentile(self.holds, 99),
            "held_mean": sum(self.held) / max(len(self.held), 1),
            "held_p99": percentile(self.held, 99),
            "held_max": max(self.held, default=0),
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` per cent of the values do not exceed; 0 of nothing."""
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)] if ordered else 0


def _not_shown(words: Sequence[str], shown: str) -> int:
    """How many of the last words are missing from the shown text. A converted end counts as all of them shown."""
    tokens = shown.split()
    if not tokens:
        return len(words)
    for i, j in reversed(align(list(words), tokens)):
        if j == len(tokens) - 1:
            return len(words) - 1 - i if i >= 0 and words[i] == tokens[j] else 0
    return 0
