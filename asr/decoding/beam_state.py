"""What a beam search remembers between blocks, what it says of a block, and predictors whose state has the batch first.

Shapes: B streams, K hypotheses of a stream (the beam), U encoder frames in a block, S most symbols of a frame, J joiner width, V symbols
including blank 0, N rows.
"""

# No `from __future__ import annotations` here: torch.jit.script reads the annotations of this file.
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.models.predictor import LSTMState


class BeamState(NamedTuple):
    """What the search remembers of B streams; fixed shapes, hypotheses sorted by score, the best first.

    Attributes:
        scores: (B, K) log-probability of each history with all that was added; -inf: no hypothesis.
        hashes: (B, K, 2) int64 of the history, and of the history without its last symbol.
        last: (B, K) int64 last symbol; blank: none yet.
        quiet: (B, K) int64 frames since the last symbol.
        age: (B, K) int64 frames since the first symbol after all hypotheses but one were dropped; -1: none yet.
        limits: (B, 2) int64 the quiet and the age at which all hypotheses but the best are dropped.
        projected: (B, K, J) predictor output after the joiner's projection.
        bonus: (B, K, V) what is added to each symbol's log-probability, or (B, K, 0).
        predictor: state of the predictor, (B, K, ...) each.
        fusion: state of the fusion, (B, K, ...) each.
    """

    scores: Tensor
    hashes: Tensor
    last: Tensor
    quiet: Tensor
    age: Tensor
    limits: Tensor
    projected: Tensor
    bonus: Tensor
    predictor: list[Tensor]
    fusion: list[Tensor]


class BeamBlock(NamedTuple):
    """What the search did with a block of frames: enough to follow every hypothesis back (`asr.decoding.nbest`).

    Attributes:
        parents: (B, U, K) int64 place of the hypothesis before the frame.
        tokens: (B, U, K, S) int64 symbols emitted in the frame, blanks behind them.
        log_probs: (B, U, K, S) of these symbols, the model's own.
        ranks: (B, U, K) scores, with what is added at the end of a segment where ``settled``.
        settled: (B, U) bool whether all hypotheses but the best were dropped after the frame.
    """

    parents: Tensor
    tokens: Tensor
    log_probs: Tensor
    ranks: Tensor
    settled: Tensor


class LSTMRows(nn.Module):
    """An LSTM predictor whose state is a list of tensors with the batch first."""

    def __init__(self, predictor: nn.Module):
        super().__init__()
        self.predictor = predictor

    def initial_state(self, batch: int) -> list[Tensor]:
        state = self.predictor.initial_state(batch)  # type: ignore[operator]
        return [state.hidden.transpose(0, 1), state.cell.transpose(0, 1)]

    def step(self, tokens: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        out, after = self.predictor.step(tokens, LSTMState(state[0].transpose(0, 1), state[1].transpose(0, 1)))  # type: ignore[operator]
        return out, [after.hidden.transpose(0, 1), after.cell.transpose(0, 1)]


class StatelessRows(nn.Module):
    """A stateless predictor whose state is a list of tensors with the batch first."""

    def __init__(self, predictor: nn.Module):
        super().__init__()
        self.predictor = predictor

    def initial_state(self, batch: int) -> list[Tensor]:
        return [self.predictor.initial_state(batch).tokens]  # type: ignore[operator]

    def step(self, tokens: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        context = torch.cat([state[0], tokens[:, None]], 1)
        return self.predictor.context_once(context), [context[:, 1:]]  # type: ignore[operator]
