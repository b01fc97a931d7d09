"""What may be added to the model's scores while searching: language models, phrases to prefer.

Shapes: N hypotheses, V symbols including blank 0. Scores are natural logarithms times the scale of whoever gives them.
"""

# No `from __future__ import annotations` here: torch.jit.script reads the annotations of this file.

from itertools import accumulate
from typing import Any

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

    def __init__(self, parts: list[Fusion]):
        super().__init__()
        if not parts:
            raise ValueError("a sum of no fusions: use Fusion()")
        self.parts = nn.ModuleList(parts)
        self.sizes = [len(part.initial_state(1)) for part in parts]

    def _pairs(self, state: list[Tensor]) -> list[tuple[Any, list[Tensor]]]:
        """Each part with its own share of the state."""
        ends = list(accumulate(self.sizes))
        return [(part, state[end - size : end]) for part, end, size in zip(self.parts, ends, self.sizes, strict=True)]

    def initial_state(self, batch: int) -> list[Tensor]:
        return [tensor for part in self.parts for tensor in part.initial_state(batch)]  # type: ignore[operator]

    def scores(self, state: list[Tensor]) -> Tensor:
        return _total([part.scores(own) for part, own in self._pairs(state)], torch.zeros(0, 0))

    def step(self, tokens: Tensor, state: list[Tensor]) -> list[Tensor]:
        return [tensor for part, own in self._pairs(state) for tensor in part.step(tokens, own)]

    def final(self, state: list[Tensor]) -> Tensor:
        return _total([part.final(own) for part, own in self._pairs(state)], torch.zeros(0))


def _total(terms: list[Tensor], nothing: Tensor) -> Tensor:
    """The sum of what is not empty."""
    terms = [term for term in terms if term.size(-1) > 0]
    total = terms[0] if terms else nothing
    for term in terms[1:]:
        total = total + term
    return total
