"""Word by word: when a word's label is decided, when a span closes, what is final and what may still change.

One class does it for live words and for whole texts (`Normalizer.normalize`), so both give the same text by construction.

- The tagger gives a word's distribution over labels with 0, 1 … `lookahead` words of right context. Words are decided
  strictly in order, each as soon as a probability reaches the confidence asked for that much context, at the latest
  with all of it.
- What is decided is whether a word is outside, begins a span or continues one; the category is that of the span's last word,
  for which the tagger has seen the whole span.
- Words outside spans are final when decided, unless an open span stands before them. A span closes when the next word
  is decided not to belong to it, at the end, or when it would be held longer than 12 words. Punctuation closes it, too:
  "twenty five, thirty" are two spans, whatever the tagger says.
- A string of digits that is said in more than 12 words (a card number in 16) is written in pieces if each is plain digits.
  Everything else that long stays as spoken: half a number is a wrong number.
- Phrases of the user's lexicon, and spans of the user's own categories, override labels (`itn.lexicon`).
- What is shown after the final text are only words that will most probably stay as they are.

Shapes: L labels, K = lookahead + 1 delays.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from itn.errors import ItnError
from itn.lexicon import MAX_WORDS, Match, Matcher

CONFIDENCE = (0.98, 0.9)  # probability that decides a label after 0 and 1 words of right context; after 2 the best does
SHOWN = 0.9  # probability of being an ordinary word from which on a word is shown in the tail
CUTTABLE = ("telephone",)  # strings of digits: longer than 12 words, each part is right if it is but digits
DIGITS = {w: str(i) for i, w in enumerate("zero one two three four five six seven eight nine".split())} | {"oh": "0"}
JOINING = frozenset("and or to plus".split())  # words at which a span that no grammar accepts falls into two
POSSIBLE = 0.1  # share of its probability from which on a category is tried, where the grammar of a better one refuses
CLEAR = 0.85  # probability that decides a label with all right context; less waits for more words,
PATIENCE = 6  # until so many stand behind it
BLOCK = 256  # words tagged at once, which bounds the memory of a long text
# Punctuation that no span runs over. The stop of an abbreviation, "a.m.", is none: one letter or a stop before the last
_CLOSES = re.compile(r"""(?:[,;:!?…)\]}”»]|[^\W\d_]{2}\.+|\.\.+)["'”’)\]}»]*$""")
_OPENS = re.compile(r"""["“(\[{«]""")
_QUOTES = "\"“”„«»‘()[]{}"  # around a word: the tagger has been trained without
_SIGNS = ".,?!;:…'’" + _QUOTES


class Tagger(Protocol):
    """What a tagger has to offer; `itn.tagger.Tagger` does."""

    labels: tuple[str, ...]  # "O", "B-money", "I-money" …
    lookahead: int

    def initial_state(self) -> Any:
        """Of a new stream."""

    def step(self, words: list[str], state: Any, end: bool = False) -> np.ndarray:
        """(n, K, L) log-probabilities of n words: [i, k] is the label of the word k words before word i.

        With `end`, the last words of the stream, (n + lookahead, K, L): positions after the last word follow.
        """


@dataclass(frozen=True)
class Span:
    """Words that were written another way.

    Attributes:
        start, end: indices of its words in the text or stream, end exclusive.
        category: of the tagger, ``lexicon``, or one of the user's own.
        spoken, written: both forms.
        start_time, end_time: of its first and last word in seconds, if times were given.
    """

    start: int
    end: int
    category: str
    spoken: str
    written: str
    start_time: float | None = None
    end_time: float | None = None


@dataclass(frozen=True)
class Update:
    """What a word changed.

    Attributes:
        final: text that is final now; it begins with a space unless it is the first. Append it.
        tail: what to show after all final text until the next update, with its leading space; it may still change.
        spans: that became final.
    """

    final: str
    tail: str
    spans: tuple[Span, ...] = ()


class Decider:
    """From distributions to labels, a word at a time.

    Args:
        labels: of the tagger.
        confidence: see the top of the file.
        lookahead: words of right context after which the best label is taken.
        off: categories that count as ordinary words.
    """

    def __init__(self, labels: Sequence[str], confidence: Sequence[float], lookahead: int, off: Iterable[str] = ()):
        index = {label: i for i, label in enumerate(labels)}
        off = set(off)
        self._outside = [i for label, i in index.items() if label == "O" or label.partition("-")[2] in off]
        self.names = names = sorted({label.partition("-")[2] for label in labels} - {""} - off)
        self._categories = [(c, [index[x] for x in (f"B-{c}", f"I-{c}") if x in index]) for c in names]
        self._inside = [index[f"I-{c}"] for c in names if f"I-{c}" in index]
        self._lookahead = lookahead
        self._limits = [*confidence[:lookahead], 2.0, 2.0][:lookahead] + [0.0]
        self._previous = "O"

    def reset(self) -> None:
        """A new text begins."""
        self._previous = "O"

    def outside(self, p: Sequence[float]) -> float:
        """How probably a word with this distribution (L,) is an ordinary one."""
        return p[self._outside[0]] if len(self._outside) == 1 else sum(p[i] for i in self._outside)

    def decide(self, words: Sequence[Sequence[float]], delay: int, last: bool = False) -> str | None:
        """"O", "B" or "I" for the next word, whatever the category; None: not yet.

        `words` are the latest distributions (L,) of that word and of those after it; `last`: no more will come.

        The category is left open: after "three point one" nobody knows whether "percent" or "million dollars" comes, only that it is a
        span. A span cannot go on that is not there: after "O" the probability of "I" is that of "B". So a word that may begin a span waits
        a little where the words after it go on with one: in "sales at northwind dot org" only "dot" says that "sales" is part of it.
        """
        if self.ordinary(words[0], delay):
            return "O"
        limit = self._limits[min(delay, self._lookahead)]
        chances = [self._kinds(p) for p in (words if delay >= self._lookahead else words[:1])]
        if self._previous == "O":
            outside, begins, inside = chances[0]
            chances[0] = (outside, begins + inside, 0.0)
        after = (1.0, 1.0, 1.0)  # how well what follows goes with O, B, I
        for o, b, i in reversed(chances[1:]):
            closed = o * after[0] + b * after[1]
            going = closed + i * after[2]
            after = (closed, going, going)
        joint = [chance * fit for chance, fit in zip(chances[0], after)]
        most = max(joint)
        if most < max(limit, CLEAR * (delay < PATIENCE and not last)) * sum(joint):
            return None
        self._previous = "OBI"[joint.index(most)]
        return self._previous

    def ordinary(self, p: Sequence[float], delay: int) -> bool:
        """Whether the next word is surely outside, with this distribution (L,) and so many words behind it: most are."""
        limit = self._limits[min(delay, self._lookahead)]
        outside = self.outside(p)
        if outside >= limit and (limit > 0.5 or outside > CLEAR):
            self._previous = "O"
            return True
        return False

    def _kinds(self, p: Sequence[float]) -> tuple[float, float, float]:
        """The probabilities of "O", "B" and "I"."""
        outside, inside = self.outside(p), sum(p[i] for i in self._inside)
        return outside, max(0.0, 1.0 - outside - inside), inside

    def categories(self, p: Sequence[float]) -> list[str]:
        """Those that a span whose last word has this distribution (L,) may have, the most probable first."""
        found = sorted(((sum(p[i] for i in rows), c) for c, rows in self._categories), reverse=True)
        enough = min(POSSIBLE * sum(q for q, _ in found), found[0][0]) if found else 0.0
        return [c for q, c in found if q >= enough]


class Stream:
    """Words of one speaker, in order; made by `Normalizer.stream`.

    Args:
        tagger: gives the labels.
        decider, matcher: of this stream alone.
        convert: (category, words) -> written form, or None if the words stay as spoken.
        show_open: show an open span converted so far, instead of holding it back: earlier, but it is often revised.
    """

    def __init__(
        self,
        tagger: Tagger,
        decider: Decider,
        matcher: Matcher,
        convert: Callable[[str, Sequence[str]], str | None],
        *,
        show_open: bool = False,
    ):
        self._tagger, self._decider, self._matcher, self._convert = tagger, decider, matcher, convert
        self._show_open = show_open
        self._state: Any = None  # of the tagger; None: no word since the start or the last `finish`
        self._latest: dict[int, list[float]] = {}  # the latest distribution (L,) of the words that are not final
        # words are counted from the start of the stream: first <= next <= count, next and decided in any order
        self._count = 0  # pushed
        self._decided = 0  # labelled
        self._next = 0  # the first word that is neither final nor in the open span
        self._first = 0  # the first word that is not final
        self._words: deque[tuple[str, float | None, float | None]] = deque()  # from first on
        self._labels: deque[str] = deque()  # from next on
        self._marks: deque[Match | None] = deque()  # from next on: a match, or a single word
        self._open = False  # whether the words from first to next are a span
        self._overlong = False  # a span was cut at 12 words and goes on
        self._digits = False  # a string of digits was written at its full length: digits that follow are its rest
        self._closes = False  # the last word that was taken over ends in punctuation
        self._split = False  # the open span is part of one that the tagger saw run over punctuation
        self._pieces: list[str] = []  # final text
        self._new: list[str] = []
        self._spans: list[Span] = []
        self._tail = ""
        self._shown = 0  # words of which the tail is made

    @property
    def text(self) -> str:
        """All final text."""
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    @property
    def shown(self) -> str:
        """The final text and the tail."""
        return self.text + self._tail

    @property
    def pending(self) -> tuple[str, ...]:
        """The words that are not final, as spoken; at most 12."""
        return tuple(word for word, _, _ in self._words)

    @property
    def known(self) -> str:
        """The final text, the tail, and the words after both as spoken: nothing is left out, and all but the final may change."""
        rest = [word for word, _, _ in self._words][self._shown :]
        return " ".join(filter(None, (self.shown, *rest)))

    def push(self, word: str, start: float | None = None, end: float | None = None) -> Update:
        """Take the next word, with its times in seconds if they are known.

        Raises:
            ItnError: no word, or several; the stream is as it was before.
        """
        if not isinstance(word, str) or word.split() != [word]:
            raise ItnError(f"push takes one word, without spaces, not {word!r}")
        return self._push([(word, start, end)])

    def extend(self, words: Iterable[str], finish: bool = False) -> Update:
        """Push many words; the same as one by one. With `finish` everything is final, as after `finish`.

        Raises:
            ItnError: as `push`.
        """
        if isinstance(words, (str, bytes)) or not isinstance(words, Iterable):
            raise ItnError(f"extend takes words, not {words!r:.40}: text.split() gives the words of a text")
        words = list(words)
        for word in words:
            if not isinstance(word, str) or word.split() != [word]:
                raise ItnError(f"a word has no spaces and is not empty: {word!r}")
        return self._push([(word, None, None) for word in words], finish)

    def finish(self) -> Update:
        """Everything is final: the end, or an endpoint after which the stream goes on with fresh context."""
        return self._push([], finish=True)

    def _push(self, words: Sequence[tuple[str, float | None, float | None]], finish: bool = False) -> Update:
        if self._state is None:
            if not words:
                return self._update()
            self._state = self._tagger.initial_state()
        for at in range(0, len(words) or 1, BLOCK):
            block = words[at : at + BLOCK]
            last = finish and at + BLOCK >= len(words)
            bare = [_bare(word) for word, _, _ in block]
            rows = np.exp(self._tagger.step(bare, self._state, end=last)).tolist()
            for entry, row in zip(block, rows):
                self._words.append(entry)
                self._count += 1
                self._decide(self._count - 1, row)
                self._marks.extend(self._matcher.push(entry[0]))
                self._assemble()
                if self._open and self._count - 1 - self._first >= MAX_WORDS:
                    self._close()
            ends = rows[len(block) :]
            for i, row in enumerate(ends):
                self._decide(self._count + i, row, last=i == len(ends) - 1)
        if finish:
            self._marks.extend(self._matcher.finish())
            self._assemble()
            self._close()
            self._decider.reset()
            self._state, self._overlong, self._closes, self._digits = None, False, False, False
            self._latest.clear()
        return self._update()

    def _decide(self, position: int, row: list[list[float]], last: bool = False) -> None:
        """Label words with what the tagger says at ``position``."""
        at, end = position, min(position + 1, self._count)
        for p in row:
            if self._first <= at < end:
                self._latest[at] = p
            at -= 1
        while self._decided < end:
            at = self._decided
            label: str | None = "O"
            if at < self._first:  # a match has written it already
                self._decider.reset()
                self._decided += 1
                continue
            if not self._decider.ordinary(self._latest[at], position - at):
                label = self._decider.decide([self._latest[i] for i in range(at, end)], position - at, last)
            if label is None:
                return
            self._labels.append(label)
            self._decided += 1

    def _assemble(self) -> None:
        """Take over words that are labelled, and matches."""
        while self._marks:
            match = self._marks[0]
            if match is not None:
                self._close()
                self._overlong = self._closes = self._digits = False
                self._marks.popleft()
                for _ in range(min(match.length, len(self._labels))):
                    self._labels.popleft()
                self._write(match.length, match.category, match.written)
                self._next = self._first
                continue
            if not self._labels:
                return
            label = self._labels.popleft()
            self._marks.popleft()
            word = self._words[self._next - self._first][0]
            split = label == "I" and (self._closes or _OPENS.match(word) is not None)
            if split:
                label = "B"
            self._closes = not word.isalpha() and _CLOSES.search(word[-8:]) is not None
            self._split = self._split or split
            if self._open and self._next - self._first == MAX_WORDS:  # it cannot grow
                self._close(cut=label == "I")
                if label == "I" and not self._overlong:
                    label = "B"  # a string of digits goes on as another
            if self._digits:
                if word.lower() in DIGITS:
                    label = "I" if self._open else "B"
                else:
                    self._close()
                    self._digits = False
            if label == "I" and self._overlong:
                label = "O"
            else:
                self._overlong = False
            if label == "O" or label == "B" or not self._open:
                self._close()
                self._open, self._split = label != "O", split
            self._next += 1
            if label == "O":
                self._write(1)

    def _close(self, cut: bool = False) -> None:
        """The open span, if there is one, becomes final; ``cut``: it is known to go on."""
        if not self._open:
            return
        self._open = False
        length = self._next - self._first
        category, written = self._converted(length, cut)
        if not (category or cut):
            length = self._fall_apart(length)
            category, written = self._converted(length)
        self._overlong = cut and not category
        full = length == MAX_WORDS and all(word.lower() in DIGITS for word, _, _ in self._head(length))
        self._digits = self._digits or (full and bool(category))
        if length:
            self._write(length, category, written)

    def _fall_apart(self, length: int) -> int:
        """Of a span that no grammar accepts, "five dollars and twenty minutes", write the first parts; the length of the rest."""
        joints = [i for i, (word, _, _) in enumerate(self._head(length)) if word.lower() in JOINING]
        for joint in reversed(joints):  # the longest part that is accepted
            category, written = self._converted(joint) if joint else ("", None)
            if category:
                self._write(joint, category, written)
                self._write(1)
                return self._fall_apart(length - joint - 1) if length - joint > 1 else 0
        return length

    def _converted(self, length: int, cut: bool = False) -> tuple[str, str | None]:
        """(category, written form) of a span of so many words from the first on, by the most probable category that accepts it."""
        if not length:
            return "", None
        words = [word for word, _, _ in self._head(length)]
        if self._digits and all(word.lower() in DIGITS for word in words):
            return "telephone", "".join(DIGITS[word.lower()] for word in words)
        categories = self._decider.categories(self._latest[self._first + length - 1])
        if self._split and "cardinal" in self._decider.names:
            categories.append("cardinal")  # the tagger took "twenty five, thirty" for one
        for category in categories:
            if cut and category not in CUTTABLE:
                break
            written = self._convert(category, words)
            if written is not None and not (cut and not (written.isascii() and written.isdigit())):
                return category, written
        return "", None

    def _head(self, length: int) -> list[tuple[str, float | None, float | None]]:
        return [self._words[i] for i in range(length)]

    def _write(self, length: int, category: str = "", written: str | None = None) -> None:
        """The first ``length`` words become final, in their written form if there is another."""
        entries = [self._words.popleft() for _ in range(length)]
        spoken = " ".join(word for word, _, _ in entries)
        if written is not None and written != spoken:
            span = Span(
                self._first, self._first + length, category, spoken, written, entries[0][1], entries[-1][2]
            )
            self._spans.append(span)
            self._new.append(written)
        else:
            self._new.append(spoken)
        for index in range(self._first, self._first + length):
            self._latest.pop(index, None)
        self._first += length

    def _update(self) -> Update:
        final = " ".join(self._new)
        if final:
            final = " " * any(self._pieces) + final
            self._pieces.append(final)
        spans = tuple(self._spans)
        self._new, self._spans = [], []
        shown, self._shown = self._probable()
        tail = " ".join(shown)
        self._tail = " " * (bool(tail) and any(self._pieces)) + tail
        return Update(final, self._tail, spans)

    def _probable(self) -> tuple[list[str], int]:
        """What to show of the words that are not final, and how many words that is."""
        if self._open:
            if not self._show_open:
                return [], 0
            length = self._next - self._first
            written = self._converted(length)[1]
            return [" ".join(word for word, _, _ in self._head(length)) if written is None else written], length
        shown: list[str] = []
        at = self._first
        for match in self._marks:
            if match is not None:
                shown.append(match.written)
                at += match.length
                continue
            if self._decider.outside(self._latest[at]) < SHOWN:
                break
            shown.append(self._words[at - self._first][0])
            at += 1
        return shown, at - self._first


def _bare(word: str) -> str:
    """A word as the tagger knows it: “five”, -> five,"""
    if word.isalpha():
        return word
    stem = word.rstrip(_SIGNS)
    return stem.lstrip(_QUOTES) + "".join(sign for sign in word[len(stem) :] if sign not in _QUOTES) or word
