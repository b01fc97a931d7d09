"""What a session tells the application."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from asr.decoding.results import Alternative, Segment, Symbol, Word

if TYPE_CHECKING:
    from asr.decoding.confusion import ConfusionNetwork
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
        continues: as in `Final`.
    """

    text: str
    words: tuple[Word, ...]
    stable: int
    written: str | None = None
    continues: bool = False

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
        closed: when the rule ended it, seconds of the stream; an application hears of it a chunk and its look-ahead later, with
            a beam as soon as its hypotheses agree on what has ended.
        alternatives, confusion: what else it may have been, if asked for (`Details`).
        symbols: what the words were made of.
        continues: the first word is the rest of the last word of the segment before: no space belongs between them.
    """

    text: str
    words: tuple[Word, ...]
    start: float
    end: float
    written: str | None = None
    spans: tuple[Span, ...] = ()
    reason: str = "end"
    closed: float = 0.0
    alternatives: tuple[Alternative, ...] = ()
    confusion: ConfusionNetwork | None = None
    symbols: tuple[Symbol, ...] = field(default=(), repr=False, compare=False)
    continues: bool = False

    @property
    def stable(self) -> int:
        """Every word is stable."""
        return len(self.words)

    @property
    def segment(self) -> Segment:
        """The same as a piece of a transcript."""
        return Segment(**{f.name: getattr(self, f.name) for f in fields(Segment)})

    @property
    def shown(self) -> str:
        """The written text, or the words where there is none."""
        return self.segment.shown

    @staticmethod
    def of(segment: Segment) -> Final:
        """The event that hands out ``segment``."""
        return Final(**{f.name: getattr(segment, f.name) for f in fields(Segment)})


Event = Partial | Final
