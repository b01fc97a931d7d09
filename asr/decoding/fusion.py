"""What may be added to the model's scores while searching: language models, phrases to prefer.

Shapes: N hypotheses, V symbols including blank 0. Scores are natural logarithms times the scale of whoever gives them.
"""

# No `from __future__ import annotations` here: torch.jit.script reads the annotations of this file.

import torch
from torch import Tensor, nn


class Fusion(nn.Module):
    """The interface of everything that is added during search; itself it adds nothing.

    The state of N hypotheses is a list of tensors whose first axis is N; hypotheses are picked by `index_select` on it.
    ``scores`` is asked once for a new history, not once a frame: it may be a dense row.
    """

    @torch.jit.export
    def initial_state(self, batch: int) -> list[Tensor]:
        """The state of ``batch`` empty histories."""
        return torch.jit.annotate(list[Tensor], [])

    @torch.jit.export
    def scores(self, state: list[Tensor]) -> Tensor:
        """(N, V) added to the log-probability of a symbol that follows these histories; 0 for blank. (N, 0): nothing."""
        return torch.zeros(0, 0)

    @torch.jit.export
    def step(self, tokens: Tensor, state: list[Tensor]) -> list[Tensor]:
        """The state after one more symbol each: tokens (N,) int64, all > 0."""
        return state

    @torch.jit.export
    def final(self, state: list[Tensor]) -> Tensor:
        """(N,) added where a segment ends: the end of a sentence, a phrase that stayed unfinished. (0,): nothing."""
        return torch.zeros(0)


class FusionSum(Fusion):
    """Several at once: their scores add up."""

    sizes: list[int]

    def __init__(self, parts: list[Fusion]):
        super().__init__()
        if not parts:
            raise ValueError("a sum of no fusions: use Fusion()")
        self.parts = nn.ModuleList(parts)
        self.sizes = [len(part.initial_state(1)) for part in parts]

    # loops over the parts as TorchScript unrolls them: no comprehensions, no helpers that take modules
    @torch.jit.export
    def initial_state(self, batch: int) -> list[Tensor]:
        state: list[Tensor] = []
        for part in self.parts:
            state.extend(part.initial_state(batch))  # type: ignore[operator]
        return state

    @torch.jit.export
    def scores(self, state: list[Tensor]) -> Tensor:
        total, begin = torch.zeros(0, 0), 0
        for i, part in enumerate(self.parts):
            total = _plus(total, part.scores(state[begin : begin + self.sizes[i]]))  # type: ignore[operator]
            begin += self.sizes[i]
        return total

    @torch.jit.export
    def step(self, tokens: Tensor, state: list[Tensor]) -> list[Tensor]:
        after: list[Tensor] = []
        begin = 0
        for i, part in enumerate(self.parts):
            after.extend(part.step(tokens, state[begin : begin + self.sizes[i]]))  # type: ignore[operator]
            begin += self.sizes[i]
        return after

    @torch.jit.export
    def final(self, state: list[Tensor]) -> Tensor:
        total, begin = torch.zeros(0), 0
        for i, part in enumerate(self.parts):
            total = _plus(total, part.final(state[begin : begin + self.sizes[i]]))  # type: ignore[operator]
            begin += self.sizes[i]
        return total


def _plus(total: Tensor, term: Tensor) -> Tensor:
    """The sum; what is empty adds nothing."""
    if total.size(-1) == 0 or term.size(-1) == 0:
        return term if total.size(-1) == 0 else total
    return total + term
