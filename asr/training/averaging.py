"""Averages of weights: a running one during training (fp32), and one over checkpoint files.

The running average is an exponential moving average (Polyak & Juditsky 1992, with the warm-up of the decay that
TensorFlow's `ExponentialMovingAverage` uses) or the uniform mean of all weights since a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from asr.training.recipe import AverageConfig


class WeightAverage:
    """Running average of all parameters of a module, kept in fp32 beside it; buffers are not averaged."""

    def __init__(self, module: nn.Module, config: AverageConfig) -> None:
        self.config = config
        self.count = 0  # updates so far
        self._names = [name for name, _ in module.named_parameters()]
        self._live = [parameter for _, parameter in module.named_parameters()]
        self._mean = [p.detach().to(torch.float32, copy=True) for p in self._live]

    @property
    def active(self) -> bool:
        """Whether there is an average that differs from the weights."""
        return self.config.kind != "none" and self.count > 0

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after optimizer step `step` (the first is 1); call it once a step."""
        config = self.config
        if config.kind == "none" or step < config.start_step or step % config.every:
            return
        if self.count == 0:
            weight = 1.0  # the average starts as the weights themselves
        elif config.kind == "tail":
            weight = 1.0 / (self.count + 1)
        else:
            weight = 1.0 - min(config.decay**config.every, (1 + self.count) / (10 + self.count))
        self.count += 1
        if self._mean[0].device != self._live[0].device:  # the trainer has moved the module to its device
            self._mean = [mean.to(live.device) for mean, live in zip(self._mean, self._live, strict=True)]
        live = [p if p.dtype == torch.float32 else p.float() for p in self._live]
        torch._foreach_lerp_(self._mean, live, weight)

    @contextmanager
    @torch.no_grad()
    def swapped_in(self) -> Iterator[None]:
        """The module holds the average inside this context and its own weights again after it."""
        if not self.active:
            yield
            return
        kept = [p.detach().clone() for p in self._live]
        for parameter, mean in zip(self._live, self._mean, strict=True):
            parameter.copy_(mean)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, own in zip(self._live, kept, strict=True):
                    parameter.copy_(own)

    def state_dict(self) -> dict[str, Any]:
        """Count and averages by parameter name (empty while there is none)."""
        values = dict(zip(self._names, self._mean, strict=True)) if self.active else {}
        return {"count": self.count, "values": values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The state `state_dict` gave."""
        self.count = int(state["count"])
        if state["values"]:
            for name, mean in zip(self._names, self._mean, strict=True):
                mean.copy_(state["values"][name])


def average_state_dicts(states: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Elementwise mean of several state dicts with the same names and shapes; integers come from the last one.

    Sums in fp64, returns each tensor's own dtype.

    Raises:
        ValueError: nothing to average, or names or shapes differ.
    """
    total: dict[str, Tensor] = {}
    last: dict[str, Tensor] = {}
    count = 0
    for state in states:
        if count and {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in last.items()}:
            raise ValueError("the checkpoints hold different models")
        for name, value in state.items():
            if value.is_floating_point():
                total[name] = total[name] + value.double() if count else value.double()
        last = state
        count += 1
    if not count:
        raise ValueError("nothing to average")
    return {
        name: (total[name] / count).to(v.dtype) if name in total else v.clone() for name, v in last.items()
    }


def module_state(state: dict[str, Tensor], average: dict[str, Any] | None, prefix: str) -> dict[str, Tensor]:
    """The part of a task's state dict under `prefix`, with the running average in place of what it covers."""
    values = dict(state)
    if average and average.get("values"):
        values.update(
            {name: v.to(values[name].dtype) for name, v in average["values"].items() if name in values}
        )
    return {name[len(prefix) :]: value for name, value in values.items() if name.startswith(prefix)}


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all tensors, on their device, in fp32."""
    norms = torch._foreach_norm(list(tensors))
    return torch.linalg.vector_norm(torch.stack([norm.float() for norm in norms]))
