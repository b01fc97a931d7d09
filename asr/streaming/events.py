"""What a session tells the application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asr.decoding.results import Segment, Word

if TYPE_CHECKING:
    from itn.stream import Span


@dataclass(frozen=True)
class Partial:
    """The words of the current segment so far.

    Attributes:
        text: the words, separated by spaces.
        words: with start and end in seconds of the stream and confidence.
        stable: how many leading words can no longer change; only the word after them may still grow.
        written: with ITN the same words as people write them, else None. What is settled is written and hardly ever
            revised; the words at the end that may still become part of a number are as spoken, and may change.
    """

    text: str
    words: tuple[Word, ...]
    stable: int
    written: str | None = None

    @property
    def shown(self) -> str:
        """The written text, or the words where there is none."""
        return self.text if self.written is None else self.written


@dataclass(frozen=True)
class Final:
    """A finished segment: it is handed out once, will not change, and the session forgets it.

    Attributes:
        text: the words, separated by spaces.
        words: with start and end in seconds of the stream and confidence.
        start, end: of the first and last word, in seconds of the stream.
        written: with ITN the text as people write it, else None.
        spans: with ITN what was converted: range in ``words``, category, spoken, written, times in seconds.
        reason: why the segment ended: ``silence``, ``token``, ``length`` or ``end`` (`EndpointConfig`).
    """

    text: str
    words: tuple[Word, ...]
    start: float
    end: float
    written: str | None = None
    spans: tuple[Span, ...] = ()
    reason: str = "end"

    @property
    def stable(self) -> int:
        """Every word is stable."""
        return len(self.words)

    @property
    def segment(self) -> Segment:
        """The same as a piece of a transcript."""
        return Segment(self.text, self.start, self.end, self.words, self.written, self.spans, self.reason)

    @property
    def shown(self) -> str:
        """The written text, or the words where there is none."""
        return self.segment.shown

    @staticmethod
    def of(segment: Segment) -> Final:
        """The event that hands out ``segment``."""
        return Final(
            segment.text, segment.words, segment.start, segment.end, segment.written, segment.spans, segment.reason
        )


Event = Partial | Final
