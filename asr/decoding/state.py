"""Streaming states as plain trees of tensors: find the batch axis once, then pick, stack and write streams.

A state is a tensor or a (named) tuple of states. Every tensor has exactly one batch axis, not always axis 0: the
encoder's left context is (L, N, H, LC, D/H), its counter (N,). Which axis it is follows from two shapes of the same
state, so that every module with an ``initial_state(batch)`` can be batched without declaring anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def leaves(state: Any) -> list[Tensor]:
    """The tensors of a state, depth first."""
    if isinstance(state, Tensor):
        return [state]
    return [leaf for part in state for leaf in leaves(part)]


def rebuild(like: Any, tensors: Sequence[Tensor]) -> Any:
    """A state of the same structure as ``like`` holding ``tensors`` (the order of `leaves`)."""
    return _rebuild(like, iter(tensors))


def _rebuild(like: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(like, Tensor):
        return next(tensors)
    parts = [_rebuild(part, tensors) for part in like]
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def batch_axes(initial_state: Callable[[int], Any]) -> list[int]:
    """The batch axis of every leaf: the one axis on which ``initial_state(2)`` and ``initial_state(3)`` differ.

    Raises:
        ValueError: a tensor has no batch axis or more than one.
    """
    axes = []
    for two, three in zip(leaves(initial_state(2)), leaves(initial_state(3)), strict=True):
        differing = [axis for axis, (a, b) in enumerate(zip(two.shape, three.shape, strict=True)) if a != b]
        if len(differing) != 1 or two.shape[differing[0]] != 2:
            raise ValueError(
                f"a state tensor needs one batch axis: {tuple(two.shape)} against {tuple(three.shape)}"
            )
        axes.append(differing[0])
    return axes


def concatenate(states: Sequence[Any], axes: Sequence[int]) -> Any:
    """One batched state of the streams of ``states``, in order (a single state is returned as it is)."""
    if len(states) == 1:
        return states[0]
    columns = zip(*(leaves(state) for state in states), strict=True)
    return rebuild(states[0], [torch.cat(column, axis) for column, axis in zip(columns, axes, strict=True)])


def select(state: Any, rows: Tensor, axes: Sequence[int]) -> Any:
    """The streams ``rows`` (R,) of a batched state, copied."""
    return rebuild(state, [t.index_select(axis, rows) for t, axis in zip(leaves(state), axes, strict=True)])


def write(state: Any, rows: Tensor, new: Any, axes: Sequence[int]) -> Any:
    """``state`` with the streams ``rows`` (R,) replaced by those of ``new``; ``state`` itself is left as it is."""
    pairs = zip(leaves(state), leaves(new), axes, strict=True)
    return rebuild(state, [old.index_copy(axis, rows, part.to(old.dtype)) for old, part, axis in pairs])
