"""How good a tagger is on held-out sentences: span precision, recall and F1, sentences, negatives, revisions, hold. `itn train score`.

The tagger runs as in an application, word by word with its own confidence; a span counts if its words and its category are right, whatever its grammar
writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .lexicon import Lexicon, Matcher
from .stream import Decider, Stream
from .tagger import Tagger

Found = set[tuple[int, int, str]]  # (first word, end, category)


@dataclass
class Counts:
    """What was found in some sentences, and what is there."""

    sentences: int = 0
    right: int = 0  # sentences whose spans are all right and no others
    negatives: int = 0  # sentences without spans
    kept: int = 0  # of those, the ones in which none was found
    hits: int = 0
    found: int = 0
    true: int = 0
    pushes: int = 0
    revisions: int = 0
    holds: list[int] = field(default_factory=list)  # pushes until a word was final
    by_category: dict[str, list[int]] = field(default_factory=dict)  # category -> [hits, found, true]

    def add(self, guess: Found, gold: Found) -> None:
        self.sentences += 1
        self.right += guess == gold
        self.negatives += not gold
        self.kept += not gold and not guess
        for i, spans in enumerate((guess & gold, guess, gold)):
            for _, _, category in spans:
                self.by_category.setdefault(category, [0, 0, 0])[i] += 1
        self.hits, self.found, self.true = self.hits + len(guess & gold), self.found + len(guess), self.true + len(gold)

    def __str__(self) -> str:
        holds = sorted(self.holds) or [0]
        return (
            f"{self.sentences} sentences, {percent(self.right, self.sentences)} right; spans: precision {percent(self.hits, self.found)}, "
            f"recall {percent(self.hits, self.true)}, F1 {percent(2 * self.hits, self.found + self.true)}; without a span kept "
            f"{percent(self.kept, self.negatives)} of {self.negatives}; revisions {percent(self.revisions, self.pushes)} of pushes, "
            f"hold {sum(holds) / len(holds):.2f} words, p99 {holds[int(0.99 * (len(holds) - 1))]}"
        )


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "-"


def span_set(labels: Sequence[str]) -> Found:
    """The spans of BIO labels; an I- that continues nothing starts a span."""
    found, start, category = set(), 0, ""
    for i, label in enumerate([*labels, "O"]):
        if category and label != f"I-{category}":
            found.add((start, i, category))
            category = ""
        if label != "O" and not category:
            start, category = i, label[2:]
    return found


def evaluate(tagger: Tagger, sentences: Iterable[tuple[list[str], list[str]]], counts: Counts | None = None) -> Counts:
    """Run sentences (words, BIO labels) through the tagger, word by word."""
    counts = counts or Counts()
    for words, labels in sentences:
        decider = Decider(tagger.labels, tagger.confidence, tagger.lookahead)
        # what is written does not matter here: any span is accepted and given its category
        stream = Stream(tagger, decider, Matcher(Lexicon.of(None), {}, lambda c, w: None), lambda category, words: f"<{category}>")
        guess: Found = set()
        shown, final = "", 0
        for i, word in enumerate(words):
            update = stream.push(word)
            counts.pushes += 1
            counts.revisions += not stream.shown.startswith(shown)
            shown = stream.shown
            now = i + 1 - len(stream.pending)
            counts.holds += [i - k for k in range(final, now)]
            final = now
            guess |= {(s.start, s.end, s.category) for s in update.spans}
        guess |= {(s.start, s.end, s.category) for s in stream.finish().spans}
        counts.holds += [len(words) - 1 - k for k in range(final, len(words))]
        counts.add(guess, span_set(labels))
    return counts


def packed(path: Path, labels: Sequence[str], limit: int | None = None) -> Iterable[tuple[list[str], list[str]]]:
    """The sentences of a file of `itn.data.pack`."""
    with np.load(path) as stored:
        words = stored["words"].tobytes().decode().split("\n")
        types, tags, offsets = stored["types"], stored["labels"], stored["offsets"]
    for start, end in list(zip(offsets, offsets[1:]))[:limit]:
        yield [words[t] for t in types[start:end]], [labels[t] for t in tags[start:end]]
