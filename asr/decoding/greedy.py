"""Greedy transducer search: one step function, offline and streaming, batched.

At most one symbol is emitted an encoder frame (the rule of sherpa-onnx, and what every export of ours does). Until a
stream emits, its predictor output does not change, so the joiner looks at all frames of a block at once and the loop
turns once an emission, not once a frame: with chunks of 4 frames and a large vocabulary the joiner's weights are read
once or twice a chunk rather than four times. Only the streams that emitted run the predictor again.

Shapes: B streams, U encoder frames of 40 ms in a block, D encoder width, P predictor width, J joiner width, V symbols.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asr.decoding.state import batch_axes, select, write

BLANK = 0
OFFLINE_BLOCK = 8  # encoder frames a step of the offline search; the words do not depend on it


class GreedyState(NamedTuple):
    """What the search remembers of a batch of streams; fixed shapes.

    Attributes:
        predictor: state of the predictor after the last emitted symbol (its batch axes are the predictor's).
        projected: (B, J) predictor output after the joiner's projection, kept so that blanks cost no predictor call.
    """

    predictor: Any
    projected: Tensor


@dataclass(frozen=True)
class Hypothesis:
    """Best symbols of one utterance.

    Attributes:
        tokens: symbol ids without blanks.
        frames: encoder frame (40 ms) at which each symbol was emitted.
        log_probs: natural logarithm of each symbol's probability given the symbols before it.
        score: logarithm of the probability of the utterance's symbols, over all paths that were followed, and whatever
            was added in the search; greedy search gives none.
    """

    tokens: list[int]
    frames: list[int]
    log_probs: list[float]
    score: float = 0.0


_axes: weakref.WeakKeyDictionary[nn.Module, list[int]] = weakref.WeakKeyDictionary()


def predictor_axes(model: Any) -> list[int]:
    """Batch axis of every tensor of the predictor's state, worked out once a model."""
    predictor = model.predictor
    if predictor not in _axes:
        _axes[predictor] = batch_axes(predictor.initial_state)
    return _axes[predictor]


def initial_state(model: Any, batch: int) -> GreedyState:
    """The state of ``batch`` streams that have emitted nothing: the predictor has seen the leading blank."""
    device = next(model.predictor.parameters()).device
    start = torch.full((batch,), BLANK, dtype=torch.int64, device=device)
    out, state = model.predictor.step(start, model.predictor.initial_state(batch))
    return GreedyState(state, model.joiner.project_predictor(out))


def step(
    model: Any, encoder_out: Tensor, valid: Tensor, state: GreedyState, blank_penalty: float = 0.0
) -> tuple[Tensor, Tensor, GreedyState]:
    """Decode one block of encoder frames of every stream.

    Args:
        model: a transducer: ``.predictor`` and ``.joiner``.
        encoder_out: (B, U, D) encoder output.
        valid: (B,) int64, frames of each stream that are real; the rest emit nothing and leave the state alone.
        state: as left by the previous block, or `initial_state`.
        blank_penalty: subtracted from the blank's log-probability before the choice (> 0: fewer deletions).

    Returns:
        tokens (B, U) int64, 0 where nothing was emitted; log-probabilities (B, U) of the chosen symbol, blank
        included, 0 beyond ``valid``; the new state.
    """
    batch, block, _ = encoder_out.shape
    device = encoder_out.device
    axes = predictor_axes(model)
    encoder = model.joiner.project_encoder(encoder_out)  # (B, U, J)
    predictor, projected = state
    tokens = torch.zeros(batch, block, dtype=torch.int64, device=device)
    log_probs = torch.zeros(batch, block, device=device)
    frame = torch.arange(block, device=device)
    rows = torch.arange(batch, device=device)  # streams that still have undecided frames
    start = torch.zeros(batch, dtype=torch.int64, device=device)  # (R,) their first undecided frame
    end = valid  # (R,)
    first = 0  # the earliest undecided frame of any of them
    while True:
        every = rows.size(0) == batch
        e = encoder if every else encoder.index_select(0, rows)
        p = projected if every else projected.index_select(0, rows)
        logits = model.joiner.join(e[:, first:], p.unsqueeze(1))  # (R, U-first, V)
        scores = logits.float().log_softmax(-1)
        if blank_penalty != 0.0:
            penalised = scores.clone()
            penalised[..., BLANK] -= blank_penalty
            ids = penalised.argmax(-1)
            best = scores.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
        else:
            best, ids = scores.max(-1)  # (R, U-first)
        at = frame[first:]
        open_frames = (at >= start[:, None]) & (at < end[:, None])
        emitted_at = torch.where(open_frames & (ids != BLANK), at, block).amin(1)  # (R,), block: none
        settled = open_frames & (at <= emitted_at[:, None])
        chosen = ids * (at == emitted_at[:, None])  # blank before the emission
        if every:
            tokens[:, first:] = torch.where(settled, chosen, tokens[:, first:])
            log_probs[:, first:] = torch.where(settled, best, log_probs[:, first:])
        else:
            tokens[rows, first:] = torch.where(settled, chosen, tokens[rows, first:])
            log_probs[rows, first:] = torch.where(settled, best, log_probs[rows, first:])
        hits = (emitted_at < block).nonzero().squeeze(1)
        if hits.size(0) == 0:
            break
        rows, start, end = rows[hits], emitted_at[hits] + 1, end[hits]
        symbols = tokens[rows, start - 1]
        if rows.size(0) == batch:
            out, predictor = model.predictor.step(symbols, predictor)
            projected = model.joiner.project_predictor(out)
        else:
            out, part = model.predictor.step(symbols, select(predictor, rows, axes))
            predictor = write(predictor, rows, part, axes)
            projected = projected.index_copy(0, rows, model.joiner.project_predictor(out).to(projected.dtype))
        more = (start < end).nonzero().squeeze(1)
        if more.size(0) == 0:
            break
        rows, start, end = rows[more], start[more], end[more]
        first = int(start.min())
    return tokens, log_probs, GreedyState(predictor, projected)


@torch.no_grad()
def greedy_search(
    model: Any, encoder_out: Tensor, lengths: Tensor, blank_penalty: float = 0.0
) -> list[Hypothesis]:
    """Decode whole utterances with the same `step` as streaming.

    Args:
        model: a transducer: ``.predictor`` and ``.joiner``.
        encoder_out: (B, T, D) encoder output; lengths: (B,) its valid frames.
        blank_penalty: see `step`.

    Returns:
        One `Hypothesis` an utterance.
    """
    batch = encoder_out.size(0)
    state = initial_state(model, batch)
    lengths = lengths.to(encoder_out.device)
    blocks = []
    for begin in range(0, encoder_out.size(1), OFFLINE_BLOCK):
        block = encoder_out[:, begin : begin + OFFLINE_BLOCK]
        valid = (lengths - begin).clamp(min=0, max=block.size(1))
        tokens, log_probs, state = step(model, block, valid, state, blank_penalty)
        blocks.append((tokens, log_probs))
    if not blocks:
        return [Hypothesis([], [], []) for _ in range(batch)]
    tokens = torch.cat([block[0] for block in blocks], 1).cpu()
    log_probs = torch.cat([block[1] for block in blocks], 1).cpu()
    hypotheses = []
    for row in range(batch):
        frames = tokens[row].nonzero().squeeze(1)
        hypotheses.append(
            Hypothesis(tokens[row, frames].tolist(), frames.tolist(), log_probs[row, frames].tolist())
        )
    return hypotheses
