"""Recordings recognised one after another with their words shown as they come: what ``--streaming`` does in a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TextIO

from asr.decoding.results import Segment, Transcript
from asr.errors import UserError
from asr.streaming.details import Details
from asr.streaming.endpointing import EndpointConfig
from asr.streaming.events import Event, Final, Partial
from asr.streaming.recognizer import Recognizer
from asr.streaming.sources import as_sources

BLOCK_SECONDS = 0.16  # how often a file is read on; a pipe decides for itself


class Display:
    """Shows events: in a terminal the partial result is rewritten in place, elsewhere each is a line of its own."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.terminal = stream.isatty()

    def show(self, event: Event) -> None:
        """Show one event."""
        rest = "…" if event.continues else ""  # of a word that the line before began
        if isinstance(event, Partial):
            text = rest + event.shown
            if self.terminal:
                room = shutil.get_terminal_size().columns - 1
                self._write("\r\033[K" + (text if len(text) <= room else "…" + text[-(room - 1) :]))
            else:
                self._write(f"partial: {text}\n")
        elif self.terminal:
            self._write(f"\r\033[K{rest}{event.shown}\n")
        else:
            self._write(f"final {event.start:.2f}-{event.end:.2f}: {rest}{event.shown}\n")

    def clear(self) -> None:
        """Remove an unfinished line."""
        if self.terminal:
            self._write("\r\033[K")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def transcribe_live(
    recognizer: Recognizer,
    inputs: Sequence[str],
    endpoint: EndpointConfig,
    partials: bool,
    text_to_stdout: bool,
    itn: Any = None,
    details: Details | None = None,
) -> Iterator[Transcript | UserError]:
    """As `Recognizer.transcribe_each` with ``streaming``, showing events on the way.

    Args:
        recognizer: from ``asr.load``.
        inputs: files or ``-``.
        endpoint: where segments end.
        partials: show events even if nobody sits at a terminal (on standard error).
        text_to_stdout: print the text of every segment as soon as it is final. The transcripts given back are then
            empty: an endless stream on standard input needs no memory.
        itn, details: as for `Recognizer.session`.
    """
    at_terminal = sys.stdout.isatty()
    display = (
        Display(sys.stdout if text_to_stdout and at_terminal else sys.stderr)
        if partials or at_terminal
        else None
    )
    several = len(inputs) > 1
    for source in as_sources(list(inputs)):
        session = recognizer.session(endpoint=endpoint, partials=display is not None, itn=itn, details=details)
        segments: list[Segment] = []
        separator = f"{source.name}: " if several else ""
        if several and text_to_stdout and at_terminal:
            print(f"{source.name}:")
        started = False
        before: Segment | None = None
        failure: UserError | KeyboardInterrupt | None = None
        blocks = source.blocks(BLOCK_SECONDS)
        while not session.finished:
            try:
                block = next(blocks, None)
                events: Sequence[Event] = session.finish() if block is None else session.accept(block)
            except (UserError, KeyboardInterrupt) as error:  # what was said before is shown
                failure = error
                events = session.finish()
            for event in events:
                if display is not None:
                    display.show(event)
                if not isinstance(event, Final):
                    continue
                if not text_to_stdout:
                    segments.append(event.segment)
                elif not at_terminal:
                    segment = event.segment
                    joins = before is not None and segment.joins(before)
                    print(("" if joins else separator) + event.shown, end="", flush=True)
                    separator, before = " ", segment
                    started = True
        if display is not None:
            display.clear()
        if text_to_stdout and not at_terminal and (started or failure is None):
            print("" if started else separator.rstrip(), flush=True)
        if isinstance(failure, KeyboardInterrupt):
            raise failure
        transcript = Transcript.of(source.name, segments, session.seconds)
        yield failure or (replace(transcript, written=transcript.written or "") if itn else transcript)
