"""Words as people write them: the package `itn` behind a session, loaded only when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from asr.decoding.results import Segment, Transcript, Word
from asr.errors import UserError

if TYPE_CHECKING:
    from itn.normalizer import Normalizer
    from itn.stream import Span


def as_normalizer(itn: Any) -> Normalizer | None:
    """What ``itn=`` means: False or None: nothing, True: the profile for readers, a profile's name or folder, or a normaliser.

    Raises:
        UserError: no such profile, a part of `itn` is missing, or something else was given.
    """
    if itn is None or itn is False:
        return None
    if itn is True or isinstance(itn, (str, os.PathLike)):
        return load_normalizer("prose" if itn is True else os.fspath(itn))
    if hasattr(itn, "stream") and hasattr(itn, "normalize"):
        normalizer: Normalizer = itn
        return normalizer
    raise UserError(f"itn is True, the name of a profile or an itn.Normalizer, not a {type(itn).__name__}")


@lru_cache(maxsize=8)
def load_normalizer(profile: str, lexicon: str | None = None) -> Normalizer:
    """A normaliser of a profile, with a file of the user's phrases; the same one for the same names.

    Raises:
        UserError: no such profile, a part of `itn` is missing, or a bad line in the file.
    """
    from itn import ItnError, Normalizer

    try:
        return Normalizer(profile, lexicon=lexicon)
    except ItnError as error:
        raise UserError(str(error)) from None


class SegmentWriter:
    """Writes the segments of one stream, one after the other; a segment ends what is said, as an endpoint does."""

    def __init__(self, normalizer: Normalizer):
        self._normalizer = normalizer
        self._begin()

    def _begin(self) -> None:
        self._stream = self._normalizer.stream()
        self._words: list[str] = []  # pushed
        self._spans: list[Span] = []

    def partial(self, words: Sequence[Word], unstable: Sequence[Word] = ()) -> str:
        """What to show of a segment whose first words, which do not change any more, are these.

        All words are in it: those that may still become part of a number, and the unstable ones, are as spoken.
        """
        for word in words[len(self._words) :]:
            self._spans += self._stream.push(word.word, word.start, word.end).spans
            self._words.append(word.word)
        return " ".join(filter(None, (self._stream.known, *(word.word for word in unstable))))

    def segment(self, segment: Segment) -> Segment:
        """The finished segment with its written text and spans, whose times are those of its words."""
        if self._words != [word.word for word in segment.words[: len(self._words)]]:
            self._begin()  # rescoring has changed its mind
        self.partial(segment.words)
        self._spans += self._stream.finish().spans
        spans = [
            replace(span, start_time=segment.words[span.start].start, end_time=segment.words[span.end - 1].end)
            for span in self._spans
        ]
        written = replace(segment, written=self._stream.text, spans=tuple(spans))
        self._begin()
        return written


def written_transcript(normalizer: Normalizer, transcript: Transcript) -> Transcript:
    """A transcript with the written text and the spans of its segments."""
    writer = SegmentWriter(normalizer)
    segments = [writer.segment(segment) for segment in transcript.segments]
    written = Transcript.of(transcript.audio, segments, transcript.duration)
    return written if segments else replace(written, written="")
