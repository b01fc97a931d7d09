"""The transducer lattice: one anti-diagonal recursion for the full and for the pruned loss.

A cell (t, u) says: t frames are consumed, u labels are emitted. From it a *label* edge leads to (t, u + 1)
and a *blank* edge to (t + 1, u); the last blank leaves the lattice at (T - 1, U). A banded lattice keeps, at
frame t, only the R cells u = starts[t] … starts[t] + R - 1; the full lattice is the band R = U + 1 with
starts = 0.

Why diagonals: all cells with t + u = d depend only on diagonal d - 1, so each diagonal is one vector
operation, T + U of them. On a diagonal the frames of a band are consecutive and at most R, hence ``t mod R``
is a unique slot: a diagonal of any band fits into R slots, a label edge stays in its slot and a blank edge
moves to the next one. The backward variables obey the same recursion on the reversed lattice, so both run as
one batch of 2 B rows.

That is the regular lattice. In the *modified* one (k2's name) a label edge leads to (t + 1, u + 1): one symbol a frame,
which is also what greedy search here and in sherpa-onnx emits. Its paths have T edges, so it runs frame by frame.

Shapes: B utterances, T frames (40 ms), U labels, R cells a frame. All log-probabilities are natural
logarithms. Scores are summed in float64 whatever the inputs are: the lattice is thousands of times smaller
than the logits, and occupancies from float32 sums of a few thousand nats are only good to 1e-3. Sources:
Graves 2012 (arXiv 1211.3711), Kuang et al. 2022 (arXiv 2206.13236; px/py of k2), FastEmit (arXiv 2010.11148).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from asr.losses.endpoint import EndpointPenalty

NEG_INF = float("-inf")
TYPES = ("regular", "modified")


class LatticeResult(NamedTuple):
    """``log_likelihood`` (B,), ``label`` and ``blank`` (B, T, R): probability that a path uses that edge."""

    log_likelihood: Tensor
    label: Tensor
    blank: Tensor


def delay_scores(logit_lengths: Tensor, frames: int, delay_penalty: float) -> Tensor:
    """Score added to each label's log-probability, ``delay_penalty * ((T_b - 1) / 2 - t)``, (B, T, 1), as
    k2's ``delay_penalty``."""
    middle = (logit_lengths.to(torch.float64) - 1) / 2
    t = torch.arange(frames, device=logit_lengths.device)
    return delay_penalty * (middle[:, None, None] - t[None, :, None])


def run_lattice(
    label: Tensor,
    blank: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    starts: Tensor | None = None,
    rnnt_type: str = "regular",
) -> LatticeResult:
    """Log-likelihood and edge occupancies of a (banded) transducer lattice, without autograd.

    label, blank (B, T, R): log-probability of the edge that leaves cell (t, starts[t] + r); values outside
    the utterance and label edges that leave the band are ignored. logit_lengths (B,) >= 1, target_lengths
    (B,) >= 0. starts (B, T) int64, not decreasing within an utterance. An utterance that no path crosses has
    log-likelihood -inf and zero occupancies. rnnt_type: ``regular`` or ``modified``.
    """
    if rnnt_type == "modified":
        return _run_modified(label, blank, logit_lengths, target_lengths, starts)
    batch, frames, width = label.shape
    device = label.device
    label, blank = label.detach().to(torch.float64), blank.detach().to(torch.float64)
    slots = min(width, frames)
    lengths, labels = logit_lengths.view(batch, 1, 1), target_lengths.view(batch, 1, 1)
    t = torch.arange(frames, device=device).view(1, frames, 1)
    r = torch.arange(width, device=device).view(1, 1, width)
    if starts is None:
        u, next_start = r.expand(batch, frames, width), torch.zeros_like(t)
    else:
        u = starts.unsqueeze(2) + r
        next_start = torch.cat((starts[:, 1:], starts[:, -1:]), dim=1).unsqueeze(2)

    # Only edges between two cells of the band count; the last blank is the score of leaving, not an edge.
    inside = (t < lengths) & (u <= labels)
    label_edge = inside & (u < labels) & (r < width - 1)
    blank_edge = inside & (t < lengths - 1) & (u >= next_start)
    final_cell = inside & (t == lengths - 1) & (u == labels)
    final = torch.where(final_cell, blank, NEG_INF).amax(dim=(1, 2))  # (B,)

    # Row b holds the lattice, row B + b its reverse, where an edge is filed under the cell it leads to.
    diagonals = frames + int(u.amax()) if starts is not None else frames + width - 1
    row = torch.arange(batch, device=device).view(batch, 1, 1)
    last = lengths - 1 + labels
    back = last - (t + u) - 1
    forward_at = ((t + u) * (2 * batch) + row) * slots + t % slots
    label_back_at = (back * (2 * batch) + batch + row) * slots + (lengths - 1 - t) % slots
    blank_back_at = (back * (2 * batch) + batch + row) * slots + (lengths - 2 - t) % slots
    size = diagonals * 2 * batch * slots  # one past the end is the bin for everything that is not an edge

    edges = torch.full((2, size + 1), NEG_INF, dtype=torch.float64, device=device)
    for kind, scores, edge, back_at in (
        (0, label, label_edge, label_back_at),
        (1, blank, blank_edge, blank_back_at),
    ):
        edges[kind].scatter_(0, torch.where(edge, forward_at, size).flatten(), scores.flatten())
        edges[kind].scatter_(0, torch.where(edge, back_at, size).flatten(), scores.flatten())
    edges = edges[:, :size].view(2, diagonals, 2 * batch, slots)

    state = torch.full((diagonals, 2 * batch, slots), NEG_INF, dtype=torch.float64, device=device)
    start_slot = state[0, :, 0]
    start_slot[:batch] = 0.0 if starts is None else torch.where(starts[:, 0] == 0, 0.0, NEG_INF)
    start_slot[batch:] = final
    steps = edges.unbind(1)
    rows = state.unbind(0)
    scratch = torch.empty_like(edges[:, 0])
    for d in range(diagonals - 1):
        torch.add(rows[d], steps[d], out=scratch)
        torch.logaddexp(scratch[0], scratch[1].roll(1, -1), out=rows[d + 1])

    flat = state.view(-1)

    def at(index: Tensor, where: Tensor) -> Tensor:
        return torch.where(where, flat[torch.where(where, index, 0)], NEG_INF)

    alpha = at(forward_at, inside)
    log_likelihood = torch.where(final_cell, alpha, NEG_INF).amax(dim=(1, 2)) + final
    possible = log_likelihood != NEG_INF
    norm = torch.where(possible, log_likelihood, 0.0).view(batch, 1, 1)
    label_use = (alpha + label + at(label_back_at, label_edge) - norm).exp()
    ahead = torch.where(final_cell, 0.0, at(blank_back_at, blank_edge))
    blank_use = (alpha + blank + ahead - norm).exp()
    # where, not a product: scores of cells outside may be -inf or NaN
    label_use = torch.where(label_edge & possible.view(batch, 1, 1), label_use, 0.0)
    blank_use = torch.where((blank_edge | final_cell) & possible.view(batch, 1, 1), blank_use, 0.0)
    return LatticeResult(log_likelihood, label_use, blank_use)


def _run_modified(
    label: Tensor, blank: Tensor, logit_lengths: Tensor, target_lengths: Tensor, starts: Tensor | None
) -> LatticeResult:
    """`run_lattice` for the modified type: T steps over all label positions, W of them."""
    batch, frames, width = label.shape
    device = label.device
    t = torch.arange(frames, device=device).view(1, frames, 1)
    u = torch.arange(width, device=device).view(1, 1, width).expand(batch, frames, width)
    if starts is not None:
        u = starts.unsqueeze(2) + u
    lengths, labels = logit_lengths.view(batch, 1, 1), target_lengths.view(batch, 1, 1)
    positions = max(int(u.amax()) + 1, int(target_lengths.max()) + 1)
    inside = (t < lengths) & (u <= labels)
    # edges[0]: labels, edges[1]: blanks, by frame and absolute position; beyond an utterance's end blanks are free
    edges = torch.full((2, batch, frames, positions), NEG_INF, dtype=torch.float64, device=device)
    edges[0].scatter_(2, u, torch.where(inside & (u < labels), label.detach().double(), NEG_INF))
    edges[1].scatter_(2, u, torch.where(inside, blank.detach().double(), NEG_INF))
    edges[1].masked_fill_(t >= lengths, 0.0)

    # Row b holds the lattice, row B + b its reverse, where an edge is filed under the cell it leads to.
    back = edges.flip(2, 3)
    steps = torch.cat((edges, torch.stack((back[0].roll(-1, -1), back[1]))), dim=1).permute(2, 0, 1, 3).contiguous()
    state = torch.full((frames + 1, 2 * batch, positions), NEG_INF, dtype=torch.float64, device=device)
    state[0, :batch, 0] = 0.0
    state[0, batch:].scatter_(1, positions - 1 - target_lengths.view(batch, 1), 0.0)
    scratch = torch.empty_like(steps[0])
    for now, step, following in zip(state, steps, state[1:], strict=False):  # the last state has no step
        torch.add(now, step, out=scratch)
        torch.logaddexp(scratch[1], scratch[0].roll(1, -1), out=following)

    alpha = state[:-1, :batch].transpose(0, 1)  # (B, T, W): before frame t
    beta = state[:-1, batch:].flip(0, 2).transpose(0, 1)  # after frame t
    log_likelihood = state[-1, :batch].gather(1, target_lengths.view(batch, 1)).squeeze(1)
    possible = (log_likelihood != NEG_INF).view(batch, 1, 1)
    norm = torch.where(possible, log_likelihood.view(batch, 1, 1), 0.0)
    ahead = torch.cat((beta[:, :, 1:], torch.full_like(beta[:, :, :1], NEG_INF)), dim=2)
    label_use = (alpha + edges[0] + ahead - norm).exp().gather(2, u)
    blank_use = (alpha + edges[1] + beta - norm).exp().gather(2, u)
    return LatticeResult(
        log_likelihood,
        torch.where(inside & (u < labels) & possible, label_use, 0.0),
        torch.where(inside & possible, blank_use, 0.0),
    )


class _Lattice(torch.autograd.Function):
    """Negative log-likelihood with its analytic gradient (minus the occupancies), which are returned beside
    it."""

    @staticmethod
    def forward(ctx, label, blank, logit_lengths, target_lengths, starts, fastemit, rnnt_type):  # type: ignore[no-untyped-def]
        result = run_lattice(label, blank, logit_lengths, target_lengths, starts, rnnt_type)
        label_use, blank_use = result.label.to(label.dtype), result.blank.to(blank.dtype)
        ctx.save_for_backward(label_use, blank_use)
        ctx.fastemit = fastemit
        ctx.mark_non_differentiable(label_use, blank_use)
        return -result.log_likelihood.to(label.dtype), label_use, blank_use

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, _label, _blank):  # type: ignore[no-untyped-def]
        label_use, blank_use = ctx.saved_tensors
        grad = grad.view(-1, 1, 1)
        return -(1.0 + ctx.fastemit) * grad * label_use, -grad * blank_use, None, None, None, None, None


def lattice_loss(
    label: Tensor,
    blank: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    starts: Tensor | None = None,
    fastemit: float = 0.0,
    delay_penalty: float = 0.0,
    rnnt_type: str = "regular",
    endpoint: EndpointPenalty | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiable loss (B,) in nats and the occupancies of label and blank edges (B, T, R).

    FastEmit multiplies the gradient that reaches the label scores by ``1 + fastemit`` and leaves the value
    alone.
    """
    if delay_penalty:
        label = label + delay_scores(logit_lengths, label.shape[1], delay_penalty).to(label.dtype)
    if endpoint is not None:
        label = label + endpoint.scores(label.shape[1], starts, label.shape[2]).to(label.dtype)
    return _Lattice.apply(label, blank, logit_lengths, target_lengths, starts, float(fastemit), rnnt_type)
