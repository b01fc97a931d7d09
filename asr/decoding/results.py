"""What recognition gives back, and how it is written: txt, json, srt, vtt, ctm.

Times are seconds from the start of the stream. A transducer tells when it emits, not when a sound began: a word starts
with the 40 ms encoder frame that emitted its first symbol and ends with the frame that emitted its last one, so
0 <= start < end <= start of the next word (a full beam may emit two words in one frame, which then share it). Emission trails the sound (the frame has seen its chunk and the look-ahead),
which is why both times are late rather than early. A word's confidence is the geometric mean of the probabilities of
its symbols, each given the symbols before it: between 0 and 1, not calibrated. `asr.streaming.details` has better ones of both, and
what else might have been said.

Where text was asked for as people write it (package `itn`), txt, json, srt and vtt show the written text; words stay as spoken,
and spans say which of them were written another way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.decoding.confusion import ConfusionNetwork
    from itn.stream import Span


@dataclass(frozen=True)
class Symbol:
    """An emitted symbol: id, encoder frame of the stream, the model's log-probability."""

    token: int
    frame: int
    log_prob: float


@dataclass(frozen=True)
class Word:
    """One word: text, start and end in seconds of the stream, confidence in 0 … 1."""

    word: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Alternative:
    """A way to read a segment: words, natural logarithm of its score in the search, share of the probability (0 … 1) of those
    that are listed."""

    text: str
    score: float
    posterior: float


@dataclass(frozen=True)
class Segment:
    """Words between two endpoints; start of the first and end of the last, in seconds of the stream.

    With ITN, ``written`` is the written text, and ``spans`` are the conversions with the range of their words and times.
    ``reason`` says why the segment ended: ``silence``, ``token`` (the model's endpoint token), ``length``, or ``end`` of the
    stream; ``continues``: its first word is the rest of the last word of the segment before, since the rule ended that one between the
    pieces of a word. ``closed`` is when: seconds of the stream that had been heard, to the frame, when the rule ended it. ``alternatives``, the best
    first, and the ``confusion`` network are there if they were asked for (`asr.streaming.details`). ``symbols`` are what the words
    were made of, the model's endpoint tokens included.
    """

    text: str
    start: float
    end: float
    words: tuple[Word, ...] = ()
    written: str | None = None
    spans: tuple[Span, ...] = ()
    reason: str = "end"
    closed: float = 0.0
    alternatives: tuple[Alternative, ...] = ()
    confusion: ConfusionNetwork | None = None
    symbols: tuple[Symbol, ...] = field(default=(), repr=False, compare=False)
    continues: bool = False

    @property
    def shown(self) -> str:
        """The written text, or the words where there is none."""
        return self.text if self.written is None else self.written

    def pieces(self) -> list[tuple[str, float, float]]:
        """(text, start, end) of what is shown, in order: words outside spans, and spans, which nothing may cut."""
        pieces, at = [], 0
        for span in self.spans:
            pieces += [(word.word, word.start, word.end) for word in self.words[at : span.start]]
            pieces.append((span.written, self.words[span.start].start, self.words[span.end - 1].end))
            at = span.end
        return pieces + [(word.word, word.start, word.end) for word in self.words[at:]]

    def joins(self, before: Segment) -> bool:
        """Whether the last word of ``before`` goes on here; what was written another way is no part of a word any more."""
        written = any(span.end == len(before.words) for span in before.spans) or any(span.start == 0 for span in self.spans)
        return self.continues and not written

    @staticmethod
    def of(words: Sequence[Word], reason: str = "end") -> Segment:
        """The segment of at least one word."""
        text = " ".join(word.word for word in words)
        return Segment(text, words[0].start, words[-1].end, tuple(words), reason=reason)


@dataclass(frozen=True)
class Transcript:
    """One recording: its name, the whole text, all words, and the segments they were spoken in.

    ``written`` and ``spans`` as in `Segment`; spans count the words of the recording.
    """

    audio: str
    text: str
    words: tuple[Word, ...] = ()
    segments: tuple[Segment, ...] = ()
    duration: float = 0.0  # seconds of audio heard; not part of the JSON
    written: str | None = None
    spans: tuple[Span, ...] = ()

    @property
    def shown(self) -> str:
        """The written text, or the words where there is none."""
        return self.text if self.written is None else self.written

    @staticmethod
    def of(audio: str, segments: Sequence[Segment], duration: float = 0.0) -> Transcript:
        """The transcript that consists of ``segments``; a word that goes on in the next of them is one word."""
        words: list[Word] = []
        spans: list[Span] = []
        text = written = ""
        before: Segment | None = None
        for segment in segments:
            first = len(words)
            if joined := before is not None and segment.joins(before):
                begun, rest = words.pop(), segment.words[0]
                words.append(Word(begun.word + rest.word, begun.start, rest.end, min(begun.confidence, rest.confidence)))
                first -= 1
            words += segment.words[joined:]
            spans += [replace(span, start=first + span.start, end=first + span.end) for span in segment.spans]
            gap = "" if joined or not text else " "
            text += gap + segment.text
            written += gap + segment.shown
            before = segment
        if all(segment.written is None for segment in segments):
            return Transcript(audio, text, tuple(words), tuple(segments), duration)
        return Transcript(audio, text, tuple(words), tuple(segments), duration, written, tuple(spans))

    def to_dict(self) -> dict[str, Any]:
        """``{audio, text, words: [{word, start, end, confidence}], segments: [{text, start, end, closed, reason}]}``; where one goes on with
        a word of the segment before, ``continues: true``.

        With ITN every ``text`` is the written one, ``spoken`` beside it the words, and there are ``spans: [{start, end,
        category, spoken, written, start_time, end_time}]``; their start and end count ``words``. Segments have ``alternatives:
        [{text, score, posterior}]`` and ``confusion`` (`ConfusionNetwork.to_dict`) if they were asked for.
        """
        found: dict[str, Any] = {"audio": self.audio, **_texts(self)}
        found["words"] = [
            {"word": w.word, "start": w.start, "end": w.end, "confidence": round(w.confidence, 4)}
            for w in self.words
        ]
        if self.written is not None:
            found["spans"] = [asdict(span) for span in self.spans]
        found["segments"] = [_segment_dict(segment) for segment in self.segments]
        return found


def _segment_dict(segment: Segment) -> dict[str, Any]:
    found: dict[str, Any] = {**_texts(segment), "start": segment.start, "end": segment.end}
    found |= {"closed": segment.closed, "reason": segment.reason}
    if segment.continues:
        found["continues"] = True
    if segment.confusion is not None:
        found["alternatives"] = [
            {"text": a.text, "score": round(a.score, 3), "posterior": round(a.posterior, 4)} for a in segment.alternatives
        ]
        found["confusion"] = segment.confusion.to_dict()["slots"]
    return found


def _texts(part: Segment | Transcript) -> dict[str, str]:
    return {"text": part.text} if part.written is None else {"text": part.shown, "spoken": part.text}


class Writer:
    """A way to write transcripts; `render` gives the whole file, newline at its end."""

    name = ""
    several = True  # whether one file can hold several recordings

    def render(self, transcripts: Sequence[Transcript], several: bool | None = None) -> str:
        """The content of one file.

        Args:
            transcripts: the recordings.
            several: write the form for several recordings; None: if there is not exactly one.

        Raises:
            ValueError: the format holds one recording a file and got several.
        """
        if len(transcripts) != 1 and not self.several:
            raise ValueError(f"a {self.name} file holds one recording, not {len(transcripts)}")
        return self.body(transcripts, len(transcripts) != 1 if several is None else several)

    def body(self, transcripts: Sequence[Transcript], several: bool) -> str:
        """What `render` gives, checked."""
        raise NotImplementedError


class TxtWriter(Writer):
    """The text alone, one line a recording; with several recordings each line starts with ``name: ``."""

    name = "txt"

    def body(self, transcripts: Sequence[Transcript], several: bool) -> str:
        if not several:
            return transcripts[0].shown + "\n"
        return "".join(f"{t.audio}: {t.shown}".rstrip() + "\n" for t in transcripts)


class JsonWriter(Writer):
    """One object a recording, a list when there are several."""

    name = "json"

    def body(self, transcripts: Sequence[Transcript], several: bool) -> str:
        objects = [transcript.to_dict() for transcript in transcripts]
        return json.dumps(objects if several else objects[0], indent=2, ensure_ascii=False) + "\n"


class SubtitleWriter(Writer):
    """Cues of limited length, cut between words; one recording a file."""

    several = False
    max_seconds = 6.0
    max_characters = 84  # two lines of 42, the usual limit
    min_seconds = 0.5  # a word emitted by one symbol spans one frame: nobody can read 40 ms

    def cues(self, transcript: Transcript) -> list[tuple[float, float, str]]:
        """(start, end, text) of every cue, in order and without overlap."""
        groups: list[list[tuple[str, float, float]]] = []
        for before, segment in zip((None, *transcript.segments), transcript.segments):
            length = 0
            for i, piece in enumerate(segment.pieces()):
                text, _, end = piece
                fits = (
                    length + 1 + len(text) <= self.max_characters
                    and groups
                    and end - groups[-1][0][1] <= self.max_seconds
                )
                if not i and before is not None and segment.joins(before):
                    begun = groups[-1].pop()
                    groups[-1].append((begun[0] + text, begun[1], end))
                    length = sum(1 + len(text) for text, _, _ in groups[-1]) - 1
                elif i and fits:
                    groups[-1].append(piece)
                    length += 1 + len(text)
                else:
                    groups.append([piece])
                    length = len(text)
        cues = []
        for group, following in zip_longest(groups, groups[1:]):  # the last has none to follow
            start = group[0][1]
            end = max(group[-1][2], start + self.min_seconds)
            if following is not None:
                end = min(end, following[0][1])
            cues.append((start, end, " ".join(text for text, _, _ in group)))
        return cues


class SrtWriter(SubtitleWriter):
    """SubRip subtitles."""

    name = "srt"

    def body(self, transcripts: Sequence[Transcript], several: bool) -> str:
        cues = self.cues(transcripts[0])
        return "".join(
            f"{i}\n{clock(start, ',')} --> {clock(end, ',')}\n{text}\n\n"
            for i, (start, end, text) in enumerate(cues, 1)
        )


class VttWriter(SubtitleWriter):
    """WebVTT subtitles."""

    name = "vtt"

    def body(self, transcripts: Sequence[Transcript], several: bool) -> str:
        cues = self.cues(transcripts[0])
        return "WEBVTT\n\n" + "".join(
            f"{clock(start, '.')} --> {clock(end, '.')}\n{text}\n\n" for start, end, text in cues
        )


class CtmWriter(Writer):
    """NIST CTM: ``recording channel start duration word confidence``, one line a word."""

    name = "ctm"

    def body(self, transcripts: Sequence[Transcript], several: bool) -> str:
        lines = []
        for transcript in transcripts:
            # the fields are separated by spaces, so the name of the recording must not hold one
            recording = PurePath(transcript.audio).stem.replace(" ", "_") or "-"
            for w in transcript.words:
                lines.append(
                    f"{recording} 1 {w.start:.2f} {w.end - w.start:.2f} {w.word} {w.confidence:.4f}\n"
                )
        return "".join(lines)


WRITERS: dict[str, Writer] = {
    w.name: w for w in (TxtWriter(), JsonWriter(), SrtWriter(), VttWriter(), CtmWriter())
}


def clock(seconds: float, point: str) -> str:
    """``01:02:03.450`` with ``point`` before the milliseconds."""
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
