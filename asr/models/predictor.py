"""Predictors (prediction networks) of the transducer: a layer-normalised LSTM, and a stateless convolution.

Shapes: B/N batch, U tokens including the leading blank, E embedding, P output width, L layers.
Both have the two doors of every network part: ``forward`` over whole token sequences, ``step`` over one
token.
"""

# No `from __future__ import annotations` here: torch.jit.script reads the annotations of this file.
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.errors import UserError

KINDS = ("lstm", "stateless")
LAYER_NORM_EPS = 1e-3  # inside the LSTM, as torchaudio's emformer_rnnt_base


@dataclass
class PredictorConfig:
    """Which predictor, and its widths."""

    kind: str = "lstm"  # lstm | stateless
    embed_dim: int = 512
    hidden_dim: int = 512  # LSTM only
    layers: int = 3  # LSTM only
    dropout: float = 0.3
    layer_norm: bool = True  # LSTM only: normalise gates and cell
    context_size: int = 2  # stateless only: tokens seen

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"predictor kind is '{self.kind}', but must be one of {', '.join(KINDS)}")
        for name in ("embed_dim", "hidden_dim", "layers", "context_size"):
            if getattr(self, name) < 1:
                raise UserError(f"predictor {name} is {getattr(self, name)}, but must be at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"predictor dropout is {self.dropout}, but must be at least 0 and below 1")


class LSTMState(NamedTuple):
    """Hidden and cell vectors after the tokens so far: both (L, N, P), batch axis 1."""

    hidden: Tensor
    cell: Tensor


class StatelessState(NamedTuple):
    """The last context_size - 1 tokens: (N, context_size - 1) int64, batch axis 0; 0 = nothing yet."""

    tokens: Tensor


class LSTMLayer(nn.Module):
    """LSTM layer with layer-normalised gates and cell, as torchaudio's ``_CustomLSTM`` (gates: in, forget,
    cell, out)."""

    def __init__(self, input_dim: int, hidden_dim: int, layer_norm: bool) -> None:
        super().__init__()
        self.x2g = nn.Linear(input_dim, 4 * hidden_dim, bias=not layer_norm)
        self.p2g = nn.Linear(hidden_dim, 4 * hidden_dim, bias=False)
        self.g_norm = nn.LayerNorm(4 * hidden_dim, eps=LAYER_NORM_EPS) if layer_norm else nn.Identity()
        self.c_norm = nn.LayerNorm(hidden_dim, eps=LAYER_NORM_EPS) if layer_norm else nn.Identity()

    def cell(self, gates: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """One time step: gates (N, 4P) from the input, hidden and cell (N, P) -> new hidden, new cell."""
        i, f, g, o = self.g_norm(gates + self.p2g(hidden)).chunk(4, dim=1)
        cell = self.c_norm(torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g))
        return torch.sigmoid(o) * torch.tanh(cell), cell

    def forward(self, x: Tensor) -> Tensor:
        """(U, N, E) -> (U, N, P) from a zero state; the input's share of the gates is computed for all
        tokens at once."""
        gates = self.x2g(x)
        hidden = gates.new_zeros([x.size(1), self.p2g.in_features])
        cell = hidden
        outputs: list[Tensor] = []
        for gate in gates.unbind(0):
            hidden, cell = self.cell(gate, hidden, cell)
            outputs.append(hidden)
        return torch.stack(outputs)


class LSTMPredictor(nn.Module):
    """Embedding, layer norm, layer-normalised LSTM layers with dropout (predictor of torchaudio's
    emformer_rnnt_base)."""

    def __init__(self, vocab_size: int, config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        self.hidden_dim = config.hidden_dim
        self.num_layers = config.layers
        self.dropout = config.dropout
        self.embedding = nn.Embedding(vocab_size, config.embed_dim)
        self.norm = nn.LayerNorm(config.embed_dim)
        widths = [config.embed_dim] + [config.hidden_dim] * (config.layers - 1)
        self.layers = nn.ModuleList([LSTMLayer(w, config.hidden_dim, config.layer_norm) for w in widths])

    @property
    def output_dim(self) -> int:
        """P, the width of an output vector."""
        return self.hidden_dim

    def forward(self, y: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """y (B, U) int64 tokens with a leading blank, lengths (B,) -> (B, U, P), lengths; padding never
        looks back."""
        x = self.norm(self.embedding(y.transpose(0, 1).clamp(min=0)))
        for layer in self.layers:
            x = F.dropout(layer(x), self.dropout, self.training)
        return x.transpose(0, 1), lengths

    @torch.jit.export
    def initial_state(self, batch: int) -> LSTMState:
        """State before the leading blank: zeros."""
        zeros = self.embedding.weight.new_zeros([self.num_layers, batch, self.hidden_dim])
        return LSTMState(zeros, zeros)

    @torch.jit.export
    def step(self, y: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """One token a stream: y (N,) int64 -> (N, P), new state."""
        x = self.norm(self.embedding(y.clamp(min=0)))
        hidden: list[Tensor] = []
        cell: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            x, c = layer.cell(layer.x2g(x), state.hidden[i], state.cell[i])  # type: ignore[operator]
            hidden.append(x)
            cell.append(c)
            x = F.dropout(x, self.dropout, self.training)
        return x, LSTMState(torch.stack(hidden), torch.stack(cell))


class StatelessPredictor(nn.Module):
    """Embedding and a grouped convolution over the last tokens (Ghodsi et al. 2020; laid out as icefall's
    Decoder).

    Tokens <= 0 (blank as start symbol, -1 as sherpa-onnx pads) have the zero embedding.
    """

    def __init__(self, vocab_size: int, config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        self.context_size = config.context_size
        self.dropout = config.dropout
        self.embedding = nn.Embedding(vocab_size, config.embed_dim)
        groups = config.embed_dim // 4 if config.embed_dim % 4 == 0 else 1
        self.conv = nn.Conv1d(
            config.embed_dim, config.embed_dim, config.context_size, groups=groups, bias=False
        )

    @property
    def output_dim(self) -> int:
        """P, the width of an output vector."""
        return self.embedding.embedding_dim

    def context(self, y: Tensor) -> Tensor:
        """(N, context_size - 1 + U) tokens -> (N, U, P)."""
        x = self.embedding(y.clamp(min=0)) * (y > 0).unsqueeze(-1).to(self.embedding.weight.dtype)
        x = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return F.dropout(x, self.dropout, self.training)

    @torch.jit.export
    def context_once(self, y: Tensor) -> Tensor:
        """(N, context_size) tokens -> (N, P), what `context` gives for one position. On the CPU a grouped convolution of so little
        takes several times as long as its products and their sum."""
        groups = self.conv.groups
        x = self.embedding(y.clamp(min=0)) * (y > 0).unsqueeze(-1).to(self.embedding.weight.dtype)  # (N, C, E)
        weight = self.conv.weight.unflatten(0, [groups, -1]).permute(3, 0, 1, 2)  # (C, groups, out, in)
        return torch.relu((x.unflatten(2, [groups, 1, -1]) * weight).sum((1, 4)).flatten(1))

    def forward(self, y: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """y (B, U) int64 tokens with a leading blank, lengths (B,) -> (B, U, P), lengths."""
        return self.context(F.pad(y, [self.context_size - 1, 0])), lengths

    @torch.jit.export
    def initial_state(self, batch: int) -> StatelessState:
        """State before the leading blank: no tokens."""
        device = self.embedding.weight.device
        return StatelessState(torch.zeros([batch, self.context_size - 1], dtype=torch.int64, device=device))

    @torch.jit.export
    def step(self, y: Tensor, state: StatelessState) -> tuple[Tensor, StatelessState]:
        """One token a stream: y (N,) int64 -> (N, P), new state."""
        tokens = torch.cat([state.tokens, y[:, None]], dim=1)
        return self.context(tokens)[:, 0], StatelessState(tokens[:, 1:])


Predictor = LSTMPredictor | StatelessPredictor


def make_predictor(config: PredictorConfig, vocab_size: int) -> Predictor:
    """Build the predictor a config asks for; vocab_size counts the blank."""
    return (
        LSTMPredictor(vocab_size, config) if config.kind == "lstm" else StatelessPredictor(vocab_size, config)
    )
