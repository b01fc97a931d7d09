"""Where a segment ends: after silence, at the endpoint token, or at a word boundary once it has become long.

An endpoint only cuts the list of words. The encoder state and, by default, the predictor's context live on, so that the
words are those of one long recording: none is lost, doubled or changed by the cut (the complaints about hard resets:
sherpa-onnx #1629, #1700, #2061). Everything is counted in encoder frames of 40 ms, never in chunks or blocks, so the
cuts are the same for any block size and for offline decoding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from asr.decoding.results import Segment
from asr.decoding.words import FRAME_SECONDS, WordBuilder
from asr.errors import UserError

PAUSE_FRAMES = 10  # a segment beyond its longest duration ends at the first pause of 0.4 s
NEVER = 1 << 62  # encoder frames


@dataclass(frozen=True)
class EndpointConfig:
    """When to end a segment."""

    trailing_silence: float | None = 0.8  # seconds without a symbol after a word; None: never
    max_segment: float | None = (
        20.0  # seconds from the first word, then the next word opens a segment; None: never
    )
    reset_predictor: bool = False  # forget the predictor's context at an endpoint (the words may then change)

    def __post_init__(self) -> None:
        for name in ("trailing_silence", "max_segment"):
            value = getattr(self, name)
            if value is not None and not FRAME_SECONDS <= value < math.inf:
                raise UserError(f"endpoint {name} must be at least {FRAME_SECONDS} seconds and finite, not {value}")


NO_ENDPOINT = EndpointConfig(trailing_silence=None, max_segment=None)


class Segmenter:
    """Cuts one stream of symbols into segments; holds the current segment only.

    A word is cut only if it outlives twice ``max_segment``, which bounds the memory of a stream whatever a model emits.
    """

    def __init__(self, tokenizer: Any, config: EndpointConfig):
        self.current = WordBuilder(tokenizer)
        self._endpoint_id = tokenizer.endpoint_id
        self._silence = _frames(config.trailing_silence)
        self._longest = _frames(config.max_segment)
        self._first = 0  # frame of the segment's first symbol
        self._deadline = NEVER  # the frame which, if silent, ends the segment

    def emit(self, frame: int, token: int, log_prob: float) -> list[Segment]:
        """A symbol (never blank) emitted at an encoder frame of the stream; the segments this ends, 0 to 2."""
        ended = self.advance(frame - 1)
        if token == self._endpoint_id:
            return ended + self.flush()
        age = frame - self._first
        if self.current and age >= self._longest:
            if self.current.starts_word(token) or age >= 2 * self._longest:
                ended += self.flush()
        if not self.current:
            self._first = frame
        self.current.add(token, frame, log_prob)
        self._deadline = min(
            frame + self._silence, max(self._first + self._longest, frame + min(PAUSE_FRAMES, self._silence))
        )
        return ended

    def advance(self, frame: int) -> list[Segment]:
        """Everything up to and including ``frame`` has been decoded; the segment that silence has ended, if any."""
        return self.flush() if frame >= self._deadline else []

    def flush(self) -> list[Segment]:
        """End the current segment, if it has a word."""
        self._deadline = NEVER
        words = self.current.take()
        return [Segment.of(words)] if words else []


def _frames(seconds: float | None) -> int:
    return NEVER if seconds is None else max(1, round(seconds / FRAME_SECONDS))
