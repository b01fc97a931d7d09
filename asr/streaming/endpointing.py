"""Where a segment ends: after silence, at the endpoint token, or at a word boundary once it has become long.

An endpoint only cuts the list of words. The encoder state and, by default, the predictor's context live on, so that the
words are those of one long recording: none is lost, doubled or changed by the cut (the complaints about hard resets:
sherpa-onnx #1629, #1700, #2061). Where a rule cuts between two pieces of a word, the next segment `continues` it, and transcripts
join the two. Everything is counted in encoder frames of 40 ms, never in chunks or blocks, so the cuts are the same for any block
size and for offline decoding.

The rules together (`EndpointConfig` holds all of them):

- *endpoint token*: the model says `<eou>`, and is sure enough of it (``token_threshold``). It ends a segment at once,
  however short. A model without the token has only the other rules.
- *silence*: no symbol for ``trailing_silence`` after words that took at least ``min_speech``.
- *length*: ``max_segment`` after its first word a segment ends at the next word boundary or the next pause of 0.4 s.
- *end*: the stream is over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from asr.decoding.results import Segment, Symbol
from asr.decoding.words import FRAME_SECONDS, NEVER, WordBuilder, frames, seconds
from asr.errors import UserError

PAUSE_FRAMES = 10  # a segment beyond its longest duration ends at the first pause of 0.4 s


@dataclass(frozen=True)
class EndpointConfig:
    """When to end a segment.

    Whatever silence is set, an application hears of it when the encoder has seen it: a chunk and its look-ahead later.
    Raises UserError for a number that cannot be.
    """

    trailing_silence: float | None = 0.8  # seconds without a symbol after a word; None: never
    max_segment: float | None = (
        20.0  # seconds from the first word, then the next word opens a segment; None: never
    )
    reset_predictor: bool = False  # forget the predictor's context at an endpoint (the words may then change), unless the next
    # segment has begun in its chunk
    min_speech: float = 0.0  # seconds from the first to the last symbol before silence may end a segment; a shorter one
    # waits for more words, for the token or for max_segment
    use_token: bool = True  # whether the model's endpoint token, if it has one, ends a segment
    token_threshold: float = 0.0  # the token's least probability at its emission, 0 … 1; an unsure token is no word

    def __post_init__(self) -> None:
        for name in ("trailing_silence", "max_segment"):
            value = getattr(self, name)
            if value is not None and not FRAME_SECONDS <= value < math.inf:
                raise UserError(f"endpoint {name} must be at least {FRAME_SECONDS} seconds and finite, not {value}")
        if not 0.0 <= self.min_speech < math.inf:
            raise UserError(f"endpoint min_speech must be 0 seconds or more and finite, not {self.min_speech}")
        if self.max_segment is not None and self.min_speech > self.max_segment:
            raise UserError(
                f"endpoint min_speech ({self.min_speech:g} s) is longer than max_segment ({self.max_segment:g} s): "
                "no silence would ever end a segment"
            )
        if not 0.0 <= self.token_threshold <= 1.0:
            raise UserError(f"endpoint token_threshold is a probability from 0 to 1, not {self.token_threshold}")


NO_ENDPOINT = EndpointConfig(trailing_silence=None, max_segment=None)


class Segmenter:
    """Cuts one stream of symbols into segments; holds the current segment only.

    Length cuts a word only if it outlives twice ``max_segment``, which bounds the memory of a stream whatever a model emits.
    """

    def __init__(self, tokenizer: Any, config: EndpointConfig):
        self.current = WordBuilder(tokenizer)
        self._tokenizer = tokenizer
        self._endpoint_id = tokenizer.endpoint_id
        self._silence = frames(config.trailing_silence)
        self._longest = frames(config.max_segment)
        self._least = round(config.min_speech / FRAME_SECONDS)
        self._use_token = config.use_token
        self._token_log_prob = math.log(config.token_threshold) if config.token_threshold else -math.inf
        self._symbols: list[Symbol] = []  # of the current segment, and endpoint tokens that ended none
        self.first = 0  # frame of the current segment's first symbol
        self._deadline = NEVER  # the frame which, if silent, ends the segment
        self._reason = "silence"  # why it will
        self._cut = False  # a segment has ended, and its last word may go on
        self._continues = False  # the current segment began with the rest of a word

    def emit(self, frame: int, token: int, log_prob: float) -> list[Segment]:
        """A symbol (never blank) emitted at an encoder frame of the stream; the segments this ends, 0 to 2.

        ``log_prob``: the model's own, natural logarithm, whatever the search added to it.
        """
        ended = self.advance(frame - 1)
        symbol = Symbol(token, frame, log_prob)
        if token == self._endpoint_id:
            self._symbols.append(symbol)
            if self._use_token and log_prob >= self._token_log_prob:
                ended += self.flush(frame + 1, "token")
            return ended
        age = frame - self.first
        if self.current and age >= self._longest:
            if self.current.starts_word(token) or age >= 2 * self._longest:
                ended += self.flush(frame, "length")
        if not self.current:
            self.first = frame
            self._continues = self.continues_with(token)
        elif self._continues and self.current.starts_word(token) and not self.current.words():
            self._continues = False  # it began with symbols without a text
        self._symbols.append(symbol)
        self.current.add(token, frame, log_prob)
        enough = frame + 1 - self.first >= self._least
        silence = frame + self._silence if enough else NEVER
        length = max(self.first + self._longest, frame + min(PAUSE_FRAMES, self._silence))
        self._deadline = min(silence, length)
        self._reason = "silence" if silence <= length else "length"
        return ended

    def continues_with(self, token: int) -> bool:
        """Whether the current segment, or one that this symbol begins, goes on with the last word of the segment before."""
        return self._continues if self.current else self._cut and not self._tokenizer.is_word_start(token)

    def advance(self, frame: int) -> list[Segment]:
        """Everything up to and including ``frame`` has been decoded; the segment that silence has ended, if any."""
        return self.flush(self._deadline + 1, self._reason) if frame >= self._deadline else []

    def flush(self, frame: int, reason: str = "end") -> list[Segment]:
        """End the current segment, if it has a word, with what was heard before encoder frame ``frame``; ``reason``: see `Segment`."""
        self._deadline = NEVER
        if self.current:
            self._cut = not self.current.at_boundary
        words = self.current.take()
        if not words:
            return []
        symbols, self._symbols = tuple(self._symbols), []
        # a word that opens a segment may come in the frame in which the one before was finished
        closed = seconds(max(frame, symbols[-1].frame + 1))
        return [replace(Segment.of(words, reason), closed=closed, symbols=symbols, continues=self._continues)]
