"""What a segment tells beyond its words as they were emitted: aligned times, calibrated confidence, alternatives; and rescoring.

All of it is made when a segment ends, from what the search and the encoder have left: partial results stay as they are. Sessions and whole
recordings give the same, for everything is counted in encoder frames: a segment is heard from the end of the one before it (at most
`LEAD_SECONDS` before its first symbol) to where its rule ended it.

Shapes: n encoder frames of a block, D encoder width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from asr.decoding.confidence import word_confidences
from asr.decoding.confusion import ConfusionNetwork, hypothesis_words
from asr.decoding.greedy import Hypothesis
from asr.decoding.nbest import NBest, Settled, join, own_scores
from asr.decoding.results import Alternative, Segment, Symbol, Word
from asr.decoding.word_features import EmissionStatistics, emission_statistics, word_features
from asr.decoding.words import FRAME_SECONDS, WordBuilder
from asr.errors import UserError

if TYPE_CHECKING:
    from asr.streaming.recognizer import Recognizer

LEAD_SECONDS = 3.0  # before a segment's first symbol that its words may have begun; what is older is forgotten
MOST_ALTERNATIVES = 1000


@dataclass(frozen=True)
class Details:
    """What to make of a segment when it ends. Each takes a small part of the time of recognition.

    Raises:
        UserError: a number of alternatives that cannot be.
    """

    aligned_times: bool = False  # words begin and end where they were said: needs a model with an alignment branch
    confidence: bool = False  # probability that a word is right: of the model's confidence model, else of the entropy
    alternatives: int = 0  # readings listed, and the confusion network: needs a beam

    def __post_init__(self) -> None:
        if type(self.alternatives) is not int or not 0 <= self.alternatives <= MOST_ALTERNATIVES:
            raise UserError(f"alternatives must be a whole number from 0 to {MOST_ALTERNATIVES}, not {self.alternatives!r}")

    def __bool__(self) -> bool:
        return self.aligned_times or self.confidence or self.alternatives > 0


@dataclass(frozen=True)
class _Piece:
    """A piece that the search settled: the symbols ``first … last - 1`` of the stream, and what they might have been."""

    first: int
    last: int
    frame: int  # the first one after it
    nbest: NBest  # scores of this piece alone


class SegmentDetails:
    """Fills in the segments of one stream, in their order.

    Args:
        recognizer: whose model, aligner, confidence model and rescoring are used.
        details: what to make.

    Raises:
        UserError: the model or the search has not what is asked for.
    """

    def __init__(self, recognizer: Recognizer, details: Details):
        self.details = details
        self.aligner = recognizer.aligner if details.aligned_times else None
        self.confidence_model = recognizer.confidence_model if details.confidence else None
        self._rescore = recognizer.rescore
        self._model, self._tokenizer, self._device = recognizer.model, recognizer.tokenizer, recognizer.device
        self._beam = 0 if recognizer.beam is None else max(recognizer.search.beam, details.alternatives)
        if details.aligned_times and self.aligner is None:
            name = recognizer.name or "the model"
            raise UserError(f"{name} has no alignment branch, which aligned times need: make one with asr train-branch --model {name}")
        if not self._beam:
            if details.alternatives:
                raise UserError("greedy search has one hypothesis: alternatives need a beam")
            if self.confidence_model is not None and "has_nbest" in self.confidence_model.known:
                raise UserError(f"the confidence model of {recognizer.name} was trained with n-best lists: it needs a beam")
        self._encoded = _Frames()
        self._layer = _Frames()
        self._pieces: list[_Piece] = []
        self._known = 0  # symbols in pieces
        self._taken = 0  # symbols in finished segments
        self._score: float  # of the stream, at the end of the last piece
        self._from = 0  # frame at which the next segment may begin
        self._state: Any = None  # of the predictor after the finished segments
        self.reset()

    @property
    def undecided(self) -> bool:
        """Whether rescoring may still choose among the readings of what the search has settled within the current segment."""
        return self._rescore is not None and bool(self._pieces)

    @torch.inference_mode()
    def reset(self) -> None:
        """The search has forgotten what was said, and counts from 0 again."""
        self._score = 0.0
        if self.details.confidence:
            start = torch.zeros(1, dtype=torch.int64, device=self._device)
            self._state = self._model.predictor.step(start, self._model.predictor.initial_state(1))

    def accept(self, encoded: Tensor, layer: Tensor | None, settled: Sequence[Settled]) -> None:
        """The next frames of the stream.

        Args:
            encoded: (n, D) encoder output.
            layer: (n, D) of the layer that the aligner listens to, if there is an aligner.
            settled: what the search settled in them.
        """
        if self.details.confidence:
            self._encoded.add(encoded)
        if self.aligner is not None:
            assert layer is not None
            self._layer.add(layer.cpu())
        for piece, nbest in zip(settled, own_scores(settled, self._score), strict=True):
            first, self._known = self._known, self._known + len(nbest[0].tokens)
            self._score = piece.nbest[0].score
            if self._known > self._taken:
                self._pieces.append(_Piece(first, self._known, piece.frame, nbest))

    def forget(self, oldest: int) -> None:
        """Nothing before encoder frame ``oldest`` belongs to a segment that is still to come."""
        first = oldest - _frames(LEAD_SECONDS)
        self._encoded.forget(first)
        self._layer.forget(first)

    @torch.inference_mode()
    def finish(self, segment: Segment) -> Segment:
        """The segment with what was asked for; every segment of the stream has to come by."""
        closed = round(segment.closed / FRAME_SECONDS)
        nbest = self._nbest(segment.symbols, closed) if self._beam else []
        own = Hypothesis(*map(list, zip(*((s.token, s.frame, s.log_prob) for s in segment.symbols), strict=True)))  # type: ignore[arg-type]
        best, words = own, segment.words
        if self._rescore is not None and len(nbest) > 1:
            nbest = _best_with_words(self._rescore(nbest), self._tokenizer)
            if nbest[0].tokens != own.tokens:
                best = nbest[0]
                words = _words(best, self._tokenizer)
                if self._tokenizer.is_word_start(_spoken(best, self._tokenizer.endpoint_id).tokens[0]):
                    segment = replace(segment, continues=False)  # rescoring has chosen a reading that begins with a word of its own
        # not that of the first symbol: an endpoint token, or a piece without text, that ended no segment may be of long ago
        begin = round(segment.words[0].start / FRAME_SECONDS)
        first = min(begin, max(self._from, begin - _frames(LEAD_SECONDS)))
        self._from = max(self._from, round(words[-1].end / FRAME_SECONDS))
        spoken = [_spoken(h, self._tokenizer.endpoint_id) for h in nbest]
        network = ConfusionNetwork.of(spoken, self._tokenizer) if spoken else None
        if self.details.confidence:
            heard = replace(best, frames=[max(first, frame) for frame in best.frames])
            statistics = self._statistics(heard, first, closed)
            features = word_features(
                _spoken(heard, self._tokenizer.endpoint_id), self._tokenizer, nbest=spoken, network=network, statistics=statistics
            )
            values = word_confidences(features, self.confidence_model)
            words = tuple(replace(word, confidence=float(value)) for word, value in zip(words, values, strict=True))
        if self.aligner is not None:
            words = self.aligner.correct_segment(words, self._layer.part(first, closed), first)
            self._from = max(self._from, math.ceil(round(words[-1].end / FRAME_SECONDS, 3)))
        self._advance(segment.symbols)
        found = replace(
            segment, text=" ".join(word.word for word in words), words=words, start=words[0].start, end=words[-1].end
        )
        if self.details.alternatives and network is not None:
            readings = _alternatives(spoken, network.posteriors, self._tokenizer)
            found = replace(found, alternatives=readings[: self.details.alternatives], confusion=network)
        return found

    def _nbest(self, symbols: Sequence[Symbol], closed: int) -> NBest:
        """The hypotheses of the segment of these symbols. Pieces of the search and segments mostly coincide; where a segment ends
        within a piece, its part of it is what the search held for best, at no price."""
        first, last = self._taken, self._taken + len(symbols)
        self._taken = last
        parts, at = [], first
        for piece in self._pieces:
            known = piece.last <= last and piece.frame <= closed
            if known and piece.first >= at:
                parts += [_hypotheses(symbols[at - first : piece.first - first]), piece.nbest]
                at = piece.last
            elif known and piece.last > at:
                skip = at - piece.first
                same = [h for h in piece.nbest if h.tokens[:skip] == piece.nbest[0].tokens[:skip]]
                parts.append([Hypothesis(h.tokens[skip:], h.frames[skip:], h.log_probs[skip:], h.score) for h in same])
                at = piece.last
        self._pieces = [piece for piece in self._pieces if piece.last > last]
        parts.append(_hypotheses(symbols[at - first :]))
        return join(parts, self._beam)

    def _statistics(self, best: Hypothesis, first: int, closed: int) -> EmissionStatistics:
        """Those of a hypothesis, without its endpoint tokens."""
        kept = [token != self._tokenizer.endpoint_id for token in best.tokens]
        found = emission_statistics(self._model, self._encoded.part(first, closed), best, first_frame=first, state=self._state)
        entropies = [value for value, keep in zip(found.entropies, kept, strict=True) if keep]
        confidences = [value for value, keep in zip(found.confidences, kept, strict=True) if keep]
        return EmissionStatistics(entropies, confidences, found.blanks, first)

    def _advance(self, symbols: Sequence[Symbol]) -> None:
        """The predictor has heard these."""
        if self._state is not None:
            for symbol in symbols:
                token = torch.tensor([symbol.token], device=self._device)
                self._state = self._model.predictor.step(token, self._state[1])


class _Frames:
    """The rows of the latest frames of a stream."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._first = 0  # frame of the first row

    def add(self, block: Tensor) -> None:
        """(n, D), copied: a view of a batch would keep the whole batch alive."""
        self._blocks.append(block.clone())

    def forget(self, first: int) -> None:
        """Whole blocks before this frame are dropped."""
        while self._blocks and self._first + len(self._blocks[0]) <= first:
            self._first += len(self._blocks.pop(0))

    def part(self, first: int, last: int) -> Tensor:
        """(last - first, D)."""
        if not self._blocks or first < self._first:
            raise ValueError(f"frame {first} of the stream has been forgotten or has not come")
        return torch.cat(self._blocks)[first - self._first : last - self._first]


def _frames(seconds: float) -> int:
    return round(seconds / FRAME_SECONDS)


def _hypotheses(symbols: Sequence[Symbol]) -> NBest:
    """The only one there is."""
    return [Hypothesis([s.token for s in symbols], [s.frame for s in symbols], [s.log_prob for s in symbols])]


def _spoken(hypothesis: Hypothesis, endpoint_id: int | None) -> Hypothesis:
    """Without endpoint tokens."""
    if endpoint_id not in hypothesis.tokens:
        return hypothesis
    kept = [k for k, token in enumerate(hypothesis.tokens) if token != endpoint_id]
    tokens, frames, log_probs = hypothesis.tokens, hypothesis.frames, hypothesis.log_probs
    return Hypothesis([tokens[k] for k in kept], [frames[k] for k in kept], [log_probs[k] for k in kept], hypothesis.score)


def _words(hypothesis: Hypothesis, tokenizer: Any) -> tuple[Word, ...]:
    builder = WordBuilder(tokenizer)
    spoken = _spoken(hypothesis, tokenizer.endpoint_id)
    for token, frame, log_prob in zip(spoken.tokens, spoken.frames, spoken.log_probs, strict=True):
        builder.add(token, frame, log_prob)
    return builder.take()


def _best_with_words(nbest: NBest, tokenizer: Any) -> NBest:
    """A segment has words: the first hypothesis that has some goes first."""
    at = next(k for k, hypothesis in enumerate(nbest) if _words(hypothesis, tokenizer))
    return [nbest[at], *nbest[:at], *nbest[at + 1 :]]


def _alternatives(nbest: NBest, posteriors: Sequence[float], tokenizer: Any) -> tuple[Alternative, ...]:
    """Each text once, with the score of its best hypothesis."""
    found: dict[str, Alternative] = {}
    for hypothesis, posterior in zip(nbest, posteriors, strict=True):
        text = " ".join(word.word for word in hypothesis_words(hypothesis, tokenizer))
        had = found.get(text)
        found[text] = Alternative(text, hypothesis.score, posterior) if had is None else replace(had, posterior=had.posterior + posterior)
    return tuple(found.values())
