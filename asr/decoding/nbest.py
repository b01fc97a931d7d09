"""From the blocks of a beam search to symbols: what is settled, what may still change, and the best hypotheses of a segment.

A hypothesis is a chain of emissions back to the start; hypotheses share their beginnings. What all of them share will not change: it is
handed out and forgotten, so a stream holds little however long it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from asr.decoding.beam import BeamBlock, BeamSearch, BeamState
from asr.decoding.greedy import Hypothesis
from asr.decoding.results import Symbol

NBest = list[Hypothesis]  # the best first
OFFLINE_BLOCK = 32  # encoder frames a step of the offline search on the CPU; the result does not depend on it
GPU_BLOCK = 8  # there a step holds every symbol of all these frames


class Emission:
    """A symbol of a hypothesis, and the emission before it."""

    __slots__ = ("before", "depth", "frame", "log_prob", "token")

    def __init__(self, before: Emission | None, token: int, frame: int, log_prob: float):
        self.before = before
        self.token = token
        self.frame = frame
        self.log_prob = log_prob
        self.depth: int = 0 if before is None else before.depth + 1


@dataclass(frozen=True)
class Settled:
    """The hypotheses of a piece of the stream when the search dropped all but the best: at the end of a segment, as a rule.

    Attributes:
        frame: the first encoder frame after it.
        nbest: their symbols since the piece before, the best first; scores are of the stream so far.
    """

    frame: int
    nbest: NBest


class History:
    """The hypotheses of one stream, fed block by block.

    Attributes:
        settled: what the search settled in the last block.
    """

    def __init__(self) -> None:
        self._root = Emission(None, 0, -1, 0.0)  # everything up to it has been handed out
        self._start = self._root  # the last emission of the segment before
        self._heads: list[Emission | None] = [self._root]  # the last emission of every hypothesis
        self._frame = 0
        self.settled: list[Settled] = []

    def accept(self, parents: list, tokens: list, log_probs: list, ranks: list, settled: list) -> list[Symbol]:
        """Take the frames of a block; the symbols that are settled now.

        Args:
            parents, tokens, log_probs, ranks, settled: the real frames of this stream's part of a `BeamBlock`, as lists.
        """
        self.settled = []
        for parent, token, log_prob, rank, ends in zip(parents, tokens, log_probs, ranks, settled, strict=True):
            heads: list[Emission | None] = []
            for k, origin in enumerate(parent):
                head = self._heads[origin] if rank[k] > -math.inf and origin < len(self._heads) else None
                if head is not None and token[k][0]:  # blanks are behind the symbols
                    for symbol, value in zip(token[k], log_prob[k], strict=True):
                        if symbol:
                            head = Emission(head, symbol, self._frame, value)
                heads.append(head)
            self._heads = heads
            self._frame += 1
            if ends:
                self.settled.append(Settled(self._frame, self.nbest(rank)))
                best = heads[0]
                assert best is not None
                self._heads = [best, *[None] * (len(heads) - 1)]
                self._start = best
        return self._commit()

    def nbest(self, ranks: Sequence[float]) -> NBest:
        """The hypotheses of the current segment with their scores."""
        found = []
        for head, rank in zip(self._heads, ranks, strict=False):
            if head is not None and rank > -math.inf:
                symbols = _since(head, self._start)
                found.append(
                    Hypothesis([s.token for s in symbols], [s.frame for s in symbols], [s.log_prob for s in symbols], rank)
                )
        return sorted(found, key=lambda hypothesis: -hypothesis.score)

    def pending(self) -> list[Symbol]:
        """The symbols of the best hypothesis that are not settled."""
        best = self._heads[0]
        return _since(best, self._root) if best is not None else []

    def oldest(self) -> int:
        """The first frame in which something may still change: that of the earliest symbol that is not settled, or the next frame."""
        frames = [symbols[0].frame for head in self._heads if head is not None and (symbols := _since(head, self._root))]
        return min([*frames, self._frame])

    def finish(self, ranks: Sequence[float]) -> list[Symbol]:
        """The end of the stream: the best hypothesis by ``ranks`` (K,) is settled; its symbols."""
        best = max((rank, -k) for k, rank in enumerate(ranks))
        self.settled = [Settled(self._frame, self.nbest(ranks))]
        head = self._heads[-best[1]]
        assert head is not None
        self._heads = [head]
        return self._commit()

    def _commit(self) -> list[Symbol]:
        """Hand out what all hypotheses share."""
        heads = {id(head): head for head in self._heads if head is not None}
        while len(heads) > 1:  # the deepest goes back until all have met
            deepest = max(heads.values(), key=lambda head: head.depth)
            del heads[id(deepest)]
            assert deepest.before is not None
            heads[id(deepest.before)] = deepest.before
        meeting = next(iter(heads.values()))
        symbols = _since(meeting, self._root)
        self._root = meeting
        if self._start.depth <= meeting.depth:
            self._start.before = None  # nobody asks for what was said in earlier segments
        return symbols


def _since(head: Emission, start: Emission) -> list[Symbol]:
    """The symbols after ``start`` up to ``head``, in order."""
    found = []
    at = head
    while at.depth > start.depth:
        found.append(Symbol(at.token, at.frame, at.log_prob))
        assert at.before is not None
        at = at.before
    return found[::-1]


def blocks_of(block: BeamBlock) -> list[list]:
    """The block as nested lists, a stream each: (parents, tokens, log_probs, ranks, settled) as `History.accept` takes them."""
    return [list(stream) for stream in zip(*(tensor.tolist() for tensor in block), strict=True)]


@torch.no_grad()
def decode(
    search: BeamSearch, encoder_out: Tensor, lengths: Tensor, state: BeamState
) -> tuple[list[list[Symbol]], list[list[Settled]]]:
    """Search whole utterances with the same `step` as streaming.

    Args:
        search: the search with its model.
        encoder_out: (B, T, D) encoder output; lengths: (B,) its valid frames.
        state: of B streams that have emitted nothing, from `BeamSearch.initial_state`.

    Returns:
        For each utterance the symbols of the best hypothesis, and the n-best lists of its pieces.
    """
    count = encoder_out.size(0)
    histories = [History() for _ in range(count)]
    symbols: list[list[Symbol]] = [[] for _ in range(count)]
    lists: list[list[Settled]] = [[] for _ in range(count)]
    lengths = lengths.to(encoder_out.device)
    size = OFFLINE_BLOCK if encoder_out.device.type == "cpu" else GPU_BLOCK
    for begin in range(0, encoder_out.size(1), size):
        frames = encoder_out[:, begin : begin + size]
        valid = (lengths - begin).clamp(min=0, max=frames.size(1))
        block, state = search.step(frames, valid, state)
        for row, (length, parts) in enumerate(zip(valid.tolist(), blocks_of(block), strict=True)):
            symbols[row] += histories[row].accept(*(part[:length] for part in parts))
            lists[row] += histories[row].settled
    for row, ranks in enumerate(search.ranking(state).tolist()):
        symbols[row] += histories[row].finish(ranks)
        lists[row] += histories[row].settled
    return symbols, lists


def beam_search(search: BeamSearch, encoder_out: Tensor, lengths: Tensor) -> list[NBest]:
    """The best hypotheses of whole utterances, at most K each, the best first; ``score`` includes everything that was added.

    Args:
        search: the search with its model.
        encoder_out: (B, T, D) encoder output; lengths: (B,) its valid frames.
    """
    _, lists = decode(search, encoder_out, lengths, search.initial_state(encoder_out.size(0)))
    return [join(own_scores(pieces), search.beam) for pieces in lists]


def own_scores(pieces: Sequence[Settled], before: float = 0.0) -> list[NBest]:
    """The hypotheses of pieces that follow one another, with the scores of each piece alone; ``before``: the score of the stream up to them."""
    found = []
    for piece in pieces:
        found.append([replace(hypothesis, score=hypothesis.score - before) for hypothesis in piece.nbest])
        before = piece.nbest[0].score
    return found


def join(parts: Sequence[NBest], most: int) -> NBest:
    """The best hypotheses of parts that follow one another, at most ``most``, the best first; scores add up."""
    found = [Hypothesis([], [], [])]
    for part in parts:
        pairs = [
            Hypothesis(a.tokens + b.tokens, a.frames + b.frames, a.log_probs + b.log_probs, a.score + b.score)
            for a in found
            for b in part
        ]
        found = sorted(pairs, key=lambda hypothesis: -hypothesis.score)[:most]
    return found
