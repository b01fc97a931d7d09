"""Training examples of the tagger: real written sentences said aloud by our own grammars, hand-written carriers with sampled values, and noise.

Sources lie in a folder of text corpora (see recipes/itn/README.md): written ones with their numbers, spoken ones for the words that are not numbers.
`speeches` is never trained on; of every other source one sentence in twenty is held out.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from . import values
from .grammars import CATEGORIES, base, grammar
from .grammars.style import load_style
from .written import DURATIONS, Spoken, label_numbers, plain, span, speak

LABELS = ("O", *(f"{bi}-{category}" for category in CATEGORIES for bi in "BI"))
WRITTEN = {"earnings22": "earnings22.jsonl.gz", "sgd": "sgd.jsonl.gz", "masc": "masc.txt.gz", "speeches": "speeches.txt.gz"}
SPOKEN = {"ami": "ami.txt.gz", "voice_commands": "voice_commands.txt.gz", "librispeech_lm": "librispeech_lm.txt.gz"}
UNSEEN = "speeches"  # the source that is only for development
RECIPE = Path(__file__).parents[1] / "recipes" / "itn"


class Verbaliser:
    """Written -> spoken through the inverted grammars of a profile, a way of saying drawn by its weight.

    Only ways that the grammar itself writes back the same are used (the round-trip filter).
    """

    def __init__(self, profile: str = "prose", ways: int = 6):
        style, other_style = load_style(profile), load_style("nemo")
        grammars = {category: grammar(category, style) for category in CATEGORIES}
        other = {category: grammar(category, other_style) for category in CATEGORIES}
        self._inverse = {category: base.verbaliser(g) for category, g in grammars.items()}
        self._write, self._others = readers(grammars), readers(other)
        self._ways = ways
        self.ways = lru_cache(maxsize=100_000)(self._find)
        self.accepts = lru_cache(maxsize=100_000)(self._accepts)

    def _find(self, category: str, written: str) -> tuple[tuple[str, float], ...]:
        """The cheapest ways of saying it, with their costs."""
        lattice = base.pynini.compose(base.pynini.escape(written), self._inverse[category])
        if lattice.start() == base.pywrapfst.NO_STATE_ID:
            return ()
        best = base.pynini.shortestpath(base.pynini.project(lattice, "output").rmepsilon(), nshortest=self._ways, unique=True)
        return tuple((spoken, float(str(weight))) for _, spoken, weight in best.paths().items())

    def _accepts(self, category: str, spoken: str) -> bool:
        """Whether any profile writes these words: labels do not depend on the profile."""
        return any(write[category](spoken.lower()) for write in (self._write, self._others))

    def __call__(self, category: str, written: str, rng: random.Random) -> str | None:
        found = self.ways(category, written)
        if not found:
            return None
        lowest = found[0][1]
        spoken = rng.choices([s for s, _ in found], [math.exp(lowest - w) for _, w in found])[0]
        return spoken if self._write[category](spoken) == written else None


def readers(grammars: dict[str, base.Fst]) -> dict[str, Callable[[str], str]]:
    """The run time's way of applying grammars, which is much faster than composing in Python: spoken -> written, "" if refused."""
    import kaldifst

    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for category, fst in grammars.items():
            path = Path(folder) / f"{category}.fst"
            fst.write(str(path))
            found[category] = kaldifst.TextNormalizer(str(path))
    return found


def held_out(text: str) -> bool:
    """One sentence in twenty, by its own letters: the same ones in every run."""
    return zlib.crc32(re.sub(r"\W", "", text.lower()).encode()) % 20 == 0


def lines(folder: Path, source: str) -> Iterator[str]:
    """The sentences of one source. Raises FileNotFoundError naming the file."""
    name = {**WRITTEN, **SPOKEN}[source]
    with gzip.open(folder / name, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"] if name.endswith("jsonl.gz") else line.rstrip("\n")


_FALSE_START = re.compile(r"\b\w*_\b|\b\w+-(?=\s)")


def spoken_sentence(source: str, line: str) -> Spoken | None:
    """A line of a spoken corpus; its numbers are words and are labelled where that is sure."""
    if source == "voice_commands":
        line = re.sub(r"\[\w+ : ([^\]]*)\]", r"\1", line)
    line = _FALSE_START.sub(" ", line.replace("_ ", " ")).replace("_", " ").replace("-", " ")
    words = [w.strip(".,?!;:\"'()[]") for w in line.split()]
    words = [w for w in words if w]
    if source == "librispeech_lm":
        words = [w.lower() for w in words]
    if not words or any(not all(c.isalpha() or c == "'" for c in w) for w in words):
        return None
    return label_numbers(plain(words))


def real_sentences(folder: Path, source: str, held: bool, say: Verbaliser, rng: random.Random) -> Iterator[Spoken]:
    """Labelled sentences of one source: the held-out ones or the others."""
    for text in lines(folder, source):
        if source != UNSEEN and held_out(text) != held:
            continue
        sentence = speak(text, say, rng) if source in WRITTEN else spoken_sentence(source, text)
        if sentence is not None and 0 < len(sentence.words) <= 120:
            yield sentence


_SLOT = re.compile(r"\{(\w+\.\w+)\}|\[(\w+): ([^\]]+)\]|(\S+)")


def carrier(line: str, say: Verbaliser, rng: random.Random) -> Spoken | None:
    """A hand-written line with its slots filled. Raises KeyError for an unknown slot or category."""
    parts = []
    for match in _SLOT.finditer(line):
        if match[1]:
            value = values.sample(match[1], rng, say)
            if value is None:
                return None
        elif match[2]:
            if match[2] not in CATEGORIES:
                raise KeyError(match[2])
            value = span(match[2], match[3])
        else:
            value = plain([match[4]])
        parts.append(value)
    return joined(parts)


def hand_written(name: str) -> list[str]:
    """The lines of recipes/itn/NAME.txt, comments and blank lines left out."""
    text = (RECIPE / f"{name}.txt").read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


FILLERS = ("uh", "um", "uh", "um", "like", "you know", "i mean", "er", "well")
CONFUSIONS = {
    "to": ("two", "too"), "for": ("four",), "one": ("won",), "too": ("to",), "a": ("the", "uh"), "the": ("a",), "and": ("in", "an"), "their": ("there",),
    "you're": ("your",), "it's": ("its",), "of": ("a", "off"), "are": ("our",), "by": ("buy",), "know": ("no",),
}  # fmt: skip


def noisy(sentence: Spoken, rng: random.Random) -> Spoken:
    """What a recogniser and a speaker do to a sentence: fillers, repeats, restarts, lost and confused words.

    A span stays whole, so that its grammar still reads it; its first word may be said before it once more ("two uh two million dollars").
    """
    words, labels = [], []
    for word, label in zip(sentence.words, sentence.labels):
        inside = label.startswith("I-")
        chance = rng.random()
        if not inside and chance < 0.012:
            restart = [word] if label.startswith("B-") and rng.random() < 0.5 else []
            for filler in [*restart, *rng.choice(FILLERS).split()]:
                words.append(filler)
                labels.append("O")
        if label == "O":
            if chance > 0.988:
                words += [word]
                labels += ["O"]  # said twice
            elif chance > 0.98:
                continue  # lost
            elif chance > 0.97 and word in CONFUSIONS:
                word = rng.choice(CONFUSIONS[word])
        words.append(word)
        labels.append(label)
    return Spoken(words, labels, words)


def joined(parts: Iterable[Spoken]) -> Spoken:
    out = plain([])
    for part in parts:
        out = out + part
    return out


def cased(sentence: Spoken, rng: random.Random) -> Spoken:
    """Lower case mostly; the writers' case, a capital at the start or all capitals sometimes; commas and full stops on plain words rarely."""
    how = rng.random()
    words = list(sentence.words)
    if how < 0.80:
        words = [w.lower() for w in words]
    elif how < 0.86:
        words = [w.upper() for w in words]
    else:
        if how < 0.93:
            words = [w.lower() for w in words]
        words = [w[:1].upper() + w[1:] if i == 0 or w in ("i", "i'm") else w for i, w in enumerate(words)]
        if rng.random() < 0.3:
            last = len(words) - 1
            for i, label in enumerate(sentence.labels):
                if label == "O" and (i == last or rng.random() < 0.06):
                    words[i] += rng.choice(",." if i < last else ".?")
    return Spoken(words, sentence.labels, sentence.written)


def resampled(sentence: Spoken, say: Verbaliser, rng: random.Random) -> Spoken | None:
    """The same sentence with other values of the same categories: the context is kept, the numbers are new."""
    kinds = {
        "cardinal": ("cardinal.number", "cardinal.number", "cardinal.big", "cardinal.large"), "ordinal": ("ordinal.number",), "decimal": ("decimal.number",),
        "money": ("money.amount", "money.large", "money.price"), "time": ("time.ampm", "time.hour_ampm", "time.clock"), "telephone": ("telephone.us",),
        "electronic": ("electronic.email", "electronic.url"), "address": ("address.house",),
    }  # fmt: skip
    parts = []
    for piece in pieces(sentence):
        category = piece.labels[0][2:]
        text = " ".join(piece.words)
        slot = rng.choice(kinds[category]) if category in kinds and text not in base.DIGITS else None
        if category == "measure" and text.endswith("percent"):
            slot = "measure.percent"
        elif category == "date" and re.fullmatch(r"\d{4}", piece.written[0]):
            slot = "date.year"
        elif category == "date" and re.fullmatch(r"[a-z]+ \d{1,2}", piece.written[0]):
            slot = "date.month_day"
        elif category == "money" and text.endswith(("cents", "cent")) or category == "decimal" and text.endswith(base.SCALES):
            slot = None
        if slot == "electronic.email" and " at " not in text or slot == "electronic.url" and " at " in text:
            slot = None
        value = values.sample(slot, rng, say) if slot else piece
        if value is None:
            return None
        parts.append(value)
    return joined(parts)


# how often a source is drawn from, whatever its size
NUMBER_SHARES = {"earnings22": 0.35, "sgd": 0.30, "masc": 0.15, "ami": 0.10, "voice_commands": 0.04, "librispeech_lm": 0.06}
PLAIN_SHARES = {"earnings22": 0.16, "sgd": 0.14, "masc": 0.20, "ami": 0.28, "voice_commands": 0.07, "librispeech_lm": 0.15}


def as_written(sentence: Spoken) -> Spoken:
    """A sentence whose digits are written already: nothing is left to do there. Numbers that its writer spelled keep their labels."""
    words, labels = [], []
    for word, label, written in zip(sentence.words, sentence.labels, sentence.written):
        words += written.split()
        labels += [label] if word == written else ["O"] * len(written.split())
    return Spoken(words, labels, words)


def examples(folder: Path, seed: int, say: Verbaliser, sizes: dict[str, int]) -> Iterator[Spoken]:
    """Training examples in random order: `sizes` says how many of "real", "resampled", "carriers", "pairs", "negatives", "alone"."""
    rng = random.Random(seed)
    with_numbers: dict[str, list[Spoken]] = {}
    without: dict[str, list[Spoken]] = {}
    for source in (*WRITTEN, *SPOKEN):
        if source == UNSEEN:
            continue
        for sentence in real_sentences(folder, source, False, say, rng):
            kind = with_numbers if any(label != "O" for label in sentence.labels) else without
            kind.setdefault(source, []).append(sentence)
    known = sorted({w.lower() for some in without.values() for s in some for w in s.words if 3 <= len(w) <= 10 and w.isascii() and w.isalpha()})
    values.WORDS[:] = [*values.THINGS, *known]
    pool = {"carriers": hand_written("carriers") + hand_written("long"), "pairs": hand_written("pairs"), "negatives": hand_written("negatives")}
    alone = [slot for slot in values.SLOTS if slot not in values.NEEDS_CONTEXT]
    slots = {category: [slot for slot in alone if slot.startswith(f"{category}.")] for category in CATEGORIES}

    def pick(pools: dict[str, list[Spoken]], shares: dict[str, float]) -> Spoken:
        return rng.choice(pools[rng.choices(list(shares), list(shares.values()))[0]])

    def one(kind: str) -> Spoken | None:
        if kind == "real":
            return pick(with_numbers, NUMBER_SHARES)
        if kind == "plain":
            return pick(without, PLAIN_SHARES)
        if kind == "written":  # already in digits: nothing to do
            return as_written(pick(with_numbers, NUMBER_SHARES))
        if kind == "resampled":
            return resampled(pick(with_numbers, NUMBER_SHARES), say, rng)
        if kind == "alone":  # an expression and nothing else, or two that touch
            categories = rng.choices(CATEGORIES, [3 if c in ("telephone", "electronic") else 1 for c in CATEGORIES], k=1 if rng.random() < 0.93 else 2)
            chosen = [rng.choice(slots[category]) for category in categories]
            parts = [values.sample(slot, rng, say) for slot in chosen]
            return joined(p for p in parts if p) if all(parts) else None
        return carrier(rng.choice(pool[kind]), say, rng)

    shares, weights = list(sizes), list(sizes.values())
    for _ in range(sum(weights)):
        parts: list[Spoken] = []
        for _ in range(rng.choices((1, 2, 3), (72, 20, 8))[0]):
            name = rng.choices(shares, weights)[0]
            part = one(name)
            if part is not None:
                parts.append(noisy(part, rng) if rng.random() < 0.5 else part)
            if name == "alone" and len(parts) == 1:
                break
        if not parts:
            continue
        example = cased(joined(parts), rng)
        if rng.random() < 0.15 and len(example.words) > 2:  # cut by the end of the stream
            end = rng.randint(1, len(example.words))
            example = Spoken(example.words[:end], example.labels[:end], example.written[:end])
        yield example


def pack(sentences: Iterable[Spoken], path: Path) -> int:
    """Write labelled sentences as one npz: word types, and types, labels and offsets of the running words. Returns the number of sentences."""
    index: dict[str, int] = {}
    label_index = {label: i for i, label in enumerate(LABELS)}
    types: list[int] = []
    labels: list[int] = []
    offsets = [0]
    for sentence in sentences:
        types += [index.setdefault(word, len(index)) for word in sentence.words]
        labels += [label_index[label] for label in sentence.labels]
        offsets.append(len(types))
    temporary = path.with_suffix(".part")
    with open(temporary, "wb") as file:
        np.savez(
            file, words=np.frombuffer("\n".join(index).encode(), np.uint8), types=np.array(types, np.int32), labels=np.array(labels, np.uint8),
            offsets=np.array(offsets, np.int64),
        )  # fmt: skip
    temporary.replace(path)
    return len(offsets) - 1


def earnings_dev(folder: str | Path, limit: int | None = None) -> list[tuple[str, str]]:
    """(spoken, written) of the held-out earnings-call sentences, `prose` profile; entities as their writers wrote them.

    Left out: sentences whose writer breaks the house style (digits below ten where the profile has words).
    """
    rng, say = random.Random(0), Verbaliser()
    out = []
    for sentence in real_sentences(Path(folder), "earnings22", True, say, rng):
        if all(_in_style(*piece) for piece in spans(sentence)):
            out.append((" ".join(sentence.words).lower(), " ".join(w for w in sentence.written if w).lower()))
        if limit and len(out) >= limit:
            break
    return out


def pieces(sentence: Spoken) -> Iterator[Spoken]:
    """A sentence in its spans and single words."""
    start, n = 0, len(sentence.words)
    while start < n:
        end = start + 1
        while end < n and sentence.labels[end].startswith("I-"):
            end += 1
        yield Spoken(sentence.words[start:end], sentence.labels[start:end], sentence.written[start:end])
        start = end


def spans(sentence: Spoken) -> Iterator[tuple[str, str, str]]:
    """(category, spoken, written) of every span."""
    for piece in pieces(sentence):
        if piece.labels[0] != "O":
            yield piece.labels[0][2:], " ".join(piece.words), " ".join(w for w in piece.written if w)


_SMALL_WRITTEN = re.compile(r"\d(?:st|nd|rd|th)?|\d (?:second|minute|hour|day|week|month|year|decade)s?")


def _in_style(category: str, spoken: str, written: str) -> bool:
    """Whether the writer did as the prose profile does: digits from ten up, words below."""
    if spoken != written:
        return not _SMALL_WRITTEN.fullmatch(written)
    words = spoken.lower().split()
    if category == "whitelist":
        return True
    return len(words) == 1 if category != "measure" else len(words) == 2 and words[0] in base.DIGITS and words[1].rstrip("s") in DURATIONS
