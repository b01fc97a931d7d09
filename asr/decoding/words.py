"""From emitted symbols to words: a word begins with a piece that starts one and takes the pieces that follow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from asr.decoding.results import Word

FRAME_SECONDS = 0.04  # an encoder frame
NEVER = 1 << 60  # encoder frames


def seconds(frame: int) -> float:
    """Start of an encoder frame in seconds of the stream, without the noise of binary fractions."""
    return round(frame * FRAME_SECONDS, 3)


def frames(duration: float | None) -> int:
    """Encoder frames of so many seconds, at least one; None: never."""
    return NEVER if duration is None else max(1, round(duration / FRAME_SECONDS))


class WordBuilder:
    """Collects the symbols of one segment; words before the last one are final, the last may still grow.

    Args:
        tokenizer: ``decode(ids)`` and ``is_word_start(id)``.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.done: list[Word] = []
        self._ids: list[int] = []
        self._log_prob = 0.0
        self._start = 0
        self._end = 0

    def __bool__(self) -> bool:
        """Whether any symbol has been collected."""
        return bool(self.done or self._ids)

    def starts_word(self, token: int) -> bool:
        """Whether this symbol would begin a new word (the first symbol of a segment always does)."""
        return not self._ids or self.tokenizer.is_word_start(token)

    def add(self, token: int, frame: int, log_prob: float) -> None:
        """Take a symbol emitted at an encoder frame of the stream."""
        if self.starts_word(token):
            self._close()
            self._start = frame
        self._ids.append(token)
        self._log_prob += log_prob
        self._end = frame + 1

    @property
    def at_boundary(self) -> bool:
        """Whether the last symbol only said that a word begins."""
        return bool(self._ids) and self._growing() is None

    def words(self) -> tuple[Word, ...]:
        """All words so far, the growing one included."""
        growing = self._growing()
        return tuple(self.done) if growing is None else (*self.done, growing)

    def preview(self, symbols: Iterable[tuple[int, int, float]]) -> tuple[Word, ...]:
        """All words if these symbols (token, frame, log-probability) followed; nothing is taken."""
        ahead = WordBuilder(self.tokenizer)
        ahead.done, ahead._ids, ahead._log_prob = list(self.done), list(self._ids), self._log_prob
        ahead._start, ahead._end = self._start, self._end
        for token, frame, log_prob in symbols:
            ahead.add(token, frame, log_prob)
        return ahead.words()

    def take(self) -> tuple[Word, ...]:
        """All words, and start afresh."""
        words = self.words()
        self.done, self._ids, self._log_prob = [], [], 0.0
        return words

    def _close(self) -> None:
        growing = self._growing()
        if growing is not None:
            self.done.append(growing)
        self._ids, self._log_prob = [], 0.0

    def _growing(self) -> Word | None:
        text = self.tokenizer.decode(self._ids).strip() if self._ids else ""
        if not text:  # a lone word-boundary piece has no text
            return None
        confidence = math.exp(self._log_prob / len(self._ids))
        return Word(text, seconds(self._start), seconds(self._end), min(confidence, 1.0))
