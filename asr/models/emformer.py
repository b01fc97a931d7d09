"""Emformer: a streaming transformer encoder with left context, look-ahead and a memory bank (arXiv
2010.10759).

Shapes: B/N batch (streams), T feature frames of 10 ms, F feature bins, D model width, H heads, L layers; in
encoder frames of 40 ms: U chunk, R look-ahead, LC left context; M memory slots (one a chunk), C chunks of an
utterance.

One set of weights, two doors. ``forward`` takes whole utterances and computes attention chunk group by chunk
group (never T x T scores); ``step`` takes one chunk and a fixed-shape state. Both give the same numbers.
"""

# No `from __future__ import annotations` here: torch.jit.script reads the annotations of this file.
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.errors import UserError
from asr.features import ENCODER_FRAME_MS, SUBSAMPLING
from asr.models.attention import (
    AttentionPlan,
    blocked_attention,
    dropout,
    dropout_add,
    relative_entries,
    relative_scores,
    relative_table_size,
)
from asr.models.linear import affine, linear

ACTIVATIONS = ("gelu", "relu", "silu")
MEMORY_ACTIVATIONS = ("tanh", "clamp")
INIT_SCALES = ("depthwise", "constant", "none")


@dataclass
class EmformerConfig:
    """Shape and streaming geometry of the encoder; times are checked against the 40 ms encoder frame."""

    input_dim: int = 80  # feature bins
    dim: int = 512  # model width
    heads: int = 8
    ffn_dim: int = 2048
    layers: int = 20
    dropout: float = 0.1
    activation: str = "gelu"  # gelu | relu | silu
    chunk_ms: int = 160  # milliseconds consumed by one step
    look_ahead_ms: int = 40  # milliseconds seen beyond the chunk
    left_context_ms: int = 1200  # milliseconds of keys and values kept in each layer
    memory_size: int = 0  # memory slots, one a past chunk; 0 = no memory bank, no summary query
    memory_activation: str = "tanh"  # tanh | clamp (to +-10)
    # Gain of the query/key/value weights: depthwise 1/sqrt(layer+1) | constant 1/sqrt(2) | none.
    init_scale: str = "depthwise"
    # Learned score for each head and distance between frames, as in T5 (arXiv 1910.10683). The Emformer of the paper
    # and of torchaudio has none: it cannot tell the order of the frames it sees.
    relative_positions: bool = False

    def __post_init__(self) -> None:
        for name in ("chunk_ms", "look_ahead_ms", "left_context_ms"):
            value = getattr(self, name)
            if value < 0 or value % ENCODER_FRAME_MS:
                raise UserError(
                    f"encoder {name} is {value}, but must be a multiple of the {ENCODER_FRAME_MS} ms frame"
                )
        if self.chunk_ms == 0:
            raise UserError(
                f"encoder chunk_ms is 0, but must be at least one {ENCODER_FRAME_MS} ms encoder frame"
            )
        for name in ("input_dim", "dim", "heads", "ffn_dim", "layers"):
            if getattr(self, name) < 1:
                raise UserError(f"encoder {name} is {getattr(self, name)}, but must be at least 1")
        if self.memory_size < 0:
            raise UserError(f"encoder memory_size is {self.memory_size}, but cannot be negative")
        if self.dim % self.heads or self.dim % SUBSAMPLING:
            raise UserError(
                f"encoder dim is {self.dim}, but must be a multiple of {SUBSAMPLING} and heads ({self.heads})"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"encoder dropout is {self.dropout}, but must be at least 0 and below 1")
        for name, allowed in (
            ("activation", ACTIVATIONS),
            ("memory_activation", MEMORY_ACTIVATIONS),
            ("init_scale", INIT_SCALES),
        ):
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"encoder {name} is '{getattr(self, name)}', but must be one of {', '.join(allowed)}"
                )

    @property
    def chunk(self) -> int:
        """U: encoder frames (40 ms) of a chunk."""
        return self.chunk_ms // ENCODER_FRAME_MS

    @property
    def look_ahead(self) -> int:
        """R: encoder frames (40 ms) of look-ahead."""
        return self.look_ahead_ms // ENCODER_FRAME_MS

    @property
    def left_context(self) -> int:
        """LC: encoder frames (40 ms) of left context."""
        return self.left_context_ms // ENCODER_FRAME_MS


class EmformerState(NamedTuple):
    """What a stream carries from chunk to chunk: fixed shapes, batch axis 1 (axis 0 for ``past``).

    memory (L, N, M, D), keys (L, N, H, LC, D/H), values (L, N, H, LC, D/H): oldest row first, valid rows
    right-aligned; past (N,) int64: encoder frames consumed so far, saturating. Which rows are valid follows
    from ``past`` alone, so streams of different ages share a batch, and zeroing a stream's ``past`` restarts it.
    """

    memory: Tensor
    keys: Tensor
    values: Tensor
    past: Tensor


class EmformerLayer(nn.Module):
    """One layer: pre-norm attention over [memory | left context | chunk | look-ahead], feed-forward, output
    norm."""

    def __init__(self, config: EmformerConfig, index: int) -> None:
        super().__init__()
        dim = config.dim
        self.dim = dim
        self.heads = config.heads
        self.scale = (config.dim // config.heads) ** -0.5
        self.chunk = config.chunk
        self.window = config.chunk + config.look_ahead
        self.left_context = config.left_context
        self.memory_size = config.memory_size
        self.rows = self.window + (self.memory_size + 1 if self.memory_size > 0 else 0)  # of a step's product
        self.dropout = config.dropout
        self.activation = config.activation
        self.clamp_memory = config.memory_activation == "clamp"
        self.register_parameter("relative_bias", None)
        if config.relative_positions:  # heads that differ from the start: from zeros they take long to see order
            entries = relative_table_size(config.left_context, config.chunk + config.look_ahead)
            self.relative_bias = nn.Parameter(torch.randn(config.heads, entries))
        self.norm_in = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)  # rows: query | key | value
        self.out = nn.Linear(dim, dim)
        self.norm_ffn = nn.LayerNorm(dim)
        self.ffn_in = nn.Linear(dim, config.ffn_dim)
        self.ffn_out = nn.Linear(config.ffn_dim, dim)
        self.norm_out = nn.LayerNorm(dim)
        self.reset_parameters(config.init_scale, index)

    def reset_parameters(self, init_scale: str, index: int) -> None:
        """Xavier for query and for key|value, scaled down with depth as in torchaudio."""
        query, key_value = self.qkv.weight.data[: self.dim], self.qkv.weight.data[self.dim :]
        bias_bound = 1.0 / math.sqrt(self.dim)
        nn.init.uniform_(self.qkv.bias, -bias_bound, bias_bound)
        if init_scale != "none":
            gain = 1.0 / math.sqrt(index + 1) if init_scale == "depthwise" else 1.0 / math.sqrt(2.0)
            nn.init.xavier_uniform_(query, gain=gain)
            nn.init.xavier_uniform_(key_value, gain=gain)

    def activate_memory(self, x: Tensor) -> Tensor:
        """Squash summary outputs before they become memory slots."""
        return x.clamp(-10.0, 10.0) if self.clamp_memory else torch.tanh(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        """(…, D) -> (…, D): residual feed-forward block and the output norm."""
        z = self.norm_ffn(x)
        hidden = self.ffn_in(z) if torch.jit.is_scripting() else linear(self.ffn_in, z)
        if self.activation == "gelu":
            hidden = F.gelu(hidden)
        elif self.activation == "relu":
            hidden = F.relu(hidden)
        else:
            hidden = F.silu(hidden)
        hidden = dropout(hidden, self.dropout, self.training)
        hidden = self.ffn_out(hidden) if torch.jit.is_scripting() else linear(self.ffn_out, hidden)
        return self.norm_out(dropout_add(hidden, x, self.dropout, self.training))

    @torch.jit.unused
    def project_query(self, x: Tensor) -> Tensor:
        """(…, D) rows, or pooled chunks -> (…, D): the query part of ``qkv``."""
        return affine(x, self.qkv.weight[: self.dim], self.qkv.bias[: self.dim])

    @torch.jit.unused
    def project_key_value(self, x: Tensor) -> Tensor:
        """(…, D) rows, or memory slots (which are not normalised) -> (…, 2D): the key | value part of
        ``qkv``."""
        return affine(x, self.qkv.weight[self.dim :], self.qkv.bias[self.dim :])

    def relative(self, entries: Tensor) -> Tensor | None:
        """(Q, K) table entries -> (H, Q, K) scores of relative positions; None if the model has none."""
        if self.relative_bias is None:  # TorchScript leaves out the branch that does not apply
            return None
        return relative_scores(self.relative_bias, entries)  # type: ignore[arg-type]

    @torch.jit.unused
    def forward(self, x: Tensor, memory: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor]:
        """Whole utterances: x (B, C, U+R, D) chunks with their look-ahead copies, memory (B, C, D) or (B, 0,
        D)."""
        summary = slots = None
        z = self.norm_in(x)
        if self.memory_size > 0:
            summary = self.project_query(z[:, :, : self.chunk].mean(2))
            slots = self.project_key_value(memory)
        p = self.dropout if self.training else 0.0
        attended, summary = blocked_attention(
            linear(self.qkv, z), plan, self.heads, p, None, summary, slots, self.relative(plan.offset)
        )
        y = self.feed_forward(dropout_add(linear(self.out, attended), x, self.dropout, self.training))
        if summary is not None:
            memory = self.activate_memory(linear(self.out, summary))
        return y, memory

    @torch.jit.unused
    def forward_last(self, x: Tensor, memory: Tensor, plan: AttentionPlan) -> Tensor:
        """As ``forward``, but of the last layer only the chunk rows (B, C, U, D) are wanted, so only they
        are computed."""
        z = self.norm_in(x)
        # The parts of qkv that apply to all rows (keys | values) and to chunk rows (queries).
        key_value = self.project_key_value(z)
        query = self.project_query(z[:, :, : self.chunk])
        slots = self.project_key_value(memory) if self.memory_size > 0 else None
        p = self.dropout if self.training else 0.0
        plan = plan.last_layer()
        attended, _ = blocked_attention(
            key_value, plan, self.heads, p, query, None, slots, self.relative(plan.offset)
        )
        return self.feed_forward(
            dropout_add(linear(self.out, attended), x[:, :, : self.chunk], self.dropout, self.training)
        )

    def step(
        self,
        x: Tensor,
        carry: Tensor,
        memory: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
        entries: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One chunk: x (N, U+R, D), carry (N, 1, D) memory slot offered by the layer below, this layer's state memory
        (N, M, D), keys and values (N, H, LC, D/H), mask (N, 1, Q, K) added to the scores, entries (Q, K) of the table
        of relative positions -> x and carry for the next layer, the chunk's own keys and values (N, H, U, D/H).

        Old keys are not joined with new ones, nor kept with them layer by layer: copying them took longer than
        attention. Shapes are spelled out where they are known, as every question for one is a node of an ONNX graph.
        """
        heads, window, left = self.heads, self.window, self.left_context
        z = self.norm_in(x)
        if self.memory_size > 0:  # one product for all rows; memory slots are not normalised
            z = torch.cat([z, memory, z[:, : self.chunk].mean(1, keepdim=True)], dim=1)
        rows = self.qkv(z).reshape(-1, self.rows, 3 * heads, self.dim // heads)
        query, key, value = rows.transpose(1, 2).chunk(3, dim=1)  # (N, H, rows, D/H)
        if self.memory_size > 0:
            query = torch.cat([query[:, :, :window], query[:, :, -1:]], dim=2)
            key, value = key[:, :, :-1], value[:, :, :-1]
        query = query * self.scale
        scores = torch.matmul(query, key.transpose(2, 3))
        if left > 0:
            scores = torch.cat([torch.matmul(query, keys.transpose(2, 3)), scores], dim=3)
        scores = scores + mask
        relative = self.relative(entries)
        if relative is not None:
            scores = scores + relative
        weights = scores.softmax(-1)
        attended = torch.matmul(weights[:, :, :, left:], value)
        if left > 0:
            attended = attended + torch.matmul(weights[:, :, :, :left], values)
        attended = self.out(attended.transpose(1, 2).flatten(2))
        if self.memory_size > 0:
            carry = self.activate_memory(attended[:, window:])
            attended = attended[:, :window]
        y = self.feed_forward(attended + x)
        # Look-ahead frames come again as part of the next chunk.
        return y, carry, key[:, :, : self.chunk], value[:, :, : self.chunk]


def step_entries(config: EmformerConfig) -> Tensor:
    """(Q, K) entries of the table of relative positions for one step; rows and keys as in `Emformer.step_mask`."""
    width = config.chunk + config.look_ahead
    key_frame = torch.arange(-config.left_context, width)
    entries = relative_entries(torch.arange(width)[:, None] - key_frame, config.left_context, width)
    none = relative_table_size(config.left_context, width)  # memory and summaries have no position
    return F.pad(entries, (0, config.memory_size, 0, int(config.memory_size > 0)), value=none)


class Emformer(nn.Module):
    """The encoder: normalisation, 4x stacking, Emformer layers; (B, T, F) features of 10 ms -> (B,
    ceil(T/4), D)."""

    mean: Tensor
    istd: Tensor
    step_entries: Tensor

    def __init__(self, config: EmformerConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.heads = config.heads
        self.chunk = config.chunk
        self.look_ahead = config.look_ahead
        self.left_context = config.left_context
        self.memory_size = config.memory_size
        self.num_layers = config.layers
        self.stacking = SUBSAMPLING  # feature frames in an encoder frame
        self.register_buffer("mean", torch.zeros(config.input_dim))
        self.register_buffer("istd", torch.ones(config.input_dim))
        self.register_buffer("step_entries", step_entries(config), persistent=False)
        self.input_linear = nn.Linear(config.input_dim, config.dim // SUBSAMPLING, bias=False)
        self.layers = nn.ModuleList([EmformerLayer(config, i) for i in range(config.layers)])
        # Validity needs no more than this; saturation keeps the counter exact in any number format of an
        # export.
        self.max_past = max(1 << 14, config.memory_size * config.chunk, config.left_context)

    @property
    def output_dim(self) -> int:
        """D, the width of an output frame."""
        return self.dim

    @property
    def chunk_frames(self) -> int:
        """Feature frames (10 ms) a step consumes: 4U."""
        return self.stacking * self.chunk

    @property
    def window_frames(self) -> int:
        """Feature frames (10 ms) a step needs: 4(U+R)."""
        return self.stacking * (self.chunk + self.look_ahead)

    @torch.jit.unused
    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Store the feature mean (F,) and standard deviation (F,) of the training data; raises UserError on
        bad values."""
        mean, std = torch.as_tensor(mean), torch.as_tensor(std)
        if mean.shape != self.mean.shape or std.shape != self.istd.shape:
            raise UserError(
                f"feature statistics have {mean.numel()} and {std.numel()} bins, not {self.mean.numel()}"
            )
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std >= 0).all()):
            raise UserError("feature statistics contain NaN, infinite or negative values")
        self.mean.copy_(mean)
        self.istd.copy_(1.0 / std.clamp(min=1e-5))  # a constant bin must not blow up

    def front(self, x: Tensor) -> Tensor:
        """(B, 4K, F) features -> (B, K, D): normalise, project, stack four frames."""
        x = self.input_linear((x - self.mean) * self.istd)
        return x.reshape(x.size(0), -1, self.dim)

    @torch.jit.unused
    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode whole utterances: x (B, T, F) features, lengths (B,) feature frames -> (B, ceil(T/4), D),
        (B,) frames.

        Features beyond ``lengths`` are taken as zeros, and zeros complete the last chunk and its look-ahead,
        so that every utterance gets what it would get alone and what ``step`` gives after zero padding at
        the end.

        Raises:
            ValueError: a length beyond T.
        """
        batch, total = x.size(0), x.size(1)
        # No such check on a GPU, it would wait for it, nor in a graph, where lengths have no values.
        traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if not traced and lengths.device.type == "cpu" and batch > 0 and int(lengths.max()) > total:
            raise ValueError(f"a length of {int(lengths.max())} frames in a batch of {total}")
        frames = (total + SUBSAMPLING - 1) // SUBSAMPLING
        out_lengths = torch.div(lengths + (SUBSAMPLING - 1), SUBSAMPLING, rounding_mode="floor")
        if frames == 0:
            return x.new_zeros([batch, 0, self.dim]), out_lengths
        beyond = torch.arange(total, device=x.device)[None, :] >= lengths[:, None]
        x = x.masked_fill(beyond[:, :, None], 0.0)
        chunks = (frames + self.chunk - 1) // self.chunk
        x = self.front(F.pad(x, [0, 0, 0, SUBSAMPLING * (chunks * self.chunk + self.look_ahead) - total]))
        # (B, C, U+R, D): each chunk followed by its own copy of the look-ahead ("right context hard copy").
        x = x.unfold(1, self.chunk + self.look_ahead, self.chunk).transpose(2, 3).contiguous()
        plan = AttentionPlan(
            chunks, self.chunk, self.look_ahead, self.left_context, self.memory_size, x.device
        )
        memory = x[:, :, : self.chunk].mean(2) if self.memory_size > 0 else x.new_zeros([batch, 0, self.dim])
        for layer in self.layers[:-1]:
            x, memory = layer(x, memory, plan)
        x = self.layers[-1].forward_last(x, memory, plan)  # type: ignore[operator]
        return x.reshape(batch, -1, self.dim)[:, :frames], out_lengths

    @torch.jit.export
    def initial_state(self, batch: int) -> EmformerState:
        """State of ``batch`` streams that have heard nothing, on the module's device and in its number
        format."""
        weight = self.input_linear.weight
        layers, dim = self.num_layers, self.dim
        return EmformerState(
            weight.new_zeros([layers, batch, self.memory_size, dim]),
            weight.new_zeros([layers, batch, self.heads, self.left_context, dim // self.heads]),
            weight.new_zeros([layers, batch, self.heads, self.left_context, dim // self.heads]),
            torch.zeros([batch], dtype=torch.int64, device=weight.device),
        )

    def step_mask(self, past: Tensor) -> Tensor:
        """(N,) frames consumed -> (N, 1, Q, K) True = do not attend; keys [left context | chunk |
        look-ahead | memory]."""
        n, chunk, window = past.size(0), self.chunk, self.chunk + self.look_ahead
        slots = torch.arange(self.memory_size, device=past.device)
        rows = torch.arange(self.left_context, device=past.device)
        used = torch.div(past + (chunk - 1), chunk, rounding_mode="floor")
        no_memory = slots[None, :] < self.memory_size - used[:, None]
        no_left = rows[None, :] < self.left_context - past[:, None]
        no_window = torch.zeros([n, window], dtype=torch.bool, device=past.device)
        hide = torch.cat([no_left, no_window, no_memory], dim=1)[:, None, :].expand(n, window, -1)
        if self.memory_size > 0:  # the summary query never attends to memory
            no_slots = torch.ones_like(no_memory)
            hide = torch.cat([hide, torch.cat([no_left, no_window, no_slots], dim=1)[:, None, :]], dim=1)
        return hide[:, None]

    @torch.jit.export
    def step(self, x: Tensor, state: EmformerState) -> tuple[Tensor, EmformerState]:
        """Encode one chunk: x (N, 4(U+R), F) features, the next call starting 4U frames later -> (N, U, D),
        new state."""
        x = self.front(x)
        mask = torch.zeros([], dtype=x.dtype, device=x.device).masked_fill(
            self.step_mask(state.past), float("-inf")
        )
        carry = x[:, : self.chunk].mean(1, keepdim=True)
        slots: list[Tensor] = []
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            slots.append(carry)
            x, carry, key, value = layer.step(  # type: ignore[operator]
                x, carry, state.memory[i], state.keys[i], state.values[i], mask, self.step_entries
            )
            keys.append(key)
            values.append(value)
        memory = state.memory
        if self.memory_size > 0:
            memory = torch.cat([memory[:, :, 1:], torch.stack(slots)], dim=2)
        past = (state.past + self.chunk).clamp(max=self.max_past)
        return x[:, : self.chunk], EmformerState(
            memory, self.move_on(state.keys, keys), self.move_on(state.values, values), past
        )

    def move_on(self, old: Tensor, new: list[Tensor]) -> Tensor:
        """All layers at once: old (L, N, H, LC, D/H) without its oldest rows, and the U new rows (N, H, U, D/H) of
        each layer."""
        rows = torch.stack(new)[:, :, :, max(0, self.chunk - self.left_context) :]
        return torch.cat([old[:, :, :, self.chunk :], rows], dim=3)
