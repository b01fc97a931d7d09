"""Transducer loss of a joiner whose output layer is applied a slice at a time: (B, T, U + 1, V) never exists.

The forward pass walks over chunks of cells, computes their logits, and keeps two numbers a cell: the
log-probability of the blank and of the next label. One lattice recursion turns them into occupancies. The
backward pass walks over the chunks again and adds each cell's ``softmax * occupancy - …`` straight into the
gradients of the projections and of the output layer. Chunks are recomputed there unless all of them together
fit into ``hold_bytes``. Cells no path uses (occupancy below 1e-12; their share of any gradient is far below
float32 rounding) are left out, so the backward pass of a trained model costs a fraction of the forward pass.

Shapes: B utterances, T encoder frames (40 ms), U labels, J joiner width, V symbols, R cells a frame (U + 1,
or the band).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.losses.endpoint import EndpointPenalty
from asr.losses.lattice import delay_scores, run_lattice

OCCUPANCY_FLOOR = 1e-12
ACTIVATIONS = ("relu", "tanh")


class Slicing(NamedTuple):
    """How much memory the fused loss may use, in bytes: of one slice of logits, and of all logits kept for
    the backward pass."""

    chunk_bytes: int
    hold_bytes: int

    @staticmethod
    def default(device: torch.device) -> Slicing:
        # A CPU slice stays in the caches between its passes; a GPU slice must fill the device.
        return Slicing(8 << 20, 128 << 20) if device.type == "cpu" else Slicing(256 << 20, 1 << 30)


class _Chunk(NamedTuple):
    utterance: int
    begin: int  # frames
    end: int


def _activate(x: Tensor, activation: str) -> Tensor:
    return x.relu_() if activation == "relu" else x.tanh_()


def _activation_gradient(grad: Tensor, hidden: Tensor, activation: str) -> Tensor:
    """``grad`` (overwritten) times the activation's derivative, expressed by its output ``hidden``
    (overwritten)."""
    if activation == "relu":
        return grad.masked_fill_(hidden == 0, 0.0)
    return grad.mul_(hidden.square_().neg_().add_(1.0))


class _Cells:
    """The cells of the lattice, in chunks of frames of one utterance, and what the joiner computes on
    them."""

    def __init__(
        self, encoder, predictor, weight, bias, starts, width, lengths, rows, activation, chunk_rows
    ):  # type: ignore[no-untyped-def]
        self.encoder, self.predictor, self.weight, self.bias = encoder, predictor, weight, bias
        self.starts, self.width, self.activation = starts, width, activation
        self.rows = rows  # label positions in use, by utterance (full lattice) or the band's width
        self.chunks = []
        for b, length in enumerate(lengths):
            step = max(1, chunk_rows // rows[b])
            self.chunks += [_Chunk(b, t, min(t + step, length)) for t in range(0, length, step)]

        self.largest = max((c.end - c.begin) * rows[c.utterance] for c in self.chunks)

    def positions(self, chunk: _Chunk, low: int, high: int) -> Tensor | slice:
        """Predictor positions of band columns low … high: a slice for the full lattice, (frames * columns,)
        ids for a band."""
        if self.starts is None:
            return slice(low, high)
        columns = torch.arange(low, high, device=self.starts.device)
        return (self.starts[chunk.utterance, chunk.begin : chunk.end, None] + columns).flatten()

    def hidden(self, chunk: _Chunk, low: int, high: int, out: Tensor) -> Tensor:
        """act(encoder + predictor) of the cells, (rows, J), in the buffer ``out`` (fresh memory costs more
        than the sum)."""
        b, count = chunk.utterance, chunk.end - chunk.begin
        hidden = out[: count * (high - low)].view(count, high - low, -1)
        positions = self.positions(chunk, low, high)
        if isinstance(positions, slice):
            labels = self.predictor[b, positions].unsqueeze(0)
        else:
            labels = self.predictor[b].index_select(0, positions).view(hidden.shape)
        torch.add(self.encoder[b, chunk.begin : chunk.end].unsqueeze(1), labels, out=hidden)
        return _activate(hidden, self.activation).flatten(0, 1)

    def hidden_buffer(self) -> Tensor:
        return self.encoder.new_empty(self.largest, self.encoder.shape[2])

    def logits(self, hidden: Tensor, out: Tensor, dtype: torch.dtype) -> Tensor:
        """Logits (rows, V) in ``dtype``; in the buffer ``out`` where the matrix product runs in that type."""
        if hidden.dtype == dtype:
            out = out[: hidden.shape[0]]
            if self.bias is None:
                return torch.mm(hidden, self.weight.t(), out=out)
            return torch.addmm(self.bias, hidden, self.weight.t(), out=out)
        return F.linear(hidden, self.weight, self.bias).to(dtype)


def _rows(count: int, vocab: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised (count, V) whose rows begin at multiples of 64 bytes: with an odd V the matrix product is
    up to 1.5x faster."""
    return torch.empty(count, -(-vocab // 16) * 16, dtype=dtype, device=device)[:, :vocab]


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, encoder, predictor, weight, bias, targets, logit_lengths, target_lengths, starts, width, options
    ):
        activation, blank, fastemit, delay_penalty, slicing, rnnt_type, endpoint, compute_dtype = options
        batch, frames = encoder.shape[:2]
        dtype = torch.float64 if compute_dtype == torch.float64 else torch.float32
        device = encoder.device
        vocab = weight.shape[0]
        lengths, labels = logit_lengths.tolist(), target_lengths.tolist()
        rows = [width if starts is not None else n + 1 for n in labels]
        row_bytes = vocab * (8 if dtype == torch.float64 else 4)
        chunk_rows = max(1, slicing.chunk_bytes // row_bytes)
        cells = _Cells(
            encoder.to(compute_dtype),
            predictor.to(compute_dtype),
            weight.to(compute_dtype),
            None if bias is None else bias.to(compute_dtype),
            starts,
            width,
            lengths,
            rows,
            activation,
            chunk_rows,
        )
        needs = any(ctx.needs_input_grad[:4])
        hold = (
            needs and sum(n * r for n, r in zip(lengths, rows, strict=True)) * row_bytes <= slicing.hold_bytes
        )

        # the label that leaves each position; the last one has none (any id does)
        following = F.pad(targets, (0, 1), value=blank)
        label_ids = (
            following[:, None, :].expand(batch, frames, width)
            if starts is None
            else following.gather(1, (starts.unsqueeze(2) + torch.arange(width, device=device)).flatten(1))
        ).reshape(batch, frames, width)
        scores = torch.full((2, batch, frames, width), float("-inf"), dtype=dtype, device=device)
        norms = torch.zeros(batch, frames, width, dtype=dtype, device=device)
        kept: list[Tensor] = []
        scratch = None if hold else _rows(cells.largest, vocab, dtype, device)
        hidden_buffer = cells.hidden_buffer()
        for chunk in cells.chunks:
            b, r = chunk.utterance, rows[chunk.utterance]
            size = (chunk.end - chunk.begin) * r
            at = (b, slice(chunk.begin, chunk.end), slice(0, r))
            buffer = scratch if scratch is not None else _rows(size, vocab, dtype, device)
            logits = cells.logits(cells.hidden(chunk, 0, r, hidden_buffer), buffer, dtype)
            label = logits.gather(1, label_ids[at].reshape(size, 1)).squeeze(1)
            stay = logits[:, blank].clone()
            top = logits.amax(dim=1, keepdim=True)
            total = logits.sub_(top).exp_().sum(dim=1)
            norm = total.log() + top.squeeze(1)
            scores[0][at] = (label - norm).view(-1, r)
            scores[1][at] = (stay - norm).view(-1, r)
            norms[at] = (total if hold else norm).view(-1, r)
            if hold:
                kept.append(logits)
        del scratch, hidden_buffer

        if delay_penalty:
            scores[0] += delay_scores(logit_lengths, frames, delay_penalty).to(dtype)
        if endpoint is not None:
            scores[0] += endpoint.scores(frames, starts, width).to(dtype)
        result = run_lattice(scores[0], scores[1], logit_lengths, target_lengths, starts, rnnt_type)
        if needs:
            ctx.cells, ctx.kept, ctx.norms, ctx.label_ids = cells, kept, norms, label_ids
            ctx.label_use, ctx.blank_use = (result.label * (1.0 + fastemit)).to(dtype), result.blank.to(dtype)
            ctx.blank, ctx.dtype = blank, dtype
            # versions are checked by autograd only for saved tensors
            ctx.save_for_backward(encoder, predictor, weight, *(() if bias is None else (bias,)))
        return -result.log_likelihood.to(dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        with torch.autocast(grad.device.type, enabled=False):
            return _backward(ctx, grad)


def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
    """Gradients of the sum over utterances of ``grad * loss``, chunk by chunk."""
    saved = ctx.saved_tensors
    encoder, predictor, weight = saved[:3]
    bias = saved[3] if len(saved) > 3 else None
    cells, dtype = ctx.cells, ctx.dtype
    compute_dtype = cells.weight.dtype
    need_encoder, need_predictor, need_weight, need_bias = ctx.needs_input_grad[:4]
    scale = grad.to(dtype).view(-1, 1, 1)
    used = (ctx.label_use + ctx.blank_use) * scale
    label_use, blank_use = ctx.label_use * scale, ctx.blank_use * scale
    windows = _windows(cells.chunks, ctx.label_use + ctx.blank_use)

    d_encoder = torch.zeros_like(cells.encoder, dtype=dtype)
    d_predictor = torch.zeros_like(cells.predictor, dtype=dtype)
    d_weight = torch.zeros_like(weight, dtype=dtype) if need_weight else None
    d_bias = torch.zeros_like(bias, dtype=dtype) if need_bias and bias is not None else None
    scratch = _rows(cells.largest, weight.shape[0], dtype, weight.device)
    hidden_buffer = cells.hidden_buffer()
    gradient_buffer = torch.empty_like(hidden_buffer)
    for index, (chunk, window) in enumerate(zip(cells.chunks, windows, strict=True)):
        if window is None:
            continue
        low, high = window
        b, count = chunk.utterance, chunk.end - chunk.begin
        at = (b, slice(chunk.begin, chunk.end), slice(low, high))
        size = count * (high - low)
        hidden = cells.hidden(chunk, low, high, hidden_buffer)
        occupancy, norm = used[at].reshape(size, 1), ctx.norms[at].reshape(size, 1)
        if ctx.kept:
            kept = ctx.kept[index].view(count, -1, weight.shape[0])[:, low:high]
            out = scratch[:size].view(kept.shape)
            d_logits = torch.mul(kept, (occupancy / norm).view(count, -1, 1), out=out).view(size, -1)
        else:
            d_logits = cells.logits(hidden, scratch, dtype).sub_(norm).exp_().mul_(occupancy)
        d_logits[:, ctx.blank] -= blank_use[at].reshape(size)
        d_logits.scatter_add_(1, ctx.label_ids[at].reshape(size, 1), -label_use[at].reshape(size, 1))
        if d_bias is not None:
            d_bias += d_logits.sum(dim=0)
        d_logits = d_logits.to(compute_dtype)
        if d_weight is not None:
            if compute_dtype == dtype:
                d_weight.addmm_(d_logits.t(), hidden)
            else:
                d_weight += d_logits.t() @ hidden
        if not (need_encoder or need_predictor):
            continue
        d_hidden = torch.mm(d_logits, cells.weight, out=gradient_buffer[:size])
        d_hidden = _activation_gradient(d_hidden, hidden, cells.activation).to(dtype)
        d_hidden = d_hidden.view(count, high - low, -1)
        d_encoder[b, chunk.begin : chunk.end] = d_hidden.sum(dim=1)
        positions = cells.positions(chunk, low, high)
        if isinstance(positions, slice):
            d_predictor[b, positions] += d_hidden.sum(dim=0)
        else:
            # a product with the one-hot matrix: quicker than index_add on the CPU, deterministic on the GPU
            one_hot = F.one_hot(positions, predictor.shape[1]).to(dtype)
            d_predictor[b].addmm_(one_hot.t(), d_hidden.flatten(0, 1))
    return (
        d_encoder.to(encoder.dtype) if need_encoder else None,
        d_predictor.to(predictor.dtype) if need_predictor else None,
        d_weight.to(weight.dtype) if d_weight is not None else None,
        d_bias.to(bias.dtype) if d_bias is not None and bias is not None else None,
        *([None] * 6),
    )


def _windows(chunks: list[_Chunk], occupancy: Tensor) -> list[tuple[int, int] | None]:
    """For each chunk the columns [low, high) that any path uses, or None: one transfer to the host."""
    used = (occupancy > OCCUPANCY_FLOOR) | occupancy.isnan()
    columns = torch.stack([used[c.utterance, c.begin : c.end].any(dim=0) for c in chunks]).cpu()
    width = columns.shape[1]
    low = torch.where(columns, torch.arange(width), width).amin(dim=1).tolist()
    high = torch.where(columns, torch.arange(width), -1).amax(dim=1).tolist()
    return [(a, z + 1) if z >= 0 else None for a, z in zip(low, high, strict=True)]


def joiner_loss(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    starts: Tensor | None,
    width: int,
    activation: str,
    blank: int,
    fastemit: float,
    delay_penalty: float,
    slicing: Slicing | None,
    rnnt_type: str = "regular",
    endpoint: EndpointPenalty | None = None,
) -> Tensor:
    """Losses (B,) of checked arguments; ``starts`` (B, T) and ``width`` describe the band (None: the full
    lattice)."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    device = encoder.device
    compute_dtype = torch.promote_types(torch.promote_types(encoder.dtype, predictor.dtype), weight.dtype)
    if torch.is_autocast_enabled(device.type):
        compute_dtype = torch.get_autocast_dtype(device.type)
    with torch.autocast(device.type, enabled=False):
        options = (
            activation,
            blank,
            float(fastemit),
            float(delay_penalty),
            slicing or Slicing.default(device),
            rnnt_type,
            endpoint,
            compute_dtype,
        )
        return _FusedLoss.apply(
            encoder, predictor, weight, bias, targets, logit_lengths, target_lengths, starts, width, options
        )
