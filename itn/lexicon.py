"""The user's own phrases: a run-time list that wins over everything, and hooks for categories the tagger does not know.

A lexicon is a trie over words, so a change needs no rebuild (NeMo rebuilds its grammar for 6 s). A file holds lines
``phrase<TAB>written``; empty lines and lines that begin with ``#`` are skipped.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itn.errors import ItnError, LexiconError

MAX_WORDS = 12  # of a phrase, and of a span: what is held back at most

ENDING = re.compile(r"[.,?!;:…\"”’')\]}»]+$")  # punctuation behind a word, with the quotes and brackets it closes

_WRITTEN = ""  # the key under which a node of the trie keeps its written form; no word is empty


class Lexicon:
    """Phrases and how they are written; case is ignored, the longest phrase wins.

    Punctuation behind the last word of a phrase stays behind its written form, ``’`` is ``'``.

    Args:
        phrases: phrase -> written form. A phrase has 1 to 12 words.

    Raises:
        LexiconError: a phrase or a written form that cannot be used.
    """

    def __init__(self, phrases: Mapping[str, str] | None = None):
        self.trie: dict[str, Any] = {}
        self.size = 0
        if phrases is not None and not isinstance(phrases, Mapping):
            raise LexiconError(f"a lexicon is a mapping of phrases to written forms or a file, not a {type(phrases).__name__}")
        for phrase, written in (phrases or {}).items():
            if not isinstance(phrase, str) or not isinstance(written, str):
                raise LexiconError(f"lexicon entry {phrase!r}: a phrase and its written form are texts, not {written!r}")
            self._add(phrase, written, f"lexicon entry {phrase!r}")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Lexicon:
        """Read a file of ``phrase<TAB>written`` lines.

        Raises:
            LexiconError: no such file, or a bad line, which is named.
        """
        try:
            text = Path(path).read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise LexiconError(f"cannot read the lexicon {path}: {error.strerror or error}") from None
        except (TypeError, UnicodeEncodeError):  # bytes, half a surrogate pair
            raise LexiconError(f"{path!r} is no name of a file") from None
        except UnicodeDecodeError as error:
            number = error.object[: error.start].count(b"\n") + 1
            raise LexiconError(f"{path}:{number}: the line is not UTF-8") from None
        lexicon = cls()
        for number, line in enumerate(text.split("\n"), 1):
            where = f"{path}:{number}"
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            phrase, tab, written = line.partition("\t")
            if not tab:
                raise LexiconError(f"{where}: no tab between phrase and written form: {line.strip()!r}")
            if "\t" in written.strip():
                raise LexiconError(f"{where}: more than one tab: {line.strip()!r}")
            lexicon._add(phrase, written, where)
        return lexicon

    @classmethod
    def of(cls, value: Lexicon | Mapping[str, str] | str | os.PathLike[str] | None) -> Lexicon:
        """A lexicon from whatever describes one: a file, a mapping, nothing."""
        if isinstance(value, Lexicon):
            return value
        if value is None or isinstance(value, Mapping):
            return cls(value)
        if isinstance(value, (str, os.PathLike)):
            return cls.load(value)
        raise LexiconError(f"a lexicon is a mapping of phrases to written forms or a file, not a {type(value).__name__}")

    def __len__(self) -> int:
        return self.size

    def _add(self, phrase: str, written: str, where: str) -> None:
        words = phrase.split()
        written = written.strip()
        if not words:
            raise LexiconError(f"{where}: the phrase is empty")
        if not written:
            raise LexiconError(f"{where}: the written form of {' '.join(words)!r} is empty")
        if "\n" in written or "\r" in written:
            raise LexiconError(f"{where}: the written form has more than one line")
        if len(words) > MAX_WORDS:
            raise LexiconError(f"{where}: a phrase has at most {MAX_WORDS} words, this one has {len(words)}")
        node = self.trie
        for word in words:
            node = node.setdefault(key(word), {})
        known = node.setdefault(_WRITTEN, written)
        if known != written:
            raise LexiconError(f"{where}: {' '.join(words)!r} is already written {known!r}, now {written!r}")
        self.size += 1


@dataclass(frozen=True)
class Category:
    """An FST of the user's own.

    The tagger knows only the categories it was trained on, so a new one needs trigger phrases: after a trigger, the
    longest run of words that the FST accepts becomes a span. Those words are held back until it is known.

    Attributes:
        fst: a file: spoken -> written, over bytes, of type ``vector`` (as pynini writes it).
        trigger: phrases that stand right before a span, such as "license plate"; they stay as they are.
        max_words: of a span, at most 12.
    """

    fst: str | os.PathLike[str]
    trigger: tuple[str, ...] = ()
    max_words: int = MAX_WORDS

    def __post_init__(self) -> None:
        if not isinstance(self.fst, (str, os.PathLike)):
            raise ItnError(f"the FST of a category is a file, not a {type(self.fst).__name__}")
        trigger = (self.trigger,) if isinstance(self.trigger, str) else self.trigger
        trigger = tuple(trigger) if isinstance(trigger, Iterable) else (None,)
        if not all(isinstance(phrase, str) for phrase in trigger):
            raise ItnError(f"the triggers of the category of {self.fst} must be phrases, not {self.trigger!r}")
        object.__setattr__(self, "trigger", trigger)
        if type(self.max_words) is not int or not 1 <= self.max_words <= MAX_WORDS:
            raise ItnError(f"max_words of a category must be from 1 to {MAX_WORDS}, not {self.max_words!r}")
        if not all(phrase.split() for phrase in self.trigger):
            raise ItnError(f"a trigger of the category of {self.fst} is empty")


@dataclass(frozen=True)
class Match:
    """The next ``length`` words are written so, whatever the tagger says."""

    length: int
    category: str
    written: str


class Matcher:
    """Finds phrases and triggered spans in a stream of words, leftmost first, each the longest.

    A word is resolved as soon as no phrase that may still come can take it: at most 11 words later.

    Args:
        lexicon: phrases.
        hooks: category -> its triggers and length.
        convert: (category, words) -> written form or None.
    """

    def __init__(
        self,
        lexicon: Lexicon,
        hooks: Mapping[str, Category],
        convert: Callable[[str, Sequence[str]], str | None],
    ):
        self._trie = lexicon.trie
        self._triggers = [
            (tuple(key(word) for word in phrase.split()), name, hook.max_words)
            for name, hook in hooks.items()
            for phrase in hook.trigger
        ]
        self._convert = convert
        self._words: deque[str] = deque()  # not yet resolved
        self._before: deque[str] = deque(maxlen=max((len(t[0]) for t in self._triggers), default=0))

    def push(self, word: str) -> Iterator[Match | None]:
        """Take a word; what is known now of the words not resolved before, in order: a match, or None for one word."""
        if not self._trie and not self._triggers:
            yield None
            return
        self._words.append(word)
        yield from self._resolve(ended=False)

    def finish(self) -> Iterator[Match | None]:
        """No more words come."""
        yield from self._resolve(ended=True)
        self._before.clear()

    def _resolve(self, ended: bool) -> Iterator[Match | None]:
        while self._words:
            match = self._phrase(ended)
            if match is None:
                match = self._triggered(ended)
            if match is _WAIT:
                return
            for _ in range(match.length if match else 1):
                self._before.append(key(self._words.popleft()))
            yield match

    def _phrase(self, ended: bool) -> Match | None:
        node, length, written = self._trie, 0, ""
        for n, word in enumerate(self._words, 1):
            above, node = node, node.get(key(word), _NOTHING)
            if _WRITTEN in node:
                length, written = n, node[_WRITTEN]
            elif (ending := ENDING.search(word[-20:])) and len(ending[0]) < len(word):
                last = above.get(key(word[: -len(ending[0])]), _NOTHING)
                if _WRITTEN in last:
                    length, written = n, behind(last[_WRITTEN], ending[0])
            if not node.keys() - {_WRITTEN}:
                break
        else:
            if not ended:
                return _WAIT
        return Match(length, "lexicon", written) if length else None

    def _triggered(self, ended: bool) -> Match | None:
        before = tuple(self._before)
        for trigger, name, longest in self._triggers:
            if before[-len(trigger) :] != trigger:
                continue
            if len(self._words) < longest and not ended:
                return _WAIT
            words = list(self._words)[:longest]
            for n in range(len(words), 0, -1):
                written = self._convert(name, words[:n])
                if written is not None:
                    return Match(n, name, written)
        return None


_WAIT = Match(0, "", "")  # it depends on words that have not come
_NOTHING: dict[str, Any] = {}


def key(word: str) -> str:
    """A word as the trie keeps it."""
    return word.casefold().replace("’", "'")


def behind(written: str, ending: str) -> str:
    """A written form with the punctuation that follows it; the stop of "e.g." also ends the sentence."""
    return written + (ending[1:] if written.endswith(".") and ending[:1] == "." else ending)
