"""The neural language model in search: shallow fusion (Gulcehre et al. 2015), and scores of whole
hypotheses for rescoring (`asr.decoding.rescoring`).

Shapes: N hypotheses, V symbols including 0, L layers, H hidden width. Natural logarithms.
"""

# No `from __future__ import annotations` here: torch.jit.script reads the annotations of this file.
from collections.abc import Sequence

import torch
from torch import Tensor

from asr.decoding.fusion import Fusion
from asr.models.lm import LanguageModel, LanguageModelState


class NeuralFusion(Fusion):
    """Adds ``scale`` times the language model's log-probability of each token, and of the end where a segment ends.

    The state is [log P of the next token (N, V), hidden (N, L, H), cell (N, L, H)]: the LSTM runs once a new history,
    in ``step``; ``scores`` and ``final`` only read. ``scale`` may be changed between two calls, as when it is tuned.

    The endpoint token is no word and never seen in text: its score is 0 and it leaves the history as it is.
    """

    def __init__(self, lm: LanguageModel, scale: float, endpoint_id: int | None = None) -> None:
        """``lm``: put into eval mode; ``endpoint_id``: that of the tokens (`Tokenizer.endpoint_id`)."""
        super().__init__()
        self.lm = lm.eval()
        self.scale = float(scale)
        self.endpoint_id = -1 if endpoint_id is None else endpoint_id

    @torch.jit.export
    def initial_state(self, batch: int) -> list[Tensor]:
        """The state after the start symbol: one row computed, all alike."""
        with torch.no_grad():
            start = torch.zeros([1], dtype=torch.int64, device=self.lm.bias.device)
            log_probs, state = self.lm.step(start, self.lm.initial_state(1))
            return [x.expand([batch, -1, -1][: x.dim()]).contiguous() for x in (log_probs, state.hidden, state.cell)]

    @torch.jit.export
    def scores(self, state: list[Tensor]) -> Tensor:
        """(N, V): scale * log P(next token); 0 for blank and the endpoint token."""
        scores = self.scale * state[0]
        scores[:, 0] = 0.0
        if self.endpoint_id > 0:
            scores[:, self.endpoint_id] = 0.0
        return scores

    @torch.jit.export
    def step(self, tokens: Tensor, state: list[Tensor]) -> list[Tensor]:
        """The state after one more token each: tokens (N,) int64, all > 0. One LSTM step for all rows."""
        with torch.no_grad():
            log_probs, after = self.lm.step(tokens, LanguageModelState(state[1], state[2]))
        new = [log_probs, after.hidden, after.cell]
        if self.endpoint_id > 0:
            stay = tokens == self.endpoint_id
            new = [
                torch.where(stay[:, None], state[0], log_probs),
                torch.where(stay[:, None, None], state[1], after.hidden),
                torch.where(stay[:, None, None], state[2], after.cell),
            ]
        return new

    @torch.jit.export
    def final(self, state: list[Tensor]) -> Tensor:
        """(N,): scale * ln P(end of sentence)."""
        return self.scale * state[0][:, 0]


@torch.no_grad()
def lm_scores(
    lm: LanguageModel, hypotheses: Sequence[Sequence[int]], endpoint_id: int | None = None
) -> list[float]:
    """ln P of each token sequence, the end of the sentence included, in one batch; endpoint tokens are left out."""
    if not hypotheses:
        return []
    device = lm.bias.device
    rows = [torch.tensor([t for t in tokens if t != endpoint_id], dtype=torch.int64) for tokens in hypotheses]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
    training = lm.training
    lm.eval()
    try:
        return [-x for x in lm.losses(tokens, lengths).sum(1).tolist()]
    finally:
        lm.train(training)
