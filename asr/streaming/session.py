"""One live stream: PCM in, words out.

A session holds a constant amount of memory however long the stream: the samples of an unfinished feature frame, the
features of an unfinished chunk, the fixed-shape model state, and the words of the current segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from asr.audio import Pcm, StreamResampler, channels_of
from asr.decoding.biasing import BiasGraph
from asr.decoding.nbest import History, Symbol
from asr.decoding.results import Segment
from asr.decoding.words import NEVER
from asr.errors import UserError
from asr.features import NUM_MEL_BINS, SAMPLE_RATE, SUBSAMPLING, StreamingFbank
from asr.streaming.details import Details
from asr.streaming.endpointing import EndpointConfig, Segmenter
from asr.streaming.events import Event, Final, Partial
from asr.streaming.written import SegmentWriter

if TYPE_CHECKING:
    from asr.streaming.recognizer import Recognizer, StateBatch
    from itn.normalizer import Normalizer

BLOCK_SECONDS = 5  # larger blocks are worked off in pieces, so that a call with an hour of audio stays small


class Session:
    """A stream of audio and its words; made by `Recognizer.session`.

    `accept` and `finish` recognise as they go. To step many sessions as one batch, `feed` them (and `end` them), and
    let `Recognizer.step_sessions` run whichever have a full chunk. A session is used by one thread at a time, sessions
    stepped together by the same thread.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        endpoint: EndpointConfig,
        partials: bool = True,
        normalizer: Normalizer | None = None,
        details: Details | None = None,
    ):
        self.recognizer = recognizer
        self.endpoint = endpoint
        self.states: StateBatch | None = None  # holds this stream's model state; None: the initial state
        self._partials = partials
        self._writer = SegmentWriter(normalizer) if normalizer else None
        self._segmenter = Segmenter(recognizer.tokenizer, endpoint)
        self.details = recognizer.segment_details(details)
        self._fbank = StreamingFbank(recognizer.fbank)
        self._features = torch.zeros(0, NUM_MEL_BINS)  # (T, 80), from the first frame of the next chunk
        self._resampler: StreamResampler | None = None  # known from the first block on
        self._received = 0  # samples a channel of the input
        self._frame = 0  # encoder frames decoded
        self._ended = False  # no more input
        self._finished = False  # every event has been handed out
        self._ahead: tuple[tuple[int, int, float], ...] = ()  # symbols shown that may still change
        self._stable = 0  # words of the current segment that were said to be stable
        self.slot: int | None = None  # of its own phrases
        self.release: Callable[[], object] = lambda: None  # gives them back
        self.history = History() if recognizer.search.kind != "greedy" else None

    @property
    def seconds(self) -> float:
        """Audio received so far."""
        return self._received / self._resampler.rate_in if self._resampler else 0.0

    @property
    def finished(self) -> bool:
        """Whether the stream has ended and all its words have been handed out."""
        return self._finished

    @property
    def ready(self) -> bool:
        """Whether a step of the model is due: a whole chunk with its look-ahead is there, or the end of the stream."""
        if self._ended:
            return not self._finished
        return self._features.size(0) >= self.recognizer.window_frames

    def set_phrases(self, phrases: Any) -> BiasGraph:
        """From the next chunk on, prefer these phrases, and those before no more.

        A phrase that is being said goes on if it is in the new list, too, so a list may be sent again with every small change. Ten thousand
        phrases take about a quarter of a second to compile: `Recognizer.phrases` does that in another thread.

        Args:
            phrases: all that `asr.decoding.biasing.Phrases.of` takes, or a graph of `Recognizer.phrases`, which sessions can share.

        Returns:
            The compiled phrases; ``refused`` are those that the model's tokens cannot spell.

        Raises:
            UserError: no list of phrases, or the recogniser was made without (an empty list is enough).
        """
        graph = self.recognizer.phrases(phrases)
        self.recognizer.change_phrases(self, graph)
        return graph

    def accept(self, pcm: Pcm, rate: int = SAMPLE_RATE) -> list[Event]:
        """Take the next block of audio and recognise as far as it reaches.

        Args:
            pcm: any number of samples: an array or tensor of int16, int32, float32 or float64 of shape (S,) or
                (S, channels), or bytes (int16, mono; a sample may be split between blocks). A memoryview is taken by
                its format: bytes, int16, float32 or float64.
            rate: samples a second, the same for the whole stream; other rates than 16000 are resampled.

        Returns:
            Events in order: a `Partial` for every chunk that changed the current segment, a `Final` for every segment
            that ended.

        Raises:
            UserError: the session has finished, the rate or the number of channels changes, or a sample is NaN or
                infinite (named by its position in the stream). Nothing of the block has been taken then: the session
                is as it was before the call and can go on.
        """
        events: list[Event] = []
        for block in self._resample(pcm, rate):
            self._extend(self._fbank.accept(block))
            events += self._drain()
        return events

    def finish(self) -> list[Final]:
        """End the stream: decode what is left, padded with zero features, and hand out the last segments.

        Nothing of the audio is lost, and the words are those of offline decoding. Finishing again gives nothing.
        """
        self.end()
        return [event for event in self._drain() if isinstance(event, Final)]

    def feed(self, pcm: Pcm, rate: int = SAMPLE_RATE) -> None:
        """As `accept`, without recognising: the audio waits as features for `Recognizer.step_sessions`."""
        for block in self._resample(pcm, rate):
            self._extend(self._fbank.accept(block))

    def end(self) -> None:
        """As `finish`, without recognising: no more input comes."""
        if self._ended:
            return
        if self._resampler is not None:
            tail = self._resampler.finish()
            self._extend(self._fbank.accept(torch.from_numpy(tail)))
        self._extend(self._fbank.finish())
        self._ended = True

    def take_window(self) -> tuple[Tensor, int]:
        """The next chunk: features (4(U+R), 80), and how many of its encoder frames exist. Only if `ready`."""
        chunk, window = self.recognizer.chunk_frames, self.recognizer.window_frames
        features = self._features[:window]
        if features.size(0) < window:  # the end of the stream
            features = pad(features, (0, 0, 0, window - features.size(0)))
        valid = min(chunk, self._features.size(0))
        self._features = self._features[chunk:]
        return features, (valid + SUBSAMPLING - 1) // SUBSAMPLING

    @property
    def frame(self) -> int:
        """Encoder frames decoded so far."""
        return self._frame

    @property
    def speaking(self) -> bool:
        """Whether a segment has begun and not ended."""
        return bool(self._segmenter.current)

    @property
    def drained(self) -> bool:
        """Whether the window taken last was the last one of the stream."""
        return self._ended and self._features.size(0) == 0

    def take_symbols(
        self, count: int, settled: Sequence[Symbol], pending: Sequence[Symbol] = (), oldest: int = NEVER
    ) -> tuple[list[Event], bool]:
        """What the search found in ``count`` encoder frames of one chunk; the events, and whether a segment ended.

        Args:
            count: frames of the chunk.
            settled: symbols that will not change, those before them handed over earlier.
            pending: symbols that follow them in the best hypothesis.
            oldest: the first frame in which the search may still change its mind.
        """
        segments: list[Segment] = []
        for symbol in settled:
            segments += self._segmenter.emit(symbol.frame, symbol.token, symbol.log_prob)
        self._frame += count
        segments += self._segmenter.advance(min(self._frame, oldest) - 1)
        if self.drained:
            segments += self._segmenter.flush(self._frame)
            self._finished = True
        if self.details:
            segments = [self.details.finish(segment) for segment in segments]
            self.details.forget(min(oldest, self._segmenter.first if self._segmenter.current else self._frame))
        if self._writer:
            segments = [self._writer.segment(segment) for segment in segments]
        events: list[Event] = [Final.of(segment) for segment in segments]
        self._stable = 0 if segments else self._stable
        end = self.recognizer.tokenizer.endpoint_id
        ahead = tuple((s.token, s.frame, s.log_prob) for s in pending if s.token != end)
        changed = bool(settled) or ahead != self._ahead
        self._ahead = ahead
        if changed and self._partials and (self._segmenter.current or ahead):
            words = self._segmenter.current.preview(ahead)
            text = " ".join(word.word for word in words)
            stable = self._segmenter.current.done
            if self.details and self.details.undecided:
                stable = stable[: self._stable]
            self._stable = len(stable)
            written = self._writer.partial(stable, words[len(stable) :]) if self._writer else None
            continues = self._segmenter.continues_with(ahead[0][0] if ahead else 0)
            events.append(Partial(text, words, len(stable), written, continues))
        return events, bool(segments)

    def _drain(self) -> list[Event]:
        events: list[Event] = []
        while self.ready:
            events += self.recognizer.step_sessions([self])[0]
        return events

    def _resample(self, pcm: Pcm, rate: int) -> list[Tensor]:
        """The block at 16 kHz, in pieces; it is checked as a whole before any of it is taken."""
        if self._ended:
            raise UserError("the session has finished and takes no more audio: start a new session")
        resampler = self._resampler
        channels = channels_of(pcm, "stream")
        if resampler is None or self._received == 0 and channels != resampler.channels:
            resampler = StreamResampler(rate, channels=channels, name="stream")
        elif channels != resampler.channels:
            raise UserError(
                f"the number of channels of a session cannot change: it was {resampler.channels}, now {channels}"
            )
        elif rate != resampler.rate_in:
            raise UserError(
                f"the sample rate of a session cannot change: it was {resampler.rate_in} Hz, now {rate} Hz"
            )
        samples = np.array(resampler.accept(pcm), dtype=np.float32)  # a copy: a caller may reuse the buffer
        self._resampler, self._received = resampler, resampler.received
        return list(torch.from_numpy(samples).split(BLOCK_SECONDS * SAMPLE_RATE)) if len(samples) else []

    def _extend(self, features: Tensor) -> None:
        if features.size(0):
            features = features.cpu()
            self._features = torch.cat([self._features, features]) if self._features.size(0) else features
