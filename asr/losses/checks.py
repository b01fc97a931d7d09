"""Arguments every transducer loss checks before it computes anything, and the reductions they share.

Shapes: B utterances, T encoder frames (40 ms), U labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

REDUCTIONS = ("none", "sum", "mean")


def check_lattice(
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    batch: int,
    frames: int,
    positions: int,
    vocab_size: int,
    blank: int,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return targets (B, U), logit_lengths (B,), target_lengths (B,) as int64 on one device, or raise
    ValueError.

    ``positions`` is the predictor axis of the logits, U + 1. Targets beyond an utterance's length may hold
    any id; they come back as the blank.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, not {reduction!r}")
    if not 0 <= blank < vocab_size:
        raise ValueError(f"blank id {blank} is outside the vocabulary of {vocab_size} symbols")
    if batch < 1 or frames < 1 or positions < 1:
        raise ValueError(f"an empty lattice: batch {batch}, {frames} frames, {positions} label positions")
    if targets.shape != (batch, positions - 1):
        raise ValueError(
            f"targets have shape {tuple(targets.shape)} but the lattice has {batch} utterances "
            f"and room for {positions - 1} labels"
        )
    for name, tensor in (
        ("targets", targets),
        ("logit_lengths", logit_lengths),
        ("target_lengths", target_lengths),
    ):
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise ValueError(f"{name} must be integers, not {tensor.dtype}")
    for name, lengths in (("logit_lengths", logit_lengths), ("target_lengths", target_lengths)):
        if lengths.shape != (batch,):
            raise ValueError(f"{name} has shape {tuple(lengths.shape)}, expected ({batch},)")
    device = targets.device
    targets = targets.to(torch.int64)
    logit_lengths = logit_lengths.to(device=device, dtype=torch.int64)
    target_lengths = target_lengths.to(device=device, dtype=torch.int64)
    real = torch.arange(positions - 1, device=device) < target_lengths[:, None]
    targets = torch.where(real, targets, blank)
    outside = (targets < 0) | (targets >= vocab_size)
    is_blank = (targets == blank) & real
    # one transfer for everything that has to be known on the host
    facts = torch.stack(
        (
            logit_lengths.min(),
            logit_lengths.max(),
            target_lengths.min(),
            target_lengths.max(),
            outside.any().long(),
            is_blank.any().long(),
        )
    ).tolist()
    if facts[0] < 1 or facts[1] > frames:
        raise ValueError(
            f"logit_lengths must lie in 1 … {frames} (a path needs a frame to leave the lattice), "
            f"found {facts[0]} … {facts[1]}"
        )
    if facts[2] < 0 or facts[3] > positions - 1:
        raise ValueError(f"target_lengths must lie in 0 … {positions - 1}, found {facts[2]} … {facts[3]}")
    if facts[4]:
        raise ValueError(f"targets contain an id outside the vocabulary of {vocab_size} symbols")
    if facts[5]:
        raise ValueError(f"targets contain the blank id {blank}")
    return targets, logit_lengths, target_lengths


def reduce_losses(losses: Tensor, reduction: str) -> Tensor:
    """Losses (B,) as they are, their sum, or their mean over utterances."""
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.mean()
