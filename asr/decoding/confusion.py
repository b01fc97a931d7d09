"""Confusion networks: what competes with each word, from an n-best list.

A network is a sequence of slots; every hypothesis passes every slot with a word or with nothing (`EPSILON`), so the
posteriors of a slot sum to 1. Posteriors of hypotheses are the softmax of their scores. The slots are those of the best
hypothesis; the others are aligned to the network so far, best first, and open new slots where they have a word more
(Mangu, Brill, Stolcke 2000, "Finding consensus in speech recognition", give the reasons). The alignment is an edit
distance that knows times: the price of putting a word into a slot grows as their times part, so that of two equal words
the one that was said there is meant, and words far from each other do not compete.

The best path is the first hypothesis wherever its posterior is above one half; elsewhere it may be no hypothesis at all,
as it minimises the expected number of word errors, not of wrong sentences. Frames are encoder frames of 40 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from asr.decoding.words import seconds

EPSILON = "<eps>"  # no word here

# Prices of the alignment; one word more or less costs 1.
DIFFERENT = 0.5  # a word in a slot that does not hold it yet ...
APART = 1.6  # ... and this, if their times have nothing in common: together more than an insertion and a deletion
SKIP_OPTIONAL = 0.5  # passing a slot that others have passed, too
SLACK = 6  # frames; the same word is emitted up to this much earlier or later by another hypothesis


class EmittedHypothesis(Protocol):
    """What the words of a hypothesis follow from; it need not have a score."""

    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def frames(self) -> Sequence[int]: ...
    @property
    def log_probs(self) -> Sequence[float]: ...


class ScoredHypothesis(EmittedHypothesis, Protocol):
    """`asr.decoding.greedy.Hypothesis` with the total ``score`` of the search (natural logarithm)."""

    @property
    def score(self) -> float: ...


class TokenWord(NamedTuple):
    """A word of a hypothesis: emitted in frames ``start … end - 1``, by the tokens ``first … last - 1`` of the list."""

    word: str
    start: int
    end: int
    first: int
    last: int


def hypothesis_words(hypothesis: EmittedHypothesis, tokenizer: Any) -> list[TokenWord]:
    """The words of a hypothesis, cut as `asr.decoding.words.WordBuilder` cuts them; the endpoint token ends a word."""
    words: list[TokenWord] = []
    tokens, frames = hypothesis.tokens, hypothesis.frames
    begin = 0
    for i in range(1, len(tokens) + 1):
        if i < len(tokens) and not (
            tokenizer.is_word_start(tokens[i]) or tokenizer.endpoint_id in (tokens[i], tokens[i - 1])
        ):
            continue
        text = tokenizer.decode(tokens[begin:i]).strip()
        if text:  # a lone word-boundary piece or endpoint token has none
            words.append(TokenWord(text, frames[begin], frames[i - 1] + 1, begin, i))
        begin = i
    return words


@dataclass(frozen=True)
class Entry:
    """A word, or `EPSILON`, of a slot; start and end are the frames of the most probable hypothesis that has it there
    (those of the slot for epsilon)."""

    word: str
    posterior: float
    start: int
    end: int


@dataclass(frozen=True)
class Slot:
    """Alternatives of one place, the most probable first; the posteriors sum to 1."""

    entries: tuple[Entry, ...]
    start: int
    end: int

    @property
    def entropy(self) -> float:
        """Entropy of the posteriors in nats; 0: nothing competes."""
        return max(0.0, -sum(e.posterior * math.log(e.posterior) for e in self.entries if e.posterior > 0))

    def posterior(self, word: str) -> float:
        """The posterior of a word or of `EPSILON`; 0 if it is not in the slot."""
        return next((entry.posterior for entry in self.entries if entry.word == word), 0.0)


@dataclass(frozen=True)
class ConfusionNetwork:
    """Slots in order of time.

    Attributes:
        slots: what competes where.
        posteriors: of the hypotheses, in their order.
        paths: for each hypothesis, what it has in each slot: a word or `EPSILON`.
    """

    slots: tuple[Slot, ...]
    posteriors: tuple[float, ...]
    paths: tuple[tuple[str, ...], ...]

    @staticmethod
    def of(nbest: Sequence[ScoredHypothesis], tokenizer: Any, temperature: float = 1.0) -> ConfusionNetwork:
        """The network of an n-best list, best first.

        Args:
            nbest: hypotheses of the same audio with total scores; empty: a network without slots.
            tokenizer: ``decode(ids)``, ``is_word_start(id)``, ``endpoint_id``.
            temperature: divides the scores before the softmax; > 1 flattens the posteriors.

        Raises:
            ValueError: a temperature that is not positive, a score that is NaN or +infinity, no finite score.
        """
        if not nbest:
            return ConfusionNetwork((), (), ())
        posteriors = _posteriors([hypothesis.score for hypothesis in nbest], temperature)
        columns: list[_Column] = []
        for rank, hypothesis in enumerate(nbest):
            _align(columns, hypothesis_words(hypothesis, tokenizer), rank)
        return _network(columns, posteriors)

    def best(self) -> list[Entry]:
        """The most probable path without its epsilons."""
        return [slot.entries[0] for slot in self.slots if slot.entries[0].word != EPSILON]

    def slots_of(self, rank: int = 0) -> list[int]:
        """The slot of each word of a hypothesis, in the order of its words."""
        return [k for k, word in enumerate(self.paths[rank]) if word != EPSILON]

    def to_dict(self) -> dict[str, Any]:
        """``{slots: [{start, end, words: [{word, posterior, start, end}]}]}``, times in seconds of the stream.

        Nothing said is the word ``<eps>``, which has no times.
        """
        return {
            "slots": [
                {
                    "start": seconds(slot.start),
                    "end": seconds(slot.end),
                    "words": [_entry_dict(entry) for entry in slot.entries],
                }
                for slot in self.slots
            ]
        }


def _entry_dict(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = {"word": entry.word, "posterior": round(entry.posterior, 4)}
    if entry.word != EPSILON:
        found |= {"start": seconds(entry.start), "end": seconds(entry.end)}
    return found


class _Column:
    """A slot while it is being filled: the word of each hypothesis that has one here."""

    def __init__(self, start: int, end: int, optional: bool):
        self.start, self.end = start, end
        self.optional = optional  # some hypothesis passes it
        self.said: dict[int, TokenWord] = {}  # rank -> word
        self.words: set[str] = set()

    def put(self, rank: int, word: TokenWord) -> None:
        self.said[rank] = word
        self.words.add(word.word)

    def price(self, word: TokenWord) -> float:
        """Of putting a word here: 0 for a word that is here and was said at this time."""
        begin, end = max(self.start, word.start) - SLACK, min(self.end, word.end) + SLACK
        shorter = min(self.end - self.start, word.end - word.start) + 2 * SLACK
        common = max(0, end - begin) / shorter
        return (0.0 if word.word in self.words else DIFFERENT) + APART * (1.0 - min(1.0, common))


def _align(columns: list[_Column], words: list[TokenWord], rank: int) -> None:
    """Puts the words of a hypothesis into the columns, opening new ones, at the lowest price; ties are broken the
    same way each time, so the same list gives the same network."""
    if rank == 0:
        for word in words:
            columns.append(_Column(word.start, word.end, optional=False))
            columns[-1].put(0, word)
        return
    # what it shares with the best hypothesis at both ends costs nothing: only the rest has to be aligned
    own = [k for k, column in enumerate(columns) if 0 in column.said]
    prefix, suffix = _shared([columns[k].said[0] for k in own], words)
    for k, word in zip(own[:prefix], words[:prefix], strict=True):
        columns[k].put(rank, word)
    for k, word in zip(own[len(own) - suffix :], words[len(words) - suffix :], strict=True):
        columns[k].put(rank, word)
    begin = own[prefix - 1] + 1 if prefix else 0
    end = own[len(own) - suffix] if suffix else len(columns)
    between = columns[begin:end]
    _align_between(between, words[prefix : len(words) - suffix], rank)
    columns[begin:end] = between


def _shared(best: list[TokenWord], words: list[TokenWord]) -> tuple[int, int]:
    """How many words at the beginning, and of the others at the end, are the same at the same times."""
    most = min(len(best), len(words))
    prefix = next((k for k in range(most) if best[k][:3] != words[k][:3]), most)
    most -= prefix
    suffix = next((k for k in range(most) if best[-1 - k][:3] != words[-1 - k][:3]), most)
    return prefix, suffix


def _align_between(columns: list[_Column], words: list[TokenWord], rank: int) -> None:
    rows, width = len(words), len(columns)
    passing = [SKIP_OPTIONAL if column.optional else 1.0 for column in columns]
    cost = np.zeros((rows + 1, width + 1))
    cost[0, 1:] = np.cumsum(passing)
    cost[1:, 0] = np.arange(1, rows + 1)
    move = np.full((rows + 1, width + 1), 2)  # 0: put, 1: pass a column, 2: open one
    move[0, 1:] = 1
    for i, word in enumerate(words):
        for j, column in enumerate(columns):
            choices = (cost[i, j] + column.price(word), cost[i + 1, j] + passing[j], cost[i, j + 1] + 1.0)
            lowest = min(choices)
            # read backwards: the column is passed last if it lies after the word, so that slots stay in order of time
            order = (0, 1, 2) if column.start > word.start else (0, 2, 1)
            move[i + 1, j + 1] = next(k for k in order if choices[k] <= lowest + 1e-9)
            cost[i + 1, j + 1] = lowest
    i, j = rows, width
    while i or j:
        step = move[i, j]
        if step == 0:
            i, j = i - 1, j - 1
            columns[j].put(rank, words[i])
        elif step == 1:
            j -= 1
            columns[j].optional = True
        else:
            i -= 1
            opened = _Column(words[i].start, words[i].end, optional=True)
            opened.put(rank, words[i])
            columns.insert(j, opened)


def _network(columns: list[_Column], posteriors: np.ndarray) -> ConfusionNetwork:
    count = len(posteriors)
    slots = []
    paths: list[list[str]] = [[] for _ in range(count)]
    for column in columns:
        mass: dict[str, float] = {}
        likeliest: dict[str, int] = {}  # word -> the most probable hypothesis that has it here
        for rank in range(count):
            word = column.said[rank].word if rank in column.said else EPSILON
            paths[rank].append(word)
            mass[word] = mass.get(word, 0.0) + float(posteriors[rank])
            if word not in likeliest or posteriors[rank] > posteriors[likeliest[word]]:
                likeliest[word] = rank
        entries = []
        # insertion order is that of the ranks; rounding keeps the noise of sums from deciding a tie
        for word, posterior in sorted(mass.items(), key=lambda item: -round(item[1], 12)):
            at = column if word == EPSILON else column.said[likeliest[word]]
            entries.append(Entry(word, min(posterior, 1.0), at.start, at.end))
        slots.append(Slot(tuple(entries), column.start, column.end))
    return ConfusionNetwork(tuple(slots), tuple(posteriors.tolist()), tuple(map(tuple, paths)))


def _posteriors(scores: Sequence[float], temperature: float) -> np.ndarray:
    """Softmax of scores / temperature in float64."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"the temperature of posteriors must be positive and finite, not {temperature}")
    values = np.asarray(scores, np.float64)
    if not (values < math.inf).all() or not (values > -math.inf).any():  # NaN fails the first
        raise ValueError(f"scores that give no posteriors: {list(scores)[:5]}")
    weights = np.exp((values - values.max()) / temperature)
    found: np.ndarray = weights / weights.sum()
    return found
