"""A predictor that sees the last K tokens and nothing else: the contract of sherpa-onnx, for every predictor.

sherpa-onnx hands its decoder network the last ``context_size`` tokens, the oldest first, -1 before the first symbol and
0 as start symbol. A stateless predictor is that already. An LSTM is run again over the K tokens from a zero state: the
same vectors as with the whole history while a stream has at most K - 1 tokens, a truncated history after that.

Shapes: N streams, K tokens of history, P predictor width, J joiner width.
"""

# No `from __future__ import annotations` here: NamedTuples of states are read by torch.jit elsewhere.
import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.models.predictor import StatelessPredictor, StatelessState
from asr.models.transducer import BLANK, Transducer

DEFAULT_CONTEXT = 16  # tokens an exported LSTM predictor sees
NOTHING = -1  # before the start symbol, as sherpa-onnx pads


class HistoryState(NamedTuple):
    """The last K - 1 tokens: (N, K - 1) int64, batch axis 0; -1 before the start symbol."""

    tokens: Tensor


class HistoryPredictor(nn.Module):
    """Another predictor, given the last K tokens at every step; the doors are those of `asr.models.predictor`.

    Args:
        predictor: the model's own.
        context: K; a stateless predictor has its own.
    """

    def __init__(self, predictor: nn.Module, context: int = DEFAULT_CONTEXT) -> None:
        super().__init__()
        self.predictor = predictor
        self.context_size: int = (
            predictor.context_size if isinstance(predictor, StatelessPredictor) else context
        )

    @property
    def output_dim(self) -> int:
        """P, the width of an output vector."""
        return int(self.predictor.output_dim)  # type: ignore[arg-type]

    def context(self, y: Tensor) -> Tensor:
        """(N, K) int64, -1 (nothing) on the left, then 0 (start), then the last tokens -> (N, P)."""
        if isinstance(self.predictor, StatelessPredictor):
            return self.predictor.step(y[:, -1], StatelessState(y[:, :-1]))[0]
        known = (y >= 0).sum(1)  # (N,), at least 1
        # Known tokens are moved to the left: an LSTM's output at position known - 1 does not see what follows.
        index = (torch.arange(self.context_size)[None] + (self.context_size - known)[:, None]).clamp(
            max=self.context_size - 1
        )
        out, _ = self.predictor(y.gather(1, index), known)  # (N, K, P)
        last = (known - 1)[:, None, None].expand(-1, 1, out.size(2))
        return out.gather(1, last).squeeze(1)

    def initial_state(self, batch: int) -> HistoryState:
        """No tokens."""
        return HistoryState(torch.full((batch, self.context_size - 1), NOTHING, dtype=torch.int64))

    def step(self, y: Tensor, state: HistoryState) -> tuple[Tensor, HistoryState]:
        """One token a stream: y (N,) int64 -> (N, P), new state."""
        tokens = torch.cat([state.tokens, y[:, None]], dim=1)
        return self.context(tokens), HistoryState(tokens[:, 1:])


class ExportedDecoder(nn.Module):
    """decoder.onnx: y (N, K) int64 -> (N, J), predictor and its projection in the joiner."""

    def __init__(self, model: Transducer, context: int) -> None:
        super().__init__()
        self.history = HistoryPredictor(model.predictor, context)
        self.joiner = model.joiner

    def forward(self, y: Tensor) -> Tensor:
        """(N, K) -> (N, J)."""
        return self.joiner.project_predictor(self.history.context(y))


def with_history(model: Transducer, context: int) -> Transducer:
    """The same model (weights shared) whose predictor sees the last ``context`` tokens: the torch reference of an
    export to sherpa-onnx."""
    twin = copy.copy(model)
    twin._modules = dict(model._modules)  # copy.copy shares the dictionary of parts
    twin.predictor = HistoryPredictor(model.predictor, context)  # type: ignore[assignment]
    return twin.eval()


def start_tokens(batch: int, context: int) -> Tensor:
    """(N, K) int64: what sherpa-onnx feeds before the first symbol."""
    return F.pad(torch.full((batch, 1), BLANK, dtype=torch.int64), (context - 1, 0), value=NOTHING)
