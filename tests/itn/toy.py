"""A profile and taggers small enough to know by heart: FSTs that list a few phrases, labels by rule or by chance."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import kaldifst
import numpy as np

DIGITS = "zero one two three four five six seven eight nine".split()
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = {"first": "1st", "second": "2nd", "third": "3rd", "twelfth": "12th", "twenty first": "21st"}
MONTHS = ("january", "may", "july")


def numbers() -> dict[str, str]:
    """0 ... 99 and some larger ones, as people say them."""
    small = {word: str(i) for i, word in enumerate(DIGITS + TEENS)}
    small |= {word: str(10 * i) for i, word in enumerate(TENS, 2)}
    for tens, written in [(word, 10 * i) for i, word in enumerate(TENS, 2)]:
        small |= {f"{tens} {word}": str(written + i) for i, word in enumerate(DIGITS) if i}
    large = {
        f"{a} {name}": value + zeros
        for name, zeros in (("hundred", "00"), ("thousand", "000"))
        for a, value in small.items()
        if value != "0"
    }
    return small | large | {f"{word} million": f"{value} million" for word, value in small.items() if value != "0"}


def grammars() -> dict[str, dict[str, str]]:
    """category -> spoken -> written."""
    number = numbers()
    return {
        "cardinal": number | {f"minus {word}": f"-{value}" for word, value in number.items()},
        "ordinal": ORDINALS,
        "money": {f"{word} dollars": f"${value}" for word, value in number.items()}
        | {"seven dollars and thirty cents": "$7.30"},
        "measure": {f"{word} percent": f"{value}%" for word, value in number.items()}
        | {f"{word} kilometers": f"{value} km" for word, value in number.items()}
        | {f"{word} hours": f"{value} hours" for word, value in number.items()},
        "date": {f"{month} {word}": f"{month} {value[:-2]}" for month in MONTHS for word, value in ORDINALS.items()},
        "time": {"nine forty p m": "9:40 p.m.", "four a m": "4 a.m.", "twelve a m": "12 a.m.", "six o'clock": "6:00"},
        "telephone": {
            " ".join(DIGITS[int(c)] for c in digits): digits
            for digits in ("5551234", "555123456789", "1", "12", "4075551234")
        },
        "whitelist": {"doctor": "dr.", "for example": "e.g."},
        "address": {"b seven four two": "b742"},
    }


def write_fst(path: Path, table: Mapping[str, str]) -> Path:
    """An FST over bytes that accepts just the keys."""
    fst = kaldifst.StdVectorFst()
    fst.start = start = fst.add_state()
    end = fst.add_state()
    fst.set_final(end, 0.0)
    for spoken, written in table.items():
        a, b, state = spoken.encode(), written.encode(), start
        length = max(len(a), len(b))
        for i in range(length):
            following = end if i == length - 1 else fst.add_state()
            fst.add_arc(state, kaldifst.StdArc(a[i] if i < len(a) else 0, b[i] if i < len(b) else 0, 0.0, following))
            state = following
    fst.write(str(path))
    return path


def write_profile(folder: Path, options: Mapping[str, Any] | None = None, tables: Any = None) -> Path:
    """A profile folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for category, table in (tables or grammars()).items():
        path = write_fst(folder / f"{category}.fst", table)
        files[category] = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    manifest = {"format": 1, "profile": folder.name, "version": "test", "options": dict(options or {}), "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


class ToyTagger:
    """What both toys share: distributions are a function of the words up to the position, as those of a causal network."""

    lookahead = 2
    confidence = (0.98, 0.9)

    def __init__(self, categories: Iterable[str]):
        self.labels = ("O", *(f"{kind}-{category}" for category in categories for kind in "BI"))

    def initial_state(self) -> list[str]:
        return []

    def step(self, words: list[str], state: list[str], end: bool = False) -> np.ndarray:
        rows = []
        for word in words:
            state.append(word)
            rows.append(self._row(state, len(state) - 1))
        if end:
            rows += [self._row(state, len(state) + i) for i in range(2)]
        return np.log(np.array(rows, np.float32).reshape(len(rows), 3, len(self.labels)))

    def _row(self, words: list[str], position: int) -> np.ndarray:
        rows = [self.probabilities(words, position - k, k) for k in range(3)]
        return np.maximum(np.array(rows), 1e-9)

    def probabilities(self, words: list[str], at: int, delay: int) -> np.ndarray:
        raise NotImplementedError


class RuleTagger(ToyTagger):
    """Runs of number words are one span; the word after them says of what kind, and is part of it."""

    UNITS = {"dollars": "money", "percent": "measure", "kilometers": "measure", "hours": "measure"}

    def __init__(self) -> None:
        super().__init__(grammars())
        self._numbers = {word for phrase in numbers() for word in phrase.split()} | {"minus"}

    def probabilities(self, words: list[str], at: int, delay: int) -> np.ndarray:
        p = np.full(len(self.labels), 1e-6)
        if 0 <= at < len(words):
            label, sure = self._label([word.lower().rstrip(".,") for word in words[max(0, at - 40) : at + delay + 1]], min(at, 40), delay)
            p[self.labels.index(label)] = sure
            p[0 if label != "O" else self.labels.index("B-date")] += 1 - sure
        else:
            p[0] = 1.0
        return p / p.sum()

    def _number(self, words: list[str], i: int) -> bool:
        return 0 <= i < len(words) and all(part in self._numbers for part in words[i].split("-"))

    def _label(self, words: list[str], i: int, delay: int) -> tuple[str, float]:
        if self._number(words, i):
            first, end = i, i + 1
            while self._number(words, first - 1):
                first -= 1
            while self._number(words, end):
                end += 1
            kind = self.UNITS.get(words[end], "cardinal") if end < len(words) else "cardinal"
            sure = 0.99 if end < len(words) else 0.7
            start = words[first - 1] if first else ""
            if start in MONTHS:
                return "I-date", 0.99
            return f"{'B' if i == first else 'I'}-{kind}", sure
        if words[i] in self.UNITS and self._number(words, i - 1):
            return f"I-{self.UNITS[words[i]]}", 0.99
        if words[i] in MONTHS and delay == 0:
            return "O", 0.6
        if words[i] in MONTHS:
            return ("B-date", 0.99) if words[i + 1 : i + 2] and words[i + 1] in ORDINALS else ("O", 0.99)
        if words[i] in ORDINALS:
            return ("I-date", 0.99) if i and words[i - 1] in MONTHS else ("B-ordinal", 0.99)
        return ("B-whitelist", 0.99) if words[i] == "doctor" else ("O", 0.99)


class ChanceTagger(ToyTagger):
    """Any labels with any confidence, the same for the same words: what no rule would do, the stream has to survive."""

    def __init__(self, categories: Iterable[str], seed: int, inside: float = 0.0):
        super().__init__(categories)
        self.seed, self.inside = seed, inside

    def probabilities(self, words: list[str], at: int, delay: int) -> np.ndarray:
        draw = random.Random(repr((self.seed, at, delay, words[max(0, at - 1) : at + delay + 1])))
        label = draw.choice(self.labels) if draw.random() > self.inside else draw.choice([*self.labels[2::2], self.labels[2]])
        p = np.full(len(self.labels), 1e-3)
        p[self.labels.index(label)] = draw.choice([0.1, 1.0, 50.0])
        p[0] += draw.choice([0.0, 0.05, 1.0])
        return p / p.sum()


def run(tagger: Any, words: list[str], sizes: Iterable[int]) -> np.ndarray:
    """What a tagger says of words that come in blocks of these sizes, and of the end."""
    state, rows, at = tagger.initial_state(), [], 0
    for size in sizes:
        rows.append(tagger.step(words[at : at + size], state))
        at += size
    rows.append(tagger.step([], state, end=True))
    return np.concatenate(rows)
