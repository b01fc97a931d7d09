"""What a session tells the application."""

from __future__ import annotations

from dataclasses import dataclass

from asr.decoding.results import Segment, Word


@dataclass(frozen=True)
class Partial:
    """The words of the current segment so far.

    Attributes:
        text: the words, separated by spaces.
        words: with start and end in seconds of the stream and confidence.
        stable: how many leading words can no longer change; only the word after them may still grow.
    """

    text: str
    words: tuple[Word, ...]
    stable: int


@dataclass(frozen=True)
class Final:
    """A finished segment: it is handed out once, will not change, and the session forgets it.

    Attributes:
        text: the words, separated by spaces.
        words: with start and end in seconds of the stream and confidence.
        start, end: of the first and last word, in seconds of the stream.
    """

    text: str
    words: tuple[Word, ...]
    start: float
    end: float

    @property
    def stable(self) -> int:
        """Every word is stable."""
        return len(self.words)

    @property
    def segment(self) -> Segment:
        """The same as a piece of a transcript."""
        return Segment(self.text, self.start, self.end, self.words)

    @staticmethod
    def of(segment: Segment) -> Final:
        """The event that hands out ``segment``."""
        return Final(segment.text, segment.words, segment.start, segment.end)


Event = Partial | Final
