"""Blocked attention of the Emformer over whole utterances, and dropout that is cheap on CPU.

Shapes: B batch, C chunks, U chunk, R look-ahead, W = U+R rows of a chunk, D width, H heads, d = D/H, M
memory slots.

An utterance is (B, C, W, D): every chunk followed by its own look-ahead copy. Chunks are taken in groups of
G, and everything is laid out group-major, (groups, B*H, G*W, d). The queries of a group see the keys of the
same group and of a few groups before it; "j groups before" is then a slice of the padded key tensor, so
windows of keys are never copied, their gradients need no overlap-add, and scores grow linearly with the
length of the utterance. Rows of these groups that the Emformer does not attend to are masked. Memory slots
(one row a chunk) are treated in the same way.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

TARGET_ROWS = (
    40  # query rows of a group: large enough for a fast matrix product, small enough to waste little
)


class AttentionPlan:
    """Grouping and mask for utterances of ``chunks`` chunks; shared by the layers, heads and utterances of a
    batch.

    hide (groups, Q, K) True = do not attend. Q: G*W rows, then G summary queries if M > 0. K: memory slots of
    ``memory_back`` + 1 groups, then rows of ``left_back`` + 1 groups, the oldest group first.
    offset (Q, K): entry of the table of relative positions, see `relative_entries`; the same for every group.
    """

    def __init__(
        self,
        chunks: int,
        chunk: int,
        look_ahead: int,
        left_context: int,
        memory_size: int,
        device: torch.device,
    ) -> None:
        self.chunk = chunk
        self.width = width = chunk + look_ahead
        self.memory_size = memory_size
        left_chunks = (left_context + chunk - 1) // chunk
        self.group = group = max(1, min(chunks, TARGET_ROWS // width))
        self.groups = (chunks + group - 1) // group
        self.left_back = (left_chunks + group - 1) // group
        self.memory_back = (memory_size + group - 1) // group

        start = torch.arange(self.groups, device=device)[:, None] * group
        own = (start + torch.arange(group, device=device))[:, :, None]  # chunk of a query: (groups, G, 1)
        seen = start + torch.arange(-self.left_back * group, group, device=device)
        key_chunk = seen.repeat_interleave(width, 1)[:, None, :]  # chunk of a key row: (groups, 1, rows)
        row = torch.arange(width, device=device).repeat(seen.size(1))
        # Frames from a key row to the start of the query's chunk: 1 … left_context of them are left context.
        age = (own - key_chunk) * chunk - row
        left = (age >= 1) & (age <= left_context) & (row < chunk) & (key_chunk >= 0)
        hide = ~(left | (own == key_chunk))
        frame = (torch.arange(group, device=device)[:, None] * chunk + torch.arange(width, device=device)).flatten()
        key_frame = (seen[0].repeat_interleave(width) * chunk + row)[None]  # of the first group, which starts at 0
        offset = relative_entries(frame[:, None] - key_frame, left_context, width)
        hide_rows = hide.repeat_interleave(width, 1)
        if memory_size > 0:
            slot = (start + torch.arange(-self.memory_back * group, group, device=device))[:, None, :]
            no_slot = ~((own - slot >= 1) & (own - slot <= memory_size) & (slot >= 0))
            hide_rows = torch.cat([no_slot.repeat_interleave(width, 1), hide_rows], 2)
            # A summary query never attends to memory.
            hide = torch.cat([hide_rows, torch.cat([torch.ones_like(no_slot), hide], 2)], 1)
            self.hide = hide
            none = relative_table_size(left_context, width)  # memory and summaries have no position
            offset = F.pad(offset, (no_slot.size(2), 0, 0, group), value=none)
        else:
            self.hide = hide_rows
        self.offset = offset

    def last_layer(self) -> "AttentionPlan":
        """The plan for queries of chunk rows only: nothing reads the last layer's look-ahead rows and
        summaries."""
        plan = object.__new__(AttentionPlan)
        plan.__dict__.update(self.__dict__)
        rows = self.hide[:, : self.group * self.width].unflatten(1, (self.group, self.width))
        plan.hide = rows[:, :, : self.chunk].flatten(1, 2)
        rows = self.offset[: self.group * self.width].unflatten(0, (self.group, self.width))
        plan.offset = rows[:, : self.chunk].flatten(0, 1)
        return plan


def relative_table_size(left_context: int, width: int) -> int:
    """How many relative positions a query row can see: from U+R-1 frames ahead to LC+U+R-1 frames back."""
    return left_context + 2 * width - 1


def relative_entries(offset: Tensor, left_context: int, width: int) -> Tensor:
    """Frames from key to query (positive: the key is older) -> index into the table of relative positions."""
    return (offset + width - 1).clamp(0, relative_table_size(left_context, width) - 1)


def relative_scores(table: Tensor, entries: Tensor) -> Tensor:
    """table (H, n) and indices (Q, K) up to n, which stands for "no position" -> (H, Q, K) added to the scores."""
    return F.pad(table, (0, 1))[:, entries]


def to_groups(x: Tensor, heads: int, group: int, back: int, dtype: torch.dtype) -> Tensor:
    """(B, C, rows, D) -> (back + groups, B*H, G*rows, d), zeros before the utterance and after it up to a
    whole group."""
    batch, chunks, rows, dim = x.shape
    whole, rest = divmod(chunks, group)
    groups = whole + (rest > 0)
    y = x.new_empty(back + groups, batch, heads, group * rows, dim // heads, dtype=dtype)
    y[:back].zero_()
    head = x[:, : whole * group].view(batch, whole, group * rows, heads, -1) if whole else None
    if head is not None:
        y[back : back + whole].copy_(head.permute(1, 0, 3, 2, 4))
    if rest:
        tail = x[:, whole * group :].view(batch, rest * rows, heads, -1)
        y[-1, :, :, : rest * rows].copy_(tail.transpose(1, 2))
        y[-1, :, :, rest * rows :].zero_()
    return y.view(back + groups, batch * heads, group * rows, -1)


def from_groups(x: Tensor, out: Tensor, group: int) -> Tensor:
    """(groups, B*H, G*rows, d) -> ``out`` (B, C, rows, D), which is filled and returned."""
    batch, chunks, rows, dim = out.shape
    whole, rest = divmod(chunks, group)
    x = x.reshape(x.size(0), batch, -1, group * rows, x.size(3))
    heads = x.size(2)
    if whole:
        out[:, : whole * group].view(batch, whole, group * rows, heads, -1).copy_(
            x[:whole].permute(1, 0, 3, 2, 4)
        )
    if rest:
        out[:, whole * group :].view(batch, rest * rows, heads, -1).copy_(
            x[whole, :, :, : rest * rows].transpose(1, 2)
        )
    return out


def keep_mask(like: Tensor, p: float) -> tuple[Tensor, float]:
    """Draw a dropout mask in the shape of ``like``: True with probability 1-p, and the factor of what is
    kept.

    On CPU, torch draws one Bernoulli variable at a time; sixteen bits each out of 64-bit draws are several
    times faster. p is rounded to 1/65536 there, and the factor is the exact 1/(1-p) of the rounded p.
    """
    if like.device.type != "cpu":
        return torch.empty_like(like, dtype=torch.bool).bernoulli_(1.0 - p), 1.0 / (1.0 - p)
    dropped = min(round(p * 65536), 65535)
    draws = torch.empty((like.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    keep = draws.view(torch.int16)[: like.numel()] >= dropped - 32768
    return keep.view(like.shape), 65536 / (65536 - dropped)


class _Dropout(torch.autograd.Function):
    """dropout(x), or residual + dropout(x); keeps one byte an element for the way back."""

    @staticmethod
    def forward(ctx, x, residual, p):
        keep, ctx.factor = keep_mask(x, p)
        ctx.save_for_backward(keep)
        noise = keep.to(x.dtype)
        if residual is None:
            return noise.mul_(x).mul_(ctx.factor)
        return torch.addcmul(residual, x, noise, value=ctx.factor)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (keep,) = ctx.saved_tensors
        d_x = keep.to(grad.dtype).mul_(grad).mul_(ctx.factor)
        return d_x, grad if ctx.needs_input_grad[1] else None, None


@torch.jit.unused
def _fast_dropout(x: Tensor, residual: Optional[Tensor], p: float) -> Tensor:  # noqa: UP045
    return _Dropout.apply(x, residual, p)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero elements with probability p and scale the rest by 1/(1-p) (p to 1/65536 on CPU)."""
    if not training or p == 0.0:
        return x
    return _fast_dropout(x, None, p) if x.device.type == "cpu" else F.dropout(x, p)


def dropout_add(x: Tensor, residual: Tensor, p: float, training: bool) -> Tensor:
    """residual + dropout(x)."""
    if not training or p == 0.0:
        return residual + x
    return _fast_dropout(x, residual, p) if x.device.type == "cpu" else residual + F.dropout(x, p)


def _back(x: Tensor, j: int, groups: int) -> Tensor:
    """Of padded (back + groups, B*H, rows, d), what the groups see as their j-th oldest group: (groups*B*H,
    rows, d)."""
    return x[j : j + groups].flatten(0, 1)


class _BlockedAttention(torch.autograd.Function):
    """The CPU form: every product is one batched matrix product on slices; see the top of the file."""

    @staticmethod
    def forward(ctx, fused, query, summary, memory, relative, plan, heads, p):
        """fused (B, C, W, 3D), or (B, C, W, 2D) keys|values with a separate query (B, C, rows, D); relative
        (H, Q, K) or None."""
        with torch.autocast(fused.device.type, enabled=False):
            dim = fused.size(3) // (3 if query is None else 2)
            dtype = torch.float64 if fused.dtype == torch.float64 else torch.float32
            source = fused[..., :dim] if query is None else query
            group, groups, scale = plan.group, plan.groups, (dim // heads) ** -0.5
            q = to_groups(source, heads, group, 0, dtype)
            if summary is not None:
                q = torch.cat([q, to_groups(summary[:, :, None], heads, group, 0, dtype)], 2)
            sources = [(fused[..., -2 * dim :], plan.left_back)]
            if memory is not None:
                sources.insert(0, (memory[:, :, None], plan.memory_back))
            banks = [
                (
                    to_groups(x[..., :dim], heads, group, n, dtype),
                    to_groups(x[..., dim:], heads, group, n, dtype),
                    n,
                )
                for x, n in sources
            ]
            q3 = q.flatten(0, 1)
            scores = q.new_empty(groups, q.size(1), q.size(2), plan.hide.size(2))
            bias = q.new_zeros(plan.hide.shape).masked_fill_(plan.hide, float("-inf"))[:, None]
            if relative is not None:
                bias = bias + relative.to(dtype)
            heads_apart = (groups, q.size(1) // bias.size(1), bias.size(1), q.size(2))  # bias is per head, or one for all
            for keys, _, j, columns in _pieces(banks):
                part = torch.bmm(q3, _back(keys, j, groups).transpose(1, 2)).view(*heads_apart, keys.size(2))
                out = scores.view(*heads_apart, -1)[..., columns]
                torch.add(bias[:, None, ..., columns], part, alpha=scale, out=out)
            weights = torch.softmax(scores, -1)
            keep, factor = keep_mask(weights, p) if p > 0.0 else (None, 1.0)
            dropped = (weights if keep is None else weights * keep.to(dtype).mul_(factor)).flatten(0, 1)
            attended = torch.zeros_like(q3)
            for _, values, j, columns in _pieces(banks):
                attended.baddbmm_(dropped[..., columns], _back(values, j, groups))
            attended = attended.view(q.shape)
            rows = from_groups(attended[:, :, : group * source.size(2)], fused.new_empty(source.shape), group)
            if summary is not None:
                out = from_groups(
                    attended[:, :, group * source.size(2) :], torch.empty_like(summary)[:, :, None], group
                )
                summary = out[:, :, 0]
        tensors = [q, weights, keep] + [t for keys, values, _ in banks for t in (keys, values)]
        ctx.save_for_backward(*tensors)
        ctx.meta = (
            plan,
            heads,
            query is None,
            memory is not None,
            summary is not None,
            relative is not None,
            fused.shape,
            fused.dtype,
            factor,
        )
        return rows, summary

    @staticmethod
    @once_differentiable
    def backward(ctx, d_rows, d_summary):
        plan, heads, is_fused, has_memory, has_summary, has_relative, shape, dtype, factor = ctx.meta
        q, weights, keep, *rest = ctx.saved_tensors
        noise = None if keep is None else keep.to(q.dtype).mul_(factor)
        backs = [plan.memory_back, plan.left_back] if has_memory else [plan.left_back]
        banks = [(rest[2 * i], rest[2 * i + 1], n) for i, n in enumerate(backs)]
        group, groups, scale = plan.group, plan.groups, q.size(3) ** -0.5
        d_out = to_groups(d_rows.contiguous(), heads, group, 0, q.dtype)
        if has_summary:
            d_out = torch.cat(
                [d_out, to_groups(d_summary.contiguous()[:, :, None], heads, group, 0, q.dtype)], 2
            )
        d_out, q3 = d_out.flatten(0, 1), q.flatten(0, 1)
        dropped = (weights if noise is None else weights * noise).flatten(0, 1)
        d_weights = torch.empty_like(weights)
        for _, values, j, columns in _pieces(banks):
            part = torch.bmm(d_out, _back(values, j, groups).transpose(1, 2)).view(*q.shape[:3], -1)
            if noise is None:
                d_weights[..., columns] = part
            else:
                torch.mul(part, noise[..., columns], out=d_weights[..., columns])
        d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
        d_relative = None
        if has_relative:
            d_relative = d_scores.view(-1, heads, *d_scores.shape[2:]).sum(0)
        d_scores = d_scores.flatten(0, 1)
        d_banks = [(torch.zeros_like(keys), torch.zeros_like(values), n) for keys, values, n in banks]
        d_q = torch.zeros_like(q3)
        for (keys, _, j, columns), (d_keys, d_values, _, _) in zip(
            _pieces(banks), _pieces(d_banks), strict=True
        ):
            part = d_scores[..., columns]
            d_q.baddbmm_(part, _back(keys, j, groups), alpha=scale)
            _back(d_keys, j, groups).baddbmm_(part.transpose(1, 2), q3, alpha=scale)
            _back(d_values, j, groups).baddbmm_(dropped[..., columns].transpose(1, 2), d_out)
        d_fused = torch.empty(shape, dtype=dtype, device=q.device)
        dim = heads * q.size(3)
        d_q = d_q.view(q.shape)
        rows = group * d_rows.size(2)
        d_query = d_fused[..., :dim] if is_fused else torch.empty(d_rows.shape, dtype=dtype, device=q.device)
        from_groups(d_q[:, :, :rows], d_query, group)
        d_keys, d_values, n = d_banks[-1]
        from_groups(d_keys[n:], d_fused[..., -2 * dim : -dim], group)
        from_groups(d_values[n:], d_fused[..., -dim:], group)
        d_memory = d_summary_in = None
        if has_summary:
            d_summary_in = torch.empty_like(d_summary, dtype=dtype)
            from_groups(d_q[:, :, rows:], d_summary_in[:, :, None], group)
        if has_memory:
            d_keys, d_values, n = d_banks[0]
            d_memory = torch.empty((*shape[:2], 2 * dim), dtype=dtype, device=q.device)
            from_groups(d_keys[n:], d_memory[:, :, None, :dim], group)
            from_groups(d_values[n:], d_memory[:, :, None, dim:], group)
        return d_fused, None if is_fused else d_query, d_summary_in, d_memory, d_relative, None, None, None


def _pieces(banks: list[tuple[Tensor, Tensor, int]]) -> list[tuple[Tensor, Tensor, int, slice]]:
    """Banks of padded (keys, values, groups back) -> (keys, values, j, columns of the score matrix), in key
    order."""
    pieces, start = [], 0
    for keys, values, back in banks:
        for j in range(back + 1):
            pieces.append((keys, values, j, slice(start, start + keys.size(2))))
            start += keys.size(2)
    return pieces


def _attention_by_autograd(
    fused: Tensor,
    query: Tensor | None,
    summary: Tensor | None,
    memory: Tensor | None,
    relative: Tensor | None,
    plan: AttentionPlan,
    heads: int,
    p: float,
) -> tuple[Tensor, Tensor | None]:
    """The same with torch's fused attention on explicit windows: the CUDA form, and the yardstick of the CPU
    form."""
    dim = fused.size(3) // (3 if query is None else 2)
    group, groups = plan.group, plan.groups
    batch, chunks = fused.size(0), fused.size(1)
    pad = groups * group - chunks

    def grouped(x: Tensor, back: int) -> Tensor:
        x = F.pad(x, [0, 0, 0, 0, back * group, pad])
        return x.reshape(batch, back + groups, -1, heads, dim // heads).permute(1, 0, 3, 2, 4).flatten(1, 2)

    def windows(x: Tensor, back: int) -> Tensor:
        return torch.cat([x[j : j + groups] for j in range(back + 1)], 2)

    def ungrouped(x: Tensor) -> Tensor:
        return (
            x.reshape(groups, batch, heads, group, -1, dim // heads)
            .permute(1, 0, 3, 4, 2, 5)
            .reshape(batch, groups * group, -1, dim)[:, :chunks]
        )

    source = fused[..., :dim] if query is None else query
    q = grouped(source, 0)
    key, value = (
        windows(grouped(x, plan.left_back), plan.left_back) for x in fused[..., -2 * dim :].chunk(2, -1)
    )
    if summary is not None:
        q = torch.cat([q, grouped(summary[:, :, None], 0)], 2)
    if memory is not None:
        bank = [
            windows(grouped(x, plan.memory_back), plan.memory_back) for x in memory[:, :, None].chunk(2, -1)
        ]
        key, value = torch.cat([bank[0], key], 2), torch.cat([bank[1], value], 2)
    mask = ~plan.hide[:, None]
    if relative is not None:
        bias = relative.to(q.dtype).masked_fill(plan.hide[:, None], float("-inf"))
        mask = bias.repeat(1, batch, 1, 1)  # (groups, B*H, Q, K)
    out = F.scaled_dot_product_attention(q, key, value, mask, p)
    rows = group * source.size(2)
    return ungrouped(out[:, :, :rows]), None if summary is None else ungrouped(out[:, :, rows:])[:, :, 0]


def blocked_attention(
    fused: Tensor,
    plan: AttentionPlan,
    heads: int,
    p: float,
    query: Tensor | None = None,
    summary: Tensor | None = None,
    memory: Tensor | None = None,
    relative: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attend within utterances: fused (B, C, W, 3D) queries|keys|values -> (B, C, W, D), and None or
    summaries (B, C, D).

    With a memory bank also ``memory`` (B, C, 2D) keys|values of the slots, slot c read by chunks after c, and
    ``summary`` (B, C, D) queries. With ``query`` (B, C, rows, D), fused is (B, C, W, 2D) keys|values and the
    result has the rows of ``query``. relative (H, Q, K): added to the scores. p: dropout probability of the attention weights.
    """
    attend = _BlockedAttention.apply if fused.device.type == "cpu" else _attention_by_autograd
    return attend(fused, query, summary, memory, relative, plan, heads, p)
